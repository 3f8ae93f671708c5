// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work that follows from earlier rounds, without a sign in this one. Each test is the only one
//! that fails if the engine omits that work.
//! Not here: the changes themselves (`changes`), the owners of frames (`owners`).
//! Units: pfns of the hand-driven guest in `fixture`.
//! Threads: one.
//! Source: `docs/design.md`, "Changes"; `docs/verification.md`, "Mutants".

use p2mtrack::cause::CauseSet;
use p2mtrack::config::Config;
use p2mtrack::frame::{Entry, Mfn, Pfn, Width};
use p2mtrack::migration::Migration;
use p2mtrack::monitor::Monitor;
use p2mtrack::port::Deferral;
use p2mtrack::uncertainty::Uncertainty;
use p2mtrack_tests::fixture::{At, BASE, Fixture, Got, HOLES, OWN, finish, round};

/// A tree and a list after their first copy.
fn copied(config: Config) -> [(Fixture, Migration); 2] {
    [Fixture::tree(), Fixture::linear()].map(|fixture| {
        let mut migration = fixture.start(config);
        round(&fixture, &mut migration);
        (fixture, migration)
    })
}

/// A frame moves from a pfn to one without a frame; PTEs are kept.
fn move_frame(fixture: &Fixture, from: u64, to: u64) {
    let mut machine = fixture.machine();
    let frame = machine.entry(from);
    machine.set_entry(from, Entry::INVALID);
    machine.set_entry(to, frame);
    machine.machphys(frame.0, to);
}

#[test]
fn frames_of_removed_pfns_are_looked_up_elsewhere() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        let mut migration = fixture.start(Config::default());
        fixture.machine().make_table(5, 1100);
        fixture.machine().balloon_out(20);
        round(&fixture, &mut migration);
        round(&fixture, &mut migration); // whose log still has the table
        move_frame(&fixture, 1100, 20);
        {
            let mut machine = fixture.machine();
            for pfn in 1024..HOLES {
                machine.balloon_out_if_there(pfn);
            }
            machine.roots.pfn_count = 1024;
        }
        finish(&fixture, &mut migration);
    }
}

#[test]
fn the_log_is_read_as_far_as_p2m_frames_have_pfns() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        // Writes to this leaf are marked far past the guest's own count.
        fixture.machine().frame(BASE + OWN + 1).m2p = Some(40_000);
        let mut migration = fixture.start(Config::default());
        round(&fixture, &mut migration);
        fixture.machine().balloon_out(600);
        assert_eq!(round(&fixture, &mut migration).entries.unmapped, 1);
    }
}

#[test]
fn the_log_is_read_as_far_as_pfns_are_tracked() {
    const FAR: u64 = 70 * 512; // past the first leaf of the log
    for fixture in [Fixture::tree(), Fixture::linear()] {
        {
            let mut machine = fixture.machine();
            let leaf = machine.populate(HOLES + 1);
            machine.give_words(leaf, u64::MAX);
            machine.set_entry(HOLES + 1, Entry(leaf));
            machine.set_leaf(70, leaf);
            let page = machine.populate(FAR + 3);
            machine.poke(leaf, 3, page);
            machine.roots.pfn_count = FAR + 512;
        }
        let mut migration = fixture.start(Config::default());
        round(&fixture, &mut migration);
        // The count is small when the log is requested, and as before after it was read.
        let page = {
            let mut machine = fixture.machine();
            let page = machine.peek(machine.leaf(FAR), 3);
            machine.write_frame(page, 0xfa);
            machine.roots.pfn_count = 3 * 512;
            machine.on(At::Clean, |machine| machine.roots.pfn_count = FAR + 512);
            page
        };
        round(&fixture, &mut migration);
        assert_eq!(fixture.machine().frame(page).content, 0xfa);
        assert_eq!(fixture.machine().received.get(&(FAR + 3)), Some(&Got::Content(0xfa)));
    }
}

#[test]
fn departed_frames_without_a_known_owner_are_taken_for_the_domain_s() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        let mut migration = fixture.start(Config::default());
        fixture.machine().make_table(5, 21);
        fixture.machine().balloon_out(20);
        round(&fixture, &mut migration);
        move_frame(&fixture, 21, 20);
        // The query after the send is about the frame that left its pfn.
        fixture.machine().on(At::Send, |machine| machine.errors.push(At::Query));
        let report = round(&fixture, &mut migration);
        assert_eq!(report.pages.moved, 1);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn tables_that_were_deferred_too_long_are_sent_in_the_end() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        let mut migration = fixture.start(Config { uncertain_rounds_max: 0, ..Config::default() });
        fixture.machine().make_table(5, 21);
        fixture.machine().balloon_out(20);
        round(&fixture, &mut migration);
        round(&fixture, &mut migration); // the table is in the log of the first one
        move_frame(&fixture, 21, 20);
        for _ in 0..3 {
            assert_eq!(round(&fixture, &mut migration).uncertain[Uncertainty::Tables as usize], 0);
        }
        let report = finish(&fixture, &mut migration);
        assert_eq!(report.uncertain[Uncertainty::Tables as usize], 1);
    }
}

#[test]
fn the_structure_is_not_trusted_after_a_final_round_that_failed() {
    for (fixture, mut migration) in copied(Config::default()) {
        fixture.machine().errors.push(At::Gone);
        fixture.machine().balloon_out(9);
        fixture.with(|ports| migration.finish(ports)).expect_err("the suspend is cancelled");
        // Changes during the resume need no sign.
        {
            let mut machine = fixture.machine();
            let old = machine.leaf(512);
            let new = machine.copy_words(old, HOLES + 1);
            machine.set_entry(HOLES + 1, Entry(new));
            machine.set_leaf(1, new);
            machine.poke(new, 88, u64::MAX);
            machine.release(BASE + 600);
            let leaf_and_page = [OWN + 2, HOLES + 1];
            machine.log.retain(|pfn| leaf_and_page.contains(pfn));
        }
        let report = round(&fixture, &mut migration);
        assert_eq!((report.structure.forced, report.entries.unmapped), (1, 1));
    }
}

#[test]
fn entries_of_a_leaf_that_became_a_shared_hole_are_reported_one_by_one() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        let missing = {
            let mut machine = fixture.machine();
            machine.log_on = true;
            let missing = machine.populate(HOLES + 1);
            machine.give_words(missing, u64::MAX);
            machine.set_entry(HOLES + 1, Entry(missing));
            machine.roots.pfn_count = 4 * 512;
            machine.set_leaf(3, missing);
            missing
        };
        let mut monitor = Monitor::new(Config::default(), Width::W64).expect("threads");
        let observe = |monitor: &mut Monitor| {
            let mut reported = Vec::new();
            let mut each = |pfn: Pfn, _: CauseSet| reported.push(pfn.0);
            let report = fixture
                .with(|ports| monitor.observe(&mut ports.guest, ports.log_dirty, &mut each))
                .expect("a round");
            (report.entries.unmapped, reported)
        };
        observe(&mut monitor);
        {
            let mut machine = fixture.machine();
            (1024..HOLES).for_each(|pfn| machine.release(BASE + pfn));
            machine.release(missing);
            let missing = machine.populate(30);
            machine.give_words(missing, u64::MAX);
            machine.set_leaf(2, missing);
            machine.set_leaf(3, missing);
            machine.log.retain(|pfn| (OWN..OWN + 8).contains(pfn));
        }
        let (unmapped, reported) = observe(&mut monitor);
        let named = HOLES - 1024 + 1; // and the page of the old leaf
        assert_eq!(unmapped, named);
        assert!((1024..HOLES).all(|pfn| reported.contains(&pfn)), "{reported:x?}");
    }
}

#[test]
fn the_pfn_that_the_m2p_has_for_a_frame_that_left_another_is_owed() {
    for (fixture, mut migration) in copied(Config::default()) {
        // The guest granted the frame to itself: another pfn names it under a tag, and is settled
        // as foreign.
        let tagged = Entry::foreign(Width::W64, Mfn(BASE + 9));
        fixture.machine().set_entry(HOLES + 5, tagged);
        round(&fixture, &mut migration);
        // The frame goes to Xen and comes back under that pfn, whose entry is not written.
        fixture.machine().balloon_out(9);
        fixture.machine().receive(BASE + 9, HOLES + 5, 0x55);
        round(&fixture, &mut migration);
        assert_eq!(fixture.machine().received.get(&(HOLES + 5)), Some(&Got::Content(0x55)));
    }
}

#[test]
fn a_table_is_normalised_by_the_p2m_of_now() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        let mut migration = fixture.start(Config::default());
        fixture.machine().make_table(5, 21);
        round(&fixture, &mut migration);
        let table = fixture.machine().entry(5).0;
        fixture.machine().poke(table, 4, (BASE + 21) << 12 | 0x67);
        // When the table is about to be normalised no pfn has the frame any more, whatever was sent
        // before.
        fixture.machine().on(At::Send, |machine| machine.set_entry(21, Entry::INVALID));
        let report = round(&fixture, &mut migration);
        assert_eq!(report.pages.deferred_table, 1);
        assert!(matches!(migration.tracker().deferral(Pfn(5)), Some(Deferral::Table(_))));
    }
}
