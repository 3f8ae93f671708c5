// SPDX-License-Identifier: MIT OR Apache-2.0
//! Log-dirty for a save: switched on by the guard if it is live, and not needed if it is not.
//! Not here: the log itself (`p2mtrack_xen::XenLogDirty`).
//! Units: pfns.
//! Threads: one owner.
//! Source: own. Of a guest that is suspended from the first page on nothing is written, but by
//! others, which `Unlogged` names: a stock sender has no log there, either.

use p2mtrack::port::{LogBuffer, LogDirty, PortError};
use p2mtrack_xen::{Claim, ClaimError, IfOn, XenLogDirty};

/// The log of a live save.
#[derive(Debug)]
pub struct GuardedLog<'a> {
    /// The domain's log.
    pub log: &'a mut XenLogDirty,
    /// Has the guard that switches it on.
    pub claim: &'a mut Claim,
    /// For the first time that it is switched on; after that it is ours.
    pub if_on: &'a mut Option<IfOn>,
    /// Why it could not be switched on.
    pub refused: &'a mut Option<ClaimError>,
}

impl LogDirty for GuardedLog<'_> {
    fn enable(&mut self) -> Result<(), PortError> {
        let Some(if_on) = self.if_on.take() else { return self.log.enable() };
        self.claim.enable(self.log, if_on).map_err(|error| {
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
