// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every scenario through the bytes of a libxc stream: a receiver reads them as libxc's does, the
//! oracle judges what it has, and the checker finds no rule broken.
//! Not here: the same without a stream (`simulation`).
//! Units: `P2MTRACK_SEEDS` / 4 seeds of each scenario, two at least; guests of 16 MiB.
//! Threads: runs side by side.
//! Source: `docs/stream.md`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use p2mtrack::config::Config;
use p2mtrack::frame::{FrameType, Pfn, Width};
use p2mtrack::migration::Migration;
use p2mtrack::port::{Answer, FrameList, Guest, Page, PortError, Ports, Transport};
use p2mtrack::table::{TableCopy, TableView, normalise};
use p2mtrack_synthetic::run::{Ending, Run, migrate_all, migrate_into_bytes};
use p2mtrack_synthetic::transport::{Bytes, SimTransport};
use p2mtrack_synthetic::{
    Fault, FaultSet, Scenario, SimConfig, SimPorts, Simulation, TransportKind, Verdict,
};

fn seeds() -> u64 {
    let asked = std::env::var("P2MTRACK_SEEDS").map_or(8, |seeds| seeds.parse().expect("a number"));
    (asked / 4).max(2)
}

fn runs(faults: &FaultSet, transport: TransportKind) -> Vec<(SimConfig, Run)> {
    let configs: Vec<_> = Scenario::ALL
        .into_iter()
        .flat_map(|scenario| (1..=seeds()).map(move |seed| (scenario, seed)))
        .flat_map(|(scenario, seed)| {
            [Width::W64, Width::W32].map(|width| SimConfig {
                width,
                faults: faults.clone(),
                transport,
                checkpoints: if seed % 2 == 0 { 2 } else { 0 },
                threads: if seed % 2 == 0 { 2 } else { 1 }, // with two, one of them writes
                ..SimConfig::plain(scenario, seed, 16 << 20)
            })
        })
        .collect();
    let engine = |config: &SimConfig| config.scenario.engine(config.seed, Config::default());
    let done = migrate_all(&configs, engine);
    configs.into_iter().zip(done).collect()
}

fn describe(config: &SimConfig, run: &Run) -> String {
    let differences = run.judgement.as_ref().map(|judgement| &judgement.differences);
    format!(
        "p2mtrack simulate {}\n{:?} {:?} {differences:?}",
        config.options(),
        run.ending,
        run.error
    )
}

/// A guest whose p2m has a position without a leaf, and no leaf without frames, can't be sent.
fn lacks_a_hole_leaf(run: &Run) -> bool {
    run.error.as_ref().is_some_and(|error| error.contains("no-hole-leaf"))
}

#[test]
fn what_arrives_without_a_stream_arrives_through_one() {
    let none = FaultSet::default();
    let direct = runs(&none, TransportKind::Direct);
    let (mut through, mut lacking, mut left_over) = (0, 0, 0);
    for ((config, run), (_, other)) in runs(&none, TransportKind::Stream).into_iter().zip(direct) {
        assert_eq!(run.harmed, None, "{}", describe(&config, &run));
        left_over += run.stock_leaked.expect("a stream was written");
        match run.ending {
            Ending::Judged(verdict) => {
                assert_eq!(verdict, Verdict::Identical, "{}", describe(&config, &run));
                through += 1;
            }
            Ending::Aborted if lacks_a_hole_leaf(&run) => lacking += 1,
            Ending::Aborted => {
                // At other moments the guest does other things.
                let ends_elsewhere =
                    other.ending == Ending::Aborted || config.scenario == Scenario::Alias;
                assert!(
                    ends_elsewhere || config.scenario.is_hostile(),
                    "{}",
                    describe(&config, &run)
                );
            }
        }
    }
    println!(
        "{through} guests arrived, {lacking} have no hole leaf, a stock receiver keeps {left_over} frames"
    );
    assert!(through > 100 && left_over > 0 && lacking < through / 10);
}

#[test]
fn a_fault_ends_a_stream_at_worst() {
    let done = runs(&FaultSet(Fault::ALL.to_vec()), TransportKind::Stream);
    let mut struck = 0;
    for (config, run) in &done {
        assert_eq!(run.harmed, None, "{}", describe(config, run));
        let is_wrong =
            matches!(run.ending, Ending::Judged(verdict) if verdict != Verdict::Identical);
        assert!(!is_wrong, "{}", describe(config, run));
        struck += u64::from(run.fault.is_some());
    }
    println!("{} runs, {struck} ended by a fault", done.len());
    assert!(struck > 10);
}

/// The sink fails at some byte, once. The driver tries again, but nothing follows what was cut, no
/// page counts as sent, and the source is unharmed.
#[test]
fn a_sink_that_fails_ends_a_migration_and_harms_nothing() {
    let scenarios = [Scenario::Mixed, Scenario::TreeReshape, Scenario::Remus];
    for (scenario, threads) in scenarios.into_iter().flat_map(|it| [(it, 1), (it, 2)]) {
        let width = if threads == 1 { Width::W64 } else { Width::W32 };
        let config = SimConfig { width, threads, ..SimConfig::plain(scenario, 2, 8 << 20) };
        let engine = || config.scenario.engine(config.seed, Config::default());
        let (run, whole) = migrate_into_bytes(&config, engine(), u64::MAX);
        assert_eq!(run.ending, Ending::Judged(Verdict::Identical), "{}", describe(&config, &run));
        let (_, fixed) = migrate_into_bytes(&config, engine(), 0);
        let bytes = (whole.len() - fixed.len()) as u64;
        let cuts = (0..24).map(|part| bytes * part / 24).chain([7, 8, bytes - 17, bytes - 1]);
        for room in cuts {
            let (run, cut) = migrate_into_bytes(&config, engine(), room);
            let words = format!("after {room} of {bytes}: {}", describe(&config, &run));
            assert_eq!((run.ending, run.harmed.clone()), (Ending::Aborted, None), "{words}");
            assert!(run.error.as_ref().is_some_and(|error| error.contains("transport")), "{words}");
            assert_eq!((cut.len() - fixed.len()) as u64, room, "{words}");
            assert!(whole.starts_with(&cut) || threads > 1, "{words}");
        }
    }
}

/// For each page of a batch its pfn, and whether it is a table.
type Batch = Vec<(u64, bool)>;

/// A transport that notes the pfns of each batch.
struct Noted<'a> {
    inner: &'a mut dyn Transport,
    batches: Rc<RefCell<Vec<Batch>>>,
}

impl Transport for Noted<'_> {
    fn send(
        &mut self,
        pages: &[Page],
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        let batch = pages.iter().map(|page| (page.pfn.0, page.kind.is_table())).collect();
        self.batches.borrow_mut().push(batch);
        self.inner.send(pages, view, answers)
    }

    fn frame_list(&mut self, list: FrameList<'_>) -> Result<(), PortError> {
        self.inner.frame_list(list)
    }

    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        self.inner.gone(pfns)
    }

    fn returned(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        self.inner.returned(into)
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        self.inner.consistent()
    }
}

/// A receiver makes 2 MiB pages only of runs that come in one record.
#[test]
fn the_first_copy_comes_in_ascending_order_and_cuts_no_block_of_1024_pfns() {
    for (scenario, width) in [(Scenario::Quiet, Width::W64), (Scenario::Wide, Width::W32)] {
        let config = SimConfig { width, ..SimConfig::plain(scenario, 3, 16 << 20) };
        let simulation = Simulation::new(&config);
        let mut handles = simulation.ports();
        let mut nobody = ();
        let mut ports = handles.lend(&mut nobody);
        let mut migration = Migration::start(Config::default(), &mut ports).expect("starts");
        let batches = Rc::default();
        let mut noted = Noted { inner: ports.transport, batches: Rc::clone(&batches) };
        let Ports { guest, log_dirty, .. } = ports;
        let mut ports = Ports { guest, log_dirty, transport: &mut noted };
        migration.round(&mut ports).expect("sends the first copy");
        let batches = batches.take();
        let (pages, tables): (Vec<_>, Vec<_>) = batches
            .iter()
            .filter(|batch| !batch.is_empty())
            .partition(|batch| batch.iter().all(|page| !page.1));
        assert!(pages.len() > 3 && !tables.is_empty());
        for batch in pages.iter().chain(&tables) {
            assert!(batch.is_sorted(), "{batch:?}");
        }
        let block = |page: Option<&(u64, bool)>| page.expect("a page").0 / 1024;
        for pair in pages.windows(2) {
            let (before, after) = (block(pair[0].last()), block(pair[1].first()));
            assert!(before < after, "block {after} comes in two batches");
        }
    }
}

/// A transport that normalises each table of a suspended guest in two ways.
struct Twice<'a> {
    inner: &'a mut SimTransport,
    is_suspended: Rc<Cell<bool>>,
    tables: Rc<Cell<u64>>,
}

impl Twice<'_> {
    fn compare(&mut self, pages: &[Page], view: &dyn TableView) {
        let mut tables = Vec::new();
        for page in pages.iter().filter(|page| page.kind.is_table()) {
            let FrameType::Table { level, .. } = page.kind else { continue };
            let Ok(Bytes::Table(words)) = self.inner.read(page) else { continue };
            tables.push(TableCopy::new(page.pfn, level, *words));
        }
        let one_by_one = tables.clone().into_iter().map(|mut table| {
            table.fault = normalise(table.pfn, table.level, &mut table.words, view).err();
            table
        });
        let one_by_one: Vec<_> = one_by_one.collect();
        view.normalise_all(&mut tables);
        for (one, other) in one_by_one.iter().zip(&tables) {
            assert_eq!(one.fault, other.fault, "{}", one.pfn);
            assert!(one.fault.is_some() || one.words == other.words, "{}", one.pfn);
        }
        self.tables.set(self.tables.get() + tables.len() as u64);
    }
}

impl Transport for Twice<'_> {
    fn send(
        &mut self,
        pages: &[Page],
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        if self.is_suspended.get() {
            self.compare(pages, view);
        }
        self.inner.send(pages, view, answers)
    }

    fn frame_list(&mut self, list: FrameList<'_>) -> Result<(), PortError> {
        self.inner.frame_list(list)
    }

    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        self.inner.gone(pfns)
    }

    fn returned(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        self.inner.returned(into)
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        self.inner.consistent()
    }
}

#[test]
fn tables_that_are_normalised_at_once_are_as_one_by_one() {
    let (is_suspended, tables) = (Rc::<Cell<bool>>::default(), Rc::<Cell<u64>>::default());
    for scenario in Scenario::ALL {
        for (seed, width) in [(1, Width::W64), (2, Width::W32), (3, Width::W64)] {
            let config = SimConfig { width, ..SimConfig::plain(scenario, seed, 16 << 20) };
            let simulation = Simulation::new(&config);
            let SimPorts { mut log_dirty, mut p2m, m2p, mut types, mut unlogged, mut transport } =
                simulation.ports();
            let mut twice = Twice {
                inner: &mut transport,
                is_suspended: Rc::clone(&is_suspended),
                tables: Rc::clone(&tables),
            };
            is_suspended.set(false);
            let mut nobody = ();
            let guest = Guest {
                p2m: &mut p2m,
                m2p: &m2p,
                types: &mut types,
                unlogged: &mut unlogged,
                observer: &mut nobody,
            };
            let mut ports = Ports { guest, log_dirty: &mut log_dirty, transport: &mut twice };
            let engine = scenario.engine(seed, Config::default());
            let Ok(mut migration) = Migration::start(engine, &mut ports) else { continue };
            for _ in 0..4 {
                let _ = migration.round(&mut ports); // a hostile guest may end it
            }
            simulation.suspend();
            is_suspended.set(true);
            let _ = migration.finish(&mut ports);
        }
    }
    println!("{} tables", tables.get());
    assert!(tables.get() > 1000, "{}", tables.get());
}
