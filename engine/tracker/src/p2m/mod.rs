// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m as it was last walked, and what is still to be done about it: leaves to be compared,
//! reasons to walk.
//! Not here: when it is walked (`structure`), or its entries (`destination`).
//! Units: positions are leaf indices; pfns.
//! Threads: one owner; read by all shards during a comparison.
//! Source: `docs/design.md`, "Changes"; `docs/decisions/0003`.

mod backing;
mod domain;
mod filter;
mod layout;
mod pending;
mod recheck;
mod rewalk;
mod shape;
mod walk;

pub(crate) use backing::P2mFrame;
pub(crate) use domain::DomainFrames;
#[cfg(test)]
pub(crate) use layout::tests;
pub(crate) use layout::{Backing, Layout};
pub(crate) use pending::{Item, Pending};
pub(crate) use recheck::Recheck;
pub(crate) use rewalk::Reasons;
pub(crate) use shape::Shape;
pub(crate) use walk::{NO_LEAF, POSITIONS_PER_LEAF, TableCopies, Walk, Walked};

use crate::cause::Cause;
use crate::config::Rewalk;
use crate::error::{Error, StructureCause};
use crate::frame::{LeafIndex, Mfn, Pfn, Width};
use crate::intake::Log;
use crate::port::{M2p, P2mSource, Roots};
use crate::report::{LeafCounts, StructureCounts};

/// The p2m.
#[derive(Debug)]
pub(crate) struct P2m {
    pub(crate) layout: Layout,
    /// Leaves that must be compared before anything is known about them in this round.
    pub(crate) pending: Pending,
    /// Leaves whose frames' owners have to be asked for again.
    pub(crate) recheck: Recheck,
    /// Reasons for a walk.
    pub(crate) reasons: Reasons,
    pub(crate) domain: DomainFrames,
    /// Those of the last walk.
    pub(crate) roots: Option<Roots>,
    /// It was walked since the caller last asked.
    pub(crate) walked: bool,
}

impl P2m {
    /// Nothing is known yet.
    pub(crate) fn new(width: Width) -> Self {
        Self {
            layout: Layout::new(width),
            pending: Pending::default(),
            recheck: Recheck::default(),
            reasons: Reasons { forced: true, ..Reasons::default() },
            domain: DomainFrames::default(),
            roots: None,
            walked: false,
        }
    }

    pub(crate) const fn width(&self) -> Width {
        self.layout.width()
    }

    /// It may have been rebuilt without a trace (the guest resumed).
    pub(crate) fn distrust(&mut self) {
        self.reasons.forced = true;
        self.layout.copies.clear();
    }

    /// Compares the current roots with those of the last walk.
    pub(crate) fn compare_roots(&mut self, now: &Roots, rewalk: Rewalk) {
        let Some(then) = self.roots else { return };
        self.reasons.roots |= now.moved_from(&then);
        self.reasons.pfn_count |= now.pfn_count != then.pfn_count;
        self.reasons.generation |= now.is_linear()
            && (now.generation != then.generation || !now.generation.is_multiple_of(2));
        self.reasons.forced |= rewalk == Rewalk::EveryRound;
    }

    /// The p2m size limit: the largest of what any guest may have, what the domain's size
    /// justifies, and what the leaves that were found justify.
    pub(crate) fn limit_pfns(&self) -> u64 {
        let by_leaves = (POSITIONS_PER_LEAF * self.layout.distinct()) << self.width().entry_bits();
        self.domain.limit_pfns().max(by_leaves)
    }

    /// Handles dirty p2m frames: leaves are to be compared, upper frames to be read again.
    pub(crate) fn p2m_frames_written(&mut self, parts: &[usize]) {
        for &part in parts {
            match self.layout.backing.frame(part) {
                P2mFrame::Upper(level, mfn) => {
                    self.layout.copies.remove(&(level, mfn));
                    self.reasons.dirty += 1;
                }
                P2mFrame::Leaf(mfn) => {
                    let positions = self.layout.positions(part);
                    if positions.is_empty() || self.layout.is_watched(mfn) {
                        // Tracked nowhere, or the last walk relied on what it says.
                        self.reasons.dirty += 1;
                    }
                    for &leaf in &*positions {
                        self.pending.add(leaf, Cause::Entry);
                    }
                }
            }
        }
    }

    /// The entry of a pfn that backs p2m frames changed: those frames may have another pfn now.
    pub(crate) fn entry_of_p2m_frame_changed(
        &mut self,
        pfn: Pfn,
        m2p: &dyn M2p,
        counts: &mut StructureCounts,
    ) {
        self.reasons.entries += 1;
        for part in self.layout.backing.at(pfn).collect::<Vec<_>>() {
            self.p2m_frame_moved(part, m2p, counts);
        }
    }

    /// An entry names `mfn`: if that is a p2m frame, its writes may be marked under another pfn
    /// than they were.
    #[inline]
    pub(crate) fn frame_named(&mut self, mfn: Mfn, m2p: &dyn M2p, counts: &mut StructureCounts) {
        // Of every page that is sent: few are p2m frames.
        if self.layout.may_be_p2m_frame(mfn) {
            self.p2m_frame_named(mfn, m2p, counts);
        }
    }

    #[cold]
    fn p2m_frame_named(&mut self, mfn: Mfn, m2p: &dyn M2p, counts: &mut StructureCounts) {
        for part in self.layout.p2m_frames_of(mfn).collect::<Vec<_>>() {
            self.p2m_frame_moved(part, m2p, counts);
        }
    }

    /// Asks the m2p for the backing pfn of a p2m frame again. Writes that were marked under another
    /// pfn were not seen: the frame is read again.
    pub(crate) fn p2m_frame_moved(
        &mut self,
        part: usize,
        m2p: &dyn M2p,
        counts: &mut StructureCounts,
    ) {
        if !self.layout.set_backing(part, m2p, self.limit_pfns()) {
            return;
        }
        counts.moved += 1;
        match self.layout.backing.frame(part) {
            P2mFrame::Leaf(mfn) => {
                let positions = self.layout.positions(part);
                let relied_on = positions.is_empty() || self.layout.is_watched(mfn);
                self.reasons.entries += u64::from(relied_on);
                for &leaf in &*positions {
                    self.pending.add(leaf, Cause::Structure);
                }
            }
            P2mFrame::Upper(level, mfn) => {
                self.layout.copies.remove(&(level, mfn));
                self.reasons.entries += 1;
            }
        }
    }

    /// Whether a walk or a comparison is left to be made.
    pub(crate) fn is_open(&self) -> bool {
        self.reasons.call() || !self.pending.is_empty()
    }

    /// The first leaf that is not mapped, as an error.
    pub(crate) fn unmapped_leaf(&self) -> Option<Error> {
        let (leaf, mfn, fault) = self.layout.first_unmapped()?;
        let (pfn, cause) = (self.width().first_pfn(leaf), StructureCause::Unreadable(fault));
        Some(Error::Structure { level: 0, mfn, pfn, cause })
    }

    /// The first leaf whose frame has no pfn that names it, as an error: the receiver fills in the
    /// leaves by their pfns.
    pub(crate) fn unnamed_leaf(&self, p2m: &dyn P2mSource) -> Option<Error> {
        let (leaf, mfn) = self.layout.first_unnamed(p2m)?;
        let (pfn, cause) = (self.width().first_pfn(leaf), StructureCause::Unnamed);
        Some(Error::Structure { level: 0, mfn, pfn, cause })
    }

    /// A structure that does not come to rest, as an error.
    pub(crate) fn unstable(&self) -> Error {
        let (level, mfn) = self.layout.shape().map_or((0, Mfn(0)), |s| (s.levels, s.root));
        Error::Structure { level, mfn, pfn: Pfn(0), cause: StructureCause::Unstable }
    }

    /// Counts its leaves, and which of them the log names.
    pub(crate) fn count_leaves(&self, log: &Log, counts: &mut LeafCounts) {
        counts.tracked = self.layout.tracked();
        counts.distinct = self.layout.distinct();
        let dirty = self.layout.backing.marked(log);
        counts.dirty = dirty.map(|part| self.layout.listed(part)).sum();
    }

    /// Resizes what is kept for each leaf.
    pub(crate) fn resize(&mut self) {
        let tracked = self.layout.tracked();
        self.recheck.cover(tracked);
        self.pending.resize(tracked);
    }

    /// Every tracked leaf.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = LeafIndex> + use<> {
        (0..self.layout.tracked()).map(LeafIndex)
    }
}

#[cfg(test)]
mod limit_tests {
    use super::tests::layout_of;
    use super::*;

    #[test]
    fn the_limit_grows_with_the_frames_that_are_held_and_the_leaves_that_are_found() {
        let mut p2m = P2m::new(Width::W32);
        assert_eq!(p2m.limit_pfns(), 1 << 27);
        // Eight positions for each of 17,000 leaves, some of which are listed twice.
        let leaves: Vec<_> = (0..17_005).map(|leaf| Mfn(leaf % 17_000)).collect();
        p2m.layout = layout_of(Width::W32, &leaves, 17_005, Mfn(0));
        assert_eq!(p2m.limit_pfns(), 8 * 17_000 * 1024);
        p2m.domain.count(1 << 24, 1 << 30);
        assert_eq!(p2m.limit_pfns(), 16 << 24);
    }

    #[test]
    fn a_structure_that_does_not_come_to_rest_is_named_by_its_root() {
        let mut p2m = P2m::new(Width::W64);
        let named = |p2m: &P2m| match p2m.unstable() {
            Error::Structure { level, mfn, cause: StructureCause::Unstable, .. } => (level, mfn),
            other => panic!("{other}"),
        };
        assert_eq!(named(&p2m), (0, Mfn(0)));
        p2m.layout = layout_of(Width::W64, &[Mfn(7)], 1, Mfn(7));
        assert_eq!(named(&p2m), (2, Mfn(1 << 20)));
    }
}
