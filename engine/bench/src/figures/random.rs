// SPDX-License-Identifier: MIT OR Apache-2.0
//! `diff.packed`, `diff.raw`: a full diff of an unchanged p2m without runs, from memory: the
//! shadow has each leaf in half its size, or whole.
//! Not here: runs (`affine`).
//! Units: times as fast as `memcmp` over two full copies; share of the read floor.
//! Threads: the setup's pool.
//! Source: packed reads one and a half memory streams instead of two. Raw reads two, as `memcmp`
//! does, so that the rest of the work may cost nothing.

use p2mtrack::shadow::Forms;
use p2mtrack_synthetic::huge::Shape;

use crate::diff::Diff;
use crate::figure::{Figure, Goal};
use crate::p2m::LiveP2m;
use crate::setup::Setup;

/// The p2m.
#[must_use]
pub fn p2m(setup: &Setup) -> LiveP2m {
    LiveP2m::of_shape(&setup.pool, setup.whole_leaves(), Shape::Random)
}

/// Measures `diff.packed`.
#[must_use]
pub fn packed(setup: &Setup) -> Vec<Figure> {
    let figure = measure(setup, "diff.packed", Forms::Packed, 1.2);
    vec![Figure { floor_goal: Some(0.88), ..figure }]
}

/// Measures `diff.raw`.
#[must_use]
pub fn raw(setup: &Setup) -> Vec<Figure> {
    vec![measure(setup, "diff.raw", Forms::Raw, 1.05)]
}

fn measure(setup: &Setup, name: &str, forms: Forms, least: f64) -> Figure {
    let p2m = p2m(setup);
    let figure =
        Diff::whole(setup, &p2m, forms).measure(name, "full diff of a random p2m, unchanged");
    Figure { goal: Some(Goal::AtLeast(least)), ..figure }
}
