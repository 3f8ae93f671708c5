// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets of pfns that one thread owns: the log-dirty buffer, and the engine's own sets.
//! Not here: the resend bitmap, which many threads mark (`resend`).
//! Units: length in pfns; bit `pfn % 64` of word `pfn / 64`; bits past the length are zero.
//! Threads: one writer; plain reads may be shared.
//! Source: bit order of Xen's log-dirty bitmap (`xen/arch/x86/mm/paging.c`): bit `pfn & 7` of byte
//! `pfn >> 3`.

use std::ops::Range;

use crate::array::Array;
use crate::frame::Pfn;

/// Words of a line: a cache line of a bitmap. Fewer under loom, whose models cost time per word.
pub(crate) const LINE_WORDS: usize = if cfg!(loom) { 2 } else { 8 };
/// Pfns of a line.
pub(crate) const LINE_PFNS: u64 = 64 * LINE_WORDS as u64;

/// The words of a line.
pub(crate) const fn words_of(line: usize) -> Range<usize> {
    let first = line * LINE_WORDS;
    first..first + LINE_WORDS // the compiler sees the length
}

/// The bits of word `index` whose pfns are in `pfns`.
pub(crate) fn bits_within(pfns: &Range<u64>, index: usize) -> u64 {
    let first = 64 * index as u64;
    let below = |end: u64| match end.saturating_sub(first) {
        bits @ 0..64 => (1 << bits) - 1,
        _ => u64::MAX,
    };
    below(pfns.end) & !below(pfns.start)
}

/// A set of pfns below a length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PfnBitmap {
    words: Array<u64>,
    pfns: u64,
}

impl PfnBitmap {
    /// The empty set over `pfns` pfns.
    #[must_use]
    pub fn new(pfns: u64) -> Self {
        Self { words: Array::zeroed(pfns.div_ceil(64) as usize), pfns }
    }

    /// Adds where its memory is, if it is mapped.
    pub(crate) fn mapped_at(&self, list: &mut Vec<Range<usize>>) {
        list.extend(self.words.mapped_at());
    }

    /// Length in pfns.
    #[must_use]
    pub const fn pfns(&self) -> u64 {
        self.pfns
    }

    /// Makes the set empty and its length `pfns`.
    pub fn reset(&mut self, pfns: u64) {
        if pfns.div_ceil(64) as usize == self.words.len() {
            self.words.fill(0);
            self.pfns = pfns;
        } else {
            *self = Self::new(pfns);
        }
    }

    /// Makes the length `pfns` and every one of them a member.
    pub fn fill(&mut self, pfns: u64) {
        self.resize(pfns);
        self.words.fill(u64::MAX);
        self.clear_tail();
    }

    /// Changes the length; pfns that are removed leave the set.
    pub fn resize(&mut self, pfns: u64) {
        self.words.resize(pfns.div_ceil(64) as usize);
        self.pfns = pfns;
        self.clear_tail();
    }

    fn clear_tail(&mut self) {
        if let (Some(last), used @ 1..) = (self.words.last_mut(), self.pfns % 64) {
            *last &= (1 << used) - 1;
        }
    }

    /// Whether `pfn` is in the set; a pfn past the length is not.
    #[must_use]
    pub fn get(&self, pfn: Pfn) -> bool {
        pfn.0 < self.pfns && self.words[(pfn.0 / 64) as usize] >> (pfn.0 % 64) & 1 == 1
    }

    /// Adds `pfn`; past the length it does nothing. Returns whether the set changed.
    pub fn set(&mut self, pfn: Pfn) -> bool {
        if pfn.0 >= self.pfns {
            return false;
        }
        let (word, bit) = (&mut self.words[(pfn.0 / 64) as usize], 1 << (pfn.0 % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Removes `pfn`. Returns whether the set changed.
    pub fn clear(&mut self, pfn: Pfn) -> bool {
        let old = self.get(pfn);
        if old {
            self.words[(pfn.0 / 64) as usize] &= !(1 << (pfn.0 % 64));
        }
        old
    }

    /// The words, for bulk readers.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The words, writable. The caller keeps the bits past the length zero.
    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// Fills the words from the front with `source`, bits past the length dropped.
    pub fn copy_from_words(&mut self, source: &[u64]) {
        let n = source.len().min(self.words.len());
        self.words[..n].copy_from_slice(&source[..n]);
        self.clear_tail();
    }

    /// Pfns in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Pfns in the set among the `pfns` from `first` on, both multiples of 64.
    #[must_use]
    pub(crate) fn count_in(&self, first: Pfn, pfns: usize) -> u64 {
        let words = self.words.iter().skip((first.0 / 64) as usize).take(pfns / 64);
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    /// The pfns in ascending order. Reads one word per 64 pfns of length.
    pub fn iter(&self) -> impl Iterator<Item = Pfn> + '_ {
        let words = self.words.iter().enumerate();
        words.flat_map(|(index, &word)| bits_at(index, word)).map(|number| Pfn(number as u64))
    }

    /// Those that `other` does not have, in ascending order. Reads two words per 64 pfns of length.
    pub fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Pfn> + 'a {
        let others = other.words.iter().copied().chain(std::iter::repeat(0));
        let words = self.words.iter().zip(others).map(|(word, other)| word & !other);
        let bits = words.enumerate().flat_map(|(index, word)| bits_at(index, word));
        bits.map(|number| Pfn(number as u64))
    }

    /// Empties the set and returns its members.
    pub fn drain(&mut self) -> Vec<Pfn> {
        let members = self.iter().collect();
        self.words.fill(0);
        members
    }
}

/// The numbers of the bits of a word that are set, in ascending order.
pub(crate) const fn bits_of(word: u64) -> BitsOf {
    BitsOf(word)
}

/// The same for word `index` of a slice, numbered from the start of the slice.
pub(crate) fn bits_at(index: usize, word: u64) -> impl Iterator<Item = usize> {
    bits_of(word).map(move |bit| 64 * index + bit as usize)
}

/// See [`bits_of`].
pub(crate) struct BitsOf(u64);

impl Iterator for BitsOf {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let bit = u64::from(self.0.trailing_zeros());
        let some = self.0 != 0;
        self.0 &= self.0.wrapping_sub(1);
        some.then_some(bit)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.0.count_ones() as usize;
        (left, Some(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn without_is_the_difference_of_sets(
            ours in prop::collection::btree_set(0_u64..300, 0..200),
            theirs in prop::collection::btree_set(0_u64..500, 0..200),
        ) {
            let set = |length, pfns: &BTreeSet<u64>| {
                let mut bitmap = PfnBitmap::new(length);
                pfns.iter().for_each(|&pfn| _ = bitmap.set(Pfn(pfn)));
                bitmap
            };
            for length in [70, 300, 500] { // shorter than ours, as long, longer
                let theirs: BTreeSet<_> = theirs.range(..length).copied().collect();
                let (bitmap, other) = (set(300, &ours), set(length, &theirs));
                let rest: Vec<_> = bitmap.without(&other).map(|pfn| pfn.0).collect();
                prop_assert_eq!(rest, ours.difference(&theirs).copied().collect::<Vec<_>>());
            }
        }

        #[test]
        fn behaves_like_a_set(pfns in 1_u64..300, ops in prop::collection::vec((0_u64..320, any::<bool>()), 0..200), cut in 0_u64..300) {
            let mut bitmap = PfnBitmap::new(pfns);
            let mut model = BTreeSet::new();
            for (pfn, add) in ops {
                if add {
                    prop_assert_eq!(bitmap.set(Pfn(pfn)), pfn < pfns && model.insert(pfn));
                } else {
                    prop_assert_eq!(bitmap.clear(Pfn(pfn)), model.remove(&pfn));
                }
                model.retain(|&p| p < pfns);
            }
            bitmap.resize(cut);
            bitmap.resize(pfns);
            model.retain(|&p| p < cut);
            prop_assert_eq!(bitmap.count(), model.len() as u64);
            prop_assert_eq!(bitmap.iter().map(|p| p.0).collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_set_that_is_reset_is_empty_and_has_the_new_length() {
        for (before, after) in [(70, 70), (70, 700), (700, 70), (0, 1), (70, 0)] {
            let mut bitmap = PfnBitmap::default();
            bitmap.fill(before);
            assert_eq!(bitmap.count(), before);
            bitmap.reset(after);
            assert_eq!(bitmap, PfnBitmap::new(after));
        }
    }

    #[test]
    fn pfns_are_counted_from_one_word_to_another() {
        let mut bitmap = PfnBitmap::new(1000);
        for pfn in [1, 64, 70, 127, 128, 200, 700] {
            bitmap.set(Pfn(pfn));
        }
        let count = |first, pfns| bitmap.count_in(Pfn(first), pfns);
        assert_eq!([count(0, 64), count(64, 64), count(64, 192), count(256, 64)], [1, 3, 5, 0]);
        assert_eq!([count(640, 512), count(1024, 64), count(64, 0)], [1, 0, 0]);
    }

    #[test]
    fn copied_words_keep_the_tail_clear() {
        let mut bitmap = PfnBitmap::new(70);
        bitmap.copy_from_words(&[u64::MAX, u64::MAX, 1]);
        assert_eq!(bitmap.count(), 70);
        assert_eq!(bitmap.drain().len(), 70);
        assert_eq!(bitmap.count(), 0);
    }
}
