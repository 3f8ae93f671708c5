// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames with other references: Xen does not exchange them, and the guest tries again or gives up.
//! Not here: frames without other references (`balloon`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: `steal_page` in `xen/arch/x86/mm.c`; Linux `xen_create_contiguous_region` puts the old
//! frames back.

use crate::behaviour::balloon::{page_in, page_out};
use crate::behaviour::plan::Plan;
use crate::behaviour::reshape::own_leaf;
use crate::program::{Name, Step, Val};

/// Exchanges a page that a backend or a page table maps: the first try fails, and perhaps a second
/// one follows once the page is unmapped.
pub(super) fn held(plan: &mut Plan<'_>) -> Option<()> {
    plan.has_free_frames()?;
    let (pfn, old) = plan.data()?;
    let ptes = plan.clear_ptes(old)?;
    let reg = plan.register()?;
    let mapped = ptes.is_empty() || plan.chance(1, 2);
    if mapped {
        plan.extend([Step::BackendMaps(old), Step::WriteUnlogged(old)]);
        exchange_once(plan, pfn, old, reg, &ptes);
    } else {
        exchange_once(plan, pfn, old, reg, &[]);
    }
    let wait = plan.maybe_wait();
    plan.extend(wait);
    plan.extend(mapped.then_some(Step::BackendUnmaps(old)));
    if plan.chance(2, 3) {
        exchange_once(plan, pfn, old, reg, &ptes);
    }
    if plan.chance(1, 2) {
        plan.push(Step::Write(Val::Reg(reg)));
    }
    Some(())
}

/// A page is ballooned out while a backend has it mapped: it is the guest's until the backend
/// unmaps it, and its pfn may have another frame by then.
pub(super) fn out_while_mapped(plan: &mut Plan<'_>) -> Option<()> {
    plan.has_frames_to_spare()?;
    plan.has_free_frames()?;
    let (pfn, mfn) = plan.unmapped_data()?;
    let out = page_out(plan, pfn, mfn)?;
    plan.push(Step::BackendMaps(mfn));
    plan.extend(out);
    let wait = plan.maybe_wait();
    plan.extend(wait);
    let reg = plan.register()?;
    let again = if plan.chance(1, 2) { page_in(plan, pfn, reg, None) } else { vec![] };
    let lets_go = vec![Step::WriteUnlogged(mfn), Step::BackendUnmaps(mfn)];
    let mixed = plan.dice.riffle(vec![again, lets_go]);
    plan.extend(mixed);
    Some(())
}

/// A leaf is copied and its slot re-pointed; the guest tries to exchange its old frame, which Xen
/// refuses while it is mapped.
pub(super) fn old_leaf_exchanged(plan: &mut Plan<'_>) -> Option<()> {
    plan.has_free_frames()?;
    plan.lock_structure()?;
    let (position, old) = own_leaf(plan)?;
    let pfn = plan.xen.machine.m2p.pfn(old)?;
    if plan.guest.frame(&plan.xen.machine, pfn) != Some(old) {
        return None;
    }
    plan.claim(pfn)?;
    let (_, new) = plan.unmapped_data()?;
    let reg = plan.register()?;
    plan.push(Step::Copy { from: old, to: Val::Is(new) });
    plan.bracket([Step::Hang { level: 0, key: position, mfn: Val::Is(new) }]);
    for _ in 0..plan.dice.between(1, 3) {
        exchange_once(plan, pfn, old, reg, &[]);
        let wait = plan.maybe_wait();
        plan.extend(wait);
    }
    plan.push(Step::Write(Val::Reg(reg)));
    Some(())
}

/// One try: PTEs are cleared before and written again after it, whether it succeeds or not.
fn exchange_once(plan: &mut Plan<'_>, pfn: u64, old: u64, reg: usize, ptes: &[Step]) {
    let after = Val::Reg(reg);
    let mut steps = ptes.to_vec();
    steps.push(Step::Entry { pfn, name: Name::Nothing });
    steps.push(Step::Exchange { old, pfn, reg });
    steps.push(Step::Entry { pfn, name: Name::Frame(after) });
    steps.extend(Plan::restore_ptes(ptes, after));
    plan.section(steps);
}
