// SPDX-License-Identifier: MIT OR Apache-2.0
//! A private copy of one frame of guest memory, and the mask of entries that a comparison finds.
//! Not here: live guest memory (`guest`), or how two leaves are compared (`diff`).
//! Units: little-endian words as in the guest; bit i of a mask is slot i, 512 or 1,024 slots.
//! Threads: plain values.
//! Source: Xen `public/arch-x86/xen.h`; entry widths in `frame`.

use crate::frame::{Entry, FRAME_BYTES, Width};

/// Words of 64 bits in a frame.
pub const FRAME_WORDS: usize = FRAME_BYTES / 8;

/// A private copy of a frame: a p2m leaf, a mid or top frame, or a page table.
#[repr(C, align(64))]
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The frame's bytes as little-endian words.
    pub words: [u64; FRAME_WORDS],
}

impl Leaf {
    /// A leaf without frames: all entries invalid, in either width.
    pub const HOLE: Self = Self { words: [u64::MAX; FRAME_WORDS] };

    /// The entry in `slot` (below [`Width::entries`]).
    #[must_use]
    pub const fn entry(&self, width: Width, slot: usize) -> Entry {
        match width {
            Width::W64 => Entry(self.words[slot]),
            Width::W32 => Entry::widen(self.word32(slot)),
        }
    }

    /// The 32-bit word in `slot` (below 1,024).
    #[must_use]
    pub const fn word32(&self, slot: usize) -> u32 {
        (self.words[slot / 2] >> (32 * (slot % 2))) as u32
    }

    /// Writes an entry; a 32-bit guest's entry loses its upper half.
    pub const fn set_entry(&mut self, width: Width, slot: usize, entry: Entry) {
        match width {
            Width::W64 => self.words[slot] = entry.0,
            Width::W32 => self.set_word32(slot, entry.0 as u32),
        }
    }

    /// Writes the 32-bit word in `slot` (below 1,024).
    pub const fn set_word32(&mut self, slot: usize, word: u32) {
        let shift = 32 * (slot % 2);
        let kept = self.words[slot / 2] & !(0xffff_ffff << shift);
        self.words[slot / 2] = kept | (word as u64) << shift;
    }

    /// All entries in slot order.
    pub fn entries(&self, width: Width) -> impl Iterator<Item = Entry> + '_ {
        (0..width.entries()).map(move |slot| self.entry(width, slot))
    }

    /// Whether every entry is invalid.
    #[must_use]
    pub fn is_hole(&self) -> bool {
        self.words.iter().all(|&word| word == u64::MAX)
    }
}

impl Default for Leaf {
    fn default() -> Self {
        Self { words: [0; FRAME_WORDS] }
    }
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Leaf({:#x}, {:#x}, ..)", self.words[0], self.words[1])
    }
}

/// Words of a mask: 16 for 1,024 slots; a 64-bit leaf uses the first 8.
pub(crate) const MASK_WORDS: usize = 16;

/// A set of slots of one leaf. For a 64-bit leaf it is one cache line of a pfn bitmap, for a 32-bit
/// leaf two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct LeafMask {
    /// Bit `i % 64` of word `i / 64` is slot `i`.
    pub words: [u64; MASK_WORDS],
}

impl LeafMask {
    /// No slot.
    pub const NONE: Self = Self { words: [0; MASK_WORDS] };

    /// The first `slots` slots.
    #[must_use]
    pub fn first(slots: usize) -> Self {
        let mut mask = Self::NONE;
        mask.words[..slots / 64].fill(u64::MAX);
        if !slots.is_multiple_of(64) {
            mask.words[slots / 64] = (1 << (slots % 64)) - 1;
        }
        mask
    }

    /// The words that a leaf of this width uses.
    #[must_use]
    pub fn used(&self, width: Width) -> &[u64] {
        &self.words[..width.entries() / 64]
    }

    /// Adds a slot.
    pub const fn set(&mut self, slot: usize) {
        self.words[slot / 64] |= 1 << (slot % 64);
    }

    /// Whether a slot is in the set.
    #[must_use]
    pub const fn get(&self, slot: usize) -> bool {
        self.words[slot / 64] >> (slot % 64) & 1 == 1
    }

    /// Whether no slot is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Slots in the set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Slots of both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self { words: std::array::from_fn(|i| self.words[i] & other.words[i]) }
    }

    /// Slots of this set that are not in the other.
    #[must_use]
    pub(crate) fn and_not(&self, other: &Self) -> Self {
        Self { words: std::array::from_fn(|i| self.words[i] & !other.words[i]) }
    }

    /// The slots in ascending order.
    pub fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(i, &word)| {
            std::iter::successors(Some(word), |w| Some(w & w.wrapping_sub(1)))
                .take_while(|&w| w != 0)
                .map(move |w| 64 * i + w.trailing_zeros() as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_both_widths_round_trip() {
        for width in [Width::W32, Width::W64] {
            let mut leaf = Leaf::HOLE;
            assert!(leaf.entries(width).all(|entry| entry == Entry::INVALID));
            for slot in 0..width.entries() {
                leaf.set_entry(width, slot, Entry(slot as u64 + 5));
            }
            for slot in 0..width.entries() {
                assert_eq!(leaf.entry(width, slot), Entry(slot as u64 + 5));
            }
            leaf.set_entry(width, 3, Entry::INVALID);
            assert_eq!(leaf.entry(width, 3), Entry::INVALID);
        }
    }

    #[test]
    fn masks_are_sets() {
        let mut mask = LeafMask::first(70);
        assert_eq!(mask.count(), 70);
        assert!(mask.get(69) && !mask.get(70));
        mask.set(1023);
        assert_eq!(mask.slots().count(), 71);
        assert_eq!(mask.slots().last(), Some(1023));
        assert_eq!(mask.and_not(&LeafMask::first(1023)).slots().collect::<Vec<_>>(), [1023]);
        assert_eq!(LeafMask::first(1024).count(), 1024);
        assert!(LeafMask::first(0).is_empty());
    }
}
