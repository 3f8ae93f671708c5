// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs of 2 MiB: each upwards, allocated downwards within a gigabyte, the gigabytes in any order.
//! Not here: where the machine's frames for the guest begin (`pattern`).
//! Units: pages and frames from 0; blocks of 512, regions of 512 blocks.
//! Threads: plain values.
//! Source: captures of fresh guests: 84 of 95 blocks begin 512 frames below the one before.

use super::permutation::Permutation;

const BLOCK_BITS: u32 = 9;
const REGION_BITS: u32 = 9;
const BLOCK_MASK: u64 = (1 << BLOCK_BITS) - 1;
const REGION_MASK: u64 = (1 << REGION_BITS) - 1;

/// The blocks of one guest.
#[derive(Clone, Debug)]
pub(crate) struct Superpages {
    blocks: u64,
    regions: Permutation,
}

impl Superpages {
    pub(crate) fn new(pages: u64, seed: u64) -> Self {
        let blocks = pages >> BLOCK_BITS;
        Self { blocks, regions: Permutation::new(blocks >> REGION_BITS, seed) }
    }

    /// The block of frames of a block of pages, or the reverse by `place`. What is left past the
    /// last whole region is a small region of its own.
    fn block(&self, block: u64, place: impl Fn(&Permutation, u64) -> u64) -> u64 {
        let region = block >> REGION_BITS;
        if region < self.regions.limit() {
            place(&self.regions, region) << REGION_BITS | !block & REGION_MASK
        } else {
            let first = self.regions.limit() << REGION_BITS;
            self.blocks - 1 - (block - first)
        }
    }

    /// The frame of a page.
    pub(crate) fn frame(&self, page: u64) -> u64 {
        self.block(page >> BLOCK_BITS, Permutation::forward) << BLOCK_BITS | page & BLOCK_MASK
    }

    /// The page of a frame.
    pub(crate) fn page(&self, frame: u64) -> u64 {
        self.block(frame >> BLOCK_BITS, Permutation::backward) << BLOCK_BITS | frame & BLOCK_MASK
    }
}
