// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many runs side by side, reported in order: one line each as JSON, a table by scenario for people.
//! Not here: a single run's rounds (`single`).
//! Units: runs.
//! Threads: as many as the machine has; each run is deterministic whatever runs beside it.
//! Source: none.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use p2mtrack_synthetic::run::{Ending, Run, migrate_all};
use p2mtrack_synthetic::{Scenario, SimConfig, Verdict};

use super::line::grouped;
use super::result::{Outcome, exit_status};
use super::{EXIT_ABORTED, EXIT_WRONG, SimulateArgs};

/// Runs that are under way or waiting to be printed at once.
const CHUNK: usize = 64;

/// Counts of one scenario.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    runs: u64,
    identical: u64,
    corrupt: u64,
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
        self.by_fault += u64::from(run.ending == Ending::Aborted && run.fault.is_some());
        self.harmed += u64::from(run.harmed.is_some());
        self.beyond_log_dirty += run.beyond_log_dirty;
        self.gone += run.gone;
    }

    fn sum(rows: impl Iterator<Item = Self>) -> Self {
        rows.fold(Self::default(), |a, b| Self {
            runs: a.runs + b.runs,
            identical: a.identical + b.identical,
            corrupt: a.corrupt + b.corrupt,
            leaked: a.leaked + b.leaked,
            aborted: a.aborted + b.aborted,
            by_fault: a.by_fault + b.by_fault,
            harmed: a.harmed + b.harmed,
            beyond_log_dirty: a.beyond_log_dirty + b.beyond_log_dirty,
            gone: a.gone + b.gone,
        })
    }

    fn line(&self, name: &str) -> String {
        format!(
            "{name:<20}{:>7}{:>11}{:>9}{:>8}{:>9}{:>10}{:>8}{:>14}{:>12}",
            self.runs,
            self.identical,
            self.corrupt,
            self.leaked,
            self.aborted,
            self.by_fault,
            self.harmed,
            grouped(self.beyond_log_dirty),
            grouped(self.gone)
        )
    }
}

fn progress(runs: usize, json: bool) -> ProgressBar {
    let bar = ProgressBar::new(runs as u64);
    bar.set_draw_target(if std::io::stderr().is_terminal() && !json {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    });
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} runs, {eta} to go") {
        bar.set_style(style);
    }
    bar
}

/// Runs all and prints. Returns the exit status.
pub(super) fn run(args: &SimulateArgs, runs: &[SimConfig]) -> Result<u8, Box<dyn Error>> {
    let bar = progress(runs.len(), args.json);
    let mut rows: BTreeMap<Scenario, Row> = BTreeMap::new();
    let mut statuses = Vec::new();
    for chunk in runs.chunks(CHUNK) {
        let done = migrate_all(chunk, |run| args.engine(run));
        for (config, run) in chunk.iter().zip(&done) {
            rows.entry(config.scenario).or_default().add(run);
            statuses.push(exit_status(run));
            let mut printed = Ok(());
            bar.suspend(|| printed = print(args, config, run));
            printed?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    if !args.json {
        table(&rows)?;
    }
    let worst = [EXIT_WRONG, EXIT_ABORTED].into_iter().find(|status| statuses.contains(status));
    Ok(worst.unwrap_or(0))
}

/// As JSON every run; for people those that did not come out identical, with the command for each.
fn print(args: &SimulateArgs, config: &SimConfig, run: &Run) -> Result<(), Box<dyn Error>> {
    let mut out = anstream::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&Outcome::new(config, run))?)?;
    } else if exit_status(run) == EXIT_WRONG || run.ending == Ending::Aborted && run.fault.is_none()
    {
        let why = run.harmed.as_deref().or(run.error.as_deref());
        let first = run.judgement.iter().flat_map(|j| &j.differences).next();
        let why = why.map(str::to_owned).or_else(|| first.map(ToString::to_string));
        writeln!(out, "{}: {}", run.ending.name(), why.unwrap_or_default())?;
        writeln!(out, "    {}", args.command(config))?;
    }
    Ok(())
}

fn table(rows: &BTreeMap<Scenario, Row>) -> Result<(), Box<dyn Error>> {
    let mut out = anstream::stdout().lock();
    writeln!(
        out,
        "{:<20}{:>7}{:>11}{:>9}{:>8}{:>9}{:>10}{:>8}{:>14}{:>12}",
        "scenario",
        "runs",
        "identical",
        "corrupt",
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
    let total = Row::sum(rows.values().copied());
    writeln!(out, "{}", total.line("total"))?;
    writeln!(
        out,
        "\nby fault: aborted by an injected fault; harmed: log-dirty left on, a mapping left, or the source broken;\n\
         beyond-log: changed pfns that log-dirty did not name; given back: sent, then given up by the guest"
    )?;
    let wrong = total.corrupt + total.leaked + total.harmed;
    if wrong == 0 {
        writeln!(
            out,
            "\n{} runs: none corrupt, none leaked; {} identical, {} ended with a named error, every source unharmed.",
            grouped(total.runs),
            grouped(total.identical),
            grouped(total.aborted)
        )?;
    } else {
        writeln!(out, "\n{} of {} runs went wrong.", grouped(wrong), grouped(total.runs))?;
    }
    Ok(())
}
