// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ballooning and exchange: frames given to Xen and taken from it.
//! Not here: growth past the pfn count (`growth`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: Linux `drivers/xen/mem-reservation.c`, `xen_create_contiguous_region`; mini-os the other
//! way round.

use crate::behaviour::plan::Plan;
use crate::program::{Name, Step, Val};

/// A run of pages, or scattered ones.
pub(super) fn balloon_out(plan: &mut Plan<'_>) -> Option<()> {
    plan.has_frames_to_spare()?;
    let pages = plan.dice.magnitude(12);
    let (mut pfn, mfn) = plan.data()?;
    let mut sequences = vec![page_out(plan, pfn, mfn)?];
    let run = plan.chance(2, 3);
    for _ in 1..pages {
        pfn += 1;
        let Plan { guest, xen, .. } = &*plan;
        let next =
            (run && guest.is_plain(&xen.machine, pfn)).then(|| guest.frame(&xen.machine, pfn));
        let next = match next.flatten() {
            Some(mfn) => plan.claim(pfn).map(|()| (pfn, mfn)),
            None => plan.data(),
        };
        let Some((pfn, mfn)) = next else { break };
        let Some(steps) = page_out(plan, pfn, mfn) else { break };
        sequences.push(steps);
    }
    play(plan, sequences);
    Some(())
}

/// Several pages one after the other, or all mixed up.
pub(super) fn play(plan: &mut Plan<'_>, sequences: Vec<Vec<Step>>) {
    if plan.chance(1, 2) {
        plan.extend(sequences.into_iter().flatten());
    } else {
        let steps = plan.dice.riffle(sequences);
        plan.extend(steps);
    }
}

/// One page out: scrubbed or not, the entry before or after the hypercall.
pub(super) fn page_out(plan: &mut Plan<'_>, pfn: u64, mfn: u64) -> Option<Vec<Step>> {
    let ptes = plan.clear_ptes(mfn)?;
    let entry = Step::Entry { pfn, name: Name::Nothing };
    let decrease = Step::Decrease(Val::Is(mfn));
    let mut steps = Vec::new();
    if plan.chance(1, 2) {
        steps.push(Step::Write(Val::Is(mfn)));
    }
    let p2m_first = plan.chance(2, 3);
    if p2m_first && ptes.is_empty() {
        // Between the two the guest holds the frame and no pfn names it: a suspend may come.
        steps.push(entry);
        steps.extend(plan.maybe_wait());
        steps.push(decrease);
        return Some(steps);
    }
    steps.push(Step::Open);
    if p2m_first {
        let mixed = plan.dice.riffle(vec![ptes, vec![entry]]);
        steps.extend(mixed);
        steps.extend([Step::Close, decrease]);
    } else {
        steps.extend(ptes);
        steps.push(decrease);
        steps.extend(plan.maybe_wait());
        steps.extend([entry, Step::Close]);
    }
    Some(steps)
}

/// Pages come in, some are written, some get a PTE.
pub(super) fn balloon_in(plan: &mut Plan<'_>) -> Option<()> {
    plan.has_free_frames()?;
    let pages = plan.dice.magnitude(12);
    let mut sequences = Vec::new();
    for _ in 0..pages {
        let Some(pfn) = plan.hole() else { break };
        let Some(reg) = plan.register() else { break };
        let steps = page_in(plan, pfn, reg, None);
        sequences.push(steps);
    }
    play(plan, sequences);
    Some(())
}

/// One page in; its contents may be written before the entry or never.
pub(super) fn page_in(plan: &mut Plan<'_>, pfn: u64, reg: usize, prefer: Option<u64>) -> Vec<Step> {
    let mut entry = plan.maybe_wait();
    entry.push(Step::Entry { pfn, name: Name::Frame(Val::Reg(reg)) });
    let writes = match plan.dice.below(4) {
        0 => vec![],
        1 => vec![Step::AwaitRounds(1), Step::Write(Val::Reg(reg))],
        _ => vec![Step::Write(Val::Reg(reg))],
    };
    let mut steps = vec![Step::Populate { pfn, reg, prefer }];
    let mixed = plan.dice.riffle(vec![entry, writes]);
    steps.extend(mixed);
    steps
}

/// Out, and in again with the very same frame, perhaps rounds later.
pub(super) fn same_frame(plan: &mut Plan<'_>) -> Option<()> {
    plan.has_free_frames()?;
    let (pfn, mfn) = plan.data()?;
    let mut steps = page_out(plan, pfn, mfn)?;
    let reg = plan.register()?;
    steps.extend(plan.maybe_wait());
    steps.extend(page_in(plan, pfn, reg, Some(mfn)));
    plan.extend(steps);
    Some(())
}

/// `XENMEM_exchange`, with PTEs cleared before and written again after it.
pub(super) fn exchange(plan: &mut Plan<'_>) -> Option<()> {
    plan.has_free_frames()?;
    let pages = plan.dice.magnitude(16);
    let mut sequences = Vec::new();
    for _ in 0..pages {
        let Some((pfn, old)) = plan.data() else { break };
        let Some(ptes) = plan.clear_ptes(old) else { break };
        let reg = plan.register()?;
        let nothing = Step::Entry { pfn, name: Name::Nothing };
        let new = Val::Reg(reg);
        let mut steps = vec![Step::Open];
        if plan.chance(1, 2) {
            steps.insert(0, Step::Write(Val::Is(old)));
        }
        if plan.chance(2, 3) {
            let mixed = plan.dice.riffle(vec![ptes.clone(), vec![nothing]]);
            steps.extend(mixed);
        } else {
            steps.extend(ptes.clone());
        }
        steps.push(Step::Exchange { old, pfn, reg });
        steps.extend(plan.maybe_wait());
        let mut after = vec![Step::Entry { pfn, name: Name::Frame(new) }];
        after.extend(Plan::restore_ptes(&ptes, new));
        plan.dice.shuffle(&mut after);
        steps.extend(after);
        steps.push(Step::Close);
        if plan.chance(1, 2) {
            steps.push(Step::Write(new));
        }
        sequences.push(steps);
    }
    play(plan, sequences);
    Some(())
}
