// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracker over recorded guests compared with the oracle, and recordings of replays compared
//! with the original.
//! Not here: ports (`replay`), files (`format`).
//! Units: sums as in `naive`.
//! Threads: one.
//! Source: rule of the sums: `p2mtrack_trace::naive`.

mod life;

use std::path::PathBuf;

use life::guest::{Act, Guest, acts};
use life::{meta, write};
use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::config::{Config, Rewalk};
use p2mtrack::frame::{Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::monitor::Monitor;
use p2mtrack::port::{
    LOG_DIRTY_LEAF_PFNS, LogBuffer, LogDirty, MapFault, MapSlot, P2mSource, PortError, Roots,
};
use p2mtrack_trace::naive::{Totals, expected};
use p2mtrack_trace::replay::ReplayP2m;
use p2mtrack_trace::{Limits, Meta, Reader, Recorder, Replay, Round};
use proptest::prelude::*;

/// What the tracker finds, as the oracle's sums.
fn found(reader: &Reader<'_>) -> Totals {
    let config = Config { rewalk: Rewalk::EveryRound, ..Config::default() };
    let mut monitor = Monitor::new(config, reader.meta().width).expect("starts");
    let mut replay = Replay::new(reader).expect("round 0");
    let mut ports = replay.ports();
    let mut observe = |monitor: &mut Monitor| {
        let mut observer = ();
        let (mut guest, log_dirty) = ports.lend(&mut observer);
        monitor.observe(&mut guest, log_dirty, |_, _| ()).expect("observes")
    };
    observe(&mut monitor);
    let mut totals = Totals::default();
    let mut before = Vec::new();
    loop {
        before.push(replay.round().entries.clone());
        if !replay.advance().expect("decodes") {
            break;
        }
        let report = observe(&mut monitor);
        totals.rounds += 1;
        totals.leaves_dirty += report.leaves.dirty;
        totals.leaves_new += report.leaves.fresh;
        totals.entries_changed += report.entries.changed();
        totals.mapped += report.entries.mapped;
        totals.unmapped += report.entries.unmapped;
        totals.remapped += report.entries.remapped;
        totals.other += report.entries.other;
        totals.beyond_log_dirty += report.entries.beyond_log_dirty;
    }
    let last = before.pop().expect("a round");
    for (pfn, &entry) in last.iter().enumerate() {
        if monitor.tracker().shadow_entry(Pfn(pfn as u64)).0 != entry {
            let known = before.last().and_then(|entries| entries.get(pfn)) == Some(&entry);
            *if known { &mut totals.missed } else { &mut totals.pending } += 1;
        }
    }
    totals
}

/// A recording of a replay: the test reads the log and gives it to the recorder.
fn record(reader: &Reader<'_>) -> Vec<u8> {
    let meta = Meta { source: "recorder".into(), ..reader.meta().clone() };
    let mut recorder = Recorder::new(Vec::new(), &meta).expect("begins");
    let mut replay = Replay::new(reader).expect("round 0");
    let mut ports = replay.ports();
    loop {
        let before = ports.p2m.roots().expect("roots");
        let span = before.pfn_count.next_multiple_of(LOG_DIRTY_LEAF_PFNS);
        let mut log = PfnBitmap::new(span);
        ports.log_dirty.clean(LogBuffer::over(&mut log)).expect("the log");
        let log = (replay.number() > 0).then_some(&log);
        recorder.round(&mut ports.lend(&mut ()).0, before, log).expect("records");
        if !replay.advance().expect("decodes") {
            break;
        }
    }
    recorder.release(&mut ports.p2m);
    recorder.finish().expect("ends")
}

fn rounds(reader: &Reader<'_>) -> Vec<Round> {
    let mut cursor = reader.rounds();
    std::iter::from_fn(|| cursor.advance().expect("decodes").then(|| cursor.round().clone()))
        .collect()
}

/// A recording has what the tracker knew: a late write is in it only when its leaf is dirty.
fn check_recording(reader: &Reader<'_>) {
    let bytes = record(reader);
    let again = Reader::new(&bytes, Limits::default()).expect("opens");
    let totals = Totals { pending: 0, ..expected(reader).expect("decodes") };
    assert_eq!(expected(&again).expect("decodes"), totals);
    assert_eq!(found(&again), totals);
    for (number, (old, new)) in rounds(reader).iter().zip(rounds(&again)).enumerate() {
        assert_eq!((old.before, old.after), (new.before, new.after), "round {number}");
        assert_eq!(old.log_dirty, new.log_dirty, "round {number}");
        assert_eq!(old.leaf_mfns, new.leaf_mfns, "round {number}");
        assert_eq!(old.leaf_pfns, new.leaf_pfns, "round {number}");
        assert_eq!(old.upper, new.upper, "round {number}");
        assert_eq!(old.entries.len(), new.entries.len(), "round {number}");
    }
}

#[test]
fn a_recording_of_a_replay_replays_to_the_same_sums() {
    for name in ["idle-256", "balloon-256", "growth-192", "tree-balloon-256", "growth-burst"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/traces");
        check_recording(&Reader::open(&path.join(format!("{name}.p2mtrace"))).expect("opens"));
    }
}

#[test]
fn a_recording_has_m2p_exceptions_and_entries_of_untracked_leaves() {
    let mut rounds = Guest::new(Width::W64, false).live(&[[vec![Act::GrowShared(3)], vec![]]]);
    for round in &mut rounds {
        round.exceptions.extend([(1030, None), (1031, Some(7))]);
    }
    // Entries that name no frame, in the shared leaf that is not tracked.
    rounds[1].entries[2 * 512..].fill(1 << 62 | 5);
    let bytes = write(Width::W64, &rounds);
    let bytes = record(&Reader::new(&bytes, Limits::default()).expect("opens"));
    let again = Reader::new(&bytes, Limits::default()).expect("opens");
    for (old, new) in rounds.iter().zip(self::rounds(&again)) {
        assert_eq!(old.exceptions, new.exceptions);
        assert!(old.entries == new.entries);
    }
}

fn guests() -> impl Strategy<Value = (Width, bool)> {
    (prop_oneof![Just(Width::W32), Just(Width::W64)], any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_tracker_finds_what_the_oracle_finds((width, linear) in guests(), acts in acts()) {
        let bytes = write(width, &Guest::new(width, linear).live(&acts));
        let reader = Reader::new(&bytes, Limits::default()).expect("opens");
        let totals = expected(&reader).expect("decodes");
        prop_assert_eq!(totals.missed, 0, "the guest obeys Xen");
        prop_assert_eq!(found(&reader), totals);
        check_recording(&reader);
    }
}

#[test]
fn a_recorder_keeps_the_log_of_a_round_that_failed() {
    let guest = Guest::new(Width::W64, true).live(&[[vec![], vec![]]]);
    let bytes = write(Width::W64, &guest);
    let reader = Reader::new(&bytes, Limits::default()).expect("opens");
    let replay = Replay::new(&reader).expect("round 0");
    let mut ports = replay.ports();
    let mut recorder = Recorder::new(Vec::new(), &meta(Width::W64)).expect("begins");
    let before = ports.p2m.roots().expect("roots");
    recorder.round(&mut ports.lend(&mut ()).0, before, None).expect("records");
    let mut log = PfnBitmap::new(LOG_DIRTY_LEAF_PFNS);
    log.set(Pfn(700));
    let mut gone = GoneRoots(ports.p2m, false);
    let mut lent = p2mtrack::port::Guest {
        p2m: &mut gone,
        m2p: &ports.m2p,
        types: &mut ports.types,
        unlogged: &mut ports.unlogged,
        observer: &mut (),
    };
    let error = recorder.round(&mut lent, before, Some(&log)).expect_err("no roots");
    assert_eq!(error.to_string(), "guest can't be recorded");
    ports.p2m = gone.0;
    recorder.round(&mut ports.lend(&mut ()).0, before, None).expect("records");
    let bytes = recorder.finish().expect("ends");
    let reader = Reader::new(&bytes, Limits::default()).expect("opens");
    assert_eq!(rounds(&reader)[1].log_dirty, Some(log));
}

/// A guest whose shared_info can be read once, before CLEAN, and not again.
struct GoneRoots(ReplayP2m, bool);

impl P2mSource for GoneRoots {
    fn width(&self) -> Width {
        self.0.width()
    }
    fn domain_frames(&mut self) -> Result<u64, PortError> {
        self.0.domain_frames()
    }
    fn roots(&mut self) -> Result<Roots, PortError> {
        match std::mem::replace(&mut self.1, true) {
            false => self.0.roots(),
            true => Err("gone".into()),
        }
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
