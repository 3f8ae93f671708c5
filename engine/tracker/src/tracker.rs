// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracker: takes log-dirty, follows the p2m's structure, compares leaves, and marks what is owed.
//! Not here: sending (`migration`). A caller that sends nothing (`observe`) needs only this.
//! Units: pfns and leaf positions; a round is one taking of log-dirty and all that follows from it.
//! Threads: one owner; the comparison runs on the engine's own pool.
//! Source: order of the steps: `docs/design.md`, laws 1 to 4; `xen-save-path.md` 6.5.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bitmap::PfnBitmap;
use crate::cause::{Cause, CauseSet};
use crate::compare::{Compared, Comparison, Item};
use crate::config::{Config, Rewalk, Verify};
use crate::diff::Kernel;
use crate::doubt::{Doubt, Doubts};
use crate::error::{Error, StructureCause};
use crate::evidence::Evidence;
use crate::frame::{Entry, LeafIndex, Mfn, Pfn, Width};
use crate::layout::{Changes, Kind, Layout, Part, Shape, Walk, Walked};
use crate::leaf::Leaf;
use crate::port::{
    LOG_DIRTY_LEAF_PFNS, P2mSource, Phase, PortError, Ports, QUERY_FRAMES_MAX, Roots,
};
use crate::report::{LeafCounts, RoundReport, Stage};
use crate::resend::ResendBitmap;
use crate::resolve::named_frame;
use crate::sent::Sent;
use crate::shadow::{Shadow, ShadowBytes};
use crate::shard::Shards;

/// Pfns that any guest may reach, however small it is: 512 GiB, a log-dirty bitmap of 16 MiB.
const REACH_PFNS_MIN: u64 = 1 << 27;
/// Walks in one live round before its instability is a doubt.
const WALKS_LIVE: u32 = 8;
/// Reads of the roots while their generation is odd, before a walk is tried all the same.
const ROOTS_READS_MAX: u32 = 64;
/// Walks, and walks with comparisons, of a guest that stands still before the engine gives up.
const WALKS_SUSPENDED: u32 = 4;
/// Looks at the structure in one round: what a comparison finds may call for another.
const LOOKS_LIVE: u32 = 3;
const LOOKS_SUSPENDED: u32 = 16;
/// Leaves compared between two gatherings of results: bounds their memory.
const LEAVES_CHUNK: usize = 16_384;

/// Follows one guest's p2m.
#[derive(Debug)]
pub struct Tracker {
    pub(crate) config: Config,
    width: Width,
    kernel: Kernel,
    shards: Shards,
    pub(crate) layout: Layout,
    pub(crate) shadow: Shadow,
    pub(crate) resend: ResendBitmap,
    pub(crate) sent: Sent,
    pub(crate) doubts: Doubts,
    pub(crate) report: RoundReport,
    /// Entries that the shadow held for pfns that fell away: their frames may have moved.
    pub(crate) fallen: Vec<(Pfn, Entry)>,
    /// Leaves that must be compared before the round can be said to know anything about them.
    pending: BTreeMap<LeafIndex, Cause>,
    evidence: Evidence,
    roots: Option<Roots>,
    domain_frames: u64,
    log: PfnBitmap,
    /// Why log-dirty was lost the last time.
    log_error: Option<PortError>,
    /// Whether the guest offers to take frames by transfer: in this round, and in the one before.
    transfers: (bool, bool),
    rounds: u64,
}

impl Tracker {
    /// Makes a tracker for a guest of this width. Nothing is read yet.
    ///
    /// # Errors
    /// [`Error::Threads`] if the pool can't be started.
    pub fn new(config: Config, width: Width) -> Result<Self, Error> {
        Ok(Self {
            width,
            kernel: config.kernel.unwrap_or_else(Kernel::detect),
            shards: Shards::new(config.threads)?,
            layout: Layout::new(width),
            shadow: Shadow::new(width),
            resend: ResendBitmap::new(0),
            sent: Sent::default(),
            doubts: Doubts::default(),
            report: RoundReport::default(),
            fallen: Vec::new(),
            pending: BTreeMap::new(),
            evidence: Evidence { forced: true, ..Evidence::default() },
            roots: None,
            domain_frames: 0,
            log: PfnBitmap::default(),
            log_error: None,
            transfers: (false, false),
            rounds: 0,
            config,
        })
    }

    /// Why a pfn is owed now; empty if it is not.
    #[must_use]
    pub fn why(&self, pfn: Pfn) -> CauseSet {
        self.resend.why(pfn)
    }

    /// The entry under which a pfn was last accepted.
    #[must_use]
    pub fn shadow_entry(&self, pfn: Pfn) -> Entry {
        self.shadow.entry(pfn)
    }

    /// Tracked pfns: from here on no pfn can have a frame.
    #[must_use]
    pub fn pfns(&self) -> u64 {
        self.layout.pfns()
    }

    /// Memory of the shadow by form.
    #[must_use]
    pub fn shadow_bytes(&self) -> ShadowBytes {
        self.shadow.bytes()
    }

    /// The p2m may have been rebuilt without a sign (the guest resumed): walk anew in the next round.
    pub fn distrust_structure(&mut self) {
        self.evidence.forced = true;
        self.layout.copies.clear();
    }

    /// One round without sending: everything that is found is taken for accepted at once, as seen.
    /// Before the pfns are forgotten, `each` hears of every one that was owed, with its causes.
    ///
    /// # Errors
    /// Any of [`Error`]; the round may be repeated.
    pub fn observe(
        &mut self,
        ports: &mut Ports<'_>,
        mut each: impl FnMut(Pfn, CauseSet),
    ) -> Result<RoundReport, Error> {
        self.begin_round(Stage::Live);
        self.scan(ports, true)?;
        let mut from = 0;
        loop {
            let mut taken = self.resend.take(usize::MAX, from);
            if taken.pages().is_empty() {
                break;
            }
            for index in 0..taken.pages().len() {
                let owed = taken.pages()[index];
                each(owed.pfn, owed.causes);
                self.report.pages.accepted += 1;
                taken.pay(index);
            }
            from = taken.next();
        }
        self.end_round()
    }

    /// Gives all mappings back.
    pub fn release(&mut self, p2m: &mut dyn P2mSource) {
        self.layout.release(p2m);
    }

    pub(crate) fn begin_round(&mut self, stage: Stage) {
        self.report = RoundReport {
            round: self.rounds,
            stage,
            kernel: self.kernel.name(),
            threads: self.shards.threads(),
            ..RoundReport::default()
        };
    }

    /// Ends the round: a doubt that ran for too long ends a live migration here.
    pub(crate) fn end_round(&mut self) -> Result<RoundReport, Error> {
        self.rounds += 1;
        self.report.doubts = self.doubts.counts();
        let rounds = self.config.doubt_rounds_max;
        let persistent = self.doubts.end_round(rounds);
        match persistent {
            Some(doubt) if !self.report.stage.is_suspended() => {
                let source = self.log_error.take().filter(|_| doubt == Doubt::LogLost);
                Err(Error::Doubt { doubt, rounds: self.doubts.running(doubt), source })
            }
            _ => Ok(self.report.clone()),
        }
    }

    /// Takes log-dirty and marks everything that follows from it.
    pub(crate) fn scan(&mut self, ports: &mut Ports<'_>, adopt_all: bool) -> Result<(), Error> {
        self.take_log(ports)?;
        self.look(ports, adopt_all)?;
        self.report.pfn_count = self.layout.pfn_count();
        self.count_leaves();
        Ok(())
    }

    // --- log-dirty -----------------------------------------------------------------------------

    fn take_log(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        let before = phase(ports, Phase::Roots, |ports| {
            // A frame may have come back since the last round: then, or now, the offer was there.
            let offers = ports.unlogged.accepts_transfer();
            let offers = offers.map_err(Error::port("unlogged writers"))?;
            self.transfers = (offers, self.transfers.0);
            let frames = ports.p2m.domain_frames().map_err(Error::port("p2m source"))?;
            self.domain_frames = self.domain_frames.max(frames);
            ports.p2m.roots().map_err(Error::port("p2m source"))
        })?;
        if self.rounds > 0 || self.roots.is_some() {
            phase(ports, Phase::Clean, |ports| self.clean(ports, &before))?;
        } else {
            // The log was switched on just now: the first copy needs no bitmap.
            self.log.reset(0);
        }
        let after = ports.p2m.roots().map_err(Error::port("p2m source"))?;
        self.weigh(&after);
        Ok(())
    }

    /// Pfns that a request for the log has to cover: the guest's own count as far as it is credible,
    /// everything tracked, and every pfn that holds a frame of the p2m.
    fn span(&self, roots: &Roots) -> u64 {
        roots
            .pfn_count
            .min(self.reach_pfns())
            .max(self.layout.pfns())
            .max(self.layout.holders.plane().pfns())
            .next_multiple_of(LOG_DIRTY_LEAF_PFNS)
    }

    fn clean(&mut self, ports: &mut Ports<'_>, roots: &Roots) -> Result<(), Error> {
        let span = self.span(roots);
        self.log.reset(span);
        let mut lost = false;
        let read = match ports.log_dirty.clean(&mut self.log) {
            Ok(read) => read.min(span),
            Err(error) => {
                // Some errors are sticky until log-dirty is switched off; either way its marks are
                // not to be trusted any more. What was read before the error still counts.
                lost = true;
                self.log_error = Some(error);
                ports.log_dirty.disable().map_err(Error::port("log-dirty"))?;
                ports.log_dirty.enable().map_err(Error::port("log-dirty"))?;
                0
            }
        };
        self.report.log_dirty_pfns = self.log.count();
        self.resend.mark_words(0, self.log.words(), Cause::LogDirty);
        // Upper frames lead to everything else and are few: the m2p is asked for each. A blind part's
        // writes were not marked anywhere so far.
        for part in self.layout.holders.to_ask() {
            self.part_moved(ports, part);
        }
        let mut parts = self.layout.holders.dirty(&self.log);
        if read < span {
            self.resend.mark_range(read..span, Cause::Doubt);
            // What was not read may be dirty: so may every part of the p2m there.
            let unread = |part: &Part| self.layout.holders.of(*part).is_some_and(|p| p.0 >= read);
            parts.extend(self.layout.holders.all().filter(unread));
            self.doubts.mark(if lost { Doubt::LogLost } else { Doubt::ShortBitmap });
        }
        self.suspect(&parts);
        if self.config.verify == Verify::Full {
            for leaf in (0..self.layout.tracked()).map(LeafIndex) {
                self.pending.entry(leaf).or_insert(Cause::Doubt);
            }
        }
        Ok(())
    }

    /// Takes dirty parts of the p2m apart: leaves are to be compared, upper frames to be read again.
    fn suspect(&mut self, parts: &[Part]) {
        for &part in parts {
            match part {
                Part::Table(level, mfn) => {
                    self.layout.copies.remove(&(level, mfn));
                    self.evidence.dirty += 1;
                }
                Part::Leaf(mfn) => {
                    let positions = self.layout.positions(mfn);
                    if positions.is_empty() {
                        // Relied on by the walk, tracked nowhere.
                        self.evidence.dirty += 1;
                    }
                    for leaf in positions {
                        self.pend(leaf, Cause::Entry);
                    }
                }
            }
        }
    }

    fn pend(&mut self, leaf: LeafIndex, cause: Cause) {
        let pending = self.pending.entry(leaf).or_insert(cause);
        // A new or re-pointed leaf stays one, whatever else happens to it.
        if *pending == Cause::Entry {
            *pending = cause;
        }
    }

    // --- structure -----------------------------------------------------------------------------

    /// Holds the roots of now against those of the last walk.
    fn weigh(&mut self, now: &Roots) {
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

    fn reach_pfns(&self) -> u64 {
        let leaves = self.domain_frames.min(u64::MAX >> self.width.entry_bits());
        REACH_PFNS_MIN.max(leaves << self.width.entry_bits())
    }

    /// Follows structure and entries until nothing new turns up.
    fn look(&mut self, ports: &mut Ports<'_>, adopt_all: bool) -> Result<(), Error> {
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

    fn unstable(&self) -> Error {
        let (level, mfn) = self.layout.shape().map_or((0, Mfn(0)), |s| (s.levels, s.root));
        Error::Structure { level, mfn, pfn: Pfn(0), cause: StructureCause::Unstable }
    }

    /// The entry of a pfn that holds frames of the p2m changed: those frames may be elsewhere now.
    fn entry_of_part_changed(&mut self, ports: &Ports<'_>, pfn: Pfn) {
        self.evidence.entries += 1;
        for part in self.layout.holders.at(pfn).to_vec() {
            self.part_moved(ports, part);
        }
    }

    /// Asks anew who holds a part. Writes that were marked under another pfn were not seen: what the
    /// part says is read again.
    pub(crate) fn part_moved(&mut self, ports: &Ports<'_>, part: Part) {
        if !self.layout.hold(part, ports.m2p, self.reach_pfns()) {
            return;
        }
        self.report.structure.moved += 1;
        match part {
            Part::Leaf(mfn) => {
                let positions = self.layout.positions(mfn);
                self.evidence.entries += u64::from(positions.is_empty());
                for leaf in positions {
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
                let owed: Vec<_> = taken.pages().iter().map(|owed| owed.pfn).collect();
                from = taken.next();
                drop(taken); // only looked at: it stays owed
                if owed.is_empty() {
                    break;
                }
                for pfn in owed {
                    let entry = self.layout.entry(ports.p2m, pfn);
                    if let Some(mfn) = entry.and_then(|entry| named_frame(entry, self.width)) {
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
    fn walk(&mut self, ports: &mut Ports<'_>) -> Result<bool, Error> {
        let suspended = self.report.stage.is_suspended();
        self.evidence.report(&mut self.report.structure);
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
                    if stable {
                        break;
                    }
                }
                Err(error @ Error::Reach { .. }) => return Err(error),
                Err(error) => found = Some(Err(error)),
            }
        }
        match found {
            Some(Ok((walked, roots, stable))) => {
                self.evidence = Evidence::default();
                self.take_over(ports, walked, &roots);
                if !stable {
                    self.doubt_all(Doubt::Generation);
                }
                Ok(stable)
            }
            Some(Err(error)) => self.walk_failed(error).map(|()| false),
            None => Ok(true),
        }
    }

    /// Reads the roots until their generation is even, as a reader of a seqlock does; not for ever.
    fn even_roots(&self, ports: &mut Ports<'_>, suspended: bool) -> Result<Roots, Error> {
        let mut roots = Roots::default();
        for _ in 0..ROOTS_READS_MAX {
            roots = ports.p2m.roots().map_err(Error::port("p2m source"))?;
            if suspended || roots.p2m_cr3 == 0 || roots.generation.is_multiple_of(2) {
                break;
            }
        }
        Ok(roots)
    }

    fn walk_once(&mut self, ports: &mut Ports<'_>, roots: &Roots) -> Result<Walked, Error> {
        self.report.structure.walks += 1;
        let shape = Shape::new(self.width, roots, ports.m2p.frames())?;
        let reach = self.width.leaves(self.reach_pfns());
        let copies = &mut self.layout.copies;
        let frames = self.domain_frames;
        Walk::new(ports.p2m, ports.m2p, copies, shape, roots.pfn_count, frames, reach).run()
    }

    fn walk_failed(&mut self, error: Error) -> Result<(), Error> {
        if self.report.stage.is_suspended() || self.roots.is_none() {
            return Err(error);
        }
        let doubt = match error {
            Error::Roots { .. } => Doubt::Roots,
            _ => Doubt::Walk,
        };
        if self.doubts.running(doubt) >= self.config.doubt_rounds_max {
            return Err(error); // the doubt's own error would hide the frame that it is about
        }
        self.doubt_all(doubt);
        self.report.blind = true;
        Ok(())
    }

    /// Everything is owed.
    fn doubt_all(&mut self, doubt: Doubt) {
        self.doubts.mark(doubt);
        self.resend.mark_range(0..self.layout.pfns(), Cause::Doubt);
    }

    fn take_over(&mut self, ports: &mut Ports<'_>, walked: Walked, roots: &Roots) {
        let reach = self.reach_pfns();
        let first = self.roots.is_none();
        let changes = self.layout.install(walked, roots.pfn_count, ports.p2m, ports.m2p, reach);
        if self.config.rewalk == Rewalk::EveryRound {
            self.layout.hold_all(ports.m2p, reach);
        }
        self.roots = Some(*roots);
        self.resize(&changes);
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
    fn resize(&mut self, changes: &Changes) {
        let (tracked, pfns) = (self.layout.tracked(), self.layout.pfns());
        for pfn in pfns..changes.pfns_before {
            let pfn = Pfn(pfn);
            let entry = self.shadow.entry(pfn);
            if entry != Entry::INVALID {
                self.fallen.push((pfn, entry));
                if pfn.0 < tracked << self.width.entry_bits() {
                    self.shadow.set(pfn, Entry::INVALID);
                }
            }
            self.sent.frameless(pfn, false);
        }
        if pfns > changes.pfns_before && changes.pfns_before > 0 {
            // The last leaf may have been cut inside: its other entries are the guest's now.
            self.pend(self.width.leaf_of(Pfn(changes.pfns_before - 1)), Cause::Growth);
        }
        self.sent.cover(pfns);
        self.shadow.resize(tracked);
        self.resend.resize(pfns);
        self.pending.retain(|leaf, _| leaf.0 < tracked);
    }

    // --- leaves --------------------------------------------------------------------------------

    /// Maps what is not mapped. A leaf that can't be: all its pfns are owed.
    fn map(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        if self.layout.map(ports.p2m) == 0 || !self.report.stage.is_suspended() {
            return Ok(());
        }
        match self.layout.first_unmapped() {
            Some((leaf, mfn, fault)) => Err(Error::Structure {
                level: 0,
                mfn,
                pfn: self.width.first_pfn(leaf),
                cause: StructureCause::Unreadable(fault),
            }),
            None => Ok(()),
        }
    }

    /// Compares all pending leaves. Returns the changed pfns that hold frames of the p2m.
    fn compare(&mut self, ports: &mut Ports<'_>, adopt_all: bool) -> Result<Vec<Pfn>, Error> {
        let items: Vec<_> =
            self.pending.iter().map(|(&leaf, &cause)| Item { leaf, cause }).collect();
        let mut holders = Vec::new();
        for chunk in items.chunks(LEAVES_CHUNK) {
            let comparison = Comparison {
                kernel: self.kernel,
                layout: &self.layout,
                shadow: &self.shadow,
                resend: &self.resend,
                p2m: ports.p2m,
                m2p: ports.m2p,
                log: &self.log,
                adopt_all,
                equal_owed: (self.transfers.0 || self.transfers.1) && !adopt_all,
                check_m2p: self.report.stage.is_suspended() || self.config.verify == Verify::Full,
            };
            let found = self.shards.map(chunk, |item| comparison.run(item));
            for compared in found {
                self.gather(compared, &mut holders)?;
            }
        }
        Ok(holders)
    }

    fn gather(&mut self, compared: Compared, holders: &mut Vec<Pfn>) -> Result<(), Error> {
        let Item { leaf, cause } = compared.item;
        if let Some((mfn, positions)) = compared.aliased {
            let pfn = self.width.first_pfn(leaf);
            let cause = StructureCause::Aliased(positions);
            return Err(Error::Structure { level: 0, mfn, pfn, cause });
        }
        if compared.unmapped.is_some() {
            self.doubts.mark(Doubt::LeafUnmapped);
            let first = self.width.first_pfn(leaf).0;
            self.resend.mark_range(first..first + self.width.entries() as u64, Cause::Doubt);
            return Ok(()); // stays pending
        }
        self.pending.remove(&leaf);
        self.report.leaves.compared += 1;
        self.report.leaves.unchanged += u64::from(compared.equal && cause == Cause::Entry);
        self.report.entries.add(&compared.counts);
        holders.extend(compared.holders);
        if compared.equal && compared.hole {
            self.shadow.compact(leaf);
        }
        if let Some(copy) = compared.adopt {
            let copy = self.shared_copy(leaf, copy);
            self.shadow.install(leaf, &copy);
        }
        Ok(())
    }

    /// Frames that the domain holds, or held when it held most.
    pub(crate) const fn domain_frames(&self) -> u64 {
        self.domain_frames
    }

    /// The copy that another position of the frame already has, if it says the same: aliases cost one.
    fn shared_copy(&self, leaf: LeafIndex, copy: Arc<Leaf>) -> Arc<Leaf> {
        let frame = self.layout.frame(leaf).filter(|_| self.layout.is_shared(leaf));
        let first = frame.and_then(|mfn| self.layout.first_position(mfn));
        let shared = first.and_then(|first| self.shadow.copy(first)).filter(|old| ***old == *copy);
        shared.map_or(copy, Arc::clone)
    }

    fn count_leaves(&mut self) {
        let dirty =
            self.layout.holders.marked(&self.log).into_iter().filter_map(|part| match part {
                Part::Leaf(mfn) => Some(self.layout.listed(mfn)),
                Part::Table(..) => None,
            });
        self.report.leaves = LeafCounts {
            tracked: self.layout.tracked(),
            distinct: self.layout.distinct(),
            dirty: dirty.sum(),
            ..self.report.leaves
        };
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

/// Tells the observer of a phase, also when it ends in an error.
pub(crate) fn phase<'p, T>(
    ports: &mut Ports<'p>,
    phase: Phase,
    run: impl FnOnce(&mut Ports<'p>) -> Result<T, Error>,
) -> Result<T, Error> {
    ports.observer.begin(phase);
    let result = run(ports);
    ports.observer.end(phase);
    result
}
