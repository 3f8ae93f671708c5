// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that two pfns name, or whose m2p is not the pfn that names them: a write marks only the
//! m2p's pfn.
//! Not here: guests that lie about it in clean leaves (`hostile`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: the outcome table, rows *alias* and *anything else*; `xen-save-path.md` 6.5.

use crate::behaviour::plan::Plan;
use crate::behaviour::table::{own_table, unused_slot};
use crate::program::{Name, Step, Val};

/// A pfn names the frame of another one, too.
pub(super) fn shared_alias(plan: &mut Plan<'_>) -> Option<()> {
    let table = plan.chance(1, 6);
    let mfn = if table { own_table(plan)? } else { plan.unmapped_data()?.1 };
    let (other, before) = other_pfn(plan)?;
    plan.push(Step::Entry { pfn: other, name: Name::Frame(Val::Is(mfn)) });
    if table {
        table_written_now_and_then(plan, mfn)?;
        plan.push(Step::Entry { pfn: other, name: before });
        return Some(());
    }
    written_now_and_then(plan, mfn);
    plan.push(Step::Entry { pfn: other, name: before });
    Some(())
}

/// A frame moves in the p2m, and its m2p stays or becomes a third pfn; then the m2p follows, or the
/// frame moves back.
pub(super) fn stale_m2p(plan: &mut Plan<'_>) -> Option<()> {
    let (pfn, mfn) = plan.unmapped_data()?;
    let (other, before) = other_pfn(plan)?;
    let frame = Name::Frame(Val::Is(mfn));
    let machphys = |pfn| Step::Machphys { mfn: Val::Is(mfn), pfn };
    let mut there =
        vec![Step::Entry { pfn: other, name: frame }, Step::Entry { pfn, name: Name::Nothing }];
    if plan.chance(1, 3) {
        // A pfn without a frame, or one that no guest has.
        let third = if plan.chance(1, 2) { plan.hole()? } else { 1 << 31 };
        there.push(machphys(third));
    }
    plan.dice.shuffle(&mut there);
    plan.section(there);
    written_now_and_then(plan, mfn);
    let follows = matches!(before, Name::Nothing) && plan.chance(1, 2);
    let mut end = if follows {
        vec![machphys(other)]
    } else {
        let back = Step::Entry { pfn, name: frame };
        vec![back, Step::Entry { pfn: other, name: before }, machphys(pfn)]
    };
    plan.dice.shuffle(&mut end);
    plan.section(end);
    Some(())
}

/// A pfn that can name another frame for a while, and what it names before and after.
fn other_pfn(plan: &mut Plan<'_>) -> Option<(u64, Name)> {
    if plan.chance(1, 2) {
        return Some((plan.hole()?, Name::Nothing));
    }
    let (pfn, own) = plan.unmapped_data()?;
    Some((pfn, Name::Frame(Val::Is(own))))
}

fn table_written_now_and_then(plan: &mut Plan<'_>, table: u64) -> Option<()> {
    for _ in 0..plan.dice.between(1, 3) {
        let wait = plan.dice.between(1, 4);
        let slot = unused_slot(plan, table)?;
        let (_, target) = plan.data()?;
        plan.push(Step::AwaitRounds(wait));
        plan.push(Step::Pte { table, slot, to: Some(Val::Is(target)) });
    }
    Some(())
}

fn written_now_and_then(plan: &mut Plan<'_>, mfn: u64) {
    for _ in 0..plan.dice.between(1, 5) {
        let wait = plan.dice.between(1, 4);
        plan.push(Step::AwaitRounds(wait));
        let write = plan.chance(3, 4);
        plan.extend(write.then_some(Step::Write(Val::Is(mfn))));
    }
}
