// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared words that begin where a cache line does.
//! Not here: what their bits mean (`cause_bitmap`, `summary`).
//! Units: words of 64 bits, 8 a cache line.
//! Threads: any number, by atomics; exclusive access takes `&mut`.
//! Source: two threads that write to one cache line wait for each other.

use crate::sync::{AtomicU64, zeroed_words};

/// Words that may go unused so that the first one is at the start of a cache line.
const SLACK: usize = if cfg!(loom) { 0 } else { 7 };

/// Zeroed words. Two shards never write to one cache line of them. What is never written costs no
/// memory.
pub(super) struct Aligned {
    words: Box<[AtomicU64]>,
    skip: usize,
}

impl Aligned {
    pub(super) fn zeroed(words: usize) -> Self {
        let words = zeroed_words(words + SLACK);
        let skip = words.as_ptr().align_offset(64).min(SLACK);
        Self { words, skip }
    }

    pub(super) fn all(&self) -> &[AtomicU64] {
        &self.words[self.skip..self.words.len() - (SLACK - self.skip)]
    }

    pub(super) fn all_mut(&mut self) -> &mut [AtomicU64] {
        let end = self.words.len() - (SLACK - self.skip);
        &mut self.words[self.skip..end]
    }
}
