// SPDX-License-Identifier: MIT OR Apache-2.0
//! The laws of `docs/design.md`, one or more tests each, by name.
//! Not here: rows of the tables (`changes`, `outcomes`), random guests (`simulation`).
//! Units: pfns of the hand-driven guest in `fixture`.
//! Threads: one.
//! Source: `docs/design.md`, "Laws".

use std::ops::Range;

use p2mtrack::cause::Cause;
use p2mtrack::config::{AliasPolicy, Config, Verify};
use p2mtrack::error::{EntryCause, Error};
use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::migration::Migration;
use p2mtrack::port::{Answer, Deferral};
use p2mtrack::report::RoundReport;
use p2mtrack::uncertainty::Uncertainty;
use p2mtrack_tests::fixture::{self, At, BASE, Fixture, HOLES, OWN, round};

fn finish(fixture: &Fixture, migration: &mut Migration) -> RoundReport {
    let report = fixture::finish(fixture, migration);
    assert!(!fixture.machine().log_on);
    assert!(fixture.machine().maps.is_empty());
    report
}

fn uncertainties(report: &RoundReport, uncertainty: Uncertainty) -> u64 {
    report.uncertain[uncertainty as usize]
}

/// Both kinds of p2m, after the first copy.
fn copied() -> Vec<(Fixture, Migration)> {
    [Fixture::tree(), Fixture::linear()]
        .into_iter()
        .map(|fixture| {
            let mut migration = fixture.start(Config::default());
            let first = round(&fixture, &mut migration);
            assert_eq!((first.pages.accepted, first.pages.left), (HOLES, 0));
            (fixture, migration)
        })
        .collect()
}

#[test]
fn law_1_clear_before_read() {
    for (fixture, mut migration) in copied() {
        fixture.machine().calls.clear();
        // Just before the log is read, and just after.
        fixture.machine().on(At::Clean, |guest| guest.balloon_in(HOLES + 1, 7));
        fixture.machine().on(At::Live, |guest| guest.balloon_in(HOLES + 2, 8));
        let report = round(&fixture, &mut migration);
        assert_eq!(report.leaves.dirty, 1);
        let calls = fixture.machine().calls.clone();
        let read = |at: &At| matches!(at, At::Live | At::Read);
        let clean = calls.iter().position(|at| *at == At::Clean).expect("the log was read");
        assert!(calls.iter().position(read).expect("a leaf was read") > clean);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_1_the_first_copy_is_taken_with_log_dirty_on() {
    let fixture = Fixture::tree();
    // A write while the first copy is taken is in the log of the round after it.
    fixture.machine().on(At::Send, |guest| guest.balloon_in(HOLES + 1, 9));
    let mut migration = fixture.start(Config::default());
    round(&fixture, &mut migration);
    assert_eq!(round(&fixture, &mut migration).entries.mapped, 1);
    finish(&fixture, &mut migration);
}

#[test]
fn law_1_the_log_is_asked_for_once_in_each_round_after_the_first_copy() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        let mut migration = fixture.start(Config::default());
        for asked in [0, 1, 1] {
            fixture.machine().calls.clear();
            round(&fixture, &mut migration);
            let calls = &fixture.machine().calls;
            assert_eq!(calls.iter().filter(|&&at| at == At::Clean).count(), asked);
        }
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_2_report_before_remember() {
    for (fixture, mut migration) in copied() {
        fixture.machine().balloon_in(HOLES + 1, 7);
        let freed = fixture.machine().balloon_out(5);
        fixture.machine().errors.push(At::Send);
        fixture.with(|ports| migration.round(ports)).expect_err("the transport failed");
        assert!(migration.tracker().why(Pfn(HOLES + 1)).contains(Cause::Entry));
        assert_eq!(migration.tracker().shadow_entry(Pfn(HOLES + 1)), Entry::INVALID);
        assert_ne!(freed, 0);
        // Nothing changed since: the page is sent only because of what was reported before.
        round(&fixture, &mut migration);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_2_a_stop_between_reading_and_comparing_repeats_the_work() {
    for (fixture, mut migration) in copied() {
        fixture.machine().balloon_in(HOLES + 1, 7);
        // The roots are read again after the log: by then Xen has cleared its bits.
        fixture.machine().on(At::Clean, |guest| guest.errors.push(At::Roots));
        fixture.with(|ports| migration.round(ports)).expect_err("roots can't be read");
        let report = round(&fixture, &mut migration);
        assert_eq!(report.entries.mapped, 1, "the leaf of the lost round is still compared");
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_3_debt_returns_after_a_transport_failure() {
    for (fixture, mut migration) in copied() {
        fixture.machine().write(9, 1);
        fixture.machine().errors.push(At::Send);
        fixture.with(|ports| migration.round(ports)).expect_err("the transport failed");
        assert!(migration.tracker().why(Pfn(9)).contains(Cause::LogDirty));
        assert_eq!(migration.tracker().owed(), 1);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_3_debt_of_a_table_that_waits_for_its_pages_is_counted() {
    for (fixture, mut migration) in copied() {
        fixture.machine().make_table(20, 21);
        fixture.machine().write(900, 1);
        fixture.machine().errors.push(At::Send);
        fixture.with(|ports| migration.round(ports)).expect_err("the transport failed");
        assert!(
            !migration.tracker().why(Pfn(20)).is_empty()
                && !migration.tracker().why(Pfn(900)).is_empty()
        );
        assert_eq!(migration.tracker().owed(), 2);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_7_the_final_round_tries_so_many_sweeps_and_then_names_the_pfn() {
    for lost in [1, 4, 8, 9, 20] {
        for (fixture, mut migration) in copied() {
            fixture.machine().write(9, 1);
            let lose = || Answer::Deferred(Deferral::Unacknowledged);
            fixture.machine().answers.insert(9, (0..lost).map(|_| lose()).collect());
            let result = fixture.with(|ports| migration.finish(ports));
            if lost <= 8 {
                result.expect("settles");
                fixture.machine().assert_identical();
            } else {
                let error = result.expect_err("the page is never acknowledged");
                let deferred = EntryCause::Deferred(Deferral::Unacknowledged);
                assert!(
                    matches!(error, Error::Entry { pfn: Pfn(9), cause, .. } if cause == deferred),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn law_7_a_page_that_is_lost_again_after_every_sweep_is_named() {
    for (fixture, mut migration) in copied() {
        fixture.machine().write(9, 1);
        for _ in 0..200 {
            fixture.machine().on(At::Send, |machine| machine.returned.push(9));
        }
        let error = fixture.with(|ports| migration.finish(ports)).expect_err("never settled");
        let cause = EntryCause::Restless;
        assert!(
            matches!(error, Error::Entry { pfn: Pfn(9), cause: found, .. } if found == cause),
            "{error}"
        );
        fixture.with(|ports| migration.cancel(ports)).expect("the source goes on");
    }
}

#[test]
fn law_7_sweeps_that_settle_something_do_not_count() {
    for (fixture, mut migration) in copied() {
        for (lost, pfn) in (2..12).map(|n| (3 * n, n)) {
            fixture.machine().write(pfn, 1);
            let lose = || Answer::Deferred(Deferral::Unacknowledged);
            fixture.machine().answers.insert(pfn, (0..lost).map(|_| lose()).collect());
        }
        finish(&fixture, &mut migration);
    }
}

#[test]
fn rates_are_those_of_the_rounds() {
    for (fixture, mut migration) in copied() {
        for pfn in 2..6 {
            fixture.machine().write(pfn, 1);
        }
        fixture.machine().balloon_in(HOLES + 1, 7);
        let first = round(&fixture, &mut migration);
        let newly = first.log_dirty_pfns + first.entries.beyond_log_dirty;
        assert_eq!((first.entries.changed(), first.entries.mapped), (1, 1));
        for pfn in 2..9 {
            fixture.machine().write(pfn, 2);
        }
        let second = round(&fixture, &mut migration);
        assert_eq!((second.log_dirty_pfns, second.pages.owed), (7, 7));
        let rate = 7.0 / first.pages.accepted as f64;
        assert_eq!((second.dirty_rate, second.shrinking), (Some(rate), Some(false)), "{newly}");
        for pfn in 2..9 {
            fixture.machine().write(pfn, 3);
        }
        assert_eq!(round(&fixture, &mut migration).shrinking, Some(false), "as many as before");
        fixture.machine().write(2, 4);
        assert_eq!(round(&fixture, &mut migration).shrinking, Some(true));
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_3_debt_returns_after_one_page_failed() {
    for (fixture, mut migration) in copied() {
        for pfn in [8, 9, 10] {
            fixture.machine().write(pfn, 1);
        }
        fixture.machine().answers.insert(9, [Answer::Failed("disk full".into())].into());
        let error = fixture.with(|ports| migration.round(ports)).expect_err("page 9 failed");
        assert!(matches!(error, Error::Page { pfn: Pfn(9), .. }), "{error}");
        assert!(std::error::Error::source(&error).expect("a source").to_string().contains("disk"));
        assert_eq!(migration.tracker().owed(), 1);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_3_cancel_leaves_the_source_as_it_was() {
    for (fixture, mut migration) in copied() {
        fixture.machine().write(9, 1);
        fixture.machine().errors.push(At::Send);
        fixture.with(|ports| migration.round(ports)).expect_err("the transport failed");
        fixture.with(|ports| migration.cancel(ports)).expect("cancels");
        assert!(!fixture.machine().log_on && fixture.machine().maps.is_empty());
        let error = fixture.with(|ports| migration.round(ports)).expect_err("it is over");
        assert!(matches!(error, Error::Order { .. }));
    }
}

#[test]
fn law_4_short_bitmap_owes_what_was_not_read() {
    for (fixture, mut migration) in copied() {
        fixture.machine().short = Some(100);
        fixture.machine().balloon_in(HOLES + 1, 7); // its leaf's pfn is past the short bitmap
        fixture.machine().write(1000, 3);
        let report = round(&fixture, &mut migration);
        assert_eq!(uncertainties(&report, Uncertainty::ShortBitmap), 1);
        assert_eq!(report.entries.mapped, 1);
        assert!(report.pages.accepted >= HOLES - 100);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_4_a_failed_clean_owes_everything_and_restarts_the_log() {
    for (fixture, mut migration) in copied() {
        fixture.machine().balloon_in(HOLES + 1, 7);
        fixture.machine().write(3, 3);
        fixture.machine().errors.push(At::Clean);
        let report = round(&fixture, &mut migration);
        assert_eq!(uncertainties(&report, Uncertainty::LogLost), 1);
        assert_eq!(report.pages.accepted, HOLES + 1);
        assert!(fixture.machine().log_on);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_4_an_odd_generation_owes_what_is_new_for_ever_and_the_final_round_decides() {
    let fixture = Fixture::linear();
    let mut migration = fixture.start(Config { uncertain_rounds_max: 3, ..Config::default() });
    round(&fixture, &mut migration);
    fixture.machine().roots.generation = 7;
    for turn in 0..10 {
        // A leaf is moved inside of the bracket, one entry of it with a frame of its own.
        let leaf = fixture.machine().leaf(0);
        let moved = fixture.machine().copy_words(leaf, HOLES + turn);
        fixture.machine().set_entry(HOLES + turn, Entry(moved));
        fixture.machine().set_leaf(0, moved);
        let report = round(&fixture, &mut migration);
        assert!(uncertainties(&report, Uncertainty::Generation) > 0);
        assert!(report.dirty_rate.is_some() && report.structure.walks > 0);
        assert!((1..8).contains(&report.pages.accepted), "{:?}", report.pages);
    }
    let error = fixture.with(|ports| migration.finish(ports)).map(|_| ());
    assert!(error.is_ok(), "{error:?}");
}

#[test]
fn law_4_an_odd_generation_whose_final_walk_fails_is_named() {
    let fixture = Fixture::linear();
    let mut migration = fixture.start(Config::default());
    round(&fixture, &mut migration);
    fixture.machine().roots.generation = 7;
    let l1 = fixture.machine().table(1);
    fixture.machine().release(l1);
    let error = fixture.with(|ports| migration.finish(ports)).expect_err("a table is not there");
    assert!(matches!(error, Error::Structure { level: 1, .. }), "{error}");
}

#[test]
fn law_4_a_generation_that_moves_in_every_walk_is_an_uncertainty() {
    let fixture = Fixture::linear();
    let mut migration = fixture.start(Config::default());
    round(&fixture, &mut migration);
    fixture.machine().roots.generation = 2;
    for _ in 0..40 {
        fixture.machine().on(At::Roots, |guest| guest.roots.generation += 2);
    }
    let report = round(&fixture, &mut migration);
    assert_eq!(uncertainties(&report, Uncertainty::Generation), 1);
    assert!(report.structure.retries > 0);
    finish(&fixture, &mut migration);
}

#[test]
fn law_4_an_unmapped_leaf_owes_its_range() {
    let fixture = Fixture::tree();
    let mut migration = fixture.start(Config { uncertain_rounds_max: 2, ..Config::default() });
    round(&fixture, &mut migration);
    // The guest points its second leaf at a frame that is not its own.
    let right = fixture.machine().leaf(512);
    fixture.machine().set_leaf(1, 0x3abc);
    for _ in 0..2 {
        let report = round(&fixture, &mut migration);
        assert_eq!(uncertainties(&report, Uncertainty::LeafUnmapped), 1);
        assert_eq!(report.pages.deferred_uncertain, 512);
        assert!(migration.tracker().why(Pfn(600)).contains(Cause::Uncertain));
    }
    let running = fixture.with(|ports| migration.round(ports)).expect_err("three rounds running");
    let error = fixture.with(|ports| migration.finish(ports)).expect_err("no leaf to decide from");
    let Error::Uncertain {
        uncertainty: Uncertainty::LeafUnmapped,
        rounds: 3,
        source: Some(source),
    } = running
    else {
        panic!("{running}");
    };
    let source = source.downcast::<Error>().expect("says which");
    for error in [*source, error] {
        let frame = Mfn(0x3abc);
        assert!(
            matches!(error, Error::Structure { level: 0, pfn: Pfn(512), mfn, .. } if mfn == frame),
            "{error}"
        );
    }
    fixture.machine().set_leaf(1, right);
    finish(&fixture, &mut migration);
}

#[test]
fn law_4_a_failed_query_defers_the_batch() {
    for (fixture, mut migration) in copied() {
        fixture.machine().write(9, 5);
        fixture.machine().errors.push(At::Query);
        let report = round(&fixture, &mut migration);
        assert_eq!((uncertainties(&report, Uncertainty::QueryFailed), report.pages.left), (1, 1));
        assert_eq!(migration.tracker().deferral(Pfn(9)), Some(Deferral::QueryFailed));
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_5_the_shadow_is_what_was_sent() {
    for (fixture, mut migration) in copied() {
        let before = migration.tracker().shadow_entry(Pfn(9));
        fixture.machine().balloon_out(9);
        fixture.machine().balloon_in(9, 77);
        let now = fixture.machine().entry(9);
        fixture.machine().answers.insert(9, [Answer::Deferred(Deferral::Unacknowledged)].into());
        let report = round(&fixture, &mut migration);
        assert_eq!((report.entries.remapped, report.pages.left), (1, 1));
        assert_eq!(
            migration.tracker().shadow_entry(Pfn(9)),
            before,
            "not accepted: not remembered"
        );
        let report = round(&fixture, &mut migration);
        assert_eq!(migration.tracker().shadow_entry(Pfn(9)), now);
        assert_eq!((report.entries.changed(), report.pages.left), (0, 0));
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_5_a_pfn_that_is_returned_is_owed_again() {
    for (fixture, mut migration) in copied() {
        fixture.machine().received.remove(&9);
        fixture.machine().returned.push(9);
        let report = round(&fixture, &mut migration);
        assert_eq!((report.pages.returned, report.pages.accepted), (1, 1));
        fixture.machine().received.remove(&10);
        fixture.machine().returned.push(10);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_5_an_invalid_entry_is_an_answer() {
    for (fixture, mut migration) in copied() {
        fixture.machine().balloon_out(9);
        let report = round(&fixture, &mut migration);
        assert_eq!((report.pages.unpopulated, report.pages.left), (1, 0));
        assert_eq!(migration.tracker().shadow_entry(Pfn(9)), Entry::INVALID);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_6_the_guest_is_hostile_roots() {
    for (count, list, cr3, vaddr) in [
        (u64::MAX, 0x1104, 0, 0),
        (1 << 63, 0, 0x110_6000, 0xffff_c900_0020_0000),
        (1536, u64::MAX, 0, 0),
        (1536, 0x3fff_ffff, 0, 0),
        (1536, 0, 0x110_6000, 0xffff_c900_0020_0001),
        (1536, 0, 0x110_6000, 0x0000_8000_0000_0000),
        (1536, 0, 0x110_6000, 0xffff_8000_0000_0000),
        (0, 0x1104, 0, 0),
    ] {
        let fixture = Fixture::tree();
        {
            let roots = &mut fixture.machine().roots;
            (roots.pfn_count, roots.frame_list_list) = (count, list);
            (roots.p2m_cr3, roots.p2m_vaddr) = (cr3, vaddr);
        }
        let mut migration = fixture.start(Config::default());
        // A table that can't be read may be about to be replaced: tolerated for some rounds.
        let rounds = (0..=Config::default().uncertain_rounds_max)
            .map(|_| fixture.with(|ports| migration.round(ports)))
            .find_map(Result::err);
        let error = rounds.expect("named");
        assert!(matches!(error, Error::Roots { .. } | Error::Structure { .. }), "{error}");
        assert!(fixture.machine().sent.is_empty(), "nothing was sent without a check");
    }
}

#[test]
fn law_6_the_log_is_never_asked_for_nothing() {
    let fixture = Fixture::tree();
    let list = std::mem::replace(&mut fixture.machine().roots.frame_list_list, BASE - 1);
    let mut migration = fixture.start(Config::default());
    assert!(round(&fixture, &mut migration).p2m_unreadable, "its top frame can't be read");
    // Nothing is tracked, and the guest reports 0 pfns: Xen treats an empty request as one for all
    // of them.
    let count = std::mem::take(&mut fixture.machine().roots.pfn_count);
    assert!(fixture.with(|ports| migration.round(ports)).is_err(), "no pfns");
    (fixture.machine().roots.frame_list_list, fixture.machine().roots.pfn_count) = (list, count);
    finish(&fixture, &mut migration);
}

#[test]
fn law_6_loops_and_aliases_end_and_cost_one_leaf() {
    // Every mid slot leads to one leaf, every top slot to one mid, and the mid is its own leaf.
    for own_leaf in [false, true] {
        let fixture = Fixture::tree();
        {
            let guest = &mut *fixture.machine();
            let top = guest.roots.frame_list_list;
            let mid = guest.peek(top, 0);
            let leaf = if own_leaf { mid } else { guest.leaf(0) };
            for slot in 0..512 {
                guest.poke(top, slot, mid);
            }
            for slot in 0..512 {
                guest.poke(mid, slot, leaf);
            }
            guest.roots.pfn_count = 1 << 27;
        }
        let mut migration = fixture.start(Config::default());
        // 262,144 positions, one frame that names frames.
        let error = fixture.with(|ports| migration.round(ports)).expect_err("named");
        assert!(error.to_string().ends_with("is listed at 262144 positions"), "{error}");
        assert!(fixture.machine().maps.len() <= 2);
        let shadow = migration.tracker().shadow_bytes().bytes;
        assert!(
            shadow > 0 && shadow < 8 << 20,
            "the shadow of one aliased leaf takes {shadow} bytes"
        );
    }
}

#[test]
fn law_6_a_shared_leaf_without_frames_costs_one_leaf() {
    let fixture = Fixture::tree();
    {
        let guest = &mut *fixture.machine();
        let mid = guest.peek(guest.roots.frame_list_list, 0);
        let shared = guest.copy_words(guest.leaf(0), HOLES + 9);
        guest.set_entry(HOLES + 9, Entry(shared));
        for slot in 0..512 {
            guest.poke(shared, slot, Entry::identity(Width::W64, Pfn(slot as u64)).0);
        }
        for slot in 3..511 {
            guest.poke(mid, slot, shared);
        }
        let last = guest.copy_words(guest.leaf(1024), HOLES + 10);
        guest.set_entry(HOLES + 10, Entry(last));
        for slot in 0..512 {
            guest.poke(last, slot, u64::MAX);
        }
        guest.poke(mid, 511, last);
        guest.roots.pfn_count = 1 << 18;
    }
    let mut migration = fixture.start(Config::default());
    let report = round(&fixture, &mut migration);
    assert_eq!((report.leaves.tracked, report.leaves.distinct), (512, 5));
    assert_eq!(report.pages.accepted, HOLES + 2);
    let bytes = migration.tracker().shadow_bytes().bytes;
    assert!(bytes < 64 << 10, "five leaves take {bytes} bytes");
    assert_eq!(round(&fixture, &mut migration).pages.owed, 0);
    finish(&fixture, &mut migration);
}

#[test]
fn law_6_a_leaf_without_frames_is_read_once_wherever_it_is_listed() {
    // A run, no run, and a hole: three forms in the shadow.
    for (step, tag) in [(1, 1 << 62), (0x9e37_79b9, 1 << 62), (0, u64::MAX)] {
        let fixture = Fixture::tree();
        let (shared, other) = {
            let guest = &mut *fixture.machine();
            let mid = guest.peek(guest.roots.frame_list_list, 0);
            let [shared, other, last] = [1, 2, 3].map(|n| {
                let leaf = guest.copy_words(guest.leaf(0), HOLES + n);
                guest.set_entry(HOLES + n, Entry(leaf));
                let word = |slot: u64| tag | ((slot * step) & 0xfff_ffff);
                (0..512).for_each(|slot| guest.poke(leaf, slot as usize, word(slot)));
                leaf
            });
            // In turn, so that neighbouring positions have different leaves.
            (3..511).for_each(|slot| guest.poke(mid, slot, [shared, other][slot % 2]));
            (0..512).for_each(|slot| guest.poke(last, slot, u64::MAX));
            guest.poke(mid, 511, last);
            (shared, other)
        };
        let mut migration = fixture.start(Config::default());
        round(&fixture, &mut migration);
        let reads = |fixture: &Fixture| {
            let calls = std::mem::take(&mut fixture.machine().calls);
            calls.iter().filter(|&&at| at == At::Live).count()
        };
        reads(&fixture);
        fixture.machine().roots.pfn_count = 1 << 18;
        let report = round(&fixture, &mut migration);
        assert_eq!((report.leaves.tracked, report.leaves.compared), (512, 509));
        let other_entries = if tag == 1 << 62 { 508 * 512 } else { 0 };
        assert_eq!(report.entries.other, other_entries);
        let grown = reads(&fixture);
        // A pfn that is in the log, and a position that ends before the entry, are counted
        // separately.
        fixture.machine().roots.pfn_count = 100 * 512 + 5;
        fixture.machine().log.insert(50 * 512 + 5);
        for leaf in [shared, other] {
            fixture.machine().poke(leaf, 5, 1 << 62 | 77);
        }
        let entries = round(&fixture, &mut migration).entries;
        assert_eq!((entries.other, entries.beyond_log_dirty), (97, 96));
        fixture.machine().roots.pfn_count = 1 << 18;
        round(&fixture, &mut migration);
        reads(&fixture);
        for leaf in [shared, other] {
            fixture.machine().poke(leaf, 5, 1 << 62 | 78);
        }
        let report = round(&fixture, &mut migration);
        assert_eq!((report.leaves.dirty, report.entries.other), (508, 508));
        let written = reads(&fixture);
        fixture.machine().poke(shared, 5, 1 << 62 | 78);
        let report = finish(&fixture, &mut migration);
        assert_eq!((report.leaves.dirty, report.leaves.unchanged), (254, 254));
        let reads = [grown, written, reads(&fixture)];
        assert!(reads.iter().all(|&reads| reads < 100), "{reads:?} reads of live leaves");
    }
}

#[test]
fn law_6_frames_named_over_and_over_are_a_named_error() {
    let fixture = Fixture::tree();
    {
        let guest = &mut *fixture.machine();
        let mid = guest.peek(guest.roots.frame_list_list, 0);
        for position in 3..400 {
            let leaf = guest.copy_words(guest.leaf(0), 1 << 20);
            guest.poke(mid, position, leaf);
        }
        guest.roots.pfn_count = 400 * 512;
    }
    let mut migration = fixture.start(Config::default());
    let error = fixture.with(|ports| migration.round(ports)).expect_err("named");
    let Error::TooManyDeferred { domain_frames, .. } = error else { panic!("{error}") };
    assert_eq!(domain_frames, HOLES + 397);
}

#[test]
fn law_6_pfns_sent_against_the_m2p_are_no_more_than_frames() {
    for m2p in [Some(9), None] {
        let fixture = Fixture::tree();
        let mut migration = fixture.start(Config { alias: AliasPolicy::Copy, ..Config::default() });
        round(&fixture, &mut migration);
        {
            // Suspended all at once: 140 leaves name one frame, which has a pfn, or none.
            let guest = &mut *fixture.machine();
            for position in 3..143 {
                let pfn = HOLES + position as u64;
                let leaf = guest.copy_words(guest.leaf(0), pfn);
                (0..512).for_each(|slot| guest.poke(leaf, slot, BASE + 9));
                guest.set_entry(pfn, Entry(leaf));
                guest.set_leaf(position, leaf);
            }
            guest.frame(BASE + 9).m2p = m2p;
            guest.roots.pfn_count = 143 * 512;
        }
        let error = fixture.with(|ports| migration.finish(ports)).expect_err("named");
        let Error::TooManyDeferred { domain_frames, waiting, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(domain_frames, HOLES + 140);
        assert!((1..=1024).contains(&(waiting - domain_frames - 65_536)), "{waiting}");
    }
}

#[test]
fn law_6_pfns_that_wait_for_a_frame_of_another_are_counted_although_rounds_are_given_up() {
    let fixture = Fixture::tree();
    const LAST: usize = 160;
    const MIDDLE: usize = 80;
    let home = |position: usize| (MIDDLE * 512 + position) as u64;
    {
        // Leaves without frames; the pfns of their own frames are in the middle one.
        let guest = &mut *fixture.machine();
        let mut add = |position, pfn| {
            let leaf = guest.copy_words(guest.leaf(0), pfn);
            (0..512).for_each(|slot| guest.poke(leaf, slot, u64::MAX));
            guest.set_entry(pfn, Entry(leaf));
            guest.set_leaf(position, leaf);
        };
        add(MIDDLE, HOLES);
        (3..MIDDLE).chain(MIDDLE + 1..LAST).for_each(|position| add(position, home(position)));
        guest.roots.pfn_count = LAST as u64 * 512;
    }
    let mut migration = fixture.start(Config::default());
    round(&fixture, &mut migration);
    let overfill = |positions: Range<usize>| {
        let guest = &mut *fixture.machine();
        for position in positions {
            let leaf = guest.entry(home(position)).0;
            (0..512).for_each(|slot| guest.poke(leaf, slot, BASE + 9));
        }
    };
    overfill(MIDDLE + 1..LAST);
    round(&fixture, &mut migration);
    // These are resolved first, then the leaves' own pages, for which the transport fails.
    overfill(3..MIDDLE);
    fixture.machine().errors.push(At::Send);
    let error = fixture.with(|ports| migration.round(ports)).expect_err("named");
    assert!(matches!(error, Error::TooManyDeferred { .. }), "{error}");
}

#[test]
fn law_6_the_p2m_size_is_bounded_by_the_frames_that_the_domain_holds() {
    let fixture = Fixture::linear();
    {
        let guest = &mut *fixture.machine();
        // A leaf that names frames, 2^34 pfns up the list.
        let (l4, l3) = (guest.table(4), guest.table(3));
        let (first, second) = (guest.peek(l4, 402), guest.peek(l3, 0));
        assert_eq!((first & 1, second & 1), (1, 1));
        for slot in 1..512 {
            guest.poke(l3, slot, second);
        }
        guest.roots.pfn_count = 1 << 35;
    }
    let mut migration = fixture.start(Config::default());
    let rounds = (0..=Config::default().uncertain_rounds_max)
        .map(|_| fixture.with(|ports| migration.round(ports)))
        .find_map(Result::err);
    let error = rounds.expect("past the p2m size limit");
    assert!(matches!(error, Error::P2mSize { .. }), "{error}");
}

#[test]
fn law_7_final_means_final() {
    for (fixture, mut migration) in copied() {
        // p2m written, m2p not: deferred in every live round.
        let mfn = fixture.machine().populate(HOLES + 3);
        fixture.machine().frame(mfn).m2p = None;
        fixture.machine().set_entry(HOLES + 3, Entry(mfn));
        for _ in 0..3 {
            assert_eq!(round(&fixture, &mut migration).pages.deferred_m2p, 1);
        }
        fixture.machine().machphys(mfn, HOLES + 3);
        fixture.machine().log.clear(); // not even log-dirty names it
        let report = finish(&fixture, &mut migration);
        assert_eq!(report.pages.left, 0);
    }
}

#[test]
fn law_7_gone_is_only_reported_at_a_consistent_point_after_every_table() {
    for (fixture, mut migration) in copied() {
        fixture.machine().make_table(20, 21);
        fixture.machine().balloon_out(9);
        for _ in 0..3 {
            let report = round(&fixture, &mut migration);
            assert_eq!(report.settled.gone, 0);
            assert!(fixture.machine().said_gone.is_empty(), "gone is a note while the guest runs");
        }
        fixture.machine().calls.clear();
        let table = fixture.machine().entry(20).0;
        // the table is dirty: it is sent in the final round
        fixture.machine().write_frame(table, 1);
        let report = finish(&fixture, &mut migration);
        assert_eq!((report.settled.gone, report.pages.tables), (1, 1));
        let calls = fixture.machine().calls.clone();
        let last = |at| calls.iter().rposition(|&call| call == at).expect("called");
        assert!(last(At::Gone) > last(At::Send));
    }
}

#[test]
fn law_7_gone_is_not_reported_for_what_came_back() {
    for (fixture, mut migration) in copied() {
        fixture.machine().balloon_out(9);
        round(&fixture, &mut migration);
        fixture.machine().balloon_in(9, 5);
        round(&fixture, &mut migration);
        assert_eq!(finish(&fixture, &mut migration).settled.gone, 0);
    }
}

#[test]
fn law_8_a_quiet_round_touches_no_leaf() {
    for (fixture, mut migration) in copied() {
        fixture.machine().calls.clear();
        let report = round(&fixture, &mut migration);
        assert_eq!((report.leaves.compared, report.structure.walks, report.pages.owed), (0, 0, 0));
        let calls = fixture.machine().calls.clone();
        // Besides the roots and the log: one read of the m2p for each upper frame.
        let m2p = calls.iter().filter(|at| **at == At::M2p).count();
        assert!(m2p <= 4, "{m2p} reads of the m2p");
        let quiet = |at: &At| matches!(at, At::Roots | At::Clean | At::M2p | At::Transfers);
        assert!(calls.iter().all(quiet), "{calls:?}");
        finish(&fixture, &mut migration);
    }
}

#[test]
fn law_8_one_dirty_leaf_is_the_only_one_compared() {
    for (fixture, mut migration) in copied() {
        fixture.machine().balloon_in(HOLES + 1, 5);
        let report = round(&fixture, &mut migration);
        assert_eq!((report.leaves.compared, report.entries.changed()), (1, 1));
        finish(&fixture, &mut migration);
    }
}

#[test]
fn verify_full_finds_an_m2p_that_lies_about_a_clean_leaf() {
    for verify in [Verify::Dirty, Verify::Full] {
        let fixture = Fixture::tree();
        let mut migration = fixture.start(Config { verify, ..Config::default() });
        round(&fixture, &mut migration);
        let mfn = fixture.machine().entry(9).0;
        fixture.machine().frame(mfn).m2p = None; // no leaf written, nothing in the log
        let report = round(&fixture, &mut migration);
        assert_eq!(report.pages.deferred_m2p, u64::from(verify == Verify::Full));
    }
}

#[test]
fn threads_do_not_change_the_result() {
    let reports = [1, 2, 4].map(|threads| {
        let fixture = Fixture::tree();
        let mut migration = fixture.start(Config { threads, ..Config::default() });
        round(&fixture, &mut migration);
        fixture.machine().balloon_in(HOLES + 1, 5);
        fixture.machine().balloon_out(700);
        let same = fixture.machine().entry(9);
        fixture.machine().set_entry(9, same);
        let mut report = round(&fixture, &mut migration);
        assert_eq!((report.threads, report.leaves.unchanged), (threads, 1));
        report.threads = 0;
        finish(&fixture, &mut migration);
        report
    });
    assert_eq!(reports[0], reports[1]);
    assert_eq!(reports[0], reports[2]);
}

#[test]
fn the_own_frames_of_the_p2m_arrive_as_pages() {
    for (fixture, mut migration) in copied() {
        let own: Vec<_> = (0..3).map(|n| Some(Pfn(OWN + n))).collect();
        assert_eq!(fixture.machine().list, own);
        assert_eq!(fixture.machine().lists, 1);
        assert_eq!(fixture.machine().frames[&(BASE + OWN)].kind, FrameType::Data);
        finish(&fixture, &mut migration);
    }
}
