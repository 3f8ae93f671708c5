// SPDX-License-Identifier: MIT OR Apache-2.0
//! A tracking session: the lock of the domain, the guard, log-dirty on and off, and the engine.
//! Not here: what is found.
//! Units: one domain.
//! Threads: one owner.
//! Source: order: lock, cleanup after a dead tracker, guard, log-dirty; the reverse at the end.

use std::os::unix::process::CommandExt;
use std::process::Command;

use p2mtrack::cause::CauseSet;
use p2mtrack::config::Config;
use p2mtrack::error::Error;
use p2mtrack::frame::Pfn;
use p2mtrack::monitor::Monitor;
use p2mtrack::port::LogDirty;
use p2mtrack::report::RoundReport;
use p2mtrack_xen::{
    Domain, Guard, GuardError, IfOn, Left, Lock, Unknown, Xen, XenError, XenGuest, XenLogDirty,
};

use super::tap::Tap;
use crate::failure::{Failure, note};
use crate::stopwatch::Stopwatch;

/// A guest being tracked.
pub(super) struct Session {
    pub(super) xen: Xen,
    pub(super) guest: XenGuest,
    pub(super) monitor: Monitor,
    /// What the last CLEAN returned, for a recording.
    pub(super) tap: Tap,
    pub(super) stopwatch: Stopwatch,
    lock: Lock,
    guard: Guard,
    domain: Domain,
    unknown_xen: bool,
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
        let (mut lock, left) =
            Lock::take(domid, domain.uuid()).map_err(|error| unusable(error.into()))?;
        let if_on = if take_over { IfOn::TakeOver } else { IfOn::Refuse };
        clean_up(&domain, left, &mut lock)?;
        let parts = || -> Result<_, Failure> {
            let guest = XenGuest::open(&domain).map_err(|error| unusable(error.into()))?;
            let guard = begin_guard(&domain, unknown_xen, &lock)?;
            let monitor =
                Monitor::new(config, domain.width()).map_err(|error| unusable(error.into()))?;
            Ok((guest, guard, monitor))
        };
        let (mut guest, mut guard, monitor) = match parts() {
            Ok(parts) => parts,
            Err(failure) => {
                // log-dirty is not on yet; the failure is the error to return
                let _ = lock.release();
                return Err(failure);
            }
        };
        if let Err(error) = guard.enable(&mut guest.log_dirty, if_on) {
            // A guard that does not answer may be switching log-dirty: it keeps the lock until it
            // has cleaned up.
            if let GuardError::Xen(refused) = &error {
                let _ = lock.release();
                if refused.is_on_already() {
                    note("if its user is gone, --take-over switches it off and on again");
                }
            }
            return Err(unusable(error.into()));
        }
        let (tap, stopwatch) = (Tap::default(), Stopwatch::new());
        let mut session =
            Self { xen, guest, monitor, tap, stopwatch, lock, guard, domain, unknown_xen };
        match session.lock.note(true).map_err(|error| unusable(error.into())) {
            Ok(()) => Ok(session),
            Err(failure) => session.end().and(Err(failure)),
        }
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
        if !self.guard.is_there() {
            self.replace_guard();
        }
        self.domain.info().map(|_| ())
    }

    fn replace_guard(&mut self) {
        note(&format!("guard process {} is gone; a new one is started", self.guard.pid()));
        match begin_guard(&self.domain, self.unknown_xen, &self.lock) {
            Ok(mut guard) => match guard.arm(true) {
                Ok(()) => self.guard = guard,
                Err(_) => guard.dismiss(), // gone already: the next call replaces it
            },
            Err(failure) => failure.warn(),
        }
    }

    /// Releases everything. On success log-dirty is off.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        let unusable = unusable(self.domain.domid());
        self.monitor.release(&mut self.guest.p2m);
        // A domain that is gone has no log, and another may have its ID. A domain that only does
        // not answer still has its log.
        if !self.domain.is_gone() {
            // If this fails, the guard tries again when this process is gone, and the lock file
            // says that log-dirty is on.
            self.guest.log_dirty.disable().map_err(unusable)?;
        }
        let _ = self.guard.arm(false); // a guard that is gone needs no message
        let released = self.lock.release();
        self.guard.dismiss();
        released.map_err(|error| unusable(error.into()))
    }
}

/// Switches log-dirty off after a tracker that died with its guard.
fn clean_up(domain: &Domain, left: Left, lock: &mut Lock) -> Result<(), Failure> {
    let unusable = unusable(domain.domid());
    if let Left::LogDirty { pid } = left {
        let log = XenLogDirty::new(domain);
        let off = log.and_then(|mut log| log.switch_off_after());
        off.map_err(|error| unusable(error.into()))?;
        note(&format!(
            "process {pid} and its guard died while tracking: log-dirty was left on, and is now off"
        ));
    }
    lock.note(false).map_err(|error| unusable(error.into()))
}

fn unusable(domid: u16) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Failure + Copy {
    move |source| Failure::Unusable { about: format!("domain {domid}"), source: source as _ }
}

/// Starts this program as a guard.
fn begin_guard(domain: &Domain, unknown_xen: bool, lock: &Lock) -> Result<Guard, Failure> {
    // The running program, even if its file was replaced since.
    let mut command = Command::new("/proc/self/exe");
    let words = [domain.domid().to_string(), domain.uuid().to_string()];
    command.arg0("p2mtrack").arg("guard").args(words);
    if unknown_xen {
        command.arg("--unknown-xen");
    }
    Guard::begin(command, lock).map_err(|error| unusable(domain.domid())(error.into()))
}
