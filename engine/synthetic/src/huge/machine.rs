// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's frames: the m2p, a stamp for what is in each, and Xen's allocator.
//! Not here: entries (`guest`), the log (`log`).
//! Units: indexed by mfn. The m2p and the stamps only hold what differs from the guest as built.
//! Threads: any; the allocator has a lock.
//! Source: Xen's m2p; a frame is the domain's exactly if the m2p has a pfn for it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::deviations::Deviations;
use super::pattern::Pattern;

/// Stamps are below this: the receiver needs one more value.
pub(crate) const STAMPS: u16 = 1 << 15;
/// Frames beyond the guest's that Xen can allocate: a share of the guest's size, and a minimum.
const SPARE_OF: u64 = 64;
const SPARE_MIN: u64 = 4096;

/// No pfn, in the m2p.
const NO_PFN: u32 = u32::MAX;

/// Frames that Xen can allocate.
#[derive(Debug)]
struct Free {
    /// Never allocated so far.
    fresh: std::ops::Range<u64>,
    /// Freed by the guest.
    back: Vec<u32>,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) pattern: Pattern,
    /// The pfn of a frame, or [`NO_PFN`], where it differs from the pattern.
    m2p: Deviations,
    /// How often a frame was written, modulo [`STAMPS`]; 0 at the start.
    stamps: Deviations,
    free: Mutex<Free>,
    /// Frames that the guest holds.
    owned: AtomicU64,
}

impl Machine {
    /// The machine of a guest that was just built and holds `owned` frames.
    pub(crate) fn new(pattern: Pattern, owned: u64) -> io::Result<Self> {
        let fresh = pattern.frames()..pattern.frames() + SPARE_MIN + pattern.pfns() / SPARE_OF;
        let frames = fresh.end;
        Ok(Self {
            pattern,
            m2p: Deviations::new(frames)?,
            stamps: Deviations::new(frames)?,
            free: Mutex::new(Free { fresh, back: Vec::new() }),
            owned: AtomicU64::new(owned),
        })
    }

    /// One past the last frame.
    pub(crate) fn frames(&self) -> u64 {
        self.m2p.limit()
    }

    /// Frames that the guest holds.
    pub(crate) fn owned(&self) -> u64 {
        self.owned.load(Ordering::Relaxed) // ORDER: a number by itself
    }

    /// The pfn of a frame.
    pub(crate) fn pfn(&self, mfn: u64) -> Option<u64> {
        if mfn >= self.frames() {
            return None;
        }
        match self.m2p.get(mfn) {
            None => self.pattern.pfn(mfn),
            Some(NO_PFN) => None,
            Some(pfn) => Some(u64::from(pfn)),
        }
    }

    /// Sets the pfn of a frame.
    pub(crate) fn set_pfn(&self, mfn: u64, pfn: Option<u64>) {
        let as_built = pfn == self.pattern.pfn(mfn);
        let word = pfn.map_or(NO_PFN, |pfn| pfn as u32);
        self.m2p.set(mfn, (!as_built).then_some(word));
    }

    /// What is in a frame.
    pub(crate) fn stamp(&self, mfn: u64) -> u16 {
        self.stamps.get(mfn).map_or(0, |stamp| stamp as u16)
    }

    /// A frame is written.
    pub(crate) fn write(&self, mfn: u64) {
        let stamp = (self.stamp(mfn) + 1) % STAMPS;
        self.stamps.set(mfn, Some(stamp.into()));
    }

    /// Allocates a frame for a pfn: a freed one, or a fresh one. `None` if there is none.
    pub(crate) fn populate(&self, pfn: u64) -> Option<u64> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mfn = free.back.pop().map(u64::from).or_else(|| free.fresh.next())?;
        self.set_pfn(mfn, Some(pfn));
        self.owned.fetch_add(1, Ordering::Relaxed); // ORDER: a number by itself
        Some(mfn)
    }

    /// Frees a frame.
    pub(crate) fn give_back(&self, mfn: u64) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_pfn(mfn, None);
        self.owned.fetch_sub(1, Ordering::Relaxed); // ORDER: a number by itself
        free.back.push(mfn as u32);
    }
}
