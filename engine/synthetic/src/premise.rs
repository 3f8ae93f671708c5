// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks that an honest guest keeps the premises of the completeness argument whenever it could be
//! suspended.
//! Not here: anything about the receiver.
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: the project's design, section 3: at suspend `m2p[p2m[pfn]] = pfn` for each pfn with a
//! frame.

use p2mtrack::frame::{Claim, Entry, FrameType, Mfn};

use crate::guest::NONE;
use crate::page_table::guest_ptes;
use crate::walk::{resolve, walk};
use crate::world::World;

/// Checks the world; the error says what is wrong.
pub(crate) fn check(world: &World) -> Result<(), String> {
    let (machine, guest) = (&world.xen.machine, &world.guest);
    let width = guest.width;
    let leaves = walk(machine, width, &guest.roots).map_err(|error| error.to_string())?;
    for (position, leaf) in leaves.iter().enumerate() {
        let kept = guest.leaves.get(position).copied().filter(|&mfn| mfn != NONE);
        if *leaf != kept {
            return Err(format!("leaf {position}: the roots say {leaf:x?}, the kernel {kept:x?}"));
        }
        let Some(leaf) = *leaf else { continue };
        if machine.is_given_back(leaf) {
            return Err(format!("leaf {position} lies in mfn {leaf:#x}, which was given back"));
        }
        let words = machine.words(leaf);
        for slot in 0..width.entries() {
            let pfn = (position * width.entries() + slot) as u64;
            let entry = words.map_or(Entry::INVALID, |words| words.entry(width, slot));
            if entry != Entry::INVALID && pfn < guest.roots.pfn_count {
                check_entry(world, &leaves, pfn, entry)?;
            }
        }
    }
    let listed = width.leaves(guest.roots.pfn_count) as usize;
    if let Some(at) =
        guest.leaves[leaves.len().min(listed)..listed].iter().position(|&leaf| leaf != NONE)
    {
        return Err(format!("the roots do not lead to leaf {}", leaves.len() + at));
    }
    if guest.roots.generation % 2 == 1 && world.mix.honest {
        return Err("the generation is odd".to_owned());
    }
    Ok(())
}

fn check_entry(
    world: &World,
    leaves: &[Option<u64>],
    pfn: u64,
    entry: Entry,
) -> Result<(), String> {
    let (machine, width) = (&world.xen.machine, world.guest.width);
    let (Claim::Frame(Mfn(mfn)) | Claim::Foreign(Mfn(mfn))) = entry.claim(width) else {
        return Ok(());
    };
    // A frame of another domain, tagged or not, is no frame of the pfn.
    if !machine.is_guest(mfn) {
        return Ok(());
    }
    let back = machine.m2p.pfn(mfn);
    if back != Some(pfn) && !world.mix.shares(width, entry) {
        return Err(format!("pfn {pfn:#x} names mfn {mfn:#x}, whose m2p is {back:x?}"));
    }
    let FrameType::Table { level, .. } = machine.frame_type(mfn) else { return Ok(()) };
    for (slot, target) in guest_ptes(&world.xen, mfn, level) {
        if world.mix.foreign_ptes && !machine.is_guest(target) {
            continue;
        }
        if resolve(machine, width, leaves, target).is_none() {
            return Err(format!(
                "table {pfn:#x} slot {slot} names mfn {target:#x}, which has no pfn"
            ));
        }
    }
    Ok(())
}
