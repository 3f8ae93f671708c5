// SPDX-License-Identifier: MIT OR Apache-2.0
//! Law 9: frames that were sent, or are known otherwise, against the frames that the domain holds.
//! Not here: the owners of single frames (`owners`).
//! Units: frames of the hand-driven guest in `fixture`, which holds 1,280.
//! Threads: one.
//! Source: `docs/design.md`, law 9.

use p2mtrack::config::{AliasPolicy, Config, UnaccountedPolicy, Verify};
use p2mtrack::error::Error;
use p2mtrack::frame::{Entry, Mfn, Width};
use p2mtrack::migration::Migration;
use p2mtrack_tests::fixture::{BASE, Fixture, HOLES, Machine, OWN, round};

fn both() -> [Fixture; 2] {
    [Fixture::tree(), Fixture::linear()]
}

fn start(fixture: &Fixture, config: Config) -> Migration {
    let mut migration = fixture.start(config);
    round(fixture, &mut migration);
    migration
}

/// The frames that a suspended round does not account for, or its error.
fn unaccounted(fixture: &Fixture, migration: &mut Migration) -> Result<i64, Error> {
    let report = fixture.with(|ports| migration.checkpoint(ports))?;
    Ok(report.unaccounted_frames.expect("a suspended round"))
}

/// From now on the list, or the tree, leads to pages of zeros, or to nothing.
fn hide(machine: &mut Machine, zeros: bool) {
    let nowhere = if zeros { machine.populate(HOLES + 9) } else { 0 };
    if zeros {
        machine.give_words(nowhere, 0);
        machine.set_entry(HOLES + 9, Entry(nowhere));
    }
    if machine.linear {
        if zeros {
            machine.roots.p2m_cr3 = nowhere << 12;
        } else {
            let top = machine.table(4);
            (0..512).for_each(|slot| machine.poke(top, slot, 0));
        }
    } else if zeros {
        machine.roots.frame_list_list = nowhere;
    } else {
        let top = machine.roots.frame_list_list;
        (0..512).for_each(|slot| machine.poke(top, slot, u64::MAX));
    }
}

#[test]
fn law_9_a_p2m_that_leads_nowhere_is_a_named_error() {
    for zeros in [false, true] {
        for first in [false, true] {
            for fixture in both() {
                let mut migration = fixture.start(Config::default());
                if !first {
                    round(&fixture, &mut migration);
                }
                hide(&mut fixture.machine(), zeros);
                if first {
                    round(&fixture, &mut migration);
                }
                let error =
                    fixture.with(|ports| migration.finish(ports)).expect_err("nothing is there");
                let held = fixture.machine().frames.values().filter(|frame| frame.owned).count();
                match error {
                    Error::Unaccounted { unaccounted_frames, domain_frames, limit } => {
                        assert_eq!((unaccounted_frames, domain_frames), (held as i64, held as u64));
                        assert!(limit < domain_frames);
                    }
                    other => panic!("{other}"),
                }
                assert!(fixture.machine().said_gone.is_empty(), "nothing was reported gone");
                fixture.with(|ports| migration.cancel(ports)).expect("cancels");
            }
        }
    }
}

#[test]
fn law_9_a_policy_that_only_reports_goes_on() {
    let config = Config { unaccounted: UnaccountedPolicy::Report, ..Config::default() };
    for fixture in both() {
        let mut migration = start(&fixture, config);
        hide(&mut fixture.machine(), true);
        assert_eq!(unaccounted(&fixture, &mut migration).expect("goes on"), HOLES as i64 + 1);
    }
}

#[test]
fn law_9_types_that_disown_everything_are_a_named_error() {
    for fixture in both() {
        let mut migration = start(&fixture, Config { verify: Verify::Full, ..Config::default() });
        fixture.machine().disowned = true;
        let error = unaccounted(&fixture, &mut migration).expect_err("they are the domain's");
        assert!(matches!(error, Error::Unaccounted { .. } | Error::Structure { .. }), "{error}");
        // A port that reports this from the first copy on.
        let fixture = Fixture::tree();
        fixture.machine().disowned = true;
        let mut migration = start(&fixture, Config::default());
        let error = unaccounted(&fixture, &mut migration).expect_err("they are the domain's");
        let expected = HOLES as i64;
        match error {
            Error::Unaccounted { unaccounted_frames, .. } => {
                assert_eq!(unaccounted_frames, expected);
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn law_9_the_limit_is_reached_and_not_passed() {
    for (frames, ends) in [(1024, false), (1025, true)] {
        for fixture in both() {
            let mut migration = start(&fixture, Config::default());
            for _ in 0..frames {
                fixture.machine().populate(1 << 20); // a frame without a valid pfn
            }
            match unaccounted(&fixture, &mut migration) {
                Ok(count) => assert_eq!((count, ends), (frames, false)),
                Err(error) => assert!(ends, "{error}"),
            }
        }
    }
}

#[test]
fn law_9_more_pfns_with_frames_than_the_domain_holds_is_a_named_error() {
    for fixture in both() {
        let mut migration = start(&fixture, Config::default());
        for pfn in 0..HOLES {
            let is_p2m_frame = (OWN..OWN + 8).contains(&pfn);
            if !is_p2m_frame {
                fixture.machine().give_away(BASE + pfn, Some(pfn)); // the entries stay
            }
        }
        let error =
            unaccounted(&fixture, &mut migration).expect_err("the guest did not write the entries");
        match &error {
            Error::Unaccounted { unaccounted_frames, .. } => {
                assert_eq!(*unaccounted_frames, 8 - HOLES as i64);
                assert!(error.to_string().contains("more frames have pfns"), "{error}");
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn law_9_each_frame_is_counted_once_on_whatever_footing() {
    let config = Config { alias: AliasPolicy::Copy, ..Config::default() };
    for fixture in both() {
        let mut migration = start(&fixture, config);
        assert_eq!(unaccounted(&fixture, &mut migration).expect("an honest guest"), 0);
        {
            let mut machine = fixture.machine();
            machine.set_entry(HOLES + 5, Entry(BASE + 9)); // an alias
            machine.frame(BASE + 10).m2p = Some(HOLES + 7); // two pfns against the m2p
            machine.set_entry(10, Entry(BASE + 10));
            machine.set_entry(HOLES + 6, Entry(BASE + 10));
            // an own frame under a tag
            machine.set_entry(11, Entry::foreign(Width::W64, Mfn(BASE + 11)));
            machine.balloon_out(12);
            machine.balloon_in(HOLES + 8, 0x88);
            machine.set_entry(13, Entry::INVALID); // not yet returned to Xen
        }
        for _ in 0..3 {
            assert_eq!(unaccounted(&fixture, &mut migration).expect("an honest guest"), 1);
        }
        {
            let mut machine = fixture.machine();
            machine.set_entry(10, Entry::INVALID); // the other pfn still has the frame
            machine.balloon_out(9); // and its alias with it
        }
        assert_eq!(unaccounted(&fixture, &mut migration).expect("an honest guest"), 1);
        fixture.machine().roots.pfn_count = 1200; // the removed pfns' frames are still the domain's
        let left = unaccounted(&fixture, &mut migration).expect("an honest guest");
        let above = 2; // of HOLES + 6 and HOLES + 8
        assert_eq!(left, 1 + above + (HOLES as i64 - 1200));
    }
}
