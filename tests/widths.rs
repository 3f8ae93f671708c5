// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests attached with the other width: each gets an error in the first round, and a guest
//! attached with its own width never does.
//! Not here: whole migrations of both widths (`simulation`), roots that lead nowhere (`laws`).
//! Units: runs of simulated guests; pfns of the hand-driven guest in `fixture`.
//! Threads: one.
//! Source: `engine/tracker/src/structure/width.rs`.

use p2mtrack::config::Config;
use p2mtrack::error::{Error, WidthCause};
use p2mtrack::frame::{Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::migration::Migration;
use p2mtrack::port::{Guest, MapFault, MapSlot, P2mSource, PortError, Ports, Roots};
use p2mtrack::report::RoundReport;
use p2mtrack::report::Stage;
use p2mtrack::tracker::Tracker;
use p2mtrack_synthetic::{P2mKind, Scenario, SimConfig, Simulation};
use p2mtrack_tests::fixture::{BASE, Fixture, HOLES, OWN, finish, round};

/// A p2m port that reports another width than its guest's.
struct Bent<'a>(&'a mut dyn P2mSource, Width);

impl P2mSource for Bent<'_> {
    fn width(&self) -> Width {
        self.1
    }

    fn domain_frames(&mut self) -> Result<u64, PortError> {
        self.0.domain_frames()
    }

    fn roots(&mut self) -> Result<Roots, PortError> {
        self.0.roots()
    }

    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault> {
        self.0.read(mfn, into)
    }

    fn map(&mut self, frames: &[Mfn], answers: &mut Vec<Result<MapSlot, MapFault>>) {
        self.0.map(frames, answers);
    }

    fn unmap(&mut self, slots: &[MapSlot]) {
        self.0.unmap(slots);
    }

    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        self.0.live(slot)
    }
}

/// The first round of a guest that is attached with this width.
fn first_round(simulation: &Simulation, width: Width) -> Result<RoundReport, Error> {
    let mut handles = simulation.ports();
    let mut bent = Bent(&mut handles.p2m, width);
    let mut ports = Ports {
        guest: Guest {
            p2m: &mut bent,
            m2p: &handles.m2p,
            types: &mut handles.types,
            unlogged: &mut handles.unlogged,
            observer: &mut (),
        },
        log_dirty: &mut handles.log_dirty,
        transport: &mut handles.transport,
    };
    let mut migration = Migration::start(Config::default(), &mut ports).expect("starts");
    let first = migration.round(&mut ports);
    migration.cancel(&mut ports).expect("cancels");
    first
}

fn simulation(scenario: Scenario, seed: u64, width: Width, kind: P2mKind) -> Simulation {
    let plain = SimConfig::plain(scenario, seed, 16 << 20);
    Simulation::new(&SimConfig { width, p2m: Some(kind), ..plain })
}

#[test]
fn a_guest_that_is_attached_with_the_other_width_is_a_named_error() {
    for scenario in [Scenario::Quiet, Scenario::Balloon, Scenario::Exchange, Scenario::Mixed] {
        for (seed, width, kind) in [
            (1, Width::W64, P2mKind::Linear),
            (2, Width::W64, P2mKind::Tree),
            (3, Width::W32, P2mKind::Linear),
            (4, Width::W32, P2mKind::Tree),
        ] {
            let simulation = simulation(scenario, seed, width, kind);
            let first = first_round(&simulation, width.other());
            match first {
                Err(Error::Width { given, cause }) => {
                    assert_eq!(given, width.other());
                    let by_root = matches!(cause, WidthCause::Root(_));
                    assert_eq!(by_root, (width, kind) == (Width::W64, P2mKind::Linear), "{cause}");
                }
                Err(error) => panic!("{scenario}, {width:?}, {kind:?}: {error}"),
                Ok(report) => panic!("{scenario}, {width:?}, {kind:?}: {report:?}"),
            }
        }
    }
}

#[test]
fn a_guest_of_its_own_width_is_believed_whatever_it_does() {
    for scenario in Scenario::ALL.into_iter().filter(|scenario| !scenario.is_hostile()) {
        for width in [Width::W32, Width::W64] {
            for kind in [P2mKind::Linear, P2mKind::Tree] {
                let simulation = simulation(scenario, 7, width, kind);
                let first = first_round(&simulation, width);
                assert!(!matches!(first, Err(Error::Width { .. })), "{scenario}: {first:?}");
            }
        }
    }
}

#[test]
fn a_guest_that_has_few_frames_or_whose_m2p_lags_is_believed() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        {
            let guest = &mut *fixture.machine();
            (0..OWN).chain(OWN + 8..HOLES).for_each(|pfn| guest.frame(BASE + pfn).m2p = None);
        }
        let mut migration = fixture.start(Config::default());
        let report = round(&fixture, &mut migration);
        assert_eq!((report.pages.accepted, report.pages.deferred_m2p), (8, HOLES - 8));
    }
    for fixture in [Fixture::tree(), Fixture::linear()] {
        {
            let guest = &mut *fixture.machine();
            (0..OWN).chain(OWN + 8..HOLES).for_each(|pfn| _ = guest.balloon_out(pfn));
        }
        let mut migration = fixture.start(Config::default());
        assert_eq!(round(&fixture, &mut migration).pages.accepted, 8);
        finish(&fixture, &mut migration);
    }
}

/// A tree whose first leaf is one of a 32-bit guest, with `narrow` entries whose m2p names them;
/// and `wide` such entries of 64 bits.
fn like_another(narrow: u64, wide: u64) -> Fixture {
    let fixture = Fixture::tree();
    become_another(&fixture, narrow, wide);
    fixture
}

fn become_another(fixture: &Fixture, narrow: u64, wide: u64) {
    let guest = &mut *fixture.machine();
    let leaves = [0, 1, 2].map(|n| guest.leaf(512 * n));
    for slot in 0..512 {
        let entry = |pfn: u64| if pfn <= narrow { BASE + pfn } else { u64::from(u32::MAX) };
        guest.poke(leaves[0], slot as usize, entry(2 * slot + 1) << 32 | entry(2 * slot));
        let entry = if slot < wide { BASE + 512 + slot } else { u64::MAX };
        guest.poke(leaves[1], slot as usize, entry);
        guest.poke(leaves[2], slot as usize, u64::MAX);
    }
}

#[test]
fn many_entries_show_a_width_and_two_of_the_given_one_are_enough_against_them() {
    for (narrow, wide, expected) in
        [(15, 0, false), (16, 0, true), (900, 0, true), (16, 1, true), (16, 2, false)]
    {
        let fixture = like_another(narrow, wide);
        let mut migration = fixture.start(Config::default());
        let first = fixture.with(|ports| migration.round(ports));
        let shown = match first {
            Err(Error::Width { given: Width::W64, cause: WidthCause::Entries { pfn, mfn } }) => {
                assert_eq!((pfn, mfn), (Pfn(1), Mfn(BASE + 1)));
                true
            }
            _ => false,
        };
        assert_eq!(shown, expected, "{narrow}, {wide}: {first:?}");
    }
}

/// A guest that was once walked in a width keeps that width.
#[test]
fn only_the_first_walk_decides() {
    let fixture = Fixture::tree();
    let mut migration = fixture.start(Config::default());
    round(&fixture, &mut migration);
    become_another(&fixture, 900, 0);
    fixture.machine().roots.pfn_count -= 1;
    let report = round(&fixture, &mut migration);
    assert!(report.structure.walks > 0 && !report.p2m_unreadable);
}

#[test]
fn an_error_says_both_widths_and_what_shows_it() {
    let fixture = Fixture::tree();
    fixture.machine().log_on = true;
    let mut tracker = Tracker::new(Config::default(), Width::W32).expect("attaches");
    let error = fixture.with(|ports| {
        tracker.begin(&mut ports.guest, Stage::Live)?;
        tracker.scan(&mut ports.guest, 0).map(drop)
    });
    let error = error.expect_err("the port says 64");
    assert_eq!(
        error.to_string(),
        "a 64-bit guest, attached as one of 32 bits: the p2m source says so"
    );
    let error = |cause| Error::Width { given: Width::W64, cause }.to_string();
    assert_eq!(
        error(WidthCause::Entries { pfn: Pfn(1), mfn: Mfn(0x1001) }),
        "a 32-bit guest, attached as one of 64 bits: its entries match the m2p only in the guest's \
         own width, pfn 0x1 mfn 0x1001 and others"
    );
    assert!(error(WidthCause::Root(1 << 40)).ends_with(": a root of its p2m is 0x10000000000"));
}
