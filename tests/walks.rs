// SPDX-License-Identifier: MIT OR Apache-2.0
//! Walks of the structure while the guest changes it: tries, reads, uncertainties, and their
//! results.
//! Not here: which change calls for a walk (`changes`), walks of hostile structures (`hostile`).
//! Units: pfns of the hand-driven guest in `fixture`.
//! Threads: one.
//! Source: `docs/design.md`, "Changes"; `docs/decisions/0003`.

use p2mtrack::config::Config;
use p2mtrack::error::{Error, StructureCause};
use p2mtrack::frame::{Entry, Mfn};
use p2mtrack::port::MapFault;
use p2mtrack::report::RoundReport;
use p2mtrack::uncertainty::Uncertainty;
use p2mtrack_tests::fixture::{At, BASE, Fixture, HOLES, OWN, finish, round};

fn reads_of_the_roots(fixture: &Fixture) -> usize {
    fixture.machine().calls.iter().filter(|&&at| at == At::Roots).count()
}

#[test]
fn a_generation_is_read_until_it_is_even_and_only_where_there_is_one() {
    // Two reads around the log; then one before the walk, and one after it unless the guest is
    // suspended.
    for (fixture, generation, live, last) in [
        (Fixture::tree(), 7, 4, 2),
        (Fixture::linear(), 8, 4, 2),
        (Fixture::linear(), 7, 2 + 64 + 1, 2 + 2),
    ] {
        fixture.machine().roots.generation = generation;
        let mut migration = fixture.start(Config::default());
        fixture.machine().calls.clear();
        round(&fixture, &mut migration);
        assert_eq!(reads_of_the_roots(&fixture), live, "{generation}");
        fixture.machine().calls.clear();
        finish(&fixture, &mut migration);
        assert_eq!(reads_of_the_roots(&fixture), last, "{generation}");
    }
}

#[test]
fn a_generation_that_does_not_change_requires_a_walk_only_if_it_is_odd() {
    for generation in 0..6 {
        let fixture = Fixture::linear();
        fixture.machine().roots.generation = generation;
        let mut migration = fixture.start(Config::default());
        round(&fixture, &mut migration);
        let structure = round(&fixture, &mut migration).structure;
        let odd = generation % 2;
        assert_eq!((structure.generation, structure.walks), (odd, odd), "{generation}");
        finish(&fixture, &mut migration);
    }
}

#[test]
fn a_walk_is_tried_eight_times_and_each_time_from_the_start() {
    let fixture = Fixture::linear();
    let mut migration = fixture.start(Config::default());
    assert_eq!(round(&fixture, &mut migration).structure.retries, 0);
    fixture.machine().roots.generation = 2;
    (0..40).for_each(|_| fixture.machine().on(At::Roots, |guest| guest.roots.generation += 2));
    fixture.machine().calls.clear();
    let structure = round(&fixture, &mut migration).structure;
    assert_eq!((structure.walks, structure.retries), (8, 7));
    // Copies from before the first try stay valid while their pfns are not in the log.
    let reads = fixture.machine().calls.iter().filter(|&&at| at == At::Read).count();
    assert_eq!(reads, 7 * 4);
    finish(&fixture, &mut migration);
}

#[test]
fn a_tree_whose_root_was_elsewhere_during_every_walk_is_walked_again() {
    let fixture = Fixture::tree();
    let mut migration = fixture.start(Config::default());
    round(&fixture, &mut migration);
    let (there, elsewhere) = {
        let guest = &mut *fixture.machine();
        let top = guest.roots.frame_list_list;
        let copy = guest.copy_words(top, HOLES + 1);
        guest.set_entry(HOLES + 1, Entry(copy));
        guest.write(OWN + 4, 1); // the root is written: that requires a walk
        (top, copy)
    };
    // Around the log, then around each walk.
    for root in [there; 2].into_iter().chain([there, elsewhere].repeat(8)) {
        fixture.machine().on(At::Roots, move |guest| guest.roots.frame_list_list = root);
    }
    let report = round(&fixture, &mut migration);
    assert_eq!((report.structure.walks, report.structure.retries), (8, 7));
    assert_eq!(report.uncertain[Uncertainty::Generation as usize], 1);
    // The roots are what they were before the first walk, and nothing is in the log.
    fixture.machine().roots.frame_list_list = there;
    let structure = round(&fixture, &mut migration).structure;
    assert_eq!((structure.walks, structure.retries, structure.roots), (1, 0, 0));
    assert_eq!(round(&fixture, &mut migration).structure.walks, 0);
    finish(&fixture, &mut migration);
}

#[test]
fn roots_that_lead_nowhere_and_frames_that_can_not_be_read_are_uncertainties_of_their_own() {
    let fixture = Fixture::tree();
    let mut migration = fixture.start(Config::default());
    round(&fixture, &mut migration);
    let count = std::mem::take(&mut fixture.machine().roots.pfn_count);
    let report = round(&fixture, &mut migration);
    assert!(report.p2m_unreadable);
    let uncertainties = |report: &RoundReport| {
        [Uncertainty::Roots, Uncertainty::Walk].map(|d| report.uncertain[d as usize])
    };
    assert_eq!(uncertainties(&report), [1, 0]);
    fixture.machine().roots.pfn_count = count;
    let mid = fixture.machine().peek(BASE + OWN + 4, 0);
    fixture.machine().poke(BASE + OWN + 4, 0, 0x3abc);
    let report = round(&fixture, &mut migration);
    assert_eq!((report.p2m_unreadable, uncertainties(&report)), (true, [0, 1]));
    // Suspending the guest does not help: the error names the frame.
    let error =
        fixture.with(|ports| migration.finish(ports)).expect_err("a mid that does not exist");
    let Error::Structure { level, mfn, cause, .. } = error else { panic!("{error}") };
    let unreadable = StructureCause::Unreadable(MapFault::NotOwned);
    assert_eq!((level, mfn, cause), (1, Mfn(0x3abc), unreadable));
    fixture.machine().poke(BASE + OWN + 4, 0, mid);
    finish(&fixture, &mut migration);
}
