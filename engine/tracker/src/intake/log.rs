// SPDX-License-Identifier: MIT OR Apache-2.0
//! The log of one round: the bits of log-dirty, and which parts have any.
//! Not here: when it is read (`intake`).
//! Units: bits and lines of `bitmap`; a chunk is a group of `resend`, 256 KiB, for one thread.
//! Threads: chunks are processed by all of the engine's threads; otherwise one owner.
//! Source: law 8: the log is read whole once a round; whatever comes after reads only what is
//! dirty.

use crate::bitmap::{LINE_PFNS, LINE_WORDS, PfnBitmap, bits_at, bits_of, words_of};
use crate::cause::Cause;
use crate::log_buffer::LogBuffer;
use crate::resend::{GROUP_LINES, GROUP_PFNS, GROUP_WORDS, ResendBitmap, ResendShard, summary_of};
use crate::shard::{Join, Shards};

/// Lines that are checked before the first of them is owed: the bitmap lines that they go into fit
/// the nearest cache.
const BATCH_LINES: usize = 256;
/// Words of a chunk.
const CHUNK_WORDS: usize = GROUP_LINES * LINE_WORDS;
/// The cause of pfns that are in the log.
const CAUSE: Cause = Cause::LogDirty;

/// The log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    bits: PfnBitmap,
    /// One bit for each line that has bits.
    lines: Vec<u64>,
    /// One bit for each chunk that may have bits.
    chunks: Vec<u64>,
}

/// One chunk of the log, and what it goes into.
struct Chunk<'a> {
    words: &'a [u64],
    lines: &'a mut [u64],
    /// The number of its first line in the log.
    first_line: usize,
    /// Its part of the resend bitmap; `None` past the tracked pfns.
    shard: Option<ResendShard<'a>>,
    dirty: bool,
}

/// Pfns that were counted.
#[derive(Default)]
struct Pfns(u64);

impl Join for Pfns {
    fn join(self, next: Self) -> Self {
        Self(self.0 + next.0)
    }
}

impl Log {
    /// The bits.
    pub(crate) const fn bits(&self) -> &PfnBitmap {
        &self.bits
    }

    /// Makes the log empty and its length `pfns`, which is a whole number of words of `lines`, as
    /// in Xen's log. Writes only what was dirty, unless the length changes.
    pub(crate) fn reset(&mut self, pfns: u64) {
        assert!(pfns.is_multiple_of(64 * LINE_PFNS), "whole leaves of the log");
        if pfns == self.bits.pfns() {
            let words = self.bits.words_mut();
            for chunk in members(&self.chunks) {
                for index in summary_of(chunk) {
                    for line in bits_at(index, std::mem::take(&mut self.lines[index])) {
                        words[words_of(line)].fill(0);
                    }
                }
            }
            self.chunks.fill(0);
            return;
        }
        let chunks = (pfns.div_ceil(64) as usize).div_ceil(CHUNK_WORDS);
        *self = Self {
            bits: PfnBitmap::new(pfns),
            lines: vec![0; chunks * GROUP_WORDS],
            chunks: vec![0; chunks.div_ceil(64)],
        };
    }

    /// The buffer that log-dirty is read into. [`Log::owe`] has to take all of it afterwards.
    pub(crate) const fn fill(&mut self) -> LogBuffer<'_> {
        LogBuffer::over(&mut self.bits)
    }

    /// Owes every pfn of the log. Returns how many there are.
    pub(crate) fn owe(&mut self, resend: &mut ResendBitmap, shards: &Shards) -> u64 {
        let mut lent = resend.shards_mut((0..resend.pfns()).step_by(GROUP_PFNS as usize));
        let words = self.bits.words().chunks(CHUNK_WORDS);
        let lines = self.lines.chunks_mut(GROUP_WORDS);
        let chunk = |((words, lines), first_line)| Chunk {
            words,
            lines,
            first_line,
            shard: lent.next(),
            dirty: false,
        };
        let first_lines = (0..).step_by(GROUP_LINES);
        let mut chunks: Vec<_> = words.zip(lines).zip(first_lines).map(chunk).collect();
        let Pfns(pfns) = shards.fold_mut(&mut chunks, Chunk::owe);
        for (index, chunk) in chunks.iter().enumerate() {
            self.chunks[index / 64] |= u64::from(chunk.dirty) << (index % 64);
        }
        pfns
    }

    /// The words of the lines that have bits and are also in `lines`, in ascending order.
    pub(crate) fn dirty_words<'a>(
        &'a self,
        lines: &'a [u64],
    ) -> impl Iterator<Item = (usize, u64)> + 'a {
        let both = members(&self.chunks).flat_map(summary_of).flat_map(move |index| {
            bits_at(index, self.lines[index] & lines.get(index).copied().unwrap_or(0))
        });
        both.flat_map(words_of).map(|index| (index, self.bits.words()[index]))
    }
}

/// The numbers of the bits that are set.
fn members(words: &[u64]) -> impl Iterator<Item = usize> {
    words.iter().enumerate().flat_map(|(index, &word)| bits_at(index, word))
}

impl Chunk<'_> {
    fn owe(&mut self) -> Pfns {
        let (lines, _) = self.words.as_chunks();
        let batches = lines.chunks(BATCH_LINES).zip((0..).step_by(BATCH_LINES));
        Pfns(batches.map(|(lines, first)| self.owe_lines(first, lines)).sum())
    }

    /// Owes lines from number `first` on. Finds those that have bits first, to prefetch what they
    /// go into.
    fn owe_lines(&mut self, first: usize, lines: &[[u64; LINE_WORDS]]) -> u64 {
        let mut up = [0; BATCH_LINES / 64];
        for (number, words) in lines.iter().enumerate() {
            if words.iter().fold(0, |any, word| any | word) != 0 {
                up[number / 64] |= 1 << (number % 64);
                if let Some(shard) = &self.shard {
                    shard.fetch(self.first_line + first + number, CAUSE);
                }
            }
        }
        let mut pfns = 0;
        for ((lines, up), first) in lines.chunks(64).zip(up).zip((first..).step_by(64)) {
            pfns += bits_of(up).map(|number| ones(&lines[number as usize])).sum::<u64>();
            self.lines[first / 64] = up;
            self.dirty |= up != 0;
            if let Some(shard) = &mut self.shard {
                shard.mark_lines(self.first_line + first, up, lines, CAUSE);
            }
        }
        pfns
    }
}

/// Bits of a line.
fn ones(words: &[u64; LINE_WORDS]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Pfn;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Three chunks and a bit.
    const PFNS: u64 = 3 * GROUP_PFNS + 3 * 32_768;

    /// Any pfn, or one of the last words.
    fn place() -> impl Strategy<Value = u64> {
        prop_oneof![9 => 0..PFNS, 1 => PFNS - 100..PFNS]
    }

    proptest! {
        #[test]
        fn a_log_is_owed_whole_and_forgotten_whole(
            rounds in prop::collection::vec(prop::collection::btree_set(place(), 0..60), 1..4),
            tracked in prop_oneof![Just(PFNS), 0..PFNS],
            threads in 1_usize..3,
        ) {
            let shards = Shards::new(threads).expect("threads");
            let mut log = Log::default();
            let every = vec![u64::MAX; PFNS as usize / 512 / 64];
            for dirty in rounds {
                let mut resend = ResendBitmap::new(tracked);
                log.reset(PFNS);
                prop_assert_eq!(log.bits().count(), 0);
                for &pfn in &dirty {
                    log.fill().set(Pfn(pfn));
                }
                prop_assert_eq!(log.owe(&mut resend, &shards), dirty.len() as u64);
                let words = log.dirty_words(&every);
                let found: BTreeSet<_> =
                    words.flat_map(|(index, word)| bits_of(word).map(move |bit| 64 * index as u64 + bit)).collect();
                prop_assert_eq!(&found, &dirty);
                let taken = resend.take(usize::MAX, 0);
                let owed: BTreeSet<_> = taken.pfns().iter().map(|pfn| pfn.0).collect();
                let expected: BTreeSet<_> = dirty.into_iter().filter(|&pfn| pfn < tracked).collect();
                prop_assert_eq!(owed, expected);
            }
        }
    }

    #[test]
    fn only_lines_that_were_asked_for_are_returned() {
        let shards = Shards::new(1).expect("the caller's thread");
        let mut log = Log::default();
        log.reset(1 << 16);
        for pfn in [5, 512, 1 << 15] {
            log.fill().set(Pfn(pfn));
        }
        log.owe(&mut ResendBitmap::new(0), &shards);
        let found = |lines: &[u64]| -> Vec<_> {
            log.dirty_words(lines).filter(|&(_, word)| word != 0).collect()
        };
        assert_eq!(found(&[0b01, 1]), [(0, 1 << 5), (512, 1)]);
        assert_eq!(found(&[0b10]), [(8, 1)]);
        assert_eq!(found(&[]), []);
    }
}
