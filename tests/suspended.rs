// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is sent while the guest is suspended, beside a model of upstream on the same schedules.
//! Not here: whether what arrives is right (`simulation`).
//! Units: pages and page tables, summed over 40 seeds of each scenario.
//! Threads: runs side by side.
//! Source: both suspend by upstream's policy: after a pass with few dirty pfns, at the latest after
//! five; the guest takes as many steps in each pass. Runs in which upstream aborts, or leaves a
//! wrong page behind, say nothing. Pages of unlogged writers, which upstream does not send again,
//! are left out: some five a run.

use std::collections::BTreeMap;

use p2mtrack::config::Config;
use p2mtrack::migration::Migration;
use p2mtrack::port::{Guest, Ports};
use p2mtrack_synthetic::run::{Ending, side_by_side};
use p2mtrack_synthetic::{Scenario, SimConfig, Simulation, Verdict, upstream};

/// A single run says little: the guest acts between the calls of a tracker, which differ.
const SEEDS: u64 = 40;
/// Upstream's policy.
const PASSES_MAX: u64 = 5;
const FEW: u64 = 50;

/// Scenarios whose p2m does not change. In the others upstream is right by luck: a pfn whose entry
/// changed is owed, whether the log names it or not, and so are tables that may name a frame that
/// moved.
const STEADY: [&str; 2] = ["quiet", "writes"];

/// Pages and page tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sent {
    pages: u64,
    tables: u64,
}

impl Sent {
    const fn add(&mut self, other: Self) {
        self.pages += other.pages;
        self.tables += other.tables;
    }
}

/// What upstream sends, if all is right in the end.
fn by_upstream(config: &SimConfig) -> Option<Sent> {
    let run = upstream::migrate_in_full_rounds(&Simulation::new(config));
    let (pages, tables) = run.upstream_suspended;
    (run.ending == Ending::Judged(Verdict::Identical)).then_some(Sent { pages, tables })
}

/// What this engine sends on the same schedule.
fn by_p2mtrack(config: &SimConfig) -> Sent {
    let simulation = Simulation::new(config);
    let (mut handles, mut nobody) = (simulation.ports(), ());
    let mut ports = Ports {
        guest: Guest {
            p2m: &mut handles.p2m,
            m2p: &handles.m2p,
            types: &mut handles.types,
            unlogged: &mut handles.unlogged,
            observer: &mut nobody,
        },
        log_dirty: &mut handles.log_dirty,
        transport: &mut handles.transport,
    };
    let engine = config.scenario.engine(config.seed, Config::default());
    let mut migration = Migration::start(engine, &mut ports).expect("log-dirty");
    for pass in 0..PASSES_MAX {
        let report = migration.round(&mut ports).expect("a round");
        simulation.run_out();
        if pass > 0 && report.pages.accepted < FEW {
            break;
        }
    }
    simulation.suspend();
    let before = simulation.activity();
    let report = migration.finish(&mut ports).expect("the last round");
    let after = simulation.activity();
    assert_eq!(simulation.judge().verdict, Verdict::Identical);
    Sent {
        pages: after.pages_received - before.pages_received - report.settled.unlogged,
        tables: after.tables_received - before.tables_received,
    }
}

#[test]
fn no_more_is_sent_while_suspended_than_by_upstream() {
    let honest = Scenario::ALL.into_iter().filter(|scenario| !scenario.is_hostile());
    let configs: Vec<_> = honest
        .flat_map(|scenario| {
            (1..=SEEDS).map(move |seed| SimConfig::plain(scenario, seed, 64 << 20))
        })
        .collect();
    let sent =
        side_by_side(&configs, |config| by_upstream(config).map(|u| (u, by_p2mtrack(config))));
    let mut sums = BTreeMap::new();
    for (config, sent) in configs.iter().zip(sent) {
        let Some((theirs, own)) = sent else { continue };
        let (runs, upstream, p2mtrack) =
            sums.entry(config.scenario.name()).or_insert((0, Sent::default(), Sent::default()));
        *runs += 1;
        upstream.add(theirs);
        p2mtrack.add(own);
    }
    let (mut upstream, mut p2mtrack, mut steady) = (Sent::default(), Sent::default(), 0);
    for (scenario, (runs, theirs, own)) in sums {
        println!("{scenario}, {runs} runs: upstream {theirs:?}, p2mtrack {own:?}");
        if STEADY.contains(&scenario) {
            upstream.add(theirs);
            p2mtrack.add(own);
            steady += runs;
        }
    }
    println!("a p2m that rests, {steady} runs: upstream {upstream:?}, p2mtrack {p2mtrack:?}");
    assert!(steady == STEADY.len() as u64 * SEEDS, "upstream is right in {steady} runs only");
    assert!(p2mtrack.pages <= upstream.pages && p2mtrack.tables <= upstream.tables);
}
