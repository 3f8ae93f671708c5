// SPDX-License-Identifier: MIT OR Apache-2.0
//! The summary of one bitmap: which of its lines may have bits, on two levels.
//! Not here: the bits (`cause_bitmap`).
//! Units: a *line* is 512 pfns, one cache line; a bit of `lines` stands for a line, a bit of
//! `groups` for 4,096 lines.
//! Threads: markers on any number of threads set bits, beside one taker, which clears them.
//! Source: the protocol in `resend`.

use std::ops::Range;

use crate::array::Array;
use crate::bitmap::bits_at;
use crate::sync::{AtomicU64, Ordering, set_bits};

/// Words of `lines` under one bit of `groups`.
pub(crate) const GROUP_WORDS: usize = if cfg!(loom) { 1 } else { 64 };
/// Lines under one bit of `groups`.
pub(crate) const GROUP_LINES: usize = 64 * GROUP_WORDS;

/// The words of `lines` under one bit of `groups`.
pub(crate) const fn summary_of(group: usize) -> Range<usize> {
    group * GROUP_WORDS..(group + 1) * GROUP_WORDS
}

/// Two levels of summary bits.
pub(super) struct Summary {
    lines: Array<AtomicU64>,
    groups: Array<AtomicU64>,
}

impl Summary {
    /// A summary of `lines` lines, none of which has bits.
    pub(super) fn new(lines: usize) -> Self {
        let groups = lines.div_ceil(GROUP_LINES);
        Self {
            lines: Array::zeroed(groups * GROUP_WORDS),
            groups: Array::zeroed(groups.div_ceil(64)),
        }
    }

    /// Adds where its memory is, if it is mapped.
    pub(super) fn mapped_at(&self, list: &mut Vec<Range<usize>>) {
        list.extend(self.lines.mapped_at());
    }

    /// The lower level.
    pub(super) fn lines(&self) -> &[AtomicU64] {
        &self.lines
    }

    /// The upper level.
    pub(super) fn groups(&self) -> &[AtomicU64] {
        &self.groups
    }

    /// Sets the bits of both levels for lines under one word of the lower one. Bits that are set
    /// are only read: markers share these words, and a read leaves the cache line shared.
    pub(super) fn raise(&self, under: usize, lines: u64) {
        if lines == 0 {
            return;
        }
        let missing = lines & !self.lines_under(under);
        if missing != 0 {
            // ORDER: sequentially consistent with the reads here and in `take`, and with what is
            // cleared there.
            set_bits(&self.lines()[under], missing, Ordering::SeqCst);
        }
        let group = under / GROUP_WORDS;
        self.raise_groups(group / 64, 1 << (group % 64));
    }

    /// Sets the bits of the upper level that are not set.
    pub(super) fn raise_groups(&self, under: usize, groups: u64) {
        let missing = groups & !self.groups_under(under);
        if missing != 0 {
            // ORDER: as in `raise`.
            set_bits(&self.groups[under], missing, Ordering::SeqCst);
        }
    }

    /// The bits of one word of the lower level.
    pub(super) fn lines_under(&self, index: usize) -> u64 {
        // ORDER: as in `CauseBitmap::word`, one level up; a marker reads this after it has written
        // the words.
        self.lines()[index].load(Ordering::SeqCst)
    }

    /// The bits of one word of the upper level.
    pub(super) fn groups_under(&self, index: usize) -> u64 {
        // ORDER: as in `lines_under`, another level up.
        self.groups[index].load(Ordering::SeqCst)
    }

    /// Whether a line may have bits.
    pub(super) fn may_have(&self, line: usize) -> bool {
        let group = line / GROUP_LINES;
        self.groups_under(group / 64) >> (group % 64) & 1 == 1
            && self.lines_under(line / 64) >> (line % 64) & 1 == 1
    }

    /// The lines that may have bits, in ascending order.
    pub(super) fn raised(&self) -> impl Iterator<Item = usize> + '_ {
        let groups = 0..self.groups.len();
        let groups = groups.flat_map(|index| bits_at(index, self.groups_under(index)));
        groups.flat_map(summary_of).flat_map(|index| bits_at(index, self.lines_under(index)))
    }
}
