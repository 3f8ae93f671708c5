// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model of upstream's algorithm does what the original does: changes that it follows arrive,
//! changes that it does not see go wrong.
//! Not here: the whole table by scenario (`docs/comparison.md`).
//! Units: runs of small guests; a debug build makes a few, a release build a hundred.
//! Threads: runs side by side.
//! Source: the description of libxc's save path in the project's notes.

use p2mtrack::frame::Width;
use p2mtrack_synthetic::run::{Ending, Run, side_by_side};
use p2mtrack_synthetic::{Fault, FaultSet, P2mKind, Scenario, SimConfig, Verdict, upstream};

const SEEDS: u64 = if cfg!(debug_assertions) { 6 } else { 100 };
const IDENTICAL: Ending = Ending::Judged(Verdict::Identical);
const CORRUPT: Ending = Ending::Judged(Verdict::Corrupt);
const LEAKED: Ending = Ending::Judged(Verdict::Leaked);

fn configs(scenario: Scenario, faults: &[Fault]) -> Vec<SimConfig> {
    (1..=SEEDS)
        .map(|seed| SimConfig {
            width: if seed % 3 == 0 { Width::W32 } else { Width::W64 },
            faults: FaultSet(faults.to_vec()),
            ..SimConfig::plain(scenario, seed, 64 << 20)
        })
        .collect()
}

fn runs(configs: &[SimConfig]) -> Vec<Run> {
    side_by_side(configs, upstream::migrate)
}

fn count(runs: &[Run], like: impl Fn(&Run) -> bool) -> u64 {
    runs.iter().filter(|run| like(run)).count() as u64
}

/// Most runs of a scenario end like this; of the few in a debug build at least one.
fn mostly(scenario: Scenario, like: impl Fn(&Run) -> bool) -> Vec<Run> {
    let runs = runs(&configs(scenario, &[]));
    let found = count(&runs, like);
    let least = if cfg!(debug_assertions) { 1 } else { SEEDS / 2 };
    assert!(found >= least, "{scenario}: {found} of {SEEDS}");
    runs
}

#[test]
fn a_p2m_that_stays_as_it_is_arrives_identical() {
    for scenario in [Scenario::Quiet, Scenario::Writes] {
        for kind in [P2mKind::Linear, P2mKind::Tree] {
            let mut configs = configs(scenario, &[]);
            configs.iter_mut().for_each(|config| config.p2m = Some(kind));
            for (config, run) in configs.iter().zip(runs(&configs)) {
                assert_eq!(run.ending, IDENTICAL, "{config:?} {:?}", run.error);
                assert_eq!(run.harmed, None, "{config:?}");
            }
        }
    }
}

#[test]
fn a_generation_that_moves_aborts_and_a_tree_has_none() {
    let aborted = mostly(Scenario::LinearReshape, |run| run.ending == Ending::Aborted);
    let by_generation =
        |run: &Run| run.error.as_deref().is_some_and(|error| error.contains("generation"));
    assert!(count(&aborted, by_generation) > 0);
    let tree = mostly(Scenario::TreeReshape, |run| run.ending == CORRUPT);
    assert_eq!(count(&tree, by_generation), 0);
    mostly(Scenario::RootSwap, |run| run.ending == CORRUPT || by_generation(run));
}

#[test]
fn what_was_sent_and_ballooned_out_leaks() {
    let lost = |run: &Run| matches!(run.ending, LEAKED | Ending::Aborted);
    mostly(Scenario::Balloon, lost);
    mostly(Scenario::Shrink, lost);
}

#[test]
fn an_entry_that_changes_resends_the_p2m_frame_and_not_the_page() {
    mostly(Scenario::FrameSwap, |run| run.ending == CORRUPT);
    mostly(Scenario::TransferIn, |run| run.ending == CORRUPT);
}

#[test]
fn checkpoints_lack_what_came_after_the_first() {
    let lacks = |run: &Run| run.judgement.as_ref().is_some_and(|found| found.missing_pfns > 0);
    mostly(Scenario::Remus, lacks);
}

#[test]
fn a_tagged_frame_of_its_own_and_the_tables_that_name_it_are_left_out() {
    let runs = mostly(Scenario::GrantMap, |run| run.ending == CORRUPT);
    let lacks = |run: &Run| run.judgement.as_ref().is_some_and(|found| found.missing_pfns > 0);
    assert!(count(&runs, lacks) > 0);
}

#[test]
fn a_frame_that_cant_be_mapped_aborts_and_so_does_a_short_bitmap() {
    for fault in [Fault::MapFailure, Fault::ShortBitmap] {
        let runs = runs(&configs(Scenario::Writes, &[fault]));
        let struck = count(&runs, |run| !run.struck.is_empty());
        let aborted = count(&runs, |run| run.fault == Some(fault));
        assert!(struck > 0 && struck == aborted, "{fault}: {aborted} of {struck}");
        assert_eq!(count(&runs, |run| run.ending == CORRUPT), 0);
    }
}

#[test]
fn nothing_is_left_at_the_source_and_a_seed_decides_everything() {
    let faults = Fault::ALL;
    for scenario in [Scenario::Mixed, Scenario::Remus, Scenario::Hostile] {
        let configs = configs(scenario, &faults);
        let (first, second) = (runs(&configs), runs(&configs));
        for ((config, one), two) in configs.iter().zip(&first).zip(&second) {
            assert_eq!(one.harmed, None, "{config:?} {:?}", one.error);
            assert_eq!((one.ending, &one.error), (two.ending, &two.error), "{config:?}");
        }
    }
}
