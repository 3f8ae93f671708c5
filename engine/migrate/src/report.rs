// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines of a save, as JSON: each live round, what leaked or was cleared, and the whole save.
//! Not here: how it went (`outcome`).
//! Units: as keys say; times in microseconds. A file gets one line more by one write.
//! Threads: plain values.
//! Source: keys are an interface: `docs/json.md`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::fault::Fault;
use crate::outcome::{Outcome, Round};
use crate::policy::Verdict;

/// A live round.
#[derive(Serialize)]
pub struct RoundLine {
    event: &'static str,
    domid: u16,
    round: u64,
    percent: f64,
    pages: u64,
    rate: u64,
    left: u64,
    estimate_us: u64,
}

impl RoundLine {
    /// Of a domain's round.
    #[must_use]
    pub fn new(domid: u16, round: &Round) -> Self {
        Self {
            event: "round",
            domid,
            round: round.number,
            percent: (round.percent * 10.0).floor() / 10.0,
            pages: round.pages,
            rate: round.rate,
            left: round.left,
            estimate_us: micros(round.estimate),
        }
    }
}

/// Pfns that a stock receiver holds in vain: `first` and the `count - 1` behind it.
#[derive(Serialize)]
pub struct LeakedLine {
    event: &'static str,
    /// The first pfn.
    pub first: u64,
    /// How many there are.
    pub count: u64,
}

/// Runs of leaked pfns.
pub fn leaked(outcome: &Outcome) -> impl Iterator<Item = LeakedLine> {
    let runs = outcome.leaked.iter();
    runs.map(|&(first, count)| LeakedLine { event: "leaked", first: first.0, count })
}

/// A PTE that was made not present.
#[derive(Serialize)]
pub struct ClearedLine {
    event: &'static str,
    /// The page table.
    pub pfn: u64,
    /// The frame that it named.
    pub mfn: u64,
}

/// PTEs that were cleared, by their page table.
pub fn cleared(outcome: &Outcome) -> impl Iterator<Item = ClearedLine> {
    let cleared = outcome.cleared.iter();
    cleared.map(|(pfn, mfn)| ClearedLine { event: "cleared", pfn: pfn.0, mfn: mfn.0 })
}

#[derive(Serialize)]
struct FaultLine<'a> {
    kind: &'static str,
    pfn: Option<u64>,
    mfn: Option<u64>,
    level: Option<u8>,
    slot: Option<u16>,
    words: &'a str,
}

/// The whole save.
#[derive(Serialize)]
pub struct SavedLine<'a> {
    event: &'static str,
    domid: u16,
    live: bool,
    verdict: Option<&'static str>,
    rounds: u64,
    pages: u64,
    distinct_pfns: u64,
    tables: u64,
    bytes: u64,
    gone: u64,
    leaked_pfns: u64,
    cleared_ptes: u64,
    unaccounted_frames: i64,
    estimate_us: u64,
    downtime_us: u64,
    total_us: u64,
    cpu_us: u64,
    suspended_pages: u64,
    suspended_tables: u64,
    source_running: bool,
    error: Option<FaultLine<'a>>,
}

/// What a whole save took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// By the clock.
    pub total: Duration,
    /// Of processors, by this process.
    pub cpu: Duration,
}

impl Took {
    /// What it took until now.
    #[must_use]
    pub fn since(begun: Instant) -> Self {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Self { total: begun.elapsed(), cpu: Duration::try_from(cpu).unwrap_or_default() }
    }
}

/// Opens a file to append a line to.
///
/// # Errors
/// It can't be opened.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Appends a line.
///
/// # Errors
/// It is not written.
pub fn append(file: &mut File, line: &impl Serialize) -> io::Result<()> {
    let line = serde_json::to_string(line).map_err(io::Error::from)?;
    file.write_all(format!("{line}\n").as_bytes())
}

impl<'a> SavedLine<'a> {
    /// Of a domain's save.
    #[must_use]
    pub fn new(domid: u16, live: bool, outcome: &'a Outcome, took: Took) -> Self {
        Self {
            event: "saved",
            domid,
            live,
            verdict: outcome.verdict.map(Verdict::name),
            rounds: outcome.rounds,
            pages: outcome.pages,
            distinct_pfns: outcome.distinct_pfns,
            tables: outcome.tables,
            bytes: outcome.bytes,
            gone: outcome.gone,
            leaked_pfns: outcome.leaked_pfns(),
            cleared_ptes: outcome.cleared.len() as u64,
            unaccounted_frames: outcome.unaccounted_frames,
            estimate_us: micros(outcome.estimate),
            downtime_us: micros(outcome.downtime),
            total_us: micros(took.total),
            cpu_us: micros(took.cpu),
            suspended_pages: outcome.suspended_pages,
            suspended_tables: outcome.suspended_tables,
            source_running: outcome.source_running,
            error: outcome.fault.as_ref().map(FaultLine::new),
        }
    }
}

impl<'a> FaultLine<'a> {
    fn new(fault: &'a Fault) -> Self {
        Self {
            kind: fault.kind.name(),
            pfn: fault.pfn.map(|pfn| pfn.0),
            mfn: fault.mfn.map(|mfn| mfn.0),
            level: fault.level,
            slot: fault.slot,
            words: &fault.words,
        }
    }
}

/// The largest integer that every reader of JSON has: a time that is not known.
const MICROS_MAX: u64 = (1 << 53) - 1;

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).map_or(MICROS_MAX, |micros| micros.min(MICROS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;
    use p2mtrack::frame::{Mfn, Pfn};

    const TOOK: Took = Took { total: Duration::from_millis(5), cpu: Duration::from_micros(7) };

    #[test]
    fn the_last_line_has_the_keys_of_the_interface_in_their_order() {
        let mut fault = Fault::new(Kind::ForeignPte, "a \"word\"");
        (fault.pfn, fault.mfn) = (Some(Pfn(1)), Some(Mfn(2)));
        (fault.level, fault.slot) = (Some(1), Some(511));
        let outcome = Outcome {
            verdict: Some(Verdict::Fits),
            source_running: true,
            fault: Some(fault),
            ..Outcome::default()
        };
        let line = serde_json::to_string(&SavedLine::new(5, true, &outcome, TOOK)).expect("JSON");
        assert_eq!(
            line,
            "{\"event\":\"saved\",\"domid\":5,\"live\":true,\"verdict\":\"fits\",\"rounds\":0,\
             \"pages\":0,\"distinct_pfns\":0,\"tables\":0,\"bytes\":0,\"gone\":0,\
             \"leaked_pfns\":0,\"cleared_ptes\":0,\"unaccounted_frames\":0,\"estimate_us\":0,\
             \"downtime_us\":0,\"total_us\":5000,\"cpu_us\":7,\"suspended_pages\":0,\
             \"suspended_tables\":0,\"source_running\":true,\"error\":{\"kind\":\"foreign-pte\",\
             \"pfn\":1,\"mfn\":2,\"level\":1,\"slot\":511,\"words\":\"a \\\"word\\\"\"}}"
        );
        let good = serde_json::to_string(&SavedLine::new(5, false, &Outcome::default(), TOOK));
        assert!(good.expect("JSON").ends_with(",\"source_running\":false,\"error\":null}"));
    }
}
