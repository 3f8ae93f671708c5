// SPDX-License-Identifier: MIT OR Apache-2.0
//! The current round: its rules and threads, what it has found so far, and what is kept of earlier
//! rounds.
//! Not here: the order of its steps (`tracker`).
//! Units: rounds; pfns owed.
//! Threads: one owner; the shards are lent to a comparison.
//! Source: `docs/design.md`, law 4: an uncertainty that runs for too long ends a live migration.

use crate::config::{Config, Verify};
use crate::diff::Kernel;
use crate::error::Error;
use crate::report::{RoundReport, Stage};
use crate::shard::Shards;
use crate::uncertainty::{Uncertainties, Uncertainty};

/// A round.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) config: Config,
    pub(crate) kernel: Kernel,
    pub(crate) shards: Shards,
    pub(crate) uncertain: Uncertainties,
    pub(crate) report: RoundReport,
    /// Rounds that ended.
    ended: u64,
    /// The report of the last one, unless a round was abandoned since: no estimate counts what that
    /// one found.
    previous: Option<RoundReport>,
    /// A round was begun that has not ended.
    unended: bool,
}

impl Round {
    /// Starts the threads.
    ///
    /// # Errors
    /// They can't be started, or there is no kernel of the requested name.
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        Ok(Self {
            kernel: config.kernel.map_or_else(Kernel::choose, Ok).map_err(Error::environment)?,
            shards: Shards::new(config.threads)?,
            uncertain: Uncertainties::default(),
            report: RoundReport::default(),
            ended: 0,
            previous: None,
            unended: false,
            config,
        })
    }

    /// Begins a round.
    pub(crate) fn begin(&mut self, stage: Stage) {
        self.uncertain.begin_round();
        self.report = RoundReport {
            round: self.ended,
            stage,
            kernel: self.kernel.name(),
            threads: self.shards.threads(),
            ..RoundReport::default()
        };
        if std::mem::replace(&mut self.unended, true) {
            self.previous = None;
        }
    }

    /// Whether the guest is suspended.
    pub(crate) const fn is_suspended(&self) -> bool {
        self.report.stage.is_suspended()
    }

    /// Whether no round has ended yet.
    pub(crate) const fn is_first(&self) -> bool {
        self.ended == 0
    }

    /// Whether entries are checked against the m2p, changed or not.
    pub(crate) fn checks_m2p(&self) -> bool {
        self.is_suspended() || self.config.verify == Verify::Full
    }

    /// Notes an uncertainty.
    pub(crate) fn note(&mut self, uncertainty: Uncertainty) {
        self.uncertain.mark(uncertainty);
    }

    /// Notes how much is owed when sending begins.
    pub(crate) fn sending_begins(&mut self, owed: u64) {
        self.report.uncertain = self.uncertain.counts(); // so far
        self.report.pages.owed = owed;
        self.estimate();
    }

    /// Estimates whether the migration converges, from the round so far. There is no estimate if
    /// ranges are owed for an uncertainty: how much of them is new is unknown.
    fn estimate(&mut self) {
        let report = &mut self.report;
        (report.dirty_rate, report.shrinking) = (None, None);
        let Some(previous) = &self.previous else { return };
        if report.p2m_unreadable || self.uncertain.of_ranges() > 0 {
            return;
        }
        let newly = report.log_dirty_pfns + report.entries.beyond_log_dirty;
        let sent = previous.pages.accepted.max(1);
        report.dirty_rate = Some(newly as f64 / sent as f64);
        report.shrinking = Some(report.pages.owed < previous.pages.owed);
    }

    /// Notes how much is left when sending ends.
    pub(crate) fn sending_ends(&mut self, left: u64) {
        self.report.pages.left = left;
        self.estimate();
    }

    /// Ends the round. Returns its report or, while the guest runs, the kind of an uncertainty that
    /// ran for too long.
    pub(crate) fn end(&mut self) -> Result<RoundReport, Uncertainty> {
        self.ended += 1;
        self.report.uncertain = self.uncertain.counts();
        let persistent = self.uncertain.end_round(self.config.uncertain_rounds_max);
        if let Some(uncertainty) = persistent.filter(|_| !self.is_suspended()) {
            return Err(uncertainty);
        }
        self.previous = Some(self.report.clone());
        self.unended = false;
        Ok(self.report.clone())
    }
}
