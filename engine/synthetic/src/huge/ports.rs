// SPDX-License-Identifier: MIT OR Apache-2.0
//! A huge guest behind the engine's ports.
//! Not here: the guest itself (`guest`).
//! Units: as in the engine's `port`. A slot is the position of a leaf.
//! Threads: `live` and `pfn` by all shards at once; they are plain reads of atomics.
//! Source: the engine's port contracts.

use std::sync::atomic::Ordering;

use p2mtrack::frame::{FrameType, Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{
    Answer, Deferral, FrameList, FrameTypes, Guest as Lent, LOG_DIRTY_LEAF_PFNS, LogBuffer,
    LogDirty, M2p, MapFault, MapSlot, Observer, P2mSource, Page, PortError, Ports,
    QUERY_FRAMES_MAX, Roots, Transfer, Transport, Unlogged,
};
use p2mtrack::table::{TableView, normalise};

use crate::fault::SimError;
use crate::log_dirty::EINVAL;

use super::guest::Guest;
use super::receiver::NO_PFN;
use super::zone::{P2M_VADDR, Part};

/// One port. The ports of a guest only differ in the trait that they are used by.
#[derive(Clone, Copy, Debug)]
struct Port<'g>(&'g Guest);

/// All ports of a guest.
#[derive(Debug)]
pub struct GuestPorts<'g> {
    log_dirty: Port<'g>,
    p2m: Port<'g>,
    m2p: Port<'g>,
    types: Port<'g>,
    unlogged: Port<'g>,
    transport: Port<'g>,
}

impl<'g> GuestPorts<'g> {
    /// The ports of a guest.
    #[must_use]
    pub const fn new(guest: &'g Guest) -> Self {
        let port = Port(guest);
        Self { log_dirty: port, p2m: port, m2p: port, types: port, unlogged: port, transport: port }
    }

    /// Lends the ports for one call of the engine.
    pub fn lend<'a>(&'a mut self, observer: &'a mut dyn Observer) -> Ports<'a> {
        Ports {
            guest: Lent {
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

fn refused(call: &'static str) -> PortError {
    Box::new(SimError { call, errno: EINVAL, injected: None })
}

impl LogDirty for Port<'_> {
    fn enable(&mut self) -> Result<(), PortError> {
        self.0.log().enable().then_some(()).ok_or_else(|| refused("enable log-dirty"))
    }

    fn disable(&mut self) -> Result<(), PortError> {
        self.0.log().disable();
        Ok(())
    }

    fn clean(&mut self, into: LogBuffer<'_>) -> Result<u64, PortError> {
        if !into.pfns().is_multiple_of(LOG_DIRTY_LEAF_PFNS) {
            self.0.breach("clean: a prefix that wipes bits unread");
        }
        let pfns = into.pfns();
        let done = self.0.log().clean(into);
        done.then_some(pfns).ok_or_else(|| refused("clean log-dirty"))
    }
}

impl P2mSource for Port<'_> {
    fn width(&self) -> Width {
        Width::W64
    }

    fn domain_frames(&mut self) -> Result<u64, PortError> {
        Ok(self.0.frames())
    }

    fn roots(&mut self) -> Result<Roots, PortError> {
        let root = self.0.entry(self.0.zone.pfn(Part::Table(4, 0)));
        Ok(Roots {
            pfn_count: self.0.pfns(),
            p2m_cr3: root << 12,
            p2m_vaddr: P2M_VADDR,
            ..Roots::default()
        })
    }

    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault> {
        self.0.machine.pfn(mfn.0).ok_or(MapFault::NotOwned)?;
        match self.0.part(mfn.0) {
            Some(Part::Table(level, index)) => *into = self.0.table(level, index),
            Some(Part::Leaf(position)) => {
                self.live(MapSlot(position as u32)).fetch(into);
            }
            None => *into = Leaf::default(),
        }
        Ok(())
    }

    fn map(&mut self, frames: &[Mfn], answers: &mut Vec<Result<MapSlot, MapFault>>) {
        answers.extend(frames.iter().map(|mfn| match self.0.part(mfn.0) {
            Some(Part::Leaf(position)) => {
                self.0.maps_held.fetch_add(1, Ordering::Relaxed); // ORDER: a number by itself
                Ok(MapSlot(position as u32))
            }
            Some(Part::Table(..)) => Err(MapFault::Errno(EINVAL)),
            None if self.0.machine.pfn(mfn.0).is_none() => Err(MapFault::NotOwned),
            None => Err(MapFault::Errno(EINVAL)),
        }));
    }

    fn unmap(&mut self, slots: &[MapSlot]) {
        // ORDER: a number by itself
        let held = self.0.maps_held.fetch_sub(slots.len() as u64, Ordering::Relaxed);
        if held < slots.len() as u64 {
            self.0.breach("unmap: more than is mapped");
        }
    }

    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        let leaf = self.0.leaf(u64::from(slot.0));
        GuestLeaf::from_atomics(leaf.expect("live: a slot that no map has answered with"))
    }
}

impl M2p for Port<'_> {
    fn frames(&self) -> u64 {
        self.0.machine.frames()
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        self.0.machine.pfn(mfn.0).map(Pfn)
    }
}

impl FrameTypes for Port<'_> {
    fn query(&mut self, frames: &[Mfn], types: &mut [FrameType]) -> Result<(), PortError> {
        if frames.len() > QUERY_FRAMES_MAX || frames.len() != types.len() {
            self.0.breach("query: more frames than Xen takes");
        }
        for (mfn, kind) in frames.iter().zip(types) {
            *kind = match self.0.machine.pfn(mfn.0) {
                None => FrameType::NotOwned,
                Some(pfn) => match self.0.zone.part(pfn) {
                    Some(Part::Table(level, _)) => FrameType::Table { level, pinned: level == 4 },
                    Some(Part::Leaf(_)) | None => FrameType::Data,
                },
            };
        }
        Ok(())
    }
}

impl Unlogged for Port<'_> {
    fn pfns(&mut self, _: &mut Vec<Pfn>) -> Result<(), PortError> {
        Ok(())
    }

    fn accepts_transfer(&mut self) -> Result<bool, PortError> {
        Ok(false)
    }

    fn transfers(&mut self, _: &mut Vec<Transfer>) -> Result<bool, PortError> {
        Ok(true)
    }
}

impl Port<'_> {
    fn send_one(&self, page: &Page, view: &dyn TableView) -> Answer {
        let guest = self.0;
        let Pfn(pfn) = page.pfn;
        if guest.machine.pfn(page.mfn.0).is_none() {
            return Answer::Deferred(Deferral::MapFailed(MapFault::NotOwned));
        }
        if pfn >= guest.pfns() {
            guest.breach("send: a page past the frame list");
            return Answer::Failed(refused("receive a page past the frame list"));
        }
        let table = page.kind.is_table();
        if let (true, Some(Part::Table(level, index))) = (table, guest.part(page.mfn.0)) {
            let mut words = Box::new(guest.table(level, index));
            if let Err(fault) = normalise(page.pfn, level, &mut words, view) {
                return Answer::Deferred(Deferral::Table(fault));
            }
            guest.receiver.pieces().tables.insert(pfn, words);
        } else if table {
            guest.breach("send: a page table that is none");
        }
        guest.receiver.take(pfn, guest.stamped(page.mfn.0), guest.pattern().entry(pfn));
        Answer::Accepted
    }
}

impl Transport for Port<'_> {
    fn send(
        &mut self,
        pages: &[Page],
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        if pages.len() > QUERY_FRAMES_MAX {
            self.0.breach("send: a batch that is too long");
        }
        answers.extend(pages.iter().map(|page| self.send_one(page, view)));
        Ok(())
    }

    fn frame_list(&mut self, list: FrameList<'_>) -> Result<(), PortError> {
        let pfns = list.leaves.iter().map(|pfn| pfn.map_or(NO_PFN, |pfn| pfn.0 as u32));
        let pieces = &mut *self.0.receiver.pieces();
        pieces.list.clear();
        pieces.list.extend(pfns);
        Ok(())
    }

    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        if !self.0.is_suspended() {
            self.0.breach("gone: called while the guest runs");
        }
        self.0.receiver.take_gone(pfns);
        Ok(())
    }

    fn returned(&mut self, _: &mut Vec<Pfn>) -> Result<(), PortError> {
        Ok(())
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        if !self.0.is_suspended() {
            self.0.breach("consistent: called while the guest runs");
        }
        Ok(())
    }
}
