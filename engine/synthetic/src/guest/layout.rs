// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the p2m's leaves hang: page tables of a linear list, or top and mid frames of a tree.
//! Not here: the leaves' entries.
//! Units: level 0 is a leaf; a linear list has levels 1 to 3 or 4 above it, a tree 1 (mid) and 2 (top).
//!   A key counts tables of its level through the address space (linear) or mids (tree).
//! Source: `xen-save-path.md` 2.2 and 2.3; page-table geometry of PAE and of long mode.

use std::collections::BTreeMap;

use p2mtrack::frame::{Entry, Width};

use crate::guest::{Guest, NONE};
use crate::xen::Xen;

/// What an unused slot of a tree holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Empty {
    /// All ones (mini-os).
    Ones,
    /// Zero.
    Zero,
    /// The shared missing frame (Linux).
    Missing,
}

/// A linear list.
#[derive(Debug)]
pub(crate) struct Linear {
    /// Frames of the page tables by level - 1 and key.
    pub(crate) tables: Vec<BTreeMap<u64, u64>>,
    /// The shared level 1 table whose every slot is the missing leaf.
    pub(crate) missing_table: u64,
}

/// A three-level tree.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) top: u64,
    /// The frame of each mid; [`NONE`] where the top has none.
    pub(crate) mids: Vec<u64>,
    pub(crate) missing_mid: u64,
    pub(crate) empty: Empty,
}

/// Either.
#[derive(Debug)]
pub(crate) enum Layout {
    Linear(Linear),
    Tree(Tree),
}

/// Levels of page tables of a width.
pub(crate) const fn levels(width: Width) -> u8 {
    match width {
        Width::W32 => 3,
        Width::W64 => 4,
    }
}

/// `p2m_cr3` for a root frame: a 32-bit guest folds the frame number.
pub(crate) const fn cr3_of(width: Width, mfn: u64) -> u64 {
    match width {
        Width::W64 => mfn << 12,
        Width::W32 => (mfn << 12 | mfn >> 20) & 0xffff_ffff,
    }
}

/// The root frame in a `p2m_cr3`.
pub(crate) const fn mfn_of_cr3(width: Width, cr3: u64) -> u64 {
    match width {
        Width::W64 => cr3 >> 12,
        Width::W32 => (cr3 >> 12 | cr3 << 20) & 0xffff_ffff,
    }
}

impl Guest {
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
        let holder = self.structure_frame(1, self.key_of_leaf(position));
        match &self.layout {
            Layout::Linear(list) => holder.is_none() || holder == Some(list.missing_table),
            Layout::Tree(tree) => holder.is_none() || holder == Some(tree.missing_mid),
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
                xen.write_pte(parent, (page & 511) as u16, Some(mfn));
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

    /// Takes a leaf or structure frame into the kernel's books, its slot already written.
    pub(crate) fn note_slot(&mut self, level: u8, key: u64, mfn: u64) {
        match &mut self.layout {
            _ if level == 0 => self.leaves[key as usize] = mfn,
            Layout::Linear(list) => {
                list.tables[usize::from(level) - 1].insert(key, mfn);
            }
            Layout::Tree(tree) => tree.mids[key as usize] = mfn,
        }
    }

    /// Takes a new root into shared_info.
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

impl Tree {
    /// The word of an unused slot that names nothing at all.
    pub(crate) const fn empty_word(&self) -> Entry {
        match self.empty {
            Empty::Zero => Entry(0),
            Empty::Ones | Empty::Missing => Entry::INVALID,
        }
    }
}
