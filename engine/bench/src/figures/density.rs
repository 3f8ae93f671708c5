// SPDX-License-Identifier: MIT OR Apache-2.0
//! `diff.density`: leaves with any number of changed entries, in cache, against leaves with none.
//! Not here: memory.
//! Units: speed relative to the same leaves unchanged; at most about 1.
//! Threads: the setup's pool, the same number of leaves each.
//! Source: a kernel may be fast where nothing changed and slow where much did; the figure is the
//! worst density of the worst shadow.

use p2mtrack::frame::FRAME_BYTES;
use p2mtrack::shadow::Forms;
use p2mtrack_synthetic::huge::Shape;

use crate::ab_run::{AbRun, Times, WallClock};
use crate::diff::Diff;
use crate::figure::{Figure, Goal, Unit};
use crate::p2m::LiveP2m;
use crate::setup::Setup;

/// Changed entries of each leaf.
pub const DENSITIES: [usize; 14] = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 448, 511, 512];

/// Leaves of each thread: with shadow and bitmap they fit the second-level cache.
const LEAVES: usize = 64;

/// A pass is so many times smaller than elsewhere: nothing waits for memory here.
const PASS_PART: usize = 8;

/// What is compared, and how the shadow holds it: suffix of the figure, shape, forms.
pub type Held = (&'static str, Shape, Forms);

/// All ways in which the shadow holds leaves.
#[must_use]
pub const fn helds(setup: &Setup) -> [Held; 4] {
    [
        ("superpage", Shape::Superpage, setup.forms),
        ("runs", Shape::Runs, setup.forms),
        ("packed", Shape::Random, Forms::Packed),
        ("raw", Shape::Random, Forms::Raw),
    ]
}

/// A p2m for each density.
#[must_use]
pub fn p2ms(setup: &Setup, shape: Shape) -> Vec<LiveP2m> {
    let p2m = |changed| {
        let p2m = LiveP2m::of_shape(&setup.pool, LEAVES * setup.pool.threads(), shape);
        p2m.change(changed);
        p2m
    };
    DENSITIES.into_iter().map(p2m).collect()
}

/// A comparison for each density.
#[must_use]
pub fn diffs<'a>(setup: &'a Setup, p2ms: &'a [LiveP2m], forms: Forms) -> Vec<Diff<'a>> {
    let repeats = (setup.pass_bytes / PASS_PART / (LEAVES * FRAME_BYTES)).max(1);
    let diff = |p2m| Diff::new(p2m, &setup.pool, setup.kernel, forms, repeats);
    p2ms.iter().map(diff).collect()
}

/// A side for each density.
#[must_use]
pub fn ab_run<'a>(diffs: &'a [Diff<'a>]) -> AbRun<'a> {
    DENSITIES.into_iter().zip(diffs).fold(AbRun::default(), |ab_run, (changed, diff)| {
        let pfns = (changed * diff.p2m.leaves()) as u64;
        ab_run.side(changed.to_string(), diff.in_a_pass(pfns), || diff.compare_again())
    })
}

/// Measures.
#[must_use]
pub fn run(setup: &Setup) -> Vec<Figure> {
    let figures = helds(setup).map(|(suffix, shape, forms)| {
        let p2ms = p2ms(setup, shape);
        let diffs = diffs(setup, &p2ms, forms);
        figure(setup, suffix, &ab_run(&diffs).run(&WallClock::default()))
    });
    let worst = figures.iter().min_by(|a, b| a.value.total_cmp(&b.value)).expect("four");
    let worst = Figure {
        name: "diff.density".to_owned(),
        goal: Some(Goal::AtLeast(0.5)),
        detail: format!("the worst of all: {}; {}", worst.name, worst.detail),
        ..worst.clone()
    };
    std::iter::once(worst).chain(figures).collect()
}

fn figure(setup: &Setup, suffix: &str, times: &Times) -> Figure {
    let speeds = DENSITIES.map(|changed| (changed, times.speed(&changed.to_string(), "0")));
    let (at, worst) = speeds.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).expect("densities");
    let points = speeds.map(|(changed, speed)| format!("{changed}: {speed:.2}")).join(", ");
    let detail = format!("slowest with {at} changes a leaf ({points})");
    Figure {
        kernel: Some(setup.kernel),
        threads: setup.pool.threads(),
        ..Figure::new(format!("diff.density.{suffix}"), worst, Unit::Times, detail)
    }
}
