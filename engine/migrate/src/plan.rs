// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a guest is to be saved.
//! Not here: where the stream goes.
//! Units: bytes a second; time.
//! Threads: plain values.
//! Source: own; options of `p2mtrack save`.

use p2mtrack::config::Config;
use p2mtrack_xen::IfOn;

use crate::policy::Limits;

/// What to do when what is left does not become small enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unconverged {
    /// The last round comes all the same.
    Suspend,
    /// The save ends with an error.
    Abort,
}

/// Who reads the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// Xen's own restore, which gives no frame back, and may hold so many pfns.
    Stock {
        /// See [`stock_pfns`].
        pfns: u64,
    },
}

/// What becomes of the source when the stream is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It runs on.
    Resume,
    /// It stays suspended.
    Leave,
}

/// What a domain may hold beyond its memory target, in KiB: `libxl__build_pre`.
const SLACK_KIB: u64 = 1024;

/// Pfns that a stock receiver may hold of a domain with this memory target; without one that is not
/// known.
#[must_use]
pub fn stock_pfns(target_kib: Option<u64>) -> u64 {
    target_kib.map_or(u64::MAX, |kib| kib.saturating_add(SLACK_KIB) / 4)
}

/// How a guest is to be saved.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The guest runs while most of it is copied.
    pub live: bool,
    /// When the last round of a live save comes.
    pub limits: Limits,
    /// What to do if it does not come by itself.
    pub unconverged: Unconverged,
    /// What to do with a log-dirty that is on.
    pub if_on: IfOn,
    /// Who reads the stream.
    pub receiver: Receiver,
    /// Behind the last round every page comes once more, for the receiver to compare.
    pub verify: bool,
    /// The stream ends never: each suspend makes a checkpoint.
    pub checkpoints: bool,
    /// The engine's configuration.
    pub config: Config,
}
