// SPDX-License-Identifier: MIT OR Apache-2.0
//! A migration: its rounds while the guest runs, checkpoints, the final round, cancellation, over a transport that is lent.
//! Not here: the steps of a round (`round`), what is owed (`tracker`), what is done about one pfn (`resolve`).
//! Units: rounds; pfns owed are in the resend bitmap, in flight, postponed or waiting, never nowhere.
//! Threads: one owner, stepped by its caller; no clock.
//! Source: `docs/design.md`, section 3: laws 3, 5 and 7.

use std::collections::BTreeMap;

use crate::batch::Batch;
use crate::cause::CauseSet;
use crate::config::{Config, Verify};
use crate::error::Error;
use crate::frame::{Entry, Mfn, Pfn, Width};
use crate::port::{Deferral, FrameList, Phase, Ports};
use crate::report::{RoundReport, Stage};
use crate::round::Step;
use crate::shadow::ShadowBytes;
use crate::tracker::{Tracker, phase};

/// Pfns in one call of `Transport::gone`.
const GONE_PFNS_MAX: usize = 65_536;

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
    /// In flight.
    pub(crate) batch: Batch,
    /// Where the round stands.
    pub(crate) step: Step,
    /// The guest was suspended for a round, and may have resumed since.
    pub(crate) was_suspended: bool,
    pub(crate) previous: Option<RoundReport>,
    /// A round was begun that has not ended.
    pub(crate) unended: bool,
    state: State,
    /// Switched on by us.
    log_on: bool,
}

impl Migration {
    /// Switches log-dirty on and prepares a migration. The first call of [`Migration::round`] takes the
    /// first copy.
    ///
    /// # Errors
    /// Log-dirty refused, or the pool can't be started; log-dirty is then off.
    pub fn start(config: Config, ports: &mut Ports<'_>) -> Result<Self, Error> {
        let mut migration = Self::attach(config, ports.p2m.width())?;
        ports.log_dirty.enable().map_err(Error::port("log-dirty"))?;
        migration.log_on = true;
        Ok(migration)
    }

    /// Prepares a migration whose log-dirty is the caller's: on, and empty when it was switched on, before the
    /// first round.
    ///
    /// # Errors
    /// The pool can't be started, or a kernel or a form is asked for that is not there.
    pub fn attach(config: Config, width: Width) -> Result<Self, Error> {
        Ok(Self {
            tracker: Tracker::new(config, width)?,
            waiting: BTreeMap::new(),
            postponed: BTreeMap::new(),
            cleared: BTreeMap::new(),
            #[cfg(debug_assertions)]
            accepted: crate::invariant::Accepted::default(),
            batch: Batch::default(),
            step: Step::Closed,
            was_suspended: false,
            previous: None,
            unended: false,
            state: State::Live,
            log_on: false,
        })
    }

    /// One round while the guest runs: takes log-dirty, finds what is owed, sends all of it once.
    ///
    /// # Errors
    /// Any of [`Error`]. Nothing that was owed is lost: the round may be repeated, or the migration
    /// cancelled.
    pub fn round(&mut self, ports: &mut Ports<'_>) -> Result<RoundReport, Error> {
        self.expect_live("round")?;
        self.run_round(ports, Stage::Live)
    }

    /// A round of a suspended guest that will go on: ends at a consistent point of the destination.
    ///
    /// # Errors
    /// Any of [`Error`]; the destination's last consistent point is then still the one before.
    pub fn checkpoint(&mut self, ports: &mut Ports<'_>) -> Result<RoundReport, Error> {
        self.expect_live("checkpoint")?;
        self.run_round(ports, Stage::Checkpoint)
    }

    /// The final round of a suspended guest. Every mapping is given back when it returns well, and
    /// log-dirty is off, unless the report says that it could not be: then [`Migration::cancel`] tries again.
    ///
    /// # Errors
    /// Any of [`Error`]; call [`Migration::cancel`] then, and let the source guest run on.
    pub fn finish(&mut self, ports: &mut Ports<'_>) -> Result<RoundReport, Error> {
        self.expect_live("finish")?;
        let mut report = self.run_round(ports, Stage::Final)?;
        // The destination is complete: an error now would bring the source back to life beside it.
        report.log_left_on = self.switch_off(ports).is_err();
        Ok(report)
    }

    /// All steps of a round, over the transport.
    fn run_round(&mut self, ports: &mut Ports<'_>, stage: Stage) -> Result<RoundReport, Error> {
        self.open(ports, stage)?;
        self.look(ports, None)?;
        phase(ports, Phase::Send, |ports| self.send_all(ports))?;
        if stage.is_suspended() {
            phase(ports, Phase::Settle, |ports| self.confirm(ports))?;
        }
        self.end(ports)
    }

    /// Hands every batch to the transport.
    fn send_all(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        while self.next_batch(ports)? {
            if let Err(error) = self.send_batch(ports) {
                self.give_batch_back(ports);
                return Err(error);
            }
        }
        self.tell_frame_list(ports)
    }

    fn send_batch(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        self.tell_frame_list(ports)?;
        let mut answers = Vec::with_capacity(self.batch.pages().len());
        let sent = {
            let view = self.view(&*ports.p2m, ports.m2p, &mut *ports.types);
            ports.transport.send(self.batch.pages(), &view, &mut answers)
        };
        sent.map_err(Error::port("transport"))?;
        self.settle_batch(ports, answers)
    }

    fn tell_frame_list(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        if !self.frame_list_changed() {
            return Ok(());
        }
        let (width, leaves) = (self.tracker.layout.width(), self.frame_list());
        let list = FrameList { width, pfn_count: self.pfn_count(), leaves: &leaves };
        ports.transport.frame_list(list).map_err(Error::port("transport"))?;
        self.frame_list_told();
        Ok(())
    }

    /// The consistent point.
    fn confirm(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        for pfns in self.tracker.sent.gone().chunks(GONE_PFNS_MAX) {
            ports.transport.gone(pfns).map_err(Error::port("transport"))?;
        }
        ports.transport.consistent().map_err(Error::port("transport"))
    }

    /// Ends the migration at any point and leaves the guest as it was: log-dirty off, nothing mapped.
    ///
    /// # Errors
    /// Log-dirty can't be switched off; everything else is given back all the same.
    pub fn cancel(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        self.tracker.release(ports.p2m);
        self.forget_batch();
        self.step = Step::Closed;
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

    /// How much is held against the m2p from the next round on.
    pub const fn set_verify(&mut self, verify: Verify) {
        self.tracker.config.verify = verify;
    }

    /// The round under way, as far as it has come; after its end, the last one.
    #[must_use]
    pub const fn report(&self) -> &RoundReport {
        &self.tracker.report
    }

    /// Why a pfn is owed now; empty if it is not.
    #[must_use]
    pub fn why(&self, pfn: Pfn) -> CauseSet {
        let waiting = self.waiting.get(&pfn).map(|waiting| waiting.causes);
        let postponed = self.postponed.get(&pfn).copied();
        let in_flight = Some(self.batch.why(pfn));
        let elsewhere = [waiting, postponed, in_flight].into_iter().flatten();
        elsewhere.fold(self.tracker.why(pfn), CauseSet::union)
    }

    /// Why a pfn was deferred in the last round.
    #[must_use]
    pub fn deferral(&self, pfn: Pfn) -> Option<Deferral> {
        self.waiting.get(&pfn).map(|waiting| waiting.reason)
    }

    /// Pfns owed now: in the bitmap, in flight, postponed or waiting.
    #[must_use]
    pub fn owed(&self) -> u64 {
        let elsewhere = self.batch.pages().len() + self.waiting.len() + self.postponed.len();
        self.tracker.resend.count() + elsewhere as u64
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

    /// Whether it was neither finished nor cancelled.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    pub(crate) fn expect_live(&self, call: &'static str) -> Result<(), Error> {
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
            || !self.batch.why(pfn).is_empty()
    }

    /// The destination is complete.
    pub(crate) fn finished(&mut self, ports: &mut Ports<'_>) {
        self.state = State::Finished;
        self.tracker.release(ports.p2m);
    }
}
