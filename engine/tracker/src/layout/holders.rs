// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pfns hold the p2m's own frames: the link from a log-dirty bit to a leaf or an upper frame.
//! Not here: the frames themselves (`layout`).
//! Units: pfns; a bitmap beside the map, so that log-dirty can be searched word by word.
//! Threads: one owner.
//! Source: Xen marks a write under `m2p[frame]` of that moment (`paging_mark_dirty`), so the m2p, not the p2m, is asked.

use std::collections::{BTreeMap, BTreeSet};

use crate::bitmap::bits_of;
use crate::frame::{Mfn, Pfn};
use crate::log::Log;
use crate::pfn_set::PfnSet;

/// One frame that the p2m is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// A leaf.
    Leaf(Mfn),
    /// An upper frame of this level.
    Table(u8, Mfn),
}

impl Part {
    /// Its frame.
    pub(crate) const fn mfn(self) -> Mfn {
        match self {
            Self::Leaf(mfn) | Self::Table(_, mfn) => mfn,
        }
    }
}

/// Pfn of each part, and the parts of each pfn.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    /// The pfns that hold any.
    plane: PfnSet,
    parts: BTreeMap<Pfn, Vec<Part>>,
    holder: BTreeMap<Part, Option<Pfn>>,
    /// Parts that no log-dirty bit can announce.
    blind: BTreeSet<Part>,
}

impl Holders {
    /// Sets the pfn under which writes to `part` are marked. `None`, or a pfn from `limit` on, makes it
    /// blind: it is taken for dirty in every round. Returns whether anything changed.
    pub(crate) fn hold(&mut self, part: Part, pfn: Option<Pfn>, limit: u64) -> bool {
        let pfn = pfn.filter(|pfn| pfn.0 < limit);
        if self.holder.get(&part) == Some(&pfn) {
            return false;
        }
        self.release(part);
        self.holder.insert(part, pfn);
        let Some(pfn) = pfn else {
            self.blind.insert(part);
            return true;
        };
        self.plane.cover((pfn.0 + 1).next_multiple_of(64));
        self.plane.set(pfn);
        self.parts.entry(pfn).or_default().push(part);
        true
    }

    /// Forgets a part.
    pub(crate) fn release(&mut self, part: Part) {
        self.blind.remove(&part);
        let Some(Some(pfn)) = self.holder.remove(&part) else { return };
        if let Some(parts) = self.parts.get_mut(&pfn) {
            parts.retain(|&other| other != part);
            if parts.is_empty() {
                self.parts.remove(&pfn);
                self.plane.clear(pfn);
            }
        }
    }

    /// The pfn of a part, if it is known and has one.
    pub(crate) fn of(&self, part: Part) -> Option<Pfn> {
        self.holder.get(&part).copied().flatten()
    }

    /// Whether the part is known.
    pub(crate) fn knows(&self, part: Part) -> bool {
        self.holder.contains_key(&part)
    }

    /// All known parts.
    pub(crate) fn all(&self) -> impl Iterator<Item = Part> + '_ {
        self.holder.keys().copied()
    }

    /// Parts that no log-dirty bit can announce.
    pub(crate) fn blind(&self) -> impl Iterator<Item = Part> + '_ {
        self.blind.iter().copied()
    }

    /// Parts whose pfn has to be asked for anew in every round: upper frames, and blind ones.
    pub(crate) fn to_ask(&self) -> Vec<Part> {
        let first_table = Part::Table(0, Mfn(0));
        let tables = self.holder.range(first_table..).map(|(&part, _)| part);
        let leaves = self.blind().filter(|part| matches!(part, Part::Leaf(_)));
        tables.chain(leaves).collect()
    }

    /// The parts that `pfn` holds.
    pub(crate) fn at(&self, pfn: Pfn) -> &[Part] {
        self.parts.get(&pfn).map_or(&[], Vec::as_slice)
    }

    /// The set of holding pfns.
    pub(crate) const fn plane(&self) -> &PfnSet {
        &self.plane
    }

    /// The parts whose pfn is in `dirty`, and the blind ones.
    pub(crate) fn dirty(&self, dirty: &Log) -> Vec<Part> {
        let mut found: Vec<Part> = self.blind.iter().copied().collect();
        found.extend(self.marked(dirty));
        found
    }

    /// The parts whose pfn is in `dirty`.
    pub(crate) fn marked(&self, dirty: &Log) -> Vec<Part> {
        let mut found = Vec::new();
        for (index, word) in dirty.dirty_words(self.plane.lines()) {
            for bit in bits_of(self.plane.word(index) & word) {
                found.extend_from_slice(self.at(Pfn(64 * index as u64 + bit)));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resend::ResendBitmap;
    use crate::shard::Shards;

    #[test]
    fn a_dirty_pfn_finds_its_parts_and_blind_ones_are_always_dirty() {
        let mut holders = Holders::default();
        let (leaf, table, lost) = (Part::Leaf(Mfn(1)), Part::Table(1, Mfn(2)), Part::Leaf(Mfn(3)));
        assert!(holders.hold(leaf, Some(Pfn(100)), 1000));
        assert!(holders.hold(table, Some(Pfn(100)), 1000));
        assert!(holders.hold(lost, Some(Pfn(1000)), 1000));
        assert!(!holders.hold(leaf, Some(Pfn(100)), 1000));
        let (mut dirty, shards) = (Log::default(), Shards::new(1).expect("the caller's thread"));
        dirty.reset(512);
        assert_eq!(holders.dirty(&dirty), [lost]);
        dirty.fill().set(Pfn(100));
        dirty.owe(&mut ResendBitmap::new(512), &shards);
        assert_eq!(holders.dirty(&dirty), [lost, leaf, table]);
        holders.hold(leaf, Some(Pfn(7)), 1000);
        holders.release(lost);
        assert_eq!(holders.dirty(&dirty), [table]);
        assert_eq!(holders.of(leaf), Some(Pfn(7)));
        assert!(holders.knows(leaf) && !holders.knows(lost));
        holders.release(table);
        assert_eq!(holders.dirty(&dirty), []);
        assert!(!holders.plane().get(Pfn(100)));
    }
}
