// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m that shared_info names, walked without any help from the guest's kernel or a tracker.
//! Not here: what follows from it (`snapshot`, `premise`).
//! Units: positions of leaves; pfn and mfn as plain numbers.
//! Threads: under the world's lock, the guest stopped.
//! Source: `xen-save-path.md` 2.2 and 2.3.

use std::fmt;

use p2mtrack::frame::{Claim, Entry, Mfn, Pfn, Width};
use p2mtrack::port::Roots;
use p2mtrack::table::{PTE_PRESENT, pte_mfn};

use crate::guest::mfn_of_cr3;
use crate::machine::Machine;

/// Why no p2m was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoP2m {
    /// The root is not a frame of the guest.
    Root(u64),
    /// The list runs past the end of the address space.
    Range,
}

impl fmt::Display for NoP2m {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(root) => write!(f, "a root, {root:#x}, that is not the guest's"),
            Self::Range => write!(f, "a list past the end of the address space"),
        }
    }
}

/// The leaves' frames in order, each a frame of the guest, or nothing; none past the last leaf.
pub(crate) fn walk(
    machine: &Machine,
    width: Width,
    roots: &Roots,
) -> Result<Vec<Option<u64>>, NoP2m> {
    let leaves = width.leaves(roots.pfn_count);
    if roots.p2m_cr3 == 0 {
        return walk_tree(machine, width, roots.frame_list_list, leaves);
    }
    let (levels, pages) = match width {
        Width::W32 => (3, 1 << 20),
        Width::W64 => (4, 1 << 36),
    };
    let base = (roots.p2m_vaddr & 0xffff_ffff_ffff) >> 12;
    let root = mfn_of_cr3(width, roots.p2m_cr3);
    if !machine.is_guest(root) {
        return Err(NoP2m::Root(root));
    }
    let end = base.checked_add(leaves).filter(|&end| end <= pages).ok_or(NoP2m::Range)?;
    let mut found = Vec::new();
    let mut page = base;
    while page < end {
        match descend(machine, root, levels, page) {
            Ok(leaf) => {
                found.resize((page - base) as usize, None);
                found.push(Some(leaf));
                page += 1;
            }
            // Skip all that the missing table would cover.
            Err(level) => page = ((page >> (9 * (level - 1))) + 1) << (9 * (level - 1)),
        }
    }
    Ok(found)
}

/// The leaf behind a page of the address space, or the level at which no frame of the guest is
/// named.
fn descend(machine: &Machine, root: u64, levels: u32, page: u64) -> Result<u64, u32> {
    (1..=levels).rev().try_fold(root, |table, level| {
        let pte = machine.word(table, (page >> (9 * (level - 1)) & 511) as usize);
        let mfn = pte_mfn(pte).0;
        if pte & PTE_PRESENT != 0 && machine.is_guest(mfn) { Ok(mfn) } else { Err(level) }
    })
}

fn walk_tree(
    machine: &Machine,
    width: Width,
    top: u64,
    leaves: u64,
) -> Result<Vec<Option<u64>>, NoP2m> {
    if !machine.is_guest(top) {
        return Err(NoP2m::Root(top));
    }
    let slots = width.entries() as u64;
    if leaves > slots * slots {
        return Err(NoP2m::Range);
    }
    let named = |frame: u64, slot: u64| {
        let mfn = machine.entry(frame, width, slot as usize).0;
        machine.is_guest(mfn).then_some(mfn)
    };
    let mut found: Vec<Option<u64>> = Vec::new();
    for key in 0..leaves.div_ceil(slots) {
        let Some(mid) = named(top, key) else { continue };
        found.resize((key * slots) as usize, None);
        let here = slots.min(leaves - key * slots);
        found.extend((0..here).map(|slot| named(mid, slot)));
    }
    let used = found.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    found.truncate(used);
    Ok(found)
}

/// The frame that an entry names if it is the guest's, its tag stripped.
pub(crate) fn owned_frame(machine: &Machine, width: Width, entry: Entry) -> Option<u64> {
    match entry.claim(width) {
        Claim::Frame(Mfn(mfn)) | Claim::Foreign(Mfn(mfn)) if machine.is_guest(mfn) => Some(mfn),
        _ => None,
    }
}

/// The pfn whose page a PTE names, by m2p and p2m both.
pub(crate) fn resolve(
    machine: &Machine,
    width: Width,
    leaves: &[Option<u64>],
    mfn: u64,
) -> Option<u64> {
    if !machine.is_guest(mfn) {
        return None;
    }
    let pfn = machine.m2p.pfn(mfn)?;
    let leaf = (*leaves.get(width.leaf_of(Pfn(pfn)).0 as usize)?)?;
    let entry = machine.entry(leaf, width, width.slot_of(Pfn(pfn)));
    (owned_frame(machine, width, entry) == Some(mfn)).then_some(pfn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Owner;
    use crate::words::FrameWords;

    /// A frame on which both tables agree is the pfn's only if the guest owns it.
    #[test]
    fn a_round_trip_says_nothing_about_the_owner() {
        for width in [Width::W32, Width::W64] {
            for entry in [Entry::frame(Mfn(5)), Entry::foreign(width, Mfn(5))] {
                let mut machine = Machine::new(8);
                machine.settle(1, Owner::Guest, Some(0), true);
                machine.settle(5, Owner::Other, Some(7), true);
                let leaf = FrameWords::from_fn(|_| u64::MAX, false);
                leaf.store_entry(width, 7, entry);
                machine.install(1, leaf);
                assert_eq!(resolve(&machine, width, &[Some(1)], 5), None, "{width:?} {entry:x?}");
                machine.hand_over(5, Owner::Guest, Some(7));
                assert_eq!(resolve(&machine, width, &[Some(1)], 5), Some(7));
            }
        }
    }
}
