// SPDX-License-Identifier: MIT OR Apache-2.0
//! A naive full comparison beside the engine: did the engine find every difference in time?
//! Not here: anything of the engine but the pfns that it reports as owed, and its shadow.
//! Units: pfns; a difference that stays open over several rounds is counted once.
//! Threads: one.
//! Source: own. Reads every entry in every round; follows no root and no dirty bit.
//!
//! *Missed* is a difference of round N that neither round N nor N+1 owed: the leaf may have been
//! written after round N's CLEAN, so that only round N+1's log names it. For a live guest, round
//! N+2 must not have owed it either. *Pending* is a difference after the last round that was not
//! there in the round before: no later round can judge it.
//!
//! Only two cases are not differences:
//! - *A leaf without frames at several positions* (Linux's missing and identity leaves), where no
//!   frame was reported: there is nothing to send, so the engine owes nothing. But it must know the
//!   leaf: its shadow counts as reported.
//! - *Pfns that a shrink removed*: they count as not reported, so that they are owed if they come
//!   back. A p2m that is hidden for a round was not removed. That round is not judged, and the next
//!   one is compared with what was reported before.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Claim, Entry, LeafIndex, Mfn, Pfn, Width};
use p2mtrack::tracker::Tracker;
use p2mtrack_trace::NONE;

/// Checks that have to find a difference that no round owes before it is a miss: the check of its
/// own round and that of the next.
const CHECKS: u64 = 2;
const CHECKS_LIVE: u64 = 3;

/// What was known of a pfn when it was last owed.
#[derive(Clone, Copy)]
struct Reported {
    /// The entry that the check read: what a destination would have. For a live guest the engine's
    /// entry, because the check reads later.
    read: u64,
    /// The engine's entry. The engine owes a written page without reading its entry, which may be
    /// different for a moment. As nothing is sent, that other entry is not known.
    had: u64,
}

impl Reported {
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
    reported: Vec<Reported>,
    /// The guest runs between the engine's reading and the check's.
    live: bool,
    /// Differences that no round has owed yet: how many checks found each, and the entry that the
    /// last one found.
    open: BTreeMap<u64, (u64, u64)>,
    /// Those of them that were counted as missed.
    lost: BTreeSet<u64>,
    missed: u64,
    pending: u64,
    /// Where the shadow or the destination differs after the last round.
    left: BTreeSet<u64>,
    /// Rounds that were checked, and that were skipped.
    checked: u64,
    unchecked: u64,
}

impl Check {
    /// Before the first copy. In a `live` guest the engine may have read an entry's old value
    /// between two checks: one more check has to find a difference before it is a miss.
    pub(crate) const fn new(width: Width, max_mfn: u64, live: bool) -> Self {
        Self {
            width,
            max_mfn,
            reported: Vec::new(),
            live,
            open: BTreeMap::new(),
            lost: BTreeSet::new(),
            missed: 0,
            pending: 0,
            left: BTreeSet::new(),
            checked: 0,
            unchecked: 0,
        }
    }

    /// Checks an observed round against all entries as read at its end.
    pub(crate) fn round(
        &mut self,
        entries: &[u64],
        pfn_count: u64,
        owed: &PfnBitmap,
        tracker: &Tracker,
    ) {
        // Entries past the guest's count are no pfns.
        let pfns = entries.len().min(usize::try_from(pfn_count).unwrap_or(usize::MAX));
        self.forget(tracker);
        self.reported.resize(self.reported.len().max(pfns), Reported::NOTHING);
        self.record(entries, owed, tracker);
        self.adopt(tracker);
        let mut open = std::mem::take(&mut self.open);
        let left = std::mem::take(&mut self.left);
        let patience = self.needed();
        self.checked += 1;
        for (pfn, &entry) in (0..).zip(&entries[..pfns]) {
            // Outside of the tracked pfns only an entry that names a frame matters.
            let matters = pfn < tracker.pfns() || self.is_frame(entry);
            let unknown = matters && !self.reported[pfn as usize].has(entry);
            if unknown {
                let before = open.remove(&pfn).filter(|&(_, seen)| {
                    // A pfn that is owed now was found in time: counting starts again. Not so if
                    // the guest is live and the entry is that of the last check: the engine owes
                    // the page, and still does not know the entry.
                    !owed.get(Pfn(pfn)) || self.live && seen == entry
                });
                let checks = before.map_or(1, |(checks, _)| checks + 1);
                self.open.insert(pfn, (checks, entry));
                self.missed += u64::from(checks >= patience && self.lost.insert(pfn));
            }
            if unknown || matters && tracker.shadow_entry(Pfn(pfn)) != Entry(entry) {
                self.left.insert(pfn);
            }
        }
        self.lost.retain(|pfn| self.open.contains_key(pfn));
        // For a live guest, all differences that are not misses: each may be a change of a moment
        // ago, or no change at all.
        self.pending = match self.live {
            true => self.left.difference(&self.lost).count() as u64,
            false => self.left.difference(&left).count() as u64,
        };
    }

    /// Skips a round at whose end the entries could not be read, or whose p2m the engine could not
    /// follow: the next round judges it.
    pub(crate) fn skip(&mut self, owed: &PfnBitmap, tracker: &Tracker) {
        self.unchecked += 1;
        self.forget(tracker);
        self.record(&[], owed, tracker);
        self.adopt(tracker);
    }

    /// Drops the pfns that the engine tracks no longer: a shrink removed them. While the engine
    /// can't follow the p2m, it tracks the same pfns as before.
    fn forget(&mut self, tracker: &Tracker) {
        let tracked = usize::try_from(tracker.pfns()).unwrap_or(usize::MAX);
        self.reported.resize(tracked, Reported::NOTHING);
    }

    fn record(&mut self, entries: &[u64], owed: &PfnBitmap, tracker: &Tracker) {
        for pfn in owed.iter() {
            let Some(reported) = self.reported.get_mut(pfn.0 as usize) else { continue };
            let had = tracker.shadow_entry(pfn).0;
            let read = entries.get(pfn.0 as usize).filter(|_| !self.live);
            *reported = Reported { read: read.copied().unwrap_or(had), had };
        }
    }

    /// Counts the engine's shadow of leaves without frames that are listed at several positions as
    /// reported.
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
        let pfns = self.reported.len().min(first + self.width.entries()) - first;
        let nothing = |entry: u64| self.names_nothing(entry);
        let fits = |(reported, &known): (&Reported, &u64)| {
            reported.had == known || nothing(reported.read) && nothing(reported.had)
        };
        let reported = &self.reported[first..first + pfns];
        if known.iter().all(|&known| nothing(known)) && reported.iter().zip(&known).all(fits) {
            for (reported, &known) in self.reported[first..first + pfns].iter_mut().zip(&known) {
                if reported.had != known {
                    *reported = Reported { read: known, had: known };
                }
            }
        }
    }

    /// Whether the entry can't name a frame of the domain in any case.
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

    /// Differences that no later round can judge.
    pub(crate) const fn pending(&self) -> u64 {
        self.pending
    }

    /// Checks that have to find a difference before it is a miss.
    pub(crate) const fn needed(&self) -> u64 {
        if self.live { CHECKS_LIVE } else { CHECKS }
    }

    /// Rounds that were compared with the p2m, the first copy included.
    pub(crate) const fn checked(&self) -> u64 {
        self.checked
    }

    /// Whether nothing was missed, and enough rounds were checked to find a miss.
    pub(crate) const fn is_passed(&self) -> bool {
        self.missed == 0 && self.checked >= self.needed()
    }

    /// Rounds that could not be compared with the p2m.
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

    /// Checks rounds of an empty engine: for each the entry of pfn 1, and whether it is owed.
    fn checks(check: &mut Check, entries: &[(u64, bool)]) -> Vec<(u64, u64)> {
        let tracker = Tracker::new(Config::default(), Width::W64).expect("a tracker");
        let round = |&(entry, is_owed): &(u64, bool)| {
            let mut owed = PfnBitmap::new(64);
            if is_owed {
                owed.set(Pfn(1));
            }
            check.round(&[NONE, entry], 2, &owed, &tracker);
            (check.missed(), check.pending())
        };
        entries.iter().map(round).collect()
    }

    #[test]
    fn a_miss_takes_two_checks_of_a_recording_and_three_of_a_live_guest() {
        let mut check = Check::new(Width::W64, 100, false);
        assert_eq!(
            checks(&mut check, &[(5, false), (5, false), (6, false)]),
            [(0, 1), (1, 0), (1, 0)]
        );
        let mut check = Check::new(Width::W64, 100, true);
        let found = checks(&mut check, &[(5, false), (5, false), (6, false), (6, false)]);
        assert_eq!(found, [(0, 1), (0, 1), (1, 0), (1, 0)], "even if it changed again");
    }

    #[test]
    fn what_is_owed_in_between_is_found() {
        for live in [false, true] {
            let mut check = Check::new(Width::W64, 100, live);
            let found = checks(&mut check, &[(5, false), (6, true), (NONE, false), (5, false)]);
            assert_eq!(found.last().map(|found| found.0), Some(0), "live {live}");
        }
        // Owed in each round because its page is written, but its entry is never read.
        let mut check = Check::new(Width::W64, 100, true);
        assert_eq!(checks(&mut check, &[(5, true), (5, true), (5, true)]).last(), Some(&(1, 0)));
        // The engine read the entry's old value twice, and then the new one.
        let mut check = Check::new(Width::W64, 100, true);
        let found = checks(&mut check, &[(5, false), (5, false), (NONE, false), (5, false)]);
        assert_eq!(found.last(), Some(&(0, 1)));
    }
}
