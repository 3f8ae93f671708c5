// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a save went, in numbers.
//! Not here: how they are printed.
//! Units: pages of 4 KiB, pfns, bytes of the stream, time.
//! Threads: plain values.
//! Source: counts of the transport and of the engine's reports.

use std::time::Duration;

use p2mtrack::frame::{Mfn, Pfn};
use p2mtrack_xen::Replaced;

use crate::fault::Fault;
use crate::policy::Verdict;

/// A live round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Its number, from 0, which is the first copy.
    pub number: u64,
    /// Pages that it sent.
    pub pages: u64,
    /// Bytes a second, pauses included.
    pub rate: u64,
    /// Pages that are left.
    pub left: u64,
    /// Percent of the guest's pages that the destination has as they are.
    pub percent: f64,
    /// How long the guest would stand still now.
    pub estimate: Duration,
}

/// What a save tells while it runs.
#[derive(Debug)]
pub enum Event {
    /// A part of it begins.
    Begins(Part),
    /// Pages of the part that has begun: sent, and how many are expected in all.
    Sent(u64, u64),
    /// A live round has ended.
    Round(Round),
    /// The guest is suspended.
    Suspended,
    /// The guard was gone, and was replaced or not.
    Guard(Replaced),
    /// Another program's log-dirty was on, and is taken over.
    TookOver,
}

/// A part of a save that sends pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A live round, or the last one behind such rounds: its number, from 0.
    Round(u64),
    /// All pages of a guest that is suspended from the start.
    Whole,
    /// A checkpoint behind the first one.
    Checkpoint,
    /// Every page once more, to be compared.
    Verify,
}

/// How a save went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Why the last round came; none if it did not.
    pub verdict: Option<Verdict>,
    /// Live rounds.
    pub rounds: u64,
    /// Pages that were written.
    pub pages: u64,
    /// Of these, page tables.
    pub tables: u64,
    /// Pfns that a stock receiver holds: sent, or named by a page table that was.
    pub distinct_pfns: u64,
    /// Bytes of the libxc stream.
    pub bytes: u64,
    /// Pfns that were sent and have no frame at the end.
    pub gone: u64,
    /// Pfns that a stock receiver holds although they have no frame at the end: runs of them, by
    /// the first and how many follow each other.
    pub leaked: Vec<(Pfn, u64)>,
    /// PTEs that were made not present, by their page table.
    pub cleared: Vec<(Pfn, Mfn)>,
    /// Frames that no pfn has; negative: pfns without one.
    pub unaccounted_frames: i64,
    /// Pfns that others write without a mark in the log, in the last round.
    pub unlogged: u64,
    /// The estimate when the last round came.
    pub estimate: Duration,
    /// How long the guest stood still, until the stream was complete or it was resumed.
    pub downtime: Duration,
    /// Of `pages`, those of the last round.
    pub suspended_pages: u64,
    /// Of `tables`, those of the last round.
    pub suspended_tables: u64,
    /// The stream is complete.
    pub is_complete: bool,
    /// Something was changed: log-dirty, or the guest was asked to suspend.
    pub touched: bool,
    /// The source runs.
    pub source_running: bool,
    /// Log-dirty could not be switched off, or the source not resumed.
    pub left_behind: bool,
    /// The guard has to clean up, when this process is gone: it must not be dismissed.
    pub unknown: bool,
    /// Why it ended early.
    pub fault: Option<Fault>,
}

impl Outcome {
    /// How many pfns are leaked.
    #[must_use]
    pub fn leaked_pfns(&self) -> u64 {
        self.leaked.iter().map(|(_, count)| count).sum()
    }

    /// Of a guest that is refused before anything was touched: it runs on.
    #[must_use]
    pub fn refused(fault: Fault) -> Self {
        let source_running = !fault.kind.is_of_no_running_guest();
        Self { source_running, fault: Some(fault), ..Self::default() }
    }
}

/// Runs of ascending pfns.
pub fn runs(pfns: impl Iterator<Item = Pfn>) -> Vec<(Pfn, u64)> {
    let mut runs: Vec<(Pfn, u64)> = Vec::new();
    for pfn in pfns {
        match runs.last_mut() {
            Some((first, count)) if first.0 + *count == pfn.0 => *count += 1,
            _ => runs.push((pfn, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaked_pfns_are_kept_in_runs() {
        let leaked = runs([3, 4, 5, 9].map(Pfn).into_iter());
        assert_eq!(leaked, [(Pfn(3), 3), (Pfn(9), 1)]);
        assert_eq!(Outcome { leaked, ..Outcome::default() }.leaked_pfns(), 4);
    }
}
