// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables of the guest's processes: made, written, pinned, freed and used as data again.
//! Not here: the page tables of the linear list (`reshape`).
//! Units: pfn and mfn as plain numbers; slots below 512.
//! Threads: under the world's lock.
//! Source: Linux `xen_pgd_pin`, `xen_alloc_pte`; a table is filled as data, then pinned or hung
//! below another.

use p2mtrack::leaf::FRAME_WORDS;
use p2mtrack::table::PTE_PRESENT;

use crate::behaviour::plan::Plan;
use crate::page_table::pte;
use crate::program::{Step, Val};

/// Takes a level 1 table of a process.
pub(super) fn own_table(plan: &mut Plan<'_>) -> Option<u64> {
    let lower: Vec<u64> = {
        let Plan { guest, xen, .. } = &*plan;
        let level = |mfn: &u64| xen.machine.level(*mfn) == 1;
        guest.tables.iter().filter(|t| t.1 == 1).map(|t| t.0).filter(level).collect()
    };
    let table = (!lower.is_empty()).then(|| plan.dice.pick(&lower))?;
    plan.claim(plan.xen.machine.m2p.pfn(table)?)?;
    Some(table)
}

/// A slot of a table without a PTE.
pub(super) fn unused_slot(plan: &mut Plan<'_>, table: u64) -> Option<u16> {
    (0..8).find_map(|_| {
        let slot = plan.dice.index(FRAME_WORDS);
        (plan.xen.machine.word(table, slot) & PTE_PRESENT == 0).then_some(slot as u16)
    })
}

/// A page is filled with PTEs and becomes a table.
pub(super) fn table_made(plan: &mut Plan<'_>) -> Option<()> {
    if plan.guest.tables.len() > 64 {
        return None;
    }
    let (_, table) = plan.data()?;
    plan.push(Step::Fill { mfn: table, word: 0 });
    for _ in 0..plan.dice.magnitude(12) {
        let Some((_, target)) = plan.data() else { break };
        let index = plan.dice.index(FRAME_WORDS);
        plan.push(Step::Word { mfn: table, index, word: pte(target) });
    }
    if plan.chance(1, 2) {
        plan.push(Step::Pin { mfn: table, level: 1 });
    } else {
        let upper: Vec<u64> = {
            let Plan { guest, xen, .. } = &*plan;
            let level = |mfn: &u64| xen.machine.level(*mfn) == 2;
            guest.tables.iter().map(|t| t.0).filter(level).collect()
        };
        let upper = (!upper.is_empty()).then(|| plan.dice.pick(&upper))?;
        plan.claim(plan.xen.machine.m2p.pfn(upper)?)?;
        let slot = unused_slot(plan, upper)?;
        plan.push(Step::Pte { table: upper, slot, to: Some(Val::Is(table)) });
    }
    plan.push(Step::ListTable { mfn: table, level: 1, listed: true });
    Some(())
}

/// A level 2 table over new level 1 tables is pinned in pieces, is a table for a while, and is
/// taken apart in pieces; the guest may be suspended between any two of them.
pub(super) fn table_in_pieces(plan: &mut Plan<'_>) -> Option<()> {
    let (_, upper) = plan.unmapped_data()?;
    let mut pages = vec![upper];
    plan.push(Step::Fill { mfn: upper, word: 0 });
    for _ in 0..plan.dice.between(2, 6) {
        let Some((_, lower)) = plan.unmapped_data() else { break };
        plan.push(Step::Fill { mfn: lower, word: 0 });
        for _ in 0..plan.dice.magnitude(4) {
            let Some((_, target)) = plan.data() else { break };
            let index = plan.dice.index(FRAME_WORDS);
            plan.push(Step::Word { mfn: lower, index, word: pte(target) });
        }
        let index = plan.dice.index(FRAME_WORDS);
        plan.push(Step::Word { mfn: upper, index, word: pte(lower) });
        pages.push(lower);
    }
    let slots = plan.dice.pick(&[64, 128, 200, 400]);
    pieces(plan, Step::PinPiece { mfn: upper, level: 2, slots }, slots);
    let wait = plan.maybe_wait();
    plan.extend(wait);
    pieces(plan, Step::UnpinPiece { mfn: upper, slots }, slots);
    for mfn in pages {
        if plan.chance(1, 2) {
            plan.push(Step::Write(Val::Is(mfn)));
        }
    }
    Some(())
}

fn pieces(plan: &mut Plan<'_>, piece: Step, slots: usize) {
    for _ in 0..FRAME_WORDS.div_ceil(slots) {
        plan.push(piece);
        let wait = plan.maybe_wait();
        plan.extend(wait);
    }
}

/// PTEs come and go.
pub(super) fn table_written(plan: &mut Plan<'_>) -> Option<()> {
    let table = own_table(plan)?;
    for _ in 0..plan.dice.magnitude(6) {
        let clear = plan.chance(1, 3);
        let slot = plan.dice.index(FRAME_WORDS) as u16;
        let to = if clear { None } else { Some(Val::Is(plan.data()?.1)) };
        plan.push(Step::Pte { table, slot, to });
    }
    Some(())
}

/// A table is taken down and used as data, or ballooned out.
pub(super) fn table_freed(plan: &mut Plan<'_>) -> Option<()> {
    if plan.guest.tables.len() < 6 {
        return None;
    }
    let table = own_table(plan)?;
    let pfn = plan.xen.machine.m2p.pfn(table)?;
    let clears = plan.clear_ptes(table)?;
    plan.push(Step::ListTable { mfn: table, level: 1, listed: false });
    plan.extend(clears);
    plan.push(Step::Unpin(table));
    if plan.chance(1, 3) {
        return Some(());
    }
    let wait = plan.maybe_wait();
    plan.extend(wait);
    plan.push(Step::Write(Val::Is(table)));
    if plan.chance(1, 2) && plan.has_frames_to_spare().is_some() {
        let steps = page_out_plain(plan, pfn, table);
        plan.extend(steps);
    }
    Some(())
}

/// Balloons out a page that no PTE names by then.
fn page_out_plain(plan: &mut Plan<'_>, pfn: u64, mfn: u64) -> Vec<Step> {
    use crate::program::Name;
    let mut steps = vec![Step::Entry { pfn, name: Name::Nothing }];
    steps.extend(plan.maybe_wait());
    steps.push(Step::Decrease(Val::Is(mfn)));
    steps
}

/// A table below another is pinned or unpinned.
pub(super) fn table_pinned(plan: &mut Plan<'_>) -> Option<()> {
    let table = own_table(plan)?;
    let machine = &plan.xen.machine;
    let held = machine.ptes_to(table).any(|(parent, _)| machine.level(parent) == 2);
    let unpin = held && machine.is_pinned(table);
    // Unpin only a table that stays a table without the pin.
    plan.push(if unpin { Step::Unpin(table) } else { Step::Pin { mfn: table, level: 1 } });
    Some(())
}
