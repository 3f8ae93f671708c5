// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals: ending signals wait while a file gets its name, and a file past the size limit is a
//! write error.
//! Not here: what a command does on an ending signal (`track`).
//! Units: signals by their numbers.
//! Threads: one of its own waits for signals, from the first call that needs it.
//! Source: Linux `signal(7)`; `p2mtrack_migrate::signals`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, Once, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::low_level::emulate_default_handler;

use crate::failure::Failure;

/// Held while a file may have a temporary name.
static NAMING: Mutex<()> = Mutex::new(());
/// Whether a thread handles the ending signals.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// From now on a write past the file size limit fails, like a write to a full disk.
pub(crate) fn limits_are_errors() {
    static ONCE: Once = Once::new();
    // If this fails, the signal ends the program, which shows the cause as well.
    ONCE.call_once(|| _ = signal_hook::flag::register(SIGXFSZ, Arc::default()));
}

/// Runs `act`; ending signals wait for it.
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

/// From now on ending signals don't end the program, but go to the receiver. INT and TERM do so
/// even if they were ignored at the start, as in background jobs of a shell: their sender means
/// this program.
pub(crate) fn hold() -> Result<Receiver<()>, Failure> {
    let (send, receive) = channel();
    on_end(move || {
        let _ = send.send(()); // fails if the program is already ending
    })?;
    Ok(receive)
}

/// The same, but calls `act` for each of them, on a thread of its own.
pub(crate) fn on_end(act: impl Fn() + Send + 'static) -> Result<(), Failure> {
    TAKEN.store(true, Ordering::Relaxed); // ORDER: as above
    listen(&[SIGINT, SIGTERM], move |_| act())
}

/// Handles the ending signals in `always`, and those that were not ignored at the start.
fn listen(always: &[i32], each: impl Fn(i32) + Send + 'static) -> Result<(), Failure> {
    p2mtrack_migrate::signals::listen(always, each)
        .map_err(|source| Failure::Unusable { about: "signals".to_owned(), source: source.into() })
}
