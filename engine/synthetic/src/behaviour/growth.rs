// SPDX-License-Identifier: MIT OR Apache-2.0
//! Growth and shrink: new leaves and tables, the pfn count raised outside the bracket; the tail given away.
//! Not here: the frames that come into new leaves (`balloon`).
//! Units: pfns, positions of leaves.
//! Threads: under the world's lock.
//! Source: Linux memory hotplug, `xen_alloc_p2m_entry`, `alloc_p2m_pmd`; mini-os `arch_expand_p2m`.

use std::collections::BTreeSet;

use p2mtrack::frame::Entry;

use crate::behaviour::Plan;
use crate::guest::{Empty, Layout, NONE};
use crate::program::{Step, Val};
use crate::world::World;

impl Plan<'_> {
    /// Changes of the list's mapping, inside the generation's bracket.
    pub(super) fn bracket(&mut self, steps: impl IntoIterator<Item = Step>) {
        let counted = matches!(self.world.guest.layout, Layout::Linear(_));
        let bump = counted.then_some(Step::Bump);
        let steps: Vec<Step> = bump.into_iter().chain(steps).chain(bump).collect();
        self.section(steps);
    }

    /// Takes the lock over the p2m's structure.
    pub(super) fn lock_structure(&mut self) -> Option<()> {
        self.world.guest.claims.lock_structure(&mut self.program.claimed).then_some(())
    }

    /// Locks a leaf that nobody uses.
    pub(super) fn lock_leaf(&mut self, position: u64) -> Option<()> {
        self.world.guest.claims.lock_leaf(position, &mut self.program.claimed).then_some(())
    }

    /// New leaves where there are none, then the count; or the count first.
    pub(super) fn grow(&mut self) -> Option<()> {
        self.lock_structure()?;
        let entries = self.world.guest.width.entries() as u64;
        let old = self.world.guest.roots.pfn_count;
        let capacity = self.world.guest.leaves.len() as u64 * entries;
        let by = self.dice().between(1, 3 * entries);
        let aligned = self.chance(2, 3);
        let new =
            if aligned { (old + by).next_multiple_of(entries) } else { old + by }.min(capacity);
        if new <= old {
            return None;
        }
        let count_first = self.chance(1, 4);
        if count_first {
            self.push(Step::Count(new));
        }
        let mut hung = BTreeSet::new();
        for position in old / entries..=(new - 1) / entries {
            if !self.world.guest.is_private(position) {
                self.new_leaf(position, &mut hung)?;
            }
        }
        if !count_first {
            let wait = self.maybe_wait();
            self.extend(wait);
            self.push(Step::Count(new));
        }
        self.program.adds = old..new;
        Some(())
    }

    /// A private leaf, all invalid, and the frame above it if that is a shared one.
    fn new_leaf(&mut self, position: u64, hung: &mut BTreeSet<u64>) -> Option<()> {
        self.lock_leaf(position)?;
        let key = self.world.guest.key_of_leaf(position);
        if self.world.guest.hangs_in_missing(position) && hung.insert(key) {
            let (_, frame) = self.unmapped_data()?;
            let filled = match &self.world.guest.layout {
                Layout::Linear(list) => Step::Copy { from: list.missing_table, to: Val::Is(frame) },
                Layout::Tree(tree) if tree.empty == Empty::Missing => {
                    Step::Copy { from: tree.missing_mid, to: Val::Is(frame) }
                }
                Layout::Tree(tree) if tree.empty == Empty::Zero => {
                    Step::Fill { mfn: frame, word: 0 }
                }
                Layout::Tree(_) => Step::Fill { mfn: frame, word: Entry::INVALID.0 },
            };
            self.push(filled);
            self.bracket([Step::Hang { level: 1, key, mfn: Val::Is(frame) }]);
        }
        let (_, leaf) = self.unmapped_data()?;
        self.push(Step::Fill { mfn: leaf, word: Entry::INVALID.0 });
        self.bracket([Step::Hang { level: 0, key: position, mfn: Val::Is(leaf) }]);
        Some(())
    }

    /// The tail is ballooned out, then the count falls; a leaf that is left empty may go too.
    pub(super) fn shrink(&mut self) -> Option<()> {
        self.lock_structure()?;
        let entries = self.world.guest.width.entries() as u64;
        let old = self.world.guest.roots.pfn_count;
        let least = self.world.guest.pfns_at_start * 3 / 4;
        let from = if self.chance(2, 3) { old.min(self.end_of_frames()) } else { old };
        let wanted = from.saturating_sub(self.dice().magnitude(entries + 128)).max(least);
        let emptied: Vec<u64> = (wanted.div_ceil(entries)..old.div_ceil(entries))
            .filter(|&position| {
                self.world.guest.is_private(position) && self.lock_leaf(position).is_some()
            })
            .collect();
        let mut new = old;
        let mut sequences = Vec::new();
        while new > wanted {
            let Some(steps) = self.empty_pfn(new - 1) else { break };
            sequences.push(steps);
            new -= 1;
        }
        if new >= old {
            return None;
        }
        // Often only after the tail was copied for the first time.
        if self.chance(3, 4) {
            self.push(Step::AwaitRounds(1));
        }
        self.play(sequences);
        let wait = self.maybe_wait();
        self.extend(wait);
        self.push(Step::Count(new));
        if self.chance(1, 2) {
            self.drop_leaves(emptied.into_iter().filter(|&position| position * entries >= new));
        }
        Some(())
    }

    /// One past the last pfn of the last private leaf: after it come shared ones without any frame.
    fn end_of_frames(&self) -> u64 {
        let guest = &self.world.guest;
        let positions = (0..guest.leaves.len() as u64).rev();
        let last = positions.into_iter().find(|&position| guest.is_private(position));
        last.map_or(0, |last| (last + 1) * guest.width.entries() as u64)
    }

    /// Steps after which a pfn has no frame; `None` if it can't be had.
    fn empty_pfn(&mut self, pfn: u64) -> Option<Vec<Step>> {
        let World { guest, xen, .. } = &*self.world;
        if !guest.is_private(guest.position(pfn)) {
            return Some(vec![]);
        }
        let mine = self.program.claimed.has_leaf(guest.position(pfn));
        if guest.entry(&xen.machine, pfn) == Entry::INVALID {
            self.claim(pfn)?;
            return Some(vec![]);
        }
        let mfn = guest.frame(&xen.machine, pfn)?;
        let plain = xen.machine.is_guest(mfn)
            && xen.machine.level(mfn) == 0
            && !xen.machine.has_real_words(mfn);
        if !plain || !mine && !guest.is_plain(&xen.machine, pfn) {
            return None;
        }
        self.claim(pfn)?;
        self.page_out(pfn, mfn)
    }

    /// Leaves past the count go back to the shared missing leaf, their frames become data.
    fn drop_leaves(&mut self, positions: impl Iterator<Item = u64>) {
        for position in positions {
            let guest = &self.world.guest;
            let old = guest.leaves[position as usize];
            let shared = match &guest.layout {
                Layout::Tree(tree) if tree.empty != Empty::Missing => NONE,
                _ => guest.missing_leaf,
            };
            self.bracket([Step::Hang { level: 0, key: position, mfn: Val::Is(shared) }]);
            self.push(Step::Write(Val::Is(old)));
        }
    }
}
