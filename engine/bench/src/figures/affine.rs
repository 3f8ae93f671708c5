// SPDX-License-Identifier: MIT OR Apache-2.0
//! `diff.affine`: a full diff of an unchanged p2m of runs, from memory; `diff.affine.superpage`
//! for comparison.
//! Not here: leaves without runs (`packed`, `raw`).
//! Units: times as fast as `memcmp` over two full copies; share of the read floor.
//! Threads: the setup's pool.
//! Source: the compressed shadow exists to read one memory stream instead of two.

use p2mtrack_synthetic::huge::Shape;

use crate::diff::Diff;
use crate::figure::{Figure, Goal};
use crate::p2m::LiveP2m;
use crate::setup::Setup;

/// The p2m.
#[must_use]
pub fn p2m(setup: &Setup, shape: Shape) -> LiveP2m {
    LiveP2m::whole(&setup.pool, setup.whole_leaves(), shape)
}

/// Measures both.
#[must_use]
pub fn run(setup: &Setup) -> Vec<Figure> {
    let measure = |name, shape| {
        let p2m = p2m(setup, shape);
        Diff::whole(setup, &p2m, setup.forms)
            .measure(name, "full diff, unchanged, against memcmp of two copies")
    };
    let runs = Figure {
        goal: Some(Goal::AtLeast(1.8)),
        floor_goal: Some(0.90),
        ..measure("diff.affine", Shape::Runs)
    };
    vec![runs, measure("diff.affine.superpage", Shape::Superpage)]
}
