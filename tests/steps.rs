// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rounds in steps: a caller that drives the steps itself gets what a transport port gets, and
//! can't lose anything by a wrong order of calls.
//! Not here: what a round finds (`laws`, `changes`, `outcomes`): both ways make the same steps.
//! Units: pfns of the hand-driven guest in `fixture`; runs of simulated guests.
//! Threads: one.
//! Source: `engine/tracker/src/tracker.rs`; `docs/design.md`, laws 1, 3 and 7.

use p2mtrack::cause::Cause;
use p2mtrack::config::{Config, ForeignPtePolicy, Sender};
use p2mtrack::error::Error;
use p2mtrack::frame::{Entry, Mfn, Pfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{
    Answer, Deferral, FrameList, LOG_DIRTY_LEAF_PFNS, LogDirty, PortError, Ports, QUERY_FRAMES_MAX,
};
use p2mtrack::report::{RoundReport, Stage};
use p2mtrack::table::normalise;
use p2mtrack::tracker::Tracker;
use p2mtrack::uncertainty::Uncertainty;
use p2mtrack_synthetic::{Scenario, SimConfig, Simulation, Verdict};
use p2mtrack_tests::fixture::{At, BASE, Fixture, HOLES, MACHINE, OWN};

fn attach(fixture: &Fixture) -> Tracker {
    fixture.machine().log_on = true;
    fixture
        .with(|ports| Tracker::new(Config::default(), ports.guest.p2m.width()))
        .expect("attaches")
}

fn by_port(error: PortError) -> Error {
    Error::Port { port: "the host", source: error }
}

/// Returns pages that were lost.
fn take_back(tracker: &mut Tracker, ports: &mut Ports<'_>) -> Result<(), Error> {
    let mut returned = Vec::new();
    ports.transport.returned(&mut returned).map_err(by_port)?;
    tracker.give_back(&returned);
    Ok(())
}

/// Reads the log into the lent buffer, if this round has one.
fn read_log(tracker: &mut Tracker, ports: &mut Ports<'_>, stage: Stage) -> Result<u64, Error> {
    take_back(tracker, ports)?;
    let buffer = tracker.begin(&mut ports.guest, stage)?;
    if buffer.pfns() == 0 {
        return Ok(0);
    }
    ports.log_dirty.clean(buffer).map_err(by_port)
}

fn send_list(tracker: &mut Tracker, ports: &mut Ports<'_>) -> Result<(), Error> {
    if !tracker.frame_list_changed() {
        return Ok(());
    }
    let (pfn_count, leaves) = (tracker.pfn_count(), tracker.frame_list());
    let list = FrameList { width: Width::W64, pfn_count, leaves: &leaves };
    ports.transport.frame_list(list).map_err(by_port)?;
    tracker.frame_list_sent();
    Ok(())
}

/// Sends the batch over the transport, as the host's own code would.
fn send(tracker: &mut Tracker, ports: &mut Ports<'_>) -> Result<(), Error> {
    send_list(tracker, ports)?;
    let mut answers = Vec::new();
    let sent = {
        let view = tracker.view(&mut ports.guest);
        ports.transport.send(tracker.batch(), &view, &mut answers)
    };
    sent.map_err(by_port)?;
    tracker.answer(&mut ports.guest, answers)
}

/// A whole round of a host that drives the steps.
fn round(tracker: &mut Tracker, ports: &mut Ports<'_>, stage: Stage) -> Result<RoundReport, Error> {
    let read = read_log(tracker, ports, stage)?;
    tracker.scan(&mut ports.guest, read)?;
    while !tracker.take(&mut ports.guest)?.is_empty() {
        send(tracker, ports)?;
        take_back(tracker, ports)?;
    }
    send_list(tracker, ports)?;
    if stage != Stage::Live {
        ports.transport.gone(&tracker.gone()?).map_err(by_port)?;
        ports.transport.consistent().map_err(by_port)?;
    }
    tracker.end(&mut ports.guest)
}

fn expect_order(result: Result<impl Sized, Error>, expected: &str) {
    match result {
        Err(error @ Error::Order { .. }) => assert_eq!(error.to_string(), expected),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("no error, and not: {expected}"),
    }
}

#[test]
fn a_round_in_steps_is_a_round() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        let mut tracker = attach(&fixture);
        let first = fixture.with(|ports| round(&mut tracker, ports, Stage::Live)).expect("copies");
        assert_eq!((first.pages.accepted, first.pages.left), (HOLES, 0));
        fixture.machine().balloon_in(HOLES + 1, 7);
        fixture.machine().balloon_out(3);
        fixture.machine().write(5, 99);
        let report = fixture.with(|ports| round(&mut tracker, ports, Stage::Live)).expect("sends");
        // Two pages, and the two leaves.
        assert_eq!((report.pages.accepted, report.pages.unpopulated), (4, 1));
        fixture.with(|ports| round(&mut tracker, ports, Stage::Checkpoint)).expect("settles");
        assert_eq!(fixture.machine().said_gone, [3]);
        fixture.machine().balloon_out(4);
        let last = fixture.with(|ports| round(&mut tracker, ports, Stage::Final)).expect("settles");
        assert_eq!((last.settled.gone, fixture.machine().consistent), (1, 2));
        fixture.machine().assert_identical();
        assert!(fixture.machine().maps.is_empty(), "all unmapped");
        assert!(fixture.machine().log_on, "log-dirty is the host's");
    }
}

#[test]
fn law_3_a_batch_without_an_answer_is_owed() {
    let fixture = Fixture::tree();
    let mut tracker = attach(&fixture);
    fixture.with(|ports| {
        let read = read_log(&mut tracker, ports, Stage::Live).expect("begins");
        tracker.scan(&mut ports.guest, read).expect("scans");
        let owed = tracker.owed();
        let pages = tracker.take(&mut ports.guest).expect("takes").to_vec();
        assert_eq!(pages.len(), QUERY_FRAMES_MAX);
        assert_eq!(tracker.owed(), owed, "in flight is owed");
        assert!(tracker.why(pages[0].pfn).contains(Cause::First));
        // The host gives the round up and begins another one.
        let read = read_log(&mut tracker, ports, Stage::Live).expect("begins");
        tracker.scan(&mut ports.guest, read).expect("scans");
        assert_eq!(tracker.owed(), owed);
        assert!(tracker.batch().is_empty());
    });
}

#[test]
fn law_3_what_was_given_up_is_sent_in_the_next_round() {
    let fixture = Fixture::tree();
    let mut tracker = attach(&fixture);
    fixture.with(|ports| {
        read_log(&mut tracker, ports, Stage::Live).expect("begins");
        tracker.scan(&mut ports.guest, 0).expect("scans");
        tracker.take(&mut ports.guest).expect("takes");
        let report = round(&mut tracker, ports, Stage::Live).expect("begins anew");
        assert_eq!((report.pages.accepted, report.pages.left), (HOLES, 0));
        round(&mut tracker, ports, Stage::Final).expect("settles");
    });
    fixture.machine().assert_identical();
}

#[test]
fn law_3_a_page_that_failed_is_owed_and_named() {
    let fixture = Fixture::tree();
    let mut tracker = attach(&fixture);
    fixture.with(|ports| {
        read_log(&mut tracker, ports, Stage::Live).expect("begins");
        tracker.scan(&mut ports.guest, 0).expect("scans");
        let pages = tracker.take(&mut ports.guest).expect("takes").to_vec();
        tracker.frame_list_sent();
        let answer = |index| match index {
            7 => Answer::Failed("no".into()),
            8 => Answer::Deferred(Deferral::Unacknowledged),
            _ => Answer::Accepted,
        };
        let answers = (0..pages.len() - 1).map(answer);
        let error = tracker.answer(&mut ports.guest, answers).expect_err("failed");
        assert!(matches!(error, Error::Page { pfn, .. } if pfn == pages[7].pfn), "{error}");
        let last = pages[pages.len() - 1].pfn;
        assert_eq!(tracker.deferral(last), Some(Deferral::Unacknowledged), "not answered");
        for pfn in [pages[7].pfn, pages[8].pfn, last] {
            assert!(!tracker.why(pfn).is_empty());
        }
        assert!(tracker.why(pages[9].pfn).is_empty());
        expect_order(
            tracker.take(&mut ports.guest).map(<[_]>::len),
            "take called while no round was begun",
        );
    });
}

#[test]
fn law_1_a_log_that_was_lent_has_to_be_returned() {
    let fixture = Fixture::tree();
    let mut tracker = attach(&fixture);
    fixture.with(|ports| {
        round(&mut tracker, ports, Stage::Live).expect("copies");
        assert_eq!(
            tracker.begin(&mut ports.guest, Stage::Live).expect("begins").pfns(),
            LOG_DIRTY_LEAF_PFNS
        );
        expect_order(
            tracker.take(&mut ports.guest).map(<[_]>::len),
            "take called while the log was not handed over",
        );
        // Nothing of it was read: all of it is uncertain.
        let report = tracker.scan(&mut ports.guest, 0).expect("scans");
        assert_eq!(report.pages.owed, 3 * 512);
    });
}

#[test]
fn law_1_a_log_that_is_not_returned_leaves_everything_owed() {
    let fixture = Fixture::tree();
    let mut tracker = attach(&fixture);
    fixture.with(|ports| {
        round(&mut tracker, ports, Stage::Live).expect("copies");
        fixture.machine().write(5, 99);
        let buffer = tracker.begin(&mut ports.guest, Stage::Final).expect("begins");
        ports.log_dirty.clean(buffer).expect("reads"); // Xen has cleared its bit
        tracker.begin(&mut ports.guest, Stage::Live).expect("begins anew");
        let report = tracker.scan(&mut ports.guest, u64::MAX).expect("scans");
        assert_eq!(report.uncertain[Uncertainty::ShortBitmap as usize], 1, "law 4: it is reported");
        assert_eq!(tracker.owed(), 3 * 512);
        assert!(tracker.why(Pfn(5)).contains(Cause::LogDirty));
        round(&mut tracker, ports, Stage::Final).expect("settles");
    });
    fixture.machine().assert_identical();
}

/// However little was read: pfns past that are owed as uncertain, and marks past that still count.
#[test]
fn law_4_a_short_log_puts_what_it_lacks_in_uncertainty() {
    let whole = 3 * 512;
    let odd = [0, 1, 5, 63, 64, 65, 255, 511, 512, 513, 700, 767, 1023, 1025, 1279, 1281];
    for read in odd.into_iter().chain([whole - 1, whole, 32_767, 32_768, u64::MAX]) {
        for fixture in [Fixture::tree(), Fixture::linear()] {
            let mut tracker = attach(&fixture);
            fixture.with(|ports| {
                round(&mut tracker, ports, Stage::Live).expect("copies");
                let marked = [3, 64, 700, 1270];
                marked.iter().for_each(|&pfn| fixture.machine().write(pfn, 99));
                let buffer = tracker.begin(&mut ports.guest, Stage::Live).expect("begins");
                ports.log_dirty.clean(buffer).expect("reads");
                let report = tracker.scan(&mut ports.guest, read).expect("scans").clone();
                let short = u64::from(read < LOG_DIRTY_LEAF_PFNS);
                assert_eq!(report.uncertain[Uncertainty::ShortBitmap as usize], short, "{read:#x}");
                for pfn in 0..whole {
                    let why = tracker.why(Pfn(pfn));
                    let is_marked = why.contains(Cause::LogDirty);
                    assert_eq!(is_marked, marked.contains(&pfn), "{read:#x}, {pfn:#x}");
                    assert_eq!(why.contains(Cause::Uncertain), pfn >= read, "{read:#x}, {pfn:#x}");
                }
                // The leaves' own pfns were not read: each leaf is compared.
                let leaves = 3 - read.saturating_sub(OWN).min(3);
                assert_eq!(report.leaves.compared, leaves, "{read:#x}");
                tracker.cancel(ports.guest.p2m);
            });
        }
    }
}

#[test]
fn nothing_is_answered_after_a_cancel_or_a_take_that_failed() {
    for cancel in [true, false] {
        let fixture = Fixture::tree();
        let mut tracker = attach(&fixture);
        fixture.with(|ports| {
            read_log(&mut tracker, ports, Stage::Final).expect("begins");
            tracker.scan(&mut ports.guest, 0).expect("scans");
            tracker.frame_list_sent();
            let owed = tracker.owed();
            if cancel {
                tracker.take(&mut ports.guest).expect("takes");
                tracker.cancel(ports.guest.p2m);
            } else {
                // The second of two pfns with one frame, in a batch with other pfns that would be
                // sent.
                let own = fixture.machine().entry(8);
                fixture.machine().set_entry(7, own);
                tracker.take(&mut ports.guest).expect_err("an alias");
            }
            assert!(tracker.batch().is_empty());
            assert_eq!(tracker.owed(), owed);
            assert!(tracker.answer(&mut ports.guest, [Answer::Accepted]).is_err());
            assert_eq!(tracker.owed(), owed);
        });
    }
}

/// A slot of the p2m's structure points elsewhere and back between two walks: a host that maps the
/// p2m itself may have read from there.
#[test]
fn what_was_taken_is_owed_again_after_a_walk_if_the_host_reads_its_own_p2m() {
    for (sender, again) in [(Sender::Engine, 0), (Sender::CallerReadsP2m, HOLES)] {
        let fixture = Fixture::tree();
        fixture.machine().log_on = true;
        let config = Config { sender, ..Config::default() };
        let mut tracker = Tracker::new(config, Width::W64).expect("attaches");
        fixture.with(|ports| round(&mut tracker, ports, Stage::Live)).expect("copies");
        let here = fixture.machine().leaf(0);
        fixture.machine().set_leaf(0, 0x1234);
        fixture.machine().set_leaf(0, here);
        let report = fixture.with(|ports| round(&mut tracker, ports, Stage::Live)).expect("walks");
        assert_eq!(report.structure.walks, 1);
        assert_eq!(report.entries.changed(), 0);
        let its_own = 1; // the page of the upper frame that was written
        assert_eq!(report.pages.accepted, again.max(its_own), "{sender:?}");
    }
}

/// One leaf at very many positions costs no more than in other modes.
#[test]
fn law_6_a_shared_leaf_without_frames_owes_nothing_if_the_host_normalises() {
    let fixture = Fixture::tree();
    fixture.machine().log_on = true;
    let config = Config { sender: Sender::CallerNormalises, ..Config::default() };
    let mut tracker = Tracker::new(config, Width::W64).expect("attaches");
    let hole = fixture.machine().leaf(2 * 512);
    for pfn in 2 * 512..HOLES {
        fixture.machine().set_entry(pfn, Entry::INVALID);
    }
    for position in 3..100 {
        fixture.machine().set_leaf(position, hole);
    }
    fixture.machine().roots.pfn_count = 100 * 512;
    fixture.with(|ports| round(&mut tracker, ports, Stage::Live)).expect("copies");
    fixture.machine().set_entry(2 * 512, Entry::INVALID); // written with the same value
    let report = fixture.with(|ports| round(&mut tracker, ports, Stage::Live)).expect("compares");
    assert!(report.pages.owed < 10, "{}", report.pages.owed);
}

#[test]
fn calls_in_a_wrong_order_change_nothing() {
    let fixture = Fixture::tree();
    let mut tracker = attach(&fixture);
    fixture.with(|ports| {
        expect_order(
            tracker.scan(&mut ports.guest, 0).map(|r| r.round),
            "scan called while no round was begun",
        );
        expect_order(
            tracker.take(&mut ports.guest).map(<[_]>::len),
            "take called while no round was begun",
        );
        expect_order(
            tracker.answer(&mut ports.guest, vec![]),
            "answer called while no batch was taken",
        );
        expect_order(tracker.end(&mut ports.guest), "end called while no round was begun");
        expect_order(tracker.gone(), "gone called while not everything is settled");
        read_log(&mut tracker, ports, Stage::Checkpoint).expect("begins");
        tracker.scan(&mut ports.guest, 0).expect("scans");
        expect_order(
            tracker.end(&mut ports.guest),
            "end called while the frame list changed and was not sent",
        );
        let pages = tracker.take(&mut ports.guest).expect("takes").len();
        let accepted = || (0..pages).map(|_| Answer::Accepted).collect::<Vec<_>>();
        expect_order(
            tracker.take(&mut ports.guest).map(<[_]>::len),
            "take called while the last batch has no answer",
        );
        expect_order(
            tracker.end(&mut ports.guest),
            "end called while the last batch has no answer",
        );
        let early = tracker.answer(&mut ports.guest, accepted());
        expect_order(early, "answer called while the frame list changed and was not sent");
        assert!(tracker.frame_list_changed());
        tracker.frame_list_sent();
        assert!(!tracker.frame_list_changed());
        tracker.answer(&mut ports.guest, accepted()).expect("answers");
        expect_order(tracker.end(&mut ports.guest), "end called while not everything is settled");
        expect_order(tracker.gone(), "gone called while not everything is settled");
        while !tracker.take(&mut ports.guest).expect("takes").is_empty() {
            send(&mut tracker, ports).expect("sends");
        }
        assert!(tracker.take(&mut ports.guest).expect("still nothing").is_empty());
        assert_eq!(tracker.gone().expect("settled"), []);
        tracker.end(&mut ports.guest).expect("ends");
        expect_order(tracker.end(&mut ports.guest), "end called while no round was begun");
        tracker.cancel(ports.guest.p2m);
        let begun = tracker.begin(&mut ports.guest, Stage::Live);
        expect_order(
            begun.map(|buffer| buffer.pfns()),
            "begin called while the migration is cancelled",
        );
    });
    assert!(fixture.machine().maps.is_empty());
}

/// What a policy needs is known after the scan, and again at the end.
#[test]
fn a_scan_reports_whether_it_converges() {
    let fixture = Fixture::tree();
    let mut tracker = attach(&fixture);
    fixture.with(|ports| {
        read_log(&mut tracker, ports, Stage::Live).expect("begins");
        let first = tracker.scan(&mut ports.guest, u64::MAX).expect("scans").clone();
        assert_eq!((first.dirty_rate, first.shrinking), (None, None));
        send_list(&mut tracker, ports).expect("sends the list");
        let sent = tracker.take(&mut ports.guest).expect("takes").len();
        send(&mut tracker, ports).expect("sends");
        tracker.end(&mut ports.guest).expect("ends early");
        fixture.machine().write(5, 99);
        let read = read_log(&mut tracker, ports, Stage::Live).expect("begins");
        let report = tracker.scan(&mut ports.guest, read).expect("scans");
        assert_eq!(report.dirty_rate, Some(1.0 / sent as f64));
        assert_eq!(report.shrinking, Some(true));
        // It is not known after a round that was given up, and after one whose log was not read.
        let read = read_log(&mut tracker, ports, Stage::Live).expect("begins");
        let report = tracker.scan(&mut ports.guest, read).expect("scans");
        assert_eq!((report.dirty_rate, report.shrinking), (None, None));
        send_list(&mut tracker, ports).expect("sends the list");
        tracker.end(&mut ports.guest).expect("ends early");
        read_log(&mut tracker, ports, Stage::Live).expect("begins");
        let report = tracker.scan(&mut ports.guest, 0).expect("scans");
        assert_eq!((report.dirty_rate, report.shrinking), (None, None));
        let report = tracker.end(&mut ports.guest).expect("ends early");
        assert_eq!((report.dirty_rate, report.shrinking), (None, None));
    });
}

/// An uncertainty is reported until a round has ended with it, whatever fails meanwhile.
#[test]
fn law_4_a_lost_log_is_reported_though_the_next_round_does_not_begin() {
    let fixture = Fixture::tree();
    let mut tracker = attach(&fixture);
    fixture.with(|ports| {
        round(&mut tracker, ports, Stage::Live).expect("copies");
        let buffer = tracker.begin(&mut ports.guest, Stage::Live).expect("begins");
        ports.log_dirty.clean(buffer).expect("reads");
        fixture.machine().errors.push(At::Roots);
        tracker.begin(&mut ports.guest, Stage::Live).expect_err("no roots");
        for _ in 0..2 {
            tracker.begin(&mut ports.guest, Stage::Live).expect("begins anew");
            let report = tracker.scan(&mut ports.guest, u64::MAX).expect("scans");
            assert!(report.uncertain[Uncertainty::ShortBitmap as usize] > 0, "{report:?}");
        }
        tracker.end(&mut ports.guest).expect("ends");
        tracker.begin(&mut ports.guest, Stage::Live).expect("begins");
        let report = tracker.scan(&mut ports.guest, u64::MAX).expect("scans");
        assert_eq!(report.uncertain[Uncertainty::ShortBitmap as usize], 0, "{report:?}");
    });
}

/// If a table is normalised twice, its cleared PTEs count once.
#[test]
fn a_table_that_is_normalised_again_is_cleared_once() {
    let fixture = Fixture::tree();
    fixture.machine().log_on = true;
    let config = Config { foreign_pte: ForeignPtePolicy::Clear, ..Config::default() };
    let mut tracker = Tracker::new(config, Width::W64).expect("attaches");
    fixture.machine().make_table(20, 21);
    let table = fixture.machine().entry(20).0;
    fixture.machine().poke(table, 7, MACHINE << 12 | 0x67);
    fixture.with(|ports| {
        let read = read_log(&mut tracker, ports, Stage::Checkpoint).expect("begins");
        tracker.scan(&mut ports.guest, read).expect("scans");
        send_list(&mut tracker, ports).expect("sends the list");
        while !tracker.take(&mut ports.guest).expect("takes").is_empty() {
            if let Some(page) = tracker.batch().iter().find(|page| page.pfn == Pfn(20)).copied() {
                for _ in 0..2 {
                    let mut words = Leaf::default();
                    ports.guest.p2m.read(page.mfn, &mut words).expect("reads");
                    let view = tracker.view(&mut ports.guest);
                    normalise(page.pfn, 1, &mut words, &view).expect("clears");
                }
            }
            let answers = vec![(); tracker.batch().len()].into_iter().map(|()| Answer::Accepted);
            tracker.answer(&mut ports.guest, answers).expect("answers");
        }
        let cleared: Vec<_> = tracker.cleared_ptes().map(|(t, f)| (t, f.to_vec())).collect();
        assert_eq!(cleared, [(Pfn(20), vec![Mfn(MACHINE)])]);
    });
}

/// A frame list may change after the host last read it: a live round ends all the same, and the
/// next round reports the list.
#[test]
fn a_live_round_ends_with_a_frame_list_that_was_not_sent() {
    let fixture = Fixture::tree();
    let mut tracker = attach(&fixture);
    fixture.with(|ports| {
        read_log(&mut tracker, ports, Stage::Live).expect("begins");
        tracker.scan(&mut ports.guest, u64::MAX).expect("scans");
        assert!(tracker.is_under_way() && tracker.frame_list_changed());
        tracker.end(&mut ports.guest).expect("ends");
        assert!(!tracker.is_under_way() && tracker.frame_list_changed());
        round(&mut tracker, ports, Stage::Final).expect("settles");
    });
    fixture.machine().assert_identical();
}

/// Live rounds may be ended early: what was not taken is left.
#[test]
fn a_round_that_ends_early_leaves_the_rest_owed() {
    let fixture = Fixture::tree();
    let mut tracker = attach(&fixture);
    fixture.with(|ports| {
        read_log(&mut tracker, ports, Stage::Live).expect("begins");
        tracker.scan(&mut ports.guest, 0).expect("scans");
        tracker.take(&mut ports.guest).expect("takes");
        send(&mut tracker, ports).expect("sends");
        let report = tracker.end(&mut ports.guest).expect("ends");
        assert_eq!(report.pages.accepted, QUERY_FRAMES_MAX as u64);
        assert_eq!(report.pages.left, HOLES - QUERY_FRAMES_MAX as u64);
        assert_eq!(tracker.shadow_entry(Pfn(0)), Entry(BASE));
        round(&mut tracker, ports, Stage::Final).expect("settles");
    });
    fixture.machine().assert_identical();
}

#[test]
fn a_host_with_a_mapping_of_the_p2m_learns_when_to_drop_it() {
    let fixture = Fixture::tree();
    let mut tracker = attach(&fixture);
    fixture.with(|ports| round(&mut tracker, ports, Stage::Live)).expect("copies");
    assert!(tracker.remap() && !tracker.remap());
    fixture.machine().balloon_in(HOLES + 1, 7);
    fixture.with(|ports| round(&mut tracker, ports, Stage::Live)).expect("sends");
    assert!(!tracker.remap(), "an entry is no structure");
    let old = fixture.machine().leaf(0);
    let new = fixture.machine().copy_words(old, HOLES + 2);
    fixture.machine().set_leaf(0, new);
    fixture.with(|ports| round(&mut tracker, ports, Stage::Live)).expect("sends");
    assert!(tracker.remap());
}

#[test]
fn simulated_guests_arrive_identical_in_steps() {
    for (index, scenario) in Scenario::ALL.into_iter().enumerate() {
        if scenario.is_hostile() {
            continue;
        }
        for seed in 0..3 {
            let seed = 100 * index as u64 + seed;
            let simulation = Simulation::new(&SimConfig::plain(scenario, seed, 16 << 20));
            let mut handles = simulation.ports();
            handles.log_dirty.enable().expect("enables");
            let mut observer = ();
            let mut ports = handles.lend(&mut observer);
            let engine = scenario.engine(seed, Config::default());
            let mut tracker = Tracker::new(engine, ports.guest.p2m.width()).expect("attaches");
            for _ in 0..simulation.checkpoints() {
                round(&mut tracker, &mut ports, Stage::Live).expect("live");
                simulation.suspend();
                round(&mut tracker, &mut ports, Stage::Checkpoint).expect("checkpoint");
                assert_eq!(simulation.judge().verdict, Verdict::Identical, "{scenario} {seed}");
                simulation.resume();
            }
            while !simulation.wants_suspend() {
                round(&mut tracker, &mut ports, Stage::Live).expect("live");
            }
            simulation.suspend();
            round(&mut tracker, &mut ports, Stage::Final).expect("final");
            assert_eq!(simulation.judge().verdict, Verdict::Identical, "{scenario} {seed}");
            ports.log_dirty.disable().expect("disables");
            assert_eq!(simulation.harm(), None, "{scenario} {seed}");
        }
    }
}

#[test]
fn a_caller_can_ask_which_pfns_lost_their_frames() {
    let fixture = Fixture::tree();
    let mut tracker = attach(&fixture);
    fixture.with(|ports| round(&mut tracker, ports, Stage::Live)).expect("copies");
    assert_eq!(tracker.take_noted_gone(), []);
    fixture.machine().balloon_out(3);
    fixture.with(|ports| round(&mut tracker, ports, Stage::Live)).expect("sends");
    assert_eq!(tracker.take_noted_gone(), [Pfn(3)]);
    assert_eq!(tracker.take_noted_gone(), [], "since it was last asked");
}

/// It is not known whether a page was sent that was taken in a round which was given up.
#[test]
fn a_page_that_was_taken_in_a_round_that_was_given_up_is_gone_once_it_has_no_frame() {
    for given_up in [Stage::Live, Stage::Final] {
        let fixture = Fixture::tree();
        let mut tracker = attach(&fixture);
        fixture.with(|ports| round(&mut tracker, ports, Stage::Live)).expect("copies");
        // A pfn that the destination never had.
        fixture.machine().balloon_in(HOLES + 1, 7);
        fixture.with(|ports| {
            let read = read_log(&mut tracker, ports, given_up).expect("begins");
            tracker.scan(&mut ports.guest, read).expect("scans");
            let pages = tracker.take(&mut ports.guest).expect("takes");
            assert!(pages.iter().any(|page| page.pfn == Pfn(HOLES + 1)));
        });
        fixture.machine().balloon_out(HOLES + 1);
        fixture.with(|ports| round(&mut tracker, ports, Stage::Final)).expect("settles");
        assert_eq!(fixture.machine().said_gone, [HOLES + 1]);
    }
}
