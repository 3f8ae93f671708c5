// SPDX-License-Identifier: MIT OR Apache-2.0
//! `diff.scattered.affine`, `diff.scattered.raw`: a few leaves here and there, as a live round has
//! them.
//! Not here: whole p2ms.
//! Units: times as fast as `memcmp` of the same leaves; share of the floor of reading them.
//! Threads: one.
//! Source: 1 % and 5 % of all leaves; 4 KiB mappings, as a foreign mapping has, and huge ones. The
//! figure is the worst of the four. An affine shadow needs almost no memory, so `memcmp`'s copy has
//! the pages of the live mapping. A raw shadow is as large as the copy and is allocated in small
//! pages, so the copy has small pages too.

use p2mtrack::frame::FRAME_BYTES;
use p2mtrack::shadow::Forms;
use p2mtrack_synthetic::huge::Shape;

use crate::diff::Diff;
use crate::figure::{Figure, Goal};
use crate::frames::Pages;
use crate::p2m::{LiveP2m, pattern};
use crate::pool::Pool;
use crate::setup::Setup;

/// Dirty leaves, in percent.
pub const PERCENTS: [u64; 2] = [1, 5];

/// The largest of them.
const MOST: u64 = PERCENTS[PERCENTS.len() - 1];

/// Bytes of live p2m of a pass, at least. Few, so that leaves are compared only once where
/// possible: a repeat could find them in a cache.
const PASS_BYTES: usize = 8 << 20;

/// A form of the shadow.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Its figure.
    pub name: &'static str,
    /// How the frames lie.
    pub shape: Shape,
    /// The goals of that figure: its value, and its share of the floor.
    pub goals: (f64, Option<f64>),
    /// Whether the shadow is raw; else it is as the setup says.
    pub is_raw: bool,
}

/// All forms: leaves of one run, of several, and written out.
pub const VARIANTS: [Variant; 3] = [
    Variant {
        name: "diff.scattered.affine",
        shape: Shape::Superpage,
        goals: (2.0, Some(0.93)),
        is_raw: false,
    },
    Variant { name: "diff.scattered.runs", shape: Shape::Runs, goals: (1.6, None), is_raw: false },
    Variant { name: "diff.scattered.raw", shape: Shape::Runs, goals: (1.2, None), is_raw: true },
];

/// So many percent of the leaves, one at least, scattered pseudo-randomly and the same each time;
/// the list of a lower percentage is a subset of that of a higher one.
#[must_use]
pub fn listed(leaves: usize, percent: u64) -> Vec<u32> {
    let mut listed: Vec<_> = (0..leaves as u32).filter(|&index| roll(index) < percent).collect();
    if listed.is_empty() {
        listed.push(0);
    }
    listed
}

/// A number below 100.
fn roll(index: u32) -> u64 {
    let mixed = u64::from(index).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) % 100
}

/// The p2m; only its dirty leaves are written.
#[must_use]
pub fn p2m(setup: &Setup, pool: &Pool, pages: Pages, variant: Variant) -> LiveP2m {
    let (leaves, listed) = (setup.leaves(), listed(setup.leaves(), MOST));
    let pattern = pattern(variant.shape, leaves);
    let mut p2m = LiveP2m::new(pool, leaves, pages, listed, |leaf, words| {
        pattern.fill_leaf(leaf, words);
    });
    if variant.is_raw && pages == Pages::Huge {
        p2m.copy_again(Pages::Small);
    }
    p2m
}

/// The comparison.
#[must_use]
pub fn diff<'a>(setup: &Setup, pool: &'a Pool, p2m: &'a LiveP2m, variant: Variant) -> Diff<'a> {
    let forms = if variant.is_raw { Forms::Raw } else { setup.forms };
    let repeats = setup.pass_bytes.min(PASS_BYTES) / (p2m.listed().len().max(1) * FRAME_BYTES);
    Diff::new(p2m, pool, setup.kernel, forms, repeats.max(1))
}

/// Measures.
///
/// # Panics
/// If there is no second thread pool.
#[must_use]
pub fn run(setup: &Setup) -> Vec<Figure> {
    let pool = Pool::new(1).expect("a thread");
    let measure = |variant: Variant| {
        let mut figures = Vec::new();
        for pages in [Pages::Small, Pages::Huge] {
            let mut p2m = p2m(setup, &pool, pages, variant);
            for percent in PERCENTS {
                p2m.list(listed(p2m.leaves(), percent));
                let name = format!("{}.{percent}pct.{}", variant.name, pages.name());
                let detail = format!("{percent} % of the leaves, scattered, unchanged");
                figures.push(diff(setup, &pool, &p2m, variant).measure(&name, &detail));
            }
        }
        with_worst(variant, figures)
    };
    VARIANTS.into_iter().flat_map(measure).collect()
}

/// All figures, and before them the worst one under the name that has the goal.
fn with_worst(variant: Variant, all: Vec<Figure>) -> Vec<Figure> {
    let worst = all.iter().min_by(|a, b| a.value.total_cmp(&b.value)).cloned();
    let worst = worst.map(|worst| Figure {
        detail: format!("the worst of all: {}", worst.name),
        name: variant.name.to_owned(),
        goal: Some(Goal::AtLeast(variant.goals.0)),
        floor_goal: variant.goals.1,
        ..worst
    });
    worst.into_iter().chain(all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_scattered_and_nested() {
        let (one, five) = (listed(1 << 18, 1), listed(1 << 18, 5));
        let share = |list: &[u32]| list.len() as f64 / f64::from(1 << 18);
        assert!((0.008..0.012).contains(&share(&one)), "{}", share(&one));
        assert!((0.045..0.055).contains(&share(&five)), "{}", share(&five));
        assert!(one.iter().all(|index| five.binary_search(index).is_ok()));
        let neighbours = five.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
        assert!(neighbours < five.len() / 10, "{neighbours} of {} are neighbours", five.len());
        let gaps: std::collections::BTreeSet<_> = five.windows(2).map(|p| p[1] - p[0]).collect();
        assert!(gaps.len() > 20, "one stride would be easy to foresee");
    }
}
