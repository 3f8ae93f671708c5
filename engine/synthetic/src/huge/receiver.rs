// SPDX-License-Identifier: MIT OR Apache-2.0
//! The destination of a huge guest: for each pfn the frame and the stamp that it was sent with.
//! Not here: whether that is right (`oracle`).
//! Units: indexed by pfn. A frame is kept where it is not the one that the guest was built with.
//! Threads: any; page tables and the list have a lock.
//! Source: what a stream can carry; it knows no tracker.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2mtrack::frame::Pfn;
use p2mtrack::leaf::Leaf;

use super::deviations::Deviations;
use super::mapping::{Mapping, Use};

/// No pfn, in the list.
pub(crate) const NO_PFN: u32 = u32::MAX;

/// A page: the frame that it was read from, and what was in it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// The frame.
    pub mfn: u64,
    /// Its stamp: how often it was written, modulo 2^15.
    pub stamp: u16,
}

/// What is kept behind the lock.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// Page tables as they arrived, normalised.
    pub(crate) tables: BTreeMap<u64, Box<Leaf>>,
    /// The pfn of each leaf, or [`NO_PFN`].
    pub(crate) list: Vec<u32>,
}

/// The destination.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// One more than the stamp; 0 where there is no frame.
    stamps: Mapping<AtomicU16>,
    /// The frame, where it is not the one that the guest was built with.
    frames: Deviations,
    pieces: Mutex<Pieces>,
    pages: AtomicU64,
    gone: AtomicU64,
}

// ORDER: Relaxed everywhere below: each word is read by itself; the oracle runs after the writers
// are joined.
impl Receiver {
    /// A receiver for `pfns` pfns.
    pub(crate) fn new(pfns: u64) -> io::Result<Self> {
        Ok(Self {
            stamps: Mapping::new(pfns as usize, Use::Dense)?,
            frames: Deviations::new(pfns)?,
            pieces: Mutex::default(),
            pages: AtomicU64::new(0),
            gone: AtomicU64::new(0),
        })
    }

    /// Page tables and list.
    pub(crate) fn pieces(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page arrives. `built` is the entry that the guest was built with.
    pub(crate) fn take(&self, pfn: u64, page: Stamped, built: u64) {
        self.stamps[pfn as usize].store(page.stamp + 1, Ordering::Relaxed); // ORDER: above
        self.frames.set(pfn, (page.mfn != built).then_some(page.mfn as u32));
        self.pages.fetch_add(1, Ordering::Relaxed); // ORDER: above
    }

    /// Frees the frames of these pfns.
    pub(crate) fn take_gone(&self, pfns: &[Pfn]) {
        for &Pfn(pfn) in pfns {
            if let Some(stamp) = self.stamps.get(pfn as usize) {
                let held = stamp.swap(0, Ordering::Relaxed) != 0; // ORDER: above
                self.gone.fetch_add(u64::from(held), Ordering::Relaxed); // ORDER: above
            }
        }
    }

    /// What is there for a pfn.
    pub(crate) fn get(&self, pfn: u64, built: u64) -> Option<Stamped> {
        // ORDER: above
        let stamp = self.stamps[pfn as usize].load(Ordering::Relaxed).checked_sub(1)?;
        let mfn = self.frames.get(pfn).map_or(built, u64::from);
        Some(Stamped { mfn, stamp })
    }

    /// Pages that arrived.
    pub(crate) fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed) // ORDER: above
    }

    /// Frames that were freed.
    pub(crate) fn gone(&self) -> u64 {
        self.gone.load(Ordering::Relaxed) // ORDER: above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_frame_and_stamp_until_the_pfn_is_gone() {
        let receiver = Receiver::new(512).expect("memory");
        assert_eq!(receiver.get(3, 700), None);
        for page in [Stamped { mfn: 700, stamp: 0 }, Stamped { mfn: 9, stamp: 32_767 }] {
            receiver.take(3, page, 700);
            assert_eq!(receiver.get(3, 700), Some(page));
        }
        receiver.take_gone(&[Pfn(3), Pfn(4), Pfn(1 << 40)]);
        assert_eq!(receiver.get(3, 700), None);
        assert_eq!((receiver.pages(), receiver.gone()), (2, 1));
    }
}
