// SPDX-License-Identifier: MIT OR Apache-2.0
//! One run with its panics caught, and what it counts as: identical, ended with a named reason, or
//! a failure.
//! Not here: how a run goes (`run`), or how a failing schedule is shortened (`shrink`).
//! Units: runs.
//! Threads: the caller's; the engine starts its own.
//! Source: `docs/design.md`, the promise: never a silent wrong page, never a harmed source, never a
//! panic.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use p2mtrack::config::Config;

use crate::fault::Fault;
use crate::oracle::Verdict;
use crate::run::{Ending, Run, migrate_with};
use crate::scenario::Scenario;
use crate::simulation::{SimConfig, Simulation};

/// How a run broke the promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// It completed, and a page is wrong or missing.
    Corrupt,
    /// It completed, and the destination holds frames that the source does not.
    Leaked,
    /// The source is not as it was.
    Harmed,
    /// An honest guest's migration ended with an error that is about no injected fault.
    Unexplained,
    /// The engine panicked.
    Panicked,
}

impl Failure {
    /// All failures.
    pub const ALL: [Self; 5] =
        [Self::Corrupt, Self::Leaked, Self::Harmed, Self::Unexplained, Self::Panicked];

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::Leaked => "leaked",
            Self::Harmed => "harmed",
            Self::Unexplained => "unexplained",
            Self::Panicked => "panicked",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a run counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It completed, frame for frame the same guest.
    Identical,
    /// It ended with an error that is about an injected fault.
    Fault(Fault),
    /// It ended with an error about a hostile guest.
    Refused,
    /// It broke the promise.
    Failed(Failure),
}

/// A run and what it counts as.
#[derive(Debug)]
pub struct Attempt {
    /// What it counts as.
    pub outcome: Outcome,
    /// What went wrong, or why it ended; empty if it completed well.
    pub what: String,
    /// The run; after a panic only the guest's activity.
    pub run: Run,
}

/// Makes one run and catches its panics.
#[must_use]
pub fn attempt(config: &SimConfig, engine: Config) -> Attempt {
    let mut slot = None;
    let caught = caught(|| {
        let simulation = slot.insert(Simulation::new(config));
        migrate_with(simulation, engine, &mut ())
    });
    match caught {
        Ok(run) => {
            let (outcome, what) = classify(config, &engine, &run);
            Attempt { outcome, what, run }
        }
        Err(what) => {
            let activity = slot.map(|simulation| simulation.activity()).unwrap_or_default();
            let run = Run { activity, ..Run::default() };
            Attempt { outcome: Outcome::Failed(Failure::Panicked), what, run }
        }
    }
}

/// Makes a call; its panic is the error.
fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    // State that a panic leaves half done belongs to the run, which ends here.
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

fn classify(config: &SimConfig, engine: &Config, run: &Run) -> (Outcome, String) {
    let differences = run.judgement.iter().flat_map(|judgement| &judgement.differences);
    let difference = || differences.map(ToString::to_string).next().unwrap_or_default();
    let error = || run.error.clone().unwrap_or_default();
    if let Some(harm) = &run.harmed {
        return (Outcome::Failed(Failure::Harmed), harm.clone());
    }
    match (run.ending, run.fault) {
        (Ending::Judged(Verdict::Identical), _) => (Outcome::Identical, String::new()),
        (Ending::Judged(Verdict::Corrupt), _) => (Outcome::Failed(Failure::Corrupt), difference()),
        (Ending::Judged(Verdict::Leaked), _) => (Outcome::Failed(Failure::Leaked), difference()),
        (Ending::Aborted, Some(fault)) => (Outcome::Fault(fault), error()),
        (Ending::Aborted, None) if is_refused(config.scenario, engine, run) => {
            (Outcome::Refused, error())
        }
        (Ending::Aborted, None) => (Outcome::Failed(Failure::Unexplained), error()),
    }
}

/// Whether the error is about a guest that lies, or that does what a policy refuses.
fn is_refused(scenario: Scenario, engine: &Config, run: &Run) -> bool {
    scenario.may_be_refused(engine)
        && match scenario {
            Scenario::ForeignPte => run.kind == Some("table"),
            Scenario::Alias => run.kind == Some("entry"),
            _ => run.error.is_some(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack::config::{AliasPolicy, ForeignPtePolicy};

    /// The table of what counts as a failure.
    #[test]
    fn an_ending_is_a_failure_unless_it_is_identical_or_says_why() {
        let judged = |verdict| Run { ending: Ending::Judged(verdict), ..Run::default() };
        let aborted = |fault| Run { error: Some("why".to_owned()), fault, ..Run::default() };
        let harmed = Run { harmed: Some("left on".to_owned()), ..judged(Verdict::Identical) };
        let config = |scenario| SimConfig::plain(scenario, 1, 8 << 20);
        let (honest, hostile) = (config(Scenario::Mixed), config(Scenario::Hostile));
        for (config, run, outcome) in [
            (&honest, judged(Verdict::Identical), Outcome::Identical),
            (&honest, judged(Verdict::Corrupt), Outcome::Failed(Failure::Corrupt)),
            (&hostile, judged(Verdict::Leaked), Outcome::Failed(Failure::Leaked)),
            (&hostile, harmed, Outcome::Failed(Failure::Harmed)),
            (&honest, aborted(Some(Fault::Cancel)), Outcome::Fault(Fault::Cancel)),
            (&honest, aborted(None), Outcome::Failed(Failure::Unexplained)),
            (&hostile, aborted(None), Outcome::Refused),
            (&hostile, Run::default(), Outcome::Failed(Failure::Unexplained)),
        ] {
            assert_eq!(classify(config, &Config::default(), &run).0, outcome, "{run:?}");
        }
    }

    #[test]
    fn a_policy_refuses_only_what_it_is_about() {
        let refuse = Config::default();
        let accept = Config {
            alias: AliasPolicy::Copy,
            foreign_pte: ForeignPtePolicy::Clear,
            ..Config::default()
        };
        for (scenario, about) in [(Scenario::ForeignPte, "table"), (Scenario::Alias, "entry")] {
            for kind in ["table", "entry", "structure", "uncertain"] {
                for (engine, is_refused) in [(&refuse, kind == about), (&accept, false)] {
                    let error = Some("why".to_owned());
                    let run = Run { error, kind: Some(kind), ..Run::default() };
                    let config = SimConfig::plain(scenario, 1, 8 << 20);
                    let outcome = classify(&config, engine, &run).0;
                    assert_eq!(outcome == Outcome::Refused, is_refused, "{scenario} {kind}");
                }
            }
        }
    }

    #[test]
    fn a_panic_is_caught_with_its_message() {
        assert_eq!(caught(|| 5), Ok(5));
        assert_eq!(caught(|| panic!("as it is")), Err::<(), _>("as it is".to_owned()));
        let number = 7;
        assert_eq!(caught(|| panic!("with {number}")), Err::<(), _>("with 7".to_owned()));
    }
}
