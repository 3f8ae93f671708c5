// SPDX-License-Identifier: MIT OR Apache-2.0
//! The final round's outcome table, one test per row, and the named errors that end a migration.
//! Not here: the laws (`laws`), changes while the guest runs (`changes`).
//! Units: pfns of the hand-driven guest in `fixture`.
//! Threads: one.
//! Source: `docs/design.md`, "Outcomes".

use p2mtrack::config::{AliasPolicy, Config, ForeignPtePolicy};
use p2mtrack::error::{EntryCause, Error, StructureCause};
use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::migration::Migration;
use p2mtrack::report::RoundReport;
use p2mtrack::table::TableCause;
use p2mtrack_tests::fixture::{BASE, Fixture, Frame, Got, HOLES, MACHINE, Machine};

/// A guest after its first copy and a change while it runs.
fn guest(config: Config, change: impl FnOnce(&mut Machine)) -> (Fixture, Migration) {
    let fixture = Fixture::tree();
    let mut migration = fixture.start(config);
    fixture.with(|ports| migration.round(ports)).expect("the first copy");
    change(&mut fixture.machine());
    (fixture, migration)
}

fn finish(fixture: &Fixture, migration: &mut Migration) -> RoundReport {
    fixture.with(|ports| migration.finish(ports)).expect("completes")
}

fn refuse(fixture: &Fixture, migration: &mut Migration) -> Error {
    let error = fixture.with(|ports| migration.finish(ports)).expect_err("ends with an error");
    fixture.with(|ports| migration.cancel(ports)).expect("cancels");
    assert!(
        !fixture.machine().log_on && fixture.machine().maps.is_empty(),
        "the source is unharmed"
    );
    error
}

/// A frame that another domain owns; that domain sets its m2p.
fn foreign(machine: &mut Machine, m2p: Option<u64>) -> u64 {
    let mfn = 0x3000;
    let frame = Frame { owned: false, m2p, kind: FrameType::Data, content: 0xbad, words: None };
    machine.frames.insert(mfn, frame);
    mfn
}

#[test]
fn invalid_is_gone() {
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        machine.balloon_out(9);
    });
    let report = finish(&fixture, &mut migration);
    assert_eq!((report.settled.gone, report.settled.foreign), (1, 0));
    assert_eq!(fixture.machine().said_gone, [9]);
    fixture.machine().assert_identical();
}

#[test]
fn valid_but_not_ours_is_gone_and_counted_foreign() {
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        // The other domain's frame even has this pfn number in the m2p.
        let frame = foreign(machine, Some(9));
        let own = machine.entry(9).0;
        machine.set_entry(9, Entry(frame));
        machine.release(own);
    });
    let report = fixture.with(|ports| migration.round(ports)).expect("a live round");
    assert_eq!((report.pages.deferred_frame, report.settled.gone), (1, 0), "while live it waits");
    let report = finish(&fixture, &mut migration);
    assert_eq!((report.settled.gone, report.settled.foreign), (1, 1));
    assert_eq!(fixture.machine().said_gone, [9]);
}

#[test]
fn tagged_foreign_and_identity_are_gone_and_counted_foreign() {
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        let frame = foreign(machine, Some(77));
        for (pfn, entry) in [
            (9, Entry::foreign(Width::W64, Mfn(frame))),
            (10, Entry::identity(Width::W64, Pfn(10))),
        ] {
            let own = machine.entry(pfn).0;
            machine.set_entry(pfn, entry);
            machine.release(own);
        }
    });
    let report = fixture.with(|ports| migration.round(ports)).expect("a live round");
    assert_eq!((report.pages.unpopulated, report.pages.left), (2, 0), "a tag is a final answer");
    let report = finish(&fixture, &mut migration);
    assert_eq!((report.settled.gone, report.settled.foreign), (2, 2));
    fixture.machine().assert_identical();
}

#[test]
fn an_own_frame_under_a_foreign_tag_is_sent_where_the_m2p_says() {
    // Kernels before 3.19 grant a frame to themselves: the tag is set on the frame's own pfn, too.
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        let tagged = Entry::foreign(Width::W64, Mfn(BASE + 9));
        machine.set_entry(9, tagged);
        machine.set_entry(HOLES + 5, tagged);
        machine.write_frame(BASE + 9, 0x5e1f);
    });
    finish(&fixture, &mut migration);
    let machine = fixture.machine();
    assert_eq!(machine.received.get(&9), Some(&Got::Content(0x5e1f)));
    assert_eq!(machine.received.get(&(HOLES + 5)), None);
}

#[test]
fn valid_ours_and_m2p_agrees_is_sent() {
    let (fixture, mut migration) = guest(Config::default(), |machine| machine.write(9, 0x11));
    let report = finish(&fixture, &mut migration);
    assert_eq!(report.pages.accepted, 1);
    fixture.machine().assert_identical();
}

#[test]
fn an_alias_is_a_named_error() {
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        machine.set_entry(HOLES + 5, Entry(BASE + 9));
    });
    match refuse(&fixture, &mut migration) {
        Error::Entry { pfn, mfn, cause } => {
            assert_eq!((pfn, mfn), (Pfn(HOLES + 5), Some(Mfn(BASE + 9))));
            assert_eq!(cause, EntryCause::Alias(Pfn(9)));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn an_alias_is_copied_by_policy() {
    let config = Config { alias: AliasPolicy::Copy, ..Config::default() };
    let (fixture, mut migration) = guest(config, |machine| {
        machine.set_entry(HOLES + 5, Entry(BASE + 9));
    });
    let report = finish(&fixture, &mut migration);
    assert_eq!(report.settled.aliases, 1);
    let machine = fixture.machine();
    assert_eq!(machine.received.get(&9), machine.received.get(&(HOLES + 5)));
}

#[test]
fn any_other_m2p_is_sent_under_the_p2m_and_counted_stale() {
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        // One frame whose m2p names a pfn that is not its own, one without any.
        for (pfn, m2p) in [(9, Some(HOLES + 7)), (10, None)] {
            machine.balloon_out(pfn);
            machine.balloon_in(pfn, 0xabc);
            let mfn = machine.entry(pfn).0;
            machine.frame(mfn).m2p = m2p;
        }
    });
    let report = fixture.with(|ports| migration.round(ports)).expect("a live round");
    assert_eq!(report.pages.deferred_m2p, 2, "while live they wait");
    let report = finish(&fixture, &mut migration);
    assert_eq!(report.settled.m2p_stale, 2);
    let machine = fixture.machine();
    for pfn in [9, 10] {
        assert_eq!(machine.received.get(&pfn), Some(&Got::Content(0xabc)));
    }
}

#[test]
fn the_final_round_holds_every_entry_of_a_dirty_leaf_against_the_m2p() {
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        machine.frame(BASE + 9).m2p = None; // without any write to its entry
        machine.balloon_in(HOLES + 1, 1); // leaf 2, not the one of pfn 9
    });
    assert_eq!(finish(&fixture, &mut migration).settled.m2p_stale, 0);
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        machine.frame(BASE + 9).m2p = None;
        machine.balloon_out(10); // the leaf of pfn 9
    });
    assert_eq!(finish(&fixture, &mut migration).settled.m2p_stale, 1);
}

#[test]
fn a_pte_to_a_frame_of_another_domain_is_a_named_error() {
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        let frame = foreign(machine, Some(30));
        machine.make_table(20, 21);
        let table = machine.entry(20).0;
        machine.poke(table, 7, frame << 12 | 0x67);
    });
    let report = fixture.with(|ports| migration.round(ports)).expect("a live round");
    assert_eq!(report.pages.deferred_table, 1, "while live it waits");
    match refuse(&fixture, &mut migration) {
        Error::Table { pfn, fault } => {
            assert_eq!((pfn, fault.slot, fault.mfn), (Pfn(20), 7, Mfn(0x3000)));
            assert_eq!((fault.level, fault.cause), (1, TableCause::Foreign));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_pte_to_a_frame_past_the_machine_is_foreign_without_a_query() {
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        machine.make_table(20, 21);
        let table = machine.entry(20).0;
        machine.poke(table, 7, MACHINE << 12 | 0x67);
    });
    match refuse(&fixture, &mut migration) {
        Error::Table { fault, .. } => {
            assert_eq!((fault.mfn, fault.cause), (Mfn(MACHINE), TableCause::Foreign));
        }
        other => panic!("{other}"),
    }
}

/// A guest whose table at pfn 20 names another domain's frame in slot 7, and an engine that clears
/// such PTEs.
fn with_a_foreign_pte() -> (Fixture, Migration) {
    let config = Config { foreign_pte: ForeignPtePolicy::Clear, ..Config::default() };
    guest(config, |machine| {
        let frame = foreign(machine, Some(30));
        machine.make_table(20, 21);
        let table = machine.entry(20).0;
        machine.poke(table, 7, frame << 12 | 0x67);
    })
}

fn listed(migration: &Migration) -> Vec<(Pfn, Vec<Mfn>)> {
    migration.tracker().cleared_ptes().map(|(table, frames)| (table, frames.to_vec())).collect()
}

/// The destination still has the table as it was accepted: a later version that is deferred does
/// not change the list.
#[test]
fn cleared_ptes_are_those_of_tables_as_they_were_accepted() {
    let (fixture, mut migration) = with_a_foreign_pte();
    let cleared = [(Pfn(20), vec![Mfn(0x3000)])];
    fixture.with(|ports| migration.checkpoint(ports)).expect("clears it");
    assert_eq!(listed(&migration), cleared);
    let table = fixture.machine().entry(20).0;
    fixture.machine().poke(table, 9, 0);
    let report = fixture.with(|ports| migration.round(ports)).expect("defers it");
    assert_eq!((report.pages.deferred_table, listed(&migration)), (1, cleared.to_vec()));
    fixture.machine().poke(table, 7, 0);
    finish(&fixture, &mut migration);
    assert_eq!(listed(&migration), []);
}

#[test]
fn a_pte_to_a_foreign_frame_is_cleared_by_policy_and_never_the_whole_table() {
    let (fixture, mut migration) = with_a_foreign_pte();
    let report = finish(&fixture, &mut migration);
    assert_eq!(report.settled.cleared_ptes, 1);
    assert_eq!(listed(&migration), [(Pfn(20), vec![Mfn(0x3000)])]);
    let machine = fixture.machine();
    let Some(Got::Table(ptes)) = machine.received.get(&20) else { panic!("the table is there") };
    assert_eq!((ptes[3], ptes[7]), (21 << 12 | 0x67, 0));
}

#[test]
fn any_other_pte_that_resolves_to_no_pfn_is_a_named_error() {
    for policy in [ForeignPtePolicy::Refuse, ForeignPtePolicy::Clear] {
        let config = Config { foreign_pte: policy, ..Config::default() };
        let (fixture, mut migration) = guest(config, |machine| {
            machine.make_table(20, 21);
            // The frame is the domain's, but the pfn that it had is ballooned out.
            machine.set_entry(21, Entry::INVALID);
        });
        match refuse(&fixture, &mut migration) {
            Error::Table { pfn: Pfn(20), fault } => {
                assert_eq!((fault.slot, fault.cause), (3, TableCause::Unresolved));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_pte_to_a_stale_frame_can_not_be_normalised() {
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        machine.make_table(20, 21);
        machine.frame(BASE + 21).m2p = None;
    });
    assert!(matches!(refuse(&fixture, &mut migration), Error::Table { pfn: Pfn(20), .. }));
}

#[test]
fn a_superpage_is_a_named_error() {
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        machine.make_table(20, 21);
        let table = machine.entry(20).0;
        machine.frame(table).kind = FrameType::Table { level: 2, pinned: false };
        machine.poke(table, 3, (BASE + 21) << 12 | 0xe7);
    });
    match refuse(&fixture, &mut migration) {
        Error::Table { fault, .. } => assert_eq!(fault.cause, TableCause::Superpage),
        other => panic!("{other}"),
    }
}

#[test]
fn a_broken_page_is_a_named_error() {
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        machine.frame(BASE + 9).kind = FrameType::Broken;
        machine.write(9, 1);
    });
    match refuse(&fixture, &mut migration) {
        Error::Entry { pfn: Pfn(9), cause: EntryCause::Broken, .. } => {}
        other => panic!("{other}"),
    }
}

#[test]
fn a_leaf_without_a_pfn_is_a_named_error() {
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        let leaf = machine.leaf(512);
        machine.frame(leaf).m2p = None;
        machine.balloon_out(9);
    });
    // The leaf's own page can't be settled otherwise: its m2p is stale, so no pfn is known for the
    // leaf.
    fixture.machine().log.insert(p2mtrack_tests::fixture::OWN + 1);
    let error = refuse(&fixture, &mut migration);
    assert!(
        matches!(error, Error::Structure { level: 0, cause: StructureCause::Unnamed, .. }),
        "{error}"
    );
}

#[test]
fn errors_name_what_they_are_about() {
    let (fixture, mut migration) = guest(Config::default(), |machine| {
        machine.set_entry(HOLES + 5, Entry(BASE + 9));
    });
    let text = refuse(&fixture, &mut migration).to_string();
    assert_eq!(text, "pfn 0x505, mfn 0x1009: the frame is also that of pfn 0x9");
}
