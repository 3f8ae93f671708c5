// SPDX-License-Identifier: MIT OR Apache-2.0
//! `guard`: this program as the guard of a tracker. Not for users.
//! Not here: what a guard does (`p2mtrack_xen::Guard`).
//! Units: one domain.
//! Threads: one.
//! Source: own.

use std::path::PathBuf;
use std::process::ExitCode;

use p2mtrack_xen::{Unknown, stand_guard};

use crate::failure::{Failure, note};
use crate::signals;

/// Switch log-dirty off when the tracker at the other end of standard input dies
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
    let acted = stand_guard((args.domid, &args.uuid), &args.lock, unknown).map_err(|source| {
        Failure::Engine { about: format!("guard of domain {}", args.domid), source: source.into() }
    })?;
    if acted {
        note(&format!("domain {}: its tracker died, log-dirty is switched off", args.domid));
    }
    Ok(ExitCode::SUCCESS)
}
