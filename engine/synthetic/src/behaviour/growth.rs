// SPDX-License-Identifier: MIT OR Apache-2.0
//! Growth and shrink: new leaves and tables, the pfn count raised outside the bracket; the tail
//! given away.
//! Not here: the frames that come into new leaves (`balloon`).
//! Units: pfns, positions of leaves.
//! Threads: under the world's lock.
//! Source: Linux memory hotplug, `xen_alloc_p2m_entry`, `alloc_p2m_pmd`; mini-os `arch_expand_p2m`.

use std::collections::BTreeSet;

use p2mtrack::frame::Entry;

use crate::behaviour::balloon::{page_out, play};
use crate::behaviour::plan::Plan;
use crate::guest::{Empty, Layout, NONE};
use crate::program::{Step, Val};

/// New leaves where there are none, then the count; or the count first.
pub(super) fn grow(plan: &mut Plan<'_>) -> Option<()> {
    plan.lock_structure()?;
    let entries = plan.guest.width.entries() as u64;
    let old = plan.guest.roots.pfn_count;
    let capacity = plan.guest.leaves.len() as u64 * entries;
    let by = plan.dice.between(1, 3 * entries);
    let aligned = plan.chance(2, 3);
    let new = if aligned { (old + by).next_multiple_of(entries) } else { old + by }.min(capacity);
    if new <= old {
        return None;
    }
    let count_first = plan.chance(1, 4);
    if count_first {
        plan.push(Step::Count(new));
    }
    let mut hung = BTreeSet::new();
    for position in old / entries..=(new - 1) / entries {
        if !plan.guest.is_private(position) {
            new_leaf(plan, position, &mut hung)?;
        }
    }
    if !count_first {
        let wait = plan.maybe_wait();
        plan.extend(wait);
        plan.push(Step::Count(new));
    }
    plan.program.adds = old..new;
    Some(())
}

/// A private leaf, all invalid, and the frame above it if that is a shared one.
fn new_leaf(plan: &mut Plan<'_>, position: u64, hung: &mut BTreeSet<u64>) -> Option<()> {
    plan.lock_leaf(position)?;
    let key = plan.guest.key_of_leaf(position);
    if plan.guest.hangs_in_missing(position) && hung.insert(key) {
        let (_, frame) = plan.unmapped_data()?;
        let filled = match &plan.guest.layout {
            Layout::Linear(list) => Step::Copy { from: list.missing_table, to: Val::Is(frame) },
            Layout::Tree(tree) if tree.empty == Empty::Missing => {
                Step::Copy { from: tree.missing_mid, to: Val::Is(frame) }
            }
            Layout::Tree(tree) if tree.empty == Empty::Zero => Step::Fill { mfn: frame, word: 0 },
            Layout::Tree(_) => Step::Fill { mfn: frame, word: Entry::INVALID.0 },
        };
        plan.push(filled);
        plan.bracket([Step::Hang { level: 1, key, mfn: Val::Is(frame) }]);
    }
    let (_, leaf) = plan.unmapped_data()?;
    plan.push(Step::Fill { mfn: leaf, word: Entry::INVALID.0 });
    plan.bracket([Step::Hang { level: 0, key: position, mfn: Val::Is(leaf) }]);
    Some(())
}

/// The tail is ballooned out, then the count falls; a leaf that is left empty may go too.
pub(super) fn shrink(plan: &mut Plan<'_>) -> Option<()> {
    plan.lock_structure()?;
    let entries = plan.guest.width.entries() as u64;
    let old = plan.guest.roots.pfn_count;
    let least = plan.guest.pfns_at_start * 3 / 4;
    let from = if plan.chance(2, 3) { old.min(end_of_frames(plan)) } else { old };
    let wanted = from.saturating_sub(plan.dice.magnitude(entries + 128)).max(least);
    let emptied: Vec<u64> = (wanted.div_ceil(entries)..old.div_ceil(entries))
        .filter(|&position| plan.guest.is_private(position) && plan.lock_leaf(position).is_some())
        .collect();
    let mut new = old;
    let mut sequences = Vec::new();
    while new > wanted {
        let Some(steps) = empty_pfn(plan, new - 1) else { break };
        sequences.push(steps);
        new -= 1;
    }
    if new >= old {
        return None;
    }
    // Often only after the tail was copied for the first time.
    if plan.chance(3, 4) {
        plan.push(Step::AwaitRounds(1));
    }
    play(plan, sequences);
    let wait = plan.maybe_wait();
    plan.extend(wait);
    plan.push(Step::Count(new));
    if plan.chance(1, 2) {
        drop_leaves(plan, emptied.into_iter().filter(|&position| position * entries >= new));
    }
    Some(())
}

/// One past the last pfn of the last private leaf: after it come shared ones without any frame.
fn end_of_frames(plan: &Plan<'_>) -> u64 {
    let guest = &plan.guest;
    let positions = (0..guest.leaves.len() as u64).rev();
    let last = positions.into_iter().find(|&position| guest.is_private(position));
    last.map_or(0, |last| (last + 1) * guest.width.entries() as u64)
}

/// Steps after which a pfn has no frame; `None` if it can't be emptied.
fn empty_pfn(plan: &mut Plan<'_>, pfn: u64) -> Option<Vec<Step>> {
    let Plan { guest, xen, .. } = &*plan;
    if !guest.is_private(guest.position(pfn)) {
        return Some(vec![]);
    }
    let mine = plan.program.claimed.has_leaf(guest.position(pfn));
    if guest.entry(&xen.machine, pfn) == Entry::INVALID {
        plan.claim(pfn)?;
        return Some(vec![]);
    }
    let mfn = guest.frame(&xen.machine, pfn)?;
    let plain = xen.machine.is_guest(mfn)
        && xen.machine.level(mfn) == 0
        && !xen.machine.has_real_words(mfn);
    if !plain || !mine && !guest.is_plain(&xen.machine, pfn) {
        return None;
    }
    plan.claim(pfn)?;
    page_out(plan, pfn, mfn)
}

/// Leaves past the count go back to the shared missing leaf, their frames become data.
fn drop_leaves(plan: &mut Plan<'_>, positions: impl Iterator<Item = u64>) {
    for position in positions {
        let guest = &plan.guest;
        let old = guest.leaves[position as usize];
        let shared = match &guest.layout {
            Layout::Tree(tree) if tree.empty != Empty::Missing => NONE,
            _ => guest.missing_leaf,
        };
        plan.bracket([Step::Hang { level: 0, key: position, mfn: Val::Is(shared) }]);
        plan.push(Step::Write(Val::Is(old)));
    }
}
