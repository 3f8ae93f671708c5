// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that change their pfn: p2m entries and `MMU_MACHPHYS_UPDATE`, page tables untouched.
//! Not here: frames that change their owner.
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: NetBSD, old netfront page flipping; `xen-save-path.md` 4.2 and 6.5.

use crate::behaviour::plan::Plan;
use crate::behaviour::table::own_table;
use crate::guest::Layout;
use crate::program::{Name, Step, Val};

/// Which of the two tables is written first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Any order, at once.
    Any,
    /// The p2m, and rounds later the m2p.
    P2mFirst,
    /// The m2p, and rounds later the p2m.
    M2pFirst,
}

const fn entry(pfn: u64, mfn: u64) -> Step {
    Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) }
}

const fn machphys(mfn: u64, pfn: u64) -> Step {
    Step::Machphys { mfn: Val::Is(mfn), pfn }
}

/// Takes a pfn that holds a part of the p2m, or a page table of a process.
pub(super) fn kernel_frame(plan: &mut Plan<'_>) -> Option<(u64, u64)> {
    let mfn = match plan.dice.below(4) {
        0 | 1 => plan.dice.pick(&plan.guest.leaves),
        2 => match &plan.guest.layout {
            Layout::Linear(list) => {
                let tables = plan.dice.pick(&[0, 1, list.tables.len() - 1]);
                let frames: Vec<u64> = list.tables[tables].values().copied().collect();
                plan.dice.pick(&frames)
            }
            Layout::Tree(tree) if plan.dice.chance(1, 3) => tree.top,
            Layout::Tree(tree) => plan.dice.pick(&tree.mids),
        },
        _ => own_table(plan)?,
    };
    let machine = &plan.xen.machine;
    let pfn = machine.is_guest(mfn).then(|| machine.m2p.pfn(mfn)).flatten()?;
    if plan.guest.frame(machine, pfn) != Some(mfn) {
        return None;
    }
    if !plan.program.claimed.has_pfn(pfn) {
        plan.claim(pfn)?;
    }
    Some((pfn, mfn))
}

/// Puts p2m writes and m2p writes in an order, with stores into the frames in between.
pub(super) fn reorder(
    plan: &mut Plan<'_>,
    order: Order,
    mut p2m: Vec<Step>,
    mut m2p: Vec<Step>,
    writes: Vec<Step>,
) -> Vec<Step> {
    plan.dice.shuffle(&mut p2m);
    plan.dice.shuffle(&mut m2p);
    let wait = vec![Step::AwaitRounds(plan.dice.between(1, 3))];
    let updates = match order {
        Order::Any => plan.dice.riffle(vec![p2m, m2p]),
        Order::P2mFirst => [p2m, wait, m2p].concat(),
        Order::M2pFirst => [m2p, wait, p2m].concat(),
    };
    plan.dice.riffle(vec![updates, writes])
}

/// Two pfns swap their frames.
pub(super) fn swap(
    plan: &mut Plan<'_>,
    one: (u64, u64),
    two: (u64, u64),
    order: Order,
    data: &[u64],
) {
    let p2m = vec![entry(one.0, two.1), entry(two.0, one.1)];
    let m2p = vec![machphys(one.1, two.0), machphys(two.1, one.0)];
    let stores = if plan.chance(1, 2) { plan.dice.below(4) } else { 0 };
    let writes = if data.is_empty() {
        vec![]
    } else {
        (0..stores).map(|_| Step::Write(Val::Is(plan.dice.pick(data)))).collect()
    };
    let steps = reorder(plan, order, p2m, m2p, writes);
    plan.section(steps);
}

/// Two data pages swap.
pub(super) fn frame_swap(plan: &mut Plan<'_>) -> Option<()> {
    let (one, two) = (plan.data()?, plan.data()?);
    swap(plan, one, two, Order::Any, &[one.1, two.1]);
    // Back again, or once more.
    if plan.chance(1, 6) {
        let back = ((one.0, two.1), (two.0, one.1));
        swap(plan, back.0, back.1, Order::Any, &[]);
    }
    Some(())
}

/// A data page moves to a pfn that has none.
pub(super) fn frame_move(plan: &mut Plan<'_>) -> Option<()> {
    move_to_hole(plan, Order::Any)
}

fn move_to_hole(plan: &mut Plan<'_>, order: Order) -> Option<()> {
    let (from, mfn) = plan.data()?;
    let to = plan.hole()?;
    let p2m = vec![entry(to, mfn), Step::Entry { pfn: from, name: Name::Nothing }];
    let writes = if plan.chance(1, 3) { vec![Step::Write(Val::Is(mfn))] } else { vec![] };
    let steps = reorder(plan, order, p2m, vec![machphys(mfn, to)], writes);
    plan.section(steps);
    Some(())
}

/// A swap, a move or a page of the p2m itself, slowly.
pub(super) fn slow_move(plan: &mut Plan<'_>, order: Order) -> Option<()> {
    match plan.dice.below(6) {
        0 | 1 => move_to_hole(plan, order),
        2 => {
            let kernel = kernel_frame(plan)?;
            let data = plan.data()?;
            swap(plan, kernel, data, order, &[data.1]);
            Some(())
        }
        _ => {
            let (one, two) = (plan.data()?, plan.data()?);
            swap(plan, one, two, order, &[one.1, two.1]);
            Some(())
        }
    }
}
