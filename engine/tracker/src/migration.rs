// SPDX-License-Identifier: MIT OR Apache-2.0
//! The migration loop: rounds while the guest runs, checkpoints, the final round, cancellation.
//! Not here: what is owed (`tracker`), what is done about one pfn (`resolve`), one batch (`batch`).
//! Units: rounds; pfns owed are in the resend bitmap, in flight, postponed or waiting, never nowhere.
//! Threads: one owner, stepped by its caller; no clock.
//! Source: `docs/design.md`, section 3: laws 3, 5 and 7.

use std::collections::BTreeMap;

use crate::cause::{Cause, CauseSet};
use crate::config::Config;
use crate::doubt::Doubt;
use crate::error::{EntryCause, Error, StructureCause};
use crate::frame::{Entry, FrameType, LeafIndex, Mfn, Pfn};
use crate::port::{Deferral, FrameList, P2mSource, Phase, Ports, QUERY_FRAMES_MAX};
use crate::report::{RoundReport, Stage};
use crate::resolve::named_frame;
use crate::shadow::ShadowBytes;
use crate::tracker::{Tracker, phase};

/// Sweeps of the final round that settle nothing before it is an error: transports and hypervisors
/// have transient failures, a guest that stands still has not.
const IDLE_SWEEPS_MAX: u32 = 8;
/// Sweeps of the final round in all.
const SWEEPS_MAX: u32 = 64;
/// Pfns in one call of `Transport::gone`.
const GONE_PFNS_MAX: usize = 65_536;

/// Pfns that may wait beyond the number of frames that the domain holds.
const WAITING_SLACK: u64 = 65_536;

/// A pfn that could not be sent in its round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) reason: Deferral,
    pub(crate) causes: CauseSet,
}

/// Where a migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Live,
    Finished,
    Cancelled,
}

/// One guest's migration.
#[derive(Debug)]
pub struct Migration {
    pub(crate) tracker: Tracker,
    /// Deferred until the next round.
    pub(crate) waiting: BTreeMap<Pfn, Waiting>,
    /// Page tables put off to the second half of the round, when most of what they name was sent.
    pub(crate) postponed: BTreeMap<Pfn, CauseSet>,
    /// PTEs made not present by policy, by table.
    pub(crate) cleared: BTreeMap<Pfn, Vec<Mfn>>,
    #[cfg(debug_assertions)]
    pub(crate) accepted: crate::invariant::Accepted,
    state: State,
    log_on: bool,
    previous: Option<RoundReport>,
}

impl Migration {
    /// Switches log-dirty on and prepares a migration. The first call of [`Migration::round`] takes the
    /// first copy.
    ///
    /// # Errors
    /// Log-dirty refused, or the pool can't be started; log-dirty is then off.
    pub fn start(config: Config, ports: &mut Ports<'_>) -> Result<Self, Error> {
        let tracker = Tracker::new(config, ports.p2m.width())?;
        ports.log_dirty.enable().map_err(Error::port("log-dirty"))?;
        Ok(Self {
            tracker,
            waiting: BTreeMap::new(),
            postponed: BTreeMap::new(),
            cleared: BTreeMap::new(),
            #[cfg(debug_assertions)]
            accepted: crate::invariant::Accepted::default(),
            state: State::Live,
            log_on: true,
            previous: None,
        })
    }

    /// One round while the guest runs: takes log-dirty, finds what is owed, sends all of it once.
    ///
    /// # Errors
    /// Any of [`Error`]. Nothing that was owed is lost: the round may be repeated, or the migration
    /// cancelled.
    pub fn round(&mut self, ports: &mut Ports<'_>) -> Result<RoundReport, Error> {
        self.expect_live("round")?;
        self.tracker.begin_round(Stage::Live);
        #[cfg(debug_assertions)]
        self.accepted.on_a_machine_of(ports.m2p.frames());
        self.owe_again(ports)?;
        self.tracker.scan(ports, false)?;
        self.tracker.report.pages.owed = self.owed();
        if !self.tracker.report.blind {
            phase(ports, Phase::Send, |ports| {
                self.watch_moves(ports);
                self.tell_frame_list(ports)?;
                self.sweep(ports)
            })?;
        }
        self.end_round()
    }

    /// A round of a suspended guest that will go on: ends at a consistent point of the destination.
    ///
    /// # Errors
    /// Any of [`Error`]; the destination's last consistent point is then still the one before.
    pub fn checkpoint(&mut self, ports: &mut Ports<'_>) -> Result<RoundReport, Error> {
        self.expect_live("checkpoint")?;
        self.settle(ports, Stage::Checkpoint)
    }

    /// The final round of a suspended guest. Every mapping is given back when it returns well, and
    /// log-dirty is off, unless the report says that it could not be: then [`Migration::cancel`] tries again.
    ///
    /// # Errors
    /// Any of [`Error`]; call [`Migration::cancel`] then, and let the source guest run on.
    pub fn finish(&mut self, ports: &mut Ports<'_>) -> Result<RoundReport, Error> {
        self.expect_live("finish")?;
        let mut report = self.settle(ports, Stage::Final)?;
        self.state = State::Finished;
        self.tracker.release(ports.p2m);
        // The destination is complete: an error now would bring the source back to life beside it.
        report.log_left_on = self.switch_off(ports).is_err();
        Ok(report)
    }

    /// Ends the migration at any point and leaves the guest as it was: log-dirty off, nothing mapped.
    ///
    /// # Errors
    /// Log-dirty can't be switched off; everything else is given back all the same.
    pub fn cancel(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        self.tracker.release(ports.p2m);
        if self.state == State::Live {
            self.state = State::Cancelled;
        }
        self.switch_off(ports)
    }

    /// Switches log-dirty off, if that was not done yet.
    fn switch_off(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        if self.log_on {
            ports.log_dirty.disable().map_err(Error::port("log-dirty"))?;
            self.log_on = false;
        }
        Ok(())
    }

    /// Why a pfn is owed now; empty if it is not.
    #[must_use]
    pub fn why(&self, pfn: Pfn) -> CauseSet {
        let waiting = self.waiting.get(&pfn).map(|waiting| waiting.causes);
        let postponed = self.postponed.get(&pfn).copied();
        [waiting, postponed].into_iter().flatten().fold(self.tracker.why(pfn), CauseSet::union)
    }

    /// Why a pfn was deferred in the last round.
    #[must_use]
    pub fn deferral(&self, pfn: Pfn) -> Option<Deferral> {
        self.waiting.get(&pfn).map(|waiting| waiting.reason)
    }

    /// Pfns owed now: in the bitmap, postponed or waiting.
    #[must_use]
    pub fn owed(&self) -> u64 {
        self.tracker.resend.count() + (self.waiting.len() + self.postponed.len()) as u64
    }

    /// Page tables with PTEs that were made not present because they named foreign frames.
    pub fn cleared_ptes(&self) -> impl Iterator<Item = (Pfn, &[Mfn])> {
        self.cleared.iter().map(|(&pfn, frames)| (pfn, frames.as_slice()))
    }

    /// The entry under which a pfn was last accepted.
    #[must_use]
    pub fn shadow_entry(&self, pfn: Pfn) -> Entry {
        self.tracker.shadow_entry(pfn)
    }

    /// Memory of the shadow by form.
    #[must_use]
    pub fn shadow_bytes(&self) -> ShadowBytes {
        self.tracker.shadow_bytes()
    }

    fn expect_live(&self, call: &'static str) -> Result<(), Error> {
        match self.state {
            State::Live => Ok(()),
            State::Finished => Err(Error::Order { call, state: "the migration is finished" }),
            State::Cancelled => Err(Error::Order { call, state: "the migration is cancelled" }),
        }
    }

    pub(crate) fn is_owed(&self, pfn: Pfn) -> bool {
        self.tracker.resend.is_owed(pfn)
            || self.waiting.contains_key(&pfn)
            || self.postponed.contains_key(&pfn)
    }

    // --- what is owed from before ------------------------------------------------------------

    /// Marks what earlier rounds left: deferred and postponed pfns, pfns handed back, doubtful tables.
    fn owe_again(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        self.wake();
        self.take_back(ports)?;
        self.owe_tables();
        Ok(())
    }

    /// Waiting and postponed pfns are owed in the bitmap again. Marked first, forgotten second.
    fn wake(&mut self) {
        for (&pfn, waiting) in &self.waiting {
            for cause in waiting.causes.iter() {
                self.tracker.resend.mark(pfn, cause);
            }
            self.tracker.resend.mark(pfn, Cause::Deferred);
        }
        self.waiting.clear();
        self.owe_postponed();
    }

    fn owe_postponed(&mut self) {
        for (&pfn, causes) in &self.postponed {
            for cause in causes.iter() {
                self.tracker.resend.mark(pfn, cause);
            }
        }
        self.postponed.clear();
    }

    fn take_back(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        let mut returned = Vec::new();
        ports.transport.returned(&mut returned).map_err(Error::port("transport"))?;
        for pfn in returned {
            let known = self.tracker.resend.mark(pfn, Cause::Returned);
            self.tracker.report.pages.returned += u64::from(known);
        }
        Ok(())
    }

    /// A frame moved: whatever was sent as a page table may name its old pfn. While the guest runs,
    /// this is borne for so many rounds; then it is left to the final one.
    fn owe_tables(&mut self) {
        let tracker = &mut self.tracker;
        let live = !tracker.report.stage.is_suspended();
        let patience = tracker.config.doubt_rounds_max;
        if !tracker.sent.tables_in_doubt()
            || live && tracker.doubts.running(Doubt::Tables) >= patience
        {
            return;
        }
        let tables = tracker.sent.take_tables();
        if !tables.is_empty() {
            tracker.doubts.mark(Doubt::Tables);
        }
        for pfn in tables {
            tracker.resend.mark(pfn, Cause::Table);
        }
    }

    fn owe_unlogged(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        let mut pfns = Vec::new();
        ports.unlogged.pfns(&mut pfns).map_err(Error::port("unlogged writers"))?;
        pfns.sort_unstable();
        pfns.dedup();
        for pfn in pfns {
            let known = self.tracker.resend.mark(pfn, Cause::Unlogged);
            self.tracker.report.settled.unlogged += u64::from(known);
        }
        Ok(())
    }

    // --- sending -----------------------------------------------------------------------------

    /// Sends everything that is owed once: pages first, then the tables that name them.
    fn sweep(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        self.follow_fallen(ports);
        for hold_tables in [true, false] {
            let mut from = 0;
            while let Some(next) = self.batch(ports, from, hold_tables)? {
                from = next;
                self.expect_no_crowd()?;
            }
            self.owe_postponed();
        }
        Ok(())
    }

    /// The host's memory for waiting pfns is bounded by the domain's frames: each frame has one pfn.
    fn expect_no_crowd(&self) -> Result<(), Error> {
        let waiting = self.waiting.len() as u64;
        let domain_frames = self.tracker.domain_frames();
        match self.waiting.keys().next() {
            Some(&pfn) if waiting > domain_frames.saturating_add(WAITING_SLACK) => {
                Err(Error::Crowd { pfn, waiting, domain_frames })
            }
            _ => Ok(()),
        }
    }

    /// Frames of pfns that fell away may turn up under others.
    fn follow_fallen(&mut self, ports: &mut Ports<'_>) {
        let width = ports.p2m.width();
        let fallen = std::mem::take(&mut self.tracker.fallen);
        for (pfn, _) in &fallen {
            self.cleared.remove(pfn);
            #[cfg(debug_assertions)]
            self.accepted.note(*pfn, Entry::INVALID);
        }
        let departed: Vec<_> = fallen
            .into_iter()
            .filter_map(|(pfn, entry)| Some((pfn, named_frame(entry, width)?)))
            .collect();
        self.follow_departed(ports, &departed);
    }

    /// Frames that left the domain can't be named by its tables any more.
    fn watch_moves(&mut self, ports: &mut Ports<'_>) {
        for frames in self.tracker.sent.witnesses().chunks(QUERY_FRAMES_MAX) {
            let mut kinds = vec![FrameType::Data; frames.len()];
            if ports.types.query(frames, &mut kinds).is_err() {
                continue; // they stay watched
            }
            for (&frame, kind) in frames.iter().zip(kinds) {
                if kind == FrameType::NotOwned {
                    self.tracker.sent.forget(frame);
                }
            }
        }
    }

    fn tell_frame_list(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        if !self.tracker.layout.list_changed {
            return Ok(());
        }
        let leaves = self.tracker.layout.frame_list();
        let list = FrameList {
            width: self.tracker.layout.width(),
            pfn_count: self.tracker.layout.pfn_count(),
            leaves: &leaves,
        };
        ports.transport.frame_list(list).map_err(Error::port("transport"))?;
        self.tracker.layout.list_changed = false;
        self.tracker.report.structure.frame_lists += 1;
        Ok(())
    }

    // --- the consistent point ----------------------------------------------------------------

    fn settle(&mut self, ports: &mut Ports<'_>, stage: Stage) -> Result<RoundReport, Error> {
        let report = self.settle_round(ports, stage);
        // A guest that resumes rewrites its lists and resets its generation: equal numbers prove
        // nothing. It may resume after an error, too.
        self.tracker.distrust_structure();
        report
    }

    fn settle_round(&mut self, ports: &mut Ports<'_>, stage: Stage) -> Result<RoundReport, Error> {
        self.tracker.begin_round(stage);
        #[cfg(debug_assertions)]
        self.accepted.on_a_machine_of(ports.m2p.frames());
        self.owe_again(ports)?;
        self.owe_unlogged(ports)?;
        self.tracker.scan(ports, false)?;
        phase(ports, Phase::Send, |ports| {
            self.tracker.report.pages.owed = self.owed();
            self.settle_pages(ports)
        })?;
        phase(ports, Phase::Settle, |ports| {
            self.expect_named_leaves(ports.p2m)?;
            self.tell_frame_list(ports)?;
            let gone = self.say_gone(ports)?;
            ports.transport.consistent().map_err(Error::port("transport"))?;
            self.tracker.sent.given_back(&gone); // not before the other side has it
            Ok(())
        })?;
        let settled = &mut self.tracker.report.settled;
        settled.foreign = self.tracker.sent.foreign_pfns();
        settled.m2p_stale = self.tracker.sent.stale_pfns();
        settled.cleared_ptes = self.cleared.values().map(|frames| frames.len() as u64).sum();
        self.end_round()
    }

    /// Sweeps until nothing is owed, nothing waits and the structure is at rest.
    fn settle_pages(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        let mut idle = 0;
        for _ in 0..SWEEPS_MAX {
            self.tracker.rest(ports)?;
            self.tell_frame_list(ports)?;
            let before = self.tracker.report.pages.accepted + self.tracker.report.pages.frameless;
            self.sweep(ports)?;
            let after = self.tracker.report.pages.accepted + self.tracker.report.pages.frameless;
            if self.tracker.structure_is_open() {
                self.owe_again(ports)?; // what was put off under it is decided again
                continue;
            }
            self.refuse_hopeless()?;
            idle = if after == before { idle + 1 } else { 0 };
            if idle > IDLE_SWEEPS_MAX {
                break;
            }
            self.owe_again(ports)?;
            if self.owed() == 0 && !self.tracker.structure_is_open() {
                self.watch_moves(ports);
                if !self.tracker.sent.vouch() {
                    return Ok(());
                }
                self.tracker.sent.doubt_tables();
                self.owe_tables();
            }
        }
        Err(self.unsettled())
    }

    /// A guest that stands still does not mend a page table.
    fn refuse_hopeless(&self) -> Result<(), Error> {
        for (&pfn, waiting) in &self.waiting {
            if let Deferral::Table(fault) = waiting.reason {
                return Err(Error::Table { pfn, fault });
            }
        }
        Ok(())
    }

    /// The first pfn that the final round could not settle.
    fn unsettled(&self) -> Error {
        let (pfn, cause) = match self.waiting.iter().next() {
            Some((&pfn, waiting)) => (pfn, EntryCause::Deferred(waiting.reason)),
            None => {
                let first = self.tracker.resend.take(1, 0); // not paid: owed as before
                (first.pfns().first().copied().unwrap_or(Pfn(0)), EntryCause::Restless)
            }
        };
        Error::Entry { pfn, mfn: None, cause }
    }

    /// The receiver fills in the leaves by their pfns: each must have one.
    fn expect_named_leaves(&self, p2m: &dyn P2mSource) -> Result<(), Error> {
        let layout = &self.tracker.layout;
        match layout.first_unnamed(p2m) {
            None => Ok(()),
            Some((LeafIndex(leaf), mfn)) => Err(Error::Structure {
                level: 0,
                mfn,
                pfn: layout.width().first_pfn(LeafIndex(leaf)),
                cause: StructureCause::Unnamed,
            }),
        }
    }

    fn say_gone(&mut self, ports: &mut Ports<'_>) -> Result<Vec<Pfn>, Error> {
        let gone = self.tracker.sent.gone();
        for pfns in gone.chunks(GONE_PFNS_MAX) {
            ports.transport.gone(pfns).map_err(Error::port("transport"))?;
            self.tracker.report.settled.gone += pfns.len() as u64;
        }
        Ok(gone)
    }

    fn end_round(&mut self) -> Result<RoundReport, Error> {
        let left = self.owed();
        let report = &mut self.tracker.report;
        report.pages.left = left;
        if let Some(previous) = &self.previous {
            let newly = report.log_dirty_pfns + report.entries.beyond_log_dirty;
            let sent = previous.pages.accepted.max(1);
            report.dirty_rate = Some(newly as f64 / sent as f64);
            report.shrinking = Some(report.pages.owed < previous.pages.owed);
        }
        #[cfg(debug_assertions)]
        self.check_invariant();
        let report = self.tracker.end_round()?;
        self.previous = Some(report.clone());
        Ok(report)
    }
}
