// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals that ask a program to end.
//! Not here: what is done then.
//! Units: signals by their numbers.
//! Threads: one of its own waits for them.
//! Source: Linux `signal(7)`. A signal that is ignored at the start, such as HUP under `nohup`, or
//! INT in a background job, is not meant for this program, unless it says so.

use std::{fs, io, thread};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Signals that ask a program to end.
const ENDING: [i32; 3] = [SIGHUP, SIGINT, SIGTERM];

/// Calls `each` for those in `always`, and for those that were not ignored at the start, on a
/// thread of its own. They do not end the program any more.
///
/// # Errors
/// There is no thread.
pub fn listen(always: &[i32], each: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    let ignored = ignored();
    let heard = |signal: &i32| always.contains(signal) || ignored >> (signal - 1) & 1 == 0;
    let mut signals = Signals::new(ENDING.into_iter().filter(heard))?;
    let listen = move || signals.forever().for_each(each);
    thread::Builder::new().name("signals".to_owned()).spawn(listen).map(|_| ())
}

/// The signals that the program ignores, one bit each from signal 1; none if that is unknown.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
