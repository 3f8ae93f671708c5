// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that change their owner under an entry that stays, or that is equal when it is back;
//! tagged or not.
//! Not here: transfers (`transfer`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: the outcome table: a frame of another domain is no frame of the pfn, whatever the
//! entry's tag; Xen allocates any free frame.

use crate::behaviour::balloon::page_out;
use crate::behaviour::grant::foreign_name;
use crate::behaviour::plan::Plan;
use crate::behaviour::table::{own_table, unused_slot};
use crate::behaviour::transfer::take_foreign;
use crate::grant::map_foreign;
use crate::program::{Name, Step, Val};

/// A foreign frame without a tag, at a ballooned pfn or over a page that has a frame.
pub(super) fn untagged(plan: &mut Plan<'_>) -> Option<()> {
    let over = plan.chance(1, 2);
    let (pfn, after) = if over {
        let (pfn, own) = plan.unmapped_data()?;
        (pfn, Name::Frame(Val::Is(own)))
    } else {
        (plan.hole()?, Name::Nothing)
    };
    let mfn = plan.foreign()?;
    if plan.chance(1, 2) {
        plan.push(Step::TheirPfn { mfn, pfn });
    }
    plan.push(Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) });
    let wait = plan.dice.between(1, 9);
    plan.extend([
        Step::AwaitRounds(wait),
        Step::Entry { pfn, name: after },
        Step::UnmapForeign(Val::Is(mfn)),
    ]);
    Some(())
}

/// A page is ballooned out, another domain gets its frame at the same pfn, and the guest maps it:
/// the entry is as it was or differs in its tag, and perhaps a PTE names the frame, too. Then the
/// frame comes back the same way.
pub(super) fn given_and_mapped(plan: &mut Plan<'_>, pte: bool) -> Option<()> {
    plan.has_free_frames()?;
    let slot = if pte {
        let table = own_table(plan)?;
        Some((table, unused_slot(plan, table)?))
    } else {
        None
    };
    let (pfn, own) = plan.data()?;
    let out = page_out(plan, pfn, own)?;
    let reg = plan.register()?;
    let name = foreign_name(plan, Val::Reg(reg));
    plan.extend(out);
    plan.push(Step::TheyTake { pfn, reg, prefer: Some(own) });
    let mut mapped = vec![Step::Entry { pfn, name }];
    if let Some((table, slot)) = slot {
        mapped.push(Step::Pte { table, slot, to: Some(Val::Reg(reg)) });
    }
    plan.dice.shuffle(&mut mapped);
    plan.extend(mapped);
    let wait = plan.dice.between(1, 9);
    plan.push(Step::AwaitRounds(wait));
    plan.extend(slot.map(|(table, slot)| Step::Pte { table, slot, to: None }));
    comes_to(plan, pfn, Val::Reg(reg), own)
}

/// A frame of another domain is mapped, freed by that domain, and given to the guest at the pfn
/// that names it.
pub(super) fn frame_comes(plan: &mut Plan<'_>) -> Option<()> {
    plan.has_free_frames()?;
    let pfn = plan.hole()?;
    let mfn = take_foreign(plan)?;
    let name = foreign_name(plan, Val::Is(mfn));
    map_foreign(plan.xen, mfn);
    plan.push(Step::Entry { pfn, name });
    let wait = plan.dice.between(1, 9);
    plan.push(Step::AwaitRounds(wait));
    comes_to(plan, pfn, Val::Is(mfn), mfn)
}

/// A mapped frame is freed by its owner and populated at the pfn whose entry names it: the entry is
/// cleared and written again, or stays as it is.
fn comes_to(plan: &mut Plan<'_>, pfn: u64, frame: Val, wanted: u64) -> Option<()> {
    let reg = plan.register()?;
    let gone = [Step::UnmapForeign(frame), Step::TheyFree(frame)];
    let come = Step::Populate { pfn, reg, prefer: Some(wanted) };
    let settle = Step::Settle { pfn, reg };
    if plan.chance(1, 2) {
        plan.push(Step::Entry { pfn, name: Name::Nothing });
        plan.extend(gone);
        let wait = plan.maybe_wait();
        plan.extend(wait);
        plan.extend([come, settle]);
    } else {
        // If another pfn gets the frame, two entries name it until this one is written.
        plan.section(gone.into_iter().chain([come, settle]));
    }
    if plan.chance(1, 3) {
        plan.push(Step::Write(Val::Reg(reg)));
    }
    let wait = plan.maybe_wait();
    plan.extend(wait);
    // Linux does not leave a frame of its own tagged.
    plan.push(Step::Entry { pfn, name: Name::Frame(Val::Reg(reg)) });
    Some(())
}
