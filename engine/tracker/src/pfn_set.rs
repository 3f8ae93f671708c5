// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sparse sets of pfns: a bitmap that knows which of its lines have members.
//! Not here: sets that are mostly full (`bitmap`), or marked by many threads (`resend`).
//! Units: length in pfns; lines are those of `bitmap`.
//! Threads: one writer; plain reads may be shared.
//! Source: law 8: what is done once a round must not read every word.

use std::ops::Range;

use crate::bitmap::{LINE_PFNS, LINE_WORDS, PfnBitmap, bits_at, bits_within, words_of};
use crate::frame::Pfn;

/// A set of pfns below a length.
#[derive(Debug, Default)]
pub(crate) struct PfnSet {
    bits: PfnBitmap,
    /// One bit for each line that has members.
    lines: Vec<u64>,
    len: u64,
}

impl PfnSet {
    /// Adds where its memory is, if it is mapped.
    pub(crate) fn mapped_at(&self, list: &mut Vec<Range<usize>>) {
        self.bits.mapped_at(list);
    }

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
        if member {
            self.len -= 1;
            self.lower((pfn.0 / LINE_PFNS) as usize);
        }
        member
    }

    /// Clears the bit of a line that has no members any more.
    fn lower(&mut self, line: usize) {
        if words_of(line).all(|index| self.word(index) == 0) {
            self.lines[line / 64] &= !(1 << (line % 64));
        }
    }

    /// The lines that have members, of those that a range touches.
    fn lines_in(&self, pfns: &Range<u64>) -> Vec<usize> {
        let lines = pfns.start / LINE_PFNS..pfns.end.div_ceil(LINE_PFNS);
        let words = (lines.start / 64) as usize..lines.end.div_ceil(64) as usize;
        let words = words.take_while(|&index| index < self.lines.len());
        let raised = words.flat_map(|index| bits_at(index, self.lines[index]));
        raised.filter(|&line| lines.contains(&(line as u64))).collect()
    }

    /// Removes the members in a range. Returns how many lines were read: those that had members.
    pub(crate) fn clear_range(&mut self, pfns: &Range<u64>) -> u64 {
        let lines = self.lines_in(pfns);
        for &line in &lines {
            for index in words_of(line) {
                let away = self.word(index) & bits_within(pfns, index);
                if away != 0 {
                    self.len -= u64::from(away.count_ones());
                    self.bits.words_mut()[index] &= !away;
                }
            }
            self.lower(line);
        }
        lines.len() as u64
    }

    /// The members in a range, in ascending order.
    pub(crate) fn iter_range(&self, pfns: &Range<u64>) -> impl Iterator<Item = Pfn> + '_ {
        let pfns = pfns.clone();
        let words = self.lines_in(&pfns).into_iter().flat_map(words_of);
        let members = words
            .flat_map(move |index| bits_at(index, self.word(index) & bits_within(&pfns, index)));
        members.map(|number| Pfn(number as u64))
    }

    /// Adds the members of another set, of the same length, in a range. Returns how many lines were
    /// read: those in which the other set has members.
    pub(crate) fn add_range(&mut self, other: &Self, pfns: &Range<u64>) -> u64 {
        let lines = other.lines_in(pfns);
        for &line in &lines {
            for index in words_of(line) {
                let new = other.word(index) & bits_within(pfns, index) & !self.word(index);
                if new != 0 {
                    self.len += u64::from(new.count_ones());
                    self.bits.words_mut()[index] |= new;
                    self.lines[line / 64] |= 1 << (line % 64);
                }
            }
        }
        lines.len() as u64
    }

    /// Adds or removes `pfn`.
    pub(crate) fn put(&mut self, pfn: Pfn, member: bool) {
        if member {
            self.set(pfn);
        } else {
            self.clear(pfn);
        }
    }

    /// Removes all members. Writes only the lines that have any.
    pub(crate) fn clear_all(&mut self) {
        let words = self.bits.words_mut();
        for (index, lines) in self.lines.iter_mut().enumerate() {
            for line in bits_at(index, std::mem::take(lines)) {
                // the last line may be short
                let rest = words.iter_mut().skip(words_of(line).start);
                rest.take(LINE_WORDS).for_each(|word| *word = 0);
            }
        }
        self.len = 0;
    }

    /// Whether any of the `pfns` from `first` on is in the set; both multiples of 64.
    pub(crate) fn has_any(&self, first: Pfn, pfns: usize) -> bool {
        self.len > 0 && self.bits.count_in(first, pfns) > 0
    }

    /// One bit for each line that has members.
    pub(crate) fn lines(&self) -> &[u64] {
        &self.lines
    }

    /// Word `index` of the bitmap, or nothing past its end.
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.bits.words().get(index).copied().unwrap_or(0)
    }

    /// The members in ascending order. Reads only the lines that have any.
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
            cuts in prop::array::uniform4(0_u64..80_000),
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
            prop_assert!(set.iter().map(|pfn| pfn.0).eq(model.iter().copied()));
            let [a, b, c, d] = cuts;
            let (mut other, mut both) = (PfnSet::default(), BTreeSet::from([7, 600].map(|pfn| pfn % set.pfns().max(1))));
            both.retain(|&pfn| pfn < set.pfns());
            other.cover(set.pfns());
            both.iter().for_each(|&pfn| other.set(Pfn(pfn)));
            let within = |range: &Range<u64>, pfn: u64| range.contains(&pfn);
            let has_lines = |model: &BTreeSet<u64>, range: &Range<u64>| {
                let touched = range.start / 512 * 512..range.end.next_multiple_of(512);
                let lines: BTreeSet<_> = model.iter().filter(|&&p| within(&touched, p)).map(|p| p / 512).collect();
                lines.len() as u64
            };
            let (added, cleared) = (a..b.max(a + 1), c..d.max(c + 1));
            prop_assert_eq!(other.add_range(&set, &added), has_lines(&model, &added));
            both.extend(model.iter().copied().filter(|&pfn| within(&added, pfn)));
            prop_assert!(other.iter().map(|pfn| pfn.0).eq(both.iter().copied()));
            let here = both.range(cleared.clone()).copied();
            prop_assert!(other.iter_range(&cleared).map(|pfn| pfn.0).eq(here));
            prop_assert_eq!(other.clear_range(&cleared), has_lines(&both, &cleared));
            both.retain(|&pfn| !within(&cleared, pfn));
            prop_assert!(other.iter().map(|pfn| pfn.0).eq(both.iter().copied()));
            prop_assert_eq!((other.len(), other.lines_in(&(0..u64::MAX)).len() as u64), (both.len() as u64, has_lines(&both, &(0..80_000))));
            set.clear_all();
            prop_assert_eq!((set.len(), set.iter().count(), set.bits.count()), (0, 0, 0));
        }
    }
}
