// SPDX-License-Identifier: MIT OR Apache-2.0
//! Structure: weighs the evidence that the p2m was reshaped, walks it under the seqlock, takes the walk over.
//! Not here: one walk (`layout::walk`), comparing leaves (`leaves`).
//! Units: walks and looks, bounded in number, never by time.
//! Threads: the owner's.
//! Source: `docs/design.md`, section "Changes"; `docs/decisions/0003`.

use std::ops::Range;

use super::barren::Barren;
use super::{Tracker, phase};
use crate::cause::Cause;
use crate::config::{Rewalk, Sender};
use crate::doubt::Doubt;
use crate::error::{Error, StructureCause};
use crate::evidence::Evidence;
use crate::frame::{Entry, LeafIndex, Mfn, Pfn};
use crate::layout::{Changes, Kind, LEAF_REACH, Part, Shape, Walk, Walked};
use crate::leaf::Leaf;
use crate::port::{Phase, Ports, QUERY_FRAMES_MAX, Roots};

/// Pfns that any guest may reach, however small it is: 512 GiB, a log-dirty bitmap of 16 MiB.
const REACH_PFNS_MIN: u64 = 1 << 27;
/// Pfns of reach for each frame that the domain holds: a guest ballooned down to a sixteenth.
const FRAME_REACH: u64 = 16;
/// Walks in one live round before its instability is a doubt.
const WALKS_LIVE: u32 = 8;
/// Reads of the roots while their generation is odd, before a walk is tried all the same.
const ROOTS_READS_MAX: u32 = 64;
/// Walks, and walks with comparisons, of a guest that stands still before the engine gives up.
const WALKS_SUSPENDED: u32 = 4;
/// Looks at the structure in one round: what a comparison finds may call for another.
const LOOKS_LIVE: u32 = 3;
const LOOKS_SUSPENDED: u32 = 16;

impl Tracker {
    /// Holds the roots of now against those of the last walk.
    pub(super) fn weigh(&mut self, now: &Roots) {
        let Some(then) = self.roots else { return };
        let linear = now.p2m_cr3 != 0;
        let moved = if linear {
            (now.p2m_cr3, now.p2m_vaddr) != (then.p2m_cr3, then.p2m_vaddr)
        } else {
            now.frame_list_list != then.frame_list_list || then.p2m_cr3 != 0
        };
        self.evidence.roots |= moved;
        self.evidence.pfn_count |= now.pfn_count != then.pfn_count;
        self.evidence.generation |=
            linear && (now.generation != then.generation || now.generation % 2 == 1);
        self.evidence.forced |= self.config.rewalk == Rewalk::EveryRound;
    }

    /// How far the p2m may reach: what any guest may, what the domain's size justifies, and what the
    /// leaves that it was found to have justify.
    pub(super) fn reach_pfns(&self) -> u64 {
        let by_leaves = (LEAF_REACH * self.layout.distinct()) << self.width.entry_bits();
        self.reach_without_leaves().max(by_leaves)
    }

    fn reach_without_leaves(&self) -> u64 {
        REACH_PFNS_MIN.max(FRAME_REACH.saturating_mul(self.domain_frames))
    }

    /// Follows structure and entries until nothing new turns up.
    pub(super) fn look(&mut self, ports: &mut Ports<'_>, adopt_all: bool) -> Result<(), Error> {
        let suspended = self.report.stage.is_suspended();
        let looks = if suspended { LOOKS_SUSPENDED } else { LOOKS_LIVE };
        let mut unstable = false;
        for _ in 0..looks {
            if self.evidence.calls() {
                unstable |= !phase(ports, Phase::Walk, |ports| self.walk(ports))?;
            }
            if self.report.blind {
                return Ok(());
            }
            phase(ports, Phase::Walk, |ports| self.map(ports))?;
            for pfn in phase(ports, Phase::Diff, |ports| self.compare(ports, adopt_all))? {
                self.entry_of_part_changed(ports, pfn);
            }
            if !self.evidence.calls() && (self.pending.is_empty() || !suspended) {
                // A walk that the guest did not hold still for is made again in the next round.
                self.evidence.generation |= unstable;
                return Ok(());
            }
        }
        self.evidence.generation |= unstable;
        if suspended { Err(self.unstable()) } else { Ok(()) }
    }

    pub(super) fn unstable(&self) -> Error {
        let (level, mfn) = self.layout.shape().map_or((0, Mfn(0)), |s| (s.levels, s.root));
        Error::Structure { level, mfn, pfn: Pfn(0), cause: StructureCause::Unstable }
    }

    /// The entry of a pfn that holds frames of the p2m changed: those frames may be elsewhere now.
    pub(super) fn entry_of_part_changed(&mut self, ports: &Ports<'_>, pfn: Pfn) {
        self.evidence.entries += 1;
        for part in self.layout.holders.at(pfn).collect::<Vec<_>>() {
            self.part_moved(ports, part);
        }
    }

    /// Asks anew who holds a part. Writes that were marked under another pfn were not seen: what the
    /// part says is read again.
    pub(crate) fn part_moved(&mut self, ports: &Ports<'_>, part: usize) {
        if !self.layout.hold(part, ports.m2p, self.reach_pfns()) {
            return;
        }
        self.report.structure.moved += 1;
        match self.layout.holders.part(part) {
            Part::Leaf(mfn) => {
                let positions = self.layout.positions(part);
                let relied_on = positions.is_empty() || self.layout.is_watched(mfn);
                self.evidence.entries += u64::from(relied_on);
                for &leaf in &*positions {
                    self.pend(leaf, Cause::Structure);
                }
            }
            Part::Table(level, mfn) => {
                self.layout.copies.remove(&(level, mfn));
                self.evidence.entries += 1;
            }
        }
    }

    /// An entry names `mfn`: if that is one of the p2m's own frames, its writes may be marked elsewhere
    /// than they were.
    pub(crate) fn frame_named(&mut self, ports: &Ports<'_>, mfn: Mfn) {
        for part in self.layout.parts_of(mfn).collect::<Vec<_>>() {
            self.part_moved(ports, part);
        }
    }

    /// Whether a part of the structure has to be looked at again before anything can be final.
    pub(crate) fn structure_is_open(&self) -> bool {
        self.evidence.calls() || !self.pending.is_empty()
    }

    /// Looks at the guest that stands still until the structure is at rest. A leaf's frame may have
    /// got another pfn without a write to any table: that pfn is owed then, and names it.
    pub(crate) fn rest(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        for _ in 0..LOOKS_SUSPENDED {
            let mut from = 0;
            loop {
                let taken = self.resend.take(QUERY_FRAMES_MAX, from);
                let owed = taken.pfns().to_vec();
                from = taken.next();
                drop(taken); // only looked at: it stays owed
                if owed.is_empty() {
                    break;
                }
                for pfn in owed {
                    let entry = self.layout.entry(ports.p2m, pfn);
                    if let Some(mfn) = entry.and_then(|entry| entry.claim(self.width).named()) {
                        self.frame_named(ports, mfn);
                    }
                }
            }
            if !self.structure_is_open() {
                return Ok(());
            }
            self.look(ports, false)?;
        }
        Err(self.unstable())
    }

    /// Walks under the seqlock. Returns whether the guest held still; if not, or if the structure
    /// can't be followed now, that is a doubt and not an error while it runs.
    pub(super) fn walk(&mut self, ports: &mut Ports<'_>) -> Result<bool, Error> {
        let suspended = self.report.stage.is_suspended();
        self.walked = true;
        self.evidence.report(&mut self.report.structure);
        self.layout.drop_unheld_copies();
        if self.evidence.forced {
            self.layout.copies.clear();
        }
        let tries = if suspended { WALKS_SUSPENDED } else { WALKS_LIVE };
        let mut found = None;
        for attempt in 0..tries {
            if attempt > 0 {
                self.report.structure.retries += 1;
                self.layout.copies.clear();
            }
            let roots = self.even_roots(ports, suspended)?;
            match self.walk_once(ports, &roots) {
                Ok(walked) => {
                    let after = ports.p2m.roots().map_err(Error::port("p2m source"))?;
                    let stable = suspended || is_stable(&walked, &roots, &after);
                    found = Some(Ok((walked, roots, stable)));
                    if stable || after == roots {
                        break; // also within a change that does not get on: a vCPU that is not running
                    }
                }
                Err(error) => found = Some(Err(error)),
            }
        }
        match found {
            Some(Ok((walked, roots, stable))) => {
                self.evidence = Evidence::default();
                self.take_over(ports, walked, &roots);
                if self.config.sender != Sender::Told {
                    self.sent.doubt_tables_sent(); // they may have been normalised by what was there between two looks
                }
                if !stable {
                    // Every frame of the walk was read after CLEAN: whatever changes it later is in the next log.
                    self.doubts.mark(Doubt::Generation);
                }
                Ok(stable)
            }
            Some(Err(error)) => self.walk_failed(error).map(|()| false),
            None => Ok(true),
        }
    }

    /// Reads the roots until their generation is even, as a reader of a seqlock does; not for ever.
    pub(super) fn even_roots(
        &self,
        ports: &mut Ports<'_>,
        suspended: bool,
    ) -> Result<Roots, Error> {
        let mut roots = Roots::default();
        for _ in 0..ROOTS_READS_MAX {
            roots = ports.p2m.roots().map_err(Error::port("p2m source"))?;
            if suspended || roots.p2m_cr3 == 0 || roots.generation.is_multiple_of(2) {
                break;
            }
        }
        Ok(roots)
    }

    pub(super) fn walk_once(
        &mut self,
        ports: &mut Ports<'_>,
        roots: &Roots,
    ) -> Result<Walked, Error> {
        self.report.structure.walks += 1;
        if self.roots.is_none() {
            self.expect_width(ports, roots)?;
        }
        let shape = Shape::new(self.width, roots, ports.m2p.frames())?;
        let reach = self.width.leaves(self.reach_without_leaves());
        let copies = &mut self.layout.copies;
        let frames = self.domain_frames;
        Walk::new(ports.p2m, ports.m2p, copies, shape, roots.pfn_count, frames, reach).run()
    }

    pub(super) fn walk_failed(&mut self, error: Error) -> Result<(), Error> {
        let doubt = match error {
            // Nothing was ever followed, and nothing is there to follow.
            Error::Roots { .. } | Error::Width { .. } if self.roots.is_none() => return Err(error),
            _ if self.report.stage.is_suspended() => return Err(error),
            Error::Roots { .. } => Doubt::Roots,
            // A table that is taken out of use and written as data, while the walk reads it.
            _ => Doubt::Walk,
        };
        if self.doubts.running(doubt) >= self.config.doubt_rounds_max {
            return Err(error); // the doubt's own error would hide the frame that it is about
        }
        self.doubt_all(doubt);
        self.report.blind = true;
        Ok(())
    }

    /// Owes a range that something is not known of. Where the shadow has no frame there is no page to
    /// doubt, and entries are compared whatever else is known.
    pub(super) fn owe_doubtful(&mut self, pfns: Range<u64>) {
        let leaves = self.width.leaf_of(Pfn(pfns.start)).0..self.width.leaves(pfns.end);
        let mut barren = Barren::new(self.machine_frames);
        for leaf in (leaves.start..leaves.end.min(self.layout.tracked())).map(LeafIndex) {
            if barren.has(&self.shadow.base(leaf), self.width) {
                continue;
            }
            let first = self.width.first_pfn(leaf).0;
            let last = first + self.width.entries() as u64;
            self.resend.mark_range(first.max(pfns.start)..last.min(pfns.end), Cause::Doubt);
        }
    }

    /// Everything is owed.
    pub(super) fn doubt_all(&mut self, doubt: Doubt) {
        self.doubts.mark(doubt);
        self.owe_doubtful(0..self.layout.pfns());
    }

    pub(super) fn take_over(&mut self, ports: &mut Ports<'_>, walked: Walked, roots: &Roots) {
        let reach = self.reach_pfns();
        let first = self.roots.is_none();
        let changes = self.layout.install(walked, roots.pfn_count, ports.p2m, ports.m2p, reach);
        self.roots = Some(*roots);
        self.resize(&changes, ports.m2p.frames());
        if self.config.rewalk == Rewalk::EveryRound {
            // Nobody sends, so that no page is found under another pfn: the m2p is asked for each part.
            for part in 0..self.layout.holders.len() {
                self.part_moved(ports, part);
            }
        }
        self.report.leaves.fresh += if first { 0 } else { changes.fresh };
        self.report.leaves.dropped += changes.dropped;
        for leaf in changes.repointed {
            self.pend(leaf, Cause::Structure);
        }
        for leaf in changes.grown {
            self.pend(leaf, if first { Cause::First } else { Cause::Growth });
        }
    }

    /// Fits everything that is kept per pfn to the new count. What fell away has no frame any more.
    pub(super) fn resize(&mut self, changes: &Changes, machine_frames: u64) {
        let (tracked, pfns) = (self.layout.tracked(), self.layout.pfns());
        self.fall_away(pfns..changes.pfns_before, machine_frames);
        if pfns > changes.pfns_before && self.width.slot_of(Pfn(changes.pfns_before)) > 0 {
            // The last leaf was cut inside: its other entries are the guest's now.
            self.pend(self.width.leaf_of(Pfn(changes.pfns_before)), Cause::Growth);
        }
        self.sent.cover(pfns);
        self.handed.cover(pfns.next_multiple_of(64));
        self.shadow.resize(tracked);
        self.offers.cover(tracked);
        self.owners.cover(tracked);
        self.resend.resize(pfns);
        self.pending.resize(tracked);
    }

    /// These pfns have no frame any more. Returns how many entries and lines of sets were looked at: nothing of holes, and
    /// once of a leaf without frames that stands at many positions.
    fn fall_away(&mut self, pfns: Range<u64>, machine_frames: u64) -> u64 {
        if pfns.is_empty() {
            return 0;
        }
        let (mut looks, mut populated) = (0, 0);
        let mut barren = Barren::new(machine_frames);
        let mut copy = Leaf::default();
        let leaves = self.width.leaf_of(Pfn(pfns.start)).0..self.width.leaves(pfns.end);
        for leaf in leaves.map(LeafIndex) {
            let base = self.shadow.base(leaf);
            if barren.has(&base, self.width) {
                continue;
            }
            base.decode(self.width, &mut copy);
            let first = self.width.first_pfn(leaf).0;
            let whole = first..first + self.width.entries() as u64;
            for pfn in whole.start.max(pfns.start)..whole.end.min(pfns.end) {
                looks += 1;
                let entry = copy.entry(self.width, (pfn - first) as usize);
                if !entry.claim(self.width).names_nothing(machine_frames) {
                    self.fallen.push((Pfn(pfn), entry));
                    populated += u64::from(!self.sent.is_foreign(Pfn(pfn)));
                }
                let observed = entry.names_frame(self.width, machine_frames);
                self.observed_frames = self.observed_frames.saturating_sub(u64::from(observed)); // of a migration it is 0
            }
        }
        looks += barren.looks();
        // Who only observes has settled nothing.
        looks += self.sent.fall_away(&pfns, populated.min(self.sent.populated()));
        self.cut_shadow(pfns);
        looks
    }

    /// Of a leaf that is cut inside and stays the entries of these pfns are invalid from now on.
    fn cut_shadow(&mut self, pfns: Range<u64>) {
        let end = pfns.end.min(self.layout.tracked() << self.width.entry_bits());
        let cut: Vec<_> = (pfns.start..end).map(|pfn| (Pfn(pfn), Entry::INVALID)).collect();
        self.shadow.update(&cut);
    }
}

/// Whether a walk lies within one even generation and one set of roots.
fn is_stable(walked: &Walked, before: &Roots, after: &Roots) -> bool {
    match walked.shape.kind {
        Kind::Linear => {
            before.generation.is_multiple_of(2)
                && before.generation == after.generation
                && (before.p2m_cr3, before.p2m_vaddr) == (after.p2m_cr3, after.p2m_vaddr)
        }
        Kind::Tree => {
            after.p2m_cr3 == before.p2m_cr3 && before.frame_list_list == after.frame_list_list
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::frame::Width;
    use crate::layout::tests::layout_of;
    use crate::sent::Footing;

    #[test]
    fn reach_grows_with_the_frames_that_are_held_and_the_leaves_that_are_found() {
        let mut tracker = Tracker::new(Config::default(), Width::W32).expect("no threads");
        assert_eq!(tracker.reach_pfns(), 1 << 27);
        // Eight positions for each of 17,000 leaves, some of which stand twice.
        let leaves: Vec<_> = (0..17_005).map(|leaf| Mfn(leaf % 17_000)).collect();
        tracker.layout = layout_of(Width::W32, &leaves, 17_005, Mfn(0));
        assert_eq!(tracker.reach_pfns(), 8 * 17_000 * 1024);
        tracker.domain_frames = 1 << 24;
        assert_eq!(tracker.reach_pfns(), 16 << 24);
    }

    /// A leaf that no frame of a machine of `MACHINE` is named by, at every position of 2^27 pfns; at position 0, and at
    /// the last one, what has to be noticed when it falls away.
    #[test]
    fn what_falls_away_costs_what_was_there() {
        const MACHINE: u64 = 1 << 20;
        let positions = 1_u64 << 18;
        for words in [0, 0x9e37_79b9] {
            let mut tracker = Tracker::new(Config::default(), Width::W64).expect("no threads");
            tracker.shadow.resize(positions);
            tracker.sent.cover(positions << 9);
            let mut barren = Leaf::HOLE;
            for slot in 0..512 {
                barren.words[slot as usize] = 1 << 62 | (slot + slot * words) & 0xffff_ffff;
            }
            let barren = Arc::new(barren);
            for leaf in (0..positions).filter(|leaf| leaf % 3 > 0).map(LeafIndex) {
                tracker.shadow.install_shared(&[leaf], &barren);
            }
            let last = Pfn((positions << 9) - 1);
            for pfn in [Pfn(510), Pfn(511), Pfn(1024), last] {
                tracker.shadow.set(pfn, Entry(7 + pfn.0 % 5));
                tracker.sent.hold(pfn);
                tracker.sent.accepted(pfn, true, true, Footing::Stale);
            }
            tracker.sent.frameless(Pfn(5 << 9), false, true);
            tracker.layout = layout_of(Width::W64, &[Mfn(7)], 1, Mfn(7));
            let looks = tracker.fall_away(511..positions << 9, MACHINE);
            // Leaves that are cut or have frames, twice at most; and once the one that stands everywhere.
            assert!(looks <= 7 * 512, "{looks} looks");
            let fallen: Vec<_> = tracker.fallen.iter().map(|&(pfn, _)| pfn).collect();
            assert_eq!(fallen, [Pfn(511), Pfn(1024), last]);
            assert_eq!(tracker.sent.gone(), [Pfn(511), Pfn(1024), last]);
            assert_eq!((tracker.sent.stale_pfns(), tracker.sent.foreign_pfns()), (1, 0));
            assert_eq!(tracker.sent.take_tables(), [Pfn(510)]);
            let cut = [510, 511].map(|pfn| tracker.shadow.entry(Pfn(pfn)));
            assert_eq!(cut, [Entry(7), Entry::INVALID]);
        }
    }

    #[test]
    fn a_structure_that_does_not_come_to_rest_is_named_by_its_root() {
        let mut tracker = Tracker::new(Config::default(), Width::W64).expect("no threads");
        let named = |tracker: &Tracker| match tracker.unstable() {
            Error::Structure { level, mfn, cause: StructureCause::Unstable, .. } => (level, mfn),
            other => panic!("{other}"),
        };
        assert_eq!(named(&tracker), (0, Mfn(0)));
        tracker.layout = layout_of(Width::W64, &[Mfn(7)], 1, Mfn(7));
        assert_eq!(named(&tracker), (2, Mfn(1 << 20)));
    }
}
