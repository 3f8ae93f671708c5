// SPDX-License-Identifier: MIT OR Apache-2.0
//! Log-dirty for a save: switched on by the guard if it is live, and not needed if it is not.
//! Not here: the log itself (`p2mtrack_xen::XenLogDirty`).
//! Units: pfns.
//! Threads: one owner.
//! Source: own. Of a guest that is suspended from the first page on nothing is written, but by
//! others, which `Unlogged` names: a stock sender has no log there, either.

use p2mtrack::port::{LogBuffer, LogDirty, PortError};
use p2mtrack_xen::{Claim, ClaimError, GuardError, IfOn, XenLogDirty};

/// The log of a live save.
#[derive(Debug)]
pub struct GuardedLog<'a> {
    /// The domain's log.
    pub log: &'a mut XenLogDirty,
    /// Has the guard that switches it on.
    pub claim: &'a mut Claim,
    /// For the first time that it is switched on; after that it is ours.
    pub if_on: &'a mut Option<IfOn>,
    /// It was on, and was taken over.
    pub took_over: &'a mut bool,
    /// Why it could not be switched on.
    pub refused: &'a mut Option<ClaimError>,
}

impl LogDirty for GuardedLog<'_> {
    fn enable(&mut self) -> Result<(), PortError> {
        let Some(if_on) = self.if_on.take() else { return self.log.enable() };
        // Whether it is on only shows when it is refused.
        let mut enabled = self.claim.enable(self.log, IfOn::Refuse);
        if if_on == IfOn::TakeOver && enabled.as_ref().is_err_and(is_on_already) {
            enabled = self.claim.enable(self.log, IfOn::TakeOver);
            *self.took_over = enabled.is_ok();
        }
        enabled.map_err(|error| {
            let words = error.to_string();
            *self.refused = Some(error);
            words.into()
        })
    }

    fn disable(&mut self) -> Result<(), PortError> {
        self.log.disable()
    }

    fn clean(&mut self, into: LogBuffer<'_>) -> Result<u64, PortError> {
        self.log.clean(into)
    }
}

fn is_on_already(error: &ClaimError) -> bool {
    matches!(error, ClaimError::Guard(GuardError::Xen(refused)) if refused.is_on_already())
}

/// No log: nothing is ever written.
#[derive(Clone, Copy, Debug)]
pub struct NoLog;

impl LogDirty for NoLog {
    fn enable(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn disable(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn clean(&mut self, into: LogBuffer<'_>) -> Result<u64, PortError> {
        Ok(into.pfns())
    }
}
