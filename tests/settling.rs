// SPDX-License-Identifier: MIT OR Apache-2.0
//! How rounds end: what the final round tolerates and for how long, what it checks again, and how a
//! live round gives up.
//! Not here: the outcome of one pfn (`outcomes`), sequences that were once a loss (`hard_cases`).
//! Units: pfns of the hand-driven guest in `fixture`.
//! Threads: one.
//! Source: `docs/design.md`, laws 3, 4 and 7.

use p2mtrack::cause::Cause;
use p2mtrack::config::Config;
use p2mtrack::error::{EntryCause, Error};
use p2mtrack::frame::{Entry, Mfn, Pfn, Width};
use p2mtrack::migration::Migration;
use p2mtrack::port::{Answer, Deferral};
use p2mtrack::uncertainty::Uncertainty;
use p2mtrack_tests::fixture::{At, BASE, Fixture, HOLES, OWN, finish, round};

/// Both kinds of p2m, after the first copy.
fn both() -> [(Fixture, Migration); 2] {
    [Fixture::tree(), Fixture::linear()].map(|fixture| {
        let mut migration = fixture.start(Config::default());
        round(&fixture, &mut migration);
        (fixture, migration)
    })
}

#[test]
fn sweeps_that_settle_nothing_are_distinguished_from_those_that_do() {
    for (fixture, mut migration) in both() {
        // Pages and an entry without a frame, all settled by the first sweep; one page never is.
        fixture.machine().balloon_out(700);
        for pfn in [9, 10, 11] {
            fixture.machine().write(pfn, 1);
        }
        let lose = || Answer::Deferred(Deferral::Unacknowledged);
        fixture.machine().answers.insert(9, (0..12).map(|_| lose()).collect());
        let error = fixture
            .with(|ports| migration.finish(ports))
            .expect_err("the page is never acknowledged");
        let deferred = EntryCause::Deferred(Deferral::Unacknowledged);
        assert!(
            matches!(error, Error::Entry { pfn: Pfn(9), mfn: Some(Mfn(mfn)), cause }
                if cause == deferred && mfn == BASE + 9),
            "{error}"
        );
        // The first sweep and nine that settle nothing are over: two answers are left.
        assert_eq!(fixture.machine().answers[&9].len(), 2);
    }
}

#[test]
fn a_uncertainty_that_has_run_too_long_does_not_end_the_final_round() {
    let config = Config { uncertain_rounds_max: 2, ..Config::default() };
    for fixture in [Fixture::tree(), Fixture::linear()] {
        let mut migration = fixture.start(config);
        round(&fixture, &mut migration);
        for _ in 0..2 {
            fixture.machine().short = Some(100);
            round(&fixture, &mut migration);
        }
        fixture.machine().short = Some(100);
        let report = finish(&fixture, &mut migration);
        assert_eq!(report.uncertain[Uncertainty::ShortBitmap as usize], 1);
    }
}

#[test]
fn a_log_that_fails_round_after_round_says_why() {
    let fixture = Fixture::tree();
    let mut migration = fixture.start(Config { uncertain_rounds_max: 1, ..Config::default() });
    round(&fixture, &mut migration);
    fixture.machine().errors.push(At::Clean);
    round(&fixture, &mut migration);
    fixture.machine().errors.push(At::Clean);
    let error = fixture.with(|ports| migration.round(ports)).expect_err("two rounds in a row");
    assert!(
        matches!(error, Error::Uncertain { uncertainty: Uncertainty::LogLost, rounds: 2, .. }),
        "{error}"
    );
    let source = std::error::Error::source(&error).expect("what the log said");
    assert_eq!(source.to_string(), "planted failure at Clean");
    finish(&fixture, &mut migration);
}

#[test]
fn a_leaf_without_a_mapping_owes_its_own_pfns_and_no_others() {
    let fixture = Fixture::tree();
    let mut migration = fixture.start(Config::default());
    round(&fixture, &mut migration);
    let right = fixture.machine().leaf(512);
    fixture.machine().set_leaf(1, 0x3abc);
    let report = round(&fixture, &mut migration);
    // Also the page of the table that was written.
    assert_eq!((report.pages.owed, report.pages.accepted, report.pages.left), (513, 1, 512));
    fixture.machine().set_leaf(1, right);
    finish(&fixture, &mut migration);
}

#[test]
fn a_frame_that_is_not_ours_waits_for_that_and_not_for_its_m2p() {
    for (fixture, mut migration) in both() {
        let frame = fixture.machine().populate(9);
        fixture.machine().frame(frame).owned = false; // another domain's, under the same pfn
        let own = fixture.machine().entry(9).0;
        fixture.machine().set_entry(9, Entry(frame));
        fixture.machine().release(own);
        round(&fixture, &mut migration);
        assert_eq!(migration.tracker().deferral(Pfn(9)), Some(Deferral::NotOwned));
    }
}

#[test]
fn a_leaf_that_only_its_own_page_leads_to_is_read_before_the_end() {
    for (fixture, mut migration) in both() {
        // The leaf's frame is known by a pfn that has lost it; its true pfn's entry never changed.
        let (a, b) = (OWN + 1, HOLES + 3);
        let leaf = fixture.machine().leaf(512);
        fixture.machine().set_entry(b, Entry(leaf));
        fixture.machine().machphys(leaf, b);
        round(&fixture, &mut migration);
        fixture.machine().set_entry(b, Entry::INVALID);
        round(&fixture, &mut migration);
        fixture.machine().machphys(leaf, a);
        // marked under a pfn that is not known as a backing pfn
        fixture.machine().balloon_out(650);
        let report = finish(&fixture, &mut migration);
        assert_eq!((report.structure.moved, report.entries.unmapped), (1, 1));
    }
}

#[test]
fn tables_are_not_sent_again_for_a_frame_that_left_the_domain() {
    for released in [false, true] {
        let fixture = Fixture::tree();
        fixture.machine().make_wide_table(20, 21, 1044);
        let mut migration = fixture.start(Config::default());
        round(&fixture, &mut migration);
        let frame = fixture.machine().entry(30).0;
        fixture.machine().set_entry(30, Entry::INVALID); // while it is ballooned out
        round(&fixture, &mut migration);
        if released {
            fixture.machine().release(frame);
        }
        assert_eq!(finish(&fixture, &mut migration).pages.tables, u64::from(!released));
    }
}

#[test]
fn a_pfn_that_a_table_names_is_owed_if_it_was_not_accepted_so() {
    let (fixture, mut migration) = {
        let fixture = Fixture::tree();
        let mut migration = fixture.start(Config::default());
        round(&fixture, &mut migration);
        (fixture, migration)
    };
    let (tagged, home) = (HOLES + 4, HOLES + 5);
    let frame = {
        let guest = &mut *fixture.machine();
        guest.balloon_in(home, 1);
        let frame = guest.entry(home).0;
        guest.set_entry(tagged, Entry::foreign(Width::W64, Mfn(frame)));
        guest.make_table(20, 21);
        frame
    };
    round(&fixture, &mut migration);
    {
        let guest = &mut *fixture.machine();
        let table = guest.entry(20).0;
        guest.poke(table, 3, frame << 12 | 0x67);
        // without a mark in the log
        guest.on(At::Send, move |guest| guest.frame(frame).m2p = Some(tagged));
    }
    assert_eq!(round(&fixture, &mut migration).pages.left, 1);
    assert!(migration.tracker().why(Pfn(tagged)).contains(Cause::Table));
}

#[test]
fn leaves_that_name_nothing_behind_the_last_one_need_no_pfn() {
    let fixture = Fixture::tree();
    {
        let guest = &mut *fixture.machine();
        let empty = guest.copy_words(guest.leaf(0), HOLES + 1);
        (0..512).for_each(|slot| guest.poke(empty, slot, u64::MAX));
        [3, 4].into_iter().for_each(|position| guest.set_leaf(position, empty));
        guest.roots.pfn_count = 5 * 512;
    }
    let mut migration = fixture.start(Config::default());
    assert_eq!(round(&fixture, &mut migration).leaves.tracked, 3);
    finish(&fixture, &mut migration);
}

/// The notes about pfns without a frame that the transport got while the guest ran.
fn noted(fixture: &Fixture) -> Vec<u64> {
    std::mem::take(&mut fixture.machine().noted_gone)
}

#[test]
fn a_pfn_that_lost_its_frame_is_noted_while_the_guest_runs_and_gone_at_the_end() {
    for (fixture, mut migration) in both() {
        assert!(noted(&fixture).is_empty(), "a hole never had a frame");
        fixture.machine().balloon_out(3);
        fixture.machine().balloon_out(700);
        round(&fixture, &mut migration);
        assert_eq!(noted(&fixture), [3, 700]);
        assert!(!fixture.machine().received.contains_key(&3), "the receiver has given it back");
        round(&fixture, &mut migration);
        assert!(noted(&fixture).is_empty(), "once");
        // It comes back, another one goes; the count of pfns falls.
        fixture.machine().balloon_in(3, 77);
        fixture.machine().balloon_out(701);
        round(&fixture, &mut migration);
        assert_eq!(noted(&fixture), [701]);
        fixture.machine().balloon_out(702);
        finish(&fixture, &mut migration);
        assert!(noted(&fixture).is_empty(), "all are reported gone instead");
        assert_eq!(fixture.machine().said_gone, [700, 701, 702]);
        fixture.machine().assert_identical();
    }
}

#[test]
fn what_a_shrink_removes_is_noted() {
    let fixture = Fixture::tree();
    let mut migration = fixture.start(Config::default());
    round(&fixture, &mut migration);
    fixture.machine().roots.pfn_count = HOLES - 2;
    round(&fixture, &mut migration);
    assert_eq!(noted(&fixture), [HOLES - 2, HOLES - 1]);
}

#[test]
fn a_digest_is_kept_as_long_as_its_bytes_are_what_the_destination_has() {
    let copy = |digest| Answer::AcceptedCopy { digest };
    for (fixture, mut migration) in both() {
        let digest = |migration: &Migration, pfn| migration.tracker().digest(Pfn(pfn));
        let answer = |pfn: u64, answer| {
            fixture.machine().answers.entry(pfn).or_default().push_back(answer);
        };
        assert_eq!(digest(&migration, 9), None, "no digest was given");
        for pfn in 9..14 {
            fixture.machine().write(pfn, 1);
            answer(pfn, copy(100 + pfn));
        }
        assert_eq!(round(&fixture, &mut migration).pages.accepted, 5);
        let all: Vec<_> = (9..14).map(|pfn| digest(&migration, pfn)).collect();
        assert_eq!(all, [109, 110, 111, 112, 113].map(Some));
        // Sent again without one, deferred, returned, without a frame, and unchanged.
        for pfn in 9..11 {
            fixture.machine().write(pfn, 2);
        }
        answer(9, Answer::Accepted);
        answer(10, Answer::Deferred(Deferral::Unacknowledged));
        fixture.machine().balloon_out(12);
        round(&fixture, &mut migration);
        fixture.machine().returned.push(11);
        let all: Vec<_> = (9..14).map(|pfn| digest(&migration, pfn)).collect();
        assert_eq!(all, [None, None, Some(111), None, Some(113)]);
        answer(10, copy(7));
        answer(11, Answer::Deferred(Deferral::Unacknowledged));
        round(&fixture, &mut migration);
        assert_eq!([10, 11].map(|pfn| digest(&migration, pfn)), [Some(7), None]);
        // A batch that fails as a whole may have been delivered.
        fixture.machine().write(13, 3);
        fixture.machine().errors.push(At::Send);
        fixture.with(|ports| migration.round(ports)).expect_err("planted");
        assert_eq!(digest(&migration, 13), None);
        finish(&fixture, &mut migration);
    }
}
