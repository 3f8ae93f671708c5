// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs as a buddy allocator leaves them: blocks of 2^0 to 2^10 pages, whole or halved again and
//! again.
//! Not here: pairs that were swapped (`swaps`).
//! Units: pages and frames from 0; arenas of 1,024; a block's order is the logarithm of its pages.
//! Threads: plain values.
//! Source: captures: `docs/perf.md`, "Runs of real guests"; Linux and Xen allocate small blocks
//! downwards.
//!
//! Pages and frames of an arena are the same tree of halves. Whether a block is halved, whether its
//! halves change places and which way a run goes all follow from the place of the block in its
//! tree, so that no table is needed.

use super::permutation::{Permutation, word_at};

const ARENA_BITS: u32 = 10;
const ARENA_MASK: u64 = (1 << ARENA_BITS) - 1;

/// Arenas of 16 that are in small pieces.
const SHATTERED_OF_16: u64 = 7;
/// Blocks of 16 that are halved, in such an arena.
const HALVED_OF_16: u64 = 9;

/// The run that a page lies in, or its part within one arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Its length is two to the power of this.
    pub(crate) order: u32,
    /// The lowest page.
    pub(crate) page: u64,
    /// The lowest frame.
    pub(crate) frame: u64,
    /// The lowest page has the highest frame.
    pub(crate) descends: bool,
}

impl Block {
    /// The frame's offset for a page's offset in the block, or the reverse, both counted from the
    /// lowest.
    pub(crate) const fn turn(&self, within: u64) -> u64 {
        if self.descends { ((1 << self.order) - 1) - within } else { within }
    }
}

/// Whether a block is looked up by its pages or by its frames.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Pages,
    Frames,
}

/// The runs of one guest.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    arenas: Permutation,
    seed: u64,
}

impl Runs {
    pub(crate) fn new(pages: u64, seed: u64) -> Self {
        Self { arenas: Permutation::new(pages >> ARENA_BITS, seed), seed: word_at(seed, 1) }
    }

    /// The block with a page.
    pub(crate) fn block(&self, page: u64) -> Block {
        let arena = page >> ARENA_BITS;
        if arena < self.arenas.limit() {
            self.descend(arena, self.arenas.forward(arena), page & ARENA_MASK, Side::Pages)
        } else {
            Self::rest(arena)
        }
    }

    /// The frame of a page.
    pub(crate) fn frame(&self, page: u64) -> u64 {
        let block = self.block(page);
        block.frame + block.turn(page - block.page)
    }

    /// The page of a frame.
    pub(crate) fn page(&self, frame: u64) -> u64 {
        let arena = frame >> ARENA_BITS;
        let block = if arena < self.arenas.limit() {
            self.descend(self.arenas.backward(arena), arena, frame & ARENA_MASK, Side::Frames)
        } else {
            Self::rest(arena)
        };
        block.page + block.turn(frame - block.frame)
    }

    /// The half arena past the last whole one.
    const fn rest(arena: u64) -> Block {
        let first = arena << ARENA_BITS;
        Block { order: ARENA_BITS - 1, page: first, frame: first, descends: false }
    }

    /// Goes down the tree of an arena to the block with `offset`, counted on the given side.
    fn descend(&self, arena: u64, frames: u64, offset: u64, side: Side) -> Block {
        let (mut page, mut frame) = (0, 0);
        // Nodes are numbered as in a heap, by the halves of the pages.
        let mut node = 1;
        let mut order = ARENA_BITS;
        let shattered = word_at(self.seed, arena << (ARENA_BITS + 1)) % 16 < SHATTERED_OF_16;
        loop {
            let word = word_at(self.seed, arena << (ARENA_BITS + 1) | node);
            if order == 0 || !halved(order, shattered, word) {
                let descends = order > 0 && descends(order, word >> 8);
                let page = arena << ARENA_BITS | page;
                let frame = frames << ARENA_BITS | frame;
                return Block { order, page, frame, descends };
            }
            order -= 1;
            let crossed = word >> 4 & 1;
            let half = offset >> order & 1;
            let (page_half, frame_half) = match side {
                Side::Pages => (half, half ^ crossed),
                Side::Frames => (half ^ crossed, half),
            };
            page |= page_half << order;
            frame |= frame_half << order;
            node = 2 * node + page_half;
        }
    }
}

/// Whether a block is halved. Whole arenas are runs of 2 MiB more often than of 4.
const fn halved(order: u32, shattered: bool, word: u64) -> bool {
    match (shattered, order) {
        (true, ARENA_BITS) => true,
        (true, _) => word % 16 < HALVED_OF_16,
        (false, ARENA_BITS) => !word.is_multiple_of(4),
        (false, _) => false,
    }
}

/// Which way a run goes: large ones come from Xen's builder, small ones from an allocator.
const fn descends(order: u32, word: u64) -> bool {
    let often = !word.is_multiple_of(8);
    if order >= 9 { !often } else { often }
}
