// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shadow of some neighbouring leaves: one word per leaf, and blocks for those that need more.
//! Not here: which shard a leaf is in (`shadow`), the choice of a form (`encode`).
//! Units: leaves by their place in the shard; words of 64 bits.
//! Threads: one writer. Shards share no mutable state, so that they need no lock.
//! Source: law 5, `docs/design`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bytes::ShadowBytes;
use super::encode::{Form, Runs, choose, pack};
use super::forms::Forms;
use super::pool::{Handle, Pool};
use crate::form::{Base, PackedWords, Segment};
use crate::frame::{FRAME_BYTES, Width};
use crate::leaf::Leaf;

/// Block sizes for segments and patches, then those for packed and for raw leaves.
const BLOCK_WORDS: [usize; 13] = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, PACKED_WORDS, RAW_WORDS];
const PACKED_WORDS: usize = size_of::<PackedWords>() / 8;
const RAW_WORDS: usize = FRAME_BYTES / 8;
const PACKED_POOL: usize = BLOCK_WORDS.len() - 2;
const RAW_POOL: usize = BLOCK_WORDS.len() - 1;

/// How a leaf is held, as encoded in its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Hole,
    Affine(Segment),
    Runs {
        block: Handle,
        segments: usize,
        patches: usize,
    },
    Packed {
        block: Handle,
        high: u32,
    },
    Raw {
        block: Handle,
    },
    /// A copy that other positions of the same frame share.
    Shared,
}

/// The bits of a word that give the kind. They are free in an affine leaf, whose segment begins at
/// slot 0.
const KIND: u64 = 0b111;
/// Bits of a packed leaf's block; a shard has at most 2^20 words of packed leaves.
const PACKED_BLOCK_BITS: u32 = 29;

impl Head {
    const fn to_word(self) -> u64 {
        match self {
            Self::Hole => 0,
            Self::Affine(segment) => segment.0 | 1,
            Self::Runs { block, segments, patches } => {
                (block as u64) << 32 | (segments as u64) << 8 | (patches as u64) << 16 | 2
            }
            Self::Packed { block, high } => (high as u64) << 32 | (block as u64) << 3 | 3,
            Self::Raw { block } => (block as u64) << 32 | 4,
            Self::Shared => 5,
        }
    }

    const fn of_word(word: u64) -> Self {
        let upper = (word >> 32) as u32;
        match word & KIND {
            0 => Self::Hole,
            1 => Self::Affine(Segment(word & !KIND)),
            2 => Self::Runs {
                block: upper,
                segments: (word >> 8 & 0xff) as usize,
                patches: (word >> 16 & 0xff) as usize,
            },
            3 => {
                let block = word as u32 >> 3 & ((1 << PACKED_BLOCK_BITS) - 1);
                Self::Packed { block, high: upper }
            }
            4 => Self::Raw { block: upper },
            _ => Self::Shared,
        }
    }

    /// The block that is held, and its pool.
    fn block(self) -> Option<(usize, Handle)> {
        match self {
            Self::Hole | Self::Affine(_) | Self::Shared => None,
            Self::Runs { block, segments, patches } => Some((pool_of(segments + patches), block)),
            Self::Packed { block, .. } => Some((PACKED_POOL, block)),
            Self::Raw { block } => Some((RAW_POOL, block)),
        }
    }
}

/// The pool whose blocks hold so many words with the least left over.
fn pool_of(words: usize) -> usize {
    BLOCK_WORDS.partition_point(|&block| block < words)
}

/// Neighbouring leaves.
#[derive(Clone, Debug)]
pub(crate) struct ShadowShard {
    width: Width,
    forms: Forms,
    heads: Vec<u64>,
    pools: [Pool; BLOCK_WORDS.len()],
    shared: BTreeMap<usize, Arc<Leaf>>,
}

impl ShadowShard {
    pub(super) fn new(width: Width, forms: Forms) -> Self {
        let pools = BLOCK_WORDS.map(Pool::new);
        Self { width, forms, heads: Vec::new(), pools, shared: BTreeMap::new() }
    }

    /// Changes the number of leaves; new ones are holes.
    pub(super) fn resize(&mut self, leaves: usize) {
        for index in leaves..self.heads.len() {
            self.replace(index, Head::Hole);
        }
        self.heads.reserve_exact(leaves.saturating_sub(self.heads.len()));
        self.heads.resize(leaves, Head::Hole.to_word());
        self.heads.shrink_to(leaves);
    }

    fn head(&self, index: usize) -> Head {
        Head::of_word(self.heads[index])
    }

    /// Whether a leaf is held as a hole.
    pub(super) fn is_hole(&self, index: usize) -> bool {
        self.head(index) == Head::Hole
    }

    /// What a leaf predicts.
    pub(crate) fn base(&self, index: usize) -> Base<'_> {
        match self.head(index) {
            Head::Hole => Base::Hole,
            Head::Affine(segment) => Base::Affine(segment),
            Head::Runs { block, segments, patches } => {
                let words = self.pools[pool_of(segments + patches)].block(block);
                let (segments, rest) = words.split_at(segments);
                Base::Segments { segments, patches: &rest[..patches] }
            }
            Head::Packed { block, high } => {
                let words = self.pools[PACKED_POOL].block(block);
                Base::Packed { high, low: &bytemuck::cast_slice::<u64, PackedWords>(words)[0] }
            }
            Head::Raw { block } => Base::Raw(self.pools[RAW_POOL].page(block)),
            Head::Shared => Base::Raw(&self.shared[&index]),
        }
    }

    /// The copy that a leaf shares, if it is held so.
    pub(super) fn shared(&self, index: usize) -> Option<&Arc<Leaf>> {
        self.shared.get(&index)
    }

    /// Gives a leaf its new head, and frees what the old one held.
    fn replace(&mut self, index: usize, head: Head) {
        let old = self.head(index);
        if let Some((pool, block)) = old.block() {
            self.pools[pool].give(block);
        }
        if old == Head::Shared && head != Head::Shared {
            self.shared.remove(&index);
        }
        self.heads[index] = head.to_word();
    }

    /// Remembers a leaf in its smallest form.
    pub(crate) fn put(&mut self, index: usize, leaf: &Leaf) {
        let mut runs = Runs::new();
        let form = choose(self.forms, self.width, leaf, &mut runs);
        // Frees the old block first, so that the new one may be the same.
        self.replace(index, Head::Hole);
        let head = match form {
            Form::Hole => Head::Hole,
            Form::Affine(segment) => Head::Affine(segment),
            Form::Runs => self.put_runs(&runs),
            Form::Packed { high } => {
                let block = self.pools[PACKED_POOL].take();
                let words = self.pools[PACKED_POOL].block_mut(block);
                pack(leaf, &mut bytemuck::cast_slice_mut::<u64, PackedWords>(words)[0]);
                Head::Packed { block, high }
            }
            Form::Raw => {
                let block = self.pools[RAW_POOL].take();
                self.pools[RAW_POOL].block_mut(block).copy_from_slice(&leaf.words);
                Head::Raw { block }
            }
        };
        self.heads[index] = head.to_word();
    }

    fn put_runs(&mut self, runs: &Runs) -> Head {
        let (segments, patches) = (runs.segments(), runs.patches());
        let pool = &mut self.pools[pool_of(segments.len() + patches.len())];
        let block = pool.take();
        let words = pool.block_mut(block);
        words[..segments.len()].copy_from_slice(segments);
        words[segments.len()..][..patches.len()].copy_from_slice(patches);
        Head::Runs { block, segments: segments.len(), patches: patches.len() }
    }

    /// Remembers leaves that share one copy, also with other positions, unless a copy's form needs
    /// no block.
    pub(super) fn put_shared(&mut self, places: &[usize], copy: &Arc<Leaf>) {
        let form = choose(self.forms, self.width, copy, &mut Runs::new());
        let head = match form {
            Form::Hole => Head::Hole,
            Form::Affine(segment) => Head::Affine(segment),
            Form::Runs | Form::Packed { .. } | Form::Raw => Head::Shared,
        };
        for &index in places {
            self.replace(index, head);
            if head == Head::Shared {
                self.shared.insert(index, Arc::clone(copy));
            }
        }
    }

    /// Remembers a leaf that is one run.
    pub(crate) fn put_run(&mut self, index: usize, run: Segment) {
        if self.forms != Forms::Auto {
            let mut leaf = Leaf::default();
            Base::Affine(run).decode(self.width, &mut leaf);
            return self.put(index, &leaf);
        }
        let hole = run.is_hole(self.width);
        self.replace(index, if hole { Head::Hole } else { Head::Affine(run) });
    }

    /// Adds what is held to a count.
    pub(super) fn count(&self, held: &mut ShadowBytes) {
        held.leaves += self.heads.len() as u64;
        for &word in &self.heads {
            *match Head::of_word(word) {
                Head::Hole => &mut held.hole,
                Head::Affine(_) => &mut held.affine,
                Head::Runs { segments: 1, .. } => &mut held.patched,
                Head::Runs { .. } => &mut held.segments,
                Head::Packed { .. } => &mut held.packed,
                Head::Raw { .. } => &mut held.raw,
                Head::Shared => &mut held.shared,
            } += 1;
        }
        held.bytes += (self.heads.capacity() * size_of::<u64>()) as u64;
        held.bytes += self.pools.iter().map(Pool::bytes).sum::<u64>();
        // A node of the map holds 11 entries at most, and is at least half full: twice the entries.
        held.bytes += (self.shared.len() * 2 * size_of::<(usize, Arc<Leaf>)>()) as u64;
    }

    /// The copies that positions share.
    pub(super) fn shared_copies(&self) -> impl Iterator<Item = &Arc<Leaf>> {
        self.shared.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::Step;
    use crate::frame::Entry;

    #[test]
    fn heads_are_decoded_from_their_words() {
        let affine = |word| Segment::new(Width::W64, 0, Step::Down, word).expect("a frame");
        for head in [
            Head::Hole,
            Head::Affine(affine(0)),
            Head::Affine(affine(u64::MAX)),
            Head::Runs { block: u32::MAX - 1, segments: 64, patches: 0 },
            Head::Runs { block: 0, segments: 1, patches: 63 },
            Head::Packed { block: (1 << PACKED_BLOCK_BITS) - 1, high: u32::MAX },
            Head::Packed { block: 0, high: 0 },
            Head::Raw { block: u32::MAX - 1 },
            Head::Shared,
        ] {
            assert_eq!(Head::of_word(head.to_word()), head);
        }
    }

    /// Holes, runs, patched runs, several runs, packed leaves, raw ones.
    fn held(shard: &ShadowShard) -> [u64; 6] {
        let mut held = ShadowBytes::default();
        shard.count(&mut held);
        [held.hole, held.affine, held.patched, held.segments, held.packed, held.raw]
    }

    #[test]
    fn leaves_are_held_in_the_smallest_form_that_is_allowed() {
        let words: [&dyn Fn(u64) -> u64; 6] = [
            &|_| u64::MAX,
            &|slot| 100 + slot,
            &|slot| if slot == 9 { 5 } else { 100 + slot },
            &|slot| if slot < 200 { 100 + slot } else { 9000 - slot },
            &|slot| slot.wrapping_mul(0x9e37_79b9) & 0x7fff_ffff,
            &|slot| slot.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        ];
        for (width, forms, expected) in [
            (Width::W64, Forms::Auto, [1, 1, 1, 1, 1, 1]),
            (Width::W64, Forms::Segments, [1, 0, 2, 1, 1, 1]),
            (Width::W64, Forms::Packed, [1, 0, 0, 0, 4, 1]),
            (Width::W64, Forms::Raw, [1, 0, 0, 0, 0, 5]),
            (Width::W32, Forms::Auto, [1, 1, 1, 1, 0, 2]),
            (Width::W32, Forms::Segments, [1, 0, 2, 1, 0, 2]),
            (Width::W32, Forms::Packed, [1, 0, 0, 0, 0, 5]),
        ] {
            let mut shard = ShadowShard::new(width, forms);
            shard.resize(6);
            let mut leaf = Leaf::HOLE;
            for (index, word) in words.iter().enumerate() {
                for slot in 0..width.entries() {
                    leaf.set_entry(width, slot, Entry(word(slot as u64)));
                }
                shard.put(index, &leaf);
            }
            assert_eq!(held(&shard), expected, "{width:?} {forms}");
        }
    }

    #[test]
    fn a_run_is_held_in_a_form_that_is_allowed() {
        let run = |step, word| Segment::new(Width::W64, 0, step, word).expect("small");
        for (forms, expected) in [
            (Forms::Auto, [1, 2, 0, 0, 0, 0]),
            (Forms::Segments, [1, 0, 2, 0, 0, 0]),
            (Forms::Packed, [1, 0, 0, 0, 2, 0]),
            (Forms::Raw, [1, 0, 0, 0, 0, 2]),
        ] {
            let mut shard = ShadowShard::new(Width::W64, forms);
            shard.resize(3);
            shard.put_run(0, run(Step::Zero, u64::MAX));
            shard.put_run(1, run(Step::Zero, 7));
            shard.put_run(2, run(Step::Up, 7));
            assert_eq!(held(&shard), expected, "{forms}");
        }
    }

    #[test]
    fn a_block_is_the_smallest_that_holds_the_words() {
        for words in 1..=64 {
            let block = BLOCK_WORDS[pool_of(words)];
            assert!(block >= words && (block * 3 <= words * 5 || words == 1), "{words}: {block}");
        }
    }
}
