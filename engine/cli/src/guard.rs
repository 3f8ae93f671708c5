// SPDX-License-Identifier: MIT OR Apache-2.0
//! `guard`: this program as the guard of a tracker. Not for users.
//! Not here: what a guard does (`p2mtrack_xen::Guard`).
//! Units: one domain.
//! Threads: one.
//! Source: own.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use p2mtrack_xen::{Domain, Left, Replaced, Unknown, guard_command, stand_guard};

use crate::failure::{Failure, note};
use crate::signals;

/// End what the tracker at the other end of standard input has begun, if it dies
#[derive(Debug, clap::Args)]
pub(crate) struct GuardArgs {
    /// The guest's domain ID
    domid: u16,
    /// Its UUID: domain IDs are used again
    uuid: String,
    /// The tracker's lock, held through standard output
    lock: PathBuf,
    /// As for `track`
    #[arg(long)]
    unknown_xen: bool,
}

pub(crate) fn run(args: &GuardArgs) -> Result<ExitCode, Failure> {
    // Stopping a service signals all of its processes. The tracker then ends properly, and
    // dismisses its guard.
    let _ = signals::hold();
    let unknown = if args.unknown_xen { Unknown::Accept } else { Unknown::Refuse };
    let left = stand_guard((args.domid, &args.uuid), &args.lock, unknown).map_err(|source| {
        Failure::Engine { about: format!("guard of domain {}", args.domid), source: source.into() }
    })?;
    let note_that = |what| note(&format!("domain {}: its tracker died, {what}", args.domid));
    if left.log_dirty {
        note_that("log-dirty is switched off");
    }
    if left.suspend {
        note_that("it was asked to suspend, and goes on");
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts this program as a guard.
pub(crate) fn command(domain: &Domain, unknown: Unknown) -> impl Fn() -> Command + use<> {
    guard_command("p2mtrack", "guard", domain, unknown)
}

/// Says that a guard was gone.
pub(crate) fn note_replaced(replaced: &Replaced) {
    note(&replaced.to_string());
}

/// Says what a tracker has left that died with its guard.
pub(crate) fn note_left(left: Left) {
    if let Some(words) = left.words() {
        note(&words);
    }
}
