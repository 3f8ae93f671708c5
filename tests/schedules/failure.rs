// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report of a failure: what went wrong, the command that replays it, and the shortest one
//! found.
//! Not here: how a schedule gets shorter (`p2mtrack_synthetic::shrink`).
//! Units: tries are runs.
//! Threads: the caller's.
//! Source: own; a failure is only useful if one command replays it.

use p2mtrack_synthetic::outcome::{Attempt, Failure, Outcome};
use p2mtrack_synthetic::shrink::shrink;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::quietly;
use crate::schedule::Schedule;

/// The most runs to shrink one failure.
const TRIES_MAX: u64 = 600;
/// The most programs of the shortest schedule that are printed.
const PROGRAMS_MAX: usize = 12;

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    schedule: u64,
    failure: String,
    what: String,
    command: String,
    shortest: Option<Shortest>,
}

/// The shortest schedule that still fails in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shortest {
    command: String,
    what: String,
    steps: u64,
    programs: Vec<String>,
    tries: u64,
}

impl Report {
    /// Searches for the shortest schedule that fails in this way.
    pub(crate) fn new(schedule: &Schedule, failed: &Attempt, failure: Failure) -> Self {
        Self {
            schedule: schedule.number,
            failure: failure.name().to_owned(),
            what: failed.what.clone(),
            command: schedule.command(&schedule.config),
            shortest: shortest(schedule, failure),
        }
    }

    /// Whether it is of a kind.
    pub(crate) fn is(&self, failure: Failure) -> bool {
        self.failure == failure.name()
    }

    /// Text for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text =
            format!("FAILED schedule {}, {}: {}\n", self.schedule, self.failure, self.what);
        text.push_str(&format!("    replay:   {}\n", self.command));
        if self.shortest.is_none() {
            text.push_str("    it did not fail again: it does not depend on the schedule alone\n");
        }
        if let Some(short) = &self.shortest {
            text.push_str(&format!("    shortest: {}\n", short.command));
            text.push_str(&format!(
                "    {} steps, found in {} tries: {}\n",
                short.steps, short.tries, short.what
            ));
            let shown = short.programs.len().min(PROGRAMS_MAX);
            for program in &short.programs[..shown] {
                text.push_str(&format!("    program {program}\n"));
            }
            if shown < short.programs.len() {
                text.push_str(&format!("    and {} more\n", short.programs.len() - shown));
            }
        }
        text
    }

    /// One JSON line.
    pub(crate) fn json(&self) -> Value {
        let short = self.shortest.as_ref();
        json!({
            "event": "schedule_failed", "schedule": self.schedule, "failure": self.failure,
            "what": self.what, "command": self.command,
            "shortest": short.map(|short| &short.command), "steps": short.map(|short| short.steps),
            "programs": short.map(|short| &short.programs), "tries": short.map(|short| short.tries),
        })
    }
}

fn shortest(schedule: &Schedule, failure: Failure) -> Option<Shortest> {
    let mut what = String::new();
    let shrunk = shrink(&schedule.config, TRIES_MAX, &mut |config| {
        let again = quietly(schedule, config);
        let same = again.outcome == Outcome::Failed(failure);
        same.then(|| {
            what = again.what;
            again.run.activity
        })
    })?;
    let programs = shrunk.activity.begun.iter();
    Some(Shortest {
        command: schedule.command(&shrunk.config),
        what,
        steps: shrunk.activity.steps,
        programs: programs
            .map(|begun| format!("{} at step {}: {}", begun.number, begun.step, begun.behaviour))
            .collect(),
        tries: shrunk.tries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack_synthetic::Scenario;

    #[test]
    fn what_does_not_fail_again_is_reported_all_the_same() {
        // Scenarios come in turn: a quiet guest.
        let number = Scenario::ALL.len() as u64;
        let schedule = Schedule::nth(number);
        let attempt = quietly(&schedule, &schedule.config);
        let report = Report::new(&schedule, &attempt, Failure::Corrupt);
        assert_eq!(report.shortest, None);
        let text = report.text();
        assert!(text.starts_with(&format!("FAILED schedule {number}, corrupt: ")), "{text}");
        let replay = format!("    replay:   p2mtrack simulate --scenario quiet --seed {number} ");
        assert!(text.contains(&replay), "{text}");
        assert!(text.contains("did not fail again"), "{text}");
        assert!(report.json()["shortest"].is_null());
    }
}
