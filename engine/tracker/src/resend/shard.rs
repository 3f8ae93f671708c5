// SPDX-License-Identifier: MIT OR Apache-2.0
//! Neighbouring lines of the resend bitmap, lent to one thread, which marks without locked ORs.
//! Not here: marks of many threads on the same lines (`cause_bitmap`).
//! Units: lines by their number in the bitmap.
//! Threads: one per shard. The summaries are shared with other shards. There is no take meanwhile:
//! the bitmap is borrowed.
//! Source: a locked OR costs some 20 cycles and nothing executes past it; a leaf has eight or
//! sixteen words.

use std::ops::RangeFrom;

use super::cause_bitmap::{CAUSES, CauseBitmap};
use super::summary::{GROUP_LINES, Summary};
use crate::bitmap::{LINE_PFNS, LINE_WORDS, bits_of, bits_within, words_of};
use crate::cause::Cause;
use crate::frame::{LeafIndex, Width};
use crate::leaf::LeafMask;
use crate::prefetch::prefetch;
use crate::sync::{AtomicU64, Ordering, add_bits};

/// Pfns of a group of lines: a shard that is cut at multiples of it has whole groups.
pub(crate) const GROUP_PFNS: u64 = GROUP_LINES as u64 * LINE_PFNS;

/// Some neighbouring lines.
pub struct ResendShard<'a> {
    /// The length of the whole bitmap.
    pfns: u64,
    first_line: usize,
    by_cause: [Part<'a>; CAUSES],
}

/// The lines of a leaf, and those after it. For a leaf number past any bitmap they are past every
/// length.
fn lines_from(width: Width, leaf: LeafIndex) -> RangeFrom<usize> {
    (leaf.0.saturating_mul(width.entries() as u64) / LINE_PFNS) as usize..
}

/// What a shard has of one bitmap.
struct Part<'a> {
    lines: &'a mut [[AtomicU64; LINE_WORDS]],
    summary: &'a Summary,
}

/// Cuts bitmaps of `pfns` pfns into shards:
/// [`ResendBitmap::shards_mut`](super::ResendBitmap::shards_mut).
pub(super) fn cut<'a>(
    pfns: u64,
    by_cause: &'a mut [CauseBitmap; CAUSES],
    firsts: impl IntoIterator<Item = u64>,
) -> impl Iterator<Item = ResendShard<'a>> {
    let end = by_cause[0].words().len() / LINE_WORDS;
    let line = move |first: u64| (first / LINE_PFNS).min(end as u64) as usize;
    let mut firsts = firsts.into_iter().map(line).peekable();
    let first = firsts.peek().copied().unwrap_or(end);
    let mut rest = by_cause.each_mut().map(|bitmap| {
        let (words, summary) = bitmap.parts_mut();
        Part { lines: &mut words.as_chunks_mut().0[first..], summary }
    });
    std::iter::from_fn(move || {
        let first_line = firsts.next()?;
        let next = firsts.peek().copied().unwrap_or(end);
        assert!(first_line <= next, "shards in order");
        let by_cause = rest.each_mut().map(|part| part.split_off(next - first_line));
        Some(ResendShard { pfns, first_line, by_cause })
    })
}

impl Part<'_> {
    /// Takes so many lines from the front.
    fn split_off(&mut self, lines: usize) -> Self {
        let (front, rest) = std::mem::take(&mut self.lines).split_at_mut(lines);
        self.lines = rest;
        Self { lines: front, summary: self.summary }
    }
}

impl ResendShard<'_> {
    /// The place of a line in the shard; `None` if it is past the length.
    ///
    /// # Panics
    /// If the line is another shard's: the mark would be lost.
    #[inline]
    fn place(&self, line: usize) -> Option<usize> {
        let place = line.wrapping_sub(self.first_line);
        if place < self.by_cause[0].lines.len() {
            return Some(place);
        }
        assert!(line as u64 >= self.pfns.div_ceil(LINE_PFNS), "a line of another shard");
        None
    }

    /// Owes the slots of a leaf. Slots past the length are dropped.
    ///
    /// # Panics
    /// If the leaf is another shard's.
    #[inline]
    pub fn mark_leaf(&mut self, width: Width, leaf: LeafIndex, mask: &LeafMask, cause: Cause) {
        let (bits, _) = mask.used(width).as_chunks();
        for (line, bits) in lines_from(width, leaf).zip(bits) {
            let up = u64::from(self.put(line, bits, cause)) << (line % 64);
            self.by_cause[cause as usize].summary.raise(line / 64, up);
        }
    }

    /// Owes the lines whose bits are in `up`, of 64 lines from line `first` on, a multiple of 64.
    /// Bits past the length are dropped.
    ///
    /// # Panics
    /// If one of them is another shard's, or `lines` ends before it.
    pub(crate) fn mark_lines(
        &mut self,
        first: usize,
        up: u64,
        lines: &[[u64; LINE_WORDS]],
        cause: Cause,
    ) {
        let mark = |raised, number| {
            let owed = self.put(first + number as usize, &lines[number as usize], cause);
            raised | u64::from(owed) << number
        };
        let raised = bits_of(up).fold(0, mark);
        self.by_cause[cause as usize].summary.raise(first / 64, raised);
    }

    /// ORs the bits below the length into a line. Returns whether there are any: then the caller
    /// sets the line's bit in the summary.
    #[inline]
    fn put(&mut self, line: usize, bits: &[u64; LINE_WORDS], cause: Cause) -> bool {
        let Some(place) = self.place(line) else { return false };
        let whole = (line as u64 + 1) * LINE_PFNS <= self.pfns;
        let bits = if whole { *bits } else { self.below_the_length(line, *bits) };
        let words = &mut self.by_cause[cause as usize].lines[place];
        words.iter_mut().zip(&bits).for_each(|(word, &bits)| add_bits(word, bits));
        bits.iter().fold(0, |any, bits| any | bits) != 0
    }

    #[cold]
    fn below_the_length(&self, line: usize, mut bits: [u64; LINE_WORDS]) -> [u64; LINE_WORDS] {
        for (bits, index) in bits.iter_mut().zip(words_of(line)) {
            *bits &= bits_within(&(0..self.pfns), index);
        }
        bits
    }

    /// Prefetches a line that will be marked.
    pub(crate) fn fetch(&self, line: usize, cause: Cause) {
        let place = line.wrapping_sub(self.first_line);
        if let Some(words) = self.by_cause[cause as usize].lines.get(place) {
            prefetch(&words[0]);
        }
    }

    /// Whether any slot of a leaf is owed now, for any cause: quicker than all that is owed.
    ///
    /// # Panics
    /// If the leaf is another shard's.
    pub(crate) fn is_owed(&self, width: Width, leaf: LeafIndex) -> bool {
        let lines = lines_from(width, leaf).take(width.entries() / LINE_PFNS as usize);
        lines.filter_map(|line| Some((line, self.place(line)?))).any(|(line, place)| {
            let parts = self.by_cause.iter().filter(|part| part.summary.may_have(line));
            // ORDER: no other thread writes them.
            parts.flat_map(|part| &part.lines[place]).any(|w| w.load(Ordering::Relaxed) != 0)
        })
    }

    /// The slots of a leaf that are owed now for any of some causes.
    ///
    /// # Panics
    /// If the leaf is another shard's.
    pub(crate) fn owed_for(&self, causes: &[Cause], width: Width, leaf: LeafIndex) -> LeafMask {
        let mut mask = LeafMask::NONE;
        let words = mask.words[..width.entries() / 64].chunks_exact_mut(LINE_WORDS);
        for (words, line) in words.zip(lines_from(width, leaf)) {
            let Some(place) = self.place(line) else { break };
            let parts = causes.iter().map(|&cause| &self.by_cause[cause as usize]);
            for part in parts.filter(|part| part.summary.may_have(line)) {
                let owed = part.lines[place].iter();
                // ORDER: no other thread writes them.
                words
                    .iter_mut()
                    .zip(owed)
                    .for_each(|(word, owed)| *word |= owed.load(Ordering::Relaxed));
            }
        }
        mask
    }
}
