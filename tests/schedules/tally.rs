// SPDX-License-Identifier: MIT OR Apache-2.0
//! Outcomes of the schedules so far: counts by scenario and by fault, and a checksum over all of
//! them in order.
//! Not here: one schedule (`schedule`), or how the counts outlive the process (`state`).
//! Units: runs.
//! Threads: plain values.
//! Source: FNV-1a for the checksum: it must differ when anything differs, and needs no protection
//! against forgery.

use p2mtrack_synthetic::outcome::{Attempt, Failure, Outcome};
use p2mtrack_synthetic::{Fault, Scenario};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::schedule::Schedule;

const FAULTS: usize = Fault::ALL.len();
const FAILURES: usize = Failure::ALL.len();

/// The runs of one scenario.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) runs: u64,
    pub(crate) identical: u64,
    /// Ended with an error about a fault.
    pub(crate) by_fault: [u64; FAULTS],
    /// Errors about a hostile guest.
    pub(crate) refused: u64,
    pub(crate) failed: [u64; FAILURES],
    /// Runs in which a fault was allowed, and runs in which it struck.
    allowed: [u64; FAULTS],
    struck: [u64; FAULTS],
}

impl Row {
    fn add(&mut self, schedule: &Schedule, attempt: &Attempt) {
        self.runs += 1;
        match attempt.outcome {
            Outcome::Identical => self.identical += 1,
            Outcome::Fault(fault) => self.by_fault[fault as usize] += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::Failed(failure) => self.failed[failure as usize] += 1,
        }
        for &fault in &schedule.config.faults.0 {
            self.allowed[fault as usize] += 1;
        }
        for &(fault, _) in &attempt.run.struck {
            self.struck[fault as usize] += 1;
        }
    }

    fn sum(rows: &[Self]) -> Self {
        let mut total = Self::default();
        for row in rows {
            total.runs += row.runs;
            total.identical += row.identical;
            total.refused += row.refused;
            add_each(&mut total.by_fault, &row.by_fault);
            add_each(&mut total.failed, &row.failed);
            add_each(&mut total.allowed, &row.allowed);
            add_each(&mut total.struck, &row.struck);
        }
        total
    }

    /// Runs that broke the promise.
    pub(crate) fn silent(&self) -> u64 {
        self.failed.iter().sum()
    }

    fn line(&self, name: &str) -> String {
        let by_fault: u64 = self.by_fault.iter().sum();
        format!(
            "{name:<20}{:>9}{:>11}{:>10}{:>9}{:>8}",
            self.runs,
            self.identical,
            by_fault,
            self.refused,
            self.silent()
        )
    }

    fn json(&self, event: &str, name: Option<&str>) -> Value {
        let by_fault: serde_json::Map<_, _> = Fault::ALL
            .iter()
            .zip(self.by_fault)
            .map(|(fault, runs)| (fault.name().to_owned(), runs.into()))
            .collect();
        let failed: serde_json::Map<_, _> = Failure::ALL
            .iter()
            .zip(self.failed)
            .map(|(failure, runs)| (failure.name().to_owned(), runs.into()))
            .collect();
        json!({
            "event": event, "scenario": name, "runs": self.runs, "identical": self.identical,
            "by_fault": by_fault, "hostile": self.refused, "silent": self.silent(), "failed": failed,
        })
    }
}

fn add_each<const N: usize>(sums: &mut [u64; N], numbers: &[u64; N]) {
    for (sum, number) in sums.iter_mut().zip(numbers) {
        *sum += number;
    }
}

/// All counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// In the order of [`Scenario::ALL`].
    rows: Vec<Row>,
    /// Over number, outcome and extent of every run, in order.
    checksum: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let rows = vec![Row::default(); Scenario::ALL.len()];
        Self { rows, checksum: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Tally {
    /// Counts a run. Runs must come in the order of their numbers.
    pub(crate) fn add(&mut self, schedule: &Schedule, attempt: &Attempt) {
        self.rows[schedule.config.scenario as usize].add(schedule, attempt);
        let outcome = match attempt.outcome {
            Outcome::Identical => 0,
            Outcome::Refused => 1,
            Outcome::Fault(fault) => 0x100 + fault as u64,
            Outcome::Failed(failure) => 0x200 + failure as u64,
        };
        let run = &attempt.run;
        let extent = [run.rounds, run.activity.steps, run.beyond_log_dirty, run.gone];
        for word in [schedule.number, outcome].into_iter().chain(extent) {
            for byte in word.to_le_bytes() {
                self.checksum = (self.checksum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }

    /// The sum of all scenarios.
    pub(crate) fn total(&self) -> Row {
        Row::sum(&self.rows)
    }

    /// Tables for a terminal.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<20}{:>9}{:>11}{:>10}{:>9}{:>8}\n",
            "scenario", "runs", "identical", "by fault", "hostile", "silent"
        );
        for (scenario, row) in Scenario::ALL.iter().zip(&self.rows) {
            text.push_str(&format!("{}\n", row.line(scenario.name())));
        }
        let total = self.total();
        text.push_str(&format!("{}\n\n", total.line("total")));
        text.push_str(&format!("{:<20}{:>9}{:>11}{:>10}\n", "fault", "allowed", "struck", "ended"));
        for fault in Fault::ALL {
            let at = fault as usize;
            text.push_str(&format!(
                "{:<20}{:>9}{:>11}{:>10}\n",
                fault.name(),
                total.allowed[at],
                total.struck[at],
                total.by_fault[at]
            ));
        }
        text.push_str(
            "\nby fault, ended: ended with an error that is about an injected fault; hostile: about a hostile guest;\n\
             silent: corrupt, leaked, harmed the source, panicked, or ended with an error that is about neither\n",
        );
        text
    }

    /// One line for each scenario and one for all.
    pub(crate) fn json(&self, from: u64, count: u64, seconds: f64) -> Vec<Value> {
        let mut lines: Vec<_> = Scenario::ALL
            .iter()
            .zip(&self.rows)
            .map(|(scenario, row)| row.json("schedules_of", Some(scenario.name())))
            .collect();
        let total = self.total();
        let mut line = total.json("schedules", None);
        line["from"] = from.into();
        line["count"] = count.into();
        line["seconds"] = (seconds as u64).into();
        line["checksum"] = format!("{:016x}", self.checksum).into();
        lines.push(line);
        lines
    }
}
