// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sending: takes a batch from what is owed and decides it; keeps it in flight until it is
//! answered; records its answers.
//! Not here: the order of batches (`tracker`), the bytes (the transport's).
//! Units: at most `QUERY_FRAMES_MAX` pfns; they are a debt until each is paid or recorded
//! elsewhere.
//! Threads: the caller's.
//! Source: `docs/design.md`, laws 3 (debt) and 5 (the shadow is what was sent).

pub(crate) mod again;
pub(crate) mod moves;
mod plain;
mod view;

pub(crate) use view::{Notes, View};

use crate::cause::{Cause, CauseSet};
use crate::config::Sender;
use crate::destination::Destination;
use crate::error::Error;
use crate::frame::Pfn;
use crate::ledger::{Ledger, Out};
use crate::p2m::P2m;
use crate::port::{Answer, Deferral, Guest, QUERY_FRAMES_MAX};
use crate::resend::Taken;
use crate::resolve::{Outcome, Resolver};
use crate::round::Round;
use crate::uncertainty::Uncertainty;

/// Causes of a pfn that was never sent.
const NEVER_SENT: [CauseSet; 2] = [CauseSet::of(Cause::First), CauseSet::of(Cause::Growth)];

/// The position of a sweep over all that is owed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sweep {
    /// The next pfn.
    pub(crate) from: u64,
    /// Pages first: tables are postponed.
    pub(crate) holds_tables: bool,
}

impl Sweep {
    /// The first half.
    pub(crate) const PAGES: Self = Self { from: 0, holds_tables: true };
    /// The second one.
    pub(crate) const TABLES: Self = Self { from: 0, holds_tables: false };
}

/// Takes and decides the next batch of a sweep. The pages that have to be sent are then in flight;
/// there may be none. Returns where to go on, or `None` if nothing was left.
pub(crate) fn take(
    round: &mut Round,
    p2m: &P2m,
    ledger: &mut Ledger,
    destination: &mut Destination,
    guest: &mut Guest<'_>,
    sweep: Sweep,
) -> Result<Option<u64>, Error> {
    let (mut taken, out) = ledger.take(QUERY_FRAMES_MAX, sweep.from);
    if taken.pfns().is_empty() {
        return Ok(None);
    }
    let is_cut = round.report.round == 0 && taken.pfns().len() == QUERY_FRAMES_MAX;
    let kept =
        if is_cut && sweep.holds_tables { whole_blocks(taken.pfns()) } else { taken.pfns().len() };
    let mut outcomes = Vec::with_capacity(kept);
    let resolver = Resolver {
        config: &round.config,
        layout: &p2m.layout,
        p2m: guest.p2m,
        m2p: guest.m2p,
        suspended: round.is_suspended(),
    };
    if !resolver.run(guest.types, &taken.pfns()[..kept], &mut outcomes)? {
        round.note(Uncertainty::QueryFailed);
    }
    sort(&mut taken, &outcomes, out, round, destination, sweep.holds_tables);
    // Before the shadow is read again: a table of this batch may name one of these pfns.
    destination.remember();
    // The rest is not paid, so that it is owed as before.
    Ok(Some(taken.pfns().get(kept).map_or_else(|| taken.next(), |pfn| pfn.0)))
}

/// Pfns at the front that fill their blocks of [`QUERY_FRAMES_MAX`], as far as they are owed: the
/// last block may go on in the next batch. No block of the first copy is cut: a receiver makes a
/// 2 MiB page of 512 new pfns only if one record has all of them.
fn whole_blocks(pfns: &[Pfn]) -> usize {
    let block = |pfn: &Pfn| pfn.0 / QUERY_FRAMES_MAX as u64;
    let last = pfns.last().map_or(0, block);
    match pfns.partition_point(|pfn| block(pfn) < last) {
        0 => pfns.len(),
        whole => whole,
    }
}

/// Settles what needs no transport, and puts what does in flight.
fn sort(
    taken: &mut Taken<'_>,
    outcomes: &[Outcome],
    out: &mut Out,
    round: &mut Round,
    destination: &mut Destination,
    holds_tables: bool,
) {
    let (sender, suspended) = (round.config.sender, round.is_suspended());
    for (index, outcome) in outcomes.iter().enumerate() {
        let (pfn, causes) = (taken.pfns()[index], taken.causes()[index]);
        match *outcome {
            // The whole leaf waits, holes included: it stays in the bitmap, which costs nothing.
            Outcome::Wait(Deferral::LeafUnmapped) => {
                round.report.pages.deferred_uncertain += u64::from(holds_tables);
                continue;
            }
            Outcome::Wait(reason) => {
                round.report.pages.defer(reason);
                out.defer(pfn, reason, causes);
            }
            Outcome::WaitBeside(other) => {
                destination.sent.wait_beside(pfn, other);
                round.report.pages.defer(Deferral::M2pMismatch);
                out.defer(pfn, Deferral::M2pMismatch, causes);
            }
            Outcome::Unpopulated { entry, foreign } => {
                if sender != Sender::Engine && !NEVER_SENT.contains(&causes) {
                    destination.sent.hold(pfn); // a table that was sent may name it
                }
                destination.settle_unpopulated(pfn, entry, foreign);
                round.report.pages.unpopulated += 1;
            }
            Outcome::Send { page, .. } if holds_tables && page.kind.is_table() => {
                out.postpone(pfn, causes);
            }
            Outcome::Send { page, footing } => {
                // Whatever the answer will be, the receiver may have it from now on.
                destination.sent.hold(pfn);
                // A suspended guest's p2m reads the same for the caller and the engine.
                if sender == Sender::CallerReadsP2m && !suspended {
                    destination.sent.since.set(pfn);
                }
                out.send(page, causes, footing);
            }
        }
        taken.pay(index);
    }
}

/// Records the answers for the batch, one per page in order. Pages without an answer count as not
/// acknowledged. Returns the error of a page that can't be sent; it is owed as before.
pub(crate) fn answer(
    round: &mut Round,
    ledger: &mut Ledger,
    destination: &mut Destination,
    notes: &mut Notes,
    answers: impl IntoIterator<Item = Answer>,
) -> Result<(), Error> {
    let mut failed = Ok(());
    destination.tables_named(notes.take_named());
    let unsure = notes.take_unsure();
    let silence = || Answer::Deferred(Deferral::Unacknowledged);
    let mut answers = answers.into_iter();
    for index in 0..ledger.pages().len() {
        let (page, causes, footing) = ledger.page(index);
        let answer = answers.next().unwrap_or_else(silence);
        let digest = match answer {
            Answer::AcceptedCopy { digest } => Some(digest),
            _ => None,
        };
        match answer {
            Answer::Accepted | Answer::AcceptedCopy { .. } => {
                let cleared = notes.take_cleared_in(page.pfn);
                // Of another sender's tables it is not known that they were normalised here.
                let is_ours = round.config.sender == Sender::Engine;
                let named = notes.take_named_by(page.pfn).filter(|_| is_ours);
                destination.accept(&page, footing, named, cleared, digest);
                round.report.pages.accepted += 1;
                round.report.pages.tables += u64::from(page.kind.is_table());
            }
            Answer::Deferred(reason) => {
                let is_verdict = !(unsure && matches!(reason, Deferral::Table(_)));
                let reason = if is_verdict { reason } else { Deferral::QueryFailed };
                round.report.pages.defer(reason);
                destination.distrust(page.pfn); // it may have been sent anyway
                ledger.out.defer(page.pfn, reason, causes);
            }
            Answer::Failed(source) => {
                destination.distrust(page.pfn);
                ledger.bitmap.mark_all(page.pfn, causes);
                failed = Err(Error::Page { pfn: page.pfn, mfn: page.mfn, source });
            }
        }
    }
    destination.remember(); // before the debt is forgotten
    ledger.landed();
    notes.end();
    failed
}

/// The batch was not sent, or may not have been: all of it is owed as before.
pub(crate) fn turn_back(ledger: &mut Ledger, destination: &mut Destination, notes: &mut Notes) {
    destination.tables_named(notes.take_named());
    notes.take_unsure();
    ledger.pages().iter().for_each(|page| destination.distrust(page.pfn));
    ledger.turn_back();
    notes.end();
}
