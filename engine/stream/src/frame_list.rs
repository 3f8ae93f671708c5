// SPDX-License-Identifier: MIT OR Apache-2.0
//! The frame list as a receiver is told it: it never gets shorter, and each position names a leaf.
//! Not here: the record (`writer`).
//! Units: positions are leaf indices; a *hole leaf* is a listed one whose entries all have no
//! frame.
//! Threads: one.
//! Source: libxc `xg_sr_restore_x86_pv.c`: a list is never lowered; at the end each listed pfn must
//! have a frame, and the receiver writes the position's entries into it. Two positions may name one
//! leaf if the entries of both are invalid.

use std::collections::HashSet;
use std::fmt;

use p2mtrack::frame::{LeafIndex, Pfn, Width};
use p2mtrack::port::FrameList;

/// Why a frame list can't be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFault {
    /// A position has no leaf, and the guest has no hole leaf that could be named there.
    NoHoleLeaf {
        /// The first such position.
        position: u64,
    },
    /// The list covers more pfns than the format has numbers for.
    TooLong {
        /// Pfns that it covers.
        pfns: u64,
    },
}

impl ListFault {
    /// Its kind in reports.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::NoHoleLeaf { .. } => "no-hole-leaf",
            Self::TooLong { .. } => "list-too-long",
        }
    }
}

impl fmt::Display for ListFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHoleLeaf { position } => write!(
                f,
                "no-hole-leaf: leaf {position} of the p2m is missing, and a receiver needs one: the guest has no leaf without frames to name in its place"
            ),
            Self::TooLong { pfns } => {
                write!(f, "list-too-long: the p2m covers {pfns:#x} pfns, a stream at most 2^32")
            }
        }
    }
}

impl std::error::Error for ListFault {}

/// The frame list of a stream.
#[derive(Debug, Default)]
pub struct SentList {
    /// The guest's, with `None` for positions without a leaf, and past a shrink.
    leaves: Vec<Option<Pfn>>,
    /// The most pfns that any list covered.
    pfns: u64,
    /// As it was sent last.
    sent: Vec<Pfn>,
    /// Pfns that the last record covered.
    sent_pfns: u64,
}

impl SentList {
    /// Pfns that the receiver knows.
    #[must_use]
    pub const fn sent_pfns(&self) -> u64 {
        self.sent_pfns
    }

    /// Takes the guest's list.
    ///
    /// # Errors
    /// It is too long. Nothing is changed then.
    pub fn take(&mut self, list: &FrameList<'_>) -> Result<(), ListFault> {
        // A hostile count may go far past the leaves.
        let listed = list.leaves.len() as u64 * list.width.entries() as u64;
        let pfns = self.pfns.max(list.pfn_count.min(listed)).max(1);
        if pfns > 1 << 32 {
            return Err(ListFault::TooLong { pfns });
        }
        let positions = list.width.leaves(pfns) as usize;
        self.pfns = pfns;
        self.leaves.clear();
        self.leaves.extend(list.leaves.iter().take(positions));
        self.leaves.resize(positions, None);
        Ok(())
    }

    /// The list to be sent now, and its last pfn, if it differs from the one that was sent last. A
    /// position without a leaf names a hole leaf: `is_hole` says whether none of a position's pfns
    /// has a frame at the receiver. Without one, and if the list is not `settled`, it names any
    /// leaf: the receiver does not use it yet. In a settled list a leaf without a frame of its own,
    /// by `has_frame`, is none.
    ///
    /// # Errors
    /// There is no hole leaf, and the list is `settled`.
    pub fn next(
        &mut self,
        settled: bool,
        has_frame: impl Fn(Pfn) -> bool,
        mut is_hole: impl FnMut(LeafIndex) -> bool,
    ) -> Result<Option<(u32, &[Pfn])>, ListFault> {
        let own = |leaf: &Option<Pfn>| leaf.filter(|&pfn| !settled || has_frame(pfn));
        let missing = self.leaves.iter().position(|leaf| own(leaf).is_none());
        let mut hole = None;
        if let Some(position) = missing {
            let listed: Vec<_> =
                (0..).zip(&self.leaves).filter_map(|(at, leaf)| Some((at, own(leaf)?))).collect();
            // A leaf may be listed at several positions: all of them have to be holes.
            let full: HashSet<_> = listed
                .iter()
                .filter(|leaf| !is_hole(LeafIndex(leaf.0)))
                .map(|leaf| leaf.1)
                .collect();
            hole = listed.iter().map(|leaf| leaf.1).find(|leaf| !full.contains(leaf));
            if hole.is_none() && settled {
                return Err(ListFault::NoHoleLeaf { position: position as u64 });
            }
            hole = hole.or(listed.first().map(|leaf| leaf.1));
        }
        let named = |leaf: &Option<Pfn>| own(leaf).or(hole).unwrap_or(Pfn(0));
        let same = self.sent_pfns == self.pfns
            && self.sent.len() == self.leaves.len()
            && self.sent.iter().copied().eq(self.leaves.iter().map(named));
        if same {
            return Ok(None);
        }
        self.sent.clear();
        self.sent.extend(self.leaves.iter().map(named));
        self.sent_pfns = self.pfns;
        Ok(Some(((self.pfns - 1) as u32, &self.sent)))
    }

    /// The receiver may not have got the last one: the next one is sent again.
    pub fn forget(&mut self) {
        self.sent.clear();
    }
}

/// Whether no pfn of a leaf has a frame.
pub(crate) fn is_hole(
    width: Width,
    leaf: LeafIndex,
    mut has_frame: impl FnMut(Pfn) -> bool,
) -> bool {
    let first = width.first_pfn(leaf).0;
    !(first..first + width.entries() as u64).any(|pfn| has_frame(Pfn(pfn)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: Width = Width::W64;

    fn list(leaves: &[Option<u64>], pfn_count: u64) -> (Vec<Option<Pfn>>, u64) {
        (leaves.iter().map(|leaf| leaf.map(Pfn)).collect(), pfn_count)
    }

    fn take(sent: &mut SentList, (leaves, pfn_count): (Vec<Option<Pfn>>, u64)) {
        sent.take(&FrameList { width: W, pfn_count, leaves: &leaves }).expect("short");
    }

    fn next(sent: &mut SentList, holes: &[u64]) -> Option<(u32, Vec<u64>)> {
        let next = sent.next(true, |_| true, |leaf| holes.contains(&leaf.0)).expect("a hole leaf");
        next.map(|(last, leaves)| (last, leaves.iter().map(|leaf| leaf.0).collect()))
    }

    #[test]
    fn a_list_is_sent_when_it_differs() {
        let mut sent = SentList::default();
        take(&mut sent, list(&[Some(5), Some(6)], 1000));
        assert_eq!(next(&mut sent, &[]), Some((999, vec![5, 6])));
        assert_eq!(next(&mut sent, &[]), None);
        take(&mut sent, list(&[Some(5), Some(7)], 1000));
        assert_eq!(next(&mut sent, &[]), Some((999, vec![5, 7])));
        take(&mut sent, list(&[Some(5), Some(7)], 1001));
        assert_eq!(next(&mut sent, &[]), Some((1000, vec![5, 7])));
        sent.forget();
        assert_eq!(next(&mut sent, &[]), Some((1000, vec![5, 7])));
    }

    #[test]
    fn a_list_never_gets_shorter_and_names_a_hole_past_the_end() {
        let mut sent = SentList::default();
        take(&mut sent, list(&[Some(5), Some(6), Some(8)], 1536));
        next(&mut sent, &[]);
        take(&mut sent, list(&[Some(5), Some(6)], 1000));
        assert_eq!(next(&mut sent, &[1]), Some((1535, vec![5, 6, 6])));
        assert_eq!(sent.sent_pfns(), 1536);
    }

    #[test]
    fn a_position_without_a_leaf_names_a_hole_leaf() {
        let mut sent = SentList::default();
        take(&mut sent, list(&[Some(5), None, Some(6)], 1536));
        let fault = sent.next(true, |_| true, |_| false).expect_err("no hole leaf");
        assert_eq!((fault, fault.kind()), (ListFault::NoHoleLeaf { position: 1 }, "no-hole-leaf"));
        // While the guest runs the receiver does not use it.
        let live = sent.next(false, |_| true, |_| false).expect("any leaf");
        assert_eq!(live, Some((1535, &[Pfn(5), Pfn(5), Pfn(6)][..])));
        assert_eq!(next(&mut sent, &[2]), Some((1535, vec![5, 6, 6])));
    }

    #[test]
    fn a_leaf_that_is_listed_twice_is_a_hole_leaf_only_if_both_positions_are() {
        let mut sent = SentList::default();
        take(&mut sent, list(&[Some(5), Some(5), Some(6), None], 2048));
        assert_eq!(next(&mut sent, &[0, 2]), Some((2047, vec![5, 5, 6, 6])));
        assert_eq!(next(&mut sent, &[0, 1]), Some((2047, vec![5, 5, 6, 5])));
    }

    #[test]
    fn a_settled_list_names_no_leaf_without_a_frame() {
        let mut sent = SentList::default();
        take(&mut sent, list(&[Some(5), Some(6), Some(7)], 1536));
        let settled = sent.next(true, |pfn| pfn.0 != 6, |leaf| leaf.0 == 2).expect("a hole leaf");
        assert_eq!(settled, Some((1535, &[Pfn(5), Pfn(7), Pfn(7)][..])));
    }

    #[test]
    fn a_list_has_at_most_2_to_the_32_pfns() {
        let leaves = vec![Some(Pfn(1)); (1 << 23) + 1];
        for (pfn_count, fits) in [(1 << 32, true), ((1 << 32) + 1, false)] {
            let list = FrameList { width: W, pfn_count, leaves: &leaves };
            let taken = SentList::default().take(&list).map_err(ListFault::kind);
            assert_eq!(taken, if fits { Ok(()) } else { Err("list-too-long") });
        }
        // A count past all leaves.
        let mut sent = SentList::default();
        take(&mut sent, list(&[Some(5)], u64::MAX));
        assert_eq!(next(&mut sent, &[]), Some((511, vec![5])));
    }
}
