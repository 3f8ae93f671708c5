// SPDX-License-Identifier: MIT OR Apache-2.0
//! A migration: a tracker, with ports that read its log and send its batches; they are lent for
//! each call.
//! Not here: the steps of a round (`tracker`).
//! Units: rounds.
//! Threads: one owner, stepped by its caller; no clock.
//! Source: `docs/design.md`, law 7: what is reported at a consistent point, and in which order.

use crate::config::{Config, Verify};
use crate::error::Error;
use crate::log_source::LogSource;
use crate::port::{FrameList, Phase, Ports};
use crate::report::{RoundReport, Stage};
use crate::tracker::{Next, Tracker};

/// Pfns in one call of `Transport::gone`.
const GONE_PFNS_MAX: usize = 65_536;

/// One guest's migration.
#[derive(Debug)]
pub struct Migration {
    tracker: Tracker,
    log: LogSource,
}

impl Migration {
    /// Switches log-dirty on and prepares a migration. The first call of [`Migration::round`] sends
    /// the first copy.
    ///
    /// # Errors
    /// Log-dirty can't be switched on, or the pool can't be started; log-dirty is then off.
    pub fn start(config: Config, ports: &mut Ports<'_>) -> Result<Self, Error> {
        let mut log = LogSource::default();
        let tracker = Tracker::new(config, ports.guest.p2m.width())?;
        log.enable(ports.log_dirty)?;
        Ok(Self { tracker, log })
    }

    /// One round while the guest runs: takes log-dirty, finds what is owed, sends all of it once.
    ///
    /// # Errors
    /// Any of [`Error`]. Nothing that was owed is lost: the round may be repeated, or the migration
    /// cancelled.
    pub fn round(&mut self, ports: &mut Ports<'_>) -> Result<RoundReport, Error> {
        self.tracker.expect_live("round")?;
        self.run(ports, Stage::Live)
    }

    /// A round of a suspended guest that will resume: ends at a consistent point of the
    /// destination.
    ///
    /// # Errors
    /// Any of [`Error`]; the destination's last consistent point is then still the previous one.
    pub fn checkpoint(&mut self, ports: &mut Ports<'_>) -> Result<RoundReport, Error> {
        self.tracker.expect_live("checkpoint")?;
        self.run(ports, Stage::Checkpoint)
    }

    /// The final round of a suspended guest. If it succeeds, every mapping is released and
    /// log-dirty is off, unless the report says that it could not be switched off: then
    /// [`Migration::cancel`] tries again.
    ///
    /// # Errors
    /// Any of [`Error`]; then call [`Migration::cancel`], and resume the source guest.
    pub fn finish(&mut self, ports: &mut Ports<'_>) -> Result<RoundReport, Error> {
        self.tracker.expect_live("finish")?;
        let mut report = self.run(ports, Stage::Final)?;
        // The destination is complete: an error now would make the caller resume the source as
        // well.
        report.log_left_on = self.log.disable(ports.log_dirty).is_err();
        Ok(report)
    }

    /// Ends the migration at any point and leaves the guest as it was: log-dirty off, nothing
    /// mapped.
    ///
    /// # Errors
    /// Log-dirty can't be switched off; everything else is released anyway.
    pub fn cancel(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        self.tracker.cancel(ports.guest.p2m);
        self.log.disable(ports.log_dirty)
    }

    /// The tracker, for reading its state.
    #[must_use]
    pub const fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Sets how much is checked against the m2p, from the next round on.
    pub const fn set_verify(&mut self, verify: Verify) {
        self.tracker.set_verify(verify);
    }

    /// All steps of a round.
    fn run(&mut self, ports: &mut Ports<'_>, stage: Stage) -> Result<RoundReport, Error> {
        self.take_back(ports)?;
        let Ports { guest, log_dirty, .. } = ports;
        self.tracker.begin(guest, stage)?;
        let log = &mut self.log;
        self.tracker.scan_by(guest, |buffer| log.read(&mut **log_dirty, buffer))?;
        ports.phase(Phase::Send, |ports| self.send_all(ports))?;
        if stage.is_suspended() {
            ports.phase(Phase::Settle, |ports| self.confirm(ports))?;
        }
        let ended = self.tracker.end(&mut ports.guest);
        ended.map_err(|error| self.log.explain(error))
    }

    fn take_back(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        let mut returned = Vec::new();
        ports.transport.returned(&mut returned).map_err(Error::port("transport"))?;
        self.tracker.give_back(&returned);
        Ok(())
    }

    /// Sends every batch by the transport.
    fn send_all(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        loop {
            match self.tracker.next(&mut ports.guest)? {
                Next::Batch => {
                    self.note_gone(ports)?;
                    if let Err(error) = self.send_batch(ports) {
                        self.tracker.turn_back(&mut ports.guest);
                        return Err(error);
                    }
                }
                Next::SweepEnds => self.take_back(ports)?,
                Next::Nothing => {
                    self.note_gone(ports)?;
                    return self.send_frame_list(ports);
                }
            }
        }
    }

    /// Reports which pfns lost their frames while the guest runs; for a suspended guest `confirm`
    /// reports all of them.
    fn note_gone(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        let noted = self.tracker.take_noted_gone();
        if noted.is_empty() || self.tracker.report().stage.is_suspended() {
            return Ok(());
        }
        ports.transport.note_gone(&noted).map_err(Error::port("transport"))
    }

    fn send_batch(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        self.send_frame_list(ports)?;
        let pages = self.tracker.batch();
        let mut answers = Vec::with_capacity(pages.len());
        let view = self.tracker.view(&mut ports.guest);
        let sent = ports.transport.send(pages, &view, &mut answers);
        drop(view);
        sent.map_err(Error::port("transport"))?;
        self.tracker.record(&mut ports.guest, answers)
    }

    fn send_frame_list(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        if !self.tracker.frame_list_changed() {
            return Ok(());
        }
        let (width, leaves) = (self.tracker.width(), self.tracker.frame_list());
        let list = FrameList { width, pfn_count: self.tracker.pfn_count(), leaves: &leaves };
        ports.transport.frame_list(list).map_err(Error::port("transport"))?;
        self.tracker.frame_list_sent();
        Ok(())
    }

    /// The consistent point.
    fn confirm(&self, ports: &mut Ports<'_>) -> Result<(), Error> {
        let view = self.tracker.view(&mut ports.guest);
        let settled = ports.transport.settled(&view);
        drop(view);
        settled.map_err(Error::port("transport"))?;
        for pfns in self.tracker.gone()?.chunks(GONE_PFNS_MAX) {
            ports.transport.gone(pfns).map_err(Error::port("transport"))?;
        }
        ports.transport.consistent().map_err(Error::port("transport"))
    }
}
