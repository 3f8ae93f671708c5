// SPDX-License-Identifier: MIT OR Apache-2.0
//! One plane of the resend bitmap: the pfns that are owed for one cause, under two levels of summary.
//! Not here: what leaves a plane (`take`), or which planes there are (`resend`).
//! Units: a *line* is 512 pfns, one cache line; a bit of `lines` stands for a line, a bit of `groups` for 4,096 lines.
//! Threads: markers on any number of threads beside one taker; what wants a plane alone says `&mut`.
//! Source: the protocol is told in `resend`.

use crate::bitmap::{LINE_PFNS, LINE_WORDS, bits_at, words_of};
use crate::prefetch::prefetch;
use crate::sync::{AtomicU64, Ordering, add_bits, keep_bits, set_bits, zeroed_words};

/// Words of `lines` under one bit of `groups`.
pub(crate) const GROUP_WORDS: usize = if cfg!(loom) { 1 } else { 64 };
/// Lines under one bit of `groups`.
pub(super) const GROUP_LINES: usize = 64 * GROUP_WORDS;

/// The words of `lines` under one bit of `groups`.
pub(crate) const fn summary_of(group: usize) -> std::ops::Range<usize> {
    group * GROUP_WORDS..(group + 1) * GROUP_WORDS
}

/// Words that may go unused so that the first one stands at the begin of a cache line.
const SLACK: usize = if cfg!(loom) { 0 } else { 7 };

/// Zeroed words, of which two shards never write to one cache line. What is never written costs no memory.
struct Aligned {
    words: Box<[AtomicU64]>,
    skip: usize,
}

impl Aligned {
    fn zeroed(words: usize) -> Self {
        let words = zeroed_words(words + SLACK);
        let skip = words.as_ptr().align_offset(64).min(SLACK);
        Self { words, skip }
    }

    fn all(&self) -> &[AtomicU64] {
        &self.words[self.skip..self.words.len() - (SLACK - self.skip)]
    }

    fn all_mut(&mut self) -> &mut [AtomicU64] {
        let end = self.words.len() - (SLACK - self.skip);
        &mut self.words[self.skip..end]
    }
}

/// The pfns owed for one cause.
pub(super) struct Plane {
    words: Aligned,
    lines: Aligned,
    groups: Box<[AtomicU64]>,
}

impl Plane {
    /// An empty plane of `lines` lines.
    pub(super) fn new(lines: usize) -> Self {
        let groups = lines.div_ceil(GROUP_LINES);
        Self {
            words: Aligned::zeroed(lines * LINE_WORDS),
            lines: Aligned::zeroed(groups * GROUP_WORDS),
            groups: zeroed_words(groups.div_ceil(64)),
        }
    }

    /// Words of 64 pfns.
    pub(super) fn words(&self) -> &[AtomicU64] {
        self.words.all()
    }

    /// The summary of the lines.
    pub(super) fn lines(&self) -> &[AtomicU64] {
        self.lines.all()
    }

    /// The summary of the groups.
    pub(super) const fn groups(&self) -> &[AtomicU64] {
        &self.groups
    }

    /// The marker's side of the protocol, from word `first` on; words past the end are dropped. A summary is
    /// raised once for what lies under one of its own words.
    pub(super) fn mark(&self, first: usize, bits: impl IntoIterator<Item = u64>) {
        let words = self.words();
        let (mut under, mut raised) = (first / LINE_WORDS / 64, 0);
        for (index, bits) in (first..words.len()).zip(bits) {
            if bits == 0 {
                continue;
            }
            let line = index / LINE_WORDS;
            if line / 64 != under {
                self.raise(under, raised);
                (under, raised) = (line / 64, 0);
            }
            // ORDER: releases all that the marker knew to the take of the bits; not skipped if they are up already,
            // or that would not be published. Sequentially consistent for the look in `raise`.
            set_bits(&words[index], bits, Ordering::SeqCst);
            raised |= 1 << (line % 64);
        }
        self.raise(under, raised);
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
        self.raise(line / 64, u64::from(any != 0) << (line % 64));
    }

    /// Raises both summaries for lines under one word of the lower one, where they are not up: markers share
    /// their words, and a look leaves a cache line where it is.
    pub(super) fn raise(&self, under: usize, lines: u64) {
        if lines == 0 {
            return;
        }
        let missing = lines & !self.lines_under(under);
        if missing != 0 {
            // ORDER: sequentially consistent with the looks here and in `take`, and with what is cleared there.
            set_bits(&self.lines()[under], missing, Ordering::SeqCst);
        }
        let group = under / GROUP_WORDS;
        self.raise_groups(group / 64, 1 << (group % 64));
    }

    /// Raises the upper summary, where it is not up.
    pub(super) fn raise_groups(&self, under: usize, groups: u64) {
        let missing = groups & !self.groups_under(under);
        if missing != 0 {
            // ORDER: as in `raise`.
            set_bits(&self.groups[under], missing, Ordering::SeqCst);
        }
    }

    /// The bits of one word.
    pub(super) fn word(&self, index: usize) -> u64 {
        // ORDER: who sees a pfn owed finds what its marker knew. A taker looks after it has cleared the line:
        // sequentially consistent, so that it sees the bits of each marker that saw the line up.
        self.words()[index].load(Ordering::SeqCst)
    }

    /// The bits of one line.
    pub(super) fn line(&self, line: usize) -> [u64; LINE_WORDS] {
        std::array::from_fn(|number| self.word(line * LINE_WORDS + number))
    }

    /// The bits of one word of the lower summary.
    pub(super) fn lines_under(&self, index: usize) -> u64 {
        // ORDER: as in `word`, one level up; a marker looks after it has written the words.
        self.lines()[index].load(Ordering::SeqCst)
    }

    /// The bits of one word of the upper summary.
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

    /// Clears every bit from pfn `pfns` on.
    pub(super) fn cut(&mut self, pfns: u64) {
        let first = (pfns / LINE_PFNS) as usize;
        let raised: Vec<_> = self.raised().filter(|&line| line >= first).collect();
        for index in raised.into_iter().flat_map(words_of) {
            let kept = super::bits_within(&(0..pfns), index);
            keep_bits(&mut self.words.all_mut()[index], kept);
        }
    }

    /// The groups in order, each for one thread; bits from pfn `pfns` on will be dropped.
    pub(super) fn groups_mut(&mut self, pfns: u64) -> Vec<GroupMut<'_>> {
        let words = self.words.all_mut().chunks_mut(GROUP_LINES * LINE_WORDS);
        let lines = self.lines.all_mut().chunks_mut(GROUP_WORDS);
        let groups = &self.groups;
        let group = |(index, (words, lines))| GroupMut {
            words,
            lines,
            summary: &groups[index / 64],
            bit: 1_u64 << (index % 64),
            pfns: pfns.saturating_sub(index as u64 * GROUP_LINES as u64 * LINE_PFNS),
            raised: false,
        };
        words.zip(lines).enumerate().map(group).collect()
    }
}

/// One group of a plane, lent to one thread.
pub(crate) struct GroupMut<'a> {
    words: &'a mut [AtomicU64],
    lines: &'a mut [AtomicU64],
    summary: &'a AtomicU64,
    bit: u64,
    /// Pfns from the group's first on that are below the length.
    pfns: u64,
    raised: bool,
}

impl GroupMut<'_> {
    /// Brings a line near that will be absorbed into.
    pub(crate) fn fetch(&self, line: usize) {
        if let Some(word) = self.words.get(line * LINE_WORDS) {
            prefetch(word);
        }
    }

    /// Owes the bits of one line; those past the length are dropped.
    pub(crate) fn absorb(&mut self, line: usize, bits: &[u64; LINE_WORDS]) {
        if (line as u64 + 1) * LINE_PFNS > self.pfns {
            return self.absorb_last(line, bits);
        }
        let words = self.words[words_of(line)].iter_mut();
        words.zip(bits).for_each(|(word, &bits)| add_bits(word, bits));
        add_bits(&mut self.lines[line / 64], 1 << (line % 64));
        self.raised = true;
    }

    /// The line that the length cuts, or one past it.
    fn absorb_last(&mut self, line: usize, bits: &[u64; LINE_WORDS]) {
        let first = line * LINE_WORDS;
        for (index, bits) in (first..self.words.len()).zip(bits) {
            let bits = bits & super::bits_within(&(0..self.pfns), index);
            add_bits(&mut self.words[index], bits);
            if bits != 0 {
                add_bits(&mut self.lines[line / 64], 1 << (line % 64));
                self.raised = true;
            }
        }
    }
}

impl Drop for GroupMut<'_> {
    fn drop(&mut self) {
        if self.raised {
            set_bits(self.summary, self.bit, Ordering::Release); // ORDER: as in `raise_groups`
        }
    }
}
