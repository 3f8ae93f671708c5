// SPDX-License-Identifier: MIT OR Apache-2.0
//! `GNTTABOP_transfer`: frames that come with contents of another domain, unmarked.
//! Not here: grants (`grant`, `backend`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: `xen/common/grant_table.c` gnttab_transfer; a query sees a transfer entry unless the p2m
//! is written while it exists.

use crate::behaviour::grant::foreign_name;
use crate::behaviour::plan::Plan;
use crate::grant::Offer;
use crate::program::{Name, Step, Val};

/// Queries of the grant table between the last transfer and the withdrawal of its entry: without
/// any, no tracker could see the offer.
const GRANT_QUERIES: u64 = 1;

/// When a query of the grant table sees a transfer entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Query {
    /// Before the frame comes.
    AtTheOffer,
    /// Once it came.
    AtTheFrame,
}

/// A frame of another domain arrives at a ballooned pfn.
pub(super) fn transfer_in(plan: &mut Plan<'_>) -> Option<()> {
    let pfn = plan.hole()?;
    let mfn = take_foreign(plan)?;
    plan.push(Step::Accept(pfn));
    arrive(plan, pfn, mfn, true);
    Some(())
}

fn wait_if(plan: &mut Plan<'_>, slow: bool) {
    let wait = if slow { plan.maybe_wait() } else { vec![] };
    plan.extend(wait);
}

/// An unmapped frame of another domain; that domain will not free it any more.
pub(super) fn take_foreign(plan: &mut Plan<'_>) -> Option<u64> {
    let at = {
        let Plan { others, xen, dice, .. } = &mut *plan;
        (0..8).find_map(|_| {
            let at = dice.index(others.len());
            (xen.machine.refs(*others.get(at)?) == 0).then_some(at)
        })?
    };
    Some(plan.others.swap_remove(at))
}

fn arrive(plan: &mut Plan<'_>, pfn: u64, mfn: u64, slow: bool) {
    wait_if(plan, slow);
    plan.extend([Step::WriteUnlogged(mfn), Step::TransferIn { mfn, pfn }]);
    wait_if(plan, slow);
    plan.push(Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) });
    if plan.chance(1, 4) {
        plan.push(Step::Write(Val::Is(mfn)));
    }
    plan.extend([Step::AwaitGrantQueries(GRANT_QUERIES), Step::Withdraw]);
}

/// A frame goes to another domain, which writes it, and comes back to the same pfn.
pub(super) fn transfer_back(plan: &mut Plan<'_>) -> Option<()> {
    let (pfn, mfn) = plan.unmapped_data()?;
    let there = plan.dice.below(1 << 16);
    // Most transfers take no time; some pages were surely copied before.
    let slow = plan.chance(1, 3);
    if plan.chance(1, 6) {
        plan.push(Step::AwaitRounds(1));
    }
    plan.push(Step::Accept(pfn));
    if plan.chance(1, 2) {
        plan.push(Step::Write(Val::Is(mfn)));
    }
    plan.push(Step::Entry { pfn, name: Name::Nothing });
    wait_if(plan, slow);
    plan.push(Step::TransferOut { mfn, pfn, there, touched: true });
    arrive(plan, pfn, mfn, slow);
    Some(())
}

/// Transfers whose p2m entry is written only when it has to be, and offers that exist no longer
/// than they have to.
pub(super) fn transfers(plan: &mut Plan<'_>) -> Option<()> {
    match plan.dice.below(8) {
        0..3 => given_and_got_back(plan),
        3..6 => comes_by_transfer(plan),
        6 => swift(plan),
        _ => in_vain(plan),
    }
}

/// A frame goes out and comes back with the contents of another domain. Its entry stays all the
/// while, or is written again afterwards: as it was, or with another tag.
fn given_and_got_back(plan: &mut Plan<'_>) -> Option<()> {
    let (pfn, mfn) = plan.unmapped_data()?;
    let own = Val::Is(mfn);
    let there = plan.dice.below(1 << 16);
    let tagged = plan.chance(1, 3);
    if tagged {
        plan.push(Step::Entry { pfn, name: Name::Foreign(own) });
        wait_if(plan, true);
    }
    let rewritten = plan.chance(1, 2);
    let query = pick_query(plan, !rewritten);
    plan.push(Step::Accept(pfn));
    query_if(plan, query == Some(Query::AtTheOffer));
    plan.push(Step::Open);
    plan.push(Step::TransferOut { mfn, pfn, there, touched: tagged });
    wait_if(plan, true);
    come(plan, pfn, mfn);
    if rewritten {
        let name = foreign_name(plan, own);
        plan.push(Step::Entry { pfn, name });
    }
    plan.push(Step::Close);
    query_if(plan, query == Some(Query::AtTheFrame));
    plan.push(Step::Withdraw);
    if tagged || rewritten {
        let wait = plan.dice.between(1, 9);
        plan.extend([Step::AwaitRounds(wait), Step::Entry { pfn, name: Name::Frame(own) }]);
    }
    Some(())
}

/// A frame goes out for good, and its entry only much later: comparing entries alone finds nothing.
/// The other domain may have it at the same pfn.
pub(super) fn given_away(plan: &mut Plan<'_>) -> Option<()> {
    plan.has_frames_to_spare()?;
    let (pfn, mfn) = plan.unmapped_data()?;
    let same = plan.chance(1, 2);
    let there = if same { pfn } else { plan.dice.below(1 << 16) };
    if plan.chance(1, 2) {
        plan.push(Step::Write(Val::Is(mfn)));
    }
    plan.push(Step::TransferOut { mfn, pfn, there, touched: false });
    let wait = plan.dice.between(1, 9);
    plan.extend([Step::AwaitRounds(wait), Step::Entry { pfn, name: Name::Nothing }]);
    Some(())
}

/// A pfn names a frame of another domain, and that frame comes to it: the entry is not written
/// then.
fn comes_by_transfer(plan: &mut Plan<'_>) -> Option<()> {
    let pfn = plan.hole()?;
    let mfn = take_foreign(plan)?;
    let name = foreign_name(plan, Val::Is(mfn));
    let mut before = vec![Step::Entry { pfn, name }];
    let wait = plan.dice.between(1, 6);
    before.push(Step::AwaitRounds(wait));
    let late = plan.chance(1, 4);
    let query = pick_query(plan, true);
    if late {
        plan.push(Step::Accept(pfn));
        plan.extend(before);
    } else {
        plan.extend(before);
        plan.push(Step::Accept(pfn));
    }
    query_if(plan, query == Some(Query::AtTheOffer));
    come(plan, pfn, mfn);
    query_if(plan, query == Some(Query::AtTheFrame));
    plan.push(Step::Withdraw);
    let wait = plan.dice.between(1, 9);
    plan.push(Step::AwaitRounds(wait));
    plan.push(Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) });
    Some(())
}

/// Offered, used and withdrawn without a wait for a query; the p2m entry is written.
fn swift(plan: &mut Plan<'_>) -> Option<()> {
    let back = plan.chance(1, 2);
    let (pfn, mfn) = if back { plan.unmapped_data()? } else { (plan.hole()?, take_foreign(plan)?) };
    plan.push(Step::Accept(pfn));
    if back {
        let there = plan.dice.below(1 << 16);
        plan.push(Step::Entry { pfn, name: Name::Nothing });
        plan.push(Step::TransferOut { mfn, pfn, there, touched: true });
    }
    come(plan, pfn, mfn);
    plan.extend([Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) }, Step::Withdraw]);
    Some(())
}

/// An offer that no domain uses.
fn in_vain(plan: &mut Plan<'_>) -> Option<()> {
    let pfn = plan.hole()?;
    plan.push(Step::Accept(pfn));
    wait_if(plan, true);
    plan.push(Step::Withdraw);
    Some(())
}

/// Another domain writes a frame and gives it: Xen writes the entry of the grant table at once, or
/// word by word.
fn come(plan: &mut Plan<'_>, pfn: u64, mfn: u64) {
    plan.push(Step::WriteUnlogged(mfn));
    if plan.chance(1, 2) {
        return plan.push(Step::TransferIn { mfn, pfn });
    }
    plan.push(Step::Offer(Offer::Committed(pfn)));
    plan.push(Step::TransferIn { mfn, pfn });
    plan.push(Step::Offer(Offer::Committed(mfn)));
    plan.push(Step::Offer(Offer::Completed(mfn)));
}

/// Draws the query that sees a transfer entry; there must be one unless the p2m is written.
fn pick_query(plan: &mut Plan<'_>, must: bool) -> Option<Query> {
    let any = [Some(Query::AtTheOffer), Some(Query::AtTheFrame), None];
    plan.dice.pick(if must { &any[..2] } else { &any[..] })
}

fn query_if(plan: &mut Plan<'_>, wanted: bool) {
    plan.extend(wanted.then_some(Step::AwaitGrantQueries(GRANT_QUERIES)));
}
