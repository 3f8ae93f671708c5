// SPDX-License-Identifier: MIT OR Apache-2.0
//! Suspend and resume of a guest.
//! Not here: what is done meanwhile.
//! Units: the wall clock.
//! Threads: one owner.
//! Source: what toolstacks do: `control/shutdown` in xenstore, then the guest shuts itself down
//! with reason 2. It resumes with the result 1 (cancelled) of its call, after which it rewrites its
//! lists and sets its generation to 0.

use std::thread;
use std::time::{Duration, Instant};
use std::{error, fmt, io};

use crate::domain::Domain;
use crate::error::{XenError, failed};
use crate::vcpu::Vcpu;
use crate::xenstore::Xenstore;

const PAUSE: Duration = Duration::from_millis(2);

/// Why a guest was not suspended or resumed.
#[derive(Debug)]
pub enum SuspendError {
    /// The hypervisor refuses.
    Xen(XenError),
    /// xenstore can't be reached, or refuses.
    Xenstore(io::Error),
    /// The guest did not suspend in this time, and the request was withdrawn.
    Late(Duration),
    /// The guest shut down for another reason: it crashed or was switched off.
    Ended {
        /// Xen's number of the reason.
        reason: u8,
    },
}

impl fmt::Display for SuspendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xen(_) => write!(f, "the hypervisor refuses"),
            Self::Xenstore(_) => write!(f, "xenstore can't be used"),
            Self::Late(time) => write!(f, "the guest did not suspend in {time:?}"),
            Self::Ended { reason } => {
                write!(f, "the guest shut down for another reason than to be suspended ({reason})")
            }
        }
    }
}

impl error::Error for SuspendError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Xen(cause) => Some(cause),
            Self::Xenstore(cause) => Some(cause),
            _ => None,
        }
    }
}

impl From<XenError> for SuspendError {
    fn from(cause: XenError) -> Self {
        Self::Xen(cause)
    }
}

/// Suspends and resumes one domain.
#[derive(Debug)]
pub struct Suspender {
    domain: Domain,
    store: Xenstore,
}

impl Suspender {
    /// For a domain.
    ///
    /// # Errors
    /// No xenstore.
    pub fn new(domain: &Domain) -> Result<Self, SuspendError> {
        let store = Xenstore::open().map_err(SuspendError::Xenstore)?;
        Ok(Self { domain: domain.another()?, store })
    }

    /// Asks the guest to suspend and waits until it is suspended, at most twice `patience`.
    ///
    /// # Errors
    /// See [`SuspendError`]. Before [`SuspendError::Late`] the request is withdrawn; a guest that
    /// obeys it all the same stays suspended until [`Suspender::resume`].
    pub fn suspend(&mut self, patience: Duration) -> Result<(), SuspendError> {
        let path = format!("/local/domain/{}/control/shutdown", self.domain.domid());
        self.store.write(&path, "suspend").map_err(SuspendError::Xenstore)?;
        if self.wait_suspended(patience)? {
            return Ok(());
        }
        // The guest removes the request when it obeys. If it is still there, withdraw it. The guest
        // may have obeyed in between: wait as long again.
        let word = self.store.read(&path).map_err(SuspendError::Xenstore)?;
        if word == b"suspend" {
            self.store.write(&path, "").map_err(SuspendError::Xenstore)?;
        }
        if self.wait_suspended(patience)? { Ok(()) } else { Err(SuspendError::Late(patience)) }
    }

    /// Polls whether the guest is suspended, for as long as `patience`.
    fn wait_suspended(&mut self, patience: Duration) -> Result<bool, SuspendError> {
        let begun = Instant::now();
        loop {
            let info = self.domain.info()?;
            match info.shutdown {
                Some(_) if info.is_suspended() => return Ok(true),
                Some(reason) => return Err(SuspendError::Ended { reason }),
                None if begun.elapsed() < patience => thread::sleep(PAUSE),
                None => return Ok(false),
            }
        }
    }

    /// Resumes a suspended guest on this host.
    ///
    /// # Errors
    /// It is not suspended, and nothing was done; or the hypervisor's, or xenstore's.
    pub fn resume(&mut self) -> Result<(), SuspendError> {
        let domid = self.domain.domid();
        if !self.domain.info()?.is_suspended() {
            // Registers of a running guest must not be written back.
            let error = XenError::new("resume", libc::EINVAL).of(domid);
            return Err(error.hint("the guest is not suspended").into());
        }
        let mut vcpu = Vcpu::read(&mut self.domain)?;
        vcpu.answer(1);
        vcpu.write(&mut self.domain)?;
        let resumed = self.domain.calls().resume(domid);
        resumed.map_err(failed("resume")).map_err(|error| error.of(domid))?;
        self.store.resume(domid).map_err(SuspendError::Xenstore)
    }
}
