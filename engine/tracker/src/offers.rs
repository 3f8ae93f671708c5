// SPDX-License-Identifier: MIT OR Apache-2.0
//! Offers of the guest to take frames by transfer: when one was seen, and which leaves were compared since.
//! Not here: asking for them (`tracker::intake`), or what is owed for them (`compare`).
//! Units: leaves by position.
//! Threads: plain values; shards only read.
//! Source: `docs/decisions/0004-tags.md`, "Transfers".

use crate::bitmap::PfnBitmap;
use crate::frame::{LeafIndex, Pfn};

/// What is known of the offers.
#[derive(Debug, Default)]
pub(crate) struct Offers {
    /// One was seen since the last round that compared all it had to.
    now: bool,
    /// One was seen in that round.
    before: bool,
    /// Leaves (a bit for each position) that wait for a comparison since one was last seen: the writes
    /// of a leaf whose frame has another pfn for a while show only when it is back.
    waiting: PfnBitmap,
}

impl Offers {
    /// Notes a look at the grant table.
    pub(crate) fn look(&mut self, offered: bool) {
        if offered {
            self.now = true;
            self.waiting.fill(self.waiting.pfns());
        }
    }

    /// The number of leaves changed. A new one is compared whole, and waits for nothing.
    pub(crate) fn cover(&mut self, leaves: u64) {
        self.waiting.resize(leaves);
    }

    /// Whether an equal entry of the leaf may hide a frame that went and came back.
    pub(crate) fn doubt(&self, leaf: LeafIndex) -> bool {
        self.now || self.before || self.waiting.get(Pfn(leaf.0))
    }

    /// The leaf was compared, and what it may hide is owed.
    pub(crate) fn compared(&mut self, leaf: LeafIndex) {
        self.waiting.clear(Pfn(leaf.0));
    }

    /// A round compared all that it had to.
    pub(crate) fn end_round(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_doubted_until_it_was_compared_and_two_rounds_have_passed() {
        let mut offers = Offers::default();
        offers.cover(100);
        offers.look(false);
        assert!(!offers.doubt(LeafIndex(7)));
        offers.look(true);
        offers.look(false);
        offers.compared(LeafIndex(7));
        let doubts = |offers: &Offers| [7, 8, 99].map(|leaf| offers.doubt(LeafIndex(leaf)));
        assert_eq!(doubts(&offers), [true; 3], "this round");
        offers.end_round();
        assert_eq!(doubts(&offers), [true; 3], "the next");
        offers.end_round();
        assert_eq!(doubts(&offers), [false, true, true]);
        offers.cover(50);
        offers.cover(100);
        assert_eq!(doubts(&offers), [false, true, false], "a new leaf");
    }
}
