// SPDX-License-Identifier: MIT OR Apache-2.0
//! `diff.packed`: a full diff of an unchanged p2m without runs, from memory, each leaf held in half its size.
//! Not here: runs (`affine`).
//! Units: times as fast as `memcmp` over two full copies; share of the read floor.
//! Threads: the setup's team.
//! Source: a stream and a half instead of two.

use p2mtrack::shadow::Forms;
use p2mtrack_synthetic::huge::Shape;

use crate::diff::Diff;
use crate::figure::{Figure, Goal};
use crate::p2m::LiveP2m;
use crate::setup::Setup;

/// The p2m.
#[must_use]
pub fn p2m(setup: &Setup) -> LiveP2m {
    LiveP2m::whole(&setup.team, setup.whole_leaves(), Shape::Random)
}

/// The comparison.
#[must_use]
pub fn diff<'a>(setup: &'a Setup, p2m: &'a LiveP2m) -> Diff<'a> {
    let repeats = setup.repeats(p2m.leaves());
    Diff::new(p2m, &setup.team, setup.kernel, Forms::Packed, repeats)
}

/// Measures.
#[must_use]
pub fn run(setup: &Setup) -> Vec<Figure> {
    let p2m = p2m(setup);
    let figure = diff(setup, &p2m).measure("diff.packed", "full diff of a random p2m, unchanged");
    let goal = Some(Goal::AtLeast(1.2));
    vec![Figure { goal, floor_goal: Some(0.88), ..figure }]
}
