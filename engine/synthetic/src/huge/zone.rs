// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m's own frames: leaves and the page tables above them, each a page of the guest with a pfn
//! of its own.
//! Not here: the entries of a leaf (`guest`).
//! Units: parts are numbered leaves first, then tables level by level; level 1 names leaves.
//! Threads: plain values.
//! Source: Linux: the list is mapped by four levels of page tables from a 512 GiB boundary on.

use p2mtrack::leaf::{FRAME_WORDS, Leaf};

use super::pattern::Pattern;

/// Where the list begins in the guest's address space (Linux's vmalloc area).
pub(crate) const P2M_VADDR: u64 = 0xffff_c900_0000_0000;
/// Present, writable, accessed, dirty.
const PTE_FLAGS: u64 = 0x63;
/// Slots of a table, as a power of two.
const SLOT_BITS: u32 = 9;

/// A frame of the p2m.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The leaf of this position.
    Leaf(u64),
    /// A page table of a level, counted from the first.
    Table(u8, u64),
}

/// The pfns of all parts.
#[derive(Debug)]
pub(crate) struct Zone {
    /// In ascending order, by number of the part.
    pfns: Vec<u32>,
    /// The first part of each level, leaves being level 0; then the number of all.
    firsts: [usize; 6],
}

impl Zone {
    /// Chooses pfns that have a frame, from a quarter of the guest on. `None` if there are too few.
    pub(crate) fn new(pattern: &Pattern) -> Option<Self> {
        let mut firsts = [0; 6];
        let mut count = (pattern.pfns() as usize).div_ceil(FRAME_WORDS);
        for level in 0..5 {
            firsts[level + 1] = firsts[level] + count;
            count = count.div_ceil(1 << SLOT_BITS);
        }
        let from = pattern.pfns() / 4;
        let pfns: Vec<_> = (from..pattern.pfns())
            .filter(|&pfn| pattern.entry(pfn) != u64::MAX)
            .map(|pfn| pfn as u32)
            .take(firsts[5])
            .collect();
        // A guest of page tables only would have nothing to do.
        (pfns.len() == firsts[5]).then_some(Self { pfns, firsts })
    }

    /// Leaves.
    pub(crate) const fn leaves(&self) -> usize {
        self.firsts[1]
    }

    /// The pfns of the leaves, by position.
    pub(crate) fn leaf_pfns(&self) -> &[u32] {
        &self.pfns[..self.leaves()]
    }

    /// The pfns of the page tables.
    pub(crate) fn table_pfns(&self) -> &[u32] {
        &self.pfns[self.leaves()..]
    }

    /// The pfn of a part.
    pub(crate) fn pfn(&self, part: Part) -> u64 {
        let at = match part {
            Part::Leaf(position) => position as usize,
            Part::Table(level, index) => self.firsts[usize::from(level)] + index as usize,
        };
        u64::from(self.pfns[at])
    }

    /// The part that a pfn is.
    pub(crate) fn part(&self, pfn: u64) -> Option<Part> {
        let (first, last) = (*self.pfns.first()?, *self.pfns.last()?);
        if pfn < u64::from(first) || pfn > u64::from(last) {
            return None; // most pfns
        }
        let at = self.pfns.binary_search(&u32::try_from(pfn).ok()?).ok()?;
        let level = self.firsts.iter().rposition(|&first| first <= at)?;
        let index = (at - self.firsts[level]) as u64;
        Some(if level == 0 { Part::Leaf(index) } else { Part::Table(level as u8, index) })
    }

    /// The words of a page table: `name` returns what a PTE has for a pfn, its frame or the pfn
    /// itself.
    pub(crate) fn table(&self, level: u8, index: u64, name: impl Fn(u64) -> u64) -> Leaf {
        let mut words = Leaf::default();
        let below = self.firsts[usize::from(level) - 1]..self.firsts[usize::from(level)];
        // The root covers all of the address space; below it the list begins with slot 0.
        let first = if level == 4 { (P2M_VADDR >> 39 & 511) as usize } else { 0 };
        let parts = below.skip((index as usize) << SLOT_BITS);
        for (word, part) in words.words[first..].iter_mut().zip(parts) {
            *word = name(u64::from(self.pfns[part])) << 12 | PTE_FLAGS;
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::huge::Shape;

    #[test]
    fn parts_have_pfns_and_pfns_their_parts() {
        let pattern = Pattern::new(Shape::Superpage, 600 * 512, 1, &[]).expect("no tile");
        let zone = Zone::new(&pattern).expect("memory");
        assert_eq!((zone.leaves(), zone.table_pfns().len()), (600, 2 + 1 + 1 + 1));
        for part in [Part::Leaf(0), Part::Leaf(599), Part::Table(1, 1), Part::Table(4, 0)] {
            assert_eq!(zone.part(zone.pfn(part)), Some(part));
        }
        let end = u64::from(*zone.pfns.last().expect("some"));
        assert_eq!((zone.part(0), zone.part(end + 1)), (None, None));
        let second = zone.table(1, 1, |pfn| pfn);
        assert_eq!(second.words[87], zone.pfn(Part::Leaf(599)) << 12 | PTE_FLAGS);
        assert_eq!(second.words[88], 0);
        let root = zone.table(4, 0, |pfn| pfn);
        assert_eq!(root.words.iter().position(|&word| word != 0), Some(402));
        assert_eq!(root.words[402], zone.pfn(Part::Table(3, 0)) << 12 | PTE_FLAGS);
    }

    #[test]
    fn holes_are_skipped() {
        let mut tile = vec![u64::MAX; 1024];
        tile[..2].copy_from_slice(&[100, 102]);
        let pattern = |pfns| Pattern::new(Shape::Real, pfns, 1, &tile).expect("a good tile");
        assert!(Zone::new(&pattern(8192)).is_none(), "12 frames for 20 parts");
    }
}
