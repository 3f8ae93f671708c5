// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shadow: for each pfn the entry under which it was last accepted, held leaf by leaf.
//! Not here: live memory, or which pfns are owed; for an owed pfn the shadow says nothing.
//! Units: leaves by position in the p2m, 512 or 1,024 entries each.
//! Threads: one writer; any number of readers between writes.
//! Source: law 5, `docs/design`. Not Xen's shadow paging.

use std::collections::HashSet;
use std::sync::Arc;

use crate::diff::{Kernel, diff, diff_hole};
use crate::frame::{Entry, FRAME_BYTES, LeafIndex, Pfn, Width};
use crate::leaf::{Leaf, LeafMask};

/// One leaf of the shadow, in the smallest form that reproduces it exactly.
#[derive(Clone, Debug)]
enum ShadowLeaf {
    /// All entries invalid.
    Hole,
    /// Every entry as read. Positions that are backed by one frame share one copy.
    Raw(Arc<Leaf>),
}

/// Our private copy of what was sent.
#[derive(Clone, Debug)]
pub struct Shadow {
    width: Width,
    leaves: Vec<ShadowLeaf>,
}

/// What a shadow holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowBytes {
    /// Positions; the sum of `hole` and `raw`.
    pub leaves: u64,
    /// Positions without any valid entry.
    pub hole: u64,
    /// Positions held as read.
    pub raw: u64,
    /// Memory of the copies, a shared one counted once, and of the table of positions.
    pub bytes: u64,
}

impl Shadow {
    /// A shadow without leaves.
    #[must_use]
    pub const fn new(width: Width) -> Self {
        Self { width, leaves: Vec::new() }
    }

    /// Positions.
    #[must_use]
    pub const fn leaves(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// Changes the number of positions. New ones are holes: their entries count as invalid.
    pub fn resize(&mut self, leaves: u64) {
        self.leaves.resize(leaves as usize, ShadowLeaf::Hole);
    }

    fn leaf(&self, leaf: LeafIndex) -> Option<&ShadowLeaf> {
        self.leaves.get(leaf.0 as usize)
    }

    /// # Panics
    /// If the shadow has no such leaf: its owner resizes it before it writes.
    fn leaf_mut(&mut self, leaf: LeafIndex) -> &mut ShadowLeaf {
        let leaves = self.leaves.len();
        match self.leaves.get_mut(leaf.0 as usize) {
            Some(found) => found,
            None => panic!("leaf {:#x} is past the shadow's {leaves:#x} leaves", leaf.0),
        }
    }

    /// The entry of a pfn; invalid past the end.
    #[must_use]
    pub fn entry(&self, pfn: Pfn) -> Entry {
        match self.leaf(self.width.leaf_of(pfn)) {
            None | Some(ShadowLeaf::Hole) => Entry::INVALID,
            Some(ShadowLeaf::Raw(copy)) => copy.entry(self.width, self.width.slot_of(pfn)),
        }
    }

    /// Writes the entry of one pfn. A copy that other positions share is not touched: this position
    /// gets its own.
    ///
    /// # Panics
    /// If the shadow has no leaf for the pfn.
    pub fn set(&mut self, pfn: Pfn, entry: Entry) {
        let (width, old) = (self.width, self.entry(pfn));
        let leaf = self.leaf_mut(width.leaf_of(pfn));
        if entry == old {
            return; // no private copy, and no raw leaf in a hole, for nothing
        }
        if matches!(leaf, ShadowLeaf::Hole) {
            *leaf = ShadowLeaf::Raw(Arc::new(Leaf::HOLE));
        }
        if let ShadowLeaf::Raw(copy) = leaf {
            Arc::make_mut(copy).set_entry(width, width.slot_of(pfn), entry);
        }
    }

    /// The copy behind a position, if it is not a hole.
    #[must_use]
    pub fn copy(&self, leaf: LeafIndex) -> Option<&Arc<Leaf>> {
        match self.leaf(leaf)? {
            ShadowLeaf::Hole => None,
            ShadowLeaf::Raw(copy) => Some(copy),
        }
    }

    /// The slots of `live` whose entries differ from the shadow's; past the end all entries are invalid.
    #[must_use]
    pub fn diff(&self, kernel: Kernel, leaf: LeafIndex, live: &Leaf) -> LeafMask {
        match self.leaf(leaf) {
            None | Some(ShadowLeaf::Hole) => diff_hole(kernel, self.width, live),
            Some(ShadowLeaf::Raw(copy)) => diff(kernel, self.width, live, copy),
        }
    }

    /// Replaces a whole leaf. Positions that are given the same `copy` share it.
    ///
    /// # Panics
    /// If the shadow has no such leaf.
    pub fn install(&mut self, leaf: LeafIndex, copy: &Arc<Leaf>) {
        *self.leaf_mut(leaf) =
            if copy.is_hole() { ShadowLeaf::Hole } else { ShadowLeaf::Raw(Arc::clone(copy)) };
    }

    /// Whether a position is held as a hole; past the end there is nothing but holes.
    #[must_use]
    pub fn is_hole(&self, leaf: LeafIndex) -> bool {
        matches!(self.leaf(leaf), None | Some(ShadowLeaf::Hole))
    }

    /// Whether a position holds this very copy, not only equal entries.
    #[must_use]
    pub fn shares(&self, leaf: LeafIndex, copy: &Arc<Leaf>) -> bool {
        matches!(self.leaf(leaf), Some(ShadowLeaf::Raw(held)) if Arc::ptr_eq(held, copy))
    }

    /// Gives a leaf its smallest form: entries may have become invalid one by one.
    ///
    /// # Panics
    /// If the shadow has no such leaf.
    pub fn compact(&mut self, leaf: LeafIndex) {
        let held = self.leaf_mut(leaf);
        if matches!(held, ShadowLeaf::Raw(copy) if copy.is_hole()) {
            *held = ShadowLeaf::Hole;
        }
    }

    /// Counts what is held. Costs one look per position.
    #[must_use]
    pub fn bytes(&self) -> ShadowBytes {
        let mut held = ShadowBytes { leaves: self.leaves(), ..ShadowBytes::default() };
        let mut copies = HashSet::new();
        for leaf in &self.leaves {
            match leaf {
                ShadowLeaf::Hole => held.hole += 1,
                ShadowLeaf::Raw(copy) => {
                    held.raw += 1;
                    copies.insert(Arc::as_ptr(copy));
                }
            }
        }
        let table = self.leaves.capacity() * size_of::<ShadowLeaf>();
        held.bytes = (copies.len() * FRAME_BYTES + table) as u64;
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WIDTHS: [Width; 2] = [Width::W32, Width::W64];
    const LEAVES: u64 = 4;

    #[derive(Clone, Debug)]
    enum Op {
        Set { pfn: u64, word: u64 },
        Clear { leaf: u64 },
        Install { leaf: u64, copy: usize },
        Resize { leaves: u64 },
        Compact { leaf: u64 },
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let word = prop_oneof![Just(u64::from(u32::MAX)), 0_u64..0xffff_0000];
        let op = prop_oneof![
            8 => (0..LEAVES * 1024, word).prop_map(|(pfn, word)| Op::Set { pfn, word }),
            1 => (0..LEAVES).prop_map(|leaf| Op::Clear { leaf }),
            4 => (0..LEAVES, 0_usize..3).prop_map(|(leaf, copy)| Op::Install { leaf, copy }),
            1 => (0..=LEAVES).prop_map(|leaves| Op::Resize { leaves }),
            2 => (0..LEAVES).prop_map(|leaf| Op::Compact { leaf }),
        ];
        prop::collection::vec(op, 0..60)
    }

    /// Two leaves and a hole; what is installed from here is shared by all positions that get it.
    fn copies(width: Width) -> [Arc<Leaf>; 3] {
        [100, 9000, u64::MAX].map(|base| {
            let mut leaf = Leaf::HOLE;
            for slot in (0..width.entries()).filter(|_| base != u64::MAX) {
                leaf.set_entry(width, slot, Entry(base + slot as u64));
            }
            Arc::new(leaf)
        })
    }

    /// The shadow as a plain list of entries.
    struct Model {
        width: Width,
        entries: Vec<u64>,
    }

    impl Model {
        fn leaf(&mut self, leaf: u64) -> Option<&mut [u64]> {
            self.entries.chunks_exact_mut(self.width.entries()).nth(leaf as usize)
        }

        /// The same step on both; steps past the end are left out, they have a test of their own.
        fn step(&mut self, shadow: &mut Shadow, copies: &[Arc<Leaf>; 3], op: &Op) {
            let width = self.width;
            match *op {
                Op::Set { pfn, word } => {
                    if let Some(slot) = self.entries.get_mut(pfn as usize) {
                        let word = if word == u64::from(u32::MAX) { u64::MAX } else { word };
                        *slot = word;
                        shadow.set(Pfn(pfn), Entry(word));
                    }
                }
                Op::Clear { leaf } => {
                    if let Some(slots) = self.leaf(leaf) {
                        slots.fill(u64::MAX);
                        let first = width.first_pfn(LeafIndex(leaf)).0;
                        (first..first + width.entries() as u64)
                            .for_each(|pfn| shadow.set(Pfn(pfn), Entry::INVALID));
                    }
                }
                Op::Install { leaf, copy } => {
                    if let Some(slots) = self.leaf(leaf) {
                        let entries = copies[copy].entries(width).map(|entry| entry.0);
                        slots.iter_mut().zip(entries).for_each(|(slot, entry)| *slot = entry);
                        shadow.install(LeafIndex(leaf), &copies[copy]);
                    }
                }
                Op::Resize { leaves } => {
                    self.entries.resize(leaves as usize * width.entries(), u64::MAX);
                    shadow.resize(leaves);
                }
                Op::Compact { leaf } if leaf < shadow.leaves() => {
                    shadow.compact(LeafIndex(leaf));
                    let hole = self.leaf(leaf).is_some_and(|s| s.iter().all(|&e| e == u64::MAX));
                    assert_eq!(shadow.is_hole(LeafIndex(leaf)), hole);
                }
                Op::Compact { .. } => {}
            }
        }

        fn check(&mut self, shadow: &Shadow, live: &Leaf) {
            let width = self.width;
            for pfn in 0..(LEAVES + 1) * width.entries() as u64 {
                let expected = self.entries.get(pfn as usize).copied().unwrap_or(u64::MAX);
                assert_eq!(shadow.entry(Pfn(pfn)), Entry(expected), "pfn {pfn:#x}");
            }
            for leaf in 0..=LEAVES {
                let mut base = Leaf::HOLE;
                for (slot, &entry) in self.leaf(leaf).unwrap_or_default().iter().enumerate() {
                    base.set_entry(width, slot, Entry(entry));
                }
                let expected = diff(Kernel::Scalar, width, live, &base);
                for kernel in Kernel::ALL {
                    assert_eq!(shadow.diff(kernel, LeafIndex(leaf), live), expected);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn reads_back_like_a_plain_list(ops in ops()) {
            for width in WIDTHS {
                let copies = copies(width);
                let kept = copies.clone().map(|copy| Leaf::clone(&copy));
                let mut shadow = Shadow::new(width);
                shadow.resize(LEAVES);
                let entries = vec![u64::MAX; LEAVES as usize * width.entries()];
                let mut model = Model { width, entries };
                for op in &ops {
                    model.step(&mut shadow, &copies, op);
                }
                model.check(&shadow, &copies[0]);
                let held = shadow.bytes();
                prop_assert_eq!(held.hole + held.raw, held.leaves);
                prop_assert_eq!(copies.map(|copy| Leaf::clone(&copy)), kept);
            }
        }
    }

    #[test]
    fn aliased_leaves_cost_one_leaf_until_one_is_written() {
        for width in WIDTHS {
            let [copy, ..] = copies(width);
            let mut shadow = Shadow::new(width);
            shadow.resize(3);
            let empty = shadow.bytes().bytes;
            shadow.install(LeafIndex(0), &copy);
            shadow.install(LeafIndex(2), &copy);
            let held = shadow.bytes();
            assert_eq!((held.leaves, held.hole, held.raw), (3, 1, 2));
            assert_eq!(held.bytes - empty, FRAME_BYTES as u64);
            assert!(shadow.shares(LeafIndex(0), &copy) && shadow.shares(LeafIndex(2), &copy));

            shadow.set(Pfn(7), Entry(107));
            assert!(shadow.shares(LeafIndex(0), &copy), "an equal entry needs no copy");
            shadow.set(Pfn(7), Entry(5));
            assert!(!shadow.shares(LeafIndex(0), &copy) && shadow.shares(LeafIndex(2), &copy));
            assert_eq!(shadow.entry(Pfn(2 * width.entries() as u64 + 7)), Entry(107));
            assert_eq!(shadow.bytes().bytes - empty, 2 * FRAME_BYTES as u64);
        }
    }

    #[test]
    fn holes_stay_holes_until_an_entry_is_valid() {
        let mut shadow = Shadow::new(Width::W64);
        shadow.resize(1);
        shadow.set(Pfn(3), Entry::INVALID);
        shadow.install(LeafIndex(0), &Arc::new(Leaf::HOLE));
        assert!(shadow.is_hole(LeafIndex(0)) && shadow.is_hole(LeafIndex(9)));
        shadow.set(Pfn(3), Entry(1));
        assert!(!shadow.is_hole(LeafIndex(0)));
        shadow.set(Pfn(3), Entry::INVALID);
        shadow.compact(LeafIndex(0));
        assert!(shadow.is_hole(LeafIndex(0)));
    }

    #[test]
    #[should_panic(expected = "leaf 0x2 is past the shadow's 0x2 leaves")]
    fn writing_past_the_end_is_our_mistake() {
        let mut shadow = Shadow::new(Width::W64);
        shadow.resize(2);
        shadow.set(Pfn(1024), Entry::INVALID);
    }
}
