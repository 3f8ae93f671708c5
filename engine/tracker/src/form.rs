// SPDX-License-Identifier: MIT OR Apache-2.0
//! Forms of a leaf: what a compressed leaf predicts for each of its slots.
//! Not here: which form a leaf gets (`shadow::encode`), where it is kept (`shadow`), how it is
//! compared (`diff`).
//! Units: words as in the leaf, 64 bits or 32; slots from 0; a segment ends where the next one
//! begins.
//! Threads: plain values.
//! Source: real p2ms are runs: patched frame of reference (Zukowski et al., ICDE 2006), steps +1,
//! -1 and 0.

use crate::frame::{Entry, Mfn, Width};
use crate::leaf::Leaf;
use crate::prefetch::prefetch;

/// `u32` values of a packed leaf. All ones stands for an invalid entry.
pub(crate) type PackedWords = [u32; 512];

/// The difference from one word of a segment to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// All words are equal: holes, or one frame repeated.
    Zero,
    /// Each word is one more.
    Up,
    /// Each word is one less.
    Down,
}

impl Step {
    const ALL: [Self; 3] = [Self::Zero, Self::Up, Self::Down];

    /// The difference, for wrapping arithmetic.
    pub(crate) const fn delta(self) -> u64 {
        match self {
            Self::Zero => 0,
            Self::Up => 1,
            Self::Down => u64::MAX,
        }
    }

    /// The step between two neighbouring words of a leaf of this width, if it is one of these.
    pub(crate) fn between(width: Width, word: u64, next: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|step| wrap(width, word.wrapping_add(step.delta())) == next)
    }
}

/// Cuts a word to the guest's width.
#[inline]
pub(crate) const fn wrap(width: Width, word: u64) -> u64 {
    match width {
        Width::W64 => word,
        Width::W32 => word & 0xffff_ffff,
    }
}

/// A word of the leaf, its slot and a step, in 64 bits: a run of words, or the patch of one.
///
/// Bits 0..10 are the slot, 10..12 the step, 12..64 the word. Of a 64-bit word, the lower 50 bits
/// and the two tag bits are kept; a word with other bits can't be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment(pub(crate) u64);

const SLOT_BITS: u32 = 10;
const STEP_BITS: u32 = 2;
const WORD_SHIFT: u32 = SLOT_BITS + STEP_BITS;
const WORD_ONES: u64 = (1 << (64 - WORD_SHIFT)) - 1;
/// Bits of a 64-bit word below its two tag bits that are kept: frames of machines up to 4 EiB.
const FRAME_BITS: u32 = 50;

impl Segment {
    /// Encodes a word, if that is possible.
    pub(crate) fn new(width: Width, slot: usize, step: Step, word: u64) -> Option<Self> {
        let kept = match width {
            Width::W32 => word,
            Width::W64 => word & ((1 << FRAME_BITS) - 1) | word >> 62 << FRAME_BITS,
        };
        let written = Self(kept << WORD_SHIFT | (step as u64) << SLOT_BITS | slot as u64);
        (written.word(width) == word).then_some(written)
    }

    /// Whether all its entries are invalid.
    pub(crate) fn is_hole(self, width: Width) -> bool {
        self.step() == Step::Zero && self.word(width) == wrap(width, u64::MAX)
    }

    /// Its first slot.
    pub(crate) const fn slot(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }

    /// Its step.
    pub(crate) const fn step(self) -> Step {
        match self.0 >> SLOT_BITS & ((1 << STEP_BITS) - 1) {
            0 => Step::Zero,
            1 => Step::Up,
            _ => Step::Down,
        }
    }

    /// The word in its first slot.
    #[inline]
    pub(crate) const fn word(self, width: Width) -> u64 {
        let kept = self.0 >> WORD_SHIFT;
        match width {
            Width::W32 => kept,
            Width::W64 if kept == WORD_ONES => u64::MAX,
            Width::W64 => kept & ((1 << FRAME_BITS) - 1) | kept >> FRAME_BITS << 62,
        }
    }

    /// The word that it predicts for any slot, also for one before its first.
    #[inline]
    pub(crate) const fn word_at(self, width: Width, slot: usize) -> u64 {
        let distance = (slot as u64).wrapping_sub(self.slot() as u64);
        wrap(width, self.word(width).wrapping_add(self.step().delta().wrapping_mul(distance)))
    }

    /// The entry that it predicts for any slot.
    #[inline]
    pub(crate) const fn entry_at(self, width: Width, slot: usize) -> Entry {
        let word = self.word_at(width, slot);
        match width {
            Width::W64 => Entry(word),
            Width::W32 => Entry::widen(word as u32),
        }
    }
}

/// What a live leaf is compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Base<'a> {
    /// All entries invalid.
    Hole,
    /// One segment from the first slot to the last.
    Affine(Segment),
    /// Segments in slot order, the first from slot 0; and patches in slot order, which override
    /// them.
    Segments { segments: &'a [u64], patches: &'a [u64] },
    /// 64-bit words whose upper halves are `high`, or which are invalid.
    Packed { high: u32, low: &'a PackedWords },
    /// Every word as it was read.
    Raw(&'a Leaf),
}

/// A key of a base: bases with equal keys predict the same words, as long as the words that they
/// refer to are not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Likeness {
    Hole,
    Affine(u64),
    /// The address of the copy, which positions may share.
    Raw(usize),
}

impl Base<'_> {
    /// The key that the bases of other positions of the same leaf have too, if there is one without
    /// a comparison.
    pub(crate) fn likeness(&self) -> Option<Likeness> {
        match *self {
            Self::Hole => Some(Likeness::Hole),
            Self::Affine(segment) => Some(Likeness::Affine(segment.0)),
            Self::Raw(leaf) => Some(Likeness::Raw(std::ptr::from_ref(leaf).addr())),
            Self::Segments { .. } | Self::Packed { .. } => None,
        }
    }

    /// The entry in `slot`. Inlined, so that its instruction count does not depend on how the
    /// compiler splits the crate.
    #[inline(always)]
    pub(crate) fn entry(&self, width: Width, slot: usize) -> Entry {
        match *self {
            Self::Hole => Entry::INVALID,
            Self::Raw(leaf) => leaf.entry(width, slot),
            Self::Packed { high, low } => unpack(high, low[slot]),
            Self::Affine(segment) => segment.entry_at(width, slot),
            Self::Segments { segments, patches } => {
                let patch = patches.binary_search_by_key(&slot, |&patch| Segment(patch).slot());
                let after = segments.partition_point(|&word| Segment(word).slot() <= slot);
                let word = patch.map_or(segments[after - 1], |found| patches[found]);
                Segment(word).entry_at(width, slot)
            }
        }
    }

    /// Whether the `count` entries from `slot` on name the frames from `first` on, in order and
    /// without tags. There is at least one.
    pub(crate) fn is_run(&self, width: Width, slot: usize, first: Mfn, count: usize) -> bool {
        let names =
            |at: usize| self.entry(width, slot + at) == Entry::frame(Mfn(first.0 + at as u64));
        match self {
            // One step leads from each entry to the next: two of them tell it.
            Self::Affine(_) => names(0) && names(count - 1),
            _ => (0..count).all(names),
        }
    }

    /// Prefetches what the entry in `slot` is read from, if it is memory of its own.
    pub(crate) fn prefetch(&self, width: Width, slot: usize) {
        match *self {
            Self::Raw(leaf) => {
                let word = slot * width.bits() as usize / 64;
                prefetch(leaf.words.as_ptr().wrapping_add(word));
            }
            Self::Packed { low, .. } => prefetch(low.as_ptr().wrapping_add(slot)),
            Self::Hole | Self::Affine(_) | Self::Segments { .. } => {}
        }
    }

    /// Writes every word into `leaf`.
    pub(crate) fn decode(&self, width: Width, leaf: &mut Leaf) {
        match *self {
            Self::Hole => *leaf = Leaf::HOLE,
            Self::Raw(copy) => *leaf = copy.clone(),
            Self::Packed { high, low } => {
                for (word, &low) in leaf.words.iter_mut().zip(low) {
                    *word = unpack(high, low).0;
                }
            }
            Self::Affine(segment) => fill(width, leaf, segment, width.entries()),
            Self::Segments { segments, patches } => {
                for (segment, end) in spans(width, segments) {
                    fill(width, leaf, segment, end);
                }
                for &patch in patches {
                    let patch = Segment(patch);
                    leaf.set_entry(width, patch.slot(), Entry(patch.word(width)));
                }
            }
        }
    }
}

/// One entry of a packed leaf.
#[inline]
const fn unpack(high: u32, low: u32) -> Entry {
    if low == u32::MAX { Entry::INVALID } else { Entry((high as u64) << 32 | low as u64) }
}

/// Segments, each with the slot after its last one.
pub(crate) fn spans(width: Width, segments: &[u64]) -> impl Iterator<Item = (Segment, usize)> {
    let ends = segments.iter().skip(1).map(|&next| Segment(next).slot());
    let ends = ends.chain(std::iter::once(width.entries()));
    segments.iter().map(|&word| Segment(word)).zip(ends)
}

/// Writes the words of a segment up to `end`.
fn fill(width: Width, leaf: &mut Leaf, segment: Segment, end: usize) {
    let (begin, delta) = (segment.slot(), segment.step().delta());
    let mut word = segment.word(width);
    match width {
        Width::W64 => {
            for entry in &mut leaf.words[begin..end] {
                *entry = word;
                word = word.wrapping_add(delta);
            }
        }
        Width::W32 => {
            for slot in begin..end {
                leaf.set_word32(slot, word as u32);
                word = word.wrapping_add(delta);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_that_can_be_encoded_are_read_back_and_others_are_refused() {
        let ones = (1 << FRAME_BITS) - 1;
        for word in [0, 7, ones, ones - 1, 1 << 62, 1 << 63 | 5, 3 << 62 | (ones - 1), u64::MAX] {
            let segment = Segment::new(Width::W64, 511, Step::Down, word).expect("can be encoded");
            assert_eq!((segment.word(Width::W64), segment.slot()), (word, 511));
            assert_eq!(segment.step(), Step::Down);
        }
        // The last one would read back as an invalid entry.
        for word in [1 << FRAME_BITS, 1 << 61, u64::MAX - 1, 3 << 62 | ones] {
            assert_eq!(Segment::new(Width::W64, 0, Step::Up, word), None, "{word:#x}");
        }
        for word in [0, 0x8000_0001, 0xffff_ffff] {
            let segment = Segment::new(Width::W32, 1023, Step::Zero, word).expect("32 bits");
            assert_eq!((segment.word(Width::W32), segment.slot()), (word, 1023));
        }
    }

    #[test]
    fn a_hole_is_invalid_entries_and_nothing_else() {
        for width in [Width::W32, Width::W64] {
            let ones = wrap(width, u64::MAX);
            let is_hole = |step, word| Segment::new(width, 3, step, word).map(|s| s.is_hole(width));
            assert_eq!(is_hole(Step::Zero, ones), Some(true));
            assert_eq!(is_hole(Step::Zero, 7), Some(false));
            assert_eq!(is_hole(Step::Up, ones), Some(false));
            assert_eq!(is_hole(Step::Down, 7), Some(false));
        }
    }

    proptest! {
        #[test]
        fn a_decoded_leaf_has_the_entries_of_its_base(
            cuts in prop::collection::btree_set(1_usize..512, 0..20),
            words in prop::collection::vec(0_u64..1 << 50, 64),
            patched in prop::collection::btree_set(0_usize..512, 0..20),
            high in any::<u32>(),
        ) {
            for width in [Width::W32, Width::W64] {
                let write = |(slot, word): (usize, &u64)| {
                    let step = Step::ALL[slot % 3];
                    Segment::new(width, slot, step, wrap(width, *word)).expect("small").0
                };
                let slots = std::iter::once(0).chain(cuts.iter().copied());
                let segments: Vec<_> = slots.zip(&words).map(write).collect();
                let patches: Vec<_> = patched.iter().copied().zip(words.iter().skip(30)).map(write).collect();
                let low: PackedWords = std::array::from_fn(|slot| segments[slot % segments.len()] as u32);
                let raw = Leaf { words: std::array::from_fn(|i| words[i % 64]) };
                let mut bases = vec![
                    Base::Hole,
                    Base::Raw(&raw),
                    Base::Affine(Segment(segments[0])),
                    Base::Segments { segments: &segments, patches: &patches },
                ];
                if width == Width::W64 {
                    bases.push(Base::Packed { high, low: &low });
                }
                for base in bases {
                    let mut leaf = Leaf::default();
                    base.decode(width, &mut leaf);
                    for slot in 0..width.entries() {
                        prop_assert_eq!(leaf.entry(width, slot), base.entry(width, slot), "{:?} slot {}", base, slot);
                    }
                }
            }
        }
    }
}
