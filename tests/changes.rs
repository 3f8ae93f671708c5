// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tracker detects: the rows of the design's table of changes, and the branches of the
//! completeness argument.
//! Not here: the laws (`laws`), the final round's table (`outcomes`).
//! Units: pfns of the hand-driven guest in `fixture`.
//! Threads: one.
//! Source: `docs/design.md`, "Changes" and "Completeness".

use p2mtrack::config::Config;
use p2mtrack::frame::{Entry, Pfn};
use p2mtrack::migration::Migration;
use p2mtrack::port::{Answer, Deferral};
use p2mtrack::uncertainty::Uncertainty;
use p2mtrack_tests::fixture::{At, BASE, Fixture, Got, HOLES, OWN, finish, round};

fn copied(fixture: Fixture) -> (Fixture, Migration) {
    let mut migration = fixture.start(Config::default());
    round(&fixture, &mut migration);
    (fixture, migration)
}

fn both() -> [(Fixture, Migration); 2] {
    [copied(Fixture::tree()), copied(Fixture::linear())]
}

/// Two pfns swap their frames by p2m and m2p; PTEs stay.
fn swap(fixture: &Fixture, a: u64, b: u64) {
    let machine = &mut *fixture.machine();
    let (frame_a, frame_b) = (machine.entry(a), machine.entry(b));
    machine.set_entry(a, frame_b);
    machine.set_entry(b, frame_a);
    machine.machphys(frame_b.0, a);
    machine.machphys(frame_a.0, b);
}

// --- rows of the table of changes --------------------------------------------------------------

#[test]
fn entries_of_a_leaf() {
    for (fixture, mut migration) in both() {
        {
            let machine = &mut *fixture.machine();
            machine.balloon_in(HOLES + 1, 5); // mapped
            machine.balloon_out(700); // unmapped
            machine.balloon_out(5);
            machine.balloon_in(5, 6); // remapped
        }
        let report = round(&fixture, &mut migration);
        let entries = report.entries;
        assert_eq!(
            (entries.mapped, entries.unmapped, entries.remapped, entries.other),
            (1, 1, 1, 0)
        );
        // The new pages were written, so log-dirty names them; the one that left was not.
        assert_eq!(entries.beyond_log_dirty, 1);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn a_page_that_comes_back_unwritten_is_beyond_log_dirty() {
    for (fixture, mut migration) in both() {
        {
            let machine = &mut *fixture.machine();
            let mfn = machine.populate(HOLES + 1);
            machine.set_entry(HOLES + 1, Entry(mfn));
        }
        assert_eq!(round(&fixture, &mut migration).entries.beyond_log_dirty, 1);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn a_linear_p2m_is_reshaped_with_or_without_the_generation() {
    for honest in [true, false] {
        let (fixture, mut migration) = copied(Fixture::linear());
        {
            let machine = &mut *fixture.machine();
            machine.roots.generation += u64::from(honest);
            let old = machine.leaf(512);
            let new = machine.copy_words(old, HOLES + 1);
            machine.set_entry(HOLES + 1, Entry(new));
            machine.poke(new, 88, u64::MAX); // pfn 600 is ballooned out in the new leaf only
            machine.set_leaf(1, new);
            machine.release(BASE + 600);
            machine.roots.generation += u64::from(honest);
            assert_eq!(machine.entry(600), Entry::INVALID);
        }
        let report = round(&fixture, &mut migration);
        assert_eq!(report.structure.generation, u64::from(honest));
        assert_eq!((report.leaves.fresh, report.entries.unmapped), (1, 1));
        assert_eq!(fixture.machine().list[1], Some(Pfn(HOLES + 1)));
        finish(&fixture, &mut migration);
    }
}

#[test]
fn a_tree_is_reshaped() {
    let (fixture, mut migration) = copied(Fixture::tree());
    {
        let machine = &mut *fixture.machine();
        let new = machine.copy_words(machine.leaf(512), HOLES + 1);
        machine.set_entry(HOLES + 1, Entry(new));
        machine.poke(new, 88, u64::MAX);
        machine.set_leaf(1, new);
        machine.release(BASE + 600);
    }
    let report = round(&fixture, &mut migration);
    assert!(report.structure.dirty > 0);
    assert_eq!((report.leaves.fresh, report.entries.unmapped), (1, 1));
    finish(&fixture, &mut migration);
}

#[test]
fn a_reshape_with_equal_entries_owes_only_the_frame_list() {
    for (fixture, mut migration) in both() {
        {
            let machine = &mut *fixture.machine();
            let new = machine.copy_words(machine.leaf(512), HOLES + 1);
            machine.set_entry(HOLES + 1, Entry(new));
            machine.set_leaf(1, new);
            // the copy itself was sent already
            machine.log.retain(|&pfn| pfn >= OWN + 3 || pfn == OWN + 2);
        }
        let lists = fixture.machine().lists;
        let report = round(&fixture, &mut migration);
        assert_eq!((report.leaves.fresh, report.entries.changed()), (1, 1));
        assert_eq!(fixture.machine().lists, lists + 1);
    }
}

#[test]
fn a_walk_that_finds_the_same_leaves_keeps_their_mappings() {
    for (fixture, mut migration) in both() {
        let held = fixture.machine().map_frames.clone();
        let again = fixture.machine().leaf(512);
        fixture.machine().set_leaf(1, again); // written with the same value
        assert_eq!(round(&fixture, &mut migration).structure.walks, 1);
        assert_eq!(fixture.machine().map_frames, held);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn two_leaves_that_get_other_pfns_in_one_round_owe_the_frame_list() {
    for (fixture, mut migration) in both() {
        swap(&fixture, OWN + 1, 1100);
        swap(&fixture, OWN + 2, 700);
        assert_eq!(round(&fixture, &mut migration).structure.frame_lists, 1);
        assert_eq!(fixture.machine().list, [OWN, 1100, 700].map(|pfn| Some(Pfn(pfn))));
        finish(&fixture, &mut migration);
    }
}

#[test]
fn a_frame_list_that_changes_twice_before_it_is_sent_is_sent() {
    for (fixture, mut migration) in both() {
        fixture.machine().roots.pfn_count = 1400;
        swap(&fixture, OWN + 3, 1100); // found by the comparison: a second walk
        fixture.machine().on(At::Live, |machine| machine.roots.pfn_count = 1300);
        let report = round(&fixture, &mut migration);
        assert_eq!((report.structure.walks, report.structure.frame_lists), (2, 1));
        assert_eq!(report.pfn_count, 1300);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn two_leaves_that_swap_positions_owe_the_frame_list() {
    for (fixture, mut migration) in both() {
        {
            let machine = &mut *fixture.machine();
            let (first, second) = (machine.leaf(0), machine.leaf(512));
            machine.set_leaf(0, second);
            machine.set_leaf(1, first);
        }
        assert_eq!(round(&fixture, &mut migration).structure.frame_lists, 1);
        assert_eq!(fixture.machine().list[..2], [Some(Pfn(OWN + 1)), Some(Pfn(OWN))]);
    }
}

#[test]
fn the_root_of_a_tree_is_swapped() {
    let (fixture, mut migration) = copied(Fixture::tree());
    {
        let machine = &mut *fixture.machine();
        let (top, mid) =
            (machine.roots.frame_list_list, machine.peek(machine.roots.frame_list_list, 0));
        let mid_two = machine.copy_words(mid, HOLES + 1);
        machine.set_entry(HOLES + 1, Entry(mid_two));
        let top_two = machine.copy_words(top, HOLES + 2);
        machine.set_entry(HOLES + 2, Entry(top_two));
        machine.poke(top_two, 0, mid_two);
        let leaf = machine.copy_words(machine.leaf(512), HOLES + 3);
        machine.set_entry(HOLES + 3, Entry(leaf));
        machine.poke(leaf, 88, u64::MAX);
        machine.poke(mid_two, 1, leaf);
        machine.roots.frame_list_list = top_two; // in shared_info: never in log-dirty
        machine.release(BASE + 600);
    }
    let report = round(&fixture, &mut migration);
    assert_eq!((report.structure.roots, report.leaves.fresh), (1, 1));
    finish(&fixture, &mut migration);
}

#[test]
fn a_leaf_that_gets_another_frame_is_read_from_the_new_one() {
    for (fixture, mut migration) in both() {
        {
            // XENMEM_exchange of the leaf's own page: new frame, same pfn, slot re-pointed.
            let machine = &mut *fixture.machine();
            let old = machine.leaf(512);
            let new = machine.copy_words(old, OWN + 1);
            machine.set_leaf(1, new);
            machine.set_entry(OWN + 1, Entry(new));
            machine.release(old);
            machine.poke(new, 88, u64::MAX);
            machine.release(BASE + 600);
            // The old frame, which the engine still maps, has another value now.
            machine.poke(old, 89, 0x1234);
        }
        let report = round(&fixture, &mut migration);
        assert_eq!((report.entries.unmapped, report.entries.remapped), (1, 1));
        finish(&fixture, &mut migration);
    }
}

#[test]
fn a_leaf_whose_frame_gets_another_pfn_is_followed() {
    for (fixture, mut migration) in both() {
        swap(&fixture, OWN + 1, 700);
        round(&fixture, &mut migration);
        // From here on its writes are marked under pfn 700.
        fixture.machine().balloon_out(650);
        let report = round(&fixture, &mut migration);
        assert_eq!((report.leaves.dirty, report.entries.unmapped), (1, 1));
        assert_eq!(fixture.machine().list[1], Some(Pfn(700)));
        finish(&fixture, &mut migration);
    }
}

#[test]
fn a_leaf_renamed_and_written_between_two_rounds_is_followed() {
    for (fixture, mut migration) in both() {
        swap(&fixture, OWN + 1, 700);
        fixture.machine().balloon_out(650);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn an_upper_frame_renamed_and_written_between_two_rounds_is_followed() {
    for (fixture, mut migration) in both() {
        swap(&fixture, OWN + 3, 700); // the mid frame, or the level 1 table
        {
            let machine = &mut *fixture.machine();
            let new = machine.copy_words(machine.leaf(512), HOLES + 1);
            machine.set_leaf(1, new);
            machine.set_entry(HOLES + 1, Entry(new));
            machine.set_entry(650, Entry::INVALID);
            machine.release(BASE + 650);
        }
        finish(&fixture, &mut migration);
    }
}

#[test]
fn growth_is_noticed_apart_from_the_generation() {
    for (fixture, mut migration) in both() {
        {
            let machine = &mut *fixture.machine();
            let leaf = machine.copy_words(machine.leaf(1024), HOLES + 1);
            machine.set_entry(HOLES + 1, Entry(leaf));
            for slot in 0..512 {
                machine.poke(leaf, slot, u64::MAX);
            }
            machine.set_leaf(3, leaf);
            machine.roots.pfn_count = 4 * 512;
            machine.balloon_in(3 * 512 + 7, 5);
            // Added without a write: nothing but the new leaf names it.
            let mfn = machine.populate(3 * 512 + 8);
            machine.set_entry(3 * 512 + 8, Entry(mfn));
        }
        let report = round(&fixture, &mut migration);
        assert_eq!((report.structure.pfn_count, report.leaves.fresh), (1, 1));
        assert_eq!(report.pfn_count, 4 * 512);
        assert_eq!(fixture.machine().list.len(), 4);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn what_fell_away_is_gone() {
    for (fixture, mut migration) in both() {
        fixture.machine().roots.pfn_count = 1100;
        for pfn in 1100..HOLES {
            fixture.machine().release(BASE + pfn);
        }
        assert_eq!(round(&fixture, &mut migration).pfn_count, 1100);
        let report = finish(&fixture, &mut migration);
        assert_eq!(report.settled.gone, HOLES - 1100);
    }
}

#[test]
fn what_fell_away_and_grew_again_is_sent_anew() {
    for (fixture, mut migration) in both() {
        fixture.machine().roots.pfn_count = 1100;
        round(&fixture, &mut migration);
        fixture.machine().roots.pfn_count = 1536;
        round(&fixture, &mut migration);
        assert_eq!(finish(&fixture, &mut migration).settled.gone, 0);
    }
}

#[test]
fn a_frame_that_moves_with_its_ptes_kept_puts_the_tables_that_name_it_in_uncertainty_once() {
    for (fixture, mut migration) in both() {
        fixture.machine().make_table(20, 21);
        fixture.machine().make_table(22, 600);
        round(&fixture, &mut migration);
        swap(&fixture, 21, 700);
        round(&fixture, &mut migration);
        let report = round(&fixture, &mut migration);
        let tables = report.uncertain[Uncertainty::Tables as usize];
        assert_eq!((tables, migration.tracker().why(Pfn(20)).is_empty()), (1, true));
        assert_eq!(report.pages.tables, 1, "the other one names 600");
        assert_eq!(round(&fixture, &mut migration).pages.owed, 0);
        finish(&fixture, &mut migration);
    }
}

/// The frame that moves is in the middle of a table's PTEs, which are in runs or not.
#[test]
fn a_frame_that_moves_reaches_tables_that_name_it_among_others() {
    for targets in [(21..29).collect::<Vec<u64>>(), vec![21, 300, 23, 40, 22]] {
        for (fixture, mut migration) in both() {
            {
                let mut machine = fixture.machine();
                machine.make_table(20, 21);
                let table = machine.entry(20).0;
                for (slot, &target) in targets.iter().enumerate() {
                    let frame = machine.entry(target).0;
                    machine.poke(table, slot, frame << 12 | 0x67);
                }
            }
            for moved in [23, targets[targets.len() - 1]] {
                round(&fixture, &mut migration);
                round(&fixture, &mut migration); // the table is not dirty any more
                swap(&fixture, moved, 700);
                round(&fixture, &mut migration);
                assert_eq!(round(&fixture, &mut migration).pages.tables, 1, "{moved}");
            }
            finish(&fixture, &mut migration);
        }
    }
}

#[test]
fn an_uncertainty_of_tables_is_tolerated_for_some_rounds_and_then_deferred() {
    for (fixture, mut migration) in both() {
        fixture.machine().make_table(20, 21);
        round(&fixture, &mut migration);
        let rounds_max = Config::default().uncertain_rounds_max as usize;
        let uncertain: Vec<u64> = (0..3 * rounds_max)
            .map(|_| {
                swap(&fixture, 21, 700);
                round(&fixture, &mut migration).uncertain[Uncertainty::Tables as usize]
            })
            .collect();
        let runs = uncertain.split(|&uncertainty| uncertainty == 0).map(<[u64]>::len);
        assert_eq!(runs.max(), Some(rounds_max), "{uncertain:?}");
        swap(&fixture, 21, 700);
        assert!(finish(&fixture, &mut migration).uncertain[Uncertainty::Tables as usize] > 0);
    }
}

#[test]
fn a_frame_that_moves_in_the_final_round_reaches_the_tables() {
    for (fixture, mut migration) in both() {
        fixture.machine().make_table(20, 21);
        round(&fixture, &mut migration);
        swap(&fixture, 21, 700);
        let report = finish(&fixture, &mut migration);
        assert_eq!(report.uncertain[Uncertainty::Tables as usize], 1);
    }
}

#[test]
fn a_frame_that_moves_on_before_it_was_accepted_where_a_table_named_it() {
    // The table is normalised while frame F is at pfn 600; 600 itself is not accepted under F,
    // because the transport defers it. Then F moves on to a pfn that had no frame. No shadow entry
    // ever named F.
    for (fixture, mut migration) in both() {
        let frame = {
            let machine = &mut *fixture.machine();
            machine.balloon_out(600);
            machine.balloon_in(600, 0xf);
            let lost = [Answer::Deferred(Deferral::Unacknowledged)];
            machine.answers.insert(600, lost.into());
            machine.make_table(20, 600);
            machine.entry(600).0
        };
        round(&fixture, &mut migration);
        assert_eq!(migration.tracker().deferral(Pfn(600)), Some(Deferral::Unacknowledged));
        {
            let machine = &mut *fixture.machine();
            machine.set_entry(HOLES + 3, Entry(frame));
            machine.machphys(frame, HOLES + 3);
            machine.set_entry(600, Entry::INVALID);
        }
        finish(&fixture, &mut migration);
        assert!(
            matches!(&fixture.machine().received[&20], Got::Table(ptes) if ptes[3] >> 12 == HOLES + 3)
        );
    }
}

#[test]
fn a_pfn_that_only_a_table_named_is_given_back() {
    // A receiver that localises tables on arrival has allocated a frame for pfn 1300, which was
    // never sent.
    for (fixture, mut migration) in both() {
        {
            let machine = &mut *fixture.machine();
            machine.balloon_in(HOLES + 4, 1);
            machine.make_table(20, HOLES + 4);
            let lost = [Answer::Deferred(Deferral::Unacknowledged)];
            machine.answers.insert(HOLES + 4, lost.into());
        }
        round(&fixture, &mut migration);
        {
            let machine = &mut *fixture.machine();
            let table = machine.entry(20).0;
            machine.poke(table, 3, 0);
            machine.balloon_out(HOLES + 4);
        }
        finish(&fixture, &mut migration);
        assert!(fixture.machine().said_gone.contains(&(HOLES + 4)));
    }
}

#[test]
fn p2m_and_m2p_that_disagree_are_deferred_and_tried_again() {
    for (fixture, mut migration) in both() {
        let mfn = fixture.machine().populate(0x77_7777);
        fixture.machine().set_entry(HOLES + 1, Entry(mfn));
        for _ in 0..2 {
            assert_eq!(round(&fixture, &mut migration).pages.deferred_m2p, 1);
        }
        fixture.machine().machphys(mfn, HOLES + 1);
        assert_eq!(round(&fixture, &mut migration).pages.left, 0);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn a_frame_that_vanishes_between_query_and_map_is_deferred() {
    for (fixture, mut migration) in both() {
        fixture.machine().write(9, 3);
        fixture.machine().on(At::Send, |machine| {
            machine.balloon_out(9);
        });
        let report = round(&fixture, &mut migration);
        assert_eq!((report.pages.deferred_frame, report.pages.left), (1, 1));
        finish(&fixture, &mut migration);
    }
}

#[test]
fn a_table_that_can_not_be_normalised_now_is_deferred() {
    for (fixture, mut migration) in both() {
        fixture.machine().make_table(20, 21);
        fixture.machine().frame(BASE + 21).m2p = None; // during an update
        assert_eq!(round(&fixture, &mut migration).pages.deferred_table, 1);
        fixture.machine().machphys(BASE + 21, 21);
        assert_eq!(round(&fixture, &mut migration).pages.left, 0);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn equal_generations_across_a_checkpoint_prove_nothing() {
    let (fixture, mut migration) = copied(Fixture::linear());
    for checkpoint in 0..5 {
        fixture.machine().balloon_out(100 + checkpoint);
        let report = fixture.with(|ports| migration.checkpoint(ports)).expect("a checkpoint");
        assert_eq!(report.structure.forced, u64::from(checkpoint > 0));
        fixture.machine().assert_identical();
        // The guest resumes and rewrites its list; its generation is 0 again.
        let machine = &mut *fixture.machine();
        let old = machine.leaf(512);
        let new = machine.copy_words(old, HOLES + 1 + checkpoint);
        machine.set_entry(HOLES + 1 + checkpoint, Entry(new));
        machine.set_leaf(1, new);
        machine.roots.generation = 0;
        machine.poke(new, 88 + checkpoint as usize, u64::MAX);
        machine.release(BASE + 600 + checkpoint);
    }
    finish(&fixture, &mut migration);
    assert_eq!(fixture.machine().consistent, 6);
}

#[test]
fn unlogged_writers_are_read_again_in_the_last_round() {
    for (fixture, mut migration) in both() {
        fixture.machine().unlogged = vec![9, 10, 9];
        fixture.machine().frame(BASE + 9).content = 0xbeef; // a backend writes: no mark
        assert_eq!(round(&fixture, &mut migration).pages.owed, 0);
        let report = finish(&fixture, &mut migration);
        assert_eq!((report.settled.unlogged, report.pages.accepted), (2, 2));
    }
}

// --- branches of the completeness argument -----------------------------------------------------

#[test]
fn complete_an_entry_that_differs_at_suspend_was_in_a_dirty_leaf() {
    for (fixture, mut migration) in both() {
        fixture.machine().on(At::Send, |machine| machine.balloon_in(HOLES + 9, 1));
        fixture.machine().write(3, 3);
        round(&fixture, &mut migration);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn complete_an_entry_that_differs_at_suspend_was_behind_a_re_pointed_slot() {
    for (fixture, mut migration) in both() {
        fixture.machine().on(At::Send, |machine| {
            let new = machine.copy_words(machine.leaf(512), HOLES + 1);
            machine.set_entry(HOLES + 1, Entry(new));
            machine.poke(new, 88, u64::MAX);
            machine.set_leaf(1, new);
            machine.release(BASE + 600);
        });
        fixture.machine().write(3, 3);
        round(&fixture, &mut migration);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn complete_an_equal_entry_whose_page_was_written_is_in_log_dirty() {
    for (fixture, mut migration) in both() {
        fixture.machine().on(At::Send, |machine| machine.write(3, 4));
        fixture.machine().write(3, 3);
        round(&fixture, &mut migration);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn complete_a_write_marked_under_another_pfn_comes_back_by_machphys() {
    for (fixture, mut migration) in both() {
        {
            let machine = &mut *fixture.machine();
            machine.machphys(BASE + 9, HOLES + 3); // m2p first
            machine.write_frame(BASE + 9, 0x99); // marked under the other pfn
            machine.machphys(BASE + 9, 9); // and back: marks pfn 9
        }
        finish(&fixture, &mut migration);
    }
}

#[test]
fn complete_a_b_a_with_the_same_frame_is_unchanged() {
    for (fixture, mut migration) in both() {
        {
            let machine = &mut *fixture.machine();
            machine.set_entry(9, Entry::INVALID);
            machine.set_entry(9, Entry(BASE + 9));
        }
        let report = round(&fixture, &mut migration);
        assert_eq!(
            (report.leaves.unchanged, report.pages.owed),
            (1, 1),
            "the leaf's own page only"
        );
        finish(&fixture, &mut migration);
    }
}

#[test]
fn complete_a_b_a_by_transfer_is_owed_while_the_guest_takes_transfers() {
    for (fixture, mut migration) in both() {
        {
            let machine = &mut *fixture.machine();
            machine.accepts = true;
            machine.set_entry(9, Entry::INVALID);
            machine.set_entry(9, Entry(BASE + 9));
            machine.frame(BASE + 9).content = 0xd0; // another domain wrote it: no mark
        }
        let report = round(&fixture, &mut migration);
        assert!(report.pages.accepted >= 512);
        finish(&fixture, &mut migration);
    }
}

#[test]
fn complete_a_b_a_by_transfer_just_before_the_log_is_taken() {
    // The guest offers to take a frame only after the round began; its leaf is dirty in this
    // round's log and not in the next one's. In one case the offer lasts to the end of the round,
    // in the other it is withdrawn once the log was taken.
    for stays in [true, false] {
        for (fixture, mut migration) in both() {
            fixture.machine().on(if stays { At::Clean } else { At::Roots }, move |machine| {
                machine.accepts = true;
                machine.set_entry(9, Entry::INVALID);
                machine.set_entry(9, Entry(BASE + 9));
                machine.frame(BASE + 9).content = 0xd0;
            });
            if !stays {
                fixture.machine().accepts = true;
                fixture.machine().on(At::Clean, |machine| machine.accepts = false);
            }
            round(&fixture, &mut migration);
            fixture.machine().accepts = false;
            finish(&fixture, &mut migration);
        }
    }
}

/// Another program resumes the guest in its last round: after the log was read, or while pages are
/// sent. The round is no consistent state; it may be repeated.
#[test]
fn a_guest_that_runs_again_in_a_suspended_round_ends_it() {
    for (questions, sends_pages) in [(1, false), (2, true)] {
        for (fixture, mut migration) in both() {
            round(&fixture, &mut migration);
            let asked = fixture.machine().calls.contains(&At::Suspended);
            assert!(!asked, "of a live guest");
            fixture.machine().balloon_in(HOLES + 4, 1);
            for question in 1..=questions {
                fixture.machine().on(At::Suspended, move |machine| {
                    machine.errors.extend((question == questions).then_some(At::Suspended));
                });
            }
            let sent = fixture.machine().sent.len();
            let error = fixture.with(|ports| migration.finish(ports)).expect_err("it runs");
            assert!(error.to_string().contains("p2m source"), "{questions}: {error}");
            assert_eq!(fixture.machine().sent.len() > sent, sends_pages, "{questions}");
            finish(&fixture, &mut migration);
        }
    }
}
