// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine on simulated guests: every scenario, both widths, with and without faults, judged by
//! the oracle.
//! Not here: single situations (`changes`, `outcomes`).
//! Units: `P2MTRACK_SEEDS` seeds of each scenario (default 6), printed; guests of 32 and 64 MiB.
//! Threads: runs side by side; each is deterministic.
//! Source: `docs/design.md`, the promise.

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::config::{AliasPolicy, Config, ForeignPtePolicy, Verify};
use p2mtrack::diff::{KERNEL_VARIABLE, Kernel};
use p2mtrack::frame::Width;
use p2mtrack::port::{Observer, Phase, PortError};
use p2mtrack::report::{RoundReport, Stage};
use p2mtrack::shadow::{Forms, SHADOW_VARIABLE};
use p2mtrack_synthetic::run::{Ending, Run, Watch, migrate, migrate_all};
use p2mtrack_synthetic::{
    Fault, FaultSet, Limits, P2mKind, Scenario, SimConfig, Simulation, TransportKind, Verdict,
};

const IDENTICAL: Ending = Ending::Judged(Verdict::Identical);

fn seeds() -> u64 {
    std::env::var("P2MTRACK_SEEDS").map_or(6, |seeds| seeds.parse().expect("a number of seeds"))
}

/// Configurations that differ in everything that a seed does not determine.
fn runs(scenarios: impl Iterator<Item = Scenario>, faults: &FaultSet) -> Vec<SimConfig> {
    scenarios
        .flat_map(|scenario| {
            (1..=seeds()).map(move |seed| SimConfig {
                seed,
                guest_bytes: if seed % 4 == 0 { 32 << 20 } else { 64 << 20 },
                width: if seed % 3 == 0 { Width::W32 } else { Width::W64 },
                p2m: None,
                scenario,
                faults: faults.clone(),
                checkpoints: if seed % 5 == 0 { 2 } else { 0 },
                threads: if seed % 7 == 0 { 2 } else { 1 },
                limits: Limits::default(),
                transport: TransportKind::Direct,
            })
        })
        .collect()
}

fn engine(config: &SimConfig) -> Config {
    let (kernels, seed) = (Kernel::available(), config.seed as usize);
    let free = |variable| std::env::var_os(variable).is_none(); // otherwise it applies to all runs
    let kernel = free(KERNEL_VARIABLE).then(|| kernels[seed % kernels.len()]);
    let shadow = free(SHADOW_VARIABLE).then(|| Forms::ALL[seed / kernels.len() % 4]);
    let engine = Config { threads: config.threads, kernel, shadow, ..Config::default() };
    config.scenario.engine(config.seed, engine)
}

fn run_all(configs: &[SimConfig]) -> Vec<(SimConfig, Run)> {
    configs.iter().cloned().zip(migrate_all(configs, engine)).collect()
}

fn describe(config: &SimConfig, run: &Run) -> String {
    let differences = run.judgement.as_ref().map(|judgement| &judgement.differences);
    format!("{config:?}\n{:?} {:?} {:?} {differences:?}", run.ending, run.error, run.harmed)
}

#[test]
fn every_honest_guest_arrives_identical() {
    let honest = Scenario::ALL.into_iter().filter(|scenario| !scenario.is_hostile());
    let done = run_all(&runs(honest, &FaultSet::default()));
    for (config, run) in &done {
        assert_eq!(run.ending, IDENTICAL, "{}", describe(config, run));
        assert_eq!(run.harmed, None, "{}", describe(config, run));
    }
    let beyond: u64 = done.iter().map(|(_, run)| run.beyond_log_dirty).sum();
    println!("{} runs identical, {beyond} changed pfns beyond log-dirty", done.len());
    assert!(beyond > 0, "the scenarios show what the tracker is for");
}

#[test]
fn a_fault_ends_a_migration_at_worst() {
    let honest = Scenario::ALL.into_iter().filter(|scenario| !scenario.is_hostile());
    let done = run_all(&runs(honest, &FaultSet(Fault::ALL.to_vec())));
    let mut completed = 0;
    for (config, run) in &done {
        assert_eq!(run.harmed, None, "{}", describe(config, run));
        match run.ending {
            IDENTICAL => completed += 1,
            Ending::Aborted => assert!(run.fault.is_some(), "{}", describe(config, run)),
            Ending::Judged(_) => panic!("{}", describe(config, run)),
        }
    }
    println!("{completed} of {} runs with faults completed", done.len());
    assert!(2 * completed >= done.len(), "{completed} of {} completed", done.len());
}

#[test]
fn a_hostile_guest_ends_in_a_named_error_or_arrives_as_it_is() {
    let done = run_all(&runs([Scenario::Hostile].into_iter(), &FaultSet::default()));
    let mut refused = 0;
    for (config, run) in &done {
        assert_eq!(run.harmed, None, "{}", describe(config, run));
        assert!(matches!(run.ending, IDENTICAL | Ending::Aborted), "{}", describe(config, run));
        refused += u64::from(run.ending == Ending::Aborted);
        assert_eq!(run.ending == Ending::Aborted, run.error.is_some());
    }
    println!("{refused} of {} hostile guests refused with a named error", done.len());
    assert!(refused > 0);
}

#[test]
fn a_page_table_names_no_frame_of_another_domain() {
    let done = run_all(&runs([Scenario::ForeignPte].into_iter(), &FaultSet::default()));
    let mut refused = 0;
    for (config, run) in &done {
        assert_eq!(run.harmed, None, "{}", describe(config, run));
        let clears = engine(config).foreign_pte == ForeignPtePolicy::Clear;
        match &run.error {
            None => assert_eq!(run.ending, IDENTICAL, "{}", describe(config, run)),
            Some(error) => {
                let named = error.contains("a frame of another domain");
                assert!(named && !clears, "{}", describe(config, run));
                refused += 1;
            }
        }
    }
    println!("{refused} of {} refused with a named error", done.len());
    assert!(0 < refused && refused < done.len());
}

#[test]
fn two_pfns_with_one_frame_are_copied_if_the_policy_says_so() {
    let done = run_all(&runs([Scenario::Alias].into_iter(), &FaultSet::default()));
    let mut refused = 0;
    for (config, run) in &done {
        assert_eq!(run.ending, IDENTICAL, "{}", describe(config, run));
        assert_eq!(run.harmed, None, "{}", describe(config, run));
        let run = migrate(config, Config { alias: AliasPolicy::Refuse, ..engine(config) }, &mut ());
        if run.ending != IDENTICAL {
            let named =
                run.error.as_ref().is_some_and(|error| error.contains("the frame is also that of"));
            assert!(named, "{}", describe(config, &run));
            refused += 1;
        }
    }
    println!("{refused} of {} refused otherwise", done.len());
    assert!(refused > 0);
}

#[test]
fn full_verification_finds_frames_that_were_given_away_under_an_entry_that_stays() {
    let done = run_all(&runs([Scenario::GivenAway].into_iter(), &FaultSet::default()));
    let mut leaked = 0;
    for (config, run) in &done {
        assert_eq!(run.ending, IDENTICAL, "{}", describe(config, run));
        let dirty = Config { verify: Verify::Dirty, ..engine(config) };
        leaked += u64::from(migrate(config, dirty, &mut ()).ending != IDENTICAL);
    }
    println!("{leaked} of {} wrong without", done.len());
    assert!(leaked > 0);
}

#[test]
fn each_fault_alone_strikes_somewhere() {
    for fault in Fault::ALL {
        let configs = runs([Scenario::Mixed, Scenario::Writes].into_iter(), &FaultSet(vec![fault]));
        for (config, run) in run_all(&configs) {
            assert!(
                matches!(run.ending, IDENTICAL | Ending::Aborted),
                "{}",
                describe(&config, &run)
            );
            assert_eq!(run.harmed, None, "{}", describe(&config, &run));
        }
    }
}

#[test]
fn both_kinds_of_p2m_in_both_widths() {
    for p2m in [P2mKind::Linear, P2mKind::Tree] {
        for width in [Width::W32, Width::W64] {
            let mut configs =
                runs([Scenario::Mixed, Scenario::Hotplug].into_iter(), &FaultSet::default());
            for config in &mut configs {
                (config.p2m, config.width) = (Some(p2m), width);
            }
            for (config, run) in run_all(&configs) {
                assert_eq!(run.ending, IDENTICAL, "{}", describe(&config, &run));
            }
        }
    }
}

#[test]
fn a_seed_decides_everything() {
    for config in runs([Scenario::Mixed, Scenario::Remus].into_iter(), &FaultSet::default()) {
        let [first, second] = [(); 2].map(|()| migrate(&config, engine(&config), &mut ()));
        assert_eq!(first.last, second.last);
        assert_eq!(first.rounds, second.rounds);
        assert_eq!(first.beyond_log_dirty, second.beyond_log_dirty);
    }
}

/// The rounds of a run, and the steps that the guest had taken at the end of each.
#[derive(Default)]
struct Rounds(Vec<(u64, RoundReport)>);

impl Observer for Rounds {
    fn begin(&mut self, _: Phase) {}
    fn end(&mut self, _: Phase) {}
}

impl Watch for Rounds {
    fn round(
        &mut self,
        report: &RoundReport,
        _: Option<&PfnBitmap>,
        simulation: &Simulation,
    ) -> Result<(), PortError> {
        self.0.push((simulation.activity().steps, report.clone()));
        Ok(())
    }
}

fn watched(config: &SimConfig) -> (Run, Vec<(u64, RoundReport)>) {
    let mut rounds = Rounds::default();
    let run = migrate(config, engine(config), &mut rounds);
    (run, rounds.0)
}

/// Runs with much activity, with faults and without.
fn busy() -> Vec<SimConfig> {
    let scenarios = [Scenario::Mixed, Scenario::Remus, Scenario::Hostile, Scenario::LeafMoved];
    let faulty = FaultSet(Fault::ALL.to_vec());
    [FaultSet::default(), faulty].iter().flat_map(|f| runs(scenarios.into_iter(), f)).collect()
}

#[test]
fn limits_that_leave_nothing_out_change_nothing() {
    for config in busy() {
        let programs = "0-18446744073709551615".parse().ok();
        let limits = Limits { steps: Some(u64::MAX), programs, no_writes: false };
        let limited = SimConfig { limits, ..config.clone() };
        let [whole, same] = [&config, &limited].map(watched);
        assert_eq!(format!("{whole:?}"), format!("{same:?}"), "{config:?}");
    }
}

#[test]
fn a_schedule_cut_short_is_the_same_up_to_there() {
    let mut compared = 0;
    for config in busy() {
        let (whole, rounds) = watched(&config);
        let steps = whole.activity.steps / 2;
        let limits = Limits { steps: Some(steps), ..Limits::default() };
        let (cut, cut_rounds) = watched(&SimConfig { limits, ..config.clone() });
        assert!(cut.activity.steps <= steps);
        let until = |steps| move |&&(at, _): &&(u64, RoundReport)| at < steps;
        let [before, same] = [&rounds, &cut_rounds]
            .map(|rounds| rounds.iter().take_while(until(steps)).collect::<Vec<_>>());
        assert_eq!(before, same, "{config:?}");
        compared += before.len();
        let begun = whole.activity.begun.iter().filter(|begun| begun.step <= steps);
        assert!(begun.eq(&cut.activity.begun), "{config:?}");
    }
    println!("{compared} rounds before the cut compared");
    assert!(compared > 20, "{compared}");
}

#[test]
fn a_schedule_without_a_program_is_the_same_up_to_that_program() {
    let mut others = [0, 0];
    for config in busy() {
        let (whole, rounds) = watched(&config);
        let Some(out) = whole.activity.begun.get(whole.activity.begun.len() / 2) else { continue };
        let kept = [0..=out.number - 1, out.number + 1..=u64::MAX].into_iter().collect();
        let limits = Limits { programs: Some(kept), ..Limits::default() };
        let (thin, thin_rounds) = watched(&SimConfig { limits, ..config.clone() });
        let until = |&&(at, _): &&(u64, RoundReport)| at < out.step;
        let [before, same] = [&rounds, &thin_rounds]
            .map(|rounds| rounds.iter().take_while(until).collect::<Vec<_>>());
        assert_eq!(before, same, "{config:?}");
        assert!(thin.activity.begun.iter().all(|begun| begun.number != out.number));
        // A number is one behaviour, and most programs begin in the very same step.
        for begun in whole.activity.begun.iter().filter(|begun| begun.number > out.number) {
            let same = |other: &&_| begun == *other;
            others[usize::from(thin.activity.begun.iter().any(|other| same(&other)))] += 1;
        }
        for begun in &thin.activity.begun {
            let known = whole.activity.begun.iter().find(|other| other.number == begun.number);
            assert!(known.is_none_or(|known| known.behaviour == begun.behaviour), "{config:?}");
        }
    }
    println!(
        "of all programs {} begin in the same step without one, {} do not",
        others[1], others[0]
    );
    assert!(others[1] > 3 * others[0], "{others:?}");
}

#[test]
fn a_guest_without_programs_and_stores_changes_nothing() {
    for config in runs([Scenario::Mixed].into_iter(), &FaultSet::default()) {
        let limits = Limits { steps: None, programs: "none".parse().ok(), no_writes: true };
        let config = SimConfig { limits, checkpoints: 0, ..config };
        let (run, rounds) = watched(&config);
        assert_eq!(run.ending, IDENTICAL);
        assert!(run.activity.steps > 0 && run.activity.begun.is_empty());
        for (_, round) in
            rounds.iter().filter(|(_, round)| round.stage == Stage::Live && round.round > 0)
        {
            assert_eq!((round.log_dirty_pfns, round.entries.changed()), (0, 0), "{config:?}");
        }
    }
}
