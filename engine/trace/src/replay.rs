// SPDX-License-Identifier: MIT OR Apache-2.0
//! A recording behind the tracker's ports: each round's roots, log, frames and m2p as recorded.
//! Not here: page contents, types or a destination: a trace has none (`silent`).
//! Units: as in the tracker's `port`.
//! Threads: ports as their traits say; [`Replay::advance`] while no port is inside a call.
//! Source: own.
//!
//! ```text
//! Replay::advance --> round N: live frames rewritten, log filled
//!    roots() -> before | clean() | roots() -> after | read, map, live, m2p: round N
//! ```
//!
//! The log works as in Xen: bits that a CLEAN did not ask for stay for the next one, and so do
//! those of a round without CLEAN. A mapping stays readable when its frame leaves the list, with
//! its contents of that time.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Entry, Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{
    Guest, LogBuffer, LogDirty, M2p, MapFault, MapSlot, Observer, P2mSource, PortError, Roots,
};

use crate::error::{TraceError, TraceFault};
use crate::format::BlockKind;
use crate::frames::{Frame, Frames};
use crate::meta::Meta;
use crate::names::{FirstNames, Names};
use crate::reader::Reader;
use crate::round::{NONE, Round};
use crate::rounds::Rounds;

pub use crate::silent::{AllData, NoneUnlogged};

/// What the ports have in common.
#[derive(Debug)]
struct Machine {
    width: Width,
    names: Arc<FirstNames>,
    /// m2p of listed frames and exceptions; it has priority over names.
    stated: RwLock<HashMap<u64, Option<u64>>>,
    stage: Mutex<Stage>,
}

/// What a round presents.
#[derive(Debug, Default)]
struct Stage {
    first_copy: bool,
    before: Roots,
    after: Roots,
    cleaned: bool,
    /// Marks that no CLEAN has read yet.
    log: PfnBitmap,
    /// Pfns that this round's CLEAN covered.
    recorded: u64,
    upper: HashMap<u64, Arc<Leaf>>,
    frames: Frames,
    domain_frames: u64,
}

impl Machine {
    /// A panic in another port's call leaves no partial change: each call is one step.
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pfn(&self, mfn: u64) -> Option<u64> {
        let stated = self.stated.read().unwrap_or_else(PoisonError::into_inner);
        stated.get(&mfn).copied().unwrap_or_else(|| self.names.pfn(mfn))
    }
}

/// A trace being replayed: which round it is, and ports that show it.
#[derive(Debug)]
pub struct Replay<'r> {
    rounds: Rounds<'r>,
    names: Names,
    machine: Arc<Machine>,
}

impl<'r> Replay<'r> {
    /// Begins with the first copy (round 0).
    ///
    /// # Errors
    /// Round 0 can't be decoded, or the machine exceeds the reader's limits.
    pub fn new(reader: &'r Reader<'_>) -> Result<Self, TraceError> {
        let meta = reader.meta();
        let limit = reader.limits().machine_frames;
        TraceFault::limit("frames of the machine", meta.max_mfn, limit)
            .map_err(|fault| fault.at(0).within(BlockKind::Meta.of(0)))?;
        let names = Names::new(meta.max_mfn)
            .ok_or(TraceFault::Io(io::ErrorKind::OutOfMemory.into()).at(0))?;
        let machine = Arc::new(Machine {
            width: meta.width,
            names: Arc::clone(names.first()),
            stated: RwLock::default(),
            stage: Mutex::default(),
        });
        let mut replay = Self { rounds: reader.rounds(), names, machine };
        replay.advance()?;
        Ok(replay)
    }

    /// Advances to the next round, for all ports at once. `false` after the last one, which stays.
    ///
    /// # Errors
    /// The round can't be decoded; the replay is then unusable.
    pub fn advance(&mut self) -> Result<bool, TraceError> {
        let Meta { width, max_mfn, .. } = *self.rounds.meta();
        let names = &mut self.names;
        let moved = self.rounds.advance_with(|pfn, old, new| {
            if Entry(old).names_frame(width, max_mfn) {
                names.remove(old, pfn);
            }
            if Entry(new).names_frame(width, max_mfn) {
                names.add(new, pfn);
            }
        })?;
        if moved {
            self.publish();
        }
        Ok(moved)
    }

    /// The current round as recorded, for checkers without a tracker.
    #[must_use]
    pub const fn round(&self) -> &Round {
        self.rounds.round()
    }

    /// The current round's number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.rounds.number().unwrap_or(0)
    }

    /// What the trace is of.
    #[must_use]
    pub const fn meta(&self) -> &Meta {
        self.rounds.meta()
    }

    /// Ports that show the current round, and each later one after [`Replay::advance`].
    #[must_use]
    pub fn ports(&self) -> ReplayPorts {
        let machine = || Arc::clone(&self.machine);
        ReplayPorts {
            log_dirty: ReplayLogDirty { machine: machine() },
            p2m: ReplayP2m { machine: machine(), slots: Vec::new(), free: Vec::new() },
            m2p: ReplayM2p { machine: machine() },
            types: AllData,
            unlogged: NoneUnlogged,
        }
    }

    fn publish(&self) {
        let round = self.rounds.round();
        let mut stated = HashMap::new();
        let some = |word: u64| (word != NONE).then_some(word);
        let leaves = round.leaf_mfns.iter().zip(&round.leaf_pfns);
        stated.extend(leaves.filter(|&(&mfn, _)| mfn != NONE).map(|(&mfn, &pfn)| (mfn, some(pfn))));
        stated.extend(round.upper.iter().map(|f| (f.mfn.0, f.pfn.map(|pfn| pfn.0))));
        let unnamed = stated.keys().filter(|&&mfn| self.names.first().pfn(mfn).is_none()).count();
        stated.extend(&round.exceptions);
        let mut stage = self.machine.stage();
        stage.domain_frames = self.names.named() + unnamed as u64;
        stage.begin(round, self.number() == 0);
        stage.frames.publish(self.machine.width, round, self.rounds.touched());
        *self.machine.stated.write().unwrap_or_else(PoisonError::into_inner) = stated;
    }
}

impl Stage {
    fn begin(&mut self, round: &Round, first_copy: bool) {
        self.first_copy = first_copy;
        (self.before, self.after) = (round.before, round.after);
        self.cleaned = false;
        self.upper = round.upper.iter().map(|f| (f.mfn.0, Arc::clone(&f.content))).collect();
        self.recorded = round.log_dirty.as_ref().map_or(0, PfnBitmap::pfns);
        if let Some(bitmap) = &round.log_dirty {
            if self.log.pfns() < bitmap.pfns() {
                self.log.resize(bitmap.pfns());
            }
            for pfn in bitmap.iter() {
                self.log.set(pfn);
            }
        }
    }

    /// Reads and clears the part of the log that the recorded CLEAN covered.
    fn clean(&mut self, mut into: LogBuffer<'_>) -> u64 {
        self.cleaned = true;
        let asked = into.pfns();
        let read = if self.first_copy { asked } else { asked.min(self.recorded) };
        if read >= self.log.pfns() {
            into.add(0, self.log.words());
            self.log.reset(0);
            return read;
        }
        let taken: Vec<Pfn> = self.log.iter().take_while(|pfn| pfn.0 < read).collect();
        for pfn in taken {
            into.set(pfn);
            self.log.clear(pfn);
        }
        read
    }
}

/// All ports of a replay. They share its state, and outlive it.
#[derive(Debug)]
pub struct ReplayPorts {
    /// The recorded log.
    pub log_dirty: ReplayLogDirty,
    /// The recorded p2m.
    pub p2m: ReplayP2m,
    /// The recorded m2p.
    pub m2p: ReplayM2p,
    /// Every frame is data.
    pub types: AllData,
    /// There are no unlogged writers.
    pub unlogged: NoneUnlogged,
}

impl ReplayPorts {
    /// Lends the recorded guest and its log for one call of a tracker.
    pub fn lend<'a>(
        &'a mut self,
        observer: &'a mut dyn Observer,
    ) -> (Guest<'a>, &'a mut ReplayLogDirty) {
        let Self { log_dirty, p2m, m2p, types, unlogged } = self;
        (Guest { p2m, m2p, types, unlogged, observer }, log_dirty)
    }
}

/// The recorded log-dirty bitmaps.
#[derive(Debug)]
pub struct ReplayLogDirty {
    machine: Arc<Machine>,
}

impl LogDirty for ReplayLogDirty {
    fn enable(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn disable(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn clean(&mut self, into: LogBuffer<'_>) -> Result<u64, PortError> {
        Ok(self.machine.stage().clean(into))
    }
}

/// The recorded roots, upper frames and leaves.
#[derive(Debug)]
pub struct ReplayP2m {
    machine: Arc<Machine>,
    slots: Vec<Option<Arc<Frame>>>,
    free: Vec<u32>,
}

impl P2mSource for ReplayP2m {
    fn width(&self) -> Width {
        self.machine.width
    }

    /// Distinct frames that the p2m names or is made of.
    fn domain_frames(&mut self) -> Result<u64, PortError> {
        Ok(self.machine.stage().domain_frames)
    }

    /// Those before CLEAN until CLEAN, then those of the walk; in round 0 only these.
    fn roots(&mut self) -> Result<Roots, PortError> {
        let stage = self.machine.stage();
        Ok(if stage.first_copy || stage.cleaned { stage.after } else { stage.before })
    }

    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault> {
        let stage = self.machine.stage();
        if let Some(content) = stage.upper.get(&mfn.0) {
            into.words = content.words;
            return Ok(());
        }
        // A walk reads leaves that are listed at many positions.
        let leaf = stage.frames.leaf(mfn.0).ok_or(MapFault::NotOwned)?;
        GuestLeaf::from_atomics(&leaf.words).fetch(into);
        Ok(())
    }

    fn map(&mut self, frames: &[Mfn], answers: &mut Vec<Result<MapSlot, MapFault>>) {
        let stage = self.machine.stage();
        answers.extend(frames.iter().map(|mfn| {
            let frame = stage.frames.leaf(mfn.0).ok_or(MapFault::NotOwned)?;
            let held = Some(Arc::clone(frame));
            if let Some(slot) = self.free.pop() {
                self.slots[slot as usize] = held;
                return Ok(MapSlot(slot));
            }
            // ENOMEM: a slot number has 32 bits.
            let slot = u32::try_from(self.slots.len()).map_err(|_| MapFault::Errno(12))?;
            self.slots.push(held);
            Ok(MapSlot(slot))
        }));
    }

    fn unmap(&mut self, slots: &[MapSlot]) {
        for slot in slots {
            let held = self.slots.get_mut(slot.0 as usize).and_then(Option::take);
            assert!(held.is_some(), "slot {} is not mapped", slot.0);
            self.free.push(slot.0);
        }
    }

    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        let Some(Some(frame)) = self.slots.get(slot.0 as usize) else {
            panic!("slot {} is not mapped", slot.0);
        };
        GuestLeaf::from_atomics(&frame.words)
    }
}

/// The recorded m2p: of listed frames and exceptions as stated, of others the lowest pfn that names
/// them.
#[derive(Debug)]
pub struct ReplayM2p {
    machine: Arc<Machine>,
}

impl M2p for ReplayM2p {
    fn frames(&self) -> u64 {
        self.machine.names.frames()
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        self.machine.pfn(mfn.0).map(Pfn)
    }
}
