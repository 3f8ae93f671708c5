// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scenarios of `bitmap.take.*`: everything that was marked is taken again.
//! Not here: the scenarios (`p2mtrack_bench::figures::take`), their peers (`p2mtrack bench`).
//! Units: pfns taken a second; marking them is not timed.
//! Threads: one.
//! Source: `docs/decisions/0009`.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use p2mtrack::cause::Cause;
use p2mtrack::frame::Pfn;
use p2mtrack::resend::ResendBitmap;
use p2mtrack_bench::figures::take::{dense_words, scattered, sweep};

/// Pfns of a guest of 4 TiB.
const PFNS: u64 = 1 << 30;
/// Pfns of a dense bitmap.
const DENSE_PFNS: u64 = 1 << 24;

fn dense(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bitmap.take.dense");
    for percent in [50, 100] {
        let (words, bitmap) = (dense_words(DENSE_PFNS, percent), ResendBitmap::new(DENSE_PFNS));
        let owed = words.iter().map(|word| u64::from(word.count_ones())).sum();
        group.throughput(Throughput::Elements(owed));
        group.sample_size(10);
        let mark = || bitmap.mark_words(0, &words, Cause::LogDirty);
        let take = |()| assert_eq!(sweep(&bitmap), owed, "all that was marked");
        group.bench_function(format!("{percent} %"), |bencher| {
            bencher.iter_batched(mark, take, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn sparse(criterion: &mut Criterion) {
    let (owed, bitmap) = (scattered(PFNS), ResendBitmap::new(PFNS));
    let mut group = criterion.benchmark_group("bitmap.take.sparse");
    group.throughput(Throughput::Elements(owed.len() as u64));
    let mark = || owed.iter().for_each(|&pfn| assert!(bitmap.mark(Pfn(pfn), Cause::LogDirty)));
    let take = |()| {
        let mut taken = bitmap.take(usize::MAX, 0);
        taken.pay_all();
        assert_eq!(taken.pfns().len(), owed.len(), "all that was marked");
    };
    group.bench_function("scattered", |bencher| {
        bencher.iter_batched(mark, take, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, dense, sparse);
criterion_main!(benches);
