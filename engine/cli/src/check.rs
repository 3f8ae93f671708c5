// SPDX-License-Identifier: MIT OR Apache-2.0
//! A naive full comparison beside the engine: did every difference become known in time?
//! Not here: anything of the engine's but what it said it owed, and its shadow.
//! Units: pfns; a difference that stays open over several rounds is counted once.
//! Threads: one.
//! Source: own. Looks at every entry of every round; follows no root, leaf or dirty bit.
//!
//! *Missed* is a difference of round N that neither round N nor N+1 owed: the leaf may have been written after
//! round N's CLEAN, so that only round N+1's log says so. *Pending* is what differs after the last round and did
//! not in the round before: nothing follows that could judge it.

use std::collections::BTreeSet;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Entry, Pfn, Width};
use p2mtrack::tracker::Tracker;
use p2mtrack_trace::{Meta, NONE, Round};

/// A check over all rounds.
pub(crate) struct Check {
    width: Width,
    max_mfn: u64,
    /// For each pfn the entry that it had when it was last owed: what a destination would have.
    told: Vec<u64>,
    /// Differences that no round has owed yet.
    open: BTreeSet<u64>,
    /// Of these, the ones that were counted as missed.
    lost: BTreeSet<u64>,
    missed: u64,
    pending: u64,
    /// Where the shadow or the destination differs after the last round.
    left: BTreeSet<u64>,
}

impl Check {
    /// Before the first copy.
    pub(crate) const fn new(meta: &Meta) -> Self {
        Self {
            width: meta.width,
            max_mfn: meta.max_mfn,
            told: Vec::new(),
            open: BTreeSet::new(),
            lost: BTreeSet::new(),
            missed: 0,
            pending: 0,
            left: BTreeSet::new(),
        }
    }

    /// Holds a round that was observed against all that was recorded of it.
    pub(crate) fn round(&mut self, round: &Round, owed: &PfnBitmap, tracker: &Tracker) {
        // Past the guest's own count there are words, but no pfns.
        let pfns =
            round.entries.len().min(usize::try_from(round.after.pfn_count).unwrap_or(usize::MAX));
        self.told.resize(pfns, NONE);
        let open = std::mem::take(&mut self.open);
        let left = std::mem::take(&mut self.left);
        for (pfn, &entry) in (0..).zip(&round.entries[..pfns]) {
            let told = &mut self.told[pfn as usize];
            if owed.get(Pfn(pfn)) {
                *told = entry;
            }
            // What the engine does not track is none of its business unless it names a frame.
            let matters = pfn < tracker.pfns() || self.is_frame(entry);
            let unknown = matters && self.told[pfn as usize] != entry;
            if unknown {
                self.open.insert(pfn);
            }
            if unknown || matters && tracker.shadow_entry(Pfn(pfn)) != Entry(entry) {
                self.left.insert(pfn);
            }
        }
        self.lost.retain(|pfn| self.open.contains(pfn));
        for &pfn in open.intersection(&self.open) {
            self.missed += u64::from(self.lost.insert(pfn));
        }
        self.pending = self.left.difference(&left).count() as u64;
    }

    const fn is_frame(&self, entry: u64) -> bool {
        Entry(entry).names_frame(self.width, self.max_mfn)
    }

    /// Differences that were never owed in time.
    pub(crate) const fn missed(&self) -> u64 {
        self.missed
    }

    /// Differences that nothing can judge any more.
    pub(crate) const fn pending(&self) -> u64 {
        self.pending
    }
}
