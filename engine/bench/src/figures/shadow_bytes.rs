// SPDX-License-Identifier: MIT OR Apache-2.0
//! `shadow.bytes.superpage`, `.ballooned`, `.random`: what the shadow of a whole guest costs.
//! Not here: how it is compared.
//! Units: share of the p2m's bytes.
//! Threads: one.
//! Source: the larger of what the shadow counts itself (index, pools, slack) and of the growth of
//! the process, which includes the allocator's overhead.

use p2mtrack::frame::{FRAME_BYTES, LeafIndex, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::shadow::{Shadow, ShadowBytes};
use p2mtrack_synthetic::huge::{Pattern, Shape};

use crate::figure::{Figure, Goal, Unit};
use crate::memory::resident_bytes;
use crate::p2m::pattern;
use crate::setup::Setup;

/// Shapes, and the share that each may cost.
pub const SHAPES: [(Shape, f64); 3] =
    [(Shape::Superpage, 0.005), (Shape::Ballooned, 0.02), (Shape::Random, 0.52)];

/// One in so many leaves is read back.
const CHECK_EVERY: u64 = 1009;

/// The shadow of a pattern.
///
/// # Panics
/// If a leaf read back differs from what was installed.
#[must_use]
pub fn shadow(setup: &Setup, pattern: &Pattern) -> Shadow {
    let leaves = pattern.pfns() / Width::W64.entries() as u64;
    let (mut leaf, mut back) = (Leaf::default(), Leaf::default());
    let mut shadow = Shadow::with_forms(Width::W64, setup.forms);
    shadow.resize(leaves);
    for index in 0..leaves {
        pattern.fill_leaf(index, &mut leaf.words);
        shadow.install(LeafIndex(index), &leaf);
        if index % CHECK_EVERY == 0 {
            shadow.read(LeafIndex(index), &mut back);
            assert_eq!(back, leaf, "leaf {index:#x} is not what it was");
        }
    }
    shadow
}

/// Measures.
#[must_use]
pub fn run(setup: &Setup) -> Vec<Figure> {
    // Each shadow lives until all are measured: else the next one would reuse its memory without
    // being counted.
    let measured = SHAPES.map(|(shape, most)| measure(setup, shape, most));
    measured.map(|(figure, _)| figure).into()
}

fn measure(setup: &Setup, shape: Shape, most: f64) -> (Figure, Shadow) {
    let pattern = pattern(shape, setup.leaves());
    let before = resident_bytes();
    let shadow = shadow(setup, &pattern);
    let grown = resident_bytes().zip(before).map(|(after, before)| after.saturating_sub(before));
    let held = shadow.bytes();
    let p2m = (setup.leaves() * FRAME_BYTES) as f64;
    let value = held.bytes.max(grown.unwrap_or_default()) as f64 / p2m;
    let process = grown.map(|grown| format!("; the process grew by {}", percent(grown, p2m)));
    let detail = format!(
        "{} counted{}; leaves {}",
        percent(held.bytes, p2m),
        process.unwrap_or_default(),
        in_words(&held)
    );
    let name = format!("shadow.bytes.{}", shape.name());
    let figure = Figure::new(name, value, Unit::Share, detail);
    (Figure { goal: Some(Goal::AtMost(most)), ..figure }, shadow)
}

fn percent(bytes: u64, p2m: f64) -> String {
    format!("{:.3} %", bytes as f64 / p2m * 100.0)
}

/// The share of each form.
fn in_words(held: &ShadowBytes) -> String {
    let forms = [
        ("hole", held.hole),
        ("affine", held.affine),
        ("patched", held.patched),
        ("segments", held.segments),
        ("packed", held.packed),
        ("raw", held.raw),
    ];
    let shares = forms.into_iter().filter(|(_, leaves)| *leaves > 0);
    let share = |leaves| leaves as f64 / held.leaves as f64 * 100.0;
    shares.map(|(form, n)| format!("{form} {:.1} %", share(n))).collect::<Vec<_>>().join(", ")
}
