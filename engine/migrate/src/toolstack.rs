// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who suspends the guest, and lets it run again: this program, through xenstore, or a toolstack
//! that has started it.
//! Not here: when that is done (`save`).
//! Units: one domain.
//! Threads: one owner.
//! Source: `xen-migrate.md` 1.2 and 4.8.

use std::time::Duration;

use p2mtrack_xen::{SuspendError, Suspender};

use crate::fault::{Fault, in_full};
use crate::kind::Kind;
use crate::source::Source;

/// Suspends the guest, and lets it run again.
pub trait Toolstack {
    /// Makes sure of who resumes the guest, before anybody asks it to suspend.
    ///
    /// # Errors
    /// Nobody would: it must not be asked.
    fn prepare(&mut self, source: &mut Source) -> Result<(), Fault>;

    /// Suspends the guest, which runs.
    ///
    /// # Errors
    /// It is not suspended, or may suspend later: see [`Toolstack::call_off`].
    fn suspend(
        &mut self,
        source: &mut Source,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<(), Fault>;

    /// After an error: a guest that was asked to suspend is to run on. If it is for another program
    /// to see to that, nothing is done.
    ///
    /// # Errors
    /// It stands still, or may suspend later.
    fn call_off(&mut self, source: &mut Source) -> Result<(), SuspendError>;

    /// A suspended guest runs on.
    ///
    /// # Errors
    /// It does not: of kind [`Kind::ResumeFailed`] if it stands still.
    fn resume(&mut self, source: &mut Source) -> Result<(), Fault>;

    /// From now on the stream may take the place of the source: a guest that is suspended stays so,
    /// whatever becomes of this process.
    fn give_up(&mut self, source: &mut Source) {
        let _ = source;
    }

    /// The source was not given up after all.
    fn keep(&mut self, source: &mut Source) {
        let _ = source;
    }

    /// A checkpoint is written, and the guest runs. Returns when the next one is due, or `false` if
    /// there is none.
    ///
    /// # Errors
    /// The toolstack is gone.
    fn checkpoint(&mut self) -> Result<bool, Fault> {
        Ok(false)
    }
}

/// No toolstack: the guest is suspended through xenstore, and resumed by this program or its guard.
#[derive(Debug)]
pub struct Standalone {
    suspender: Suspender,
    /// How long the guest may take to suspend.
    patience: Duration,
}

impl Standalone {
    /// For a guest, which may take so long to suspend.
    ///
    /// # Errors
    /// No xenstore.
    pub fn new(source: &Source, patience: Duration) -> Result<Self, Fault> {
        let suspender = Suspender::new(source.domain()).map_err(|error| Fault::suspend(&error))?;
        Ok(Self { suspender, patience })
    }
}

impl Toolstack for Standalone {
    fn prepare(&mut self, source: &mut Source) -> Result<(), Fault> {
        source.claim.suspends().map_err(|error| Fault::guard(&error, false))
    }

    fn suspend(
        &mut self,
        source: &mut Source,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<(), Fault> {
        let suspended = self.suspender.suspend(self.patience, is_cancelled);
        suspended.map_err(|error| Fault::suspend(&error))?;
        source.claim.is_suspended();
        Ok(())
    }

    fn call_off(&mut self, source: &mut Source) -> Result<(), SuspendError> {
        self.suspender.call_off()?;
        source.claim.runs();
        Ok(())
    }

    fn resume(&mut self, source: &mut Source) -> Result<(), Fault> {
        match source.domain.info() {
            Ok(info) if info.is_suspended() => {}
            Ok(_) => {
                source.claim.runs();
                let words = "another program resumed it while it was saved";
                return Err(Fault::new(Kind::SuspendOther, words));
            }
            Err(error) if error.errno() == libc::ESRCH => return Err(error.into()),
            Err(error) => return Err(not_resumed(&error.into())),
        }
        self.suspender.resume().map_err(|error| not_resumed(&error))?;
        source.claim.runs();
        Ok(())
    }

    fn give_up(&mut self, source: &mut Source) {
        source.claim.runs();
    }

    fn keep(&mut self, source: &mut Source) {
        source.claim.is_suspended();
    }
}

/// The guest stands still.
pub(crate) fn not_resumed(error: &SuspendError) -> Fault {
    Fault::new(Kind::ResumeFailed, format!("the guest is not resumed: {}", in_full(error)))
}
