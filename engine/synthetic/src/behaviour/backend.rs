// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writers that log-dirty does not see, or sees late: backends with writable grants or copies,
//! daemons, Xen itself.
//! Not here: the port that names them (`ports`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: `xen-save-path.md` 6.4: a grant marks at unmap, a copy at its end; foreign mappings of
//! dom0 and vcpu_info never.

use crate::behaviour::balloon::play;
use crate::behaviour::plan::Plan;
use crate::program::{Step, Val};

/// A backend maps a page, writes it now and then, and unmaps it; a suspend may come before.
pub(super) fn backend(plan: &mut Plan<'_>) -> Option<()> {
    let (_, mfn) = plan.data()?;
    plan.push(Step::BackendMaps(mfn));
    for _ in 0..plan.dice.between(1, 6) {
        let step = match plan.dice.below(4) {
            0 => Step::Write(Val::Is(mfn)),
            1 => Step::AwaitRounds(1),
            _ => Step::WriteUnlogged(mfn),
        };
        plan.push(step);
    }
    if plan.chance(1, 4) {
        plan.push(Step::AwaitRounds(9));
    }
    plan.push(Step::BackendUnmaps(mfn));
    Some(())
}

/// Backends copy into some pages. A copy is short: none is under way when the guest is suspended.
pub(super) fn grant_copy(plan: &mut Plan<'_>) -> Option<()> {
    let mut copies = Vec::new();
    for _ in 0..plan.dice.between(1, 6) {
        let Some((_, mfn)) = plan.data() else { break };
        let mut copy = vec![Step::Open, Step::CopyBegins(mfn)];
        copy.extend(plan.maybe_wait());
        copy.extend([Step::CopyEnds(mfn), Step::Close]);
        if plan.chance(1, 4) {
            copy.push(Step::Write(Val::Is(mfn)));
        }
        copies.push(copy);
    }
    play(plan, copies);
    Some(())
}

/// The store daemon, the console daemon or Xen writes a page that never moves.
pub(super) fn daemon(plan: &mut Plan<'_>) -> Option<()> {
    for _ in 0..plan.dice.between(1, 4) {
        let pfn = plan.dice.pick(&plan.guest.reserved_pfns);
        let mfn = plan.guest.frame(&plan.xen.machine, pfn)?;
        let guest_too = plan.chance(1, 3);
        plan.push(if guest_too { Step::Write(Val::Is(mfn)) } else { Step::WriteUnlogged(mfn) });
    }
    Some(())
}

/// Other domains take free frames and give some back.
pub(super) fn others(plan: &mut Plan<'_>) -> Option<()> {
    plan.has_free_frames()?;
    for _ in 0..plan.dice.between(1, 4) {
        let take = plan.chance(1, 2);
        plan.push(if take { Step::OtherTakes } else { Step::OtherFrees });
    }
    Some(())
}
