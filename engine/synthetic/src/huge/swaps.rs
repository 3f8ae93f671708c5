// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scattered pairs of pages that have each other's frame, as if single pages had been ballooned out
//! and in again.
//! Not here: the runs that they are scattered over (`runs`).
//! Units: pages; one candidate in each cell of 128 pages; a quarter of the pairs of cells are
//! swapped, which makes one swap for 1,024 pages: 2^20 (about a million) in 4 TiB.
//! Threads: plain values.
//! Source: own. Two cells are a pair if they are neighbours once all cells are shuffled.

use super::permutation::{Permutation, word_at};

/// Pages of a cell, as a power of two.
pub(crate) const CELL_BITS: u32 = 7;
/// One pair of this many is swapped.
const ACTIVE_OF: u64 = 4;

/// The swaps of one guest.
#[derive(Clone, Debug)]
pub(crate) struct Swaps {
    cells: Permutation,
    seed: u64,
}

impl Swaps {
    pub(crate) fn new(pages: u64, seed: u64) -> Self {
        let seed = word_at(seed, 2);
        Self { cells: Permutation::new(pages >> CELL_BITS, seed), seed: word_at(seed, 3) }
    }

    /// The page of a cell that may be swapped.
    fn candidate(&self, cell: u64) -> u64 {
        cell << CELL_BITS | word_at(self.seed, 2 * cell) >> (64 - CELL_BITS)
    }

    /// The page of a cell that is swapped, and with which one.
    pub(crate) fn swap(&self, cell: u64) -> Option<(u64, u64)> {
        let rank = self.cells.forward(cell);
        let other = rank ^ 1;
        let active = word_at(self.seed, rank | 1).is_multiple_of(ACTIVE_OF);
        (active && other < self.cells.limit())
            .then(|| (self.candidate(cell), self.candidate(self.cells.backward(other))))
    }

    /// The page whose frame a page has: itself, unless it is swapped. The function is its own
    /// inverse.
    pub(crate) fn partner(&self, page: u64) -> u64 {
        let cell = page >> CELL_BITS;
        if self.candidate(cell) != page {
            return page;
        }
        self.swap(cell).map_or(page, |(_, other)| other)
    }
}
