// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m's own frames change beneath it: another frame for a leaf's pfn, or another pfn for its
//! frame.
//! Not here: copies under another pfn and slot (`reshape`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: the table of changes in the project's design, section 2.

use crate::behaviour::plan::Plan;
use crate::behaviour::reshape::own_leaf;
use crate::behaviour::swap::{Order, kernel_frame, swap};
use crate::program::{Name, Step, Val};

/// A part of the p2m and a data page swap their pfns; slots and PTEs stay as they are.
pub(super) fn leaf_renamed(plan: &mut Plan<'_>) -> Option<()> {
    let kernel = kernel_frame(plan)?;
    let data = plan.data()?;
    let order = match plan.dice.below(4) {
        0 => Order::P2mFirst,
        1 => Order::M2pFirst,
        _ => Order::Any,
    };
    swap(plan, kernel, data, order, &[data.1]);
    Some(())
}

/// A leaf's pfn gets another frame, the leaf copied into it; the old frame goes or stays elsewhere.
pub(super) fn leaf_exchanged(plan: &mut Plan<'_>) -> Option<()> {
    plan.has_free_frames()?;
    plan.lock_structure()?;
    let spare = plan.hole()?;
    let (position, old) = own_leaf(plan)?;
    let pfn = plan.xen.machine.m2p.pfn(old)?;
    if plan.guest.frame(&plan.xen.machine, pfn) != Some(old) {
        return None;
    }
    plan.claim(pfn)?;
    let reg = plan.register()?;
    let new = Val::Reg(reg);
    let inside = plan.guest.position(pfn) == position;
    let entry = Step::Entry { pfn, name: Name::Frame(new) };
    plan.push(Step::Populate { pfn: spare, reg, prefer: None });
    plan.push(Step::Open);
    // An entry in the same leaf must not be written between copy and slot.
    let early = !inside && plan.chance(1, 2);
    if early {
        plan.push(entry);
    }
    plan.push(Step::Copy { from: old, to: new });
    let machphys = Step::Machphys { mfn: new, pfn };
    let before = plan.chance(1, 2);
    if before {
        plan.push(machphys);
    }
    plan.bracket([Step::Hang { level: 0, key: position, mfn: new }]);
    if !before {
        plan.push(machphys);
    }
    if !early {
        plan.push(entry);
    }
    if plan.chance(1, 2) {
        plan.extend([
            Step::Machphys { mfn: Val::Is(old), pfn: spare },
            Step::Entry { pfn: spare, name: Name::Frame(Val::Is(old)) },
            Step::Write(Val::Is(old)),
            Step::Close,
        ]);
    } else {
        plan.extend([Step::Close, Step::Decrease(Val::Is(old))]);
    }
    Some(())
}
