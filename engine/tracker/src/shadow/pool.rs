// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks of one size for the leaves of one shard: taken and returned without a call of the
//! allocator each time.
//! Not here: the content of the blocks.
//! Units: words of 64 bits; a handle counts words from the pool's first one.
//! Threads: one owner.
//! Source: slabs (Bonwick, USENIX 1994): a free block's first word names the next free one.

use crate::leaf::{FRAME_WORDS, Leaf};

/// The first word of a block.
pub(super) type Handle = u32;

/// No block.
const NONE: Handle = Handle::MAX;

/// Blocks of one size.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    block_words: usize,
    /// Each allocated by itself: allocators serve a page as it is, and round up what is longer and
    /// aligned. So the slack is less than a page per pool: a shard has a pool of each size.
    pages: Vec<Box<Leaf>>,
    /// The first word that was never part of a block.
    fresh: Handle,
    /// The first free block.
    free: Handle,
}

impl Pool {
    /// No blocks yet; nothing is allocated.
    pub(super) const fn new(block_words: usize) -> Self {
        Self { block_words, pages: Vec::new(), fresh: 0, free: NONE }
    }

    const fn place(handle: Handle) -> (usize, usize) {
        (handle as usize / FRAME_WORDS, handle as usize % FRAME_WORDS)
    }

    /// The words of a block.
    pub(super) fn block(&self, handle: Handle) -> &[u64] {
        let (page, word) = Self::place(handle);
        &self.pages[page].words[word..word + self.block_words]
    }

    /// A block that is a whole page.
    pub(super) fn page(&self, handle: Handle) -> &Leaf {
        &self.pages[Self::place(handle).0]
    }

    /// The words of a block, to be written.
    pub(super) fn block_mut(&mut self, handle: Handle) -> &mut [u64] {
        let (page, word) = Self::place(handle);
        &mut self.pages[page].words[word..word + self.block_words]
    }

    /// Takes a block with arbitrary content. Calls the allocator only if no block is free.
    pub(super) fn take(&mut self) -> Handle {
        if self.free != NONE {
            let taken = self.free;
            self.free = self.block(taken)[0] as Handle;
            return taken;
        }
        if self.fresh as usize % FRAME_WORDS + self.block_words > FRAME_WORDS {
            self.fresh = self.fresh.next_multiple_of(FRAME_WORDS as Handle);
        }
        let taken = self.fresh;
        if Self::place(taken).0 == self.pages.len() {
            self.pages.push(Box::default());
        }
        self.fresh += self.block_words as Handle;
        taken
    }

    /// Returns a block.
    pub(super) fn give(&mut self, handle: Handle) {
        let next = self.free;
        self.block_mut(handle)[0] = u64::from(next);
        self.free = handle;
    }

    /// All allocated memory.
    pub(super) fn bytes(&self) -> u64 {
        (self.pages.len() * size_of::<Leaf>() + self.pages.capacity() * size_of::<Box<Leaf>>())
            as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn blocks_are_apart_and_keep_what_was_written(
            block_words in prop::sample::select(vec![2_usize, 3, 48, 64, 256, 512]),
            turns in prop::collection::vec((any::<bool>(), any::<u64>()), 0..400),
        ) {
            let mut pool = Pool::new(block_words);
            let mut held = BTreeMap::new();
            for (take, word) in turns {
                if take {
                    let handle = pool.take();
                    pool.block_mut(handle).fill(word);
                    prop_assert_eq!(held.insert(handle, word), None);
                } else if let Some((&handle, _)) = held.iter().nth(word as usize % held.len().max(1)) {
                    held.remove(&handle);
                    pool.give(handle);
                }
            }
            for (&handle, &word) in &held {
                prop_assert!(pool.block(handle).iter().all(|&found| found == word));
            }
        }
    }

    #[test]
    fn pages_are_allocated_when_the_last_one_is_full_and_each_is_counted() {
        assert_eq!(Pool::new(2).bytes(), 0);
        for (block_words, page_blocks) in
            [(2, 256), (3, 170), (48, 10), (255, 2), (256, 2), (512, 1)]
        {
            let mut pool = Pool::new(block_words);
            for pages in 1..=9 {
                for _ in 0..page_blocks {
                    pool.take();
                    let index = pool.pages.capacity() * size_of::<Box<Leaf>>();
                    let bytes = pages * size_of::<Leaf>() + index;
                    assert_eq!(pool.bytes(), bytes as u64, "blocks of {block_words}");
                }
            }
        }
    }

    #[test]
    fn a_returned_block_is_the_next_one_taken() {
        let mut pool = Pool::new(6);
        let handles: Vec<_> = (0..100).map(|_| pool.take()).collect();
        let bytes = pool.bytes();
        handles.iter().for_each(|&handle| pool.give(handle));
        let again: Vec<_> = (0..100).map(|_| pool.take()).collect();
        assert!(again.iter().eq(handles.iter().rev()));
        assert_eq!(pool.bytes(), bytes);
    }
}
