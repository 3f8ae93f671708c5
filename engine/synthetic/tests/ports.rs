// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ports keep the engine's contracts: faults strike and are recorded, breaches are recorded,
//! hostile guests cause no panic, and all of it depends on the seed alone.

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{
    Answer, FrameList, FrameTypes, LogBuffer, LogDirty, M2p, MapFault, P2mSource, Page, Transport,
    Unlogged,
};
use p2mtrack::table::{Resolved, TableView};
use p2mtrack_synthetic::{Fault, FaultSet, Scenario, SimConfig, SimPorts, Simulation};

fn simulation(scenario: Scenario, seed: u64, faults: &[Fault]) -> (Simulation, SimPorts) {
    let simulation = Simulation::new(&SimConfig {
        width: if seed.is_multiple_of(2) { Width::W64 } else { Width::W32 },
        faults: FaultSet(faults.to_vec()),
        ..SimConfig::plain(scenario, seed, 8 << 20)
    });
    let ports = simulation.ports();
    (simulation, ports)
}

/// Resolves through the m2p alone, as a careless tracker would.
struct Careless<'a>(&'a SimPorts, Width);

impl TableView for Careless<'_> {
    fn width(&self) -> Width {
        self.1
    }
    fn resolve(&self, _: Pfn, mfn: Mfn) -> Resolved {
        self.0.m2p.pfn(mfn).map_or(Resolved::Unresolved, Resolved::Pfn)
    }
    fn is_compat_m2p(&self, _: Mfn) -> bool {
        false
    }
}

/// Calls every port for some rounds and returns the answers, in short.
fn exercise(simulation: &Simulation, ports: &mut SimPorts, rounds: u64) -> Vec<String> {
    let view_ports = simulation.ports();
    let width = ports.p2m.width();
    let mut seen = Vec::new();
    let mut bits = PfnBitmap::new(32_768);
    let list = vec![Some(Pfn(1)); 4096];
    let frame_list = FrameList { width, pfn_count: 4096 * width.entries() as u64, leaves: &list };
    seen.push(format!("{:?}", ports.transport.frame_list(frame_list)));
    for round in 0..rounds {
        bits.reset(32_768);
        seen.push(format!(
            "{:?} {}",
            ports.log_dirty.clean(LogBuffer::over(&mut bits)),
            bits.count()
        ));
        if seen.last().is_some_and(|last| last.starts_with("Err")) {
            ports.log_dirty.disable().expect("always");
            ports.log_dirty.enable().expect("off");
        }
        seen.push(format!("{:?} {:?}", ports.p2m.roots(), ports.p2m.domain_frames()));
        seen.push(format!("{:?}", ports.unlogged.accepts_transfer()));
        let mfns: Vec<Mfn> = (round * 40..round * 40 + 1024).map(Mfn).collect();
        let mut types = vec![FrameType::Data; 1024];
        seen.push(format!("{:?}", ports.types.query(&mfns, &mut types)));
        let mut slots = Vec::new();
        ports.p2m.map(&mfns[..64], &mut slots);
        let held: Vec<_> = slots.into_iter().filter_map(Result::ok).collect();
        for &slot in &held {
            seen.push(format!("{:?}", ports.p2m.live(slot).entry(width, 5)));
        }
        ports.p2m.unmap(&held);
        let mut leaf = Leaf::default();
        let faults = mfns.iter().filter(|&&mfn| ports.p2m.read(mfn, &mut leaf).is_err()).count();
        seen.push(faults.to_string());
        let page = |(&mfn, &kind): (&Mfn, &FrameType)| Page {
            pfn: view_ports.m2p.pfn(mfn).unwrap_or(Pfn(9)),
            mfn,
            entry: Entry::frame(mfn),
            kind,
        };
        let pages: Vec<Page> =
            mfns.iter().zip(&types).filter(|t| *t.1 != FrameType::NotOwned).map(page).collect();
        let mut answers: Vec<Answer> = Vec::new();
        let sent = ports.transport.send(&pages, &Careless(&view_ports, width), &mut answers);
        seen.push(format!("{sent:?} {answers:?}").chars().take(400).collect());
        let mut returned = Vec::new();
        seen.push(format!("{:?} {returned:?}", ports.transport.returned(&mut returned)));
    }
    seen
}

#[test]
fn hostile_guests_are_survived() {
    for seed in 0..if cfg!(debug_assertions) { 6 } else { 200 } {
        let (simulation, mut ports) = simulation(Scenario::Hostile, seed, &[]);
        ports.log_dirty.enable().expect("off");
        exercise(&simulation, &mut ports, 8);
        simulation.run_guest(300);
        simulation.suspend();
        let judgement = simulation.judge();
        assert!(judgement.differences.len() <= 8);
        simulation.resume();
        exercise(&simulation, &mut ports, 3);
    }
}

#[test]
fn equal_seeds_give_equal_answers() {
    for seed in 0..6 {
        let run = || {
            let (simulation, mut ports) = simulation(Scenario::Mixed, seed, &Fault::ALL);
            ports.log_dirty.enable().expect("off");
            (
                exercise(&simulation, &mut ports, 6),
                simulation.faults_struck(),
                simulation.activity(),
            )
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn each_fault_strikes_and_is_recorded() {
    for fault in Fault::ALL {
        let struck = (0..40).any(|seed| {
            let (simulation, mut ports) = simulation(Scenario::Mixed, seed, &[fault]);
            ports.log_dirty.enable().expect("off");
            exercise(&simulation, &mut ports, 12);
            let struck = simulation.faults_struck();
            assert!(struck.iter().all(|&(other, times)| other == fault && times > 0));
            !struck.is_empty()
        });
        assert!(struck, "{fault} never struck");
    }
}

#[test]
fn a_cancel_raises_the_flag() {
    let raised = (0..40).any(|seed| {
        let (simulation, mut ports) = simulation(Scenario::Writes, seed, &[Fault::Cancel]);
        let flag = simulation.cancel_flag();
        ports.log_dirty.enable().expect("off");
        exercise(&simulation, &mut ports, 6);
        flag.load(std::sync::atomic::Ordering::Relaxed)
    });
    assert!(raised);
}

#[test]
fn broken_contracts_are_noticed() {
    let (simulation, mut ports) = simulation(Scenario::Quiet, 1, &[]);
    ports.log_dirty.enable().expect("off");
    assert!(ports.log_dirty.enable().is_err());
    ports.transport.gone(&[Pfn(1)]).expect("taken all the same");
    ports.log_dirty.clean(LogBuffer::over(&mut PfnBitmap::new(100))).expect("taken all the same");
    ports.transport.consistent().expect("taken all the same");
    assert_eq!(simulation.breaches().len(), 3);
    let page = Page { pfn: Pfn(1 << 20), mfn: Mfn(70), entry: Entry(70), kind: FrameType::Data };
    let frames = simulation.source_frames();
    let page = Page { mfn: frames[0].mfn, ..page };
    let view_ports = simulation.ports();
    let view = Careless(&view_ports, Width::W32);
    assert!(ports.transport.send(&[page], &view, &mut Vec::new()).is_err(), "no frame list yet");
    assert_eq!(simulation.breaches().len(), 4);
}

#[test]
fn with_several_threads_the_guest_runs_only_in_calls_of_one() {
    let config = SimConfig { threads: 4, ..SimConfig::plain(Scenario::Mixed, 5, 8 << 20) };
    let (simulation, several) = (Simulation::new(&config), 4);
    let ports = simulation.ports();
    std::thread::scope(|scope| {
        for _ in 0..several {
            scope.spawn(|| (0..100_000).filter(|&mfn| ports.m2p.pfn(Mfn(mfn)).is_some()).count());
        }
    });
    assert_eq!(simulation.activity().steps, 0);
    let alone = Simulation::new(&SimConfig { threads: 1, ..config });
    let ports = alone.ports();
    assert!((0..100_000).filter(|&mfn| ports.m2p.pfn(Mfn(mfn)).is_some()).count() > 0);
    assert!(alone.activity().steps > 0);
}

#[test]
fn a_held_map_keeps_the_frame_and_foreign_frames_are_refused() {
    let (simulation, mut ports) = simulation(Scenario::Quiet, 3, &[]);
    let owned = simulation.source_frames()[40].mfn;
    let mut answers = Vec::new();
    ports.p2m.map(&[owned, Mfn(2), Mfn(u64::MAX)], &mut answers);
    assert!(answers[0].is_ok());
    assert_eq!(answers[1..], [Err(MapFault::NotOwned), Err(MapFault::NotOwned)]);
    let mut copy = Leaf::default();
    ports.p2m.live(answers[0].expect("owned")).fetch(&mut copy);
    let mut read = Leaf::default();
    ports.p2m.read(owned, &mut read).expect("owned");
    assert_eq!(copy, read);
}
