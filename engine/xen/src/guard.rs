// SPDX-License-Identifier: MIT OR Apache-2.0
//! A separate process that switches log-dirty off when its tracker dies, by whatever signal, and
//! resumes a guest that the tracker has asked to suspend.
//! Not here: a tracker that ends normally, which does that itself; the guard then does nothing.
//! Units: messages of one byte from the tracker: switch on, armed, disarmed, suspends, suspended,
//! runs, dismiss; an end of the stream means that the tracker died.
//! Threads: one in the guard; one owner in the tracker.
//! Source: own. The guard is started before log-dirty is on and switches it on itself, so that a
//! kill between the two steps does no harm. It holds the domain's lock through its standard output,
//! and has a process group of its own, so that Ctrl-C in a terminal does not end it.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{error, fmt};

use crate::domain::Domain;
use crate::error::XenError;
use crate::lock::{self, Lock};
use crate::log_dirty::{IfOn, XenLogDirty};
use crate::suspend::{SuspendError, Suspender};
use crate::version::{Unknown, Xen};

const READY: u8 = b'r';
const ENABLE: u8 = b'e';
const TAKE_OVER: u8 = b't';
const ARMED: u8 = b'a';
const DISARMED: u8 = b'd';
const SUSPENDS: u8 = b's';
const RUNS: u8 = b'g';
const SUSPENDED: u8 = b'w';
const DISMISS: u8 = b'h';
const STAND_DOWN: [u8; 2] = [DISARMED, RUNS];

/// How long a guard may take to answer: switching log-dirty on or off takes longest.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a guard may take to clean up: a guest that has taken a request is waited for.
const LEAVE_PATIENCE: Duration = Duration::from_secs(180);

/// Why there is no guard, or why a guard failed.
#[derive(Debug)]
pub enum GuardError {
    /// It can't be started, or does not answer.
    Process(io::Error),
    /// Another domain has the number of the one that it was started for.
    Other,
    /// The lock file was removed.
    Void,
    /// The hypervisor refuses a call.
    Xen(XenError),
    /// A guest that was asked to suspend can't be resumed.
    Suspend(SuspendError),
}

/// What a tracker that died has left to its guard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// Log-dirty was on.
    pub log_dirty: bool,
    /// The guest was asked to suspend.
    pub suspend: bool,
}

impl fmt::Display for GuardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(_) => f.write_str("the guard process can't start, or does not answer"),
            Self::Other => f.write_str("the guard's domain is gone, and another has its number"),
            Self::Void => f.write_str("the lock file was removed: log-dirty may be left on"),
            Self::Xen(cause) => cause.fmt(f),
            Self::Suspend(cause) => cause.fmt(f),
        }
    }
}

impl error::Error for GuardError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Process(cause) => Some(cause),
            Self::Suspend(cause) => cause.source(),
            Self::Other | Self::Void | Self::Xen(_) => None,
        }
    }
}

/// The tracker's handle of its guard.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    line: UnixStream,
}

impl Guard {
    /// Starts a guard and waits until it is ready. `command` runs [`stand_guard`] with the lock's
    /// path as its last argument, which is added here.
    ///
    /// # Errors
    /// See [`GuardError`].
    pub fn begin(mut command: Command, lock: &Lock) -> Result<Self, GuardError> {
        let (line, theirs) = UnixStream::pair().map_err(GuardError::Process)?;
        line.set_read_timeout(Some(PATIENCE)).map_err(GuardError::Process)?;
        let shared = lock.share().map_err(GuardError::Process)?;
        command.arg(lock.path()).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(shared);
        let child = command.process_group(0).spawn().map_err(GuardError::Process)?;
        drop(command); // with our copies of its files: else the stream does not end when it dies
        let mut guard = Self { child, line };
        let mut word = [0];
        match guard.line.read_exact(&mut word) {
            Ok(()) if word == [READY] => Ok(guard),
            result => {
                guard.end();
                Err(GuardError::Process(result.err().unwrap_or(io::ErrorKind::InvalidData.into())))
            }
        }
    }

    /// Makes the guard switch log-dirty on. From then on it acts when the tracker dies.
    ///
    /// # Errors
    /// Xen refuses, and the guard is not armed; or the guard does not answer, and its state is
    /// unknown.
    pub fn enable(&mut self, log: &mut XenLogDirty, if_on: IfOn) -> Result<(), GuardError> {
        match self.ask(if if_on == IfOn::TakeOver { TAKE_OVER } else { ENABLE })? {
            0 => {
                log.adopt();
                Ok(())
            }
            errno => Err(GuardError::Xen(log.refused(errno))),
        }
    }

    /// Arms a guard that replaces another, if its tracker already has log-dirty on.
    ///
    /// # Errors
    /// The guard has ended.
    pub fn arm(&mut self, armed: bool) -> Result<(), GuardError> {
        self.send(if armed { ARMED } else { DISARMED })
    }

    /// The tracker has switched log-dirty off, and gives the guest up: whatever becomes of the
    /// tracker now, the guard does nothing.
    ///
    /// # Errors
    /// The guard has ended.
    pub(crate) fn stand_down(&mut self) -> Result<(), GuardError> {
        self.line.write_all(&STAND_DOWN).map_err(GuardError::Process)
    }

    /// Tells the guard that the guest will be asked to suspend: from then on it resumes the guest
    /// when the tracker dies.
    ///
    /// # Errors
    /// The guard has no xenstore, or does not answer: the guest must not be asked.
    pub fn suspends(&mut self) -> Result<(), GuardError> {
        match self.ask(SUSPENDS)? {
            0 => Ok(()),
            errno => Err(GuardError::Process(io::Error::from_raw_os_error(errno))),
        }
    }

    /// Tells the guard that the guest runs again, or that it is to stay suspended.
    ///
    /// # Errors
    /// The guard has ended.
    pub fn runs(&mut self) -> Result<(), GuardError> {
        self.send(RUNS)
    }

    /// Tells the guard that the guest is suspended, and to be resumed: it waits for nothing then.
    ///
    /// # Errors
    /// The guard has ended.
    pub fn is_suspended(&mut self) -> Result<(), GuardError> {
        self.send(SUSPENDED)
    }

    /// Sends a word that is answered with an errno.
    fn ask(&mut self, word: u8) -> Result<i32, GuardError> {
        self.send(word)?;
        let mut errno = [0; 4];
        self.line.read_exact(&mut errno).map_err(GuardError::Process)?;
        Ok(i32::from_le_bytes(errno))
    }

    fn send(&mut self, word: u8) -> Result<(), GuardError> {
        self.line.write_all(&[word]).map_err(GuardError::Process)
    }

    /// Whether it still runs.
    pub fn is_there(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A guard that has nothing to do any more. `domain` is closed with it.
    #[must_use]
    pub(crate) const fn dismiss(self, domain: Option<Domain>) -> Dismissed {
        Dismissed { guard: self, _domain: domain }
    }

    /// Leaves it alone, as if this process had died, and waits until it has cleaned up. Says
    /// whether it has; one that has not is killed.
    pub(crate) fn leave(self) -> bool {
        let Self { mut child, line } = self;
        drop(line);
        let begun = Instant::now();
        while matches!(child.try_wait(), Ok(None)) && begun.elapsed() < LEAVE_PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        let _ = child.kill(); // one that has ended is not killed
        child.wait().is_ok_and(|status| status.success())
    }

    /// Kills it, whatever it does.
    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A guard that has nothing to do any more. When this is dropped, its process has ended. If it is
/// forgotten, the guard ends when its tracker does.
#[derive(Debug)]
pub struct Dismissed {
    guard: Guard,
    /// Closed only when this is dropped, because that is slow.
    _domain: Option<Domain>,
}

impl Drop for Dismissed {
    fn drop(&mut self) {
        let _ = self.guard.send(DISMISS); // one that has ended needs no message
        let begun = Instant::now();
        while self.guard.is_there() && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        self.guard.end();
    }
}

/// Makes commands that run the present program as a guard of a domain. `name` is what processes
/// show, `word` the first argument. Then come `--unknown-xen`, if that is accepted, domain ID and
/// UUID.
pub fn guard_command(
    name: &'static str,
    word: &'static str,
    domain: &Domain,
    unknown: Unknown,
) -> impl Fn() -> Command + use<> {
    let words = [domain.domid().to_string(), domain.uuid().to_string()];
    move || {
        // The running program, even if its file was replaced since.
        let mut command = Command::new("/proc/self/exe");
        command.arg0(name).arg(word);
        if unknown == Unknown::Accept {
            command.arg("--unknown-xen");
        }
        command.args(&words);
        command
    }
}

/// The guard process: waits until its tracker dismisses it or dies. Returns what it had to end.
///
/// # Errors
/// See [`GuardError`].
pub fn stand_guard(
    (domid, uuid): (u16, &str),
    path: &Path,
    unknown: Unknown,
) -> Result<Inherited, GuardError> {
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(GuardError::Process)?;
    let mut line = UnixStream::from(stdin);
    // Whatever may fail at the start comes before READY.
    let xen = Xen::open(unknown).map_err(GuardError::Xen)?;
    let mut domain = Domain::open(&xen, domid).map_err(GuardError::Xen)?;
    if domain.uuid().to_string() != uuid {
        return Err(GuardError::Other);
    }
    let mut log = XenLogDirty::new(&domain).map_err(GuardError::Xen)?;
    line.write_all(&[READY]).map_err(GuardError::Process)?;
    let mut suspender = None;
    let enable = |if_on| log.switch_on(if_on).map_or_else(|error| error.errno(), |()| 0);
    let follow = |step| match (step, &mut suspender) {
        (Step::Suspends, _) => match Suspender::in_place_of_another(&domain) {
            Ok(new) => {
                suspender = Some(new);
                0
            }
            Err(SuspendError::Ended { .. }) => libc::EBUSY,
            Err(_) => libc::EIO,
        },
        (Step::IsSuspended, Some(suspender)) => {
            suspender.obeyed();
            0
        }
        (Step::IsSuspended, None) => libc::EINVAL,
    };
    let left = watch(&mut line, enable, follow);
    if left == Inherited::default() {
        return Ok(left);
    }
    // First of all: a guest that stands still is worse than a log that is on.
    let called_off = match (&mut suspender, left.suspend) {
        (Some(suspender), true) => suspender.call_off().map_err(GuardError::Suspend),
        _ => Ok(()),
    };
    // If the file was removed, the lock is void, and another program may have log-dirty on now.
    let held = io::stdout().as_fd().try_clone_to_owned().map_err(GuardError::Process)?;
    if matches!(lock::is_named(&held.into(), path), Ok(false)) {
        return called_off.and(Err(GuardError::Void));
    }
    // A domain that is gone has no log. One that Xen gives no answer for may have one.
    if left.log_dirty && !domain.is_gone() {
        log.switch_off_after().map_err(GuardError::Xen)?;
    }
    called_off?;
    // We hold the lock. If the file stays, it says that log-dirty is on; the next run corrects it.
    let _ = fs::remove_file(path);
    Ok(left)
}

/// What a tracker does with the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is about to ask the guest to suspend.
    Suspends,
    /// It has seen the guest suspended.
    IsSuspended,
}

/// What a tracker left that died; nothing if it dismissed the guard.
fn watch(
    line: &mut (impl Read + Write),
    mut enable: impl FnMut(IfOn) -> i32,
    mut follow: impl FnMut(Step) -> i32,
) -> Inherited {
    let (mut left, mut word) = (Inherited::default(), [0]);
    loop {
        match line.read_exact(&mut word) {
            Ok(()) => match word[0] {
                ENABLE | TAKE_OVER => {
                    let take_over = word[0] == TAKE_OVER;
                    let errno = enable(if take_over { IfOn::TakeOver } else { IfOn::Refuse });
                    left.log_dirty |= errno == 0;
                    answer(line, errno);
                }
                ARMED => left.log_dirty = true,
                DISARMED => left.log_dirty = false,
                SUSPENDS => {
                    let errno = follow(Step::Suspends);
                    left.suspend |= errno == 0;
                    answer(line, errno);
                }
                RUNS => left.suspend = false,
                SUSPENDED => left.suspend = follow(Step::IsSuspended) == 0,
                _ => return Inherited::default(),
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return left,
        }
    }
}

/// If the tracker does not get it, it is gone: the next read finds that.
fn answer(line: &mut impl Write, errno: i32) {
    let _ = line.write_all(&errno.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a guard whose tracker sends these words and dies, while Xen answers with `errno`.
    /// Returns what the guard has to end, what it asked of Xen, and what the tracker received.
    fn guard(words: &[u8], errno: i32) -> (Inherited, Vec<IfOn>, Vec<u8>) {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.write_all(words).expect("heard");
        ours.shutdown(std::net::Shutdown::Write).expect("dead");
        let mut asked = Vec::new();
        let enable = |if_on| {
            asked.push(if_on);
            errno
        };
        let left = watch(&mut theirs, enable, |_| errno);
        drop(theirs);
        let mut heard = Vec::new();
        ours.read_to_end(&mut heard).expect("read");
        (left, asked, heard)
    }

    const LOG: Inherited = Inherited { log_dirty: true, suspend: false };

    #[test]
    fn a_guard_acts_only_when_log_dirty_is_on_and_its_tracker_is_gone() {
        for (words, acts) in [("", false), ("a", true), ("ad", false), ("ada", true), ("ah", false)]
        {
            assert_eq!(guard(words.as_bytes(), 0).0.log_dirty, acts, "{words}");
        }
    }

    #[test]
    fn a_guard_that_switched_it_on_is_armed_by_that() {
        assert_eq!(guard(b"e", 0), (LOG, vec![IfOn::Refuse], vec![0; 4]));
        assert_eq!(guard(b"t", 0), (LOG, vec![IfOn::TakeOver], vec![0; 4]));
        let refused = libc::EINVAL.to_le_bytes().to_vec();
        assert_eq!(guard(b"e", libc::EINVAL), (Inherited::default(), vec![IfOn::Refuse], refused));
        assert_eq!(guard(b"eh", 0).0, Inherited::default());
    }

    #[test]
    fn a_guard_resumes_a_guest_that_was_asked_to_suspend_until_it_is_told_that_it_runs() {
        for (words, suspend) in
            [("s", true), ("sg", false), ("sgs", true), ("sgw", true), ("sh", false)]
        {
            assert_eq!(guard(words.as_bytes(), 0).0, Inherited { log_dirty: false, suspend });
        }
        assert_eq!(guard(b"es", 0).0, Inherited { suspend: true, ..LOG });
        assert_eq!(guard(&[b"es", &STAND_DOWN[..]].concat(), 0).0, Inherited::default());
        // Without xenstore it can't, and says so.
        assert_eq!(
            guard(b"s", libc::EIO),
            (Inherited::default(), vec![], libc::EIO.to_le_bytes().to_vec())
        );
    }
}
