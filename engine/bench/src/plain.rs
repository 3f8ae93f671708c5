// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest that does nothing, whose p2m and m2p are plain arrays: for loops over both.
//! Not here: a guest that lives (`p2mtrack-synthetic`).
//! Units: pfns and mfns, as many of one as of the other; a 64-bit guest with a 3-level p2m.
//! Threads: words are atomics.
//! Source: the engine's port contracts.

use std::sync::atomic::{AtomicU64, Ordering};

use p2mtrack::frame::{FrameType, Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{
    Answer, FrameList, FrameTypes, Guest, LogBuffer, LogDirty, M2p, MapFault, MapSlot, P2mSource,
    Page, PortError, Ports, Roots, Transport, Unlogged,
};
use p2mtrack::table::TableView;

use crate::frames::{Frames, Pages};

/// Entries of a p2m frame.
const ENTRIES: u64 = 512;
/// The machine's first frames are not the guest's.
const FIRST_MFN: u64 = 512;

/// How frames follow pfns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In runs of 2 MiB.
    Runs,
    /// At random.
    Random,
}

/// The guest. Its first pfns have the leaves, then the mid frames and the top frame of its p2m.
#[derive(Debug)]
pub struct PlainGuest {
    leaves: Frames,
    m2p: Box<[AtomicU64]>,
    order: Order,
}

impl PlainGuest {
    /// A guest of so many pfns, a power of two.
    ///
    /// # Panics
    /// If it is none, or there is no memory.
    #[must_use]
    pub fn new(pfns: u64, order: Order) -> Self {
        assert!(pfns.is_power_of_two() && (ENTRIES * ENTRIES..1 << 27).contains(&pfns), "{pfns}");
        let leaves = Frames::new((pfns / ENTRIES) as usize, Pages::Small).expect("memory");
        let m2p = (0..FIRST_MFN + pfns).map(|_| AtomicU64::new(u64::MAX)).collect();
        let guest = Self { leaves, m2p, order };
        for leaf in 0..pfns / ENTRIES {
            let first = leaf * ENTRIES;
            let mut words = Leaf::default();
            for (word, pfn) in words.words.iter_mut().zip(first..) {
                *word = guest.frame(pfn).0;
                guest.m2p[*word as usize].store(pfn, Ordering::Relaxed); // ORDER: one thread
            }
            guest.leaves.write(leaf as usize, &words);
        }
        guest
    }

    /// Its pfns.
    #[must_use]
    pub fn pfns(&self) -> u64 {
        self.m2p.len() as u64 - FIRST_MFN
    }

    /// How its frames follow pfns.
    #[must_use]
    pub const fn order(&self) -> Order {
        self.order
    }

    /// The frame of a pfn.
    #[must_use]
    pub fn frame(&self, pfn: u64) -> Mfn {
        let mixed =
            |number: u64, numbers: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % numbers;
        Mfn(FIRST_MFN
            + match self.order {
                Order::Runs => {
                    mixed(pfn / ENTRIES, self.pfns() / ENTRIES) * ENTRIES + pfn % ENTRIES
                }
                Order::Random => mixed(pfn, self.pfns()),
            })
    }

    /// The pfn of a frame, by the m2p.
    #[must_use]
    pub fn pfn_of(&self, mfn: Mfn) -> u64 {
        self.m2p[mfn.0 as usize].load(Ordering::Relaxed) // ORDER: by itself
    }

    /// The p2m: an entry for each pfn, frame by frame.
    #[must_use]
    pub const fn p2m(&self) -> &Frames {
        &self.leaves
    }

    /// The m2p: a pfn for each frame.
    #[must_use]
    pub const fn m2p(&self) -> &[AtomicU64] {
        &self.m2p
    }

    fn mids(&self) -> u64 {
        self.pfns() / ENTRIES / ENTRIES
    }

    /// The first pfns of mid frames, and of the top frame.
    fn upper(&self) -> (u64, u64) {
        let mid = self.pfns() / ENTRIES;
        (mid, mid + self.mids())
    }
}

/// All of its ports are the same.
#[derive(Clone, Copy, Debug)]
struct Port<'g>(&'g PlainGuest);

/// The ports of a guest.
#[derive(Debug)]
pub struct PlainPorts<'g> {
    p2m: Port<'g>,
    m2p: Port<'g>,
    types: Port<'g>,
    unlogged: Port<'g>,
    log_dirty: Port<'g>,
    transport: Port<'g>,
}

impl<'g> PlainPorts<'g> {
    /// Of this guest.
    #[must_use]
    pub const fn new(guest: &'g PlainGuest) -> Self {
        let port = Port(guest);
        Self { p2m: port, m2p: port, types: port, unlogged: port, log_dirty: port, transport: port }
    }

    /// Lends them for one call of the engine.
    pub fn lend<'a>(&'a mut self, nobody: &'a mut ()) -> Ports<'a> {
        Ports {
            guest: Guest {
                p2m: &mut self.p2m,
                m2p: &self.m2p,
                types: &mut self.types,
                unlogged: &mut self.unlogged,
                observer: nobody,
            },
            log_dirty: &mut self.log_dirty,
            transport: &mut self.transport,
        }
    }
}

impl P2mSource for Port<'_> {
    fn width(&self) -> Width {
        Width::W64
    }

    fn domain_frames(&mut self) -> Result<u64, PortError> {
        Ok(self.0.pfns())
    }

    fn roots(&mut self) -> Result<Roots, PortError> {
        let top = self.0.frame(self.0.upper().1).0;
        Ok(Roots { pfn_count: self.0.pfns(), frame_list_list: top, ..Roots::default() })
    }

    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault> {
        let pfn = self.pfn(mfn).ok_or(MapFault::NotOwned)?.0;
        let (mid, top) = self.0.upper();
        let below = match pfn {
            _ if pfn == top => mid..top,
            _ if (mid..top).contains(&pfn) => {
                let first = (pfn - mid) * ENTRIES;
                first..first + ENTRIES
            }
            _ if pfn < mid => {
                self.live(MapSlot(pfn as u32)).fetch(into);
                return Ok(());
            }
            _ => 0..0, // data
        };
        *into = Leaf::HOLE;
        for (word, pfn) in into.words.iter_mut().zip(below) {
            *word = self.0.frame(pfn).0;
        }
        Ok(())
    }

    fn map(&mut self, frames: &[Mfn], answers: &mut Vec<Result<MapSlot, MapFault>>) {
        let slot = |mfn: &Mfn| self.pfn(*mfn).map(|pfn| MapSlot(pfn.0 as u32));
        answers.extend(frames.iter().map(|mfn| slot(mfn).ok_or(MapFault::NotOwned)));
    }

    fn unmap(&mut self, _: &[MapSlot]) {}

    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        GuestLeaf::from_atomics(self.0.leaves.frame(slot.0 as usize))
    }
}

impl M2p for Port<'_> {
    fn frames(&self) -> u64 {
        self.0.m2p.len() as u64
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        let word = self.0.m2p.get(mfn.0 as usize)?.load(Ordering::Relaxed); // ORDER: by itself
        (word != u64::MAX).then_some(Pfn(word))
    }
}

impl FrameTypes for Port<'_> {
    fn query(&mut self, _: &[Mfn], types: &mut [FrameType]) -> Result<(), PortError> {
        types.fill(FrameType::Data);
        Ok(())
    }
}

impl Unlogged for Port<'_> {
    /// One, so that something is owed of a suspended guest that does nothing.
    fn pfns(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        into.push(Pfn(0));
        Ok(())
    }

    fn accepts_transfer(&mut self) -> Result<bool, PortError> {
        Ok(false)
    }
}

impl LogDirty for Port<'_> {
    fn enable(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn disable(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn clean(&mut self, into: LogBuffer<'_>) -> Result<u64, PortError> {
        Ok(into.pfns())
    }
}

impl Transport for Port<'_> {
    fn send(
        &mut self,
        pages: &[Page],
        _: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        answers.extend(pages.iter().map(|_| Answer::Accepted));
        Ok(())
    }

    fn frame_list(&mut self, _: FrameList<'_>) -> Result<(), PortError> {
        Ok(())
    }

    fn gone(&mut self, _: &[Pfn]) -> Result<(), PortError> {
        Ok(())
    }

    fn returned(&mut self, _: &mut Vec<Pfn>) -> Result<(), PortError> {
        Ok(())
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        Ok(())
    }
}
