// SPDX-License-Identifier: MIT OR Apache-2.0
//! `bitmap.take.sparse`, `bitmap.take.dense`: taking owed pfns from the resend bitmap.
//! Not here: marking it.
//! Units: times as fast as a flat bitmap that is scanned word by word.
//! Threads: one; other threads could mark meanwhile.
//! Source: a sweep takes batches of 1,024; a caller that asks for all that a quiet guest owes takes
//! it at once.

use std::cell::RefCell;

use p2mtrack::cause::Cause;
use p2mtrack::frame::{FRAME_BYTES, Pfn};
use p2mtrack::port::QUERY_FRAMES_MAX;
use p2mtrack::resend::ResendBitmap;

use crate::ab_run::{AbRun, WallClock};
use crate::eviction::Eviction;
use crate::figure::{Figure, Goal, Unit};
use crate::peer::{DirtySet, dirty_sets};
use crate::setup::Setup;

const OURS: &str = "p2mtrack";
const FLAT: &str = "word-scan";

/// Pfns that are owed in a sparse bitmap.
const SPARSE_PFNS: u64 = 4096;
/// Pfns that a dense bitmap covers, at most.
const DENSE_PFNS_MAX: u64 = 1 << 24;

/// Measures.
#[must_use]
pub fn run(setup: &Setup) -> Vec<Figure> {
    let pfns = setup.guest_bytes / FRAME_BYTES as u64;
    let dense =
        |name, percent, goal| Figure { goal, ..dense(name, pfns.min(DENSE_PFNS_MAX), percent) };
    let mut figures = sparse(pfns);
    figures.push(dense("bitmap.take.dense", 50, Some(Goal::AtLeast(0.95))));
    figures.push(dense("bitmap.take.dense.full", 100, None));
    figures
}

/// Distinct pfns in ascending order, at distances that a processor can't predict.
#[must_use]
pub fn scattered(pfns: u64) -> Vec<u64> {
    let mut list: Vec<_> = (0..SPARSE_PFNS).map(|i| mixed(i) % pfns).collect();
    list.sort_unstable();
    list.dedup();
    list
}

/// A hash.
const fn mixed(number: u64) -> u64 {
    let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 31
}

fn sparse(pfns: u64) -> Vec<Figure> {
    let (owed, eviction) = (scattered(pfns), Eviction::default());
    let sum = owed.iter().fold(0, |sum: u64, pfn| sum.wrapping_add(*pfn));
    let evict = || eviction.evict();
    let bitmap = touched(pfns);
    let ours = || {
        owed.iter().for_each(|&pfn| assert!(bitmap.mark(Pfn(pfn), Cause::LogDirty)));
        evict();
    };
    let mut ab_run = AbRun::default().prepared(OURS, sum, ours, || {
        let mut taken = bitmap.take(usize::MAX, 0);
        taken.pay_all();
        taken.pfns().iter().fold(0, |sum, pfn| sum.wrapping_add(pfn.0))
    });
    let mut concurrent = Vec::new();
    for set in dirty_sets(pfns) {
        concurrent.extend(set.is_concurrent().then(|| set.name()));
        ab_run = with_set(ab_run, set, &owed, sum, evict);
    }
    let times = ab_run.run(&WallClock::default());
    let detail = format!("{} scattered pfns of {pfns}, cold, against words", owed.len());
    let flat = Figure {
        goal: Some(Goal::AtLeast(120.0)),
        peers: times.against_all(OURS),
        ..Figure::new("bitmap.take.sparse", times.speed(OURS, FLAT), Unit::Times, detail)
    };
    let beside = (!concurrent.is_empty()).then(|| {
        let fastest = times.fastest(&concurrent);
        let detail = format!("the same against {fastest}, the fastest peer that is thread-safe");
        Figure {
            goal: Some(Goal::AtLeast(1.0)),
            ..Figure::new(
                "bitmap.take.sparse.concurrent",
                times.speed(OURS, fastest),
                Unit::Times,
                detail,
            )
        }
    });
    std::iter::once(flat).chain(beside).collect()
}

/// A bitmap whose memory is allocated, as that of a flat one is.
fn touched(pfns: u64) -> ResendBitmap {
    let bitmap = ResendBitmap::new(pfns);
    for first in (0..pfns).step_by(FRAME_BYTES * 8) {
        assert!(bitmap.mark(Pfn(first), Cause::LogDirty));
    }
    bitmap.take(usize::MAX, 0).pay_all();
    bitmap
}

fn with_set<'a>(
    ab_run: AbRun<'a>,
    set: Box<dyn DirtySet>,
    owed: &'a [u64],
    sum: u64,
    evict: impl Fn() + 'a,
) -> AbRun<'a> {
    let name = set.name();
    // Both closures of a side use it in turn.
    let set = std::rc::Rc::new(RefCell::new(set));
    let marked = std::rc::Rc::clone(&set);
    let mut taken = Vec::with_capacity(2 * owed.len());
    let prepare = move || {
        owed.iter().for_each(|&pfn| marked.borrow_mut().mark(pfn));
        evict();
    };
    ab_run.prepared(name, sum, prepare, move || {
        taken.clear();
        set.borrow_mut().take(&mut taken);
        taken.iter().fold(0, |sum, pfn| sum.wrapping_add(*pfn))
    })
}

/// Words of which so many percent of the bits are set.
#[must_use]
pub fn dense_words(pfns: u64, percent: u64) -> Vec<u64> {
    let bit = |pfn: u64| u64::from(mixed(pfn) % 100 < percent) << (pfn % 64);
    (0..pfns / 64)
        .map(|word| (64 * word..64 * word + 64).fold(0, |bits, pfn| bits | bit(pfn)))
        .collect()
}

fn dense(name: &str, pfns: u64, percent: u64) -> Figure {
    let words = dense_words(pfns, percent);
    let owed = words.iter().map(|word| u64::from(word.count_ones())).sum();
    let bitmap = touched(pfns);
    let flat = RefCell::new(words.clone());
    let ab_run = AbRun::default()
        .prepared(OURS, owed, || bitmap.mark_words(0, &words, Cause::LogDirty), || sweep(&bitmap))
        .prepared(
            FLAT,
            owed,
            || flat.borrow_mut().copy_from_slice(&words),
            || sweep_flat(&mut flat.borrow_mut()),
        );
    let times = ab_run.run(&WallClock::default());
    let detail = format!("{percent} % of {pfns} pfns, in batches of {QUERY_FRAMES_MAX}");
    Figure::new(name, times.speed(OURS, FLAT), Unit::Times, detail)
}

/// Takes everything in batches, as a round does. Returns how many pfns it took.
#[must_use]
pub fn sweep(bitmap: &ResendBitmap) -> u64 {
    let (mut pfns, mut from) = (0, 0);
    loop {
        let mut taken = bitmap.take(QUERY_FRAMES_MAX, from);
        if taken.pfns().is_empty() {
            return pfns;
        }
        taken.pay_all();
        pfns += std::hint::black_box(taken.pfns()).len() as u64;
        from = taken.next();
    }
}

/// The same from flat words.
fn sweep_flat(words: &mut [u64]) -> u64 {
    let (mut pfns, mut batch) = (0, Vec::with_capacity(QUERY_FRAMES_MAX + 64));
    for (index, word) in words.iter_mut().enumerate() {
        let mut rest = std::mem::take(word);
        while rest != 0 {
            batch.push(64 * index as u64 + u64::from(rest.trailing_zeros()));
            rest &= rest - 1;
        }
        if batch.len() >= QUERY_FRAMES_MAX {
            pfns += std::hint::black_box(&batch).len() as u64;
            batch.clear();
        }
    }
    pfns + batch.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_take_all_that_is_dense() {
        for percent in [0, 7, 50, 100] {
            let mut words = dense_words(1 << 16, percent);
            let owed: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
            assert!(owed.abs_diff((1 << 16) * percent / 100) < 2_000, "{owed}");
            let bitmap = ResendBitmap::new(1 << 16);
            bitmap.mark_words(0, &words, Cause::LogDirty);
            assert_eq!((sweep(&bitmap), sweep_flat(&mut words)), (owed, owed));
            assert!(bitmap.is_empty() && words.iter().all(|&word| word == 0));
        }
    }

    #[test]
    fn scattered_pfns_are_below_the_length_and_apart() {
        let list = scattered(1 << 30);
        assert!(list.len() > 4000 && list.iter().all(|&pfn| pfn < 1 << 30));
        assert!(list.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
