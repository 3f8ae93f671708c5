// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which frames have to be queried again although their entries did not change: they may have got
//! another owner.
//! Not here: the queries (`compare::owners`).
//! Units: leaves by position.
//! Threads: one owner.
//! Source: `docs/design.md`, "Completeness": a guest that gives a frame away writes its entry; the
//! leaf is dirty, and may be equal.

use crate::frame::{LeafIndex, Pfn};
use crate::pfn_set::PfnSet;
use crate::port::PortError;

/// What has to be queried.
#[derive(Debug, Default)]
pub(crate) struct Recheck {
    /// Leaves (a bit for each position) that were compared in this round: the guest is writing
    /// them.
    warm: PfnSet,
    /// Leaves that were compared in an earlier round, and not queried since.
    cold: PfnSet,
    /// Pfns that were settled as not the domain's have to be queried in this round.
    foreign: bool,
    /// Every leaf has to be queried in this round.
    all: bool,
    /// Why the last query failed.
    failed: Option<PortError>,
}

impl Recheck {
    /// Covers at least `leaves` positions.
    pub(crate) fn cover(&mut self, leaves: u64) {
        self.warm.cover(leaves);
        self.cold.cover(leaves);
    }

    /// Begins a round. `suspended`: what is not queried in it is queried too late. `full`:
    /// everything is to be queried.
    pub(crate) fn begin_round(&mut self, suspended: bool, full: bool) {
        for leaf in self.warm.iter() {
            self.cold.set(leaf);
        }
        self.warm.clear_all();
        (self.foreign, self.all) = (suspended || full, full);
        self.failed = None;
    }

    /// A leaf was compared, because it was written or is another frame now.
    pub(crate) fn compared(&mut self, leaf: LeafIndex) {
        self.warm.set(Pfn(leaf.0));
        self.cold.clear(Pfn(leaf.0));
    }

    /// Whether anything has to be queried. While the guest runs, the leaves that it is writing can
    /// wait.
    pub(crate) const fn are_due(&self, suspended: bool) -> bool {
        self.foreign || self.all || self.cold.len() > 0 || suspended && self.warm.len() > 0
    }

    /// Whether pfns that were settled as not the domain's have to be queried.
    pub(crate) const fn are_due_of_foreign(&self) -> bool {
        self.foreign
    }

    /// The leaves to be queried, of `tracked`.
    pub(crate) fn due(&self, suspended: bool, tracked: u64) -> Vec<LeafIndex> {
        let leaf = |Pfn(leaf)| LeafIndex(leaf);
        if self.all {
            return (0..tracked).map(LeafIndex).collect();
        }
        let warm = self.warm.iter().filter(|_| suspended);
        self.cold.iter().chain(warm).map(leaf).filter(|leaf| leaf.0 < tracked).collect()
    }

    /// All that were due were queried.
    pub(crate) fn asked(&mut self, suspended: bool) {
        self.cold.clear_all();
        if suspended {
            self.warm.clear_all();
        }
        (self.foreign, self.all) = (false, false);
        self.failed = None;
    }

    /// A query failed: what is due stays due.
    pub(crate) fn fail(&mut self, error: PortError) {
        self.failed = Some(error);
    }

    /// Takes why the last query failed.
    pub(crate) const fn take_failed(&mut self) -> Option<PortError> {
        self.failed.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(owners: &Recheck, suspended: bool) -> Vec<u64> {
        assert_eq!(owners.are_due(suspended), !owners.due(suspended, 10).is_empty());
        owners.due(suspended, 10).iter().map(|leaf| leaf.0).collect()
    }

    #[test]
    fn a_leaf_is_due_once_it_is_not_written_and_always_while_the_guest_is_suspended() {
        let mut owners = Recheck::default();
        owners.cover(100);
        owners.compared(LeafIndex(7));
        assert_eq!((due(&owners, false), due(&owners, true)), (vec![], vec![7]));
        owners.begin_round(false, false);
        assert_eq!(due(&owners, false), [7]);
        owners.compared(LeafIndex(7));
        owners.compared(LeafIndex(3));
        assert_eq!(due(&owners, false), [], "written again");
        owners.begin_round(false, false);
        owners.compared(LeafIndex(7));
        assert_eq!(due(&owners, false), [3]);
        owners.fail("not now".into());
        assert_eq!(due(&owners, false), [3]);
        owners.asked(false);
        assert_eq!((due(&owners, false), due(&owners, true)), (vec![], vec![7]));
        assert!(owners.take_failed().is_none());
    }

    #[test]
    fn a_suspended_round_asks_of_what_is_foreign_and_a_full_one_of_all() {
        let mut owners = Recheck::default();
        owners.cover(10);
        owners.begin_round(true, false);
        assert!(owners.are_due_of_foreign() && owners.are_due(true));
        assert!(owners.due(true, 10).is_empty());
        owners.asked(true);
        assert!(!owners.are_due(true));
        owners.begin_round(false, true);
        assert_eq!(due(&owners, false), (0..10).collect::<Vec<_>>());
        assert!(owners.are_due_of_foreign());
    }
}
