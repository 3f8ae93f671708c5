// SPDX-License-Identifier: MIT OR Apache-2.0
//! The claim on a domain: its lock and the guard that holds it too, from before log-dirty is on
//! until after it is off.
//! Not here: what is done with the domain meanwhile.
//! Units: one domain.
//! Threads: one owner.
//! Source: order: lock, cleanup after a dead tracker, guard, log-dirty; the reverse at the end.

use std::process::Command;
use std::{error, fmt};

use crate::domain::Domain;
use crate::error::XenError;
use crate::guard::{Dismissed, Guard, GuardError};
use crate::lock::{Left, Lock, LockError};
use crate::log_dirty::{IfOn, XenLogDirty};

/// Why a domain can't be claimed, or released.
#[derive(Debug)]
pub enum ClaimError {
    /// Another process has it, or the lock file can't be used.
    Lock(LockError),
    /// There is no guard.
    Guard(GuardError),
    /// Log-dirty can't be switched off.
    Xen(XenError),
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock(cause) => cause.fmt(f),
            Self::Guard(cause) => cause.fmt(f),
            Self::Xen(cause) => cause.fmt(f),
        }
    }
}

impl error::Error for ClaimError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Lock(cause) => cause.source(),
            Self::Guard(cause) => cause.source(),
            Self::Xen(cause) => cause.source(),
        }
    }
}

/// A guard that was gone.
#[derive(Debug)]
pub struct Replaced {
    /// Its process.
    pub pid: u32,
    /// Why there is no new one; the next look tries again.
    pub error: Option<GuardError>,
}

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guard process {} is gone", self.pid)?;
        let Some(error) = &self.error else { return f.write_str("; a new one is started") };
        write!(f, ", and there is no new one: {error}")?;
        error::Error::source(error).map_or(Ok(()), |cause| write!(f, ": {cause}"))
    }
}

/// A domain that is claimed.
pub struct Claim {
    domain: Domain,
    lock: Lock,
    guard: Guard,
    /// Makes the command of a guard.
    command: Box<dyn Fn() -> Command>,
    /// What a new guard has to be told.
    is_on: bool,
    suspends: bool,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl Claim {
    /// Takes the lock, switches log-dirty off if a tracker died with its guard, and starts a guard,
    /// by a command that runs [`crate::stand_guard`]. Also returns what was left behind, and is
    /// mended.
    ///
    /// # Errors
    /// See [`ClaimError`]; nothing is claimed then.
    pub fn take(
        domain: &Domain,
        command: impl Fn() -> Command + 'static,
    ) -> Result<(Self, Left), ClaimError> {
        let domain = domain.another().map_err(ClaimError::Xen)?;
        let (mut lock, left) =
            Lock::take(domain.domid(), domain.uuid()).map_err(ClaimError::Lock)?;
        if let Left::LogDirty { .. } = left {
            // If this fails, the file goes on saying what was left.
            let off = XenLogDirty::new(&domain).and_then(|mut log| log.switch_off_after());
            off.map_err(ClaimError::Xen)?;
        }
        lock.note(false).map_err(ClaimError::Lock)?;
        match Guard::begin(command(), &lock) {
            Ok(guard) => {
                let command = Box::new(command);
                Ok((Self { domain, lock, guard, command, is_on: false, suspends: false }, left))
            }
            Err(error) => {
                let _ = lock.release(); // the failure is the error to return
                Err(ClaimError::Guard(error))
            }
        }
    }

    /// Makes the guard switch log-dirty on.
    ///
    /// # Errors
    /// [`GuardError::Xen`]: Xen refuses, and it is as before: see [`Claim::give_up`]. Else the
    /// guard may be switching it on: it keeps the lock until it has cleaned up.
    pub fn enable(&mut self, log: &mut XenLogDirty, if_on: IfOn) -> Result<(), ClaimError> {
        self.guard.enable(log, if_on).map_err(ClaimError::Guard)?;
        self.is_on = true;
        self.lock.note(true).map_err(ClaimError::Lock)
    }

    /// The guest will be asked to suspend: from now on the guard resumes it if this process dies.
    ///
    /// # Errors
    /// There is no guard: the guest must not be asked.
    pub fn suspends(&mut self) -> Result<(), GuardError> {
        self.look_after();
        self.guard.suspends()?;
        self.suspends = true;
        Ok(())
    }

    /// The guest runs again, or is to stay suspended.
    pub fn runs(&mut self) {
        self.suspends = false;
        let _ = self.guard.runs(); // a guard that is gone does nothing
    }

    /// The guest is suspended, and is to be resumed.
    pub fn is_suspended(&mut self) {
        self.suspends = true;
        let _ = self.guard.is_suspended(); // as above
    }

    /// Replaces a guard that is gone.
    pub fn look_after(&mut self) -> Option<Replaced> {
        if self.guard.is_there() {
            return None;
        }
        let pid = self.guard.pid();
        let error = self.replace().err();
        Some(Replaced { pid, error })
    }

    fn replace(&mut self) -> Result<(), GuardError> {
        let mut guard = Guard::begin((self.command)(), &self.lock)?;
        guard.arm(self.is_on)?;
        if self.suspends {
            guard.suspends()?;
        }
        self.guard = guard;
        Ok(())
    }

    /// Ends a claim that has changed nothing: log-dirty is as before.
    pub fn give_up(self) {
        let _ = self.lock.release();
        drop(self.guard.dismiss(None));
    }

    /// Ends a claim where it is not known what the guard has done: lets the guard clean up as if
    /// this process had died, and does so itself if the guard fails.
    ///
    /// # Errors
    /// Log-dirty may be on.
    pub fn abandon(self, log: &mut XenLogDirty) -> Result<(), ClaimError> {
        let Self { mut domain, guard, lock, .. } = self;
        // If the lock file was removed, another program may have log-dirty on now.
        if guard.leave() || domain.is_gone() || lock.is_void() {
            return Ok(());
        }
        log.switch_off_after().map_err(ClaimError::Xen)?;
        let _ = lock.release(); // it is free when this process ends
        Ok(())
    }

    /// Ends the claim: on success log-dirty is off. The guard may still have to end.
    ///
    /// # Errors
    /// It can't be switched off: the guard tries again when this process is gone, and the lock file
    /// says that it is on. Or the lock file can't be removed.
    pub fn release(mut self, log: &mut XenLogDirty) -> Result<Dismissed, ClaimError> {
        // A domain that is gone has no log, and another may have its ID. A domain that only does
        // not answer still has its log.
        if !self.domain.is_gone() {
            log.switch_off().map_err(ClaimError::Xen)?;
        }
        let _ = self.guard.stand_down(); // a guard that is gone needs no message
        let released = self.lock.release();
        let dismissed = self.guard.dismiss(Some(self.domain));
        released.map(|()| dismissed).map_err(ClaimError::Lock)
    }
}
