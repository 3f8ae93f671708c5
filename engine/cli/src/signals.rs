// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals: what ends the program waits while a file gets its name, and a file that grows too large
//! is an error.
//! Not here: what is to be done when the program is told to end (`track`).
//! Units: signals by their numbers.
//! Threads: one of its own waits for signals, from the first call that asks for it.
//! Source: Linux `signal(7)`. What the program was begun without, such as HUP below `nohup`, stays
//! so.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::failure::Failure;

/// What tells a program to end.
const ENDING: [i32; 3] = [SIGHUP, SIGINT, SIGTERM];
/// Held while a file has a name that it is not to keep.
static NAMING: Mutex<()> = Mutex::new(());
/// Somebody sees to the ending signals.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// From now on a write past the limit of a file's size fails, as one to a full disk does.
pub(crate) fn limits_are_errors() {
    static ONCE: Once = Once::new();
    // Without a handler the program ends by the signal, which says as much.
    ONCE.call_once(|| _ = signal_hook::flag::register(SIGXFSZ, Arc::default()));
}

/// Does something that the ending signals have to wait for.
pub(crate) fn uninterrupted<T>(act: impl FnOnce() -> T) -> Result<T, Failure> {
    if !TAKEN.swap(true, Ordering::Relaxed) {
        // ORDER: a flag of its own, set by the thread that runs the command
        listen(&[], |signal| {
            let _naming = NAMING.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = emulate_default_handler(signal); // ends the program
        })?;
    }
    let _naming = NAMING.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(act())
}

/// From now on no ending signal ends the program: each is told to the receiver. INT and TERM also
/// to a program that was begun without them, as shells begin those in the background: who sends one
/// of them means this program.
pub(crate) fn hold() -> Result<Receiver<()>, Failure> {
    let (send, receive) = channel();
    TAKEN.store(true, Ordering::Relaxed); // ORDER: as above
    listen(&[SIGINT, SIGTERM], move |_| {
        let _ = send.send(()); // nobody listens any more when the end has come already
    })?;
    Ok(receive)
}

/// Hears of the ending signals: of `always`, and of those that were not ignored from the beginning.
fn listen(always: &[i32], each: impl Fn(i32) + Send + 'static) -> Result<(), Failure> {
    let ignored = ignored();
    let heard = |signal: &i32| always.contains(signal) || ignored >> (signal - 1) & 1 == 0;
    let heard = ENDING.into_iter().filter(heard);
    let begun = Signals::new(heard).and_then(|mut signals| {
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || signals.forever().for_each(each))
    });
    begun
        .map(|_| ())
        .map_err(|source| Failure::Unusable { about: "signals".to_owned(), source: source.into() })
}

/// The signals that the program ignores, a bit each from 1 on; none where the system does not say.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
