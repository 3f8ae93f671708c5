// SPDX-License-Identifier: MIT OR Apache-2.0
//! A tracking session: the claim on the domain, log-dirty on and off, and the engine.
//! Not here: what is found.
//! Units: one domain.
//! Threads: one owner.
//! Source: own.

use p2mtrack::cause::CauseSet;
use p2mtrack::config::Config;
use p2mtrack::error::Error;
use p2mtrack::frame::Pfn;
use p2mtrack::monitor::Monitor;
use p2mtrack::report::RoundReport;
use p2mtrack_xen::{Claim, ClaimError, Domain, GuardError, IfOn, Unknown, Xen, XenError, XenGuest};

use super::tap::Tap;
use crate::failure::{Failure, note};
use crate::guard;
use crate::stopwatch::Stopwatch;

/// A guest being tracked.
pub(super) struct Session {
    pub(super) xen: Xen,
    pub(super) guest: XenGuest,
    pub(super) monitor: Monitor,
    /// What the last CLEAN returned, for a recording.
    pub(super) tap: Tap,
    pub(super) stopwatch: Stopwatch,
    claim: Claim,
    domain: Domain,
}

impl Session {
    /// On success log-dirty is on. On failure it is as before, unless the guard does not answer:
    /// the guard then has the lock, and cleans up.
    pub(super) fn begin(
        domid: u16,
        take_over: bool,
        unknown_xen: bool,
        config: Config,
    ) -> Result<Self, Failure> {
        let unusable = unusable(domid);
        let unknown = if unknown_xen { Unknown::Accept } else { Unknown::Refuse };
        let xen = Xen::open(unknown).map_err(|error| unusable(error.into()))?;
        let domain = Domain::open(&xen, domid).map_err(|error| unusable(error.into()))?;
        let command = guard::command(&domain, unknown);
        let (mut claim, left) =
            Claim::take(&domain, command).map_err(|error| unusable(error.into()))?;
        guard::note_left(left);
        let parts = || -> Result<_, Failure> {
            let guest = XenGuest::open(&domain).map_err(|error| unusable(error.into()))?;
            let monitor = Monitor::new(config, domain.width());
            Ok((guest, monitor.map_err(|error| unusable(error.into()))?))
        };
        let (mut guest, monitor) = match parts() {
            Ok(parts) => parts,
            Err(failure) => {
                claim.give_up(); // log-dirty is not on yet
                return Err(failure);
            }
        };
        let if_on = if take_over { IfOn::TakeOver } else { IfOn::Refuse };
        let enabled = claim.enable(&mut guest.log_dirty, if_on);
        let (tap, stopwatch) = (Tap::default(), Stopwatch::new());
        let session = Self { xen, guest, monitor, tap, stopwatch, claim, domain };
        match enabled {
            Ok(()) => Ok(session),
            Err(error) => Err(session.not_enabled(error)),
        }
    }

    /// Log-dirty is not on, or that can't be noted.
    fn not_enabled(self, error: ClaimError) -> Failure {
        let unusable = unusable(self.domain.domid());
        match &error {
            ClaimError::Guard(GuardError::Xen(refused)) => {
                if refused.is_on_already() {
                    note("if its user is gone, --take-over switches it off and on again");
                }
                self.claim.give_up();
            }
            // A guard that does not answer may be switching log-dirty: it keeps the lock until it
            // has cleaned up.
            ClaimError::Guard(_) => {}
            _ => {
                if let Err(left) = self.end() {
                    left.warn();
                }
            }
        }
        unusable(error.into())
    }

    /// One round of the engine.
    pub(super) fn observe(
        &mut self,
        each: impl FnMut(Pfn, CauseSet),
    ) -> Result<RoundReport, Error> {
        self.stopwatch.clear();
        let (mut guest, log) = self.guest.lend(&mut self.stopwatch);
        let mut log_dirty = self.tap.on(log);
        self.monitor.observe(&mut guest, &mut log_dirty, each)
    }

    /// Between rounds: fails if the guest is gone, and replaces a guard that is gone.
    pub(super) fn look_after(&mut self) -> Result<(), XenError> {
        if let Some(replaced) = self.claim.look_after() {
            guard::note_replaced(&replaced);
        }
        self.domain.info().map(|_| ())
    }

    /// Releases everything. On success log-dirty is off.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        let unusable = unusable(self.domain.domid());
        self.monitor.release(&mut self.guest.p2m);
        let released = self.claim.release(&mut self.guest.log_dirty);
        released.map(drop).map_err(|error| unusable(error.into()))
    }
}

fn unusable(domid: u16) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Failure + Copy {
    move |source| Failure::Unusable { about: format!("domain {domid}"), source: source as _ }
}
