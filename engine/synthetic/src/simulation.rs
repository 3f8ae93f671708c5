// SPDX-License-Identifier: MIT OR Apache-2.0
//! One run: a guest, a Xen, a receiver and faults from one seed, behind the engine's ports.
//! Not here: a tracker. The caller drives one over the ports and asks the oracle at the end.
//! Units: guest size in bytes, everything else in pfns or times.
//! Threads: the handles may go to any thread; with more than one, `threads` has to say so.
//! Source: none; a model.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use p2mtrack::port::{Guest, Observer, Ports};

use crate::dice::Dice;
use crate::fault::{Fault, Faults};
use crate::guest::{P2mKind, Shape};
use crate::limits::Begun;
use crate::oracle::{Judgement, judge};
use crate::ports::{Shared, SimFrameTypes, SimLogDirty, SimM2p, SimP2m, SimUnlogged};
use crate::premise;
use crate::snapshot::{Snapshot, SourceFrame, frames};
use crate::transport::SimTransport;
use crate::world::World;

pub use crate::options::SimConfig;
use crate::options::TransportKind;
use crate::stream::SimStream;

/// Purpose of the streams of suspends that are taken back; the number of the checkpoint is added.
const TAKEN_BACK: u64 = 6 << 60;

/// Handles of all ports of one run.
#[derive(Debug)]
pub struct SimPorts {
    /// Xen's write log.
    pub log_dirty: SimLogDirty,
    /// The guest's p2m.
    pub p2m: SimP2m,
    /// Xen's mfn to pfn table.
    pub m2p: SimM2p,
    /// Owner and type of frames.
    pub types: SimFrameTypes,
    /// Writers without a log.
    pub unlogged: SimUnlogged,
    /// The transport to the destination.
    pub transport: SimTransport,
}

impl SimPorts {
    /// Lends the ports for one call of the engine.
    pub fn lend<'a>(&'a mut self, observer: &'a mut dyn Observer) -> Ports<'a> {
        Ports {
            guest: Guest {
                p2m: &mut self.p2m,
                m2p: &self.m2p,
                types: &mut self.types,
                unlogged: &mut self.unlogged,
                observer,
            },
            log_dirty: &mut self.log_dirty,
            transport: &mut self.transport,
        }
    }
}

/// How much a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Steps that the guest took.
    pub steps: u64,
    /// The programs that it began, in order.
    pub begun: Vec<Begun>,
    /// Attempts to plan a program, failed ones included.
    pub planned: u64,
    /// Pages that reached the receiver.
    pub pages_received: u64,
    /// Of these, page tables.
    pub tables_received: u64,
    /// Frames that the receiver freed.
    pub frames_gone: u64,
    /// Consistent points that the receiver confirmed.
    pub confirmed: u64,
}

/// One run.
#[derive(Debug)]
pub struct Simulation {
    shared: Arc<Shared>,
    kind: P2mKind,
    checkpoints: u32,
    /// The seed of the suspends that are taken back; `None` if the scenario has none.
    taken_back: Option<u64>,
    transport: TransportKind,
    has_threads: bool,
}

impl Simulation {
    /// Builds guest, machine and receiver.
    #[must_use]
    pub fn new(config: &SimConfig) -> Self {
        let mut dice = Dice::new(config.seed, config.scenario as u64);
        let drawn = dice.pick(&[P2mKind::Linear, P2mKind::Tree]);
        let kind = config.p2m.or(config.scenario.forced_p2m()).unwrap_or(drawn);
        let gap = config.scenario.gap(config.seed);
        let shape = Shape { guest_bytes: config.guest_bytes, width: config.width, kind, gap };
        let pages = config.guest_bytes / p2mtrack::frame::FRAME_BYTES as u64;
        let mix = config.scenario.mix(pages, &mut dice);
        let faults = Faults::sample(&config.faults, pages, dice.word());
        // Drawn in any case: a configured number must not shift later draws.
        let own = dice.between(2, 5) as u32;
        let checkpoints = match config.checkpoints {
            0 => config.scenario.checkpoints(own),
            asked => asked,
        };
        let world = World::new(shape, mix, faults, config.limits.clone(), dice.word());
        let taken_back = config.scenario.takes_back().then_some(config.seed);
        let shared = Shared::new(world, config.threads > 1);
        let (transport, has_threads) = (config.transport, config.threads > 1);
        Self { shared, kind, checkpoints, taken_back, transport, has_threads }
    }

    /// Handles for the engine. One set is enough; the mappings belong to the set.
    #[must_use]
    pub fn ports(&self) -> SimPorts {
        let shared = || Arc::clone(&self.shared);
        SimPorts {
            log_dirty: SimLogDirty(shared()),
            p2m: SimP2m::new(shared()),
            m2p: SimM2p(shared()),
            types: SimFrameTypes(shared()),
            unlogged: SimUnlogged(shared()),
            transport: SimTransport::new(shared()),
        }
    }

    /// A transport over the bytes of a stream, if the run was configured so.
    pub(crate) fn stream(&self) -> Option<SimStream> {
        (self.transport == TransportKind::Stream)
            .then(|| SimStream::begin(Arc::clone(&self.shared), self.has_threads).expect("threads"))
    }

    /// The world, for a tracker that is part of the simulation.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// How the guest keeps its p2m.
    #[must_use]
    pub const fn p2m_kind(&self) -> P2mKind {
        self.kind
    }

    /// Checkpoints before the last suspend.
    #[must_use]
    pub const fn checkpoints(&self) -> u32 {
        self.checkpoints
    }

    /// Pages after which the round of a checkpoint fails, at the latest when it is to be confirmed.
    /// Its suspend is then taken back. `None` if it ends well.
    #[must_use]
    pub fn checkpoint_fails_after(&self, checkpoint: u32) -> Option<u64> {
        let mut dice = Dice::new(self.taken_back?, TAKEN_BACK | u64::from(checkpoint));
        let pages = dice.magnitude(512);
        dice.chance(1, 3).then_some(pages)
    }

    /// Whether the seed's number of live rounds is over.
    #[must_use]
    pub fn wants_suspend(&self) -> bool {
        self.shared.lock().wants_suspend()
    }

    /// Set at the moment, perhaps amid a round, at which the user cancels.
    #[must_use]
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shared.lock().cancelled)
    }

    /// The guest runs on to a consistent boundary and stops.
    pub fn suspend(&self) {
        self.shared.lock().suspend();
    }

    /// Pauses the guest at any point, or lets it go on: for drivers that compare one moment.
    pub fn pause(&self, paused: bool) {
        self.shared.lock().paused = paused;
    }

    /// The guest goes on, after a checkpoint or a migration that was given up.
    pub fn resume(&self) {
        self.shared.lock().resume();
    }

    /// The guest runs for some steps outside of any port call.
    pub fn run_guest(&self, steps: u64) {
        let mut world = self.shared.lock();
        for _ in 0..if world.suspended { 0 } else { steps } {
            world.step();
        }
    }

    /// The guest takes all steps that it has left in this round.
    pub fn run_out(&self) {
        self.shared.lock().run_out();
    }

    /// The source's state at this moment; the guest has to be suspended.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.shared.lock())
    }

    /// The source's frames in the order of their pfns, by its true state: for a reference copy.
    #[must_use]
    pub fn source_frames(&self) -> Vec<SourceFrame> {
        frames(&self.shared.lock())
    }

    /// Compares the suspended source with the receiver.
    #[must_use]
    pub fn judge(&self) -> Judgement {
        let world = self.shared.lock();
        judge(&Snapshot::take(&world), &world.receiver)
    }

    /// Which faults struck, and how often.
    #[must_use]
    pub fn faults_struck(&self) -> Vec<(Fault, u64)> {
        self.shared.lock().faults.struck()
    }

    /// Where the caller broke a port's contract.
    #[must_use]
    pub fn breaches(&self) -> Vec<&'static str> {
        self.shared.lock().breaches.clone()
    }

    /// What happened so far.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let world = self.shared.lock();
        Activity {
            steps: world.steps,
            begun: world.begun.clone(),
            planned: world.planned,
            pages_received: world.receiver.pages,
            tables_received: world.receiver.tables_received,
            frames_gone: world.receiver.gone,
            confirmed: world.confirmed,
        }
    }

    /// Whether the guest keeps the premise `m2p[p2m[pfn]] = pfn`, as an honest one does when
    /// suspended.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_premise(&self) -> Result<(), String> {
        premise::check(&self.shared.lock())
    }

    /// What a tracker broke: a port's contract, or the source. To check this the guest runs on.
    #[must_use]
    pub fn harm(&self) -> Option<String> {
        let breach = self.breaches().first().map(|breach| (*breach).to_owned());
        breach.or_else(|| self.check_unharmed().err())
    }

    /// Whether a migration that was given up left the source as it was: log-dirty off, nothing
    /// mapped, and the guest runs on.
    ///
    /// # Errors
    /// What the migration left behind.
    pub fn check_unharmed(&self) -> Result<(), String> {
        let mut world = self.shared.lock();
        if world.xen.log.is_enabled() {
            return Err("log-dirty is still on".to_owned());
        }
        if world.maps_held > 0 {
            return Err(format!("{} frames are still mapped", world.maps_held));
        }
        world.resume();
        for _ in 0..256 {
            world.step();
        }
        world.suspend();
        if !world.mix.honest {
            return Ok(());
        }
        premise::check(&world)
    }
}
