// SPDX-License-Identifier: MIT OR Apache-2.0
//! A panic behind the boundary prints nothing to the host's stderr: its text becomes the handle's
//! last error.
//! Not here: catching it (`boundary`).
//! Units: none.
//! Threads: a mark on the calling thread while a call runs; the engine's own threads are recognised
//! by their names.
//! Source: each copy of std has one panic hook; the shared library has its own copy. Other panics
//! go to the hook that was there before.

use std::cell::Cell;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::Once;

/// The prefix of the names of the engine's threads (`p2mtrack`, `shard`).
const THREADS: &str = "p2mtrack-";

thread_local! {
    static BEHIND: Cell<bool> = const { Cell::new(false) };
}

/// The thread is behind the boundary until this is dropped.
pub(crate) struct Quiet(bool);

impl Drop for Quiet {
    fn drop(&mut self) {
        BEHIND.set(self.0);
    }
}

/// Marks this thread.
pub(crate) fn here() -> Quiet {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            let current = std::thread::current();
            let ours = BEHIND.get() || current.name().is_some_and(|name| name.starts_with(THREADS));
            if !ours {
                others(info);
            }
        }));
    });
    Quiet(BEHIND.replace(true))
}
