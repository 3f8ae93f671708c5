// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's locks: which pfns, leaves and structures its running programs have claimed.
//! Not here: the programs. Only the program that claimed a pfn changes it; a locked leaf gets no
//! entry from others.
//! Units: pfns and positions of leaves.
//! Threads: one owner.
//! Source: stands for Linux's page ownership and `p2m_update_lock`.

use std::collections::{BTreeMap, BTreeSet};

use p2mtrack::frame::{Pfn, Width};

/// The claims of all programs.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    pfns: BTreeSet<u64>,
    users: BTreeMap<u64, u32>,
    locked: BTreeSet<u64>,
    structure: bool,
}

/// The claims of one program.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    pfns: Vec<u64>,
    leaves: Vec<u64>,
    structure: bool,
}

impl Claimed {
    /// Whether a leaf is locked by this program.
    pub(crate) fn has_leaf(&self, position: u64) -> bool {
        self.leaves.contains(&position)
    }

    /// Whether this program has claimed a pfn.
    pub(crate) fn has_pfn(&self, pfn: u64) -> bool {
        self.pfns.contains(&pfn)
    }
}

impl Claims {
    /// Whether any program has claimed a pfn.
    pub(crate) fn has_pfn(&self, pfn: u64) -> bool {
        self.pfns.contains(&pfn)
    }

    /// Whether any program has locked a leaf.
    pub(crate) fn is_locked(&self, position: u64) -> bool {
        self.locked.contains(&position)
    }

    /// Claims a pfn, and with it the right to write its entry.
    pub(crate) fn take_pfn(&mut self, width: Width, pfn: u64, into: &mut Claimed) -> bool {
        let position = width.leaf_of(Pfn(pfn)).0;
        if self.is_locked(position) && !into.has_leaf(position) || !self.pfns.insert(pfn) {
            return false;
        }
        *self.users.entry(position).or_default() += 1;
        into.pfns.push(pfn);
        true
    }

    /// Locks an unused leaf.
    pub(crate) fn lock_leaf(&mut self, position: u64, into: &mut Claimed) -> bool {
        let free = !self.users.contains_key(&position) && self.locked.insert(position);
        if free {
            into.leaves.push(position);
        }
        free
    }

    /// Takes the one lock over the p2m's structure and its length.
    pub(crate) fn lock_structure(&mut self, into: &mut Claimed) -> bool {
        let free = !self.structure;
        if free {
            self.structure = true;
            into.structure = true;
        }
        free
    }

    /// Releases all claims of a program; returns its pfns.
    pub(crate) fn release(&mut self, width: Width, claimed: Claimed) -> Vec<u64> {
        for pfn in &claimed.pfns {
            self.pfns.remove(pfn);
            let position = width.leaf_of(Pfn(*pfn)).0;
            if let Some(users) = self.users.get_mut(&position) {
                *users -= 1;
                if *users == 0 {
                    self.users.remove(&position);
                }
            }
        }
        for position in &claimed.leaves {
            self.locked.remove(position);
        }
        self.structure &= !claimed.structure;
        claimed.pfns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_leaf_and_a_used_leaf_exclude_each_other() {
        let mut claims = Claims::default();
        let (mut one, mut two) = (Claimed::default(), Claimed::default());
        assert!(claims.take_pfn(Width::W64, 5, &mut one));
        assert!(!claims.take_pfn(Width::W64, 5, &mut two));
        assert!(!claims.lock_leaf(0, &mut two));
        assert!(claims.lock_leaf(1, &mut two));
        assert!(claims.take_pfn(Width::W64, 513, &mut two), "one's own lock");
        assert!(!claims.take_pfn(Width::W64, 514, &mut one));
        assert!(claims.lock_structure(&mut one) && !claims.lock_structure(&mut two));
        assert_eq!(claims.release(Width::W64, one), [5]);
        assert!(claims.lock_leaf(0, &mut two) && claims.lock_structure(&mut two));
    }
}
