// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulated Xen behind the engine's ports. Each call is a point at which the guest may run
//! first.
//! Not here: the transport (`transport`).
//! Units: as in the engine's `port`.
//! Threads: one lock over the world; `live` and `pfn` only take it when the guest is to run.
//! Source: the engine's port contracts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{FrameType, Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{
    FrameTypes, LOG_DIRTY_LEAF_PFNS, LogBuffer, LogDirty, M2p, MapFault, MapSlot, P2mSource,
    PortError, Roots, Transfer, Unlogged,
};

use crate::fault::{Fault, SimError};
use crate::log_dirty::EINVAL;
use crate::log_dirty::ENOMEM;
use crate::machine::M2pTable;
use crate::words::LiveWords;
use crate::world::World;

/// The world, shared by all ports.
#[derive(Debug)]
pub(crate) struct Shared {
    world: Mutex<World>,
    m2p: M2pTable,
    width: Width,
    /// The engine has several threads: the guest only runs in calls that one thread makes.
    serial: bool,
    /// Reads of single words before the guest runs again.
    reads_left: AtomicU64,
}

impl Shared {
    /// Puts a world behind its lock.
    pub(crate) fn new(world: World, serial: bool) -> Arc<Self> {
        let (m2p, width) = (world.xen.machine.m2p.clone(), world.guest.width);
        Arc::new(Self {
            world: Mutex::new(world),
            m2p,
            width,
            serial,
            reads_left: AtomicU64::new(64),
        })
    }

    /// The world, for one call.
    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world, after the guest had its chance to run.
    pub(crate) fn enter(&self) -> MutexGuard<'_, World> {
        let mut world = self.lock();
        world.tick();
        world
    }

    /// Counts a read of a single word: too frequent for a lock each time.
    fn count_read(&self) {
        // ORDER: Relaxed; without `serial` only one thread calls.
        if self.serial || self.reads_left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        let mut world = self.lock();
        world.burst();
        let pause = (2 * world.pause()).max(32);
        let next = world.pace.magnitude(pause) + 1;
        self.reads_left.store(next, Ordering::Relaxed); // ORDER: as above
    }
}

fn failed(call: &'static str, errno: i32, injected: Option<Fault>) -> PortError {
    Box::new(SimError { call, errno, injected })
}

/// Xen's write log.
#[derive(Clone, Debug)]
pub struct SimLogDirty(pub(crate) Arc<Shared>);

impl LogDirty for SimLogDirty {
    fn enable(&mut self) -> Result<(), PortError> {
        let mut world = self.0.enter();
        world.xen.log.enable().map_err(|errno| failed("enable log-dirty", errno, None))
    }

    fn disable(&mut self) -> Result<(), PortError> {
        let mut world = self.0.enter();
        world.xen.log.disable();
        if world.xen.log.fail_in.is_none() {
            world.xen.log.fail_in = world.faults.next_failing_mark();
        }
        Ok(())
    }

    fn clean(&mut self, mut into: LogBuffer<'_>) -> Result<u64, PortError> {
        let mut world = self.0.enter();
        let asked = into.pfns();
        if !asked.is_multiple_of(LOG_DIRTY_LEAF_PFNS) {
            world.breach("clean: a prefix that wipes bits unread");
        }
        if std::mem::take(&mut world.xen.log.fired) {
            world.faults.note(Fault::AllocationFailure);
        }
        let mut bits = PfnBitmap::new(asked);
        world.xen.log.clean(&mut bits).map_err(|errno| {
            let injected = (errno == ENOMEM).then_some(Fault::AllocationFailure);
            failed("clean log-dirty", errno, injected)
        })?;
        world.round_begins();
        let mut read = asked;
        if asked > 0 && world.faults.strikes(Fault::ShortBitmap) {
            // The bits past the end are wiped in Xen and never arrive.
            read = world.faults.dice(Fault::ShortBitmap).below(asked);
            bits.resize(read);
        }
        into.add(0, bits.words());
        Ok(read)
    }
}

/// A frame that is mapped.
#[derive(Debug)]
struct Held {
    mfn: u64,
    live: Arc<LiveWords>,
}

/// The guest's p2m.
#[derive(Debug)]
pub struct SimP2m {
    shared: Arc<Shared>,
    held: Vec<Option<Held>>,
    unused: Vec<u32>,
}

impl SimP2m {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, held: Vec::new(), unused: Vec::new() }
    }

    fn map_one(&mut self, mfn: Mfn) -> Result<MapSlot, MapFault> {
        let mut world = self.shared.enter();
        let held = map_check(&mut world, mfn).map(|()| {
            world.xen.machine.hold(mfn.0);
            world.maps_held += 1;
            Held { mfn: mfn.0, live: Arc::clone(&world.xen.machine.picture(mfn.0).live) }
        })?;
        drop(world);
        let slot = self.unused.pop().unwrap_or(self.held.len() as u32);
        if slot as usize == self.held.len() {
            self.held.push(Some(held));
        } else {
            self.held[slot as usize] = Some(held);
        }
        Ok(MapSlot(slot))
    }
}

/// Whether a frame can be mapped now.
pub(crate) fn map_check(world: &mut World, mfn: Mfn) -> Result<(), MapFault> {
    if !world.xen.machine.is_guest(mfn.0) {
        return Err(MapFault::NotOwned);
    }
    if !world.paused && world.faults.strikes(Fault::MapFailure) {
        return Err(MapFault::Errno(ENOMEM));
    }
    Ok(())
}

impl P2mSource for SimP2m {
    fn width(&self) -> Width {
        self.shared.width
    }

    fn domain_frames(&mut self) -> Result<u64, PortError> {
        Ok(self.shared.enter().xen.machine.guest_frames())
    }

    fn still_suspended(&mut self) -> Result<(), PortError> {
        let suspended = self.shared.lock().suspended;
        if suspended { Ok(()) } else { Err(failed("check the suspend", EINVAL, None)) }
    }

    fn roots(&mut self) -> Result<Roots, PortError> {
        Ok(self.shared.enter().guest.roots)
    }

    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault> {
        let mut world = self.shared.enter();
        map_check(&mut world, mfn)?;
        world.xen.machine.copy_words(mfn.0, into);
        Ok(())
    }

    fn map(&mut self, frames: &[Mfn], answers: &mut Vec<Result<MapSlot, MapFault>>) {
        answers.extend(frames.iter().map(|&mfn| self.map_one(mfn)));
    }

    fn unmap(&mut self, slots: &[MapSlot]) {
        let mut world = self.shared.enter();
        for &MapSlot(slot) in slots {
            match self.held.get_mut(slot as usize).and_then(Option::take) {
                Some(held) => {
                    world.xen.machine.drop_hold(held.mfn);
                    world.maps_held -= 1;
                    self.unused.push(slot);
                }
                None => world.breach("unmap: a slot that is not mapped"),
            }
        }
    }

    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        self.shared.count_read();
        let held = self.held.get(slot.0 as usize).and_then(Option::as_ref);
        GuestLeaf::from_atomics(&held.expect("live: a slot that is not mapped").live)
    }
}

/// Xen's mfn to pfn table.
#[derive(Clone, Debug)]
pub struct SimM2p(pub(crate) Arc<Shared>);

impl SimM2p {
    /// The table itself, as a toolstack has it mapped: a word for each frame, all ones if it has no
    /// pfn.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        self.0.m2p.words()
    }
}

impl M2p for SimM2p {
    fn frames(&self) -> u64 {
        self.0.m2p.frames()
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        self.0.count_read();
        self.0.m2p.pfn(mfn.0).map(Pfn)
    }
}

/// Owner and type of frames.
#[derive(Clone, Debug)]
pub struct SimFrameTypes(pub(crate) Arc<Shared>);

impl FrameTypes for SimFrameTypes {
    fn query(&mut self, frames: &[Mfn], types: &mut [FrameType]) -> Result<(), PortError> {
        let mut world = self.0.enter();
        if world.faults.strikes(Fault::QueryFailure) {
            return Err(failed("query frame types", ENOMEM, Some(Fault::QueryFailure)));
        }
        if frames.len() > p2mtrack::port::QUERY_FRAMES_MAX || frames.len() != types.len() {
            world.breach("query: more frames than Xen takes");
        }
        for (mfn, kind) in frames.iter().zip(types) {
            *kind = world.xen.machine.frame_type(mfn.0);
        }
        Ok(())
    }
}

/// Writers that log-dirty does not see.
#[derive(Clone, Debug)]
pub struct SimUnlogged(pub(crate) Arc<Shared>);

impl Unlogged for SimUnlogged {
    fn pfns(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        let world = self.0.enter();
        let granted = world.guest.grants.mapped.iter();
        into.extend(granted.filter_map(|&mfn| world.xen.machine.m2p.pfn(mfn)).map(Pfn));
        into.extend(world.guest.reserved_pfns.iter().map(|&pfn| Pfn(pfn)));
        Ok(())
    }

    fn accepts_transfer(&mut self) -> Result<bool, PortError> {
        let mut world = self.0.enter();
        // A query while the guest is paused must not affect it.
        world.grant_queries += u64::from(!world.paused);
        let counted = !world.paused;
        Ok(world.guest.grants.accepts_transfer(counted))
    }

    fn transfers(&mut self, into: &mut Vec<Transfer>) -> Result<bool, PortError> {
        // A part of the same query: the guest has no chance to run.
        into.extend(self.0.lock().guest.grants.transfers());
        Ok(true)
    }
}
