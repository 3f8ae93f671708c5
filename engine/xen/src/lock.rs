// SPDX-License-Identifier: MIT OR Apache-2.0
//! One tracker a domain: a file that the tracker locks, and what a dead tracker left behind.
//! Not here: whether another program has log-dirty on (Xen refuses to switch it on twice).
//! Units: a file for each domain, named by number and UUID; in it the tracker's pid, and
//! `log-dirty` while it is on.
//! Threads: one owner. The lock is the kernel's (flock), shared with the guard that inherits the
//! file.
//! Source: own. The lock's owner removes the file, so that a lock is valid only while its file
//! still has that name.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{error, fmt, io, process};

use crate::domain::Uuid;

/// Where the files are.
const DIRECTORY: &str = "/run/p2mtrack";

/// What the file says while log-dirty is on.
const ON: &str = "log-dirty";

/// The lock of one domain.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

/// What the previous tracker left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// Log-dirty is on: it was killed, and its guard too.
    LogDirty {
        /// The previous tracker.
        pid: u32,
    },
}

impl Left {
    /// What was mended, for people; nothing if nothing was left.
    #[must_use]
    pub fn words(self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::LogDirty { pid } => Some(format!(
                "process {pid} and its guard died while tracking: log-dirty was left on, and is \
                 now off"
            )),
        }
    }
}

/// The lock can't be taken.
#[derive(Debug)]
pub enum LockError {
    /// Another tracker holds it.
    Held {
        /// Which domain.
        domid: u16,
        /// The tracker's process, if the file names it.
        pid: Option<u32>,
    },
    /// The file can't be used.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { domid, pid: Some(pid) } => {
                write!(f, "domain {domid} is tracked by process {pid}")
            }
            Self::Held { domid, pid: None } => {
                write!(f, "domain {domid} is tracked by another process")
            }
            Self::File { path, .. } => write!(f, "lock file {} can't be used", path.display()),
        }
    }
}

impl error::Error for LockError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::Held { .. } => None,
        }
    }
}

impl Lock {
    /// Takes the lock of a domain. Also returns what was left behind.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take(domid: u16, uuid: Uuid) -> Result<(Self, Left), LockError> {
        Self::take_in(Path::new(DIRECTORY), domid, uuid)
    }

    fn take_in(directory: &Path, domid: u16, uuid: Uuid) -> Result<(Self, Left), LockError> {
        let path = directory.join(format!("{domid}-{uuid}"));
        let error = |source| LockError::File { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(error)?;
        loop {
            let mut file = open(&path).map_err(error)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let pid = words(&mut file).ok().and_then(|words| pid(&words));
                    return Err(LockError::Held { domid, pid });
                }
                Err(TryLockError::Error(source)) => return Err(error(source)),
                Ok(()) => {}
            }
            // The previous owner may have removed the file: then this lock is void.
            if !is_named(&file, &path).map_err(error)? {
                continue;
            }
            let words = words(&mut file).map_err(error)?;
            let on = words.split_whitespace().nth(1) == Some(ON);
            let left =
                if on { Left::LogDirty { pid: pid(&words).unwrap_or(0) } } else { Left::Nothing };
            let mut lock = Self { file, path: path.clone() };
            if left == Left::Nothing {
                lock.note(false)?;
            }
            return Ok((lock, left));
        }
    }

    /// Records whether we have log-dirty on. Until the first note the file says what was left
    /// behind.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn note(&mut self, on: bool) -> Result<(), LockError> {
        let words =
            format!("{}{}\n", process::id(), if on { format!(" {ON}") } else { String::new() });
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(words.as_bytes())
        };
        write().map_err(|source| LockError::File { path: self.path.clone(), source })
    }

    /// Another handle of the same lock, for a guard.
    pub(crate) fn share(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its file was removed, so that another program may hold a lock of that name.
    pub(crate) fn is_void(&self) -> bool {
        matches!(is_named(&self.file, &self.path), Ok(false))
    }

    /// Releases the lock: log-dirty is off.
    ///
    /// # Errors
    /// The file can't be removed; the lock is free all the same.
    pub fn release(self) -> Result<(), LockError> {
        fs::remove_file(&self.path).map_err(|source| LockError::File { path: self.path, source })
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Whether a file is still the one of this name.
pub(crate) fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn words(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn pid(words: &str) -> Option<u32> {
    words.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = Uuid([7; 16]);

    #[test]
    fn a_domain_has_one_tracker_and_its_pid_is_reported() {
        let directory = tempfile::tempdir().expect("a directory");
        let take = || Lock::take_in(directory.path(), 3, UUID);
        let (lock, left) = take().expect("free");
        assert_eq!(left, Left::Nothing);
        let error = take().expect_err("held");
        assert_eq!(error.to_string(), format!("domain 3 is tracked by process {}", process::id()));
        // Another UUID or another number is another file.
        assert!(Lock::take_in(directory.path(), 3, Uuid([8; 16])).is_ok());
        assert!(Lock::take_in(directory.path(), 4, UUID).is_ok());
        lock.release().expect("released");
        assert!(take().is_ok());
    }

    #[test]
    fn what_a_dead_tracker_left_is_reported_until_it_is_fixed() {
        let directory = tempfile::tempdir().expect("a directory");
        let take = || Lock::take_in(directory.path(), 3, UUID).expect("free");
        let (mut lock, _) = take();
        lock.note(true).expect("noted");
        drop(lock); // killed, and its guard too
        for _ in 0..2 {
            let (_, left) = take();
            assert_eq!(left, Left::LogDirty { pid: process::id() });
        }
        let (mut lock, _) = take();
        lock.note(false).expect("noted");
        drop(lock);
        assert_eq!(take().1, Left::Nothing);
    }

    #[test]
    fn a_guard_holds_the_lock_when_its_tracker_is_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let (lock, _) = Lock::take_in(directory.path(), 3, UUID).expect("free");
        let shared = lock.share().expect("shared");
        drop(lock);
        assert!(Lock::take_in(directory.path(), 3, UUID).is_err());
        drop(shared);
        assert!(Lock::take_in(directory.path(), 3, UUID).is_ok());
    }

    #[test]
    fn a_lock_on_a_file_that_was_removed_is_void() {
        let directory = tempfile::tempdir().expect("a directory");
        let (lock, _) = Lock::take_in(directory.path(), 3, UUID).expect("free");
        fs::remove_file(lock.path()).expect("removed");
        let (again, _) = Lock::take_in(directory.path(), 3, UUID).expect("another file");
        assert!(is_named(&again.file, again.path()).expect("there"));
        assert!(!is_named(&lock.file, lock.path()).expect("there"));
    }

    #[test]
    fn a_link_is_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(format!("3-{UUID}"));
        std::os::unix::fs::symlink("/etc/passwd", path).expect("a link");
        assert!(matches!(Lock::take_in(directory.path(), 3, UUID), Err(LockError::File { .. })));
    }
}
