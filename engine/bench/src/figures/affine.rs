// SPDX-License-Identifier: MIT OR Apache-2.0
//! `diff.affine`: a full diff of an unchanged p2m of runs, from memory; `.superpage`: of one run a
//! leaf; `.segments`: of 20 runs a leaf.
//! Not here: leaves without runs (`packed`, `raw`).
//! Units: times as fast as `memcmp` over two full copies; share of the read floor.
//! Threads: the setup's pool.
//! Source: the compressed shadow exists to read one memory stream instead of two.

use p2mtrack::leaf::FRAME_WORDS;
use p2mtrack_synthetic::huge::Shape;

use crate::diff::Diff;
use crate::figure::{Figure, Goal};
use crate::p2m::LiveP2m;
use crate::setup::Setup;

/// The p2m.
#[must_use]
pub fn p2m(setup: &Setup, shape: Shape) -> LiveP2m {
    LiveP2m::of_shape(&setup.pool, setup.whole_leaves(), shape)
}

/// A p2m with so many segments in each leaf.
const SEGMENTS: usize = 20;

/// Writes runs of nearly equal length: most go down, some are holes, as a balloon leaves them.
fn fill_segments(leaf: u64, words: &mut [u64; FRAME_WORDS]) {
    let mut state = leaf.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for segment in 0..SEGMENTS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let first = (state >> 34) + FRAME_WORDS as u64;
        let slots = segment * FRAME_WORDS / SEGMENTS..(segment + 1) * FRAME_WORDS / SEGMENTS;
        for (word, number) in words[slots].iter_mut().zip(0_u64..) {
            *word = match state % 10 {
                0 => u64::MAX,
                1..4 => first + number,
                _ => first - number,
            };
        }
    }
}

/// Measures all.
#[must_use]
pub fn run(setup: &Setup) -> Vec<Figure> {
    let measure = |name, p2m: LiveP2m| {
        Diff::whole(setup, &p2m, setup.forms)
            .measure(name, "full diff, unchanged, against memcmp of two copies")
    };
    let runs = Figure {
        goal: Some(Goal::AtLeast(1.9)),
        floor_goal: Some(0.92),
        ..measure("diff.affine", p2m(setup, Shape::Runs))
    };
    let superpage = Figure {
        goal: Some(Goal::AtLeast(2.0)),
        floor_goal: Some(0.97),
        ..measure("diff.affine.superpage", p2m(setup, Shape::Superpage))
    };
    let segments = LiveP2m::whole(&setup.pool, setup.whole_leaves(), fill_segments);
    let segments =
        Figure { goal: Some(Goal::AtLeast(1.6)), ..measure("diff.affine.segments", segments) };
    vec![runs, superpage, segments]
}
