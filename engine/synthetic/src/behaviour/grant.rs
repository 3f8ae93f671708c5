// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest as a backend: frames of other domains in its p2m and, for a while, in its page tables.
//! Not here: the guest's own frames in the hands of a backend (`backend`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: Linux `set_foreign_p2m_mapping`; the m2p overrides of 3.x kernels.

use crate::behaviour::plan::Plan;
use crate::behaviour::table::{own_table, unused_slot};
use crate::program::{Name, Step, Val};

/// How long a PTE to a foreign frame is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pte {
    /// Gone before any suspend.
    Brief,
    /// A suspend may come before it goes.
    Stays,
}

/// A foreign frame is mapped at a ballooned pfn, and unmapped again.
pub(super) fn grant_map(plan: &mut Plan<'_>) -> Option<()> {
    let (pfn, mfn) = (plan.hole()?, plan.foreign()?);
    plan.push(Step::Entry { pfn, name: Name::Foreign(Val::Is(mfn)) });
    let wait = plan.dice.between(1, 4);
    plan.push(Step::AwaitRounds(wait));
    let nothing = Step::Entry { pfn, name: Name::Nothing };
    if plan.chance(2, 3) {
        plan.extend([nothing, Step::UnmapForeign(Val::Is(mfn))]);
    } else {
        plan.section([Step::UnmapForeign(Val::Is(mfn)), nothing]);
    }
    Some(())
}

/// An old kernel puts a foreign frame into the entry of a pfn that has one, and restores it later.
pub(super) fn overlay(plan: &mut Plan<'_>) -> Option<()> {
    let ((pfn, own), mfn) = (plan.unmapped_data()?, plan.foreign()?);
    if plan.chance(1, 2) {
        plan.push(Step::Write(Val::Is(own)));
    }
    plan.push(Step::Entry { pfn, name: Name::Foreign(Val::Is(mfn)) });
    let wait = plan.dice.between(1, 4);
    plan.extend([
        Step::AwaitRounds(wait),
        Step::Entry { pfn, name: Name::Frame(Val::Is(own)) },
        Step::UnmapForeign(Val::Is(mfn)),
    ]);
    Some(())
}

/// The same with a frame that the guest granted to itself: the entry is restored before any
/// suspend.
pub(super) fn self_overlay(plan: &mut Plan<'_>) -> Option<()> {
    let ((pfn, own), (_, other)) = (plan.unmapped_data()?, plan.data()?);
    let wait = plan.maybe_wait();
    plan.extend([Step::Open, Step::Entry { pfn, name: Name::Foreign(Val::Is(other)) }]);
    plan.extend(wait);
    plan.extend([Step::Entry { pfn, name: Name::Frame(Val::Is(own)) }, Step::Close]);
    Some(())
}

/// A frame that the guest granted to itself: its entry is tagged, and for a while a second pfn
/// names it too.
pub(super) fn self_grant(plan: &mut Plan<'_>) -> Option<()> {
    let (pfn, mfn) = plan.data()?;
    plan.push(Step::Entry { pfn, name: Name::Foreign(Val::Is(mfn)) });
    if plan.chance(1, 2) {
        let alias = plan.hole()?;
        let wait = plan.maybe_wait();
        plan.push(Step::Open);
        plan.push(Step::Entry { pfn: alias, name: Name::Foreign(Val::Is(mfn)) });
        plan.extend(wait);
        plan.extend([Step::Entry { pfn: alias, name: Name::Nothing }, Step::Close]);
    }
    let wait = plan.dice.between(1, 3);
    plan.push(Step::AwaitRounds(wait));
    if plan.chance(1, 2) {
        plan.push(Step::Write(Val::Is(mfn)));
    }
    plan.push(Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) });
    Some(())
}

/// A PTE to a foreign frame, gone before any suspend.
pub(super) fn foreign_pte(plan: &mut Plan<'_>) -> Option<()> {
    let (table, mfn) = (own_table(plan)?, plan.foreign()?);
    let slot = unused_slot(plan, table)?;
    let wait = plan.maybe_wait();
    plan.extend([Step::Open, Step::Pte { table, slot, to: Some(Val::Is(mfn)) }]);
    plan.extend(wait);
    plan.extend([
        Step::Pte { table, slot, to: None },
        Step::Close,
        Step::UnmapForeign(Val::Is(mfn)),
    ]);
    Some(())
}

/// A foreign frame at a ballooned pfn that is also its pfn in its own domain, so that p2m and m2p
/// agree on a frame of another domain; perhaps with a PTE.
pub(super) fn same_pfn(plan: &mut Plan<'_>, pte: Pte) -> Option<()> {
    let pfn = plan.hole()?;
    let slot = if pte == Pte::Stays || plan.chance(1, 2) {
        let table = own_table(plan)?;
        Some((table, unused_slot(plan, table)?))
    } else {
        None
    };
    let mfn = plan.foreign()?;
    let name = foreign_name(plan, Val::Is(mfn));
    let mut mapped = vec![Step::TheirPfn { mfn, pfn }, Step::Entry { pfn, name }];
    let wait = plan.dice.between(1, 4);
    let mut unmapped = vec![Step::Entry { pfn, name: Name::Nothing }];
    if let Some((table, slot)) = slot {
        mapped.push(Step::Pte { table, slot, to: Some(Val::Is(mfn)) });
        unmapped.push(Step::Pte { table, slot, to: None });
    }
    plan.dice.shuffle(&mut mapped);
    plan.dice.shuffle(&mut unmapped);
    let brief = slot.is_some() && pte == Pte::Brief;
    plan.extend(brief.then_some(Step::Open));
    plan.extend(mapped);
    plan.push(Step::AwaitRounds(wait));
    plan.extend(unmapped);
    plan.extend(brief.then_some(Step::Close));
    plan.push(Step::UnmapForeign(Val::Is(mfn)));
    Some(())
}

/// How an entry names a foreign frame: Linux tags it, others do not.
pub(super) fn foreign_name(plan: &mut Plan<'_>, frame: Val) -> Name {
    if plan.chance(1, 2) { Name::Foreign(frame) } else { Name::Frame(frame) }
}
