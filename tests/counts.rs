// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every count of a round's report: one change of the guest, and all the numbers that follow from
//! it.
//! Not here: whether the destination is right (`laws`, `changes`), uncertainties (`walks`), rates
//! (`laws`).
//! Units: as in the reports.
//! Threads: one.
//! Source: `docs/design.md`, "Counts", and the fields of `report`.

use p2mtrack::config::Config;
use p2mtrack::diff::Kernel;
use p2mtrack::frame::{Entry, Pfn, Width};
use p2mtrack::migration::Migration;
use p2mtrack::port::{Answer, Deferral};
use p2mtrack::report::{
    EntryCounts, LeafCounts, PageCounts, RoundReport, SettledCounts, Stage, StructureCounts,
};
use p2mtrack_tests::fixture::{At, BASE, Fixture, HOLES, MACHINE, OWN, round};

fn finish(fixture: &Fixture, migration: &mut Migration) -> RoundReport {
    fixture.with(|ports| migration.finish(ports)).expect("completes")
}

/// Both kinds of p2m, after the first copy; page tables of the guest that are its p2m's.
fn both() -> [(Fixture, Migration, u64); 2] {
    [(Fixture::tree(), 0), (Fixture::linear(), 4)].map(|(fixture, tables)| {
        let mut migration = fixture.start(Config::default());
        round(&fixture, &mut migration);
        (fixture, migration, tables)
    })
}

/// Counts of three leaves, of which so many are dirty, and compared.
const fn leaves(dirty: u64, compared: u64) -> LeafCounts {
    let (tracked, distinct) = (3, 3);
    LeafCounts { tracked, distinct, dirty, compared, fresh: 0, dropped: 0, unchanged: 0 }
}

fn accepted(pages: u64) -> PageCounts {
    PageCounts { owed: pages, accepted: pages, ..PageCounts::default() }
}

/// Two pfns swap their frames by p2m and m2p.
fn swap(fixture: &Fixture, a: u64, b: u64) {
    let guest = &mut *fixture.machine();
    let (frame_a, frame_b) = (guest.entry(a), guest.entry(b));
    guest.set_entry(a, frame_b);
    guest.set_entry(b, frame_a);
    guest.machphys(frame_b.0, a);
    guest.machphys(frame_a.0, b);
}

/// Writes the leaf of a pfn without a change.
fn touch(fixture: &Fixture, pfn: u64) {
    let guest = &mut *fixture.machine();
    let entry = guest.entry(pfn);
    guest.set_entry(pfn, Entry::INVALID);
    guest.set_entry(pfn, entry);
}

#[test]
fn the_first_copy_and_the_final_round() {
    for (fixture, tables) in [(Fixture::tree(), 0), (Fixture::linear(), 4)] {
        let mut migration = fixture.start(Config::default());
        let first = RoundReport {
            kernel: Kernel::choose().expect("a kernel").name(),
            threads: 1,
            pfn_count: 1536,
            leaves: leaves(0, 3),
            entries: EntryCounts { mapped: HOLES, beyond_log_dirty: HOLES, ..Default::default() },
            structure: StructureCounts {
                forced: 1,
                walks: 1,
                frame_lists: 1,
                ..Default::default()
            },
            pages: PageCounts { tables, ..accepted(HOLES) },
            ..RoundReport::default()
        };
        assert_eq!(round(&fixture, &mut migration), first);
        assert_eq!(round(&fixture, &mut migration).round, 1);
        touch(&fixture, 9);
        touch(&fixture, HOLES + 1);
        // Entries that agree with the m2p, and words that name no frame, are not owed again.
        let last = RoundReport {
            round: 2,
            stage: Stage::Final,
            log_dirty_pfns: 2,
            leaves: LeafCounts { unchanged: 2, ..leaves(2, 2) },
            entries: EntryCounts::default(),
            structure: StructureCounts::default(),
            pages: accepted(2),
            dirty_rate: Some(2.0),
            shrinking: Some(false),
            unaccounted_frames: Some(0),
            ..first
        };
        assert_eq!(finish(&fixture, &mut migration), last);
    }
}

#[test]
fn entries_by_kind() {
    for (fixture, mut migration, _) in both() {
        {
            let guest = &mut *fixture.machine();
            guest.balloon_in(HOLES + 1, 5);
            guest.balloon_out(700);
            guest.balloon_out(5);
            guest.balloon_in(5, 6);
            guest.set_entry(HOLES + 2, Entry::identity(Width::W64, Pfn(HOLES + 2)));
            guest.set_entry(HOLES + 3, Entry(MACHINE)); // just past the machine
            guest.set_entry(HOLES + 4, Entry(MACHINE));
        }
        let report = round(&fixture, &mut migration);
        let (mapped, unmapped, remapped, other) = (1, 1, 1, 3);
        let beyond_log_dirty = 4; // the words without a frame: no page was written
        assert_eq!(
            report.entries,
            EntryCounts { mapped, unmapped, remapped, other, beyond_log_dirty }
        );
        assert_eq!(report.pages, PageCounts { unpopulated: 4, owed: 9, ..accepted(5) });
        assert_eq!((report.log_dirty_pfns, report.leaves), (5, leaves(3, 3)));
        assert_eq!(report.structure, StructureCounts::default());
        touch(&fixture, HOLES + 2);
        assert_eq!(
            round(&fixture, &mut migration).leaves,
            LeafCounts { unchanged: 1, ..leaves(1, 1) }
        );
        // such a frame is not queried
        fixture.machine().set_entry(HOLES + 3, Entry::INVALID);
        let report = round(&fixture, &mut migration);
        assert_eq!((report.entries.other, report.pages.unpopulated), (1, 1));
        touch(&fixture, HOLES + 2);
        touch(&fixture, 9);
        let report = finish(&fixture, &mut migration);
        assert_eq!(report.pages, accepted(2), "the leaves' own pages");
        assert_eq!(report.leaves, LeafCounts { unchanged: 2, ..leaves(2, 2) });
        assert_eq!(report.settled, SettledCounts { gone: 1, foreign: 2, ..Default::default() });
    }
}

#[test]
fn an_entry_that_waits_is_not_counted_again() {
    for (fixture, mut migration, _) in both() {
        let mfn = fixture.machine().populate(0x77_7777);
        fixture.machine().set_entry(HOLES + 1, Entry(mfn));
        let report = round(&fixture, &mut migration);
        assert_eq!((report.entries.mapped, report.pages.deferred_m2p), (1, 1));
        fixture.machine().balloon_in(HOLES + 2, 5);
        let report = round(&fixture, &mut migration);
        assert_eq!((report.entries.changed(), report.entries.mapped), (1, 1));
        assert_eq!(report.pages, PageCounts { owed: 3, deferred_m2p: 1, left: 1, ..accepted(2) });
    }
}

#[test]
fn what_has_no_answer_waits_as_a_uncertainty() {
    for (fixture, mut migration, _) in both() {
        fixture.machine().write(9, 5);
        fixture.machine().errors.push(At::Query);
        let deferred = PageCounts { owed: 1, deferred_uncertain: 1, left: 1, ..accepted(0) };
        assert_eq!(round(&fixture, &mut migration).pages, deferred);
    }
}

#[test]
fn a_leaf_under_another_pfn() {
    for (fixture, mut migration, _) in both() {
        swap(&fixture, OWN + 1, 1100);
        let report = round(&fixture, &mut migration);
        assert_eq!(report.entries, EntryCounts { remapped: 2, ..Default::default() });
        // The leaf itself is read twice: at first its new pfn, under which it was marked, was not
        // known as a backing pfn.
        assert_eq!(report.leaves, LeafCounts { unchanged: 1, ..leaves(3, 4) });
        let structure = StructureCounts {
            entries: 1,
            moved: 1,
            walks: 1,
            frame_lists: 1,
            ..Default::default()
        };
        assert_eq!(report.structure, structure);
        assert_eq!((report.pages.owed, report.pages.moved), (4, 2));
    }
}

#[test]
fn a_table_under_another_pfn() {
    for (fixture, mut migration, _) in both() {
        swap(&fixture, OWN + 3, 1100);
        let report = round(&fixture, &mut migration);
        assert_eq!(report.entries, EntryCounts { remapped: 2, ..Default::default() });
        assert_eq!(report.leaves, leaves(2, 2));
        let structure =
            StructureCounts { entries: 2, moved: 1, dirty: 1, walks: 2, ..Default::default() };
        assert_eq!(report.structure, structure);
        assert_eq!((report.pages.owed, report.pages.moved), (4, 2));
    }
}

#[test]
fn a_leaf_that_the_last_walk_relied_on_under_another_pfn() {
    let fixture = Fixture::tree();
    {
        // A leaf without frames at position 3, before one with frames, and after it, where nothing
        // is tracked.
        let guest = &mut *fixture.machine();
        guest.roots.pfn_count = 7 * 512;
        let [empty, last] = [1, 2].map(|n| {
            let leaf = guest.copy_words(guest.leaf(0), HOLES + n);
            guest.set_entry(HOLES + n, Entry(leaf));
            (0..512).for_each(|slot| guest.poke(leaf, slot, u64::MAX));
            leaf
        });
        [3, 5, 6].into_iter().for_each(|position| guest.set_leaf(position, empty));
        guest.set_leaf(4, last);
        guest.balloon_in(4 * 512 + 1, 4);
    }
    let mut migration = fixture.start(Config::default());
    assert_eq!(round(&fixture, &mut migration).leaves.tracked, 5);
    swap(&fixture, HOLES + 1, 700);
    let report = round(&fixture, &mut migration);
    // The entry of its backing pfn changed; the frame is marked as written, and has another pfn.
    let structure = StructureCounts {
        dirty: 1,
        entries: 2,
        moved: 1,
        walks: 2,
        frame_lists: 1,
        ..Default::default()
    };
    assert_eq!(report.structure, structure);
}

/// Adds a fourth leaf, whose words are a run that begins at this value.
fn grow(fixture: &Fixture, first: u64, pfn_count: u64) {
    let guest = &mut *fixture.machine();
    let leaf = guest.copy_words(guest.leaf(1024), HOLES + 1);
    guest.set_entry(HOLES + 1, Entry(leaf));
    (0..512).for_each(|slot| guest.poke(leaf, slot, first + slot as u64));
    guest.set_leaf(3, leaf);
    guest.roots.pfn_count = pfn_count;
}

#[test]
fn growth_by_a_run_that_leads_out_of_the_machine() {
    for (fixture, mut migration, tables) in both() {
        grow(&fixture, MACHINE - 200, 2048);
        fixture.machine().log.extend([1536 + 5, 1536 + 6, 1536 + 511]);
        let report = round(&fixture, &mut migration);
        let entries =
            EntryCounts { mapped: 201, other: 312, beyond_log_dirty: 509, ..Default::default() };
        assert_eq!(report.entries, entries);
        let (tracked, distinct) = (4, 4);
        assert_eq!(report.leaves, LeafCounts { tracked, distinct, fresh: 1, ..leaves(2, 2) });
        // The entry that names the new leaf's page is new, too: a second walk.
        let structure = StructureCounts {
            pfn_count: 1,
            dirty: 1,
            entries: 1,
            walks: 2,
            frame_lists: 1,
            ..Default::default()
        };
        assert_eq!(report.structure, structure);
        // The new leaf's own page, that of the leaf that names it, and the table; frames that are
        // not ours.
        let pages = PageCounts {
            owed: 515,
            tables: tables / 4,
            unpopulated: 312,
            deferred_frame: 200,
            left: 200,
            ..accepted(3)
        };
        assert_eq!(report.pages, pages);
        // The new leaf is removed with its page.
        fixture.machine().roots.pfn_count = 1000;
        let report = round(&fixture, &mut migration);
        let (tracked, distinct) = (2, 2);
        assert_eq!(report.leaves, LeafCounts { tracked, distinct, dropped: 2, ..leaves(0, 0) });
        assert_eq!(report.pages, accepted(0));
    }
}

#[test]
fn a_last_leaf_that_the_count_of_pfns_cuts() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        fixture.machine().roots.pfn_count = 600;
        let mut migration = fixture.start(Config::default());
        let report = round(&fixture, &mut migration);
        assert_eq!((report.entries.mapped, report.pages.accepted), (600, 600));
        assert_eq!((report.leaves.tracked, report.leaves.compared), (2, 2));
        // A walk that finds the same count compares nothing.
        let first = fixture.machine().leaf(0);
        fixture.machine().set_leaf(0, first);
        let report = round(&fixture, &mut migration);
        assert_eq!((report.structure.walks, report.structure.frame_lists), (1, 0));
        assert_eq!(report.leaves.compared, 0);
        fixture.machine().roots.pfn_count = 700;
        let report = round(&fixture, &mut migration);
        assert_eq!((report.entries.mapped, report.leaves.compared), (100, 1));
        assert_eq!(report.structure.frame_lists, 1, "no other leaves, but more pfns");
        // Aligned now: the cut leaf has no more entries.
        fixture.machine().roots.pfn_count = 1024;
        let report = round(&fixture, &mut migration);
        assert_eq!((report.entries.mapped, report.leaves.compared), (324, 1));
        fixture.machine().roots.pfn_count = 1536;
        assert_eq!(round(&fixture, &mut migration).leaves.compared, 1);
    }
}

#[test]
fn a_frame_that_pauses_between_two_pfns_moves_when_it_arrives() {
    for (fixture, mut migration, _) in both() {
        let frame = Entry(BASE + 9);
        fixture.machine().set_entry(9, Entry::INVALID);
        let report = round(&fixture, &mut migration);
        assert_eq!((report.pages.unpopulated, report.pages.moved), (1, 0));
        {
            let guest = &mut *fixture.machine();
            guest.set_entry(HOLES + 1, frame);
            guest.machphys(frame.0, HOLES + 1);
        }
        assert_eq!(round(&fixture, &mut migration).pages.moved, 1);
        // A pfn past the last one does not count: the frame left and arrived nowhere.
        fixture.machine().set_entry(HOLES + 1, Entry::INVALID);
        fixture.machine().frame(frame.0).m2p = Some(1536);
        let report = round(&fixture, &mut migration);
        assert_eq!((report.pages.unpopulated, report.pages.moved), (1, 0));
    }
}

#[test]
fn a_frame_moves_also_between_a_pfn_and_the_one_that_only_a_table_knew_it_by() {
    for (fixture, mut migration, _) in both() {
        let (a, b) = (HOLES + 1, 9);
        let frame = fixture.machine().entry(b);
        {
            let guest = &mut *fixture.machine();
            guest.set_entry(a, frame);
            guest.machphys(frame.0, a);
            guest.make_table(20, a);
            guest.answers.insert(a, [Answer::Deferred(Deferral::Unacknowledged)].into());
        }
        let report = round(&fixture, &mut migration);
        assert_eq!(migration.tracker().deferral(Pfn(a)), Some(Deferral::Unacknowledged));
        // The table names `a`, which is deferred, and is still owed once.
        assert_eq!((report.pages.moved, report.pages.left, migration.tracker().owed()), (0, 1, 1));
        {
            let guest = &mut *fixture.machine();
            guest.set_entry(a, Entry::INVALID);
            guest.set_entry(b, Entry::INVALID);
            guest.frame(frame.0).m2p = None;
        }
        assert_eq!(round(&fixture, &mut migration).pages.moved, 1);
    }
}

#[test]
fn a_leaf_with_frames_may_stand_at_four_positions() {
    for positions in [4, 5] {
        let fixture = Fixture::tree();
        {
            let guest = &mut *fixture.machine();
            let first = guest.leaf(0);
            (3..2 + positions).for_each(|position| guest.set_leaf(position, first));
            guest.roots.pfn_count = (2 + positions as u64) * 512;
        }
        let mut migration = fixture.start(Config::default());
        match fixture.with(|ports| migration.round(ports)) {
            Ok(report) => assert_eq!((positions, report.entries.mapped), (4, HOLES + 3 * 512)),
            Err(error) => {
                assert!(error.to_string().ends_with("is listed at 5 positions"), "{error}");
            }
        }
    }
}

/// A guest whose leaf without frames is listed at some positions before the last. Its words are no
/// run.
fn without_frames(positions: usize) -> (Fixture, Migration) {
    let fixture = Fixture::tree();
    {
        let guest = &mut *fixture.machine();
        let shared = guest.copy_words(guest.leaf(0), HOLES + 1);
        guest.set_entry(HOLES + 1, Entry(shared));
        for slot in 0..512 {
            let identity = Entry::identity(Width::W64, Pfn(slot * 7));
            guest.poke(shared, slot as usize, if slot % 3 == 0 { u64::MAX } else { identity.0 });
        }
        (3..3 + positions).for_each(|position| guest.set_leaf(position, shared));
        let last = guest.copy_words(guest.leaf(0), HOLES + 2);
        guest.set_entry(HOLES + 2, Entry(last));
        (1..512).for_each(|slot| guest.poke(last, slot, u64::MAX));
        guest.set_leaf(3 + positions, last);
        guest.roots.pfn_count = (4 + positions as u64) * 512;
        guest.set_entry((3 + positions as u64) * 512, Entry::INVALID);
        guest.balloon_in((3 + positions as u64) * 512 + 1, 1);
    }
    let mut migration = fixture.start(Config::default());
    round(&fixture, &mut migration);
    (fixture, migration)
}

#[test]
fn a_uncertainty_owes_nothing_of_a_leaf_without_frames_at_many_positions() {
    let (fixture, mut migration) = without_frames(90);
    let held = migration.tracker().shadow_bytes();
    let list = std::mem::replace(&mut fixture.machine().roots.frame_list_list, 1 << 40);
    let report = round(&fixture, &mut migration);
    assert!(report.p2m_unreadable);
    fixture.machine().roots.frame_list_list = list;
    let report = round(&fixture, &mut migration);
    // The three leaves at the start, and the last one.
    assert_eq!(report.pages.owed, 4 * 512);
    assert_eq!(migration.tracker().shadow_bytes(), held);
    // Nor when an unknown pfn may have got a frame by transfer.
    fixture.machine().accepts = true;
    let report = finish(&fixture, &mut migration);
    assert!(report.pages.owed <= 4 * 512 + 8, "{}", report.pages.owed);
    assert_eq!(migration.tracker().shadow_bytes(), held);
}

#[test]
fn a_leaf_without_frames_at_many_positions_is_one_copy_and_owes_nothing() {
    let ((_, two), (fixture, mut migration)) = (without_frames(2), without_frames(90));
    let held = migration.tracker().shadow_bytes();
    assert_eq!((two.tracker().shadow_bytes().shared, held.shared), (2, 90));
    let more = held.bytes - two.tracker().shadow_bytes().bytes;
    assert!(more < 90 * 64, "{more} bytes for 88 positions more");
    // It is written: the copy changes at every position, and is still shared.
    let shared = fixture.machine().leaf(3 * 512);
    let now = Entry::identity(Width::W64, Pfn(0x777));
    fixture.machine().poke(shared, 5, now.0);
    let report = round(&fixture, &mut migration);
    assert_eq!(
        report.entries,
        EntryCounts { other: 90, beyond_log_dirty: 90, ..Default::default() }
    );
    assert_eq!((report.leaves.dirty, report.leaves.compared), (90, 90));
    assert_eq!(report.pages, accepted(1));
    for position in 3..93 {
        assert_eq!(migration.tracker().shadow_entry(Pfn(position * 512 + 5)), now);
    }
    assert_eq!(migration.tracker().shadow_bytes(), held);
}
