// SPDX-License-Identifier: MIT OR Apache-2.0
//! The resend bitmap: every pfn that is owed to the destination, and why. Many mark, one takes, nothing is lost.
//! Not here: what happens to a page that was taken; until it is paid it is a debt (law 3).
//! Units: bit `pfn % 64` of word `pfn / 64`; one summary bit per word; bits past the length are zero.
//! Threads: markers on any number of threads, at most one taker beside them; resizing stops all.
//! Source: law 3, `docs/design`; bit order of `bitmap`, so that a 64-bit leaf's mask is one line of 64 bytes.
//!
//! # Protocol
//! A marker ORs (1) the planes of its causes, (2) the word, (3) the summary. The taker (4) clears the
//! summary bit, (5) clears the bits that it takes from the word, (6) reads and clears their causes, and
//! raises the summary again if the word still has bits. Only the taker clears anything.
//!
//! - *No bit is lost.* If (3) comes before (4), the taker sees (2) at (5). If it comes after, the
//!   summary is raised after the visit and the next take comes by; at worst it finds an empty word.
//! - *What a marker knew, the taker knows.* (2) comes before (5) for each bit that (5) takes, so the
//!   page is read after everything that the marker saw, also when the bit was up already.
//! - *No cause is lost.* (1) comes before (2), so a taken bit comes with its cause, with one exception:
//!   if (1) comes before the (6) of a take of the same pfn, and (2) after its (5), that take tells the
//!   cause, and the mark's own bit comes with the next one, with an empty [`CauseSet`]. So the union
//!   over the takes of a pfn is the union of the causes of its marks, each told at the mark or later.

use std::fmt;
use std::ops::Range;

use crate::cause::{Cause, CauseSet};
use crate::frame::{LeafIndex, Pfn, Width};
use crate::leaf::LeafMask;
use crate::sync::{AtomicU64, Ordering, clear_bits, set_bits, zeroed_words};

/// The set of owed pfns below a length, with the causes of each.
pub struct ResendBitmap {
    pfns: u64,
    /// Bit `i % 64` of word `i / 64`: word `i` may have bits.
    summary: Box<[AtomicU64]>,
    words: Box<[AtomicU64]>,
    /// One bitmap per cause. A bit of a pfn that is not owed means nothing, or belongs to a mark on its way.
    planes: [Box<[AtomicU64]>; Cause::ALL.len()],
}

/// A pfn that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Which.
    pub pfn: Pfn,
    /// Why. Empty if the mark ran beside an earlier take of the pfn, which told its cause already.
    pub causes: CauseSet,
}

/// Pfns that left the bitmap. Each is a debt: what is not paid when this is dropped is owed again.
#[derive(Debug)]
#[must_use = "pfns that are dropped unpaid are owed again"]
pub struct Taken<'a> {
    bitmap: &'a ResendBitmap,
    pages: Vec<Owed>,
    paid: Vec<bool>,
    next: u64,
}

/// The bits of word `index` whose pfns are in `pfns`.
fn bits_within(pfns: &Range<u64>, index: usize) -> u64 {
    let first = 64 * index as u64;
    let below = |end: u64| match end.saturating_sub(first) {
        bits @ 0..64 => (1 << bits) - 1,
        _ => u64::MAX,
    };
    below(pfns.end) & !below(pfns.start)
}

/// The lowest `limit` bits of a word.
fn lowest(word: u64, limit: usize) -> u64 {
    let rest = (0..limit.min(64)).fold(word, |rest, _| rest & rest.wrapping_sub(1));
    word & !rest
}

/// The causes of a pfn in its word of each plane.
fn causes_of(planes: &[u64; Cause::ALL.len()], pfn: Pfn) -> CauseSet {
    let holds = |cause: &Cause| planes[*cause as usize] >> (pfn.0 % 64) & 1 == 1;
    Cause::ALL.into_iter().filter(holds).collect()
}

/// The pfns of the bits of word `index`, in ascending order.
fn pfns_of(index: usize, bits: u64) -> impl Iterator<Item = Pfn> {
    std::iter::successors(Some(bits), |bits| Some(bits & bits.wrapping_sub(1)))
        .take_while(|&bits| bits != 0)
        .map(move |bits| Pfn(64 * index as u64 + u64::from(bits.trailing_zeros())))
}

impl ResendBitmap {
    /// Nothing is owed of `pfns` pfns. Memory that no mark touches is reserved, not used.
    ///
    /// # Panics
    /// If there is no address space for `1 + Cause::ALL.len()` bits per pfn.
    #[must_use]
    pub fn new(pfns: u64) -> Self {
        let words = pfns.div_ceil(64) as usize;
        Self {
            pfns,
            summary: zeroed_words(words.div_ceil(64)),
            words: zeroed_words(words),
            planes: std::array::from_fn(|_| zeroed_words(words)),
        }
    }

    /// Length in pfns.
    #[must_use]
    pub const fn pfns(&self) -> u64 {
        self.pfns
    }

    /// Changes the length. Pfns below both lengths stay owed with their causes; those that fall away
    /// are no longer owed. Costs what is owed, beside the summary.
    pub fn resize(&mut self, pfns: u64) {
        let old = std::mem::replace(self, Self::new(pfns));
        for index in old.raised().take_while(|&index| index < self.words.len()) {
            let bits = old.word(index) & bits_within(&(0..pfns), index);
            for cause in Cause::ALL {
                self.blame(index, bits & old.plane(cause, index), cause);
            }
            self.owe(index, bits);
            self.raise(index / 64, u64::from(bits != 0) << (index % 64));
        }
    }

    /// Owes a pfn. Returns whether it is below the length; past it there is nothing to owe.
    pub fn mark(&self, pfn: Pfn, cause: Cause) -> bool {
        let known = pfn.0 < self.pfns;
        if known {
            self.mark_from((pfn.0 / 64) as usize, [1 << (pfn.0 % 64)], cause);
        }
        known
    }

    /// Owes slots of a leaf: 8 or 16 words, without a list of pfns. Slots past the length are dropped.
    pub fn mark_leaf(&self, width: Width, leaf: LeafIndex, mask: &LeafMask, cause: Cause) {
        if leaf.0 < width.leaves(self.pfns) {
            let first = (width.first_pfn(leaf).0 / 64) as usize;
            self.mark_from(first, mask.used(width).iter().copied(), cause);
        }
    }

    /// Owes all bits of a piece of a dirty bitmap that begins at pfn `64 * first_word`. Bits past the
    /// length are dropped.
    pub fn mark_words(&self, first_word: usize, words: &[u64], cause: Cause) {
        self.mark_from(first_word, words.iter().copied(), cause);
    }

    /// Owes a range, as far as it is below the length.
    pub fn mark_range(&self, pfns: Range<u64>, cause: Cause) {
        let pfns = pfns.start..pfns.end.min(self.pfns);
        if !pfns.is_empty() {
            let words = (pfns.start / 64) as usize..pfns.end.div_ceil(64) as usize;
            let bits = words.clone().map(|index| bits_within(&pfns, index));
            self.mark_from(words.start, bits, cause);
        }
    }

    /// The marker's side of the protocol, from word `first` on. The summary is raised once for the words
    /// under one of its own words.
    fn mark_from(&self, first: usize, bits: impl IntoIterator<Item = u64>, cause: Cause) {
        let (mut group, mut raised) = (first / 64, 0);
        for (index, bits) in (first..self.words.len()).zip(bits) {
            let bits = bits & bits_within(&(0..self.pfns), index);
            if bits == 0 {
                continue;
            }
            self.blame(index, bits, cause);
            self.owe(index, bits);
            if index / 64 != group {
                self.raise(group, raised);
                (group, raised) = (index / 64, 0);
            }
            raised |= 1 << (index % 64);
        }
        self.raise(group, raised);
    }

    /// Step 1. Nothing is written where nothing is blamed, so that unused planes cost no memory.
    fn blame(&self, index: usize, bits: u64, cause: Cause) {
        if bits != 0 {
            // ORDER: published by the OR of the word in `owe`, which follows.
            set_bits(&self.planes[cause as usize][index], bits, Ordering::Relaxed);
        }
    }

    /// Step 2.
    fn owe(&self, index: usize, bits: u64) {
        // ORDER: Release for the Acquire of `fetch_and` in `take_word`: the causes, and all that the
        // marker knew. Not skipped if the bits are up already, or that would not be published.
        set_bits(&self.words[index], bits, Ordering::Release);
    }

    /// Step 3.
    fn raise(&self, group: usize, bits: u64) {
        if bits != 0 {
            // ORDER: Release for the Acquire of `clear_bits` in `take_word`: the words under it. A plain
            // load first, to save the OR, could miss that the taker is just clearing the bit.
            set_bits(&self.summary[group], bits, Ordering::Release);
        }
    }

    fn word(&self, index: usize) -> u64 {
        // ORDER: Acquire for the Release in `owe`: who sees a pfn owed finds its causes.
        self.words[index].load(Ordering::Acquire)
    }

    fn plane(&self, cause: Cause, index: usize) -> u64 {
        // ORDER: follows an Acquire of the word, which partners `owe`.
        self.planes[cause as usize][index].load(Ordering::Relaxed)
    }

    /// The first word at or after `index` that may have bits.
    fn raised_from(&self, index: usize) -> Option<usize> {
        let mut after = u64::MAX << (index % 64);
        for group in index / 64..self.summary.len() {
            // ORDER: Acquire for the Release in `raise`: who sees the bit finds the word's bits.
            let bits = self.summary[group].load(Ordering::Acquire) & after;
            if bits != 0 {
                return Some(64 * group + bits.trailing_zeros() as usize);
            }
            after = u64::MAX;
        }
        None
    }

    /// The words that may have bits, in ascending order.
    fn raised(&self) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.raised_from(0), |&index| self.raised_from(index + 1))
    }

    /// Whether a pfn is owed now.
    #[must_use]
    pub fn is_owed(&self, pfn: Pfn) -> bool {
        pfn.0 < self.pfns && self.word((pfn.0 / 64) as usize) >> (pfn.0 % 64) & 1 == 1
    }

    /// The slots of a leaf that are owed now.
    #[must_use]
    pub fn owed_mask(&self, width: Width, leaf: LeafIndex) -> LeafMask {
        let mut mask = LeafMask::NONE;
        if leaf.0 < width.leaves(self.pfns) {
            let first = (width.first_pfn(leaf).0 / 64) as usize;
            let words = (first..self.words.len()).take(width.entries() / 64);
            mask.words.iter_mut().zip(words).for_each(|(word, index)| *word = self.word(index));
        }
        mask
    }

    /// Why a pfn is owed now; empty if it is not, or as in [`Owed::causes`].
    #[must_use]
    pub fn why(&self, pfn: Pfn) -> CauseSet {
        if !self.is_owed(pfn) {
            return CauseSet::default();
        }
        let planes = Cause::ALL.map(|cause| self.plane(cause, (pfn.0 / 64) as usize));
        causes_of(&planes, pfn)
    }

    /// Pfns owed now. Exact while nobody marks or takes.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.raised().map(|index| u64::from(self.word(index).count_ones())).sum()
    }

    /// Whether nothing is owed now. Exact while nobody marks or takes; costs the summary.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raised().all(|index| self.word(index) == 0)
    }

    /// Takes up to `limit` owed pfns from pfn `from` on, in ascending order. A sweep goes on at
    /// [`Taken::next`] until that is [`ResendBitmap::pfns`], and then begins again with 0.
    ///
    /// Costs the summary from `from` on, and what is taken. Only one thread takes at a time.
    pub fn take(&self, limit: usize, from: u64) -> Taken<'_> {
        let mut taken = Taken { bitmap: self, pages: Vec::new(), paid: Vec::new(), next: from };
        let mut at = (from / 64) as usize;
        while taken.pages.len() < limit {
            let Some(index) = self.raised_from(at) else {
                taken.next = from.max(self.pfns);
                return taken;
            };
            self.take_word(index, limit, from, &mut taken);
            at = index + 1;
        }
        taken.next = taken.pages.last().map_or(from, |last| last.pfn.0 + 1);
        taken
    }

    /// The taker's side of the protocol, for one word.
    fn take_word(&self, index: usize, limit: usize, from: u64, taken: &mut Taken<'_>) {
        taken.reserve(64); // nothing may fail while bits are in neither place
        // ORDER: Acquire for the Release in `raise`: the bits of each mark whose summary bit is cleared
        // here are seen below. Nothing of the taker's is published: its clearing may be seen late.
        clear_bits(&self.summary[index / 64], 1 << (index % 64), Ordering::Acquire);
        let open = self.word(index) & bits_within(&(from..self.pfns), index);
        let bits = lowest(open, limit - taken.pages.len());
        // ORDER: Acquire for the Release in `owe`, also of a mark of the same pfn after the load above.
        let left = self.words[index].fetch_and(!bits, Ordering::Acquire) & !bits;
        self.raise(index / 64, u64::from(left != 0) << (index % 64));
        let planes = Cause::ALL.map(|cause| self.acquit(cause, index, bits));
        for pfn in pfns_of(index, bits) {
            taken.pages.push(Owed { pfn, causes: causes_of(&planes, pfn) });
            taken.paid.push(false);
        }
    }

    /// Step 6: the bits that were set. Nothing is written where nothing was, as in `blame`.
    fn acquit(&self, cause: Cause, index: usize, bits: u64) -> u64 {
        let blamed = self.plane(cause, index) & bits;
        if blamed != 0 {
            // ORDER: Relaxed: only the taker clears, and bits that were set since the load above stay.
            clear_bits(&self.planes[cause as usize][index], blamed, Ordering::Relaxed);
        }
        blamed
    }

    /// Owes a taken pfn again.
    fn restore(&self, owed: Owed) {
        let (index, bit) = ((owed.pfn.0 / 64) as usize, 1 << (owed.pfn.0 % 64));
        owed.causes.iter().for_each(|cause| self.blame(index, bit, cause));
        self.owe(index, bit);
        self.raise(index / 64, 1 << (index % 64));
    }
}

impl fmt::Debug for ResendBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResendBitmap").field("pfns", &self.pfns).finish_non_exhaustive()
    }
}

impl Taken<'_> {
    fn reserve(&mut self, pages: usize) {
        self.pages.reserve(pages);
        self.paid.reserve(pages);
    }

    /// What was taken, in ascending order.
    #[must_use]
    pub fn pages(&self) -> &[Owed] {
        &self.pages
    }

    /// Where a sweep goes on: past the last pfn that was looked at.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Settles `pages()[index]`: it is no longer a debt. Paying twice is paying.
    ///
    /// # Panics
    /// If `index` is not below the number of pages.
    pub fn pay(&mut self, index: usize) {
        self.paid[index] = true;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let unpaid = self.pages.iter().zip(&self.paid).filter(|&(_, &paid)| !paid);
        unpaid.for_each(|(&owed, _)| self.bitmap.restore(owed));
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom;
