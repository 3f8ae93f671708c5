// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of many runs by scenario, of one tracker or of both side by side.
//! Not here: running them (`many`).
//! Units: runs; beyond-log and given back are pfns.
//! Threads: plain values.
//! Source: none.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;

use p2mtrack_synthetic::run::{Ending, Run};
use p2mtrack_synthetic::{Scenario, Verdict};

use super::args::TrackerName;
use super::line::grouped;

/// Counts of one tracker in one scenario.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    runs: u64,
    identical: u64,
    corrupt: u64,
    /// Of the corrupt ones, those that lack a frame.
    lacking: u64,
    leaked: u64,
    aborted: u64,
    by_fault: u64,
    harmed: u64,
    beyond_log_dirty: u64,
    gone: u64,
}

impl Row {
    fn add(&mut self, run: &Run) {
        self.runs += 1;
        match run.ending {
            Ending::Judged(Verdict::Identical) => self.identical += 1,
            Ending::Judged(Verdict::Corrupt) => self.corrupt += 1,
            Ending::Judged(Verdict::Leaked) => self.leaked += 1,
            Ending::Aborted => self.aborted += 1,
        }
        let missing = run.judgement.as_ref().map_or(0, |judgement| judgement.missing_pfns);
        self.lacking += u64::from(missing > 0);
        self.by_fault += u64::from(run.ending == Ending::Aborted && run.fault.is_some());
        self.harmed += u64::from(run.harmed.is_some());
        self.beyond_log_dirty += run.beyond_log_dirty;
        self.gone += run.gone;
    }

    fn plus(self, other: Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            identical: self.identical + other.identical,
            corrupt: self.corrupt + other.corrupt,
            lacking: self.lacking + other.lacking,
            leaked: self.leaked + other.leaked,
            aborted: self.aborted + other.aborted,
            by_fault: self.by_fault + other.by_fault,
            harmed: self.harmed + other.harmed,
            beyond_log_dirty: self.beyond_log_dirty + other.beyond_log_dirty,
            gone: self.gone + other.gone,
        }
    }

    fn sum<'a>(rows: impl Iterator<Item = &'a Self>) -> Self {
        rows.fold(Self::default(), |sum, row| sum.plus(*row))
    }

    /// Runs that completed and were not identical, or harmed their source.
    const fn wrong(&self) -> u64 {
        self.corrupt + self.leaked + self.harmed
    }

    /// A line of the table of one tracker.
    fn line(&self, name: &str) -> String {
        format!(
            "{name:<20}{:>7}{:>11}{:>9}{:>9}{:>8}{:>9}{:>10}{:>8}{:>14}{:>12}",
            self.runs,
            self.identical,
            self.corrupt,
            self.lacking,
            self.leaked,
            self.aborted,
            self.by_fault,
            self.harmed,
            grouped(self.beyond_log_dirty),
            grouped(self.gone)
        )
    }

    /// The part of a line under a tracker's name.
    fn side(&self) -> String {
        format!(
            "{:>11}{:>9}{:>9}{:>8}{:>9}",
            self.identical, self.corrupt, self.lacking, self.leaked, self.aborted
        )
    }
}

/// The counts of all runs.
#[derive(Debug, Default)]
pub(super) struct Table {
    p2mtrack: BTreeMap<Scenario, Row>,
    upstream: BTreeMap<Scenario, Row>,
}

impl Table {
    /// Counts the runs of one guest.
    pub(super) fn add(
        &mut self,
        scenario: Scenario,
        p2mtrack: Option<&Run>,
        upstream: Option<&Run>,
    ) {
        for (rows, run) in [(&mut self.p2mtrack, p2mtrack), (&mut self.upstream, upstream)] {
            if let Some(run) = run {
                rows.entry(scenario).or_default().add(run);
            }
        }
    }

    /// Prints what was asked for.
    pub(super) fn print(&self, tracker: TrackerName) -> Result<(), Box<dyn Error>> {
        let mut out = anstream::stdout().lock();
        match tracker {
            TrackerName::P2mtrack => print_one(&mut out, &self.p2mtrack)?,
            TrackerName::Upstream => print_one(&mut out, &self.upstream)?,
            TrackerName::Both => self.print_both(&mut out)?,
        }
        let names = [("p2mtrack", &self.p2mtrack), ("upstream", &self.upstream)];
        for (name, rows) in names.into_iter().filter(|(_, rows)| !rows.is_empty()) {
            writeln!(out, "{}", closing(name, &Row::sum(rows.values())))?;
        }
        Ok(())
    }

    fn print_both(&self, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
        let columns = format!(
            "{:>11}{:>9}{:>9}{:>8}{:>9}",
            "identical", "corrupt", "lacking", "leaked", "aborted"
        );
        writeln!(out, "{:<27}     {:<46}  upstream", "", "p2mtrack")?;
        writeln!(out, "{:<20}{:>7}  {columns}  {columns}", "scenario", "runs")?;
        let none = Row::default();
        for (scenario, ours) in &self.p2mtrack {
            let theirs = self.upstream.get(scenario).unwrap_or(&none);
            let name = scenario.name();
            writeln!(out, "{name:<20}{:>7}  {}  {}", ours.runs, ours.side(), theirs.side())?;
        }
        let (ours, theirs) = (Row::sum(self.p2mtrack.values()), Row::sum(self.upstream.values()));
        writeln!(out, "{:<20}{:>7}  {}  {}", "total", ours.runs, ours.side(), theirs.side())?;
        writeln!(
            out,
            "\nlacking: of the corrupt, those in which the destination has no frame for a pfn\n"
        )?;
        Ok(())
    }
}

fn print_one(out: &mut impl Write, rows: &BTreeMap<Scenario, Row>) -> Result<(), Box<dyn Error>> {
    writeln!(
        out,
        "{:<20}{:>7}{:>11}{:>9}{:>9}{:>8}{:>9}{:>10}{:>8}{:>14}{:>12}",
        "scenario",
        "runs",
        "identical",
        "corrupt",
        "lacking",
        "leaked",
        "aborted",
        "by fault",
        "harmed",
        "beyond-log",
        "given back"
    )?;
    for (scenario, row) in rows {
        writeln!(out, "{}", row.line(scenario.name()))?;
    }
    writeln!(out, "{}", Row::sum(rows.values()).line("total"))?;
    writeln!(
        out,
        "\nlacking: of the corrupt, those in which the destination has no frame for a pfn; by fault: aborted by an\n\
         injected fault; harmed: log-dirty left on, a mapping left, or the source broken; beyond-log: changed pfns\n\
         that log-dirty did not name; given back: sent, then given up by the guest\n"
    )?;
    Ok(())
}

/// The sum in a sentence.
fn closing(name: &str, total: &Row) -> String {
    let runs = grouped(total.runs);
    if total.wrong() > 0 {
        return format!(
            "{name}: {} of {runs} runs went wrong; {} identical, {} aborted.",
            grouped(total.wrong()),
            grouped(total.identical),
            grouped(total.aborted)
        );
    }
    format!(
        "{name}: {runs} runs, none corrupt, none leaked; {} identical, {} aborted ({} by an injected fault), every \
         source unharmed.",
        grouped(total.identical),
        grouped(total.aborted),
        grouped(total.by_fault)
    )
}
