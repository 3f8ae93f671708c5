// SPDX-License-Identifier: MIT OR Apache-2.0
//! The order in which the guest's frames were allocated: blocks as a buddy allocator leaves them.
//! Not here: who owns which block (`build`).
//! Units: mfns.
//! Threads: one owner.
//! Source: captures of real guests: runs of step +1, some descending, some shuffled.

use crate::dice::Dice;

/// The guest's frames in the order in which pfns get them.
pub(crate) struct Mfns {
    /// First frame and length of each block.
    blocks: Vec<(u64, u64)>,
    at: usize,
    order: Vec<u64>,
    dice: Dice,
}

impl Mfns {
    /// Frames from these blocks, in this order.
    pub(crate) const fn new(blocks: Vec<(u64, u64)>, dice: Dice) -> Self {
        Self { blocks, at: 0, order: Vec::new(), dice }
    }

    /// The next frame.
    pub(crate) fn next(&mut self) -> u64 {
        if let Some(mfn) = self.order.pop() {
            return mfn;
        }
        let (first, len) = self.blocks[self.at];
        self.at += 1;
        // Popped from the end, so a reversed block ascends.
        self.order = (first..first + len).rev().collect();
        match self.dice.below(20) {
            0 => self.dice.shuffle(&mut self.order),
            1 | 2 => self.order.reverse(),
            _ => {}
        }
        self.order.pop().expect("a block has frames")
    }
}
