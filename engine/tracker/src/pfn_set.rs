// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets of few pfns among very many: a bitmap that knows which of its lines have any.
//! Not here: sets that are mostly full (`bitmap`), or marked by many threads (`resend`).
//! Units: length in pfns; lines are those of `bitmap`.
//! Threads: one writer; plain reads may be shared.
//! Source: law 8: what is done once a round must not cost a look at every word.

use crate::bitmap::{LINE_PFNS, LINE_WORDS, PfnBitmap, bits_at, words_of};
use crate::frame::Pfn;

/// A set of pfns below a length.
#[derive(Debug, Default)]
pub(crate) struct PfnSet {
    bits: PfnBitmap,
    /// One bit for each line that has, or had, members.
    lines: Vec<u64>,
    len: u64,
}

impl PfnSet {
    /// Length in pfns.
    pub(crate) const fn pfns(&self) -> u64 {
        self.bits.pfns()
    }

    /// Makes the length at least `pfns`.
    pub(crate) fn cover(&mut self, pfns: u64) {
        if pfns > self.bits.pfns() {
            self.bits.resize(pfns);
            self.lines.resize(pfns.div_ceil(64 * LINE_PFNS) as usize, 0);
        }
    }

    /// Members.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Whether `pfn` is in the set.
    pub(crate) fn get(&self, pfn: Pfn) -> bool {
        self.bits.get(pfn)
    }

    /// Adds `pfn`; past the length it does nothing.
    pub(crate) fn set(&mut self, pfn: Pfn) {
        if self.bits.set(pfn) {
            self.len += 1;
            self.lines[(pfn.0 / LINE_PFNS / 64) as usize] |= 1 << (pfn.0 / LINE_PFNS % 64);
        }
    }

    /// Removes `pfn`. Returns whether it was a member.
    pub(crate) fn clear(&mut self, pfn: Pfn) -> bool {
        let member = self.len > 0 && self.bits.clear(pfn); // most sets are empty most of the time
        self.len -= u64::from(member);
        member
    }

    /// Adds or removes `pfn`.
    pub(crate) fn put(&mut self, pfn: Pfn, member: bool) {
        if member {
            self.set(pfn);
        } else {
            self.clear(pfn);
        }
    }

    /// Removes all. Costs the lines that had any.
    pub(crate) fn clear_all(&mut self) {
        let words = self.bits.words_mut();
        for (index, lines) in self.lines.iter_mut().enumerate() {
            for line in bits_at(index, std::mem::take(lines)) {
                let rest = words.iter_mut().skip(words_of(line).start); // the last line may be short
                rest.take(LINE_WORDS).for_each(|word| *word = 0);
            }
        }
        self.len = 0;
    }

    /// Whether any of the `pfns` from `first` on is in the set; both multiples of 64.
    pub(crate) fn has_any(&self, first: Pfn, pfns: usize) -> bool {
        self.len > 0 && self.bits.count_in(first, pfns) > 0
    }

    /// One bit for each line that may have members.
    pub(crate) fn lines(&self) -> &[u64] {
        &self.lines
    }

    /// Word `index` of the bitmap, or nothing past its end.
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.bits.words().get(index).copied().unwrap_or(0)
    }

    /// The members in ascending order. Costs the lines that ever had any.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Pfn> + '_ {
        let lines = self.lines.iter().enumerate().flat_map(|(index, &word)| bits_at(index, word));
        let members = lines.flat_map(words_of).flat_map(|index| bits_at(index, self.word(index)));
        members.map(|number| Pfn(number as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(
            ops in prop::collection::vec((0_u64..70_000, any::<bool>()), 0..200),
            lengths in (0_u64..70_000, 0_u64..70_000),
        ) {
            let (mut set, mut model) = (PfnSet::default(), BTreeSet::new());
            set.cover(lengths.0);
            for (turn, (pfn, member)) in ops.into_iter().enumerate() {
                if turn == 100 {
                    set.cover(lengths.1);
                }
                set.put(Pfn(pfn), member);
                if !member {
                    model.remove(&pfn);
                } else if pfn < set.pfns() {
                    model.insert(pfn);
                }
                prop_assert_eq!(set.get(Pfn(pfn)), model.contains(&pfn));
                prop_assert_eq!(set.len(), model.len() as u64);
            }
            for first in (0..70_000).step_by(512) {
                let any = model.range(first..first + 512).next().is_some();
                prop_assert_eq!(set.has_any(Pfn(first), 512), any);
            }
            prop_assert!(set.iter().map(|pfn| pfn.0).eq(model));
            set.clear_all();
            prop_assert_eq!((set.len(), set.iter().count(), set.bits.count()), (0, 0, 0));
        }
    }
}
