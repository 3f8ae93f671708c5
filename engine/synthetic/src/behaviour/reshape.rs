// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m's structure moves: leaves, mids and page tables are re-pointed to copies, roots are swapped.
//! Not here: structure that grows (`growth`), frames that change beneath their slot (`leaf`).
//! Units: positions of leaves, levels and keys of structure frames.
//! Threads: under the world's lock.
//! Source: the p2m proposal's parts 3 and 4; Linux brackets by the generation, a tree has no counter.

use crate::behaviour::Plan;
use crate::guest::{Layout, NONE};
use crate::program::{Step, Val};
use crate::world::World;

impl Plan<'_> {
    /// A private leaf below the count, locked.
    pub(super) fn own_leaf(&mut self) -> Option<(u64, u64)> {
        (0..6).find_map(|_| {
            let World { guest, dice, .. } = &mut *self.world;
            let listed = guest.width.leaves(guest.roots.pfn_count).min(guest.leaves.len() as u64);
            let position = dice.below(listed);
            if !guest.is_private(position) || guest.hangs_in_missing(position) {
                return None;
            }
            let leaf = guest.leaves[position as usize];
            self.lock_leaf(position).map(|()| (position, leaf))
        })
    }

    /// The old frame of something that was copied is data from now on, or lies around as it was.
    fn retire(&mut self, mfn: u64) {
        if self.chance(3, 4) {
            self.push(Step::Write(Val::Is(mfn)));
        }
    }

    /// A leaf is copied and its slot re-pointed.
    pub(super) fn reshape_leaf(&mut self) -> Option<()> {
        self.lock_structure()?;
        let (position, old) = self.own_leaf()?;
        let (_, new) = self.unmapped_data()?;
        self.push(Step::Copy { from: old, to: Val::Is(new) });
        let wait = self.maybe_wait();
        self.extend(wait);
        self.bracket([Step::Hang { level: 0, key: position, mfn: Val::Is(new) }]);
        self.retire(old);
        Some(())
    }

    /// A mid, or a page table of the list, is copied and its slot re-pointed.
    pub(super) fn reshape_table(&mut self) -> Option<()> {
        self.lock_structure()?;
        let World { guest, dice, .. } = &mut *self.world;
        let (level, key, old) = match &guest.layout {
            Layout::Linear(list) => {
                let level = 1 + dice.index(list.tables.len() - 1);
                let keys: Vec<(u64, u64)> =
                    list.tables[level - 1].iter().map(|(&k, &m)| (k, m)).collect();
                let (key, mfn) = dice.pick(&keys);
                (level as u8, key, mfn)
            }
            Layout::Tree(tree) => {
                let key = dice.index(tree.mids.len());
                (1, key as u64, tree.mids[key])
            }
        };
        let shared = match &guest.layout {
            // The shared missing table is split, as Linux does it: equal content, a frame of its own.
            Layout::Linear(list) => old == list.missing_table,
            Layout::Tree(tree) if old == NONE || old == tree.missing_mid => return None,
            Layout::Tree(_) => false,
        };
        let (_, new) = self.unmapped_data()?;
        self.push(Step::Copy { from: old, to: Val::Is(new) });
        self.bracket([Step::Hang { level, key, mfn: Val::Is(new) }]);
        if !shared {
            self.retire(old);
        }
        Some(())
    }

    /// A new top frame, or a new root of the page tables.
    pub(super) fn root_swap(&mut self) -> Option<()> {
        self.lock_structure()?;
        let old = self.world.guest.root();
        let (_, new) = self.unmapped_data()?;
        self.push(Step::Copy { from: old, to: Val::Is(new) });
        let level = match &self.world.guest.layout {
            Layout::Linear(list) => Some(list.tables.len() as u8),
            Layout::Tree(_) => None,
        };
        match level {
            Some(level) => {
                self.push(Step::Pin { mfn: new, level });
                self.bracket([Step::Root(new)]);
                self.push(Step::Unpin(old));
            }
            None => self.push(Step::Root(new)),
        }
        self.retire(old);
        Some(())
    }
}
