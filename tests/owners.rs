// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames for which p2m and m2p are not enough: two pfns with one frame, another domain's frame
//! that matches, frames that leave the domain or come back without a write of their entry.
//! Not here: the rows of the outcome table (`outcomes`).
//! Units: pfns of the hand-driven guest in `fixture`.
//! Threads: one.
//! Source: `docs/design.md`, "Outcomes" and "Completeness".

use p2mtrack::config::{AliasPolicy, Config, ForeignPtePolicy, Verify};
use p2mtrack::error::{EntryCause, Error};
use p2mtrack::frame::{Entry, Mfn, Pfn, Width};
use p2mtrack::migration::Migration;
use p2mtrack::port::{Answer, Deferral, Transfer};
use p2mtrack::report::RoundReport;
use p2mtrack::table::TableCause;
use p2mtrack_tests::fixture::{At, BASE, Fixture, Got, HOLES, Machine, round};

fn aliases() -> Config {
    Config { alias: AliasPolicy::Copy, ..Config::default() }
}

fn full() -> Config {
    Config { verify: Verify::Full, ..Config::default() }
}

/// A tree and a list after their first copy.
fn copied(config: Config) -> [(Fixture, Migration); 2] {
    [Fixture::tree(), Fixture::linear()].map(|fixture| {
        let mut migration = fixture.start(config);
        round(&fixture, &mut migration);
        (fixture, migration)
    })
}

fn checkpoint(fixture: &Fixture, migration: &mut Migration) -> RoundReport {
    fixture.with(|ports| migration.checkpoint(ports)).expect("a checkpoint")
}

fn finish(fixture: &Fixture, migration: &mut Migration) -> RoundReport {
    fixture.with(|ports| migration.finish(ports)).expect("completes")
}

fn arrived(fixture: &Fixture, pfn: u64) -> Option<Got> {
    fixture.machine().received.get(&pfn).cloned()
}

/// Another domain's frame, which that domain has at pfn `m2p`.
fn foreign(machine: &mut Machine, m2p: u64) -> u64 {
    let mfn = machine.populate(m2p);
    machine.give_away(mfn, Some(m2p));
    mfn
}

fn entries(mfn: u64) -> [Entry; 2] {
    [Entry(mfn), Entry::foreign(Width::W64, Mfn(mfn))]
}

// --- two pfns, one frame; a frame whose m2p names another pfn ------------------------------------

/// The frame of pfn 9 has a second pfn: after each checkpoint both pfns have what was written to
/// it.
fn expect_sent_to_both(fixture: &Fixture, migration: &mut Migration) {
    for content in [0x11, 0x22] {
        fixture.machine().write_frame(BASE + 9, content);
        let report = checkpoint(fixture, migration);
        assert_eq!((report.settled.aliases, report.unaccounted_frames), (1, Some(0)));
        for pfn in [9, HOLES + 5] {
            assert_eq!(arrived(fixture, pfn), Some(Got::Content(content)), "{pfn:#x}");
        }
    }
}

#[test]
fn an_alias_written_after_a_checkpoint_is_sent_to_both_pfns_again() {
    for (fixture, mut migration) in copied(aliases()) {
        fixture.machine().set_entry(HOLES + 5, Entry(BASE + 9));
        let report = checkpoint(&fixture, &mut migration);
        assert_eq!(report.settled.aliases, 1);
        for content in [0x11, 0x22] {
            fixture.machine().write_frame(BASE + 9, content);
            if content == 0x22 {
                round(&fixture, &mut migration);
            }
            let report = checkpoint(&fixture, &mut migration);
            assert_eq!(report.settled.aliases, 1);
            for pfn in [9, HOLES + 5] {
                assert_eq!(arrived(&fixture, pfn), Some(Got::Content(content)), "{pfn:#x}");
            }
        }
        fixture.machine().write_frame(BASE + 9, 0x33);
        finish(&fixture, &mut migration);
        assert_eq!(arrived(&fixture, HOLES + 5), Some(Got::Content(0x33)));
    }
}

#[test]
fn a_frame_whose_m2p_names_another_pfn_or_none_is_sent_again_in_each_suspended_round() {
    for other in [None, Some(HOLES + 7), Some(1 << 40)] {
        for (fixture, mut migration) in copied(Config::default()) {
            fixture.machine().write(9, 0x11);
            fixture.machine().frame(BASE + 9).m2p = other;
            for content in [0x11, 0x22, 0x33] {
                fixture.machine().write_frame(BASE + 9, content);
                let report = checkpoint(&fixture, &mut migration);
                assert_eq!(report.settled.m2p_stale, 1, "{other:x?}");
                assert_eq!(arrived(&fixture, 9), Some(Got::Content(content)), "{other:x?}");
            }
            // Once the footing is sound, the pfn is not sent again.
            fixture.machine().machphys(BASE + 9, 9);
            assert_eq!(checkpoint(&fixture, &mut migration).settled.m2p_stale, 0);
            assert_eq!(finish(&fixture, &mut migration).pages.accepted, 0);
        }
    }
}

#[test]
fn what_a_cancelled_suspend_settled_against_the_m2p_is_owed_again() {
    for at in [At::Gone, At::Send] {
        for (fixture, mut migration) in copied(aliases()) {
            fixture.machine().frame(BASE + 8).m2p = None;
            fixture.machine().set_entry(HOLES + 5, Entry(BASE + 9));
            fixture.machine().write(7, 0x77);
            fixture.machine().balloon_out(6);
            let settled = |fixture: &Fixture, migration: &mut Migration| {
                fixture
                    .with(|ports| migration.finish(ports))
                    .expect_err("the suspend is cancelled");
            };
            // The pages are in a first batch; the failure comes after it.
            if at == At::Send {
                fixture.machine().make_table(5, 4);
                fixture.machine().on(At::Send, |machine| machine.errors.push(At::Gone));
            } else {
                fixture.machine().errors.push(At::Gone);
            }
            settled(&fixture, &mut migration);
            fixture.machine().errors.clear();
            round(&fixture, &mut migration);
            fixture.machine().write_frame(BASE + 8, 0x88);
            fixture.machine().write_frame(BASE + 9, 0x99);
            finish(&fixture, &mut migration);
            assert_eq!(arrived(&fixture, 8), Some(Got::Content(0x88)));
            assert_eq!(arrived(&fixture, 9), Some(Got::Content(0x99)));
            assert_eq!(arrived(&fixture, HOLES + 5), Some(Got::Content(0x99)));
        }
    }
}

#[test]
fn the_other_pfn_of_a_frame_is_owed_whenever_its_twin_is() {
    for (fixture, mut migration) in copied(aliases()) {
        fixture.machine().set_entry(HOLES + 5, Entry(BASE + 9));
        checkpoint(&fixture, &mut migration);
        assert_eq!(migration.tracker().owed(), 0);
        fixture.machine().write_frame(BASE + 9, 0x11);
        round(&fixture, &mut migration);
        assert!(
            migration.tracker().deferral(Pfn(HOLES + 5)).is_some(),
            "it waits for the next suspend"
        );
        // The destination lost the twin.
        checkpoint(&fixture, &mut migration);
        fixture.machine().returned.push(9);
        round(&fixture, &mut migration);
        assert!(migration.tracker().deferral(Pfn(HOLES + 5)).is_some());
    }
}

#[test]
fn an_alias_whose_m2p_goes_over_to_the_copy_leaves_the_first_pfn_owed() {
    for (fixture, mut migration) in copied(aliases()) {
        fixture.machine().set_entry(HOLES + 5, Entry(BASE + 9));
        checkpoint(&fixture, &mut migration);
        // From now on writes are marked under the copy, and nothing is marked under the first pfn.
        fixture.machine().machphys(BASE + 9, HOLES + 5);
        expect_sent_to_both(&fixture, &mut migration);
    }
}

#[test]
fn an_alias_whose_m2p_goes_over_to_the_copy_in_a_live_round_leaves_the_first_pfn_owed() {
    for back in [false, true] {
        for (fixture, mut migration) in copied(aliases()) {
            fixture.machine().set_entry(HOLES + 5, Entry(BASE + 9));
            checkpoint(&fixture, &mut migration);
            // The copy is sent as the pfn that the m2p names; the other pfn is the copy from now
            // on.
            fixture.machine().machphys(BASE + 9, HOLES + 5);
            round(&fixture, &mut migration);
            if back {
                fixture.machine().machphys(BASE + 9, 9);
                round(&fixture, &mut migration);
            }
            expect_sent_to_both(&fixture, &mut migration);
            // One of them gets a frame of its own: nothing is a copy any more.
            let other = fixture.machine().populate(9);
            fixture.machine().set_entry(9, Entry(other));
            fixture.machine().machphys(BASE + 9, HOLES + 5);
            let report = checkpoint(&fixture, &mut migration);
            assert_eq!((report.settled.aliases, report.unaccounted_frames), (0, Some(0)));
        }
    }
}

#[test]
fn a_pfn_that_waited_for_another_s_frame_and_gets_its_m2p_makes_that_one_the_copy() {
    for (fixture, mut migration) in copied(aliases()) {
        fixture.machine().set_entry(HOLES + 5, Entry(BASE + 9));
        round(&fixture, &mut migration);
        assert!(
            migration.tracker().deferral(Pfn(HOLES + 5)).is_some(),
            "deferred while the guest runs"
        );
        // The first pfn's entry is not written.
        fixture.machine().machphys(BASE + 9, HOLES + 5);
        round(&fixture, &mut migration);
        expect_sent_to_both(&fixture, &mut migration);
    }
    for (fixture, mut migration) in copied(Config::default()) {
        fixture.machine().set_entry(HOLES + 5, Entry(BASE + 9));
        round(&fixture, &mut migration);
        fixture.machine().machphys(BASE + 9, HOLES + 5);
        round(&fixture, &mut migration);
        fixture.machine().write_frame(BASE + 9, 0x33);
        let error = fixture.with(|ports| migration.finish(ports)).expect_err("refused");
        let Error::Entry { pfn, cause, .. } = error else { panic!("{error}") };
        assert_eq!((pfn, cause), (Pfn(9), EntryCause::Alias(Pfn(HOLES + 5))));
    }
}

#[test]
fn full_verification_finds_a_copy_whose_m2p_changed_before_a_round_saw_both() {
    for (fixture, mut migration) in copied(full()) {
        fixture.machine().set_entry(HOLES + 5, Entry(BASE + 9));
        fixture.machine().machphys(BASE + 9, HOLES + 5);
        round(&fixture, &mut migration);
        fixture.machine().write_frame(BASE + 9, 0x33);
        let error = fixture.with(|ports| migration.finish(ports)).expect_err("refused");
        let Error::Entry { pfn, cause, .. } = error else { panic!("{error}") };
        assert_eq!((pfn, cause), (Pfn(9), EntryCause::Alias(Pfn(HOLES + 5))));
    }
}

#[test]
fn a_copy_that_is_removed_is_a_copy_no_more() {
    for (fixture, mut migration) in copied(aliases()) {
        fixture.machine().set_entry(HOLES + 5, Entry(BASE + 9));
        assert_eq!(checkpoint(&fixture, &mut migration).settled.aliases, 1);
        fixture.machine().roots.pfn_count = 1024; // with it 256 pfns that have frames
        let report = checkpoint(&fixture, &mut migration);
        assert_eq!((report.settled.aliases, report.unaccounted_frames), (0, Some(256)));
    }
}

#[test]
fn an_own_frame_under_a_foreign_tag_is_asked_about_and_not_owed() {
    for (fixture, mut migration) in copied(Config::default()) {
        fixture.machine().set_entry(HOLES + 5, entries(BASE + 9)[1]);
        assert_eq!(checkpoint(&fixture, &mut migration).settled.foreign, 1);
        let report = checkpoint(&fixture, &mut migration);
        assert_eq!((report.settled.foreign, report.pages.unpopulated), (1, 0), "settled once");
    }
}

// --- PTEs to another domain's frame that matches ------------------------------------------------

/// A table with a PTE to another domain's frame, which has the same pfn there as here.
fn with_a_matching_pte(config: Config, entry: usize) -> [(Fixture, Migration, u64); 2] {
    copied(config).map(|(fixture, migration)| {
        let mut machine = fixture.machine();
        let frame = foreign(&mut machine, 9);
        machine.balloon_out(9);
        machine.set_entry(9, entries(frame)[entry]);
        machine.make_table(5, 9);
        let table = machine.entry(5).0;
        machine.poke(table, 3, frame << 12 | 0x67);
        drop(machine);
        (fixture, migration, frame)
    })
}

#[test]
fn a_pte_to_a_foreign_frame_that_matches_is_refused() {
    for entry in 0..2 {
        for (fixture, mut migration, frame) in with_a_matching_pte(Config::default(), entry) {
            let error = fixture.with(|ports| migration.finish(ports)).expect_err("refused");
            match error {
                Error::Table { pfn, fault } => {
                    assert_eq!((pfn, fault.slot, fault.mfn), (Pfn(5), 3, Mfn(frame)));
                    assert_eq!(fault.cause, TableCause::Foreign);
                }
                other => panic!("{other}"),
            }
        }
    }
}

#[test]
fn a_pte_to_a_foreign_frame_that_matches_is_cleared_and_listed() {
    let config = Config { foreign_pte: ForeignPtePolicy::Clear, ..Config::default() };
    for entry in 0..2 {
        for (fixture, mut migration, frame) in with_a_matching_pte(config, entry) {
            let report = round(&fixture, &mut migration);
            assert_eq!(report.pages.deferred_table, 1, "deferred while the guest runs");
            let report = finish(&fixture, &mut migration);
            assert_eq!((report.settled.cleared_ptes, report.settled.foreign), (1, 1));
            let listed: Vec<_> = migration.tracker().cleared_ptes().collect();
            assert_eq!(listed, [(Pfn(5), &[Mfn(frame)][..])]);
            match arrived(&fixture, 5) {
                Some(Got::Table(words)) => assert_eq!(words[3], 0),
                other => panic!("{other:?}"),
            }
            assert_eq!(arrived(&fixture, 9), None);
        }
    }
}

/// The pfn's own frame goes to another domain, which has it at the same pfn; the entry still names
/// it, and so does a table.
fn with_a_frame_that_was_ours(config: Config, entry: usize) -> [(Fixture, Migration); 2] {
    copied(config).map(|(fixture, migration)| {
        let mut machine = fixture.machine();
        let frame = machine.balloon_out(9);
        machine.give_away(frame, Some(9));
        machine.set_entry(9, entries(frame)[entry]);
        machine.make_table(5, 9);
        let table = machine.entry(5).0;
        machine.poke(table, 3, frame << 12 | 0x67);
        drop(machine);
        (fixture, migration)
    })
}

#[test]
fn a_pte_to_a_frame_that_was_the_pfn_s_own_is_refused() {
    for (entry, live) in [(0, false), (0, true), (1, false), (1, true)] {
        for (fixture, mut migration) in with_a_frame_that_was_ours(Config::default(), entry) {
            if live {
                round(&fixture, &mut migration);
            }
            let error = fixture.with(|ports| migration.finish(ports)).expect_err("refused");
            let Error::Table { pfn, fault } = error else { panic!("{error}") };
            assert_eq!((pfn, fault.slot, fault.cause), (Pfn(5), 3, TableCause::Foreign));
        }
    }
}

#[test]
fn a_pte_to_a_frame_that_was_the_pfn_s_own_is_cleared_and_listed() {
    let config = Config { foreign_pte: ForeignPtePolicy::Clear, ..Config::default() };
    for (entry, live) in [(0, false), (0, true), (1, false), (1, true)] {
        for failing in [0, 1, 2] {
            for (fixture, mut migration) in with_a_frame_that_was_ours(config, entry) {
                if live {
                    round(&fixture, &mut migration);
                }
                // owners and types are queried too late
                fixture.machine().errors = vec![At::Query; failing];
                finish(&fixture, &mut migration);
                assert_eq!(migration.tracker().cleared_ptes().count(), 1);
                let Some(Got::Table(words)) = arrived(&fixture, 5) else { panic!("no table") };
                assert_eq!((words[3], arrived(&fixture, 9)), (0, None), "{entry} {live} {failing}");
            }
        }
    }
}

/// A pfn's frame goes to another domain, which has it at the same pfn, and a table names it; the
/// pfn gets a new frame, which is settled after the table: with it, or when its batch is repeated.
#[test]
fn a_pte_to_a_frame_that_left_its_pfn_is_refused_before_the_pfn_is_settled() {
    for is_table in [true, false] {
        for (fixture, mut migration) in copied(Config::default()) {
            {
                let mut machine = fixture.machine();
                let frame = machine.balloon_out(9);
                machine.give_away(frame, Some(9));
                machine.balloon_in(9, 0xf);
                machine.make_table(5, 10);
                let table = machine.entry(5).0;
                machine.poke(table, 3, frame << 12 | 0x67);
                if is_table {
                    machine.make_table(9, 10);
                } else {
                    let lost = [Answer::Deferred(Deferral::Unacknowledged)];
                    machine.answers.insert(9, lost.into());
                }
            }
            let error = fixture.with(|ports| migration.finish(ports)).expect_err("refused");
            let Error::Table { pfn, fault } = error else { panic!("{error}") };
            assert_eq!((pfn, fault.slot, fault.cause), (Pfn(5), 3, TableCause::Foreign));
        }
    }
}

#[test]
fn a_failed_query_does_not_make_a_foreign_frame_ours() {
    let config = Config { foreign_pte: ForeignPtePolicy::Clear, ..Config::default() };
    for entry in 0..2 {
        for (fixture, mut migration, _) in with_a_matching_pte(config, entry) {
            for _ in 0..2 {
                fixture.machine().on(At::Send, |machine| machine.errors.push(At::Query));
            }
            finish(&fixture, &mut migration);
            match arrived(&fixture, 5) {
                Some(Got::Table(words)) => assert_eq!(words[3], 0),
                other => panic!("{other:?}"),
            }
        }
    }
}

// --- entries that stay, frames that do not ------------------------------------------------------

#[test]
fn a_frame_that_comes_back_under_an_entry_that_stayed_is_sent() {
    for entry in 0..2 {
        for live in [false, true] {
            for (fixture, mut migration) in copied(Config::default()) {
                let frame = {
                    let mut machine = fixture.machine();
                    let frame = machine.balloon_out(9);
                    machine.give_away(frame, Some(77));
                    machine.set_entry(9, entries(frame)[entry]);
                    frame
                };
                let report = checkpoint(&fixture, &mut migration);
                assert_eq!((report.settled.gone, report.settled.foreign), (1, 1));
                fixture.machine().receive(frame, 9, 0xbac);
                if live {
                    round(&fixture, &mut migration);
                }
                finish(&fixture, &mut migration);
                assert_eq!(arrived(&fixture, 9), Some(Got::Content(0xbac)));
            }
        }
    }
}

#[test]
fn a_frame_that_comes_back_under_another_pfn_s_m2p_ends_by_the_table() {
    for (fixture, mut migration) in copied(Config::default()) {
        let frame = {
            let mut machine = fixture.machine();
            let frame = machine.balloon_out(9);
            machine.give_away(frame, None);
            machine.set_entry(9, Entry(frame));
            frame
        };
        checkpoint(&fixture, &mut migration);
        fixture.machine().receive(frame, HOLES + 9, 0xbac);
        let report = finish(&fixture, &mut migration);
        assert_eq!(report.settled.m2p_stale, 1);
        assert_eq!(arrived(&fixture, 9), Some(Got::Content(0xbac)));
    }
}

#[test]
fn complete_a_b_a_that_is_another_domain_s_at_the_end_is_gone() {
    for live in [false, true] {
        for (fixture, mut migration) in copied(Config::default()) {
            {
                let mut machine = fixture.machine();
                let frame = machine.balloon_out(9);
                machine.give_away(frame, Some(9));
                machine.set_entry(9, Entry(frame));
            }
            if live {
                round(&fixture, &mut migration);
            }
            let report = finish(&fixture, &mut migration);
            assert_eq!((report.settled.gone, report.settled.foreign), (1, 1));
            assert_eq!(arrived(&fixture, 9), None);
        }
    }
}

#[test]
fn full_verification_asks_who_owns_a_frame_whose_entry_stayed() {
    for live in [false, true] {
        for (fixture, mut migration) in copied(full()) {
            fixture.machine().give_away(BASE + 9, Some(9));
            if live {
                round(&fixture, &mut migration);
                assert!(migration.tracker().deferral(Pfn(9)).is_some());
            }
            let report = finish(&fixture, &mut migration);
            assert_eq!((report.settled.gone, report.settled.foreign), (1, 1));
            assert_eq!(arrived(&fixture, 9), None);
        }
    }
}

#[test]
fn a_query_for_owners_that_fails_is_repeated() {
    for (fixture, mut migration) in copied(full()) {
        fixture.machine().give_away(BASE + 9, Some(9));
        fixture.machine().errors = vec![At::Query; 3];
        let report = finish(&fixture, &mut migration);
        assert_eq!(report.settled.foreign, 1);
    }
    for (fixture, mut migration) in copied(full()) {
        fixture.machine().errors = vec![At::Query; 1000];
        let error = fixture.with(|ports| migration.finish(ports)).expect_err("no answer");
        assert!(matches!(error, Error::Port { port: "frame types", .. }), "{error}");
    }
}

// --- transfers ----------------------------------------------------------------------------------

/// A frame given to another domain and got back, with that domain's contents; its entry is not
/// written.
fn there_and_back(fixture: &Fixture, pfn: u64, content: u64) {
    fixture.machine().give_away(BASE + pfn, Some(3));
    fixture.machine().receive(BASE + pfn, pfn, content);
}

#[test]
fn what_a_transfer_entry_names_is_owed_whatever_its_leaf_says() {
    for named in [Transfer::Into(Pfn(9)), Transfer::Came(Mfn(BASE + 9))] {
        for (fixture, mut migration) in copied(Config::default()) {
            there_and_back(&fixture, 9, 0x11);
            fixture.machine().transfers = Some(vec![named]);
            round(&fixture, &mut migration);
            assert_eq!(arrived(&fixture, 9), Some(Got::Content(0x11)));
            there_and_back(&fixture, 9, 0x22);
            finish(&fixture, &mut migration);
            assert_eq!(arrived(&fixture, 9), Some(Got::Content(0x22)));
        }
    }
}

#[test]
fn a_frame_that_came_by_transfer_under_a_foreign_tag_is_owed() {
    for tag_alone_differs in [false, true] {
        for accepts_only in [false, true] {
            for (fixture, mut migration) in copied(Config::default()) {
                let tagged = Entry::foreign(Width::W64, Mfn(BASE + 9));
                if !tag_alone_differs {
                    fixture.machine().set_entry(9, tagged);
                    round(&fixture, &mut migration);
                }
                there_and_back(&fixture, 9, 0x11);
                fixture.machine().accepts = true;
                if accepts_only || tag_alone_differs {
                    fixture.machine().set_entry(9, tagged);
                }
                if !accepts_only {
                    fixture.machine().transfers = Some(vec![Transfer::Into(Pfn(9))]);
                }
                finish(&fixture, &mut migration);
                assert_eq!(arrived(&fixture, 9), Some(Got::Content(0x11)));
            }
        }
    }
}

#[test]
fn what_was_offered_at_the_last_look_and_is_used_and_withdrawn_before_the_next_is_owed() {
    for (fixture, mut migration) in copied(Config::default()) {
        fixture.machine().transfers = Some(vec![Transfer::Into(Pfn(9))]);
        round(&fixture, &mut migration);
        there_and_back(&fixture, 9, 0x11);
        fixture.machine().transfers = Some(vec![]);
        round(&fixture, &mut migration);
        assert_eq!(arrived(&fixture, 9), Some(Got::Content(0x11)));
        assert_eq!(migration.tracker().owed(), 0);
        assert_eq!(round(&fixture, &mut migration).pages.accepted, 0, "and no longer");
        // The same, if the last round that read the grant table failed.
        fixture.machine().transfers = Some(vec![Transfer::Into(Pfn(9))]);
        fixture.machine().errors.push(At::Roots);
        fixture.with(|ports| migration.round(ports)).expect_err("no roots");
        there_and_back(&fixture, 9, 0x22);
        fixture.machine().transfers = Some(vec![]);
        finish(&fixture, &mut migration);
        assert_eq!(arrived(&fixture, 9), Some(Got::Content(0x22)));
    }
}

#[test]
fn an_offer_that_is_reported_once_is_recorded_though_its_entries_can_not_be_read() {
    for (fixture, mut migration) in copied(Config::default()) {
        fixture.machine().transfers = Some(vec![]);
        there_and_back(&fixture, 9, 0x11);
        {
            let mut machine = fixture.machine();
            machine.accepts = true;
            machine.on(At::Transfers, |machine| machine.accepts = false);
            machine.errors.push(At::Transfers);
        }
        fixture.with(|ports| migration.round(ports)).expect_err("not now");
        finish(&fixture, &mut migration);
        assert_eq!(arrived(&fixture, 9), Some(Got::Content(0x11)));
    }
}

#[test]
fn an_offer_that_no_entry_names_any_more_may_have_been_any_pfn_s() {
    for (fixture, mut migration) in copied(Config::default()) {
        fixture.machine().accepts = true;
        fixture.machine().transfers = Some(vec![]);
        there_and_back(&fixture, 9, 0x11);
        round(&fixture, &mut migration);
        fixture.machine().accepts = false;
        finish(&fixture, &mut migration);
        assert_eq!(arrived(&fixture, 9), Some(Got::Content(0x11)));
    }
}

#[test]
fn hostile_transfer_entries_name_nothing() {
    for (fixture, mut migration) in copied(Config::default()) {
        let hostile = [0, 9, HOLES, 1 << 14, 1 << 40, u64::MAX];
        let entries =
            hostile.iter().flat_map(|&n| [Transfer::Into(Pfn(n)), Transfer::Came(Mfn(n))]);
        fixture.machine().transfers = Some(entries.collect());
        round(&fixture, &mut migration);
        finish(&fixture, &mut migration);
        fixture.machine().assert_identical();
    }
}

#[test]
fn without_transfer_entries_a_suspended_round_sends_everything() {
    for (fixture, mut migration) in copied(Config::default()) {
        fixture.machine().transfers = None;
        assert_eq!(checkpoint(&fixture, &mut migration).pages.accepted, 0, "nothing was offered");
        fixture.machine().accepts = true;
        round(&fixture, &mut migration);
        there_and_back(&fixture, 9, 0x11);
        fixture.machine().accepts = false;
        round(&fixture, &mut migration);
        checkpoint(&fixture, &mut migration);
        assert_eq!(arrived(&fixture, 9), Some(Got::Content(0x11)));
        assert_eq!(checkpoint(&fixture, &mut migration).pages.accepted, 0, "and no longer");
    }
}
