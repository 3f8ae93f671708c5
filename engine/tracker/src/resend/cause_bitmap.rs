// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bitmap of one cause: the pfns that are owed for one cause, under their summary.
//! Not here: how its pfns are taken (`take`), its shards (`shard`), which bitmaps there are
//! (`resend`).
//! Units: words of 64 pfns, lines of 512.
//! Threads: markers on any number of threads beside one taker; exclusive access takes `&mut`.
//! Source: the protocol in `resend`.

use std::ops::Range;

use super::summary::Summary;
use crate::array::Array;
use crate::bitmap::{LINE_PFNS, LINE_WORDS, bits_within, words_of};
use crate::cause::Cause;
use crate::sync::{AtomicU64, Ordering, keep_bits, set_bits};

/// Causes, each with a bitmap of its own.
pub(super) const CAUSES: usize = Cause::ALL.len();

/// The pfns owed for one cause.
pub(super) struct CauseBitmap {
    words: Array<AtomicU64>,
    pub(super) summary: Summary,
}

impl CauseBitmap {
    /// An empty bitmap of `lines` lines.
    pub(super) fn new(lines: usize) -> Self {
        Self { words: Array::zeroed(lines * LINE_WORDS), summary: Summary::new(lines) }
    }

    /// Adds where its memory is, if it is mapped.
    pub(super) fn mapped_at(&self, list: &mut Vec<Range<usize>>) {
        list.extend(self.words.mapped_at());
        self.summary.mapped_at(list);
    }

    /// Words of 64 pfns.
    pub(super) fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    /// The words, to be written by their only owner, and their summary, in which other threads may
    /// set bits meanwhile.
    pub(super) fn parts_mut(&mut self) -> (&mut [AtomicU64], &Summary) {
        (&mut self.words, &self.summary)
    }

    /// The marker's side of the protocol, from word `first` on; words past the end are dropped. The
    /// summary is written once for all lines under one of its words.
    pub(super) fn mark(&self, first: usize, bits: impl IntoIterator<Item = u64>) {
        let words = self.words();
        let (mut under, mut raised) = (first / LINE_WORDS / 64, 0);
        for (index, bits) in (first..words.len()).zip(bits) {
            if bits == 0 {
                continue;
            }
            let line = index / LINE_WORDS;
            if line / 64 != under {
                self.summary.raise(under, raised);
                (under, raised) = (line / 64, 0);
            }
            // ORDER: releases all that the marker saw to the take of the bits. It is not skipped if
            // the bits are already set, or that would not be published. Sequentially consistent for
            // the read in `raise`.
            set_bits(&words[index], bits, Ordering::SeqCst);
            raised |= 1 << (line % 64);
        }
        self.summary.raise(under, raised);
    }

    /// The same for words of one line.
    pub(super) fn mark_line(&self, line: usize, bits: &[u64]) {
        let mut any = 0;
        for (word, &bits) in self.words()[words_of(line)].iter().zip(bits) {
            if bits != 0 {
                set_bits(word, bits, Ordering::SeqCst); // ORDER: as in `mark`
                any |= bits;
            }
        }
        self.summary.raise(line / 64, u64::from(any != 0) << (line % 64));
    }

    /// The bits of one word.
    pub(super) fn word(&self, index: usize) -> u64 {
        // ORDER: a thread that sees a pfn owed also sees what its marker saw. A taker reads this
        // after it has cleared the line's bit: sequentially consistent, so that it sees the bits of
        // each marker that saw the line's bit set.
        self.words()[index].load(Ordering::SeqCst)
    }

    /// The bits of one line.
    pub(super) fn line(&self, line: usize) -> [u64; LINE_WORDS] {
        std::array::from_fn(|number| self.word(line * LINE_WORDS + number))
    }

    /// Clears every bit from pfn `pfns` on.
    pub(super) fn cut(&mut self, pfns: u64) {
        let first = (pfns / LINE_PFNS) as usize;
        let raised: Vec<_> = self.summary.raised().filter(|&line| line >= first).collect();
        for index in raised.into_iter().flat_map(words_of) {
            let kept = bits_within(&(0..pfns), index);
            keep_bits(&mut self.words[index], kept);
        }
    }
}
