// SPDX-License-Identifier: MIT OR Apache-2.0
//! The resend bitmap: every pfn that is owed to the destination, and why. Many threads mark, one
//! takes, and no mark is lost.
//! Not here: what happens to a page that was taken; until it is paid it is a debt (law 3).
//! Units: a bitmap per cause, bit `pfn % 64` of word `pfn / 64`; a pfn is owed if any bitmap has
//! its bit.
//! Threads: markers on any number of threads beside at most one taker. Resizing and shards borrow
//! the bitmap exclusively; each shard owns its lines.
//! Source: law 3, `docs/design`; bit order of `bitmap`, so that a 64-bit leaf's mask is one line of
//! 64 bytes.
//!
//! # Protocol
//! The bitmaps are independent. A marker (1) ORs the words, then makes sure that (2) the bit of
//! their line and (3) the bit of its group of lines are set: it reads them and ORs what is missing.
//! The taker works from the top: it (4) clears the group's bit and reads the lines, (5) clears the
//! line's bit and reads the words, (6) clears the bits that it takes from them, and then sets again
//! the summary bits of what is left. Only the taker clears bits.
//!
//! - *No bit is lost.* All but (6) is sequentially consistent. If a marker found or set the group's
//!   bit before (4), it wrote (2) before that, and the taker, which reads the lines after (4), sees
//!   it. If after (4), the group's bit is set when the visit ends, and the next take visits the
//!   group; at worst it finds nothing. The same holds one level down, with (1) and the line's bit,
//!   (5) and the read of the words.
//! - *The taker sees what the marker saw.* (1) happens before (6) for each bit that (6) takes, so
//!   the page is read after everything that the marker saw, even if the bit was already set.
//! - *No cause is lost.* The bitmap that a bit is in is its cause: a take of the bit reports it.

mod cause_bitmap;
mod shard;
mod summary;
mod take;

use std::fmt;
use std::ops::Range;

use cause_bitmap::{CAUSES, CauseBitmap};
pub(crate) use shard::GROUP_PFNS;
pub use shard::ResendShard;
use summary::Summary;
pub(crate) use summary::{GROUP_LINES, GROUP_WORDS, summary_of};
use take::Spare;
pub use take::Taken;

use crate::bitmap::{LINE_PFNS, LINE_WORDS, bits_at, bits_within};
use crate::cause::{Cause, CauseSet};
use crate::frame::{LeafIndex, Pfn, Width};
use crate::leaf::LeafMask;

/// The set of owed pfns below a length, with the causes of each.
pub struct ResendBitmap {
    pfns: u64,
    by_cause: [CauseBitmap; CAUSES],
    /// The memory of the last take that ended.
    spare: Spare,
}

impl ResendBitmap {
    /// A bitmap of `pfns` pfns, none of them owed. Memory that no mark touches is only reserved.
    ///
    /// # Panics
    /// If there is no address space for `Cause::ALL.len()` bits per pfn.
    #[must_use]
    pub fn new(pfns: u64) -> Self {
        let lines = pfns.div_ceil(LINE_PFNS) as usize;
        Self {
            pfns,
            by_cause: std::array::from_fn(|_| CauseBitmap::new(lines)),
            spare: Spare::default(),
        }
    }

    /// Adds where its memory is, if it is mapped.
    pub(crate) fn mapped_at(&self, list: &mut Vec<Range<usize>>) {
        self.by_cause.iter().for_each(|bitmap| bitmap.mapped_at(list));
    }

    /// Length in pfns.
    #[must_use]
    pub const fn pfns(&self) -> u64 {
        self.pfns
    }

    /// Changes the length. Pfns below both lengths stay owed with their causes; those past the new
    /// length are no longer owed. The cost grows with the owed pfns and the summary.
    pub fn resize(&mut self, pfns: u64) {
        if pfns < self.pfns {
            self.by_cause.iter_mut().for_each(|bitmap| bitmap.cut(pfns));
        }
        if pfns.div_ceil(LINE_PFNS) as usize * LINE_WORDS <= self.words() {
            self.pfns = pfns;
            return;
        }
        let old = std::mem::replace(self, Self::new(pfns));
        for (bitmap, old) in self.by_cause.iter().zip(&old.by_cause) {
            for line in old.summary.raised() {
                bitmap.mark_line(line, &old.line(line));
            }
        }
    }

    /// Fills in one bit for each line, in ascending order: set if any of its pfns may be owed.
    pub(crate) fn owed_lines(&self, lines: &mut Vec<u64>) {
        lines.clear();
        lines.resize((self.words() / LINE_WORDS).div_ceil(64), 0);
        for line in self.by_cause.iter().flat_map(|bitmap| bitmap.summary.raised()) {
            lines[line / 64] |= 1 << (line % 64);
        }
    }

    /// Words of a bitmap.
    fn words(&self) -> usize {
        self.by_cause[0].words().len()
    }

    /// Owes a pfn for all of these causes.
    pub(crate) fn mark_all(&self, pfn: Pfn, causes: CauseSet) {
        for cause in causes.iter() {
            self.mark(pfn, cause);
        }
    }

    /// Owes a pfn. Returns whether it is below the length; past it nothing is marked.
    pub fn mark(&self, pfn: Pfn, cause: Cause) -> bool {
        let known = pfn.0 < self.pfns;
        if known {
            self.by_cause[cause as usize].mark((pfn.0 / 64) as usize, [1 << (pfn.0 % 64)]);
        }
        known
    }

    /// Owes slots of a leaf: 8 or 16 words, without a list of pfns. Slots past the length are
    /// dropped.
    pub fn mark_leaf(&self, width: Width, leaf: LeafIndex, mask: &LeafMask, cause: Cause) {
        if leaf.0 >= width.leaves(self.pfns) {
            return;
        }
        let (first, bits) = (width.first_pfn(leaf).0, mask.used(width));
        if first + width.entries() as u64 > self.pfns {
            return self.mark_words((first / 64) as usize, bits, cause);
        }
        let lines = (first / LINE_PFNS) as usize..;
        for (line, bits) in lines.zip(bits.chunks_exact(LINE_WORDS)) {
            self.by_cause[cause as usize].mark_line(line, bits);
        }
    }

    /// Owes all bits of a piece of a dirty bitmap that begins at pfn `64 * first_word`. Bits past
    /// the length are dropped.
    pub fn mark_words(&self, first_word: usize, words: &[u64], cause: Cause) {
        let bitmap = &self.by_cause[cause as usize];
        if first_word.saturating_add(words.len()) as u64 <= self.pfns / 64 {
            return bitmap.mark(first_word, words.iter().copied());
        }
        let bits = (first_word..)
            .zip(words)
            .map(|(index, bits)| bits & bits_within(&(0..self.pfns), index));
        bitmap.mark(first_word, bits);
    }

    /// Owes a range, as far as it is below the length.
    pub fn mark_range(&self, pfns: Range<u64>, cause: Cause) {
        let pfns = pfns.start..pfns.end.min(self.pfns);
        if !pfns.is_empty() {
            let words = (pfns.start / 64) as usize..pfns.end.div_ceil(64) as usize;
            let bits = words.clone().map(|index| bits_within(&pfns, index));
            self.by_cause[cause as usize].mark(words.start, bits);
        }
    }

    /// The bits of a line in any bitmap.
    fn line(&self, line: usize) -> [u64; LINE_WORDS] {
        let mut bits = [0; LINE_WORDS];
        for bitmap in self.by_cause.iter().filter(|bitmap| bitmap.summary.may_have(line)) {
            bits.iter_mut().zip(bitmap.line(line)).for_each(|(bits, more)| *bits |= more);
        }
        bits
    }

    /// Whether a pfn is owed now.
    #[must_use]
    pub fn is_owed(&self, pfn: Pfn) -> bool {
        !self.why(pfn).is_empty()
    }

    /// Why a pfn is owed now; empty if it is not.
    #[must_use]
    pub fn why(&self, pfn: Pfn) -> CauseSet {
        if pfn.0 >= self.pfns {
            return CauseSet::default();
        }
        let (index, bit) = ((pfn.0 / 64) as usize, pfn.0 % 64);
        let owes = |cause: &Cause| {
            let bitmap = &self.by_cause[*cause as usize];
            bitmap.summary.may_have(index / LINE_WORDS) && bitmap.word(index) >> bit & 1 == 1
        };
        Cause::ALL.into_iter().filter(owes).collect()
    }

    /// The lines that may have bits in any bitmap, in ascending order, with their bits.
    fn raised(&self) -> impl Iterator<Item = [u64; LINE_WORDS]> + '_ {
        let any = |get: fn(&Summary, usize) -> u64, index| {
            self.by_cause.iter().fold(0, |bits, bitmap| bits | get(&bitmap.summary, index))
        };
        let groups = 0..self.by_cause[0].summary.groups().len();
        let groups =
            groups.flat_map(move |index| bits_at(index, any(Summary::groups_under, index)));
        let words = groups.flat_map(summary_of);
        let lines = words.flat_map(move |index| bits_at(index, any(Summary::lines_under, index)));
        lines.map(|line| self.line(line))
    }

    /// Pfns owed now. Exact while no thread marks or takes. The cost grows with the owed pfns.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.raised().flatten().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Cuts the bitmap into shards that begin at these pfns, which are multiples of 512 in
    /// ascending order; each ends where the next one begins, the last one with the bitmap.
    ///
    /// # Panics
    /// On a shard that would end before it begins.
    pub fn shards_mut<'a>(
        &'a mut self,
        firsts: impl IntoIterator<Item = u64>,
    ) -> impl Iterator<Item = ResendShard<'a>> {
        shard::cut(self.pfns, &mut self.by_cause, firsts)
    }

    /// Whether nothing is owed now. Exact while no thread marks or takes. Reads the summary.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raised().flatten().all(|word| word == 0)
    }

    /// Takes up to `limit` owed pfns from pfn `from` on, in ascending order. A sweep continues at
    /// [`Taken::next`] until that is [`ResendBitmap::pfns`], and then begins again with 0.
    ///
    /// The cost grows with the upper summary from `from` on and with what is taken. The memory of
    /// the previous take is reused. Only one thread takes at a time.
    pub fn take(&self, limit: usize, from: u64) -> Taken<'_> {
        Taken::new(&self.by_cause, &self.spare, self.pfns, limit, from)
    }
}

impl fmt::Debug for ResendBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResendBitmap").field("pfns", &self.pfns).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom;
