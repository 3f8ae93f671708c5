// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process does to itself: becomes another program, ignores SIGPIPE, learns what its
//! children took.
//! Not here: which program, and when.
//! Units: processor time.
//! Threads: any, but for `become_program`, which ends all others.
//! Source: execv(3), signal(7), getrusage(2). std's way to start a program resets SIGPIPE and the
//! signal mask: a program that takes our place gets them as we did.

#![expect(unsafe_code, reason = "calls of the C library; docs/safety.md")]

use std::ffi::{CString, c_char};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};

/// The command line as `main` got it: pointers that end with a null.
#[derive(Clone, Copy, Debug)]
pub struct Arguments(*const *const c_char);

impl Arguments {
    /// Takes `main`'s second argument.
    ///
    /// # Safety
    /// It is that argument: it and its strings live as long as the process, unchanged.
    #[must_use]
    pub const unsafe fn new(argv: *const *const c_char) -> Self {
        Self(argv)
    }

    /// Becomes the program at `path` with these arguments, the environment, all descriptors that
    /// are not close-on-exec, and the signals as they are. Returns only if that fails.
    #[must_use]
    pub fn become_program(self, path: &Path) -> io::Error {
        let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
            return io::ErrorKind::InvalidInput.into();
        };
        // SAFETY: `path` is a string; the arguments are as `new` demands.
        unsafe { libc::execv(path.as_ptr(), self.0) };
        io::Error::last_os_error()
    }
}

/// The program that this command starts ends when this program does.
pub fn die_with_parent(command: &mut Command) {
    let ask = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: it makes one call of the kernel, which is allowed between fork and exec.
    unsafe { command.pre_exec(ask) };
}

/// From now on a write to a pipe that nobody reads is an error.
pub fn ignore_sigpipe() {
    // SAFETY: sets a disposition to one that runs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Signals that end this program reach it, even if who started it has them blocked, as libxl's
/// thread may.
pub fn unblock_ending_signals() {
    // SAFETY: all zeros is a valid `sigset_t`.
    let mut signals: libc::sigset_t = unsafe { std::mem::zeroed() };
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: writes to `signals`.
        unsafe { libc::sigaddset(&raw mut signals, signal) };
    }
    // SAFETY: reads `signals`.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const signals, std::ptr::null_mut()) };
}

/// The processor time of children that have ended and were waited for.
#[must_use]
pub fn childrens_time() -> Duration {
    // SAFETY: all zeros is a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes to `usage`.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}
