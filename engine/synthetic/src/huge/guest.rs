// SPDX-License-Identifier: MIT OR Apache-2.0
//! A huge guest: its p2m in memory, and every way in which it changes, with the marks that Xen
//! makes for each.
//! Not here: when what changes (`life`), what the engine sees of it (`ports`).
//! Units: pfns and mfns as plain numbers.
//! Threads: everything through a shared borrow; the guest only runs between calls of the engine.
//! Source: `xen` has the same operations over frames with contents.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2mtrack::frame::Entry;
use p2mtrack::leaf::{FRAME_WORDS, Leaf};
use rayon::prelude::*;

use super::log::Log;
use super::machine::Machine;
use super::mapping::{Mapping, Use};
use super::pattern::Pattern;
use super::receiver::{Receiver, Stamped};
use super::zone::{Part, Zone};

const NO_FRAME: u64 = Entry::INVALID.0;

/// Why a guest can't be built.
#[derive(Debug)]
pub enum BuildFault {
    /// The p2m names fewer frames than the p2m itself needs.
    Frames,
    /// The machine would have more frames than 32 bits can name.
    Machine(u64),
    /// No memory.
    Memory(io::Error),
}

impl fmt::Display for BuildFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames => f.write_str("the guest has too few frames to hold its own p2m"),
            Self::Machine(frames) => write!(f, "a machine of {frames} frames is too large"),
            Self::Memory(_) => f.write_str("no memory for the guest"),
        }
    }
}

impl std::error::Error for BuildFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Memory(cause) => Some(cause),
            Self::Frames | Self::Machine(_) => None,
        }
    }
}

/// Frames of the largest machine.
const MACHINE_FRAMES_MAX: u64 = (1 << 32) - 8;

/// A guest, its machine and its destination.
#[derive(Debug)]
pub struct Guest {
    /// The p2m: 512 entries a leaf, leaf after leaf.
    entries: Mapping<AtomicU64>,
    pub(crate) machine: Machine,
    pub(crate) zone: Zone,
    log: Mutex<Log>,
    pub(crate) receiver: Receiver,
    suspended: AtomicBool,
    /// Mappings that the engine holds.
    pub(crate) maps_held: AtomicU64,
    breach: Mutex<Option<&'static str>>,
}

impl Guest {
    /// Builds a guest with this p2m, on rayon's pool.
    ///
    /// # Errors
    /// [`BuildFault`].
    pub fn new(pattern: Pattern) -> Result<Self, BuildFault> {
        let zone = Zone::new(&pattern).ok_or(BuildFault::Frames)?;
        if pattern.frames() + pattern.pfns() / 32 > MACHINE_FRAMES_MAX {
            return Err(BuildFault::Machine(pattern.frames()));
        }
        let pfns = pattern.pfns();
        let mut entries: Mapping<AtomicU64> =
            Mapping::new(pfns as usize, Use::Dense).map_err(BuildFault::Memory)?;
        let owned = fill(&pattern, &mut entries);
        Ok(Self {
            entries,
            machine: Machine::new(pattern, owned).map_err(BuildFault::Memory)?,
            zone,
            log: Mutex::new(Log::new(pfns)),
            receiver: Receiver::new(pfns).map_err(BuildFault::Memory)?,
            suspended: AtomicBool::new(false),
            maps_held: AtomicU64::new(0),
            breach: Mutex::new(None),
        })
    }

    /// The p2m as it was built.
    #[must_use]
    pub const fn pattern(&self) -> &Pattern {
        &self.machine.pattern
    }

    /// Pfns that the p2m covers.
    #[must_use]
    pub fn pfns(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Frames that the guest holds now.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.machine.owned()
    }

    /// Pages that arrived at the destination, and frames that it freed.
    #[must_use]
    pub fn received(&self) -> (u64, u64) {
        (self.receiver.pages(), self.receiver.gone())
    }

    /// Stops the guest, or lets it go on.
    pub fn suspend(&self, suspended: bool) {
        self.suspended.store(suspended, Ordering::Relaxed); // ORDER: a flag between calls
    }

    /// Whether it is suspended.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Relaxed) // ORDER: as above
    }

    /// The entry of a pfn.
    #[must_use]
    pub fn entry(&self, pfn: u64) -> u64 {
        self.entries[pfn as usize].load(Ordering::Relaxed) // ORDER: a word by itself
    }

    /// The frame of a pfn.
    #[must_use]
    pub fn frame(&self, pfn: u64) -> Option<u64> {
        let entry = self.entry(pfn);
        (entry != NO_FRAME).then_some(entry)
    }

    /// A leaf of the p2m, live.
    #[must_use]
    pub fn leaf(&self, position: u64) -> Option<&[AtomicU64; FRAME_WORDS]> {
        self.entries.as_chunks().0.get(position as usize)
    }

    /// The write log.
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a port's contract was broken. Keeps the first breach.
    pub(crate) fn breach(&self, what: &'static str) {
        self.breach.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }

    /// What a tracker broke, or left behind at the source.
    #[must_use]
    pub fn harm(&self) -> Option<String> {
        let breach = *self.breach.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.maps_held.load(Ordering::Relaxed); // ORDER: a number by itself
        match breach {
            Some(breach) => Some(breach.to_owned()),
            None if self.log().is_enabled() => Some("log-dirty is still on".to_owned()),
            None if held > 0 => Some(format!("{held} frames are still mapped")),
            None => None,
        }
    }

    /// Which p2m frame a frame is, if it is one.
    pub(crate) fn part(&self, mfn: u64) -> Option<Part> {
        self.machine.pfn(mfn).and_then(|pfn| self.zone.part(pfn))
    }

    /// The words of one of the p2m's page tables.
    pub(crate) fn table(&self, level: u8, index: u64) -> Leaf {
        self.zone.table(level, index, |pfn| self.entry(pfn))
    }

    /// What is in a frame, for the receiver.
    pub(crate) fn stamped(&self, mfn: u64) -> Stamped {
        Stamped { mfn, stamp: self.machine.stamp(mfn) }
    }

    /// Whether a pfn has an ordinary page: a frame that is no p2m frame.
    #[must_use]
    pub fn is_plain(&self, pfn: u64) -> bool {
        self.frame(pfn).is_some() && self.zone.part(pfn).is_none()
    }

    /// `paging_mark_dirty`: by the pfn that the m2p holds now.
    fn mark(&self, mfn: u64) {
        if let Some(pfn) = self.machine.pfn(mfn) {
            self.log().mark(pfn);
        }
    }

    /// The guest writes a page.
    pub fn write_page(&self, pfn: u64) {
        if let Some(mfn) = self.frame(pfn) {
            self.machine.write(mfn);
            self.mark(mfn);
        }
    }

    /// The pfn of the frame that is the leaf at a position.
    #[must_use]
    pub fn leaf_pfn(&self, position: u64) -> u64 {
        self.zone.pfn(Part::Leaf(position))
    }

    /// The level of the page table that a pfn's frame is; `None` if it is none.
    #[must_use]
    pub fn table_level(&self, pfn: u64) -> Option<u8> {
        match self.zone.part(pfn) {
            Some(Part::Table(level, _)) => Some(level),
            Some(Part::Leaf(_)) | None => None,
        }
    }

    /// The guest stores a p2m entry: a write to the leaf that holds it, marked under the leaf's
    /// pfn.
    fn store_entry(&self, pfn: u64, entry: u64) {
        self.entries[pfn as usize].store(entry, Ordering::Relaxed); // ORDER: a word by itself
        self.write_page(self.leaf_pfn(pfn / FRAME_WORDS as u64));
    }

    /// `XENMEM_decrease_reservation`: the frame goes, which marks nothing. `false` if there is
    /// none.
    pub fn balloon_out(&self, pfn: u64) -> bool {
        let Some(mfn) = self.frame(pfn) else { return false };
        self.store_entry(pfn, NO_FRAME);
        self.machine.give_back(mfn);
        true
    }

    /// `XENMEM_populate_physmap`: a frame comes, which marks nothing; its contents are undefined.
    /// `false` if Xen has none, or the pfn has one.
    pub fn balloon_in(&self, pfn: u64) -> bool {
        if self.frame(pfn).is_some() {
            return false;
        }
        let Some(mfn) = self.machine.populate(pfn) else { return false };
        self.store_entry(pfn, mfn);
        true
    }

    /// `XENMEM_exchange` of one frame: another one comes, the old one goes. `false` if there is
    /// none.
    pub fn exchange(&self, pfn: u64) -> bool {
        let Some(old) = self.frame(pfn) else { return false };
        let Some(new) = self.machine.populate(pfn) else { return false };
        self.machine.give_back(old);
        self.store_entry(pfn, new);
        true
    }

    /// Two pfns change frames: two entries, and `MMU_MACHPHYS_UPDATE` for each, which marks the new
    /// pfn.
    pub fn swap(&self, pfn: u64, other: u64) {
        for (pfn, mfn) in [(pfn, self.entry(other)), (other, self.entry(pfn))] {
            self.store_entry(pfn, mfn);
            if mfn != NO_FRAME {
                self.machine.set_pfn(mfn, Some(pfn));
                self.log().mark(pfn);
            }
        }
    }

    /// Whether p2m and m2p agree: `m2p[p2m[pfn]] = pfn` for each pfn with a frame, and no other
    /// frame has a pfn.
    ///
    /// # Errors
    /// The first pfn that is wrong, or how many frames are lost or found.
    pub fn check_premise(&self) -> Result<(), String> {
        let wrong = (0..self.pfns()).into_par_iter().find_first(|&pfn| {
            self.frame(pfn).is_some_and(|mfn| self.machine.pfn(mfn) != Some(pfn))
        });
        if let Some(pfn) = wrong {
            return Err(format!("pfn {pfn:#x} and its frame don't agree"));
        }
        let with = (0..self.pfns()).into_par_iter().filter(|&pfn| self.frame(pfn).is_some());
        let frames = 0..self.machine.frames();
        let named = frames.into_par_iter().filter(|&mfn| self.machine.pfn(mfn).is_some());
        let counts = (with.count() as u64, named.count() as u64, self.frames());
        if counts.0 == counts.1 && counts.1 == counts.2 {
            Ok(())
        } else {
            Err(format!("pfns with a frame, frames with a pfn, frames held: {counts:?}"))
        }
    }
}

/// Writes the p2m, leaf after leaf. Returns how many frames it names.
fn fill(pattern: &Pattern, entries: &mut [AtomicU64]) -> u64 {
    let leaves = entries.as_chunks_mut::<FRAME_WORDS>().0;
    let fill_leaf = |(position, leaf): (usize, &mut [AtomicU64; FRAME_WORDS])| {
        let mut words = [0; FRAME_WORDS];
        pattern.fill_leaf(position as u64, &mut words);
        for (entry, word) in leaf.iter_mut().zip(words) {
            *entry.get_mut() = word;
        }
        words.iter().filter(|&&word| word != NO_FRAME).count() as u64
    };
    leaves.par_iter_mut().enumerate().map(fill_leaf).sum()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::huge::Shape;
    use p2mtrack::bitmap::PfnBitmap;
    use p2mtrack::port::LogBuffer;

    /// A small guest of a shape, its log on.
    pub(crate) fn guest(shape: Shape, pfns: u64) -> Guest {
        let mut tile: Vec<u64> = (7000..8024).collect();
        tile[100..200].fill(u64::MAX);
        let pattern = Pattern::new(shape, pfns, 5, &tile).expect("a good tile");
        let guest = Guest::new(pattern).expect("memory");
        assert!(guest.log().enable());
        guest
    }

    fn marks(guest: &Guest) -> Vec<u64> {
        let mut bits = PfnBitmap::new(guest.pfns().next_multiple_of(32_768));
        assert!(guest.log().clean(LogBuffer::over(&mut bits)));
        bits.drain().into_iter().map(|pfn| pfn.0).collect()
    }

    #[test]
    fn each_change_marks_what_xen_marks() {
        let guest = guest(Shape::Superpage, 4096);
        let leaf = |pfn: u64| guest.zone.pfn(Part::Leaf(pfn / 512));
        let sorted = |mut pfns: Vec<u64>| {
            pfns.sort_unstable();
            pfns.dedup();
            pfns
        };
        guest.write_page(7);
        assert_eq!(marks(&guest), [7]);
        assert!(guest.balloon_out(600) && !guest.balloon_out(600));
        assert_eq!(marks(&guest), [leaf(600)]);
        guest.write_page(600);
        assert!(marks(&guest).is_empty(), "no page, no mark");
        assert!(guest.balloon_in(600) && !guest.balloon_in(600));
        assert_eq!(marks(&guest), [leaf(600)]);
        assert!(guest.exchange(601));
        assert_eq!(marks(&guest), [leaf(601)]);
        guest.swap(5, 700);
        assert_eq!(marks(&guest), sorted(vec![5, 700, leaf(5), leaf(700)]));
        guest.write_page(5);
        assert_eq!(marks(&guest), [5], "the pfn that the m2p holds now");
        guest.check_premise().expect("kept");
    }

    #[test]
    fn every_shape_is_built_as_its_pattern_says() {
        for shape in Shape::ALL {
            let guest = guest(shape, 4096 + 512);
            for pfn in 0..guest.pfns() {
                assert_eq!(guest.entry(pfn), guest.pattern().entry(pfn), "{shape}: pfn {pfn}");
            }
            guest.check_premise().expect("kept");
        }
    }

    #[test]
    fn a_guest_of_holes_has_too_few_frames_for_its_p2m() {
        let mut tile = [u64::MAX; 512];
        tile[0] = 4;
        let pattern = Pattern::new(Shape::Real, 8192, 1, &tile).expect("a good tile");
        assert!(matches!(Guest::new(pattern), Err(BuildFault::Frames)));
    }
}
