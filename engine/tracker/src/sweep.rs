// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sweeps over all that is owed: pages first, then the tables that name them; of a guest that stands still until all is settled.
//! Not here: a batch (`batch`), the steps around it (`round`).
//! Units: sweeps; pfns owed are in the resend bitmap, in flight, postponed or waiting, never nowhere.
//! Threads: one owner, stepped by its caller.
//! Source: `docs/design.md`, section 3: laws 3, 5 and 7.

use crate::cause::Cause;
use crate::doubt::Doubt;
use crate::error::{EntryCause, Error, StructureCause};
#[cfg(debug_assertions)]
use crate::frame::Entry;
use crate::frame::{FrameType, LeafIndex, Pfn};
use crate::migration::Migration;
use crate::port::{Deferral, P2mSource, Ports, QUERY_FRAMES_MAX};

/// Sweeps of the final round that settle nothing before it is an error: transports and hypervisors
/// have transient failures, a guest that stands still has not.
const IDLE_SWEEPS_MAX: u32 = 8;
/// Sweeps of the final round in all.
const SWEEPS_MAX: u32 = 64;
/// Pfns that may wait beyond the number of frames that the domain holds.
const WAITING_SLACK: u64 = 65_536;

/// Where the sending of a round stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sending {
    sweep: Option<Sweep>,
    /// Sweeps begun.
    sweeps: u32,
    /// Sweeps in a row that settled nothing.
    idle: u32,
    /// Pfns settled in this round when the sweep began.
    settled: u64,
}

/// Where one sweep stands.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    from: u64,
    /// Pages first: tables are postponed.
    hold_tables: bool,
}

impl Sweep {
    const PAGES: Self = Self { from: 0, hold_tables: true };
    const TABLES: Self = Self { from: 0, hold_tables: false };
}

impl Migration {
    /// Goes on until there are pages in flight. Returns whether there are.
    pub(crate) fn sweep(
        &mut self,
        ports: &mut Ports<'_>,
        sending: &mut Sending,
    ) -> Result<bool, Error> {
        loop {
            self.expect_no_crowd()?; // before anything is in flight
            let Some(sweep) = &mut sending.sweep else {
                if !self.begin_sweep(ports, sending)? {
                    return Ok(false);
                }
                continue;
            };
            match self.take_batch(ports, sweep.from, sweep.hold_tables)? {
                Some(next) => {
                    sweep.from = next;
                    if !self.batch.pages().is_empty() {
                        return Ok(true);
                    }
                }
                None => {
                    self.owe_postponed();
                    sending.sweep = sweep.hold_tables.then_some(Sweep::TABLES);
                    if sending.sweep.is_none() && self.end_sweep(ports, sending)? {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Begins a sweep over all that is owed. Returns whether there is one to be made.
    fn begin_sweep(&mut self, ports: &mut Ports<'_>, sending: &mut Sending) -> Result<bool, Error> {
        if self.tracker.report.stage.is_suspended() {
            if sending.sweeps == SWEEPS_MAX {
                return Err(self.unsettled(ports.p2m));
            }
            self.tracker.ask_owners(ports);
            self.tracker.rest(ports)?;
        } else {
            if self.tracker.report.blind {
                return Ok(false);
            }
            self.watch_moves(ports);
            self.tracker.ask_owners(ports);
        }
        self.owe_twins();
        sending.sweeps += 1;
        sending.settled = self.settled_pfns();
        sending.sweep = Some(Sweep::PAGES);
        self.follow_fallen(ports);
        Ok(true)
    }

    /// Returns whether that was all: of a guest that runs it is, of one that stands still when nothing is
    /// owed, nothing waits and the structure is at rest.
    fn end_sweep(&mut self, ports: &mut Ports<'_>, sending: &mut Sending) -> Result<bool, Error> {
        if !self.tracker.report.stage.is_suspended() {
            return Ok(true);
        }
        if self.tracker.structure_is_open() {
            self.owe_again(ports)?; // what was put off under it is decided again
            return Ok(false);
        }
        self.refuse_hopeless()?;
        sending.idle = if self.settled_pfns() == sending.settled { sending.idle + 1 } else { 0 };
        if sending.idle > IDLE_SWEEPS_MAX {
            return Err(self.unsettled(ports.p2m));
        }
        self.owe_again(ports)?;
        if self.owed() > 0 || self.tracker.structure_is_open() || self.tracker.owners_are_due() {
            return Ok(false);
        }
        self.watch_moves(ports);
        if self.tracker.sent.vouch() {
            self.tracker.sent.doubt_tables();
            self.owe_tables();
            return Ok(false);
        }
        self.expect_named_leaves(ports.p2m)?;
        self.balance(ports)?;
        Ok(true)
    }

    const fn settled_pfns(&self) -> u64 {
        self.tracker.report.pages.accepted + self.tracker.report.pages.frameless
    }

    /// Marks what earlier rounds left: deferred and postponed pfns, pfns handed back, doubtful tables.
    pub(crate) fn owe_again(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        self.wake();
        self.take_back(ports)?;
        self.owe_tables();
        Ok(())
    }

    /// Waiting and postponed pfns are owed in the bitmap again. Marked first, forgotten second.
    fn wake(&mut self) {
        for (&pfn, waiting) in &self.waiting {
            self.tracker.resend.mark_all(pfn, waiting.causes);
            self.tracker.resend.mark(pfn, Cause::Deferred);
        }
        self.waiting.clear();
        self.owe_postponed();
    }

    fn owe_postponed(&mut self) {
        for (&pfn, causes) in &self.postponed {
            self.tracker.resend.mark_all(pfn, *causes);
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
    pub(crate) fn owe_tables(&mut self) {
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

    pub(crate) fn owe_unlogged(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
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

    /// What was sent although the m2p does not name its pfn: log-dirty does not say when it is written.
    pub(crate) fn owe_unsound(&self) {
        for pfn in self.tracker.sent.unsound() {
            self.tracker.resend.mark(pfn, Cause::Doubt);
        }
    }

    /// Whatever owes a pfn owes the other one that has its frame: the m2p may have gone over to either. While the guest runs
    /// the copy waits, and its twin does not.
    fn owe_twins(&self) {
        let suspended = self.tracker.report.stage.is_suspended();
        for (pfn, twin) in self.tracker.sent.twins() {
            let (first, second) = (self.is_owed(pfn), self.is_owed(twin));
            if second && !first {
                self.tracker.resend.mark(pfn, Cause::Doubt);
            } else if first && !second && suspended {
                self.tracker.resend.mark(twin, Cause::Doubt);
            }
        }
    }

    /// The host's memory for pfns that wait, and for those that were sent against the m2p, is bounded by the domain's frames:
    /// each frame has one pfn.
    pub(crate) fn expect_no_crowd(&self) -> Result<(), Error> {
        let sent = &self.tracker.sent;
        let waiting = (self.waiting.len() as u64).max(sent.contested_pfns());
        let waiting = waiting + sent.stale_pfns() + sent.alias_pfns();
        let domain_frames = self.tracker.domain_frames();
        match self.waiting.keys().copied().chain(sent.unsound()).next() {
            Some(pfn) if waiting > domain_frames.saturating_add(WAITING_SLACK) => {
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
            .filter_map(|(pfn, entry)| Some((pfn, entry.claim(width).named()?)))
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

    /// A guest that stands still does not mend a page table.
    fn refuse_hopeless(&self) -> Result<(), Error> {
        for (&pfn, waiting) in &self.waiting {
            if let Deferral::Table(fault) = waiting.reason {
                return Err(Error::Table { pfn, fault });
            }
        }
        Ok(())
    }

    /// The first pfn that a suspended round could not settle, and the frame that its entry names now.
    fn unsettled(&mut self, p2m: &dyn P2mSource) -> Error {
        if let Some(error) = self.tracker.take_owners_failed() {
            return Error::port("frame types")(error);
        }
        let (pfn, cause) = match self.waiting.iter().next() {
            Some((&pfn, waiting)) => (pfn, EntryCause::Deferred(waiting.reason)),
            None => {
                let first = self.tracker.resend.take(1, 0); // not paid: owed as before
                (first.pfns().first().copied().unwrap_or(Pfn(0)), EntryCause::Restless)
            }
        };
        let entry = self.tracker.layout.entry(p2m, pfn);
        let mfn = entry.and_then(|entry| entry.claim(self.tracker.layout.width()).named());
        Error::Entry { pfn, mfn, cause }
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
}
