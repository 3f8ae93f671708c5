// SPDX-License-Identifier: MIT OR Apache-2.0
//! The passes: everything once, then what log-dirty names, then the rest while the guest is
//! suspended; again for Remus.
//! Not here: a batch (`batch`), the p2m (`p2m`).
//! Units: pfns; a pass is one CLEAN and what it named.
//! Threads: one.
//! Source: libxc `send_domain_memory_live`, `suspend_and_send_dirty`, `simple_precopy_policy`,
//! `save`.

use std::sync::atomic::Ordering;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::Pfn;
use p2mtrack::port::{LOG_DIRTY_LEAF_PFNS, LogBuffer, LogDirty, QUERY_FRAMES_MAX};

use super::abort::Abort;
use super::batch;
use super::p2m::P2m;
use crate::fault::Fault;
use crate::oracle::Verdict;
use crate::run::{Ending, Run};
use crate::simulation::{SimConfig, SimPorts, Simulation};

/// `simple_precopy_policy`: so few dirty pfns that the guest is suspended now.
const TARGET_DIRTY: u64 = 50;
/// `simple_precopy_policy`: the passes after which it is suspended anyway.
const PASSES_MAX: u64 = 5;
/// Queries of the grant table that a guest may wait for.
const GRANT_QUERIES: u64 = 1;

/// Builds a simulation and migrates it as upstream would.
#[must_use]
pub fn migrate(config: &SimConfig) -> Run {
    migrate_with(&Simulation::new(config))
}

/// Migrates the guest of a fresh simulation as upstream would.
#[must_use]
pub fn migrate_with(simulation: &Simulation) -> Run {
    run_passes(simulation, false)
}

/// The same, but each pass lasts as long as the guest has steps to take in it, however few calls
/// the pass makes: so the guest does the same beside every tracker.
#[must_use]
pub fn migrate_in_full_rounds(simulation: &Simulation) -> Run {
    run_passes(simulation, true)
}

fn run_passes(simulation: &Simulation, full: bool) -> Run {
    let mut ports = simulation.ports();
    let mut run = Run::default();
    match P2m::map(simulation.shared(), &mut ports) {
        Ok(p2m) => {
            let deferred = PfnBitmap::new(p2m.pfns());
            let passes =
                Passes { simulation, ports: &mut ports, p2m: &p2m, deferred, live: true, full };
            let result = passes.run(&mut run);
            p2m.unmap(&mut ports.p2m);
            settle(simulation, result, &mut run);
        }
        Err(abort) => settle(simulation, Err(abort), &mut run),
    }
    run
}

/// Records how it ended, and what is left at the source.
pub(super) fn settle(simulation: &Simulation, result: Result<(), Abort>, run: &mut Run) {
    let off = simulation.ports().log_dirty.disable();
    if let Err(abort) = result {
        run.ending = Ending::Aborted;
        run.error = Some(abort.cause);
        run.fault = abort.fault;
    }
    run.struck = simulation.faults_struck();
    run.activity = simulation.activity();
    run.pages_sent = simulation.shared().lock().receiver.pages;
    let harm = simulation.harm();
    run.harmed = off.err().map(|error| error.to_string()).or(harm);
}

/// Enables log-dirty; a first failure is taken for log-dirty that another tool left on.
pub(super) fn enable(simulation: &Simulation, ports: &mut SimPorts) -> Result<(), Abort> {
    if ports.log_dirty.enable().is_err() {
        ports.log_dirty.disable()?;
        ports.log_dirty.enable()?;
    }
    // The simulated guest paces itself by rounds: the first copy is one, as it is for the engine.
    simulation.shared().lock().round_begins();
    Ok(())
}

/// A migration under way.
struct Passes<'a> {
    simulation: &'a Simulation,
    ports: &'a mut SimPorts,
    p2m: &'a P2m,
    /// Invalid entries and tables that could not be normalised, for the suspended pass.
    deferred: PfnBitmap,
    /// True until the first suspend: the generation is only checked until then.
    live: bool,
    /// A pass ends when the guest has taken all of its steps.
    full: bool,
}

impl Passes<'_> {
    fn run(mut self, run: &mut Run) -> Result<(), Abort> {
        let list = self.p2m.list();
        self.simulation.shared().enter().receiver.take_list(self.p2m.pfns(), list);
        enable(self.simulation, self.ports)?;
        self.check()?;
        self.precopy(run)?;
        for _ in 0..self.simulation.checkpoints() {
            self.suspended_pass(run)?;
            if !matches!(run.ending, Ending::Judged(Verdict::Identical)) {
                return Ok(());
            }
            self.simulation.resume();
            self.simulation.shared().lock().run_out();
        }
        self.suspended_pass(run)
    }

    /// `check_vm_state`.
    fn check(&mut self) -> Result<(), Abort> {
        if self.live { self.p2m.check_generation(&mut self.ports.p2m) } else { Ok(()) }
    }

    fn precopy(&mut self, run: &mut Run) -> Result<(), Abort> {
        self.send((0..self.p2m.pfns()).map(Pfn), run)?;
        for pass in 2..=PASSES_MAX {
            let dirty = self.clean()?;
            self.send(dirty.iter(), run)?;
            if dirty.count() < TARGET_DIRTY || pass == PASSES_MAX {
                break;
            }
        }
        Ok(())
    }

    /// Suspends the guest, sends what is dirty or was deferred, and lets the oracle judge.
    fn suspended_pass(&mut self, run: &mut Run) -> Result<(), Abort> {
        self.simulation.suspend();
        let mut dirty = self.clean()?;
        for pfn in self.deferred.drain() {
            dirty.set(pfn);
        }
        let before = self.received();
        self.send(dirty.iter(), run)?;
        let (pages, tables) = self.received();
        run.upstream_suspended.0 += pages - before.0;
        run.upstream_suspended.1 += tables - before.1;
        self.deferred.reset(self.p2m.pfns());
        self.live = false;
        let judgement = self.simulation.judge();
        run.ending = Ending::Judged(judgement.verdict);
        run.judgement = Some(judgement);
        Ok(())
    }

    /// Pages and page tables that have arrived.
    fn received(&self) -> (u64, u64) {
        let world = self.simulation.shared().lock();
        (world.receiver.pages, world.receiver.tables_received)
    }

    /// CLEAN over the pfns that were mapped at the start. A bitmap that is short ends the
    /// migration.
    fn clean(&mut self) -> Result<PfnBitmap, Abort> {
        let pfns = self.p2m.pfns();
        let mut dirty = PfnBitmap::new(pfns.next_multiple_of(LOG_DIRTY_LEAF_PFNS));
        if self.ports.log_dirty.clean(LogBuffer::over(&mut dirty))? < dirty.pfns() {
            return Err(Abort::struck_by(Fault::ShortBitmap, "read the log-dirty bitmap: short"));
        }
        dirty.resize(pfns);
        Ok(dirty)
    }

    /// `send_dirty_pages`.
    fn send(&mut self, pfns: impl Iterator<Item = Pfn>, run: &mut Run) -> Result<(), Abort> {
        let shared = self.simulation.shared();
        let cancelled = self.simulation.cancel_flag();
        let mut pfns = pfns.peekable();
        while pfns.peek().is_some() {
            let some: Vec<Pfn> = pfns.by_ref().take(QUERY_FRAMES_MAX).collect();
            // ORDER: a flag of its own, set by this thread's own calls
            if cancelled.load(Ordering::Relaxed) {
                return Err(Abort::struck_by(Fault::Cancel, "cancelled"));
            }
            batch::send(shared, self.ports, self.p2m, &some, &mut self.deferred)?;
            // The simulated guest keeps a transfer entry until the grant table is queried. Upstream
            // never queries it, so count a query here to keep the guest from waiting.
            shared.lock().grant_queries += GRANT_QUERIES;
        }
        run.rounds += 1;
        if self.full {
            shared.lock().run_out();
        }
        self.check()
    }
}
