// SPDX-License-Identifier: MIT OR Apache-2.0
//! What has to hold before a suspended round is settled, and the errors if it does not.
//! Not here: the steps towards that (`tracker`).
//! Units: pfns, frames.
//! Threads: one owner.
//! Source: `docs/design.md`, laws 6, 7 and 9; the limit:
//! `docs/decisions/0021-the-books-balance.md`.

use crate::config::{UNACCOUNTED_FRAMES_MAX, UnaccountedPolicy};
use crate::destination::Destination;
use crate::error::{EntryCause, Error};
use crate::frame::Pfn;
use crate::ledger::Ledger;
use crate::p2m::P2m;
use crate::port::{Deferral, Guest};
use crate::round::Round;

/// Pfns that may wait in excess of the frames that the domain holds.
const WAITING_SLACK: u64 = 65_536;

/// The memory for pfns that wait, and for those that were sent against the m2p, is bounded by the
/// domain's frames: each frame has one pfn.
///
/// # Errors
/// [`Error::TooManyDeferred`].
pub(crate) fn expect_few_deferred(
    p2m: &P2m,
    ledger: &Ledger,
    destination: &Destination,
) -> Result<(), Error> {
    let sent = &destination.sent;
    let waiting = ledger.deferred_pfns().max(sent.waiting_beside_pfns());
    let waiting = waiting + sent.stale_pfns() + sent.alias_pfns();
    let domain_frames = p2m.domain.most;
    if waiting <= domain_frames.saturating_add(WAITING_SLACK) {
        return Ok(());
    }
    let first = ledger.deferred().map(|(pfn, _)| pfn).chain(sent.unsound()).next();
    first.map_or(Ok(()), |pfn| Err(Error::TooManyDeferred { pfn, waiting, domain_frames }))
}

/// A suspended guest does not fix a page table.
///
/// # Errors
/// [`Error::Table`].
pub(crate) fn expect_no_bad_table(ledger: &Ledger) -> Result<(), Error> {
    let bad = ledger.deferred().find_map(|(pfn, reason)| match reason {
        Deferral::Table(fault) => Some(Error::Table { pfn, fault }),
        _ => None,
    });
    bad.map_or(Ok(()), Err)
}

/// The first pfn that a suspended round could not settle, and the frame that its entry names now.
pub(crate) fn unsettled(p2m: &mut P2m, ledger: &Ledger, guest: &Guest<'_>) -> Error {
    if let Some(error) = p2m.recheck.take_failed() {
        return Error::port("frame types")(error);
    }
    let (pfn, cause) = match ledger.deferred().next() {
        Some((pfn, reason)) => (pfn, EntryCause::Deferred(reason)),
        None => (ledger.first().unwrap_or(Pfn(0)), EntryCause::Restless),
    };
    let entry = p2m.layout.entry(guest.p2m, pfn);
    let mfn = entry.and_then(|entry| entry.claim(p2m.width()).named());
    Error::Entry { pfn, mfn, cause }
}

/// The books: compares the number of distinct frames that were sent with the frames that the domain
/// holds. All of these have a pfn, except for a few that are between Xen and a pfn.
///
/// # Errors
/// The guest is not suspended any more; [`Error::Unaccounted`] if they differ by more than a real
/// guest's ever do, and the policy does not allow it.
pub(crate) fn balance(
    round: &mut Round,
    destination: &Destination,
    guest: &mut Guest<'_>,
) -> Result<(), Error> {
    guest.p2m.still_suspended().map_err(Error::port("p2m source"))?;
    let held = guest.p2m.domain_frames().map_err(Error::port("p2m source"))?;
    let domain_frames = held.min(guest.m2p.frames()); // a port may answer anything
    let unaccounted_frames = domain_frames.cast_signed() - destination.frames().cast_signed();
    round.report.unaccounted_frames = Some(unaccounted_frames);
    let refuse = round.config.unaccounted == UnaccountedPolicy::Refuse;
    if refuse && unaccounted_frames.unsigned_abs() > UNACCOUNTED_FRAMES_MAX {
        let limit = UNACCOUNTED_FRAMES_MAX;
        return Err(Error::Unaccounted { unaccounted_frames, domain_frames, limit });
    }
    Ok(())
}
