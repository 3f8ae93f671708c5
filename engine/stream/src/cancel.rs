// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cancels a write that is blocked, from any thread.
//! Not here: the write (`fd`).
//! Units: an eventfd: readable from the cancellation on.
//! Threads: any.
//! Source: eventfd(2), poll(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// A cancellation that has, or has not, happened. It is never taken back.
#[derive(Debug)]
pub struct Cancel {
    /// For a write that is about to begin; the event ends one that waits.
    happened: AtomicBool,
    event: OwnedFd,
}

impl Cancel {
    /// Not cancelled.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { happened: AtomicBool::new(false), event })
    }

    /// Cancels: a write that is blocked ends, and none begins.
    pub fn cancel(&self) {
        self.happened.store(true, Ordering::Relaxed); // ORDER: nothing else is shared
        // The counter can't overflow into an error that matters: it is readable then, too.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Whether it has happened.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.happened.load(Ordering::Relaxed) // ORDER: as in `cancel`
    }

    /// Waits for so long, or until the cancellation. Says whether it was that.
    ///
    /// # Errors
    /// The operating system's.
    pub fn wait(&self, time: Duration) -> io::Result<bool> {
        let until = Instant::now().checked_add(time); // or for ever
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(&self.event, PollFlags::IN)], left.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(fault) => return Err(fault.into()),
                Ok(ready) => return Ok(ready > 0),
            }
        }
    }

    /// Waits until `fd` can be written, or the cancellation. Says whether it was that.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn wait_to_write(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        loop {
            let mut both = [
                PollFd::new(&self.event, PollFlags::IN),
                PollFd::from_borrowed_fd(fd, PollFlags::OUT),
            ];
            match poll(&mut both, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(fault) => return Err(fault.into()),
                Ok(_) => return Ok(!both[0].revents().is_empty()),
            }
        }
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
