// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of one walk over a memory of a few frames: the limit, holes, shared tails, faults.
//! Not here: walks of a guest that runs (`tests/walks.rs`), of any structure
//! (`tests/hostile_guest/walks.rs`).
//! Units: positions; frames by number, leaves with frames from `LEAVES` on.
//! Threads: one.
//! Source: own.

use super::*;
use crate::frame::{Pfn, Width};
use crate::guest::GuestLeaf;
use crate::p2m::shape::Kind;
use crate::port::{MapFault, MapSlot, PortError, Roots};
use std::collections::BTreeMap;

const TOP: Mfn = Mfn(1);
const MID: Mfn = Mfn(2);
/// A leaf that names no frame.
const EMPTY: u64 = 3;
/// From here on a frame is a leaf that names one.
const LEAVES: u64 = 1000;
const MACHINE: u64 = 1 << 20;

/// Upper frames by number; every leaf is made up when it is read.
#[derive(Default)]
struct Memory {
    frames: BTreeMap<u64, Leaf>,
    reads: Vec<u64>,
}

impl P2mSource for Memory {
    fn width(&self) -> Width {
        Width::W64
    }
    fn domain_frames(&mut self) -> Result<u64, PortError> {
        Ok(0)
    }
    fn roots(&mut self) -> Result<Roots, PortError> {
        Ok(Roots::default())
    }
    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault> {
        self.reads.push(mfn.0);
        *into = match mfn.0 {
            EMPTY => Leaf::HOLE,
            frame if frame >= LEAVES => Leaf { words: [frame; 512] },
            frame => self.frames.get(&frame).cloned().ok_or(MapFault::NotOwned)?,
        };
        Ok(())
    }
    fn map(&mut self, _: &[Mfn], _: &mut Vec<Result<MapSlot, MapFault>>) {}
    fn unmap(&mut self, _: &[MapSlot]) {}
    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        unreachable!("{slot:?} was never given")
    }
}

struct M2pOf;

impl M2p for M2pOf {
    fn frames(&self) -> u64 {
        MACHINE
    }
    fn pfn(&self, _: Mfn) -> Option<Pfn> {
        None
    }
}

/// A tree whose first mid frame lists these leaves, by position.
fn tree(leaves: &[(usize, u64)]) -> Memory {
    let (mut top, mut mid) = (Leaf::HOLE, Leaf::HOLE);
    top.words[0] = MID.0;
    for &(position, leaf) in leaves {
        mid.words[position] = leaf;
    }
    Memory { frames: BTreeMap::from([(TOP.0, top), (MID.0, mid)]), reads: Vec::new() }
}

/// Walks this number of positions with a limit of `limit`.
fn walk(memory: &mut Memory, positions: u64, limit: u64) -> Result<Walked, Error> {
    let shape = Shape { kind: Kind::Tree, width: Width::W64, root: TOP, base: 0, levels: 2 };
    let copies = &mut TableCopies::new();
    Walk::new(memory, &M2pOf, copies, shape, positions * 512, 77, limit).run()
}

#[test]
fn a_leaf_with_frames_is_within_the_limit_by_the_distinct_ones_before_it() {
    // Two leaves justify sixteen positions, a third one eight more; the same leaf again none.
    let two = [(0, LEAVES), (1, LEAVES + 1), (2, LEAVES)];
    let with = |more: &[(usize, u64)]| tree(&[&two, more].concat());
    let walked =
        walk(&mut with(&[(15, LEAVES + 2), (23, LEAVES + 3)]), 512, 2).expect("within the limit");
    assert_eq!((walked.leaves.len(), walked.tracked), (24, 24));
    assert_eq!([walked.leaves[2], walked.leaves[3]], [Mfn(LEAVES), NO_LEAF]);
    for (position, leaf, leaves) in [(16, LEAVES + 2, 2), (16, LEAVES, 2), (40, LEAVES, 40)] {
        let error = walk(&mut with(&[(position, leaf)]), 512, leaves).expect_err("past the limit");
        let Error::P2mSize { pfn, limit, domain_frames } = error else { panic!("{error}") };
        assert_eq!((pfn, domain_frames), (Pfn(position as u64 * 512), 77));
        assert_eq!(limit, leaves.max(16) * 512);
    }
    assert_eq!(
        walk(&mut with(&[(39, LEAVES)]), 512, 40).expect("within the limit").leaves.len(),
        40
    );
}

#[test]
fn the_limit_does_not_apply_to_what_names_no_frame() {
    let mut memory = tree(&[(0, LEAVES), (100, EMPTY), (200, EMPTY)]);
    let walked = walk(&mut memory, 512, 2).expect("nothing past the limit");
    assert_eq!((walked.leaves.len(), walked.tracked), (1, 1));
    assert_eq!(walked.watched, BTreeSet::from([Mfn(EMPTY)]));
    assert_eq!(memory.reads, [TOP.0, MID.0, EMPTY], "each frame once");
    // A second mid frame, past the limit: read once, and listed nowhere.
    let (mut memory, mut mid) = (tree(&[(0, LEAVES)]), Leaf::HOLE);
    mid.words[3] = EMPTY;
    memory.frames.insert(9, mid.clone());
    memory.frames.get_mut(&TOP.0).expect("there").words[5..8].fill(9);
    let walked = walk(&mut memory, 512 * 512, 2).expect("nothing past the limit");
    assert_eq!((walked.leaves.len(), walked.tracked), (1, 1));
    assert_eq!(memory.reads, [TOP.0, MID.0, 9, EMPTY], "each frame once");
    assert_eq!(walked.tables, BTreeSet::from([(2, TOP), (1, MID), (1, Mfn(9))]));
    // It names a frame after all: the position of its leaf is named.
    mid.words[4] = LEAVES;
    memory.frames.insert(9, mid);
    let error = walk(&mut memory, 512 * 512, 2).expect_err("past the limit");
    assert!(
        matches!(error, Error::P2mSize { pfn: Pfn(pfn), .. } if pfn == (5 * 512 + 4) * 512),
        "{error}"
    );
}

/// Every slot of each table leads to one table below: 2^27 times as many paths as there are frames.
/// A walk of all paths would not end.
#[test]
fn tables_that_name_each_other_over_and_over_are_read_once() {
    let table = |below: u64| Leaf { words: [below << 12 | 1; 512] };
    let mut last = Leaf::default();
    last.words[5] = EMPTY << 12 | 1;
    let frames = BTreeMap::from([(10, table(11)), (11, table(12)), (12, table(13)), (13, last)]);
    let mut memory = Memory { frames, reads: Vec::new() };
    let shape = Shape { kind: Kind::Linear, width: Width::W64, root: Mfn(10), base: 0, levels: 4 };
    let copies = &mut TableCopies::new();
    let half = 1 << 35;
    let walk = Walk::new(&mut memory, &M2pOf, copies, shape, half * 512, 77, 6);
    let walked = walk.run().expect("nothing past the limit");
    assert_eq!((walked.leaves.len(), walked.tracked), (6, 6));
    assert_eq!(walked.watched, BTreeSet::from([Mfn(EMPTY)]));
    assert_eq!(memory.reads, [10, 11, 12, 13, EMPTY], "each frame once");
}

#[test]
fn a_tail_of_shared_leaves_without_frames_is_not_tracked() {
    let tail = [(4, EMPTY), (6, EMPTY)];
    for (more, tracked) in [
        (&[][..], 1),
        (&[(7, LEAVES + 1)], 8), // behind it
        (&[(7, EMPTY)], 1),      // more of it
        (&[(2, LEAVES)], 3),     // shared, but with frames
    ] {
        let mut memory = tree(&[&[(0, LEAVES)], &tail[..], more].concat());
        let walked = walk(&mut memory, 512, 512).expect("within the limit");
        assert_eq!(walked.tracked, tracked, "{more:?}");
    }
    for all in [&[][..], &tail[..]] {
        assert_eq!(walk(&mut tree(all), 512, 512).expect("within the limit").tracked, 0, "{all:?}");
    }
    // One by itself may be written at any time: it is tracked.
    let alone = walk(&mut tree(&[(0, LEAVES), (4, EMPTY)]), 512, 512).expect("within the limit");
    assert_eq!((alone.tracked, alone.watched.len()), (5, 0));
}

#[test]
fn a_walk_ends_with_the_count_of_pfns() {
    let leaves: Vec<_> = (0..9).map(|position| (position, LEAVES + position as u64)).collect();
    assert_eq!(walk(&mut tree(&leaves), 4, 512).expect("within the limit").leaves.len(), 4);
}

#[test]
fn a_frame_that_can_not_be_read_is_named_with_the_first_pfn_below_it() {
    let mut memory = tree(&[(0, LEAVES)]);
    memory.frames.get_mut(&TOP.0).expect("there").words[3] = 99;
    let error = walk(&mut memory, 512 * 512, 1 << 18).expect_err("no such frame");
    let Error::Structure { level, mfn, pfn, cause } = error else { panic!("{error}") };
    assert_eq!((level, mfn, pfn), (1, Mfn(99), Pfn(3 * 512 * 512)));
    assert_eq!(cause, StructureCause::Unreadable(MapFault::NotOwned));
    let error = walk(&mut memory, 512 * 512, 2).expect_err("nor past the limit");
    let Error::Structure { level, mfn, pfn, .. } = error else { panic!("{error}") };
    assert_eq!((level, mfn, pfn), (1, Mfn(99), Pfn(3 * 512 * 512)));
    // A leaf that has to be read is named by its position.
    let mut memory = tree(&[(0, LEAVES), (300, 99)]);
    let error = walk(&mut memory, 512, 2).expect_err("no such leaf");
    let Error::Structure { level, mfn, pfn, .. } = error else { panic!("{error}") };
    assert_eq!((level, mfn, pfn), (0, Mfn(99), Pfn(300 * 512)));
    // So is the last one of a tail.
    let mut memory = tree(&[(0, LEAVES), (4, 99), (6, 99)]);
    let error = walk(&mut memory, 512, 512).expect_err("no such leaf");
    let Error::Structure { level, mfn, pfn, .. } = error else { panic!("{error}") };
    assert_eq!((level, mfn, pfn), (0, Mfn(99), Pfn(6 * 512)));
}
