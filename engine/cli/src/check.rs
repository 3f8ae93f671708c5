// SPDX-License-Identifier: MIT OR Apache-2.0
//! A naive full comparison beside the engine: did every difference become known in time?
//! Not here: anything of the engine's but what it said it owed, and its shadow.
//! Units: pfns; a difference that stays open over several rounds is counted once.
//! Threads: one.
//! Source: own. Looks at every entry of every round; follows no root and no dirty bit.
//!
//! *Missed* is a difference of round N that neither round N nor N+1 owed: the leaf may have been
//! written after round N's CLEAN, so that only round N+1's log says so. Of a live guest it is one
//! that round N+2 did not owe either. *Pending* is what differs after the last round and did not in
//! the round before: nothing follows that could judge it.
//!
//! Two things are no differences, and nothing else:
//! - *A leaf without frames at several positions* (Linux's missing and identity leaves), where none
//!   was told: there is nothing to send, so that the engine owes nothing. It has to know it: what
//!   its shadow has is taken for told.
//! - *What fell away*: it is told no longer, so that it is owed if it comes back. A p2m that is
//!   hidden for a round has not fallen away; that round is not judged, and the next one is held
//!   against what was told before.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Claim, Entry, LeafIndex, Mfn, Pfn, Width};
use p2mtrack::tracker::Tracker;
use p2mtrack_trace::NONE;

/// Looks that find a difference which no round owes, before it is a miss: its own round's, and the
/// next one's.
const LOOKS: u64 = 2;
const LOOKS_LIVE: u64 = 3;

/// What was known of a pfn when it was owed.
#[derive(Clone, Copy)]
struct Told {
    /// The entry that we read: what a destination would have. Of a live guest the one that the
    /// engine had, because what we read came later.
    read: u64,
    /// The entry that the engine had. It owes a page that was written without a look at the entry,
    /// which may be another for a moment, and what that one was nobody can ask of who sends
    /// nothing.
    had: u64,
}

impl Told {
    const NOTHING: Self = Self { read: NONE, had: NONE };

    const fn has(self, entry: u64) -> bool {
        self.read == entry || self.had == entry
    }
}

/// A check over all rounds.
pub(crate) struct Check {
    width: Width,
    max_mfn: u64,
    /// For each pfn what was known of it when it was last owed.
    told: Vec<Told>,
    /// The guest runs on between the engine's look and ours.
    live: bool,
    /// Differences that no round has owed yet: how many looks found each, and the entry that the
    /// last one found.
    open: BTreeMap<u64, (u64, u64)>,
    /// Of these, the ones that were counted as missed.
    lost: BTreeSet<u64>,
    missed: u64,
    pending: u64,
    /// Where the shadow or the destination differs after the last round.
    left: BTreeSet<u64>,
    /// Rounds that were looked at, and that were skipped.
    looks: u64,
    unchecked: u64,
}

impl Check {
    /// Before the first copy. Of a guest that is `live` the engine may have seen an entry as it was
    /// before, between two of our looks: a look more has to find a difference before it is a miss.
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
            looks: 0,
            unchecked: 0,
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
        self.forget(tracker);
        self.told.resize(self.told.len().max(pfns), Told::NOTHING);
        self.tell(entries, owed, tracker);
        self.adopt(tracker);
        let mut open = std::mem::take(&mut self.open);
        let left = std::mem::take(&mut self.left);
        let patience = self.needed();
        self.looks += 1;
        for (pfn, &entry) in (0..).zip(&entries[..pfns]) {
            // What the engine does not track is none of its business unless it names a frame.
            let matters = pfn < tracker.pfns() || self.is_frame(entry);
            let unknown = matters && !self.told[pfn as usize].has(entry);
            if unknown {
                let before = open.remove(&pfn).filter(|&(_, seen)| {
                    // What is owed now was found in time, and is judged as it is now. Unless the
                    // engine owes the page, and knows no better what its entry is than at our last
                    // look.
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
        // Of a live guest, all that is left and was not judged: it may be a change of a moment ago,
        // or no change at all.
        self.pending = match self.live {
            true => self.left.difference(&self.lost).count() as u64,
            false => self.left.difference(&left).count() as u64,
        };
    }

    /// A round at whose end nobody could read the entries, or whose p2m the engine could not
    /// follow: they are judged by the next.
    pub(crate) fn skip(&mut self, owed: &PfnBitmap, tracker: &Tracker) {
        self.unchecked += 1;
        self.forget(tracker);
        self.tell(&[], owed, tracker);
        self.adopt(tracker);
    }

    /// What the engine does not track any more fell away. While it can't follow the p2m it tracks
    /// what it did before.
    fn forget(&mut self, tracker: &Tracker) {
        let tracked = usize::try_from(tracker.pfns()).unwrap_or(usize::MAX);
        self.told.resize(tracked, Told::NOTHING);
    }

    fn tell(&mut self, entries: &[u64], owed: &PfnBitmap, tracker: &Tracker) {
        for pfn in owed.iter() {
            let Some(told) = self.told.get_mut(pfn.0 as usize) else { continue };
            let had = tracker.shadow_entry(pfn).0;
            let read = entries.get(pfn.0 as usize).filter(|_| !self.live);
            *told = Told { read: read.copied().unwrap_or(had), had };
        }
    }

    /// Takes what the engine knows of leaves without frames that are listed at several positions
    /// for told.
    fn adopt(&mut self, tracker: &Tracker) {
        let tracked = self.width.leaves(tracker.pfns()) as usize;
        let frames = tracker.leaf_frames();
        let frames = &frames[..frames.len().min(tracked)];
        let mut listed: HashMap<Mfn, u64> = HashMap::new();
        frames.iter().for_each(|&mfn| *listed.entry(mfn).or_default() += 1);
        for (leaf, mfn) in (0..).map(LeafIndex).zip(frames) {
            if mfn.0 != NONE && listed[mfn] > 1 {
                self.adopt_leaf(leaf, tracker);
            }
        }
    }

    fn adopt_leaf(&mut self, leaf: LeafIndex, tracker: &Tracker) {
        let first = self.width.first_pfn(leaf).0;
        let known = |slot| tracker.shadow_entry(Pfn(first + slot as u64)).0;
        let known: Vec<u64> = (0..self.width.entries()).map(known).collect();
        let first = first as usize;
        let pfns = self.told.len().min(first + self.width.entries()) - first;
        let nothing = |entry: u64| self.names_nothing(entry);
        let fits = |(told, &known): (&Told, &u64)| {
            told.had == known || nothing(told.read) && nothing(told.had)
        };
        let told = &self.told[first..first + pfns];
        if known.iter().all(|&known| nothing(known)) && told.iter().zip(&known).all(fits) {
            for (told, &known) in self.told[first..first + pfns].iter_mut().zip(&known) {
                if told.had != known {
                    *told = Told { read: known, had: known };
                }
            }
        }
    }

    /// Whether the entry can't be a frame of the domain, whoever is asked.
    const fn names_nothing(&self, entry: u64) -> bool {
        match Entry(entry).claim(self.width) {
            Claim::Invalid | Claim::Identity => true,
            Claim::Foreign(mfn) | Claim::Frame(mfn) => mfn.0 >= self.max_mfn,
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

    /// Looks that a miss takes.
    pub(crate) const fn needed(&self) -> u64 {
        if self.live { LOOKS_LIVE } else { LOOKS }
    }

    /// Rounds that were held against the p2m, the first copy included.
    pub(crate) const fn looks(&self) -> u64 {
        self.looks
    }

    /// Whether nothing was missed, and a miss would have been found: who could not look has not
    /// passed.
    pub(crate) const fn is_passed(&self) -> bool {
        self.missed == 0 && self.looks >= self.needed()
    }

    /// Rounds that could not be held against the p2m.
    pub(crate) const fn unchecked(&self) -> u64 {
        self.unchecked
    }
}

#[cfg(test)]
mod recordings;

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
