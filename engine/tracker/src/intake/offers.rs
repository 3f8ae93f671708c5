// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's offers to take frames by transfer: when one was seen, what the entries name, which
//! leaves were compared since.
//! Not here: reading them (`intake`), or what is owed for them in a leaf (`compare`).
//! Units: leaves by position; pfns that entries of the grant table name.
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
    /// Leaves (a bit for each position) that wait for a comparison since one was last seen: if a
    /// leaf's frame has another pfn for a while, writes to it show only when it is back.
    waiting: PfnBitmap,
    /// The pfns that the entries named at the last read.
    named: Vec<Pfn>,
    /// One was seen since the last suspended round, and which pfn it names is unknown.
    nameless: bool,
}

impl Offers {
    /// Records a read of the grant table: whether anything is or was offered, and, if that is
    /// known, which pfns the entries name. An offer that no entry names any more may have been
    /// used. Returns the pfns that may have got a frame: those, and those of the read before, whose
    /// entries may have been used and withdrawn since.
    pub(crate) fn record(&mut self, offered: bool, named: Option<&[Pfn]>) -> Vec<Pfn> {
        let named = named.unwrap_or_default();
        if offered || !named.is_empty() {
            self.now = true;
            self.waiting.fill(self.waiting.pfns());
        }
        self.nameless |= offered && named.is_empty();
        let mut owed = std::mem::replace(&mut self.named, named.to_vec());
        owed.extend(named);
        owed
    }

    /// Whether any pfn may have got a frame since the last suspended round.
    pub(crate) const fn are_nameless(&self) -> bool {
        self.nameless
    }

    /// The number of leaves changed. A new one is compared whole, and waits for nothing.
    pub(crate) fn cover(&mut self, leaves: u64) {
        self.waiting.resize(leaves);
    }

    /// Whether an equal entry of the leaf may hide a frame that went and came back.
    pub(crate) fn is_uncertain(&self, leaf: LeafIndex) -> bool {
        self.now || self.before || self.waiting.get(Pfn(leaf.0))
    }

    /// The leaf was compared, and what it may hide is owed.
    pub(crate) fn compared(&mut self, leaf: LeafIndex) {
        self.waiting.clear(Pfn(leaf.0));
    }

    /// A round compared all that it had to.
    pub(crate) fn end_round(&mut self, suspended: bool) {
        self.before = std::mem::take(&mut self.now);
        self.nameless &= !suspended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_uncertain_until_it_was_compared_and_two_rounds_have_passed() {
        let mut offers = Offers::default();
        let record = |offers: &mut Offers, offered| offers.record(offered, Some(&[]));
        offers.cover(100);
        record(&mut offers, false);
        assert!(!offers.is_uncertain(LeafIndex(7)));
        record(&mut offers, true);
        record(&mut offers, false);
        offers.compared(LeafIndex(7));
        let uncertainties =
            |offers: &Offers| [7, 8, 99].map(|leaf| offers.is_uncertain(LeafIndex(leaf)));
        assert_eq!(uncertainties(&offers), [true; 3], "this round");
        offers.end_round(false);
        assert_eq!(uncertainties(&offers), [true; 3], "the next");
        offers.end_round(false);
        assert_eq!(uncertainties(&offers), [false, true, true]);
        offers.cover(50);
        offers.cover(100);
        assert_eq!(uncertainties(&offers), [false, true, false], "a new leaf");
    }

    #[test]
    fn what_entries_name_is_owed_now_and_at_the_next_read() {
        let mut offers = Offers::default();
        assert_eq!(offers.record(true, Some(&[Pfn(1), Pfn(2)])), [Pfn(1), Pfn(2)]);
        assert_eq!(offers.record(true, Some(&[Pfn(2)])), [Pfn(1), Pfn(2), Pfn(2)]);
        offers.end_round(false);
        assert_eq!(offers.record(false, Some(&[])), [Pfn(2)]);
        assert_eq!(offers.record(false, Some(&[])), []);
        assert!(!offers.are_nameless());
    }

    #[test]
    fn an_offer_without_a_name_is_remembered_until_the_guest_is_suspended() {
        let mut offers = Offers::default();
        offers.record(false, None);
        assert!(!offers.are_nameless());
        for named in [None, Some(&[][..])] {
            offers.record(true, named);
            offers.record(false, named);
            offers.end_round(false);
            assert!(offers.are_nameless());
            offers.end_round(true);
            assert!(!offers.are_nameless());
        }
    }
}
