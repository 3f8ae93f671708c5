// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reference driver: stop the guest, send every pfn that has a frame, by the simulation's true
//! state. It has to be identical on every honest scenario; each way of breaking it has to get its
//! verdict.

use std::collections::BTreeMap;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Claim, Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::port::{Answer, FrameList, FrameTypes, LogBuffer, LogDirty, M2p, Page, Transport};
use p2mtrack::table::{Resolved, TableView};
use p2mtrack_synthetic::snapshot::SourceFrame;
use p2mtrack_synthetic::{Judgement, P2mKind, Scenario, SimConfig, SimPorts, Simulation, Verdict};

const MIB: u64 = 1 << 20;

/// More than any of the guests has.
const PFNS: u64 = 1 << 18;

/// An unoptimised build is twenty times slower.
const SEEDS: u64 = if cfg!(debug_assertions) { 4 } else { 100 };

fn config(scenario: Scenario, seed: u64) -> SimConfig {
    let width = if seed.is_multiple_of(2) { Width::W64 } else { Width::W32 };
    SimConfig { width, ..SimConfig::plain(scenario, seed, 16 * MIB) }
}

/// Lets the guest run for some rounds of port calls, then stops it.
fn run(config: &SimConfig) -> (Simulation, SimPorts) {
    let simulation = Simulation::new(config);
    let mut ports = simulation.ports();
    live(&simulation, &mut ports, true);
    (simulation, ports)
}

fn live(simulation: &Simulation, ports: &mut SimPorts, first: bool) {
    if first {
        ports.log_dirty.enable().expect("was off");
    }
    let mut bits = PfnBitmap::new(PFNS);
    while !simulation.wants_suspend() {
        simulation.run_guest(400);
        bits.reset(PFNS);
        ports.log_dirty.clean(LogBuffer::over(&mut bits)).expect("no faults");
        let query = |ports: &mut SimPorts| {
            p2mtrack::port::Unlogged::accepts_transfer(&mut ports.unlogged).expect("no faults")
        };
        query(ports);
    }
    simulation.suspend();
}

/// The true state as a view for page tables.
struct Truth {
    width: Width,
    pfns: BTreeMap<u64, u64>,
}

impl TableView for Truth {
    fn width(&self) -> Width {
        self.width
    }
    fn resolve(&self, _: Pfn, mfn: Mfn) -> Resolved {
        self.pfns.get(&mfn.0).map_or(Resolved::Unresolved, |&pfn| Resolved::Pfn(Pfn(pfn)))
    }
    fn is_compat_m2p(&self, _: Mfn) -> bool {
        false
    }
}

/// Everything that a copy needs, taken from the suspended source.
struct Source {
    frames: Vec<SourceFrame>,
    truth: Truth,
    list: Vec<Option<Pfn>>,
    pfn_count: u64,
}

impl Source {
    fn take(simulation: &Simulation, width: Width) -> Self {
        let snapshot = simulation.snapshot();
        let frames = simulation.source_frames();
        let pfns = frames.iter().map(|frame| (frame.mfn.0, frame.pfn.0)).collect();
        Self {
            frames,
            truth: Truth { width, pfns },
            list: snapshot.list().to_vec(),
            pfn_count: snapshot.pfn_count(),
        }
    }

    fn pages(&self) -> Vec<Page> {
        let page = |frame: &SourceFrame| Page {
            pfn: frame.pfn,
            mfn: frame.mfn,
            entry: Entry::frame(frame.mfn),
            kind: frame.kind,
        };
        self.frames.iter().map(page).collect()
    }

    fn send_list(&self, ports: &mut SimPorts) {
        let (width, pfn_count) = (self.truth.width, self.pfn_count);
        ports
            .transport
            .frame_list(FrameList { width, pfn_count, leaves: &self.list })
            .expect("list");
    }

    fn send(&self, ports: &mut SimPorts, pages: &[Page]) {
        for batch in pages.chunks(1024) {
            let mut answers = Vec::new();
            ports.transport.send(batch, &self.truth, &mut answers).expect("no faults");
            for (page, answer) in batch.iter().zip(&answers) {
                assert!(matches!(answer, Answer::Accepted), "{page:?}: {answer:?}");
            }
        }
    }
}

/// Stop and copy, everything by the true state.
fn copy(simulation: &Simulation, ports: &mut SimPorts, width: Width) -> Source {
    let source = Source::take(simulation, width);
    source.send_list(ports);
    source.send(ports, &source.pages());
    source
}

#[track_caller]
fn assert_verdict(judgement: &Judgement, verdict: Verdict) {
    assert_eq!(judgement.verdict, verdict, "{judgement:#?}");
}

#[test]
fn stop_and_copy_is_identical_on_every_scenario() {
    for scenario in Scenario::ALL {
        for seed in 0..SEEDS {
            let config = config(scenario, seed);
            let (simulation, mut ports) = run(&config);
            if scenario.is_hostile() {
                let _ = simulation.judge();
                continue;
            }
            simulation.check_premise().unwrap_or_else(|error| panic!("{scenario} {seed}: {error}"));
            copy(&simulation, &mut ports, config.width);
            let judgement = simulation.judge();
            assert_eq!(judgement.verdict, Verdict::Identical, "{scenario} {seed}: {judgement:#?}");
            assert_eq!(simulation.breaches(), Vec::<&str>::new());
        }
    }
}

#[test]
fn both_kinds_of_p2m_and_both_widths() {
    for width in [Width::W32, Width::W64] {
        for kind in [P2mKind::Linear, P2mKind::Tree] {
            for seed in 0..10 {
                let config = SimConfig { width, p2m: Some(kind), ..config(Scenario::Mixed, seed) };
                let (simulation, mut ports) = run(&config);
                copy(&simulation, &mut ports, width);
                assert_verdict(&simulation.judge(), Verdict::Identical);
            }
        }
    }
}

#[test]
fn checkpoints_are_judged_one_by_one() {
    for seed in 0..20 {
        let config = config(Scenario::Remus, seed);
        let (simulation, mut ports) = run(&config);
        assert!(simulation.checkpoints() >= 2);
        for _ in 0..simulation.checkpoints() {
            let source = copy(&simulation, &mut ports, config.width);
            let held: std::collections::BTreeSet<Pfn> =
                source.frames.iter().map(|f| f.pfn).collect();
            let gone: Vec<Pfn> = (0..PFNS).map(Pfn).filter(|pfn| !held.contains(pfn)).collect();
            ports.transport.gone(&gone).expect("no faults");
            ports.transport.consistent().expect("no faults");
            assert_verdict(&simulation.judge(), Verdict::Identical);
            simulation.resume();
            live(&simulation, &mut ports, false);
        }
        assert_eq!(simulation.breaches(), Vec::<&str>::new());
    }
}

/// A copied guest, ready to be spoiled.
fn copied(seed: u64) -> (Simulation, SimPorts, Source) {
    let config = config(Scenario::Mixed, seed);
    let (simulation, mut ports) = run(&config);
    let source = copy(&simulation, &mut ports, config.width);
    (simulation, ports, source)
}

fn plain(source: &Source) -> Page {
    let pages = source.pages();
    let listed = |pfn: Pfn| source.list.contains(&Some(pfn));
    let defined = |page: &&Page| page.kind == FrameType::Data && !listed(page.pfn);
    *pages.iter().filter(defined).nth(700).expect("many data pages")
}

#[test]
fn a_missing_page_is_corrupt() {
    for seed in 0..6 {
        let (simulation, mut ports, source) = copied(seed);
        ports.transport.gone(&[plain(&source).pfn]).expect("no faults");
        let judgement = simulation.judge();
        assert_verdict(&judgement, Verdict::Corrupt);
        assert_eq!((judgement.mismatched_pfns, judgement.missing_pfns), (1, 1));
    }
}

#[test]
fn another_pages_bytes_are_corrupt() {
    let mut compared = 0;
    for seed in 0..8 {
        let (simulation, mut ports, source) = copied(seed);
        let mut page = plain(&source);
        let last = source.frames.iter().rev().find(|f| f.kind == FrameType::Data);
        page.mfn = last.expect("data").mfn;
        source.send(&mut ports, &[page]);
        let judgement = simulation.judge();
        ports.transport.gone(&[page.pfn]).expect("no faults");
        let without = simulation.judge();
        // The source never wrote this page: any bytes are right.
        if without.undefined_not_compared < judgement.undefined_not_compared {
            assert_eq!(judgement.mismatched_pfns, 0);
            continue;
        }
        assert_verdict(&judgement, Verdict::Corrupt);
        assert_eq!(judgement.mismatched_pfns, 1);
        assert_eq!(judgement.differences[0].pfn, page.pfn.0);
        compared += 1;
    }
    assert!(compared >= 6, "{compared}");
}

#[test]
fn stale_bytes_are_corrupt() {
    let (simulation, _ports, _) = copied(4);
    simulation.resume();
    simulation.run_guest(2000);
    simulation.suspend();
    assert_verdict(&simulation.judge(), Verdict::Corrupt);
}

#[test]
fn an_extra_page_is_a_leak() {
    let (simulation, mut ports, source) = copied(6);
    let mut page = plain(&source);
    let held = |pfn: u64| source.frames.iter().any(|frame| frame.pfn.0 == pfn);
    page.pfn = Pfn((0..source.pfn_count).find(|&pfn| !held(pfn)).expect("a hole"));
    source.send(&mut ports, &[page]);
    let judgement = simulation.judge();
    assert_verdict(&judgement, Verdict::Leaked);
    assert_eq!((judgement.leaked_pfns, judgement.mismatched_pfns), (1, 0));
    ports.transport.gone(&[page.pfn]).expect("no faults");
    assert_verdict(&simulation.judge(), Verdict::Identical);
}

#[test]
fn a_table_with_a_wrong_pfn_is_corrupt() {
    let (simulation, mut ports, mut source) = copied(8);
    let table = source.pages().into_iter().find(|page| page.kind.is_table()).expect("tables");
    for pfn in source.truth.pfns.values_mut() {
        *pfn ^= 1;
    }
    source.send(&mut ports, &[table]);
    assert_verdict(&simulation.judge(), Verdict::Corrupt);
}

#[test]
fn a_stale_frame_list_is_corrupt_where_it_is_overwritten() {
    let (simulation, mut ports, mut source) = copied(10);
    let wrong = plain(&source).pfn;
    source.list[0] = Some(wrong);
    source.send_list(&mut ports);
    let judgement = simulation.judge();
    assert_verdict(&judgement, Verdict::Corrupt);
    assert_eq!(judgement.list_mismatches, 1);
    assert_eq!(judgement.mismatched_pfns, 1, "the page at the stale place: {judgement:#?}");
}

#[test]
fn a_wrong_type_is_corrupt() {
    let (simulation, mut ports, source) = copied(12);
    let mut table = source.pages().into_iter().find(|page| page.kind.is_table()).expect("tables");
    table.kind = FrameType::Data;
    source.send(&mut ports, &[table]);
    assert_verdict(&simulation.judge(), Verdict::Corrupt);
}

#[test]
fn equal_seeds_give_equal_runs() {
    for scenario in Scenario::ALL {
        let again = |threads| {
            let config = SimConfig { threads, ..config(scenario, 3) };
            let (simulation, mut ports) = run(&config);
            let frames = simulation.source_frames();
            let mut types = vec![FrameType::Data; 8];
            let mfns: Vec<Mfn> = (0..8).map(Mfn).collect();
            ports.types.query(&mfns, &mut types).expect("no faults");
            (frames, types, simulation.activity())
        };
        assert_eq!(again(1), again(1), "{scenario}");
    }
}

#[test]
fn the_source_is_unharmed_only_if_all_is_given_back() {
    use p2mtrack::port::P2mSource;
    for seed in 0..20 {
        let (simulation, mut ports) = run(&config(Scenario::Mixed, seed));
        assert!(simulation.check_unharmed().is_err(), "log-dirty is on");
        ports.log_dirty.disable().expect("on");
        let frame = simulation.source_frames()[5].mfn;
        let mut answers = Vec::new();
        ports.p2m.map(&[frame], &mut answers);
        let slot = answers[0].expect("owned");
        assert!(simulation.check_unharmed().is_err(), "a frame is mapped");
        ports.p2m.unmap(&[slot]);
        simulation.check_unharmed().expect("as it was");
    }
}

#[test]
fn an_entry_is_what_the_m2p_says() {
    let (simulation, ports) = run(&config(Scenario::FrameSwap, 1));
    for frame in simulation.source_frames() {
        assert_eq!(ports.m2p.pfn(frame.mfn), Some(frame.pfn));
        assert_eq!(Entry::frame(frame.mfn).claim(Width::W64), Claim::Frame(frame.mfn));
    }
}
