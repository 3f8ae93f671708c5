// SPDX-License-Identifier: MIT OR Apache-2.0
//! A naive full comparison beside the engine: did every difference become known in time?
//! Not here: anything of the engine's but what it said it owed, and its shadow.
//! Units: pfns; a difference that stays open over several rounds is counted once.
//! Threads: one.
//! Source: own. Looks at every entry of every round; follows no root, leaf or dirty bit.
//!
//! *Missed* is a difference of round N that neither round N nor N+1 owed: the leaf may have been written after
//! round N's CLEAN, so that only round N+1's log says so. Of a live guest it is one that round N+2 did not owe either.
//! *Pending* is what differs after the last round and did not in the round before: nothing follows that could judge it.

use std::collections::{BTreeMap, BTreeSet};

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Entry, Pfn, Width};
use p2mtrack::tracker::Tracker;
use p2mtrack_trace::NONE;

/// Looks that find a difference which no round owes, before it is a miss: its own round's, and the next one's.
const LOOKS: u32 = 2;
const LOOKS_LIVE: u32 = 3;

/// A check over all rounds.
pub(crate) struct Check {
    width: Width,
    max_mfn: u64,
    /// For each pfn the entry that it had when it was last owed: what a destination would have. Of a live guest the
    /// entry that the engine had then: what we read came later.
    told: Vec<u64>,
    /// The guest runs on between the engine's look and ours.
    live: bool,
    /// Differences that no round has owed yet: how many looks found each, and the entry that the last one found.
    open: BTreeMap<u64, (u32, u64)>,
    /// Of these, the ones that were counted as missed.
    lost: BTreeSet<u64>,
    missed: u64,
    pending: u64,
    /// Where the shadow or the destination differs after the last round.
    left: BTreeSet<u64>,
}

impl Check {
    /// Before the first copy. Of a guest that is `live` the engine may have seen an entry as it was before, between two
    /// of our looks: a look more has to find a difference before it is a miss.
    pub(crate) const fn new(width: Width, max_mfn: u64, live: bool) -> Self {
        Self {
            width,
            max_mfn,
            told: Vec::new(),
            live,
            open: BTreeMap::new(),
            lost: BTreeSet::new(),
            missed: 0,
            pending: 0,
            left: BTreeSet::new(),
        }
    }

    /// Holds a round that was observed against all entries as they were read at its end.
    pub(crate) fn round(
        &mut self,
        entries: &[u64],
        pfn_count: u64,
        owed: &PfnBitmap,
        tracker: &Tracker,
    ) {
        // Past the guest's own count there are words, but no pfns.
        let pfns = entries.len().min(usize::try_from(pfn_count).unwrap_or(usize::MAX));
        // A live guest may hide pfns and show them again: what the engine had of them is still so.
        let told = if self.live { pfns.max(self.told.len()) } else { pfns };
        self.told.resize(told, NONE);
        self.tell(entries, owed, tracker);
        let mut open = std::mem::take(&mut self.open);
        let left = std::mem::take(&mut self.left);
        let patience = if self.live { LOOKS_LIVE } else { LOOKS };
        for (pfn, &entry) in (0..).zip(&entries[..pfns]) {
            // What the engine does not track is none of its business unless it names a frame.
            let matters = pfn < tracker.pfns() || self.is_frame(entry);
            let unknown = matters && self.told[pfn as usize] != entry;
            if unknown {
                let before = open.remove(&pfn).filter(|&(_, seen)| {
                    // What is owed now was found in time, and is judged as it is now. Unless the engine owes the
                    // page, and knows no better what its entry is than at our last look.
                    !owed.get(Pfn(pfn)) || self.live && seen == entry
                });
                let looks = before.map_or(1, |(looks, _)| looks + 1);
                self.open.insert(pfn, (looks, entry));
                self.missed += u64::from(looks >= patience && self.lost.insert(pfn));
            }
            if unknown || matters && tracker.shadow_entry(Pfn(pfn)) != Entry(entry) {
                self.left.insert(pfn);
            }
        }
        self.lost.retain(|pfn| self.open.contains_key(pfn));
        // Of a live guest, all that is left and was not judged: it may be a change of a moment ago, or no change at all.
        self.pending = match self.live {
            true => self.left.difference(&self.lost).count() as u64,
            false => self.left.difference(&left).count() as u64,
        };
    }

    /// A round at whose end nobody could read the entries: they are judged by the next.
    pub(crate) fn skip(&mut self, owed: &PfnBitmap, tracker: &Tracker) {
        self.told.resize(self.told.len().max(tracker.pfns() as usize), NONE);
        self.tell(&[], owed, tracker);
    }

    fn tell(&mut self, entries: &[u64], owed: &PfnBitmap, tracker: &Tracker) {
        for pfn in owed.iter() {
            let Some(told) = self.told.get_mut(pfn.0 as usize) else { continue };
            let read = entries.get(pfn.0 as usize).filter(|_| !self.live);
            *told = read.copied().unwrap_or_else(|| tracker.shadow_entry(pfn).0);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack::config::Config;

    /// An engine that knows nothing and owes what it is told to.
    fn looks(check: &mut Check, entries: &[(u64, bool)]) -> Vec<(u64, u64)> {
        let tracker = Tracker::new(Config::default(), Width::W64).expect("a tracker");
        let look = |&(entry, is_owed): &(u64, bool)| {
            let mut owed = PfnBitmap::new(64);
            if is_owed {
                owed.set(Pfn(1));
            }
            check.round(&[NONE, entry], 2, &owed, &tracker);
            (check.missed(), check.pending())
        };
        entries.iter().map(look).collect()
    }

    #[test]
    fn of_a_recording_two_looks_are_a_miss_and_of_a_live_guest_three() {
        let mut check = Check::new(Width::W64, 100, false);
        assert_eq!(
            looks(&mut check, &[(5, false), (5, false), (6, false)]),
            [(0, 1), (1, 0), (1, 0)]
        );
        let mut check = Check::new(Width::W64, 100, true);
        let found = looks(&mut check, &[(5, false), (5, false), (6, false), (6, false)]);
        assert_eq!(found, [(0, 1), (0, 1), (1, 0), (1, 0)], "whatever it is by then");
    }

    #[test]
    fn what_is_owed_in_between_is_found() {
        for live in [false, true] {
            let mut check = Check::new(Width::W64, 100, live);
            let found = looks(&mut check, &[(5, false), (6, true), (NONE, false), (5, false)]);
            assert_eq!(found.last().map(|found| found.0), Some(0), "live {live}");
        }
        // Owed again and again because its page is written, and its entry never looked at.
        let mut check = Check::new(Width::W64, 100, true);
        assert_eq!(looks(&mut check, &[(5, true), (5, true), (5, true)]).last(), Some(&(1, 0)));
        // The engine saw an entry as it was before, twice, and then as it is.
        let mut check = Check::new(Width::W64, 100, true);
        let found = looks(&mut check, &[(5, false), (5, false), (NONE, false), (5, false)]);
        assert_eq!(found.last(), Some(&(0, 1)));
    }
}
