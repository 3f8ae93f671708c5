// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shadow: for each pfn the entry under which it was last accepted, compressed leaf by leaf.
//! Not here: live memory, or which pfns are owed; the shadow's entry of an owed pfn means nothing.
//! Units: leaves by position in the p2m, 512 or 1,024 entries each; shards of `SHARD_LEAVES`
//! leaves.
//! Threads: one writer per shard; any number of readers between writes.
//! Source: law 5, `docs/design`. Not Xen's shadow paging.

mod bytes;
mod empty;
mod encode;
mod forms;
mod pool;
mod shard;

use std::collections::HashSet;
use std::sync::Arc;

pub use bytes::ShadowBytes;
pub(crate) use empty::EmptyLeaves;
pub use forms::{Forms, SHADOW_VARIABLE, UnknownForm};
pub(crate) use shard::ShadowShard;

use crate::diff::{Kernel, diff, diff_live};
use crate::form::Base;
use crate::frame::{Entry, LeafIndex, Pfn, Width};
use crate::guest::{Ahead, GuestLeaf};
use crate::leaf::{Leaf, LeafMask};

/// Leaves of one shard: 8 GiB of a 64-bit guest, 32 KiB of heads.
pub(crate) const SHARD_LEAVES: u64 = 4096;

/// The engine's private copy of the entries under which pages were accepted.
#[derive(Clone, Debug)]
pub struct Shadow {
    width: Width,
    forms: Forms,
    leaves: u64,
    shards: Vec<ShadowShard>,
}

impl Shadow {
    /// A shadow without leaves; each new one gets its smallest form.
    #[must_use]
    pub const fn new(width: Width) -> Self {
        Self::with_forms(width, Forms::Auto)
    }

    /// A shadow without leaves.
    #[must_use]
    pub const fn with_forms(width: Width, forms: Forms) -> Self {
        Self { width, forms, leaves: 0, shards: Vec::new() }
    }

    /// Positions.
    #[must_use]
    pub const fn leaves(&self) -> u64 {
        self.leaves
    }

    /// Changes the number of positions. New ones are holes: their entries count as invalid.
    pub fn resize(&mut self, leaves: u64) {
        let (width, forms) = (self.width, self.forms);
        let shards = leaves.div_ceil(SHARD_LEAVES) as usize;
        self.shards.resize_with(shards, || ShadowShard::new(width, forms));
        // The shards before both ends, old and new, stay full.
        let first = (self.leaves.min(leaves) / SHARD_LEAVES) as usize;
        for (index, shard) in self.shards.iter_mut().enumerate().skip(first) {
            let left = leaves - index as u64 * SHARD_LEAVES;
            shard.resize(left.min(SHARD_LEAVES) as usize);
        }
        self.leaves = leaves;
    }

    fn place(&self, leaf: LeafIndex) -> Option<(&ShadowShard, usize)> {
        let shard = self.shards.get((leaf.0 / SHARD_LEAVES) as usize)?;
        (leaf.0 < self.leaves).then_some((shard, (leaf.0 % SHARD_LEAVES) as usize))
    }

    /// # Panics
    /// If the shadow has no such leaf: the caller resizes it before it writes.
    fn place_mut(&mut self, leaf: LeafIndex) -> (&mut ShadowShard, usize) {
        let leaves = self.leaves;
        assert!(leaf.0 < leaves, "leaf {:#x} is past the shadow's {leaves:#x} leaves", leaf.0);
        let shard = &mut self.shards[(leaf.0 / SHARD_LEAVES) as usize];
        (shard, (leaf.0 % SHARD_LEAVES) as usize)
    }

    /// What a leaf predicts; past the end all entries are invalid.
    pub(crate) fn base(&self, leaf: LeafIndex) -> Base<'_> {
        self.place(leaf).map_or(Base::Hole, |(shard, index)| shard.base(index))
    }

    /// The shards, each with its first leaf: for parallel writers.
    pub(crate) fn shards_mut(&mut self) -> impl Iterator<Item = (LeafIndex, &mut ShadowShard)> {
        (0..).step_by(SHARD_LEAVES as usize).map(LeafIndex).zip(&mut self.shards)
    }

    /// The entry of a pfn; invalid past the end.
    #[must_use]
    pub fn entry(&self, pfn: Pfn) -> Entry {
        self.base(self.width.leaf_of(pfn)).entry(self.width, self.width.slot_of(pfn))
    }

    /// Writes every entry of a leaf into `into`; past the end all are invalid.
    pub fn read(&self, leaf: LeafIndex, into: &mut Leaf) {
        self.base(leaf).decode(self.width, into);
    }

    /// Writes the entry of one pfn.
    ///
    /// # Panics
    /// If the shadow has no leaf for the pfn.
    pub fn set(&mut self, pfn: Pfn, entry: Entry) {
        self.update(&[(pfn, entry)]);
    }

    /// Writes the entries of some pfns, in ascending order. Each leaf is decoded and encoded once.
    /// A copy that other positions share is not changed: this position gets its own.
    ///
    /// # Panics
    /// If the shadow has no leaf for a pfn.
    pub fn update(&mut self, entries: &[(Pfn, Entry)]) {
        let width = self.width;
        for same in entries.chunk_by(|a, b| width.leaf_of(a.0) == width.leaf_of(b.0)) {
            let leaf = width.leaf_of(same[0].0);
            let (shard, index) = self.place_mut(leaf);
            let base = shard.base(index);
            // The usual case of a live round: pages were written, and their entries are unchanged.
            let is_known =
                |&(pfn, entry): &(Pfn, Entry)| base.entry(width, width.slot_of(pfn)) == entry;
            if same.iter().all(is_known) {
                continue;
            }
            let mut words = Leaf::default();
            base.decode(width, &mut words);
            for &(pfn, entry) in same {
                words.set_entry(width, width.slot_of(pfn), entry);
            }
            shard.put(index, &words);
        }
    }

    /// The guest's width.
    #[must_use]
    pub const fn width(&self) -> Width {
        self.width
    }

    /// The copy behind a position that others share.
    #[must_use]
    pub fn copy(&self, leaf: LeafIndex) -> Option<&Arc<Leaf>> {
        self.place(leaf).and_then(|(shard, index)| shard.shared(index))
    }

    /// The slots of a private copy whose entries differ from the shadow's.
    #[must_use]
    pub fn diff(&self, kernel: Kernel, leaf: LeafIndex, copy: &Leaf) -> LeafMask {
        diff(kernel, self.width, copy, &self.base(leaf))
    }

    /// The slots of a live leaf whose entries differ from the shadow's. `ahead` is prefetched
    /// meanwhile.
    #[must_use]
    pub fn diff_live(
        &self,
        kernel: Kernel,
        leaf: LeafIndex,
        live: GuestLeaf<'_>,
        ahead: Ahead<'_>,
    ) -> LeafMask {
        diff_live(kernel, self.width, live, &self.base(leaf), ahead)
    }

    /// Replaces a whole leaf.
    ///
    /// # Panics
    /// If the shadow has no such leaf.
    pub fn install(&mut self, leaf: LeafIndex, copy: &Leaf) {
        let (shard, index) = self.place_mut(leaf);
        shard.put(index, copy);
    }

    /// Replaces whole leaves by a copy that other positions may share: together they cost one leaf.
    /// The form is chosen once for neighbouring positions of a shard.
    ///
    /// # Panics
    /// If the shadow has no such leaf.
    pub(crate) fn install_shared(&mut self, leaves: &[LeafIndex], copy: &Arc<Leaf>) {
        for same in leaves.chunk_by(|a, b| a.0 / SHARD_LEAVES == b.0 / SHARD_LEAVES) {
            let places: Vec<_> = same.iter().map(|&leaf| self.place_mut(leaf).1).collect();
            self.place_mut(same[0]).0.put_shared(&places, copy);
        }
    }

    /// Whether a position is held as a hole; all positions past the end are.
    #[must_use]
    pub fn is_hole(&self, leaf: LeafIndex) -> bool {
        self.place(leaf).is_none_or(|(shard, index)| shard.is_hole(index))
    }

    /// Counts what is held. Visits every position.
    #[must_use]
    pub fn bytes(&self) -> ShadowBytes {
        let mut held = ShadowBytes::default();
        self.shards.iter().for_each(|shard| shard.count(&mut held));
        let copies = self.shards.iter().flat_map(ShadowShard::shared_copies);
        let distinct: HashSet<_> = copies.map(Arc::as_ptr).collect();
        held.bytes += (distinct.len() * size_of::<Leaf>()) as u64;
        held.bytes += (self.shards.capacity() * size_of::<ShadowShard>()) as u64;
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::{Segment, Step};
    use crate::frame::FRAME_BYTES;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicU64;

    const WIDTHS: [Width; 2] = [Width::W32, Width::W64];
    const LEAVES: u64 = 4;

    #[derive(Clone, Debug)]
    enum Op {
        Set { pfn: u64, word: u64 },
        Clear { leaf: u64 },
        Install { leaf: u64, copy: usize },
        Share { leaf: u64, copy: usize },
        Run { leaf: u64, word: u64 },
        Update { from: u64, pfns: u64, word: u64, step: u64 },
        Resize { leaves: u64 },
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let word = prop_oneof![Just(u64::from(u32::MAX)), 0_u64..0xffff_0000];
        let op = prop_oneof![
            8 => (0..LEAVES * 1024, word).prop_map(|(pfn, word)| Op::Set { pfn, word }),
            1 => (0..LEAVES).prop_map(|leaf| Op::Clear { leaf }),
            2 => (0..LEAVES, 0..COPIES).prop_map(|(leaf, copy)| Op::Install { leaf, copy }),
            2 => (0..LEAVES, 0..COPIES).prop_map(|(leaf, copy)| Op::Share { leaf, copy }),
            2 => (0..LEAVES, 0_u64..9000).prop_map(|(leaf, word)| Op::Run { leaf, word }),
            4 => (0..LEAVES * 1024, 1_u64..1500, 0_u64..1 << 40, 0_u64..4)
                .prop_map(|(from, pfns, word, step)| Op::Update { from, pfns, word, step }),
            1 => (0..=LEAVES).prop_map(|leaves| Op::Resize { leaves }),
        ];
        prop::collection::vec(op, 0..60)
    }

    const COPIES: usize = 6;

    /// Two runs, a hole, runs that are cut and patched, no runs, and words that only the raw form
    /// holds.
    fn copies(width: Width) -> [Arc<Leaf>; COPIES] {
        let leaf = |word: &dyn Fn(u64) -> u64| {
            let mut leaf = Leaf::HOLE;
            for slot in 0..width.entries() {
                leaf.set_entry(width, slot, Entry(word(slot as u64)));
            }
            Arc::new(leaf)
        };
        [
            leaf(&|slot| 100 + slot),
            leaf(&|slot| 0x9000 - slot),
            leaf(&|_| u64::MAX),
            leaf(&|slot| if slot % 90 == 7 { slot } else { (slot / 100) << 12 | slot }),
            leaf(&|slot| slot.wrapping_mul(0x9e37_79b9) & 0x7fff_ffff),
            leaf(&|slot| slot.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        ]
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

        /// The same step on both, except past the end, which has a test of its own.
        fn step(&mut self, shadow: &mut Shadow, copies: &[Arc<Leaf>; COPIES], op: &Op) {
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
                Op::Install { leaf, copy } | Op::Share { leaf, copy } => {
                    if let Some(slots) = self.leaf(leaf) {
                        let entries = copies[copy].entries(width).map(|entry| entry.0);
                        slots.iter_mut().zip(entries).for_each(|(slot, entry)| *slot = entry);
                        match op {
                            Op::Share { .. } => {
                                shadow.install_shared(&[LeafIndex(leaf)], &copies[copy]);
                            }
                            _ => shadow.install(LeafIndex(leaf), &copies[copy]),
                        }
                    }
                }
                Op::Run { leaf, word } => {
                    if let Some(slots) = self.leaf(leaf) {
                        slots.iter_mut().zip(word..).for_each(|(slot, word)| *slot = word);
                        let run = Segment::new(width, 0, Step::Up, word).expect("small");
                        let (shard, index) = shadow.place_mut(LeafIndex(leaf));
                        shard.put_run(index, run);
                    }
                }
                Op::Update { from, pfns, word, step } => {
                    let end = (from + pfns).min(self.entries.len() as u64);
                    let entry = |pfn: u64| match step {
                        0 => u64::MAX,
                        1 => (word >> 9) + pfn,
                        2 => (word >> 9).wrapping_sub(pfn) & 0x7fff_ffff,
                        _ => pfn.wrapping_mul(word) & 0x7fff_ffff,
                    };
                    let entries: Vec<_> = (from..end).map(|p| (Pfn(p), Entry(entry(p)))).collect();
                    for &(pfn, entry) in &entries {
                        self.entries[pfn.0 as usize] = entry.0;
                    }
                    shadow.update(&entries);
                }
                Op::Resize { leaves } => {
                    self.entries.resize(leaves as usize * width.entries(), u64::MAX);
                    shadow.resize(leaves);
                }
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
                let expected = diff(Kernel::SCALAR, width, live, &Base::Raw(&base));
                let frame = live.words.map(AtomicU64::new);
                for &kernel in Kernel::available() {
                    let (leaf, frame) = (LeafIndex(leaf), GuestLeaf::from_atomics(&frame));
                    assert_eq!(shadow.diff(kernel, leaf, live), expected);
                    assert_eq!(shadow.diff_live(kernel, leaf, frame, Ahead::default()), expected);
                }
                let mut read = Leaf::default();
                shadow.read(LeafIndex(leaf), &mut read);
                assert!(read == base);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn reads_back_like_a_plain_list(ops in ops()) {
            for (width, forms) in WIDTHS.into_iter().flat_map(|w| Forms::ALL.map(|f| (w, f))) {
                let copies = copies(width);
                let kept = copies.clone().map(|copy| Leaf::clone(&copy));
                let mut shadow = Shadow::with_forms(width, forms);
                shadow.resize(LEAVES);
                let entries = vec![u64::MAX; LEAVES as usize * width.entries()];
                let mut model = Model { width, entries };
                for op in &ops {
                    model.step(&mut shadow, &copies, op);
                }
                model.check(&shadow, &copies[0]);
                let held = shadow.bytes();
                let sum = held.hole + held.affine + held.patched + held.segments + held.packed + held.raw + held.shared;
                prop_assert_eq!(sum, held.leaves);
                prop_assert_eq!(copies.map(|copy| Leaf::clone(&copy)), kept);
            }
        }
    }

    /// The shadow as it would be if each leaf had been installed whole.
    fn rebuilt(shadow: &Shadow) -> Shadow {
        let mut again = Shadow::with_forms(shadow.width, shadow.forms);
        again.resize(shadow.leaves);
        let mut leaf = Leaf::default();
        for index in (0..shadow.leaves).map(LeafIndex) {
            shadow.read(index, &mut leaf);
            again.install(index, &leaf);
        }
        again
    }

    #[test]
    fn forms_follow_the_entries() {
        for width in WIDTHS {
            let mut shadow = Shadow::new(width);
            shadow.resize(1);
            let held = |shadow: &Shadow| {
                let held = shadow.bytes();
                assert_eq!(held, ShadowBytes { bytes: held.bytes, ..rebuilt(shadow).bytes() });
                held
            };
            let run: Vec<_> = (0..width.entries() as u64).map(|p| (Pfn(p), Entry(p + 9))).collect();
            shadow.update(&run[..100]);
            assert_eq!(held(&shadow).segments, 1);
            shadow.update(&run[100..]);
            assert_eq!(held(&shadow).affine, 1);
            shadow.set(Pfn(50), Entry(5));
            assert_eq!(held(&shadow).patched, 1);
            for pfn in (0..400).step_by(3) {
                shadow.set(Pfn(pfn), Entry(pfn * 7 + 1));
            }
            let scattered = held(&shadow);
            assert_eq!(scattered.packed + scattered.raw, 1);
            shadow.update(&run);
            assert_eq!(held(&shadow).affine, 1);
            run.iter().for_each(|&(pfn, _)| shadow.set(pfn, Entry::INVALID));
            assert_eq!(held(&shadow).hole, 1);
        }
    }

    /// The steady state: however the entries change, freed blocks are used again.
    #[test]
    fn changes_allocate_no_memory_in_the_steady_state() {
        let mut shadow = Shadow::new(Width::W64);
        shadow.resize(64);
        let turn = |shadow: &mut Shadow, salt: u64| {
            for pfn in (0..64 * 512).step_by(97) {
                shadow.set(Pfn(pfn), Entry(pfn * 31 % 5000 + salt));
            }
            for leaf in 0..64 {
                let copies = copies(Width::W64);
                shadow.install(LeafIndex(leaf), &copies[((leaf + salt) % 6) as usize]);
            }
        };
        (0..6).for_each(|salt| turn(&mut shadow, salt));
        let bytes = shadow.bytes().bytes;
        (6..30).for_each(|salt| turn(&mut shadow, salt));
        assert_eq!(shadow.bytes().bytes, bytes);
    }

    #[test]
    fn aliased_leaves_cost_one_leaf_until_one_is_written() {
        for width in WIDTHS {
            let [.., copy] = copies(width);
            let mut shadow = Shadow::new(width);
            shadow.resize(3);
            let empty = shadow.bytes().bytes;
            let leaf = FRAME_BYTES as u64;
            shadow.install_shared(&[LeafIndex(0), LeafIndex(2)], &copy);
            let held = shadow.bytes();
            assert_eq!((held.leaves, held.hole, held.shared), (3, 1, 2));
            assert!(held.bytes - empty < leaf + 256);
            let shares = |shadow: &Shadow, leaf| {
                shadow.copy(LeafIndex(leaf)).is_some_and(|held| Arc::ptr_eq(held, &copy))
            };
            assert!(shares(&shadow, 0) && shares(&shadow, 2));

            shadow.set(Pfn(7), copy.entry(width, 7));
            shadow.update(&[7, 8, 9].map(|slot| (Pfn(slot), copy.entry(width, slot as usize))));
            assert!(shares(&shadow, 0), "equal entries need no copy");
            shadow.set(Pfn(7), Entry(5));
            assert!(!shares(&shadow, 0) && shares(&shadow, 2));
            let other = Pfn(2 * width.entries() as u64 + 7);
            assert_eq!(shadow.entry(other), copy.entry(width, 7));
            assert_eq!(shadow.bytes().raw, 1);
        }
    }

    #[test]
    fn index_and_shared_copies_are_counted_to_the_byte() {
        let mut shadow = Shadow::new(Width::W64);
        assert_eq!(shadow.bytes(), ShadowBytes::default());
        let leaves = 5 * SHARD_LEAVES;
        shadow.resize(leaves);
        let shards = (shadow.shards.capacity() * size_of::<ShadowShard>()) as u64;
        let empty = ShadowBytes {
            leaves,
            hole: leaves,
            bytes: shards + 8 * leaves,
            ..ShadowBytes::default()
        };
        assert_eq!(shadow.bytes(), empty);
        let [.., scattered, wild] = copies(Width::W64);
        shadow.install_shared(&[LeafIndex(1), LeafIndex(SHARD_LEAVES)], &scattered);
        shadow.install_shared(&[LeafIndex(2)], &wild);
        let nodes = 3 * 2 * size_of::<(usize, Arc<Leaf>)>() as u64;
        let bytes = empty.bytes + nodes + 2 * FRAME_BYTES as u64;
        let shared = ShadowBytes { hole: leaves - 3, shared: 3, bytes, ..empty };
        assert_eq!(shadow.bytes(), shared);
    }

    #[test]
    fn holes_stay_holes_until_an_entry_is_valid() {
        let mut shadow = Shadow::new(Width::W64);
        shadow.resize(1);
        shadow.set(Pfn(3), Entry::INVALID);
        shadow.install(LeafIndex(0), &Leaf::HOLE);
        shadow.install_shared(&[LeafIndex(0)], &Arc::new(Leaf::HOLE));
        assert!(shadow.is_hole(LeafIndex(0)) && shadow.is_hole(LeafIndex(9)));
        shadow.set(Pfn(3), Entry(1));
        assert!(!shadow.is_hole(LeafIndex(0)));
        shadow.set(Pfn(3), Entry::INVALID);
        assert!(shadow.is_hole(LeafIndex(0)));
    }

    #[test]
    fn lengths_across_shards_keep_what_they_cover() {
        let mut shadow = Shadow::new(Width::W64);
        let pfn = |leaf: u64| Pfn(leaf * 512 + 5);
        shadow.resize(3 * SHARD_LEAVES + 7);
        assert_eq!((shadow.leaves(), shadow.bytes().hole), (0x3007, 0x3007));
        for leaf in [0, SHARD_LEAVES - 1, SHARD_LEAVES, 2 * SHARD_LEAVES + 1, 3 * SHARD_LEAVES + 6]
        {
            shadow.set(pfn(leaf), Entry(leaf));
        }
        shadow.resize(2 * SHARD_LEAVES);
        assert_eq!(shadow.entry(pfn(2 * SHARD_LEAVES + 1)), Entry::INVALID);
        shadow.resize(3 * SHARD_LEAVES);
        let entries = [0, SHARD_LEAVES - 1, SHARD_LEAVES, 2 * SHARD_LEAVES + 1]
            .map(|leaf| shadow.entry(pfn(leaf)));
        assert_eq!(
            entries,
            [Entry(0), Entry(SHARD_LEAVES - 1), Entry(SHARD_LEAVES), Entry::INVALID]
        );
    }

    #[test]
    #[should_panic(expected = "leaf 0x2 is past the shadow's 0x2 leaves")]
    fn writing_past_the_end_panics() {
        let mut shadow = Shadow::new(Width::W64);
        shadow.resize(2);
        shadow.set(Pfn(1024), Entry::INVALID);
    }
}
