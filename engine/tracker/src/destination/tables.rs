// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pfns were last sent as page tables, and which of these may name a pfn whose frame is under
//! another one now.
//! Not here: how a move is found (`send::moves`), when tables are sent again (`send::again`).
//! Units: pfns.
//! Threads: one owner.
//! Source: `docs/decisions/0002-frames-that-move.md`.

use std::collections::HashMap;
use std::ops::Range;

use crate::frame::Pfn;
use crate::named_pfns::NamedPfns;
use crate::pfn_set::PfnSet;

/// Pfns that are remembered as left by their frames. Past it every table is uncertain.
const LEFT_PFNS_MAX: usize = 1 << 16;

/// The page tables that the destination has.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    sent: PfnSet,
    /// What they named when they were sent, of those that were normalised by the engine's view.
    /// What a table named since is another matter: log-dirty says that it was written.
    named: HashMap<Pfn, NamedPfns>,
    /// Pfns whose frames left them, since this was last taken.
    left: Vec<Pfn>,
    all_uncertain: bool,
}

impl Tables {
    /// Covers at least `pfns` pfns.
    pub(crate) fn cover(&mut self, pfns: u64) {
        self.sent.cover(pfns);
    }

    /// Adds where its memory is, if it is mapped.
    pub(crate) fn mapped_at(&self, list: &mut Vec<Range<usize>>) {
        self.sent.mapped_at(list);
    }

    /// The destination has a table, and what it names, if that is known.
    pub(crate) fn put(&mut self, pfn: Pfn, named: Option<NamedPfns>) {
        self.sent.set(pfn);
        match named {
            Some(named) => self.named.insert(pfn, named),
            None => self.named.remove(&pfn),
        };
    }

    /// The destination has no table at a pfn.
    pub(crate) fn clear(&mut self, pfn: Pfn) {
        if self.sent.clear(pfn) {
            self.named.remove(&pfn);
        }
    }

    /// It has none in a range. Returns how many lines of the set were read.
    pub(crate) fn clear_range(&mut self, pfns: &Range<u64>) -> u64 {
        for pfn in self.sent.iter_range(pfns) {
            self.named.remove(&pfn);
        }
        self.sent.clear_range(pfns)
    }

    /// The frame of a pfn is under another one now, or may be: tables may name the old one.
    pub(crate) fn frame_left(&mut self, pfn: Pfn) {
        if self.all_uncertain {
            return;
        }
        self.left.push(pfn);
        if self.left.len() == LEFT_PFNS_MAX {
            self.sort_left();
            if self.left.len() > LEFT_PFNS_MAX / 2 {
                self.all_are_uncertain();
            }
        }
    }

    fn sort_left(&mut self) {
        self.left.sort_unstable();
        self.left.dedup();
    }

    /// All tables that were sent may name other pfns than they should.
    pub(crate) fn all_are_uncertain(&mut self) {
        self.all_uncertain = self.sent.len() > 0;
        self.left.clear();
    }

    /// Whether some may.
    pub(crate) const fn are_uncertain(&self) -> bool {
        self.all_uncertain || !self.left.is_empty()
    }

    /// Ends the uncertainty: returns the tables that may.
    pub(crate) fn take_uncertain(&mut self) -> Vec<Pfn> {
        self.sort_left();
        let left = std::mem::take(&mut self.left);
        let all = std::mem::take(&mut self.all_uncertain);
        let may_name =
            |pfn: &Pfn| self.named.get(pfn).is_none_or(|named| named.may_name_any(&left));
        self.sent.iter().filter(|pfn| all || !left.is_empty() && may_name(pfn)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Tables {
        let mut tables = Tables::default();
        tables.cover(1 << 20);
        for (table, first) in [(1, 512), (2, 1024), (3, 1536)] {
            tables.put(Pfn(table), Some(NamedPfns::of_runs([(Pfn(first), 512)].into_iter())));
        }
        tables
    }

    #[test]
    fn only_tables_that_may_name_a_pfn_without_its_frame_are_uncertain() {
        let mut tables = tables();
        tables.put(Pfn(4), None); // not normalised by the engine's view
        assert!(!tables.are_uncertain() && tables.take_uncertain().is_empty());
        for (left, uncertain) in [
            (vec![1100], vec![2, 4]),
            (vec![2047, 512, 512], vec![1, 3, 4]),
            (vec![5000], vec![4]),
            (vec![], vec![]),
        ] {
            left.iter().for_each(|&pfn| tables.frame_left(Pfn(pfn)));
            assert_eq!(tables.are_uncertain(), !left.is_empty());
            let taken: Vec<_> = tables.take_uncertain().iter().map(|pfn| pfn.0).collect();
            assert_eq!(taken, uncertain, "{left:?}");
        }
        tables.all_are_uncertain();
        tables.frame_left(Pfn(5000));
        assert_eq!(tables.take_uncertain().len(), 4);
    }

    #[test]
    fn what_is_no_table_any_more_is_not_uncertain() {
        let mut tables = tables();
        tables.clear(Pfn(1));
        tables.clear_range(&(3..900));
        tables.put(Pfn(3), None);
        tables.frame_left(Pfn(600));
        assert_eq!(tables.take_uncertain(), [Pfn(3)]);
        assert_eq!(tables.named.len(), 1);
    }

    #[test]
    fn past_a_limit_every_table_is_uncertain() {
        let mut tables = tables();
        (0..LEFT_PFNS_MAX as u64 * 3).for_each(|pfn| tables.frame_left(Pfn(9000 + pfn % 99)));
        assert!(!tables.all_uncertain && tables.left.len() < LEFT_PFNS_MAX);
        (0..LEFT_PFNS_MAX as u64).for_each(|pfn| tables.frame_left(Pfn(9000 + pfn)));
        assert!(tables.all_uncertain && tables.left.is_empty());
        assert_eq!(tables.take_uncertain().len(), 3);
    }
}
