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
/// How long a guest is waited for that has taken the request: Linux freezes its processes first.
pub const LATE: Duration = Duration::from_secs(120);
/// How long a guest is waited for that did not take the request: one that does not empty it.
const WITHDRAWN: Duration = Duration::from_secs(2);
/// The request.
const SUSPEND: &str = "suspend";

/// Why a guest was not suspended or resumed.
#[derive(Debug)]
pub enum SuspendError {
    /// The hypervisor refuses.
    Xen(XenError),
    /// xenstore can't be reached, or refuses.
    Xenstore(io::Error),
    /// The guest did not suspend in this time, and the request was withdrawn.
    Late(Duration),
    /// It was cancelled.
    Cancelled,
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
            Self::Cancelled => write!(f, "the suspend was cancelled"),
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

/// What became of our request to suspend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// There was none: a guest that is suspended is another program's.
    None,
    /// The guest was asked, and may have taken it.
    Asked,
    /// It was taken back before the guest took it.
    Withdrawn,
    /// The guest took it, and did not suspend for a long time.
    Taken,
    /// The guest was suspended.
    Obeyed,
}

/// Suspends and resumes one domain.
#[derive(Debug)]
pub struct Suspender {
    domain: Domain,
    store: Xenstore,
    request: Request,
}

impl Suspender {
    /// For a domain.
    ///
    /// # Errors
    /// No xenstore.
    pub fn new(domain: &Domain) -> Result<Self, SuspendError> {
        let store = Xenstore::open().map_err(SuspendError::Xenstore)?;
        Ok(Self { domain: domain.another()?, store, request: Request::None })
    }

    /// For a domain that another process is about to ask, in whose place [`Suspender::call_off`]
    /// acts.
    ///
    /// # Errors
    /// As [`Suspender::new`]; or the domain has shut down already.
    pub(crate) fn in_place_of_another(domain: &Domain) -> Result<Self, SuspendError> {
        let mut suspender = Self::new(domain)?;
        suspender.is_asked()?;
        Ok(suspender)
    }

    /// Another process is about to ask the guest, which runs.
    ///
    /// # Errors
    /// It has shut down already, or the hypervisor does not answer.
    pub fn is_asked(&mut self) -> Result<(), SuspendError> {
        self.check_runs()?;
        self.request = Request::Asked;
        Ok(())
    }

    /// That other process has seen the guest suspended.
    pub const fn obeyed(&mut self) {
        self.request = Request::Obeyed;
    }

    /// A guest that another program has suspended is not ours to resume.
    fn check_runs(&mut self) -> Result<(), SuspendError> {
        match self.domain.info()?.shutdown {
            Some(reason) => Err(SuspendError::Ended { reason }),
            None => Ok(()),
        }
    }

    /// Asks the guest to suspend and waits until it is suspended, for as long as `patience`. If the
    /// guest has taken the request by then, waits for it as long as [`LATE`].
    ///
    /// # Errors
    /// See [`SuspendError`]. The guest may be suspended, or suspend later: see
    /// [`Suspender::call_off`].
    pub fn suspend(
        &mut self,
        patience: Duration,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<(), SuspendError> {
        self.request = Request::None;
        self.check_runs()?;
        self.request = Request::Asked;
        let path = self.path();
        self.store.write(&path, SUSPEND).map_err(SuspendError::Xenstore)?;
        let begun = Instant::now();
        let in_time = || begun.elapsed() < patience && !is_cancelled();
        let suspended = self.wait_suspended(&in_time)? || self.withdraw()?;
        if suspended {
            self.request = Request::Obeyed;
        }
        match suspended {
            _ if is_cancelled() => Err(SuspendError::Cancelled),
            true => Ok(()),
            false => Err(SuspendError::Late(patience)),
        }
    }

    /// Withdraws the request. A guest that has taken it suspends: waits for that. Returns whether
    /// the guest is suspended.
    fn withdraw(&mut self) -> Result<bool, SuspendError> {
        let path = self.path();
        if self.request == Request::Asked {
            let withdrawn = self.store.replace(&path, SUSPEND, "");
            if withdrawn.map_err(SuspendError::Xenstore)? {
                self.request = Request::Withdrawn;
            }
        }
        let begun = Instant::now();
        let patience = if self.request == Request::Withdrawn { WITHDRAWN } else { LATE };
        let suspended = self.wait_suspended(&|| begun.elapsed() < patience)?;
        if self.request == Request::Asked {
            self.request = Request::Taken;
        }
        Ok(suspended)
    }

    /// Ends a suspend that is not wanted any more: a guest that is suspended is resumed, and else
    /// the request is withdrawn; a guest that has taken it is waited for, as long as [`LATE`].
    ///
    /// # Errors
    /// The guest is suspended, or may suspend later. A guest that is gone, or has shut down for
    /// another reason, is no error.
    pub fn call_off(&mut self) -> Result<(), SuspendError> {
        if self.request == Request::None {
            return Ok(());
        }
        // Whatever xenstore says: a guest that stands still comes first.
        let suspended = match (self.wait_suspended(&|| false), self.request) {
            // One that was suspended, and is not, was resumed by another program.
            (Ok(false), Request::Obeyed) => Ok(false),
            (Ok(false), Request::Taken) => Err(SuspendError::Late(LATE)),
            (Ok(false), _) => self.withdraw(),
            (suspended, _) => suspended,
        };
        match suspended {
            Ok(true) => self.resume(),
            Ok(false) | Err(SuspendError::Ended { .. }) => Ok(()),
            Err(SuspendError::Xen(error)) if error.errno() == libc::ESRCH => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Where the request to suspend stands. The guest empties it when it obeys.
    fn path(&self) -> String {
        format!("/local/domain/{}/control/shutdown", self.domain.domid())
    }

    /// That other process has resumed the guest, or will.
    pub const fn forget(&mut self) {
        self.request = Request::None;
    }

    /// Polls whether the guest is suspended, while `goes_on` says so.
    fn wait_suspended(&mut self, goes_on: &dyn Fn() -> bool) -> Result<bool, SuspendError> {
        loop {
            let info = self.domain.info()?;
            match info.shutdown {
                Some(_) if info.is_suspended() => return Ok(true),
                Some(reason) => return Err(SuspendError::Ended { reason }),
                None if goes_on() => thread::sleep(PAUSE),
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
        // A guest that has not emptied it would suspend once more.
        let path = self.path();
        let _ = self.store.replace(&path, SUSPEND, "");
        let mut vcpu = Vcpu::read(&mut self.domain)?;
        vcpu.answer(1);
        vcpu.write(&mut self.domain)?;
        let resumed = self.domain.calls().resume(domid);
        resumed.map_err(failed("resume")).map_err(|error| error.of(domid))?;
        self.request = Request::None;
        self.store.resume(domid).map_err(SuspendError::Xenstore)
    }
}
