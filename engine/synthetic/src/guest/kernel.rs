// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's kernel: its own record of its p2m, shared_info, the claims of its programs.
//! Not here: what its programs do (`behaviour`), or how a step is carried out (`exec`).
//! Units: pfn and mfn as plain numbers; positions of leaves count from 0; keys as in `layout`.
//! Threads: one owner.
//! Source: Linux `arch/x86/xen/p2m.c` (linear list, tree, shared missing and identity pages).

use p2mtrack::frame::{Claim, Entry, Mfn, Pfn, Width};
use p2mtrack::port::Roots;

use crate::dice::Dice;
use crate::grant::Grants;
use crate::guest::claims::{Claimed, Claims};
use crate::guest::layout::{Layout, NONE, P2mKind, cr3_of};
use crate::machine::Machine;
use crate::page_table::write_pte;
use crate::xen::Xen;

/// The guest's kernel.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) width: Width,
    /// shared_info.
    pub(crate) roots: Roots,
    /// The frame of each leaf, up to the capacity of the p2m; [`NONE`] where the tree has none.
    pub(crate) leaves: Vec<u64>,
    pub(crate) layout: Layout,
    /// The shared leaf without any frame.
    pub(crate) missing_leaf: u64,
    /// The shared leaf of identity entries.
    pub(crate) identity_leaf: u64,
    pub(crate) claims: Claims,
    pub(crate) grants: Grants,
    /// Pfns that may be without a frame and free for use; checked when taken.
    pub(crate) holes: Vec<u64>,
    /// Page tables of the guest's processes: frame and level.
    pub(crate) tables: Vec<(u64, u8)>,
    /// Pfns that never move: the store and console rings, registered vcpu_info.
    pub(crate) reserved_pfns: Vec<u64>,
    /// The kernel moves the generation when it changes the list's mapping, as it should.
    pub(crate) bumps: bool,
    /// The kernel pins all its tables before a suspend, as Linux does.
    pub(crate) pins_all: bool,
    /// Pfns that the guest had at the start; most work happens there.
    pub(crate) pfns_at_start: u64,
    /// Of these, pfns of a gap without frames.
    pub(crate) gap_pfns: u64,
    /// The first of the pfns to which half of the work goes.
    pub(crate) hot_pfn: u64,
}

impl Guest {
    /// How the p2m is kept.
    pub(crate) const fn kind(&self) -> P2mKind {
        match self.layout {
            Layout::Linear(_) => P2mKind::Linear,
            Layout::Tree(_) => P2mKind::Tree,
        }
    }

    /// Pfns outside of the gap that the guest had at the start: about as many as it had frames.
    pub(crate) const fn frames_at_start(&self) -> u64 {
        self.pfns_at_start - self.gap_pfns
    }

    /// The position of the leaf of a pfn.
    pub(crate) const fn position(&self, pfn: u64) -> u64 {
        self.width.leaf_of(Pfn(pfn)).0
    }

    /// Where the entry of a pfn is: frame of the leaf and slot.
    pub(crate) fn place(&self, pfn: u64) -> Option<(u64, usize)> {
        let leaf = *self.leaves.get(self.position(pfn) as usize)?;
        (leaf != NONE).then(|| (leaf, self.width.slot_of(Pfn(pfn))))
    }

    /// The entry of a pfn.
    pub(crate) fn entry(&self, machine: &Machine, pfn: u64) -> Entry {
        match self.place(pfn) {
            Some((leaf, slot)) => machine.entry(leaf, self.width, slot),
            None => Entry::INVALID,
        }
    }

    /// The frame that a pfn has, by an entry without tags.
    pub(crate) fn frame(&self, machine: &Machine, pfn: u64) -> Option<u64> {
        match self.entry(machine, pfn).claim(self.width) {
            Claim::Frame(Mfn(mfn)) => Some(mfn),
            _ => None,
        }
    }

    /// Whether a leaf is private, so that entries can be written into it.
    pub(crate) fn is_private(&self, position: u64) -> bool {
        self.leaves.get(position as usize).is_some_and(|&leaf| {
            leaf != NONE && leaf != self.missing_leaf && leaf != self.identity_leaf
        })
    }

    /// A pfn with an ordinary data page that no program has claimed, chosen near the hot end or
    /// anywhere.
    pub(crate) fn pick_data(&self, machine: &Machine, dice: &mut Dice) -> Option<u64> {
        let count =
            self.roots.pfn_count.min(self.leaves.len() as u64 * self.width.entries() as u64);
        let hot = (count / 16).clamp(1, 4096);
        (0..48).find_map(|_| {
            let pfn =
                if dice.chance(1, 2) { self.hot_pfn + dice.below(hot) } else { dice.below(count) };
            (pfn < count && self.is_plain(machine, pfn)).then_some(pfn)
        })
    }

    /// Whether a pfn has an ordinary data page that no program has claimed.
    pub(crate) fn is_plain(&self, machine: &Machine, pfn: u64) -> bool {
        self.frame(machine, pfn).is_some_and(|mfn| {
            machine.is_guest(mfn)
                && machine.level(mfn) == 0
                && !machine.has_real_words(mfn)
                && !machine.is_given_back(mfn)
        }) && !self.claims.has_pfn(pfn)
            && !self.claims.is_locked(self.position(pfn))
    }

    /// Takes a pfn without a frame out of the pool.
    pub(crate) fn take_hole(&mut self, machine: &Machine, dice: &mut Dice) -> Option<u64> {
        for _ in 0..16 {
            if self.holes.is_empty() {
                return None;
            }
            let at = dice.index(self.holes.len());
            let pfn = self.holes.swap_remove(at);
            if self.is_hole(machine, pfn) {
                return Some(pfn);
            }
        }
        None
    }

    /// Whether a pfn is free for a frame.
    pub(crate) fn is_hole(&self, machine: &Machine, pfn: u64) -> bool {
        let position = self.position(pfn);
        pfn < self.roots.pfn_count
            && self.is_private(position)
            && self.entry(machine, pfn) == Entry::INVALID
            && !self.claims.has_pfn(pfn)
            && !self.claims.is_locked(position)
    }

    /// Releases a program's claims; pfns that are without a frame now become holes.
    pub(crate) fn release(&mut self, machine: &Machine, claimed: Claimed) {
        let pfns = self.claims.release(self.width, claimed);
        for pfn in pfns {
            if self.is_hole(machine, pfn) {
                self.holes.push(pfn);
            }
        }
    }

    /// The page of the address space at which the list begins.
    pub(crate) const fn base_page(&self) -> u64 {
        (self.roots.p2m_vaddr & 0xffff_ffff_ffff) >> 12
    }

    /// The key of the level 1 structure frame that holds the slot of a leaf.
    pub(crate) fn key_of_leaf(&self, position: u64) -> u64 {
        match &self.layout {
            Layout::Linear(_) => (self.base_page() + position) >> 9,
            Layout::Tree(_) => position >> self.width.entry_bits(),
        }
    }

    /// The structure frame at a level (1 and up) and key.
    pub(crate) fn structure_frame(&self, level: u8, key: u64) -> Option<u64> {
        let frame = match &self.layout {
            Layout::Linear(list) => *list.tables.get(usize::from(level) - 1)?.get(&key)?,
            Layout::Tree(tree) if level == 1 => *tree.mids.get(key as usize)?,
            Layout::Tree(tree) => tree.top,
        };
        (frame != NONE).then_some(frame)
    }

    /// Whether the frame above a leaf is a shared missing one, to be replaced before the leaf is.
    pub(crate) fn hangs_in_missing(&self, position: u64) -> bool {
        let parent = self.structure_frame(1, self.key_of_leaf(position));
        match &self.layout {
            Layout::Linear(list) => parent.is_none() || parent == Some(list.missing_table),
            Layout::Tree(tree) => parent.is_none() || parent == Some(tree.missing_mid),
        }
    }

    /// Re-points the slot that names a leaf (level 0, key = position) or a structure frame.
    pub(crate) fn set_slot(&mut self, xen: &mut Xen, level: u8, key: u64, mfn: u64) {
        let width = self.width;
        let base = self.base_page();
        match &self.layout {
            Layout::Linear(list) => {
                let page = if level == 0 { base + key } else { key };
                let parent = list.tables[usize::from(level)][&(page >> 9)];
                write_pte(xen, parent, (page & 511) as u16, Some(mfn));
            }
            Layout::Tree(tree) => {
                let word = if mfn == NONE { tree.empty_word() } else { Entry(mfn) };
                if level == 0 {
                    let mid = tree.mids[(key >> width.entry_bits()) as usize];
                    let slot = key as usize & (width.entries() - 1);
                    xen.guest_stores_entry(mid, slot, word);
                } else {
                    xen.guest_stores_entry(tree.top, key as usize, word);
                }
            }
        }
        self.note_slot(level, key, mfn);
    }

    /// Records a leaf or structure frame whose slot is already written.
    pub(crate) fn note_slot(&mut self, level: u8, key: u64, mfn: u64) {
        match &mut self.layout {
            _ if level == 0 => self.leaves[key as usize] = mfn,
            Layout::Linear(list) => {
                list.tables[usize::from(level) - 1].insert(key, mfn);
            }
            Layout::Tree(tree) => tree.mids[key as usize] = mfn,
        }
    }

    /// Sets a new root in shared_info.
    pub(crate) fn set_root(&mut self, mfn: u64) {
        match &mut self.layout {
            Layout::Linear(list) => {
                if let Some(roots) = list.tables.last_mut() {
                    roots.insert(0, mfn);
                }
                self.roots.p2m_cr3 = cr3_of(self.width, mfn);
            }
            Layout::Tree(tree) => {
                tree.top = mfn;
                self.roots.frame_list_list = mfn;
            }
        }
    }

    /// The root's frame.
    pub(crate) fn root(&self) -> u64 {
        match &self.layout {
            Layout::Linear(list) => {
                list.tables.last().and_then(|roots| roots.get(&0)).copied().unwrap_or(NONE)
            }
            Layout::Tree(tree) => tree.top,
        }
    }

    /// What Linux does at every resume: lists and roots written again, the generation back to 0.
    pub(crate) fn rewrite_lists(&mut self, xen: &mut Xen) {
        self.roots.generation = 0;
        let root = self.root();
        self.set_root(root);
        let Layout::Tree(tree) = &self.layout else { return };
        let (top, mids) = (tree.top, tree.mids.clone());
        for (key, mid) in mids.into_iter().enumerate() {
            let word = xen.machine.entry(top, self.width, key);
            xen.guest_stores_entry(top, key, word);
            let slots = self.width.entries();
            let used = (self.leaves.len() - key * slots).min(slots);
            for slot in 0..if mid == NONE { 0 } else { used } {
                let word = xen.machine.entry(mid, self.width, slot);
                xen.guest_stores_entry(mid, slot, word);
            }
        }
    }
}
