// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m's structure moves: leaves, mids and page tables are re-pointed to copies, roots are
//! swapped.
//! Not here: structure that grows (`growth`), frames that change beneath their slot (`leaf`).
//! Units: positions of leaves, levels and keys of structure frames.
//! Threads: under the world's lock.
//! Source: the p2m proposal's parts 3 and 4; Linux brackets by the generation, a tree has no
//! counter.

use crate::behaviour::plan::Plan;
use crate::guest::{Layout, NONE};
use crate::page_table::pte;
use crate::program::{Step, Val};

/// A private leaf below the count, locked.
pub(super) fn own_leaf(plan: &mut Plan<'_>) -> Option<(u64, u64)> {
    (0..6).find_map(|_| {
        let Plan { guest, dice, .. } = &mut *plan;
        let listed = guest.width.leaves(guest.roots.pfn_count).min(guest.leaves.len() as u64);
        let position = dice.below(listed);
        if !guest.is_private(position) || guest.hangs_in_missing(position) {
            return None;
        }
        let leaf = guest.leaves[position as usize];
        plan.lock_leaf(position).map(|()| (position, leaf))
    })
}

/// The old frame of a copied leaf or table becomes data, or stays as it was.
fn retire(plan: &mut Plan<'_>, mfn: u64) {
    if plan.chance(3, 4) {
        plan.push(Step::Write(Val::Is(mfn)));
    }
}

/// A leaf is copied and its slot re-pointed.
pub(super) fn reshape_leaf(plan: &mut Plan<'_>) -> Option<()> {
    plan.lock_structure()?;
    let (position, old) = own_leaf(plan)?;
    let (_, new) = plan.unmapped_data()?;
    plan.push(Step::Copy { from: old, to: Val::Is(new) });
    let wait = plan.maybe_wait();
    plan.extend(wait);
    plan.bracket([Step::Hang { level: 0, key: position, mfn: Val::Is(new) }]);
    retire(plan, old);
    Some(())
}

/// A mid, or a page table of the list, is copied and its slot re-pointed.
pub(super) fn reshape_table(plan: &mut Plan<'_>) -> Option<()> {
    plan.lock_structure()?;
    let Plan { guest, dice, .. } = &mut *plan;
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
    let (_, new) = plan.unmapped_data()?;
    plan.push(Step::Copy { from: old, to: Val::Is(new) });
    plan.bracket([Step::Hang { level, key, mfn: Val::Is(new) }]);
    if !shared {
        retire(plan, old);
    }
    Some(())
}

/// A new top frame, or a new root of the page tables; perhaps with a branch that is new from the
/// root down to a leaf, all of it written before the kernel switches over.
pub(super) fn root_swap(plan: &mut Plan<'_>) -> Option<()> {
    plan.lock_structure()?;
    let branch = if plan.chance(2, 3) { new_branch(plan)? } else { Vec::new() };
    let old = plan.guest.root();
    let (_, new) = plan.unmapped_data()?;
    plan.push(Step::Copy { from: old, to: Val::Is(new) });
    if let Some(&(level, key, mfn)) = branch.last() {
        point(plan, new, level, key, mfn);
    }
    let adopt = branch.iter().map(|&(level, key, mfn)| Step::Adopt { level, key, mfn });
    let replaced: Vec<u64> = branch.iter().filter_map(|&(l, k, _)| in_place(plan, l, k)).collect();
    let levels = match &plan.guest.layout {
        Layout::Linear(list) => Some(list.tables.len() as u8),
        Layout::Tree(_) => None,
    };
    let switch: Vec<Step> = [Step::Root(new)].into_iter().chain(adopt).collect();
    match levels {
        Some(level) => {
            plan.push(Step::Pin { mfn: new, level });
            plan.bracket(switch);
            plan.push(Step::Unpin(old));
        }
        None => plan.section(switch),
    }
    for mfn in [old].into_iter().chain(replaced) {
        retire(plan, mfn);
    }
    Some(())
}

/// Copies a leaf and each frame above it but the root, each copy naming the one below. Returns
/// level, key and frame of each, from the leaf up.
fn new_branch(plan: &mut Plan<'_>) -> Option<Vec<(u8, u64, u64)>> {
    let (position, leaf) = own_leaf(plan)?;
    let guest = &plan.guest;
    let (mut page, top, bits) = match &guest.layout {
        Layout::Linear(list) => (guest.base_page() + position, list.tables.len() as u8, 9),
        Layout::Tree(_) => (position, 2, guest.width.entry_bits()),
    };
    let mut branch: Vec<(u8, u64, u64)> = Vec::new();
    for level in 0..top {
        let key = if level == 0 { position } else { page };
        let old = if level == 0 { leaf } else { plan.guest.structure_frame(level, key)? };
        let (_, new) = plan.unmapped_data()?;
        plan.push(Step::Copy { from: old, to: Val::Is(new) });
        if let Some(&(below, key, mfn)) = branch.last() {
            point(plan, new, below, key, mfn);
        }
        branch.push((level, key, new));
        page >>= bits;
    }
    Some(branch)
}

/// Writes a slot of a frame that is not in place yet: the slot of what is at this level and key.
fn point(plan: &mut Plan<'_>, parent: u64, level: u8, key: u64, mfn: u64) {
    let guest = &plan.guest;
    let step = match &guest.layout {
        Layout::Linear(_) => {
            let page = if level == 0 { guest.base_page() + key } else { key };
            Step::Word { mfn: parent, index: (page & 511) as usize, word: pte(mfn) }
        }
        Layout::Tree(_) => {
            let slot = key as usize & (guest.width.entries() - 1);
            Step::Slot { mfn: parent, slot, word: mfn }
        }
    };
    plan.push(step);
}

/// The leaf (level 0) or structure frame that is in place.
fn in_place(plan: &Plan<'_>, level: u8, key: u64) -> Option<u64> {
    let guest = &plan.guest;
    if level == 0 {
        guest.leaves.get(key as usize).copied()
    } else {
        guest.structure_frame(level, key)
    }
}
