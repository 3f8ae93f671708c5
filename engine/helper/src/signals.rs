// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals that end a helper.
//! Not here: what is done then.
//! Units: signals by their numbers.
//! Threads: as `p2mtrack_migrate::signals`.
//! Source: `xen-migrate.md` 1.2: libxl sends TERM to end a save; a terminal sends INT and HUP to
//! libxl's whole process group, and where libxl ignores them, so do we.

use std::io;

use p2mtrack_migrate::signals::listen;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Calls `act` with each of them, on a thread of its own; they do not end the program.
///
/// # Errors
/// There is no thread.
pub fn on_end(act: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    listen(&[SIGTERM], act)
}

/// Its name.
#[must_use]
pub const fn name(signal: i32) -> &'static str {
    match signal {
        SIGHUP => "SIGHUP",
        SIGINT => "SIGINT",
        SIGTERM => "SIGTERM",
        _ => "a signal",
    }
}
