// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the resend bitmap: against a plain map, and with real threads.
//! Not here: every interleaving (`loom`).
//! Units: as in `resend`.
//! Threads: three markers, or three senders, beside one taker.
//! Source: the protocol in `resend`.

use super::take::SPARE_PFNS_MAX;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use crate::array::Array;
use crate::bitmap::bits_of;
use crate::sync::{AtomicU64, Ordering};

type Model = BTreeMap<u64, CauseSet>;

/// More than one word of the upper summary.
const PFNS: u64 = (1 << 24) + 9_000;

/// Pfns near 0, or near the end of a word, a line, or a word of a summary.
fn place() -> impl Strategy<Value = u64> {
    let borders = [6, 9, 15, 18, 24].map(|bits| 1_u64 << bits);
    prop_oneof![
        3 => 0_u64..9_000,
        2 => (0..borders.len(), 0_u64..1_000).prop_map(move |(at, off)| (borders[at] + off).saturating_sub(500)),
        1 => 0..PFNS + 100,
    ]
}

#[derive(Clone, Debug)]
enum Op {
    Mark { pfn: u64 },
    Leaf { width: Width, leaf: u64, slots: Vec<usize> },
    Words { first: usize, words: Vec<u64> },
    Range { start: u64, end: u64 },
    Take { limit: usize, from: u64, pay: u64 },
    Resize { pfns: u64 },
    Lines { first: usize, lines: Vec<[u64; LINE_WORDS]> },
    Shard { width: Width, leaves: BTreeSet<u64>, slots: [Vec<usize>; 3] },
}

fn op() -> impl Strategy<Value = Op> {
    let width = prop_oneof![Just(Width::W32), Just(Width::W64)];
    let slots = prop::collection::vec(0_usize..1024, 0..20);
    let (width2, slots2) = (width.clone(), slots.clone());
    let word = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
    let word2 = word.clone();
    let words = prop::collection::vec(word, 0..20);
    prop_oneof![
        4 => place().prop_map(|pfn| Op::Mark { pfn }),
        2 => (width, place(), slots)
            .prop_map(|(width, pfn, slots)| Op::Leaf { width, leaf: pfn / 512, slots }),
        2 => (place(), words).prop_map(|(pfn, words)| Op::Words { first: (pfn / 64) as usize, words }),
        2 => (place(), prop_oneof![0_u64..400, 0_u64..40_000])
            .prop_map(|(start, len)| Op::Range { start, end: start + len }),
        4 => (prop_oneof![0_usize..200, 0_usize..50_000], prop_oneof![Just(0), place()], any::<u64>())
            .prop_map(|(limit, from, pay)| Op::Take { limit, from, pay }),
        1 => place().prop_map(|pfns| Op::Resize { pfns }),
        1 => (place(), prop::collection::vec(prop::array::uniform8(word2), 0..64))
            .prop_map(|(pfn, lines)| Op::Lines { first: (pfn / 512) as usize, lines }),
        2 => (width2, prop::collection::btree_set(place().prop_map(|pfn| pfn / 512), 1..4), prop::array::uniform3(slots2))
            .prop_map(|(width, leaves, slots)| Op::Shard { width, leaves, slots }),
    ]
}

fn cause() -> impl Strategy<Value = Cause> {
    (0..Cause::ALL.len()).prop_map(|index| Cause::ALL[index])
}

fn mark(model: &mut Model, length: u64, pfns: impl IntoIterator<Item = u64>, cause: Cause) {
    for pfn in pfns.into_iter().filter(|&pfn| pfn < length) {
        model.entry(pfn).or_default().insert(cause);
    }
}

/// Takes on both sides and pays the pages whose bit of `pay` is set.
fn take(bitmap: &ResendBitmap, model: &mut Model, limit: usize, from: u64, pay: u64) {
    let expected: Vec<_> = model.range(from..).take(limit).map(|(&p, &c)| (p, c)).collect();
    let mut taken = bitmap.take(limit, from);
    let found: Vec<_> =
        taken.pfns().iter().map(|pfn| pfn.0).zip(taken.causes().iter().copied()).collect();
    assert_eq!(found, expected);
    let next = match expected.last() {
        _ if expected.len() < limit => from.max(bitmap.pfns()),
        Some((last, _)) => last + 1,
        None => from,
    };
    assert_eq!(taken.next(), next);
    assert!(found.iter().all(|&(pfn, _)| !bitmap.is_owed(Pfn(pfn))));
    for (index, (pfn, _)) in found.iter().enumerate().filter(|(i, _)| pay >> (i % 64) & 1 == 1) {
        taken.pay(index);
        model.remove(pfn);
    }
}

fn step(bitmap: &mut ResendBitmap, model: &mut Model, op: Op, cause: Cause) {
    let length = bitmap.pfns();
    match op {
        Op::Mark { pfn } => {
            assert_eq!(bitmap.mark(Pfn(pfn), cause), pfn < length);
            mark(model, length, [pfn], cause);
        }
        Op::Leaf { width, leaf, slots } => {
            let mut mask = LeafMask::NONE;
            slots.iter().for_each(|&slot| mask.set(slot % width.entries()));
            bitmap.mark_leaf(width, LeafIndex(leaf), &mask, cause);
            let first = width.first_pfn(LeafIndex(leaf)).0;
            mark(model, length, mask.slots().map(|slot| first + slot as u64), cause);
        }
        Op::Words { first, words } => {
            bitmap.mark_words(first, &words, cause);
            let bits = words.iter().enumerate();
            let pfns = bits
                .flat_map(|(i, &bits)| bits_of(bits).map(move |bit| 64 * (first + i) as u64 + bit));
            mark(model, length, pfns, cause);
        }
        Op::Range { start, end } => {
            bitmap.mark_range(start..end, cause);
            mark(model, length, start..end, cause);
        }
        Op::Lines { first, lines } => {
            let first = first / 64 * 64;
            let up = (0..lines.len()).filter(|&at| lines[at] != [0; LINE_WORDS]);
            let up = up.fold(0, |up, at| up | 1 << at);
            let shard = bitmap.shards_mut([first as u64 * LINE_PFNS]).next();
            shard.expect("one").mark_lines(first, up, &lines, cause);
            let bits = lines.as_flattened().iter().enumerate();
            let pfns = bits.flat_map(|(i, &bits)| bits_at(first * LINE_WORDS + i, bits));
            mark(model, length, pfns.map(|pfn| pfn as u64), cause);
        }
        Op::Shard { width, leaves, slots } => {
            let mut masks = leaves.iter().zip(&slots);
            let firsts: Vec<_> =
                leaves.iter().map(|&leaf| width.first_pfn(LeafIndex(leaf)).0).collect();
            for (mut shard, (&leaf, slots)) in bitmap.shards_mut(firsts).zip(&mut masks) {
                let mut mask = LeafMask::NONE;
                slots.iter().for_each(|&slot| mask.set(slot % width.entries()));
                let before = shard.owed_for(&Cause::ALL, width, LeafIndex(leaf));
                shard.mark_leaf(width, LeafIndex(leaf), &mask, cause);
                let first = width.first_pfn(LeafIndex(leaf)).0;
                let owed = |pfns: LeafMask| {
                    pfns.slots().map(|slot| first + slot as u64).collect::<Vec<_>>()
                };
                let expected: Vec<_> = model
                    .range(first..first + width.entries() as u64)
                    .map(|(&pfn, _)| pfn)
                    .collect();
                assert_eq!(owed(before), expected);
                mark(model, length, owed(mask), cause);
                for cause in Cause::ALL {
                    let expected = model.range(first..first + width.entries() as u64);
                    let expected =
                        expected.filter(|(_, why)| why.contains(cause)).map(|(&pfn, _)| pfn);
                    let found = shard.owed_for(&[cause], width, LeafIndex(leaf));
                    assert_eq!(owed(found), expected.collect::<Vec<_>>());
                }
            }
        }
        Op::Take { limit, from, pay } => take(bitmap, model, limit, from, pay),
        Op::Resize { pfns } => {
            bitmap.resize(pfns);
            model.retain(|&pfn, _| pfn < pfns);
        }
    }
}

proptest! {
    #[test]
    fn behaves_like_a_map_of_causes(
        pfns in place(),
        ops in prop::collection::vec((op(), cause()), 0..40),
        only in prop::option::of(cause()), // a take of one bitmap has its own code path
    ) {
        let (mut bitmap, mut model) = (ResendBitmap::new(pfns), Model::new());
        for (op, cause) in ops {
            step(&mut bitmap, &mut model, op, only.unwrap_or(cause));
            prop_assert_eq!(bitmap.count(), model.len() as u64);
            prop_assert_eq!(bitmap.is_empty(), model.is_empty());
        }
        let near = model.keys().flat_map(|&pfn| [pfn.saturating_sub(1), pfn, pfn + 1]).take(20_000);
        for pfn in near.chain(0..1_000) {
            let why = model.get(&pfn);
            prop_assert_eq!(bitmap.is_owed(Pfn(pfn)), why.is_some());
            prop_assert_eq!(bitmap.why(Pfn(pfn)), why.copied().unwrap_or_default());
        }
        for width in [Width::W32, Width::W64] {
            let leaves: BTreeSet<_> = model.keys().map(|&pfn| width.leaf_of(Pfn(pfn)).0).collect();
            let whole = bitmap.shards_mut([0]).next().expect("one");
            for leaf in leaves.into_iter().chain(0..20) {
                let first = width.first_pfn(LeafIndex(leaf)).0;
                let owed = whole.owed_for(&Cause::ALL, width, LeafIndex(leaf));
                prop_assert_eq!(whole.is_owed(width, LeafIndex(leaf)), !owed.is_empty());
                let expected = model.range(first..first + width.entries() as u64);
                prop_assert!(owed.slots().map(|s| first + s as u64).eq(expected.map(|e| *e.0)));
            }
        }
    }
}

#[test]
fn law_3_debt_dropped_without_commit_returns() {
    let bitmap = ResendBitmap::new(200);
    for (pfn, cause) in [(3, Cause::Entry), (3, Cause::LogDirty), (70, Cause::First)] {
        bitmap.mark(Pfn(pfn), cause);
    }
    let both = CauseSet::from_iter([Cause::Entry, Cause::LogDirty]);
    drop(bitmap.take(9, 0));
    assert_eq!((bitmap.count(), bitmap.why(Pfn(3))), (2, both));

    let failed = std::panic::catch_unwind(|| {
        let mut taken = bitmap.take(9, 0);
        taken.pay(1);
        assert!(bitmap.is_empty() && bitmap.why(Pfn(3)).is_empty());
        panic!("the transport failed");
    });
    assert!(failed.is_err());
    assert_eq!((bitmap.count(), bitmap.why(Pfn(3))), (1, both));

    bitmap.take(9, 0).pay(0);
    assert!(bitmap.is_empty());
}

/// Lines under several words of the lower summary, all in one group: the next take has to find what
/// is before the first pfn of a take, or after its last one.
#[test]
fn pfns_outside_a_take_stay_owed_under_any_number_of_words_of_the_summary() {
    for causes in [[Cause::Entry; 2], [Cause::Entry, Cause::Table]] {
        for words in 2..6 {
            let pfns: Vec<_> = (0..words).map(|word| Pfn(5 + word * 64 * LINE_PFNS)).collect();
            for (limit, from) in [(1, 0), (9, pfns[1].0), (9, pfns[pfns.len() - 1].0 + 1)] {
                let bitmap = ResendBitmap::new(1 << 20);
                pfns.iter().zip(causes.into_iter().cycle()).for_each(|(&pfn, cause)| {
                    bitmap.mark(pfn, cause);
                });
                let mut taken = bitmap.take(limit, from);
                taken.pay_all();
                let left = pfns.iter().copied().filter(|pfn| !taken.pfns().contains(pfn));
                assert!(bitmap.take(9, 0).pfns().iter().copied().eq(left));
            }
        }
    }
}

#[test]
fn a_take_may_begin_and_end_inside_a_word() {
    let group = GROUP_LINES as u64 * LINE_PFNS;
    for causes in [[Cause::Entry; 2], [Cause::Entry, Cause::Table]] {
        for first in [0, 64, LINE_PFNS, 64 * LINE_PFNS, group, 64 * group] {
            let bitmap = ResendBitmap::new(first + 50);
            for (index, cause) in (0..4).zip(causes.into_iter().cycle()) {
                bitmap.mark(Pfn(first + 10 * index), cause);
            }
            for limit in [2, 99] {
                let mut taken = bitmap.take(limit, first + 5);
                let pfns = [10, 20, 30].map(|pfn| Pfn(first + pfn));
                assert_eq!(taken.pfns(), &pfns[..limit.min(3)]);
                taken.pay_all();
                drop(taken);
                (0..4).for_each(|index| {
                    bitmap.mark(Pfn(first + 10 * index), causes[0]);
                });
            }
            assert_eq!(bitmap.count(), 4);
            assert_eq!(bitmap.take(9, 0).pfns().len(), 4);
        }
    }
}

#[test]
fn a_take_of_everything_leaves_no_summary_bit_set() {
    for causes in [[Cause::Entry; 2], [Cause::Entry, Cause::Table]] {
        let bitmap = ResendBitmap::new(PFNS);
        for (pfn, cause) in
            [5, 6, 700, 1 << 20, PFNS - 1].into_iter().zip(causes.into_iter().cycle())
        {
            bitmap.mark(Pfn(pfn), cause);
        }
        let up =
            || bitmap.by_cause.iter().map(|bitmap| bitmap.summary.raised().count()).sum::<usize>();
        assert!(up() >= 4);
        bitmap.take(usize::MAX, 0).pay_all();
        assert_eq!(up(), 0);
    }
}

#[test]
fn the_memory_of_a_take_is_used_again_unless_it_took_everything() {
    let bitmap = ResendBitmap::new(4 * SPARE_PFNS_MAX as u64);
    let kept = || bitmap.spare.0.lock().expect("no thread panicked").pfns.len();
    for (pfns, keeps) in [(1_000, true), (4 * SPARE_PFNS_MAX as u64, false), (1_000, true)] {
        bitmap.mark_range(0..pfns, Cause::First);
        let mut taken = bitmap.take(usize::MAX, 0);
        assert_eq!((taken.pfns().len() as u64, kept()), (pfns, 0));
        taken.pay_all();
        drop(taken);
        assert_eq!((kept() > 0, bitmap.is_empty()), (keeps, true));
    }
}

#[test]
fn hostile_numbers_mark_nothing() {
    let mut bitmap = ResendBitmap::new(70);
    for number in [70, 1 << 40, 1 << 55, u64::MAX] {
        assert!(!bitmap.mark(Pfn(number), Cause::Entry));
        bitmap.mark_range(number..u64::MAX, Cause::Entry);
        bitmap.mark_words(number as usize, &[1, 1], Cause::Entry);
        bitmap.mark_leaf(Width::W64, LeafIndex(number), &LeafMask::first(512), Cause::Entry);
        for width in [Width::W32, Width::W64] {
            let mut shard = bitmap.shards_mut([0]).next().expect("one");
            shard.mark_leaf(width, LeafIndex(number), &LeafMask::first(512), Cause::Entry);
            assert!(shard.owed_for(&Cause::ALL, width, LeafIndex(number)).is_empty());
        }
        assert_eq!(bitmap.take(1, number).next(), number);
    }
    assert!(bitmap.is_empty());
    bitmap.mark_range(3..u64::MAX, Cause::Uncertain);
    assert_eq!(bitmap.count(), 67);
}

#[test]
fn a_mark_in_another_shards_lines_panics() {
    let mut bitmap = ResendBitmap::new(3 * 512);
    let mark = |shard: &mut ResendShard<'_>, leaf| {
        shard.mark_leaf(Width::W64, LeafIndex(leaf), &LeafMask::first(1), Cause::Entry);
    };
    let [mut first, mut second] = {
        let mut shards = bitmap.shards_mut([0, 2 * 512]);
        std::array::from_fn(|_| shards.next().expect("two"))
    };
    (0..2).for_each(|leaf| mark(&mut first, leaf));
    (2..4).for_each(|leaf| mark(&mut second, leaf));
    for (shard, leaf) in [(&mut first, 2), (&mut second, 1)] {
        let mark = std::panic::AssertUnwindSafe(|| mark(shard, leaf));
        assert!(std::panic::catch_unwind(mark).is_err(), "leaf {leaf} would be lost");
    }
    assert!(std::panic::catch_unwind(move || bitmap.shards_mut([512, 0]).count()).is_err());
}

#[test]
fn shards_end_where_the_next_one_begins_and_the_last_one_with_the_bitmap() {
    let mut bitmap = ResendBitmap::new(5 * 512 + 1);
    let lines = |firsts: &[u64], bitmap: &mut ResendBitmap| -> Vec<_> {
        let owed = |shard: ResendShard<'_>| {
            let leaves = (0..9).map(LeafIndex);
            let is_mine = |leaf| {
                let owed =
                    std::panic::AssertUnwindSafe(|| shard.owed_for(&Cause::ALL, Width::W64, leaf));
                std::panic::catch_unwind(owed).is_ok()
            };
            leaves.filter(|&leaf| is_mine(leaf)).map(|leaf| leaf.0).collect::<Vec<_>>()
        };
        bitmap.shards_mut(firsts.iter().copied()).map(owed).collect()
    };
    // Leaves from 6 on are past the length: in every shard, nothing is owed there.
    let past = [6, 7, 8];
    let expected = [&[1, 2][..], &[], &[3, 4, 5]].map(|mine| [mine, &past].concat());
    assert_eq!(lines(&[512, 3 * 512, 3 * 512], &mut bitmap), expected);
    assert_eq!(lines(&[u64::MAX], &mut bitmap), [past]);
}

#[test]
fn new_pfns_can_be_owed_after_any_growth() {
    for (lines, more) in [(1, 1), (10, 10), (9, 60), (64, 1)] {
        let mut bitmap = ResendBitmap::new(lines * LINE_PFNS);
        bitmap.mark(Pfn(3), Cause::Entry);
        bitmap.resize((lines + more) * LINE_PFNS);
        assert!(bitmap.is_owed(Pfn(3)));
        bitmap.mark_range(0..u64::MAX, Cause::Growth);
        assert_eq!(bitmap.count(), (lines + more) * LINE_PFNS);
    }
}

#[test]
fn equal_bits_and_full_words_outside_a_take_stay_owed() {
    for causes in [[Cause::Entry; 2], [Cause::Entry, Cause::Table]] {
        for (owed, limit, from, taken) in
            [(vec![3, 5, 64 + 5], 1, 0, 1), ((0..64).collect(), 9, 64, 0)]
        {
            let bitmap = ResendBitmap::new(1024);
            for (&pfn, cause) in owed.iter().flat_map(|pfn| causes.map(|cause| (pfn, cause))) {
                bitmap.mark(Pfn(pfn), cause);
            }
            bitmap.take(limit, from).pay_all();
            let left = owed.into_iter().skip(taken);
            assert!(bitmap.take(99, 0).pfns().iter().map(|pfn| pfn.0).eq(left));
        }
    }
}

#[test]
fn a_leaf_that_the_length_cuts_is_owed_up_to_the_length() {
    for (width, leaf) in [Width::W32, Width::W64]
        .into_iter()
        .flat_map(|width| [0, 1, 9].map(|leaf| (width, LeafIndex(leaf))))
    {
        let first = width.first_pfn(leaf).0;
        let bitmap = ResendBitmap::new(first + 70);
        bitmap.mark_leaf(width, leaf, &LeafMask::first(width.entries()), Cause::Entry);
        assert_eq!((bitmap.count(), bitmap.is_owed(Pfn(first + 69))), (70, true));
    }
}

/// A page's content is written before it is marked. The last take must find the last content, and
/// every cause must be reported, whatever takes, partial takes and returned debts come between.
#[test]
fn markers_beside_a_taker_lose_nothing() {
    const LENGTH: u64 = if cfg!(miri) { 100 } else { 5_000 };
    const MARKERS: u64 = 3;
    const MARKS: u64 = if cfg!(miri) { 60 } else { 60_000 };
    let bitmap = ResendBitmap::new(LENGTH);
    let contents = Array::<AtomicU64>::zeroed((LENGTH * MARKERS) as usize);
    let running = AtomicUsize::new(MARKERS as usize);
    let causes = [Cause::LogDirty, Cause::Entry, Cause::Structure];
    let mut sent = vec![0; contents.len()];
    let mut reported = vec![CauseSet::default(); LENGTH as usize];
    std::thread::scope(|scope| {
        for marker in 0..MARKERS {
            let (bitmap, contents, running) = (&bitmap, &contents, &running);
            scope.spawn(move || {
                for turn in 1..=MARKS {
                    let pfn = turn * (2 * marker + 7919) % LENGTH;
                    // ORDER: published by the mark, acquired by the take.
                    contents[(pfn * MARKERS + marker) as usize].store(turn, Ordering::Relaxed);
                    bitmap.mark(Pfn(pfn), causes[marker as usize]);
                }
                running.fetch_sub(1, Ordering::Release); // ORDER: for the Acquire below
            });
        }
        let (mut from, mut turn) = (0, 0);
        loop {
            let done = running.load(Ordering::Acquire) == 0; // ORDER: for the Release above
            let mut taken = bitmap.take(37 + turn % 101, from);
            from = if taken.next() < LENGTH { taken.next() } else { 0 };
            turn += 1;
            for index in 0..taken.pfns().len() {
                if (index + turn) % 5 != 0 {
                    taken.pay(index);
                    let (Pfn(pfn), causes) = (taken.pfns()[index], taken.causes()[index]);
                    let seen = &mut reported[pfn as usize];
                    *seen = seen.union(causes);
                    let first = (pfn * MARKERS) as usize;
                    for at in first..first + MARKERS as usize {
                        sent[at] = contents[at].load(Ordering::Relaxed); // ORDER: as the store
                    }
                }
            }
            drop(taken);
            if done && bitmap.is_empty() {
                break;
            }
        }
    });
    let last = contents.iter().map(|c| c.load(Ordering::Relaxed)); // ORDER: all have joined
    assert!(last.eq(sent.iter().copied()), "a marked page was not taken after its last mark");
    let marked = |at: usize| sent[at] != 0;
    for (pfn, reported) in reported.into_iter().enumerate() {
        let expected = (0..3).filter(|m| marked(3 * pfn + m)).map(|m| causes[m]).collect();
        assert_eq!(reported, expected, "causes of pfn {pfn}");
    }
}

/// The owner takes the next batch while threads send the ones before it and return what was lost:
/// each pfn is taken once for the first copy, and once for each time that it was returned.
#[test]
fn senders_return_pfns_while_the_next_batch_is_taken() {
    const LENGTH: u64 = if cfg!(miri) { 300 } else { 100_000 };
    const SENDERS: u64 = 3;
    let bitmap = ResendBitmap::new(LENGTH);
    bitmap.mark_range(0..LENGTH, Cause::First);
    let [sent, lost] = [(); 2].map(|()| Array::<AtomicU64>::zeroed(LENGTH as usize));
    let on_the_way = AtomicUsize::new(0);
    let (to_senders, batches) = std::sync::mpsc::sync_channel::<Vec<(Pfn, CauseSet)>>(2);
    let batches = Mutex::new(batches);
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (bitmap, sent, lost) = (&bitmap, &sent, &lost);
            let (batches, on_the_way) = (&batches, &on_the_way);
            scope.spawn(move || {
                let next = || batches.lock().expect("no thread panicked").recv();
                while let Ok(batch) = next() {
                    for (pfn, causes) in batch {
                        let at = pfn.0 as usize;
                        // ORDER: the pfn is sent again only after a take of the mark below.
                        let before = sent[at].fetch_add(1, Ordering::Relaxed);
                        let why = if before == 0 { Cause::First } else { Cause::Returned };
                        assert_eq!(causes, CauseSet::of(why), "{pfn}");
                        if (pfn.0 + before + sender) % 8 < 7 && before < 30 {
                            // ORDER: read when all have joined
                            lost[at].fetch_add(1, Ordering::Relaxed);
                            bitmap.mark(pfn, Cause::Returned);
                        }
                    }
                    on_the_way.fetch_sub(1, Ordering::Release); // ORDER: for the Acquire below
                }
            });
        }
        let mut from = 0;
        loop {
            let done = on_the_way.load(Ordering::Acquire) == 0; // ORDER: for the Release above
            let mut taken = bitmap.take(61, from);
            from = if taken.next() < LENGTH { taken.next() } else { 0 };
            let batch: Vec<_> =
                taken.pfns().iter().copied().zip(taken.causes().iter().copied()).collect();
            taken.pay_all(); // in flight: its sender has the debt
            drop(taken);
            if !batch.is_empty() {
                on_the_way.fetch_add(1, Ordering::Relaxed); // ORDER: the channel's
                to_senders.send(batch).expect("senders are running");
            } else if done && bitmap.is_empty() {
                break;
            }
        }
        drop(to_senders);
    });
    // ORDER: all have joined
    let counts = |words: &[AtomicU64]| -> Vec<u64> {
        words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
    };
    let expected: Vec<_> = counts(&lost).iter().map(|lost| lost + 1).collect();
    assert_eq!(counts(&sent), expected);
    assert!(counts(&lost).iter().sum::<u64>() > LENGTH / 4, "many were returned");
}
