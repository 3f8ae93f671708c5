// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the layout, and the ports of a machine whose frames can't be read, for tests that use a
//! layout.
//! Not here: guests (`tests/fixture.rs`).
//! Units: positions, mfns; the m2p has pfn `mfn - HELD` for every frame from `HELD` on.
//! Threads: one.
//! Source: own.

use super::*;
use crate::leaf::Leaf;
use crate::p2m::shape::Kind;
use crate::port::{PortError, Roots};

/// The frame of pfn 0; frames below it have no pfn.
const HELD: u64 = 1 << 20;

/// A machine of 2^30 frames, none of which can be read or mapped.
pub(crate) struct Nowhere {
    pub(crate) width: Width,
    pub(crate) compat: Option<Mfn>,
}

impl P2mSource for Nowhere {
    fn width(&self) -> Width {
        self.width
    }
    fn domain_frames(&mut self) -> Result<u64, PortError> {
        Ok(0)
    }
    fn roots(&mut self) -> Result<Roots, PortError> {
        Ok(Roots::default())
    }
    fn read(&mut self, _: Mfn, _: &mut Leaf) -> Result<(), MapFault> {
        Err(MapFault::NotOwned)
    }
    fn map(&mut self, frames: &[Mfn], answers: &mut Vec<Result<MapSlot, MapFault>>) {
        answers.resize(frames.len(), Err(MapFault::NotOwned));
    }
    fn unmap(&mut self, slots: &[MapSlot]) {
        assert!(slots.is_empty(), "nothing was mapped");
    }
    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        unreachable!("{slot:?} was never given")
    }
}

impl M2p for Nowhere {
    fn frames(&self) -> u64 {
        1 << 30
    }
    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        mfn.0.checked_sub(HELD).map(Pfn)
    }
    fn compat_frame(&self) -> Option<Mfn> {
        self.compat
    }
}

/// A layout of these leaves by a walk that tracks the first `tracked` of them and relied on
/// `watched`.
pub(crate) fn layout_of(width: Width, leaves: &[Mfn], tracked: u64, watched: Mfn) -> Layout {
    let shape = Shape { kind: Kind::Tree, width, root: Mfn(HELD), base: 0, levels: 2 };
    let walked = Walked {
        shape,
        leaves: leaves.to_vec(),
        tracked,
        tables: BTreeSet::from([(2, Mfn(HELD))]),
        watched: BTreeSet::from([watched]),
    };
    let mut layout = Layout::new(width);
    let (mut p2m, m2p) = (Nowhere { width, compat: None }, Nowhere { width, compat: None });
    let pfns = (leaves.len() * width.entries()) as u64;
    let changes = layout.install(walked, pfns, &mut p2m, &m2p, 1 << 27);
    assert_eq!((changes.fresh, changes.grown.len() as u64), (leaves.len() as u64, tracked));
    layout
}

#[test]
fn leaves_are_known_by_all_positions_that_list_them() {
    let [a, b, c, d] = [10, 11, 12, 13].map(|pfn| Mfn(HELD + pfn));
    let listed = [a, b, NO_LEAF, b, c, b, c, c, d];
    let layout = layout_of(Width::W64, &listed, 6, c);
    assert_eq!((layout.tracked(), layout.distinct(), layout.pfns()), (6, 3, 6 * 512));
    assert_eq!(layout.leaves(), listed);
    let at = |positions: &[u64]| positions.iter().copied().map(LeafIndex).collect::<Vec<_>>();
    for (mfn, positions, count) in [
        (a, at(&[0]), 1),
        (b, at(&[1, 3, 5]), 3),
        (c, at(&[4]), 3),
        (d, at(&[]), 1),
        (Mfn(5), at(&[]), 0),
    ] {
        let leaf = layout.backing.find(P2mFrame::Leaf(mfn));
        assert_eq!(leaf.map_or(vec![], |leaf| layout.positions(leaf).to_vec()), positions);
        let listed = leaf.map_or(0, |leaf| layout.listed(leaf));
        assert_eq!((listed, layout.is_watched(mfn)), (count, mfn == c));
    }
    let first: Vec<_> = (0..9).map(|leaf| layout.first_position(LeafIndex(leaf))).collect();
    let [one, four] = [1, 4].map(|leaf| Some(LeafIndex(leaf)));
    assert_eq!(first, [Some(LeafIndex(0)), one, None, one, four, one, four, four, None]);
    let shared: Vec<_> = (0..10).map(|leaf| layout.is_shared(LeafIndex(leaf))).collect();
    assert_eq!(shared, [false, true, false, true, false, true, false, false, false, false]);
    assert_eq!(layout.sharing(LeafIndex(3)), Some((b, 3)));
    assert_eq!((layout.sharing(LeafIndex(2)), layout.sharing(LeafIndex(8))), (None, None));
}

#[test]
fn what_stands_at_a_position_ends_with_the_tracked_ones() {
    let [a, b] = [10, 11].map(|pfn| Mfn(HELD + pfn));
    let layout = layout_of(Width::W64, &[a, NO_LEAF, a, b], 2, b);
    let p2m = Nowhere { width: Width::W64, compat: None };
    let hole = |leaf| matches!(layout.backing(&p2m, LeafIndex(leaf)), Backing::Hole);
    // Position 2 lists a frame that is known from another one, and is past the tracked ones all the
    // same.
    assert_eq!([0, 1, 2, 3].map(hole), [false, true, true, true]);
    let entry = |pfn| layout.entry(&p2m, Pfn(pfn));
    assert_eq!(
        [entry(511), entry(512), entry(1024)],
        [None, Some(Entry::INVALID), Some(Entry::INVALID)]
    );
    assert_eq!(layout.first_unmapped(), Some((LeafIndex(0), a, UNTRIED)));
}

#[test]
fn the_list_that_is_sent_is_as_long_as_the_count_of_pfns_makes_it() {
    let [a, b, no_pfn] = [Mfn(HELD + 10), Mfn(HELD + 11), Mfn(9)];
    let layout = layout_of(Width::W64, &[a, NO_LEAF, no_pfn, b], 4, b);
    assert_eq!(layout.frame_list(), [Some(Pfn(10)), None, None, Some(Pfn(11))]);
    let p2m_frames_of = |mfn| -> Vec<_> {
        layout.p2m_frames_of(mfn).map(|part| layout.backing.frame(part)).collect()
    };
    assert_eq!(p2m_frames_of(Mfn(HELD)), [P2mFrame::Upper(2, Mfn(HELD))]);
    assert_eq!(p2m_frames_of(b), [P2mFrame::Leaf(b)]);
}
