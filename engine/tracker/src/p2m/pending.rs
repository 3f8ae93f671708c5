// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leaves that must be compared before anything is known about them in a round, and why.
//! Not here: the comparison (`compare`).
//! Units: leaves by position; a byte for each, and a list of those that are pending.
//! Threads: one owner.
//! Source: `docs/design.md`, law 2: a leaf stays pending until it was compared.

use crate::cause::Cause;
use crate::frame::LeafIndex;

/// A leaf that has to be compared, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) leaf: LeafIndex,
    pub(crate) cause: Cause,
}

impl Item {
    /// Whether the leaf is compared for the first time: its entries are no changes of what the last
    /// walk relied on.
    pub(crate) const fn is_new(self) -> bool {
        matches!(self.cause, Cause::First | Cause::Growth)
    }
}

/// The pending leaves.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    causes: Vec<Option<Cause>>,
    /// Each pending leaf once.
    list: Vec<LeafIndex>,
}

impl Pending {
    /// Whether nothing is pending.
    pub(crate) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Changes the number of leaves; those that are removed are not pending any more.
    pub(crate) fn resize(&mut self, leaves: u64) {
        self.causes.resize(leaves as usize, None);
        self.list.retain(|leaf| leaf.0 < leaves);
    }

    /// Adds a leaf below the length. A new or re-pointed leaf keeps its cause.
    pub(crate) fn add(&mut self, leaf: LeafIndex, cause: Cause) {
        let Some(held) = self.causes.get_mut(leaf.0 as usize) else { return };
        match held {
            None => self.list.push(leaf),
            Some(Cause::Entry) => {}
            Some(_) => return,
        }
        *held = Some(cause);
    }

    /// Adds a leaf, if it is not pending for another cause.
    pub(crate) fn add_new(&mut self, leaf: LeafIndex, cause: Cause) {
        if self.causes.get(leaf.0 as usize) == Some(&None) {
            self.add(leaf, cause);
        }
    }

    /// All of them, in the order of the leaves.
    pub(crate) fn items(&mut self) -> Vec<Item> {
        self.list.sort_unstable();
        let item =
            |&leaf: &LeafIndex| self.causes[leaf.0 as usize].map(|cause| Item { leaf, cause });
        self.list.iter().filter_map(item).collect()
    }

    /// These were compared, all but `left`, which is in the same order.
    pub(crate) fn settle(&mut self, items: &[Item], left: &[LeafIndex]) {
        let mut left = left.iter().peekable();
        for Item { leaf, .. } in items {
            if left.next_if_eq(&leaf).is_none() {
                self.causes[leaf.0 as usize] = None;
            }
        }
    }

    /// Forgets the leaves that were settled.
    pub(crate) fn sweep(&mut self) {
        let causes = &self.causes;
        self.list.retain(|leaf| causes[leaf.0 as usize].is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn causes(pending: &mut Pending) -> Vec<(u64, Cause)> {
        pending.items().iter().map(|item| (item.leaf.0, item.cause)).collect()
    }

    #[test]
    fn a_leaf_is_pending_once_and_keeps_the_stronger_cause() {
        let mut pending = Pending::default();
        pending.add(LeafIndex(0), Cause::Entry);
        assert!(pending.is_empty(), "past the end");
        pending.resize(10);
        pending.add(LeafIndex(7), Cause::Entry);
        pending.add(LeafIndex(3), Cause::Structure);
        pending.add(LeafIndex(7), Cause::Growth);
        pending.add(LeafIndex(3), Cause::Entry);
        pending.add_new(LeafIndex(7), Cause::Uncertain);
        pending.add_new(LeafIndex(9), Cause::Uncertain);
        assert!(!pending.is_empty());
        let all = [(3, Cause::Structure), (7, Cause::Growth), (9, Cause::Uncertain)];
        assert_eq!(causes(&mut pending), all);
        let items = pending.items();
        pending.settle(&items, &[LeafIndex(7)]);
        pending.sweep();
        assert_eq!(causes(&mut pending), [(7, Cause::Growth)]);
        pending.add(LeafIndex(3), Cause::Entry);
        pending.resize(5);
        pending.resize(10);
        assert_eq!(causes(&mut pending), [(3, Cause::Entry)]);
        pending.resize(3);
        assert!(pending.is_empty() && causes(&mut pending).is_empty());
    }
}
