// SPDX-License-Identifier: MIT OR Apache-2.0
//! Replays: each port compared with the plain arrays of the round that it shows.
//! Not here: sums over real captures (`captures`).
//! Units: as in the tracker's `port`.
//! Threads: one, and as many readers as `live` and the m2p allow.
//! Source: own.

mod life;

use std::collections::BTreeSet;

use life::walker::entries;
use life::{MAX_MFN, life, write};
use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{FrameTypes, LogBuffer, LogDirty, M2p, MapFault, P2mSource, Roots, Unlogged};
use p2mtrack_trace::{Limits, NONE, Reader, Replay, Round};
use proptest::prelude::*;

/// The m2p by its rule, one mfn at a time.
fn m2p(width: Width, round: &Round, mfn: u64) -> Option<u64> {
    let some = |pfn: u64| (pfn != NONE).then_some(pfn);
    if let Some(position) = round.leaf_mfns.iter().position(|&leaf| leaf == mfn) {
        return some(round.leaf_pfns[position]);
    }
    if let Some(frame) = round.upper.iter().find(|frame| frame.mfn.0 == mfn) {
        return frame.pfn.map(|pfn| pfn.0);
    }
    if let Some(&pfn) = round.exceptions.get(&mfn) {
        return pfn;
    }
    let names = |&entry: &u64| entry == mfn && Entry(entry).names_frame(width, MAX_MFN);
    round.entries.iter().position(names).map(|pfn| pfn as u64)
}

fn domain_frames(width: Width, round: &Round) -> u64 {
    let entries = round.entries.iter().copied();
    let named = entries.filter(|&entry| Entry(entry).names_frame(width, MAX_MFN));
    let leaves = round.leaf_mfns.iter().copied().filter(|&mfn| mfn != NONE);
    let upper = round.upper.iter().map(|frame| frame.mfn.0);
    named.chain(leaves).chain(upper).collect::<BTreeSet<_>>().len() as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn ports_show_what_was_recorded((width, rounds) in life()) {
        let bytes = write(width, &rounds);
        let reader = Reader::new(&bytes, Limits::default()).expect("opens");
        let mut replay = Replay::new(&reader).expect("round 0");
        let mut ports = replay.ports();
        for (number, round) in rounds.iter().enumerate() {
            prop_assert!(number == 0 || replay.advance().expect("decodes"));
            prop_assert_eq!((replay.round(), replay.number()), (round, number as u64));
            let mut frame = Leaf::default();
            for mfn in 0..40 {
                prop_assert_eq!(ports.m2p.pfn(Mfn(mfn)), m2p(width, round, mfn).map(Pfn));
                let upper = round.upper.iter().find(|frame| frame.mfn.0 == mfn);
                let position = round.leaf_mfns.iter().position(|&leaf| leaf == mfn);
                let read = ports.p2m.read(Mfn(mfn), &mut frame).is_ok();
                prop_assert_eq!(read, upper.is_some() || position.is_some());
                if let Some(upper) = upper {
                    prop_assert_eq!(&frame, &*upper.content);
                } else if let Some(position) = position {
                    let words: Vec<_> = frame.entries(width).map(|entry| entry.0).collect();
                    prop_assert_eq!(words, round.leaf_entries(width, position));
                }
                let mut answers = Vec::new();
                ports.p2m.map(&[Mfn(mfn)], &mut answers);
                prop_assert_eq!(answers[0].is_ok(), round.leaf_mfns.contains(&mfn));
                if let Ok(slot) = answers[0] {
                    ports.p2m.unmap(&[slot]);
                }
            }
            for (position, &mfn) in round.leaf_mfns.iter().enumerate() {
                if mfn != NONE {
                    prop_assert_eq!(entries(&mut ports.p2m, mfn), round.leaf_entries(width, position));
                }
            }
            prop_assert_eq!(ports.p2m.domain_frames().expect("count"), domain_frames(width, round));
        }
        prop_assert!(!replay.advance().expect("the end"));
    }
}

fn roots(generation: u64) -> Roots {
    Roots { generation, ..Roots::default() }
}

fn with_bits(pfns: u64, set: &[u64]) -> PfnBitmap {
    let mut bitmap = PfnBitmap::new(pfns);
    for &pfn in set {
        bitmap.set(Pfn(pfn));
    }
    bitmap
}

/// Three rounds over one leaf whose frame changes, each with its own roots and log.
fn three() -> Vec<u8> {
    let round = |number: u64, mfn: u64, log_dirty| Round {
        before: roots(10 * number),
        after: roots(10 * number + 1),
        log_dirty,
        leaf_mfns: vec![mfn],
        leaf_pfns: vec![mfn + 1],
        entries: vec![number; 512],
        ..Round::default()
    };
    let logs = [with_bits(128, &[3, 100]), with_bits(256, &[4, 200])].map(Some);
    let [first, second] = logs;
    write(Width::W64, &[round(0, 5, None), round(1, 6, first), round(2, 5, second)])
}

fn clean(ports: &mut p2mtrack_trace::replay::ReplayPorts, asked: u64) -> (u64, Vec<u64>) {
    let mut into = PfnBitmap::new(asked);
    let read = ports.log_dirty.clean(LogBuffer::over(&mut into)).expect("clean");
    (read, into.iter().map(|pfn| pfn.0).collect())
}

#[test]
fn roots_change_with_the_clean() {
    let bytes = three();
    let reader = Reader::new(&bytes, Limits::default()).expect("opens");
    let mut replay = Replay::new(&reader).expect("round 0");
    let mut ports = replay.ports();
    ports.log_dirty.enable().expect("no-op");
    assert_eq!(ports.p2m.roots().expect("roots"), roots(1), "the first copy has one kind of roots");
    replay.advance().expect("decodes");
    assert_eq!(ports.p2m.roots().expect("roots"), roots(10));
    assert_eq!(ports.p2m.roots().expect("roots"), roots(10));
    clean(&mut ports, 128);
    assert_eq!(ports.p2m.roots().expect("roots"), roots(11));
    replay.advance().expect("decodes");
    assert_eq!(ports.p2m.roots().expect("roots"), roots(20));
    ports.log_dirty.disable().expect("no-op");
}

#[test]
fn the_log_covers_what_was_recorded_and_keeps_the_rest() {
    let bytes = three();
    let reader = Reader::new(&bytes, Limits::default()).expect("opens");
    let mut replay = Replay::new(&reader).expect("round 0");
    let mut ports = replay.ports();
    assert_eq!(clean(&mut ports, 4096), (4096, vec![]), "an empty log in the first copy");
    replay.advance().expect("decodes");
    assert_eq!(clean(&mut ports, 64), (64, vec![3]), "a prefix");
    assert_eq!(clean(&mut ports, 64), (64, vec![]), "taken");
    replay.advance().expect("decodes");
    assert_eq!(clean(&mut ports, 4096), (256, vec![4, 100, 200]), "short, and what was left");
    assert_eq!(clean(&mut ports, 4096), (256, vec![]));
    let mut replay = Replay::new(&reader).expect("round 0");
    let mut ports = replay.ports();
    assert!(replay.advance().expect("decodes") && replay.advance().expect("decodes"));
    assert_eq!(clean(&mut ports, 4096), (256, vec![3, 4, 100, 200]), "a round without CLEAN");
}

#[test]
fn a_mapping_outlives_its_frame_and_many_threads_read_it() {
    let bytes = three();
    let reader = Reader::new(&bytes, Limits::default()).expect("opens");
    let mut replay = Replay::new(&reader).expect("round 0");
    let mut ports = replay.ports();
    let mut answers = Vec::new();
    ports.p2m.map(&[Mfn(5), Mfn(6), Mfn(5)], &mut answers);
    assert_eq!(answers[1], Err(MapFault::NotOwned));
    let slots = [answers[0].expect("a leaf"), answers[2].expect("a leaf")];
    assert_ne!(slots[0], slots[1]);
    let read = |ports: &p2mtrack_trace::replay::ReplayPorts| {
        std::thread::scope(|scope| {
            let readers = slots.map(|slot| {
                scope.spawn(move || {
                    assert_eq!(ports.m2p.pfn(Mfn(u64::MAX)), None);
                    ports.p2m.live(slot).entry(Width::W64, 511)
                })
            });
            readers.map(|reader| reader.join().expect("reads"))
        })
    };
    assert_eq!(read(&ports), [Entry(0); 2]);
    replay.advance().expect("decodes");
    assert_eq!(read(&ports), [Entry(0); 2], "kept as it was");
    replay.advance().expect("decodes");
    assert_eq!(read(&ports), [Entry(2); 2], "the same frame again");
    ports.p2m.unmap(&slots);
    ports.p2m.map(&[Mfn(5)], &mut answers);
    assert!(slots.contains(&answers[3].expect("a leaf")), "slots are used again");
}

#[test]
#[should_panic(expected = "is not mapped")]
fn a_slot_is_not_used_after_it_was_unmapped() {
    let bytes = three();
    let reader = Reader::new(&bytes, Limits::default()).expect("opens");
    let mut ports = Replay::new(&reader).expect("round 0").ports();
    let mut answers = Vec::new();
    ports.p2m.map(&[Mfn(5)], &mut answers);
    let slot = answers[0].expect("a leaf");
    ports.p2m.unmap(&[slot]);
    ports.p2m.live(slot);
}

#[test]
fn the_other_ports_give_the_simplest_answers() {
    let bytes = three();
    let reader = Reader::new(&bytes, Limits::default()).expect("opens");
    let mut ports = Replay::new(&reader).expect("round 0").ports();
    let mut types = [FrameType::Broken; 2];
    ports.types.query(&[Mfn(1), Mfn(2)], &mut types).expect("answers");
    assert_eq!(types, [FrameType::Data; 2]);
    let mut pfns = Vec::new();
    ports.unlogged.pfns(&mut pfns).expect("lists");
    assert!(pfns.is_empty() && !ports.unlogged.accepts_transfer().expect("answers"));
    assert_eq!(ports.m2p.frames(), MAX_MFN);
}
