// SPDX-License-Identifier: MIT OR Apache-2.0
//! libxl as the toolstack of a save: it suspends the guest, and lets it run again.
//! Not here: the messages (`message`).
//! Units: one domain.
//! Threads: one owner.
//! Source: `xen-migrate.md` 1.2 and 4.8. While libxl is there, it alone resumes the guest. If it is
//! gone before it has heard how the save ended, the receiver of a plain stream never starts, as it
//! waits for libxl: then nobody else resumes the guest, and this program does. A Remus receiver
//! that has a checkpoint starts when the stream ends: then it never does.

use std::rc::Rc;
use std::time::Instant;

use p2mtrack_migrate::fault::{Fault, in_full};
use p2mtrack_migrate::kind::Kind;
use p2mtrack_migrate::source::Source;
use p2mtrack_migrate::toolstack::Toolstack;
use p2mtrack_xen::{SuspendError, Suspender};

use crate::line::Line;
use crate::message::{Level, Message};
use crate::note::note;

/// libxl at the other end of the line.
#[derive(Debug)]
pub struct Libxl {
    line: Rc<Line>,
    /// Stands in for libxl if it is gone.
    suspender: Suspender,
    suspended_at: Option<Instant>,
    /// A Remus receiver may have a checkpoint, from which it starts.
    has_checkpoint: bool,
}

impl Libxl {
    /// For a guest.
    ///
    /// # Errors
    /// No xenstore.
    pub fn new(line: Rc<Line>, source: &Source) -> Result<Self, Fault> {
        let suspender = Suspender::new(source.domain()).map_err(|error| Fault::suspend(&error))?;
        Ok(Self { line, suspender, suspended_at: None, has_checkpoint: false })
    }

    /// Since when the guest is suspended, if it is.
    #[must_use]
    pub const fn suspended_at(&self) -> Option<Instant> {
        self.suspended_at
    }

    /// The save has failed, and all is released: tells libxl, which resumes the guest. If libxl is
    /// gone, the guest is resumed here.
    ///
    /// # Errors
    /// It stands still, or may suspend later.
    pub fn fail(&mut self, fault: &Fault) -> Result<(), SuspendError> {
        if !self.line.is_gone() {
            self.line.log(Level::Error, &format!("{}: {}", fault.kind.name(), fault.words));
            if self.line.ask(Message::Complete(-1, fault.errno)).is_ok() {
                return Ok(());
            }
        }
        self.stand_in()
    }

    /// libxl is gone.
    fn stand_in(&mut self) -> Result<(), SuspendError> {
        if self.has_checkpoint {
            note("libxl is gone; the guest is left as it is, as its backup starts");
            return Ok(());
        }
        self.suspender.call_off()?;
        note("libxl is gone, and no receiver starts without it: the guest runs on");
        Ok(())
    }

    /// Why a guest is not suspended although libxl has asked it.
    fn not_suspended(source: &mut Source) -> Fault {
        match source.info() {
            Ok(info) if info.shutdown.is_some_and(|_| !info.is_suspended()) => {
                let reason = info.shutdown.unwrap_or_default();
                Fault::suspend(&SuspendError::Ended { reason })
            }
            Ok(_) => Fault::new(
                Kind::SuspendLate,
                "libxl could not suspend the guest: its own messages say why",
            ),
            Err(error) => error.into(),
        }
    }
}

impl Toolstack for Libxl {
    fn prepare(&mut self, _: &mut Source) -> Result<(), Fault> {
        self.suspender.is_asked().map_err(|error| Fault::suspend(&error))
    }

    fn suspend(
        &mut self,
        source: &mut Source,
        _is_cancelled: &dyn Fn() -> bool, // libxl ends a suspend itself, and always replies
    ) -> Result<(), Fault> {
        let is_good = self.line.ask(Message::Suspend)? == 1;
        self.suspended_at = Some(Instant::now());
        if !is_good || !source.info()?.is_suspended() {
            return Err(Self::not_suspended(source));
        }
        self.suspender.obeyed();
        Ok(())
    }

    fn call_off(&mut self, _: &mut Source) -> Result<(), SuspendError> {
        Ok(()) // see `fail`
    }

    fn resume(&mut self, _: &mut Source) -> Result<(), Fault> {
        if self.line.ask(Message::Postcopy)? != 1 {
            let words = "libxl could not resume the guest: its own messages say why";
            return Err(Fault::new(Kind::ResumeFailed, words));
        }
        self.suspender.forget();
        self.suspended_at = None;
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<bool, Fault> {
        // What libxl writes behind our record makes it a checkpoint that a receiver starts from.
        self.has_checkpoint = true;
        Ok(self.line.ask(Message::Checkpoint)? == 1)
    }
}

/// Words about a guest that stands still.
#[must_use]
pub fn stands_still(error: &SuspendError) -> String {
    format!("libxl is gone, and the guest is not resumed: {}", in_full(error))
}
