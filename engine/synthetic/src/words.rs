// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a frame holds: a version number, or real words where they have a meaning (p2m, page
//! tables).
//! Not here: who owns the frame (`machine`).
//! Units: a frame is 512 little-endian words of 64 bits.
//! Threads: words are atomics, for the tracker reads them while the guest writes.
//! Source: none; a model.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use p2mtrack::frame::{Entry, Width};
use p2mtrack::leaf::{FRAME_WORDS, Leaf};

/// The live words of a frame.
pub(crate) type LiveWords = [AtomicU64; FRAME_WORDS];

/// Stands for the bytes of a page: equal contents are equal bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content(pub u64);

impl Content {
    /// Never written since Xen allocated the frame: any bytes are right.
    pub const UNDEFINED: Self = Self(0);
    /// A frame that the receiver allocated and that was never sent.
    pub const EMPTY: Self = Self(1);
    /// What the receiver writes into the frames of its own p2m at the end.
    pub const P2M_LEAF: Self = Self(2);
    /// The first version that a write may have.
    pub(crate) const FIRST: u64 = 16;

    /// What the bytes of a page stand for: the version whose pattern they are, or else words.
    pub(crate) fn of_page(page: &Leaf) -> Self {
        let version = version_of(page.words[0]);
        let is_pattern =
            || page.words.iter().enumerate().all(|(index, &word)| word == pattern(version, index));
        if (Self::FIRST..1 << 63).contains(&version) && is_pattern() {
            Self(version)
        } else {
            Self::digest(page)
        }
    }

    /// The digest of words; never equal to a version.
    pub(crate) fn digest(words: &Leaf) -> Self {
        let hash = words.words.iter().fold(0x243f_6a88_85a3_08d3_u64, |hash, &word| {
            (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        });
        Self(hash | 1 << 63)
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UNDEFINED => write!(f, "undefined bytes"),
            Self::EMPTY => write!(f, "an empty frame"),
            Self::P2M_LEAF => write!(f, "a p2m leaf of the receiver"),
            Self(word) if word >> 63 == 1 => write!(f, "words {:#x}", word & !(1 << 63)),
            Self(version) => write!(f, "version {version}"),
        }
    }
}

/// Words of a frame.
#[derive(Clone, Debug)]
pub(crate) struct FrameWords {
    pub(crate) live: Arc<LiveWords>,
    /// The words only mirror a version (a data page was mapped); the version is what counts.
    pub(crate) mirror: bool,
}

/// Word `index` of a data page of this version. Undefined bytes look like zeros.
pub(crate) const fn pattern(version: u64, index: usize) -> u64 {
    if version == 0 {
        return 0;
    }
    let mut word = version.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (index as u64) << 7;
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^ word >> 31
}

/// The version whose pattern begins with this word: `pattern(version, 0)` undone, step by step.
const fn version_of(word: u64) -> u64 {
    let word = word ^ word >> 31 ^ word >> 62;
    let word = word.wrapping_mul(inverse(0xbf58_476d_1ce4_e5b9));
    let word = word ^ word >> 30 ^ word >> 60;
    word.wrapping_mul(inverse(0x9e37_79b9_7f4a_7c15))
}

/// The odd number whose product with an odd `number` is 1, by Newton's method.
const fn inverse(number: u64) -> u64 {
    let mut inverse = number; // right in three bits, and in twice as many after each step
    let mut steps = 0;
    while steps < 5 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(number.wrapping_mul(inverse)));
        steps += 1;
    }
    inverse
}

impl FrameWords {
    /// Words made by a function.
    pub(crate) fn from_fn(mut word: impl FnMut(usize) -> u64, mirror: bool) -> Self {
        Self { live: Arc::new(std::array::from_fn(|i| AtomicU64::new(word(i)))), mirror }
    }

    /// Reads a word.
    pub(crate) fn load(&self, index: usize) -> u64 {
        self.live[index].load(Ordering::Relaxed) // ORDER: every writer holds the world's lock
    }

    /// Writes a word.
    pub(crate) fn store(&self, index: usize, word: u64) {
        self.live[index].store(word, Ordering::Relaxed); // ORDER: as in `load`
    }

    /// Reads a p2m entry.
    pub(crate) fn entry(&self, width: Width, slot: usize) -> Entry {
        match width {
            Width::W64 => Entry(self.load(slot)),
            Width::W32 => Entry::widen((self.load(slot / 2) >> (32 * (slot % 2))) as u32),
        }
    }

    /// Writes a p2m entry in one store.
    pub(crate) fn store_entry(&self, width: Width, slot: usize, entry: Entry) {
        match width {
            Width::W64 => self.store(slot, entry.0),
            Width::W32 => {
                let shift = 32 * (slot % 2);
                let kept = self.load(slot / 2) & !(0xffff_ffff << shift);
                self.store(slot / 2, kept | (entry.0 & 0xffff_ffff) << shift);
            }
        }
    }

    /// Copies the frame.
    pub(crate) fn copy(&self, into: &mut Leaf) {
        for (index, word) in into.words.iter_mut().enumerate() {
            *word = self.load(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_both_widths() {
        for width in [Width::W32, Width::W64] {
            let words = FrameWords::from_fn(|_| u64::MAX, false);
            words.store_entry(width, 5, Entry(7));
            assert_eq!(words.entry(width, 5), Entry(7));
            assert_eq!(words.entry(width, 4), Entry::INVALID);
            words.store_entry(width, 5, Entry::INVALID);
            assert_eq!(words.entry(width, 5), Entry::INVALID);
        }
    }

    #[test]
    fn a_page_of_a_version_is_known_by_its_bytes() {
        let page = |version| {
            let mut page = Leaf::default();
            for (index, word) in page.words.iter_mut().enumerate() {
                *word = pattern(version, index);
            }
            page
        };
        for version in [16, 17, 0xdead_beef, (1 << 63) - 1] {
            assert_eq!(Content::of_page(&page(version)), Content(version));
            let mut other = page(version);
            other.words[511] ^= 1;
            assert_eq!(Content::of_page(&other), Content::digest(&other));
        }
        for page in [Leaf::default(), Leaf::HOLE] {
            assert_eq!(Content::of_page(&page), Content::digest(&page));
        }
    }

    #[test]
    fn a_digest_is_no_version() {
        let one = Content::digest(&Leaf::default());
        assert_ne!(one, Content::digest(&Leaf::HOLE));
        assert_eq!(one.0 >> 63, 1);
    }
}
