// SPDX-License-Identifier: MIT OR Apache-2.0
//! This program as the guard of a save: it switches log-dirty off if the save dies. It never
//! resumes the guest, as libxl may.
//! Not here: what a guard does (`p2mtrack_xen::stand_guard`).
//! Units: one domain.
//! Threads: one.
//! Source: own.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use p2mtrack_migrate::fault::in_full;
use p2mtrack_xen::{Domain, Unknown, guard_command, stand_guard};

use crate::note::note;
use crate::process::ignore_sigpipe;
use crate::signals;

/// The first word of a guard's command line; domain ID, UUID and lock follow.
pub const WORD: &str = "--guard";
const UNKNOWN_XEN: &str = "--unknown-xen";

/// Starts this program as a guard.
pub fn command(domain: &Domain, unknown: Unknown) -> impl Fn() -> Command + use<> {
    guard_command("p2mtrack-save-helper", WORD, domain, unknown)
}

/// Stands guard as these words behind [`WORD`] say. Returns the exit status.
#[must_use]
pub fn run(words: &[OsString]) -> u8 {
    let (words, unknown) = match words.split_first() {
        Some((first, rest)) if first == UNKNOWN_XEN => (rest, Unknown::Accept),
        _ => (words, Unknown::Refuse),
    };
    let [domid, uuid, lock] = words else { return 2 };
    let domid = domid.to_str().and_then(|domid| domid.parse().ok());
    let (Some(domid), Some(uuid)) = (domid, uuid.to_str()) else { return 2 };
    ignore_sigpipe(); // a save that is gone does not end its guard
    // Stopping a service signals all of its processes. The save then ends properly, and its
    // guard with it.
    let _ = signals::on_end(|_| ());
    match stand_guard((domid, uuid), Path::new(lock), unknown) {
        Ok(left) if left.log_dirty => {
            note(&format!("domain {domid}: its save died, log-dirty is switched off"));
            0
        }
        Ok(_) => 0,
        Err(error) => {
            note(&format!("guard of domain {domid}: {}", in_full(&error)));
            3
        }
    }
}
