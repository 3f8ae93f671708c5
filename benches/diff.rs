// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scenarios of `diff.*`, each side a benchmark; a side with a wrong result panics.
//! Not here: the scenarios (`p2mtrack_bench::figures`).
//! Units: bytes of live p2m a second.
//! Threads: two; one for scattered leaves.
//! Source: `docs/decisions/0009`.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use p2mtrack::diff::Kernel;
use p2mtrack::frame::FRAME_BYTES;
use p2mtrack::shadow::Forms;
use p2mtrack_bench::diff::Diff;
use p2mtrack_bench::figures::{affine, density, random, scattered};
use p2mtrack_bench::frames::Pages;
use p2mtrack_bench::p2m::Planted;
use p2mtrack_bench::pool::Pool;
use p2mtrack_bench::setup::Setup;
use p2mtrack_synthetic::huge::Shape;

/// Half a GiB of p2m: more than caches hold.
const GUEST_BYTES: u64 = 256 << 30;

fn setup() -> Setup {
    let kernel = Kernel::choose().expect("a kernel of this machine");
    let pool = Pool::new(2).expect("threads");
    // A pass compares each leaf once: criterion repeats it.
    Setup { guest_bytes: GUEST_BYTES, kernel, forms: Forms::Auto, pass_bytes: 0, pool }
}

fn each_side(criterion: &mut Criterion, name: &str, diff: &Diff<'_>) {
    diff.prove();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes((diff.p2m.listed().len() * FRAME_BYTES) as u64));
    group.sample_size(10);
    for side in diff.ab_run(Planted::default()).sides() {
        group.bench_function(side.name(), |bencher| bencher.iter(|| side.run()));
    }
    group.finish();
}

fn whole(criterion: &mut Criterion) {
    let setup = setup();
    for (name, shape) in [("diff.affine", Shape::Runs), ("diff.affine.superpage", Shape::Superpage)]
    {
        let p2m = affine::p2m(&setup, shape);
        each_side(criterion, name, &Diff::whole(&setup, &p2m, setup.forms));
    }
    let p2m = random::p2m(&setup);
    each_side(criterion, "diff.packed", &Diff::whole(&setup, &p2m, Forms::Packed));
    each_side(criterion, "diff.raw", &Diff::whole(&setup, &p2m, Forms::Raw));
}

fn few(criterion: &mut Criterion) {
    let (setup, pool) = (setup(), Pool::new(1).expect("a thread"));
    let variants = scattered::VARIANTS.into_iter();
    for (variant, pages) in variants.flat_map(|v| [Pages::Small, Pages::Huge].map(|p| (v, p))) {
        let mut p2m = scattered::p2m(&setup, &pool, pages, variant);
        for percent in scattered::PERCENTS {
            p2m.list(scattered::listed(p2m.leaves(), percent));
            let name = format!("{}.{percent}pct.{}", variant.name, pages.name());
            each_side(criterion, &name, &scattered::diff(&setup, &pool, &p2m, variant));
        }
    }
}

fn densities(criterion: &mut Criterion) {
    let setup = setup();
    for (suffix, shape, forms) in density::helds(&setup) {
        let p2ms = density::p2ms(&setup, shape);
        let diffs = density::diffs(&setup, &p2ms, forms);
        let mut group = criterion.benchmark_group(format!("diff.density.{suffix}"));
        for side in density::ab_run(&diffs).sides() {
            group.bench_function(side.name(), |bencher| bencher.iter(|| side.run()));
        }
        group.finish();
    }
}

criterion_group!(benches, whole, few, densities);
criterion_main!(benches);
