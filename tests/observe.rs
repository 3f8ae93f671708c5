// SPDX-License-Identifier: MIT OR Apache-2.0
//! Observing: what a tracker without a transport reports, remembers, and shows.
//! Not here: migrations (`laws`, `changes`), captures (`engine/cli/tests`).
//! Units: pfns of the hand-driven guest in `fixture`; a shard of the shadow is 4,096 leaves.
//! Threads: one, and two.
//! Source: `Monitor::observe`; law 5 where everything counts as accepted when it is seen.

use p2mtrack::cause::{Cause, CauseSet};
use p2mtrack::config::{Config, Rewalk};
use p2mtrack::frame::{Entry, Mfn, Pfn, Width};
use p2mtrack::monitor::Monitor;
use p2mtrack::report::{EntryCounts, RoundReport};
use p2mtrack::shadow::{Forms, ShadowBytes};
use p2mtrack_tests::fixture::{BASE, Fixture, HOLES, OWN};

/// Leaves of one shard of the shadow.
const SHARD: usize = 4096;

/// One observed round: its report, and the pfns reported.
fn observe(fixture: &Fixture, monitor: &mut Monitor) -> (RoundReport, Vec<(u64, Vec<Cause>)>) {
    let mut reported = Vec::new();
    let mut each = |pfn: Pfn, causes: CauseSet| {
        reported.push((pfn.0, causes.iter().collect()));
    };
    let report = fixture
        .with(|ports| monitor.observe(&mut ports.guest, ports.log_dirty, &mut each))
        .expect("a round");
    (report, reported)
}

fn monitor(fixture: &Fixture, config: Config) -> Monitor {
    fixture.machine().log_on = true;
    fixture.machine().log.clear();
    Monitor::new(config, Width::W64).expect("threads")
}

#[test]
fn what_is_reported_is_remembered() {
    for threads in [1, 2] {
        let fixture = Fixture::linear();
        let mut monitor = monitor(&fixture, Config { threads, ..Config::default() });
        assert_eq!((monitor.tracker().pfns(), monitor.tracker().roots()), (0, None));
        let (first, reported) = observe(&fixture, &mut monitor);
        assert_eq!((first.round, first.entries.mapped, first.pages.accepted), (0, HOLES, HOLES));
        assert_eq!(reported, (0..HOLES).map(|pfn| (pfn, vec![Cause::First])).collect::<Vec<_>>());
        {
            let guest = &mut *fixture.machine();
            guest.write(9, 1);
            guest.balloon_out(700);
            guest.balloon_in(HOLES + 1, 5);
        }
        let (second, reported) = observe(&fixture, &mut monitor);
        let (mapped, unmapped, beyond_log_dirty) = (1, 1, 1);
        let entries = EntryCounts { mapped, unmapped, beyond_log_dirty, ..Default::default() };
        assert_eq!(
            (second.entries, second.pages.accepted, second.leaves.compared),
            (entries, 5, 2)
        );
        let log = Cause::LogDirty;
        let expected = [
            (9, vec![log]),
            (OWN + 1, vec![log]),
            (OWN + 2, vec![log]),
            (700, vec![Cause::Entry]),
            (HOLES + 1, vec![log, Cause::Entry]),
        ];
        assert_eq!(reported, expected);
        assert_eq!(monitor.tracker().shadow_entry(Pfn(700)), Entry::INVALID);
        assert_eq!(
            monitor.tracker().shadow_entry(Pfn(HOLES + 1)),
            fixture.machine().entry(HOLES + 1)
        );
        assert_eq!(observe(&fixture, &mut monitor).1, []);
    }
}

#[test]
fn what_is_past_the_count_is_reported_when_the_count_has_grown() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        let mut monitor = monitor(&fixture, Config::default());
        fixture.machine().roots.pfn_count = 513; // the words after it are frames already
        let (first, _) = observe(&fixture, &mut monitor);
        assert_eq!(first.entries.mapped, 513);
        fixture.machine().roots.pfn_count = 1024;
        let (grown, reported) = observe(&fixture, &mut monitor);
        assert_eq!((grown.entries.mapped, reported.len()), (511, 511));
        for pfn in 512..1024 {
            fixture.machine().balloon_out(pfn);
        }
        let (cleared, _) = observe(&fixture, &mut monitor);
        assert_eq!(cleared.entries.unmapped, 512);
        let held = fixture.machine().frames.values().filter(|frame| frame.owned).count() as i64;
        assert_eq!(cleared.unaccounted_frames, Some(held - 512));
    }
}

#[test]
fn the_structure_can_be_inspected() {
    let fixture = Fixture::tree();
    let mut monitor = monitor(&fixture, Config::default());
    observe(&fixture, &mut monitor);
    let guest = fixture.machine();
    let (top, mid) = (guest.roots.frame_list_list, guest.peek(guest.roots.frame_list_list, 0));
    assert_eq!((monitor.tracker().pfns(), monitor.tracker().roots()), (1536, Some(guest.roots)));
    assert_eq!(
        monitor.tracker().leaf_frames(),
        [0, 1, 2].map(|position| Mfn(BASE + OWN + position))
    );
    let mut tables: Vec<_> =
        monitor.tracker().tables().map(|(level, mfn, _)| (level, mfn)).collect();
    tables.sort_unstable();
    assert_eq!(tables, [(1, Mfn(mid)), (2, Mfn(top))]);
    assert!(monitor.tracker().tables().all(|(_, mfn, copy)| copy.words[0] == guest.peek(mfn.0, 0)));
}

#[test]
fn leaves_of_every_shard_and_form_are_remembered_as_seen() {
    for threads in [1, 2] {
        let fixture = Fixture::tree();
        let [patched, twice] = grow_into_the_second_shard(&fixture);
        let config = Config { threads, shadow: Some(Forms::Auto), ..Config::default() };
        let mut monitor = monitor(&fixture, config);
        observe(&fixture, &mut monitor);
        let held = ShadowBytes { bytes: 0, ..monitor.tracker().shadow_bytes() };
        let leaves = SHARD as u64 + 7;
        let expected = ShadowBytes {
            leaves,
            affine: 2,
            segments: 1,
            patched: 1,
            shared: leaves - 4,
            ..ShadowBytes::default()
        };
        assert_eq!(held, expected);
        {
            let guest = &mut *fixture.machine();
            guest.balloon_out(700);
            guest.balloon_out(9);
            guest.poke(patched, 8, 6);
            guest.poke(twice, 8, 7);
        }
        let (report, reported) = observe(&fixture, &mut monitor);
        assert_eq!((report.leaves.compared, report.entries.unmapped), (5, 2));
        let entry = |position: usize| (512 * (SHARD + position) as u64 + 8, vec![Cause::Entry]);
        let entries = reported
            .into_iter()
            .filter(|reported| reported.1 == [Cause::Entry])
            .collect::<Vec<_>>();
        let own = [(9, vec![Cause::Entry]), (700, vec![Cause::Entry])];
        assert_eq!(entries, own.into_iter().chain([3, 5, 6].map(entry)).collect::<Vec<_>>());
        let base = 512 * SHARD as u64;
        for (position, slot, word) in [(3, 8, 6), (3, 9, 0x3009), (5, 8, 7), (6, 8, 7)] {
            assert_eq!(
                monitor.tracker().shadow_entry(Pfn(base + 512 * position + slot)),
                Entry(word)
            );
        }
        assert_eq!(
            ShadowBytes { bytes: 0, ..monitor.tracker().shadow_bytes() },
            ShadowBytes { affine: 0, patched: 3, ..expected }
        );
        assert_eq!(observe(&fixture, &mut monitor).1, []);
    }
}

/// Gives the guest 4,103 leaves, all but a few of them the same leaf without frames. Returns a leaf
/// with a patched run at position 3 of the second shard, and one without runs at its positions 5
/// and 6.
fn grow_into_the_second_shard(fixture: &Fixture) -> [u64; 2] {
    let guest = &mut *fixture.machine();
    let top = guest.roots.frame_list_list;
    let word = |kind: u64, slot: u64| match kind {
        0 if !slot.is_multiple_of(3) => Entry::identity(Width::W64, Pfn(slot * 7)).0,
        1 => u64::MAX, // an upper frame
        2 if slot != 7 => 0x3000 + slot,
        2 => 5,
        3 => 0x3000 + slot * 37 % 512,
        _ => u64::MAX,
    };
    let [shared, many, last, patched, twice] = [0, 1, 1, 2, 3].map(|kind| {
        let pfn = (HOLES..).find(|&pfn| guest.entry(pfn) == Entry::INVALID).expect("a free pfn");
        let frame = guest.copy_words(guest.leaf(0), pfn);
        guest.set_entry(pfn, Entry(frame));
        (0..512).for_each(|slot| guest.poke(frame, slot, word(kind, slot as u64)));
        frame
    });
    (3..512).for_each(|position| guest.set_leaf(position, shared));
    (0..512).for_each(|slot| guest.poke(many, slot, shared));
    (1..8).for_each(|slot| guest.poke(top, slot, many));
    for (slot, leaf) in
        [shared, shared, shared, patched, shared, twice, twice].into_iter().enumerate()
    {
        guest.poke(last, slot, leaf);
    }
    guest.poke(top, 8, last);
    guest.roots.pfn_count = 512 * (SHARD as u64 + 7);
    [patched, twice]
}

#[test]
fn every_round_walks_and_reads_the_m2p_if_configured() {
    for rewalk in [Rewalk::WhenNeeded, Rewalk::EveryRound] {
        let fixture = Fixture::tree();
        let mut monitor = monitor(&fixture, Config { rewalk, ..Config::default() });
        observe(&fixture, &mut monitor);
        // The leaf's frame gets another pfn, and nothing is written.
        fixture.machine().frame(BASE + OWN + 1).m2p = Some(HOLES + 1);
        let every = u64::from(rewalk == Rewalk::EveryRound);
        let (report, _) = observe(&fixture, &mut monitor);
        let structure = report.structure;
        assert_eq!((structure.walks, structure.forced, structure.moved), (every, every, every));
        assert_eq!(report.leaves.compared, every);
    }
}
