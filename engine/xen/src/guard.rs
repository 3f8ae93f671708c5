// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process of its own that switches log-dirty off when its tracker dies, by whatever signal.
//! Not here: a tracker that ends well, which does it itself and sends the guard home.
//! Units: words of one byte from the tracker: armed, disarmed, go home; the end of the line is its death.
//! Threads: one in the guard; one owner in the tracker.
//! Source: own. It is begun before log-dirty is switched on, holds the lock of the domain through its standard output,
//! and stands in a process group of its own, so that Ctrl-C in a terminal leaves it alone.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{error, fmt};

use p2mtrack::port::{LogDirty, PortError};

use crate::domain::Domain;
use crate::error::XenError;
use crate::lock::Lock;
use crate::log_dirty::{IfOn, XenLogDirty};
use crate::version::{Unknown, Xen};

const READY: u8 = b'r';
const ARMED: u8 = b'a';
const DISARMED: u8 = b'd';
const HOME: u8 = b'h';

/// There is no guard.
#[derive(Debug)]
pub enum GuardError {
    /// It can't be begun, or does not answer.
    Process(io::Error),
    /// It can't do what it is there for.
    Xen(XenError),
    /// It could not switch log-dirty off.
    LogDirty(PortError),
}

impl fmt::Display for GuardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process(_) => "the guard process can't be begun",
            Self::Xen(_) => "the guard can't see to the domain",
            Self::LogDirty(_) => "the guard can't switch log-dirty off",
        })
    }
}

impl error::Error for GuardError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Process(cause) => Some(cause),
            Self::Xen(cause) => Some(cause),
            Self::LogDirty(cause) => Some(&**cause),
        }
    }
}

/// The tracker's end of it.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    line: UnixStream,
}

impl Guard {
    /// Begins a guard and waits until it is ready. `command` runs [`stand_guard`] with the lock's path as its last
    /// argument, which is added here.
    ///
    /// # Errors
    /// See [`GuardError`].
    pub fn begin(mut command: Command, lock: &Lock) -> Result<Self, GuardError> {
        let (line, theirs) = UnixStream::pair().map_err(GuardError::Process)?;
        let shared = lock.share().map_err(GuardError::Process)?;
        command.arg(lock.path()).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(shared);
        let child = command.process_group(0).spawn().map_err(GuardError::Process)?;
        drop(command); // with our copies of its files: the line must end when it dies
        let mut guard = Self { child, line };
        let mut word = [0];
        match guard.line.read_exact(&mut word) {
            Ok(()) if word == [READY] => Ok(guard),
            result => {
                let _ = guard.child.wait(); // it ended, or will: its line is gone
                Err(GuardError::Process(result.err().unwrap_or(io::ErrorKind::InvalidData.into())))
            }
        }
    }

    /// From now on, and until it is disarmed, it acts when the tracker dies.
    ///
    /// # Errors
    /// It is not there any more.
    pub fn arm(&mut self, armed: bool) -> Result<(), GuardError> {
        let word = if armed { ARMED } else { DISARMED };
        self.line.write_all(&[word]).map_err(GuardError::Process)
    }

    /// Whether it is still there.
    pub fn is_there(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it home: log-dirty is off.
    pub fn dismiss(mut self) {
        // One that is gone needs no word, and nobody waits for the status of the other.
        let _ = self.line.write_all(&[HOME]);
        let _ = self.child.wait();
    }
}

/// What a guard does: stands by until its tracker sends it home or dies. Returns whether it had to act.
///
/// # Errors
/// See [`GuardError`].
pub fn stand_guard(domid: u16, lock: &Path, unknown: Unknown) -> Result<bool, GuardError> {
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(GuardError::Process)?;
    let mut line = UnixStream::from(stdin);
    // All that may fail comes before it says that it is ready.
    let xen = Xen::open(unknown).map_err(GuardError::Xen)?;
    let mut domain = Domain::open(&xen, domid).map_err(GuardError::Xen)?;
    let mut log = XenLogDirty::new(domain.another().map_err(GuardError::Xen)?, IfOn::Refuse);
    line.write_all(&[READY]).map_err(GuardError::Process)?;
    if !watch(&mut line) {
        return Ok(false);
    }
    // A domain that is gone has no log.
    if domain.info().is_ok() {
        log.disable().map_err(GuardError::LogDirty)?;
    }
    let _ = fs::remove_file(lock); // held by us; if it stays it says what is not so, and the next run puts it right
    Ok(true)
}

/// Whether the tracker died while the guard was armed.
fn watch(line: &mut impl Read) -> bool {
    let (mut armed, mut word) = (false, [0]);
    loop {
        match line.read_exact(&mut word) {
            Ok(()) => match word[0] {
                ARMED => armed = true,
                DISARMED => armed = false,
                _ => return false,
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return armed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_acts_only_when_armed_and_left_alone() {
        assert!(!watch(&mut &b""[..]));
        assert!(watch(&mut &b"a"[..]));
        assert!(!watch(&mut &b"ad"[..]));
        assert!(watch(&mut &b"ada"[..]));
        assert!(!watch(&mut &b"ah"[..]));
    }
}
