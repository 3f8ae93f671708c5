// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a correct tracker finds when it replays a recording: the oracle, as naive as possible.
//! Not here: anything of a tracker: no walk, no generation, no bitmap tricks, no shards.
//! Units: entries and leaf positions; `rounds` counts those after the first copy.
//! Threads: one.
//! Source: the rule below, implemented from its text alone; `expected.py` of the captures is the
//! other implementation.
//!
//! The shadow starts as round 0's entries. In each later round:
//! 1. a leaf position is *dirty* if its leaf's pfn has its bit in this round's log-dirty bitmap,
//!    and *new* if it did not exist in the round before or is backed by another frame;
//! 2. every entry of each dirty or new position is compared with the shadow (a position that the
//!    shadow lacks counts as invalid); a difference is mapped, unmapped, remapped or other; it is
//!    *beyond log-dirty* if the pfn's own bit is not set; then the shadow takes this round's value.
//!
//! In a round without leaves the p2m is hidden: the round is counted, and everything else stays as
//! in the round before.
//!
//! A change in the last round's entries whose leaf is not dirty yet would be found in the next:
//! *pending*. *Missed* is every other difference from the shadow after the last round.

use p2mtrack::frame::{Pfn, Width};
use serde::{Deserialize, Serialize};

use crate::error::TraceError;
use crate::raw::Capture;
use crate::reader::Reader;
use crate::round::NONE;

/// Sums over all rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Rounds after the first copy.
    pub rounds: u64,
    /// Dirty leaf positions.
    pub leaves_dirty: u64,
    /// New leaf positions.
    pub leaves_new: u64,
    /// Differences found: the sum of the next four.
    pub entries_changed: u64,
    /// No machine frame before, one now.
    pub mapped: u64,
    /// A machine frame before, none now.
    pub unmapped: u64,
    /// Two machine frames.
    pub remapped: u64,
    /// Two values that are no machine frames.
    pub other: u64,
    /// Differences of pfns that are not themselves dirty.
    pub beyond_log_dirty: u64,
    /// Differences that no round will find.
    pub missed: u64,
    /// Differences that the next round would find.
    pub pending: u64,
}

/// Follows a recording round by round.
#[derive(Debug)]
pub struct Oracle {
    leaf_entries: usize,
    max_mfn: u64,
    totals: Totals,
    shadow: Vec<u64>,
    leaf_mfns: Vec<u64>,
    entries: Vec<u64>,
    entries_before: Vec<u64>,
}

impl Oracle {
    /// Begins with the first copy.
    #[must_use]
    pub fn new(width: Width, max_mfn: u64, leaf_mfns: &[u64], entries: &[u64]) -> Self {
        Self {
            leaf_entries: width.entries(),
            max_mfn,
            totals: Totals::default(),
            shadow: entries.to_vec(),
            leaf_mfns: leaf_mfns.to_vec(),
            entries: entries.to_vec(),
            entries_before: Vec::new(),
        }
    }

    /// A later round: its leaves, its log-dirty bitmap as a predicate, all its entries.
    pub fn round(
        &mut self,
        leaf_mfns: &[u64],
        leaf_pfns: &[u64],
        dirty: impl Fn(u64) -> bool,
        entries: &[u64],
    ) {
        self.totals.rounds += 1;
        if leaf_mfns.is_empty() {
            return;
        }
        for leaf in 0..leaf_mfns.len() {
            let is_dirty = dirty(leaf_pfns[leaf]);
            let is_new = leaf >= self.leaf_mfns.len() || self.leaf_mfns[leaf] != leaf_mfns[leaf];
            self.totals.leaves_dirty += u64::from(is_dirty);
            self.totals.leaves_new += u64::from(is_new);
            while self.shadow.len() < self.leaf_entries * (leaf + 1) {
                self.shadow.push(NONE);
            }
            if is_dirty || is_new {
                for slot in 0..self.leaf_entries {
                    let pfn = self.leaf_entries * leaf + slot;
                    self.compare(pfn, entries[pfn], dirty(pfn as u64));
                }
            }
        }
        self.leaf_mfns = leaf_mfns.to_vec();
        self.entries_before = std::mem::replace(&mut self.entries, entries.to_vec());
    }

    fn compare(&mut self, pfn: usize, new: u64, dirty: bool) {
        let old = self.shadow[pfn];
        if old == new {
            return;
        }
        self.shadow[pfn] = new;
        match (old < self.max_mfn, new < self.max_mfn) {
            (false, true) => self.totals.mapped += 1,
            (true, false) => self.totals.unmapped += 1,
            (true, true) => self.totals.remapped += 1,
            (false, false) => self.totals.other += 1,
        }
        self.totals.entries_changed += 1;
        self.totals.beyond_log_dirty += u64::from(!dirty);
    }

    /// The sums, after the last round.
    #[must_use]
    pub fn finish(mut self) -> Totals {
        for pfn in 0..self.entries.len() {
            if self.shadow[pfn] == self.entries[pfn] {
                continue;
            }
            let before = self.entries_before.get(pfn);
            if before == Some(&self.entries[pfn]) {
                self.totals.missed += 1;
            } else {
                self.totals.pending += 1;
            }
        }
        self.totals
    }
}

/// What a correct tracker finds in a trace.
///
/// # Errors
/// A round can't be decoded.
pub fn expected(reader: &Reader<'_>) -> Result<Totals, TraceError> {
    let (width, max_mfn) = (reader.meta().width, reader.meta().max_mfn);
    let mut rounds = reader.rounds();
    rounds.advance()?;
    let mut oracle =
        Oracle::new(width, max_mfn, &rounds.round().leaf_mfns, &rounds.round().entries);
    while rounds.advance()? {
        let round = rounds.round();
        let bitmap = round.log_dirty.as_ref();
        let dirty = |pfn| bitmap.is_some_and(|bitmap| bitmap.get(Pfn(pfn)));
        oracle.round(&round.leaf_mfns, &round.leaf_pfns, dirty, &round.entries);
    }
    Ok(oracle.finish())
}

/// What a correct tracker finds in a capture.
#[must_use]
pub fn expected_of_capture(capture: &Capture) -> Totals {
    let first = capture.round(0);
    let meta = capture.meta();
    let mut oracle = Oracle::new(meta.width, meta.max_mfn, first.leaf_mfns, first.entries);
    for number in 1..capture.rounds() {
        let round = capture.round(number);
        let bitmap = round.log_dirty.unwrap_or(&[]);
        let dirty = |pfn: u64| {
            let byte = usize::try_from(pfn / 8).ok().and_then(|at| bitmap.get(at));
            byte.is_some_and(|byte| byte >> (pfn % 8) & 1 == 1)
        };
        oracle.round(round.leaf_mfns, round.leaf_pfns, dirty, round.entries);
    }
    oracle.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One leaf of 512 entries: all invalid but those in `set`.
    fn leaf(set: &[(usize, u64)]) -> Vec<u64> {
        let mut entries = vec![NONE; 512];
        for &(pfn, entry) in set {
            entries[pfn] = entry;
        }
        entries
    }

    #[test]
    fn each_kind_of_change_is_counted_once() {
        let mut oracle = Oracle::new(Width::W64, 100, &[9], &leaf(&[(1, 5), (2, 6), (3, 200)]));
        let now = leaf(&[(0, 7), (2, 8), (3, 201)]);
        oracle.round(&[9], &[40], |pfn| pfn == 40 || pfn == 2, &now);
        let totals = oracle.finish();
        let kinds = [totals.mapped, totals.unmapped, totals.remapped, totals.other];
        assert_eq!(kinds, [1, 1, 1, 1]);
        assert_eq!((totals.entries_changed, totals.beyond_log_dirty), (4, 3));
        assert_eq!((totals.leaves_dirty, totals.leaves_new), (1, 0));
        assert_eq!((totals.rounds, totals.missed, totals.pending), (1, 0, 0));
    }

    #[test]
    fn a_change_in_a_clean_leaf_is_pending_and_then_missed() {
        let mut oracle = Oracle::new(Width::W64, 100, &[9], &leaf(&[]));
        let now = leaf(&[(0, 7)]);
        oracle.round(&[9], &[40], |_| false, &now);
        oracle.round(&[9], &[40], |_| false, &leaf(&[(0, 7), (1, 8)]));
        let totals = oracle.finish();
        assert_eq!((totals.missed, totals.pending, totals.entries_changed), (1, 1, 0));
    }

    #[test]
    fn a_hidden_p2m_is_as_it_was_before() {
        let mut oracle = Oracle::new(Width::W64, 100, &[9], &leaf(&[(0, 7)]));
        let lost = leaf(&[(0, 7), (1, 8)]);
        oracle.round(&[9], &[40], |_| false, &lost);
        oracle.round(&[], &[], |_| true, &[]);
        let totals = oracle.finish();
        assert_eq!((totals.rounds, totals.missed, totals.pending), (2, 0, 1));
        let mut oracle = Oracle::new(Width::W64, 100, &[9], &leaf(&[(0, 7)]));
        oracle.round(&[9], &[40], |_| false, &lost);
        oracle.round(&[], &[], |_| true, &[]);
        oracle.round(&[9], &[40], |_| false, &lost);
        let totals = oracle.finish();
        assert_eq!((totals.leaves_new, totals.missed, totals.pending), (0, 1, 0));
    }

    #[test]
    fn new_and_moved_leaves_are_compared_whole() {
        let mut oracle = Oracle::new(Width::W64, 100, &[9], &leaf(&[]));
        let both = [leaf(&[(0, 7)]), leaf(&[(0, 8)])].concat();
        oracle.round(&[10, 11], &[40, 41], |_| false, &both);
        let totals = oracle.finish();
        assert_eq!((totals.leaves_new, totals.mapped, totals.pending), (2, 2, 0));
    }
}
