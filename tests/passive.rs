// SPDX-License-Identifier: MIT OR Apache-2.0
//! Passive mode: upstream's loop with the engine in front and exactly the changes of a sender is
//! right; if any of them is left out, it is wrong.
//! Not here: the engine with a loop of its own (`simulation`), a sender in C (`ffi`).
//! Units: seeds of simulated guests.
//! Threads: one guest a thread.
//! Source: `docs/adopt.md`; the model of the sender: `engine/synthetic/src/upstream`.

use p2mtrack::frame::Width;
use p2mtrack_synthetic::fault::{Fault, FaultSet};
use p2mtrack_synthetic::run::{Ending, Run, side_by_side};
use p2mtrack_synthetic::upstream::{Changes, migrate_passive};
use p2mtrack_synthetic::{Scenario, SimConfig, Verdict};

fn seeds() -> u64 {
    std::env::var("P2MTRACK_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(4)
}

fn configs(scenarios: &[Scenario], seeds: u64) -> Vec<SimConfig> {
    let of = |&scenario: &Scenario| {
        (1..=seeds).map(move |seed| SimConfig::plain(scenario, seed, 32 << 20))
    };
    scenarios.iter().flat_map(of).collect()
}

fn is_identical(run: &Run) -> bool {
    run.ending == Ending::Judged(Verdict::Identical)
}

fn describe(run: &Run) -> String {
    let found = run.judgement.as_ref().and_then(|judgement| judgement.differences.first());
    let found = found.map(ToString::to_string);
    let why = run.harmed.clone().or(run.error.clone()).or(found);
    format!("{}: {}", run.ending.name(), why.unwrap_or_default())
}

/// Faults that a run can meet; those of the transport are left out, because the model does not have
/// the sender's own transport.
const FAULTS: [Fault; 5] = [
    Fault::MapFailure,
    Fault::ShortBitmap,
    Fault::AllocationFailure,
    Fault::QueryFailure,
    Fault::Cancel,
];

/// Every guest arrives identical; a hostile one, or one that a fault struck, may end in an error.
/// Returns how many did not end in one.
fn expect_right(changes: Changes, width: Width, faults: &[Fault]) -> usize {
    let of = |config| SimConfig { width, faults: FaultSet(faults.to_vec()), ..config };
    let configs: Vec<_> = configs(&Scenario::ALL, seeds()).into_iter().map(of).collect();
    let runs = side_by_side(&configs, |config| migrate_passive(config, changes));
    let mut wrong = Vec::new();
    for (config, run) in configs.iter().zip(&runs) {
        let named = (config.scenario.is_hostile() || !run.struck.is_empty())
            && run.ending == Ending::Aborted
            && run.error.is_some();
        if run.harmed.is_some() || !is_identical(run) && !named {
            wrong.push(format!("{} {}: {}", config.scenario, config.seed, describe(run)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), runs.len(), wrong.join("\n"));
    runs.iter().filter(|run| is_identical(run)).count()
}

/// How many of the runs go wrong if a change is left out, by scenario.
fn wrong_without(changes: Changes, scenarios: &[Scenario], seeds: u64) -> Vec<(Scenario, usize)> {
    let configs = configs(scenarios, seeds);
    let runs = side_by_side(&configs, |config| migrate_passive(config, changes));
    let wrong = |scenario: &Scenario| {
        let of = configs.iter().zip(&runs).filter(|(config, _)| config.scenario == *scenario);
        of.filter(|(_, run)| !is_identical(run)).count()
    };
    let counts = scenarios.iter().map(|scenario| (*scenario, wrong(scenario)));
    counts.filter(|(_, wrong)| *wrong > 0).collect()
}

#[test]
fn a_saver_that_sends_by_our_entries_is_right() {
    expect_right(Changes::ALL, Width::W64, &[]);
    expect_right(Changes::ALL, Width::W32, &[]);
}

#[test]
fn a_saver_that_reads_its_own_p2m_and_says_so_is_right() {
    expect_right(Changes::READS, Width::W64, &[]);
    expect_right(Changes::READS, Width::W32, &[]);
}

#[test]
fn faults_end_it_or_change_nothing() {
    for changes in [Changes::ALL, Changes::READS] {
        let identical = expect_right(changes, Width::W64, &FAULTS);
        println!("{identical} guests arrived identical despite faults");
        assert!(identical > seeds() as usize * Scenario::ALL.len() / 3);
    }
}

#[test]
fn without_any_of_its_changes_it_is_wrong() {
    let honest: Vec<_> = Scenario::ALL.into_iter().filter(|s| !s.is_hostile()).collect();
    // It is rare that an entry differs only while the sender reads it.
    let rare = [Scenario::GrantMap];
    let rarely_past = [Scenario::Remus, Scenario::Mixed];
    for (without, changes, scenarios, seeds) in [
        ("the pfns to add", Changes { adds: false, ..Changes::ALL }, &honest[..], 6),
        ("our entries, unsaid", Changes { entries: false, ..Changes::ALL }, &rare[..], 80),
        ("remap", Changes { remap: false, ..Changes::ALL }, &honest[..], 6),
        ("remap, reading", Changes { remap: false, ..Changes::READS }, &honest[..], 6),
        ("defer", Changes { defer: false, ..Changes::ALL }, &honest[..], 6),
        ("the list sent again", Changes { list: false, ..Changes::ALL }, &honest[..], 6),
        ("owners asked", Changes { owners: false, ..Changes::ALL }, &[Scenario::ForeignPte], 6),
        ("tags left out", Changes { tags: false, ..Changes::ALL }, &honest[..], 6),
        (
            "a deferral past the list",
            Changes { past_list: false, ..Changes::ALL },
            &rarely_past[..],
            150,
        ),
    ] {
        let wrong = wrong_without(changes, scenarios, seeds);
        println!("without {without}: of {seeds} seeds went wrong {wrong:?}");
        assert!(!wrong.is_empty(), "without {without} nothing goes wrong");
    }
    assert_eq!(wrong_without(Changes::READS, &rare, 80), [], "said, and right");
}
