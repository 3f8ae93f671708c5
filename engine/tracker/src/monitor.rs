// SPDX-License-Identifier: MIT OR Apache-2.0
//! Observing without sending: a tracker for which everything that is found counts as sent at once.
//! Not here: the steps of a round (`tracker`).
//! Units: rounds.
//! Threads: one owner, stepped by its caller; no clock.
//! Source: `docs/decisions/0005-observing.md`.

use crate::cause::CauseSet;
use crate::config::Config;
use crate::error::Error;
use crate::frame::{Pfn, Width};
use crate::log_source::LogSource;
use crate::port::{Guest, LogDirty, P2mSource};
use crate::report::RoundReport;
use crate::tracker::Tracker;

/// One guest that is observed.
#[derive(Debug)]
pub struct Monitor {
    tracker: Tracker,
    log: LogSource,
}

impl Monitor {
    /// Prepares for a guest of this width. Nothing is read yet. Log-dirty is the caller's: it has
    /// to be on before the first round, and empty when it is switched on.
    ///
    /// # Errors
    /// [`Error::Threads`] if the pool can't be started, [`Error::Environment`] if a requested
    /// kernel or form does not exist.
    pub fn new(config: Config, width: Width) -> Result<Self, Error> {
        Ok(Self { tracker: Tracker::new(config, width)?, log: LogSource::default() })
    }

    /// One round. `each` is called for every pfn that would have to be sent, with its causes.
    ///
    /// # Errors
    /// Any of [`Error`]; the round may be repeated.
    pub fn observe(
        &mut self,
        guest: &mut Guest<'_>,
        log_dirty: &mut dyn LogDirty,
        each: impl FnMut(Pfn, CauseSet),
    ) -> Result<RoundReport, Error> {
        let log = &mut self.log;
        let observed = self.tracker.observe(guest, |buffer| log.read(log_dirty, buffer), each);
        observed.map_err(|error| self.log.explain(error))
    }

    /// The tracker, for reading its state.
    #[must_use]
    pub const fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Releases all mappings.
    pub fn release(&mut self, p2m: &mut dyn P2mSource) {
        self.tracker.release(p2m);
    }
}
