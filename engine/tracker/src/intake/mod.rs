// SPDX-License-Identifier: MIT OR Apache-2.0
//! Intake: what is read from a guest each round before anything is compared: roots, transfer
//! offers, log-dirty.
//! Not here: reading the log (`log_source`, or the caller), walking (`structure`), comparing
//! (`compare`).
//! Units: pfns; a request for the log is rounded up to whole leaves of Xen's log.
//! Threads: the owner's; all shards mark what is in the log.
//! Source: Xen `paging_log_dirty_op`: CLEAN covers a prefix and wipes whole leaves; law 1 and law
//! 4.

mod log;
mod offers;

pub(crate) use log::Log;
pub(crate) use offers::Offers;

use crate::cause::Cause;
use crate::config::Verify;
use crate::destination::Destination;
use crate::error::Error;
use crate::frame::Pfn;
use crate::ledger::Ledger;
use crate::p2m::P2m;
use crate::port::{Guest, LOG_DIRTY_LEAF_PFNS, LogBuffer, Phase, PortError, Roots, Transfer};
use crate::round::Round;
use crate::uncertain;
use crate::uncertainty::Uncertainty;

/// What was read from log-dirty.
#[derive(Debug)]
pub(crate) struct Read {
    /// The number of pfns that were read, from 0 on.
    pub(crate) pfns: u64,
    /// The marks of the log are lost; `Err` if log-dirty is not on again.
    pub(crate) lost: Option<Result<(), PortError>>,
}

/// The log of the round, and what is known of transfers.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    pub(crate) log: Log,
    pub(crate) offers: Offers,
    /// Pfns that the log of this round has to cover; 0 if it need not be read.
    span: u64,
    /// A log was lent and never handed over, and no round has ended since: an uncertainty of each
    /// round until then.
    lost: bool,
}

impl Intake {
    /// Begins a round.
    pub(crate) fn begin(&self, round: &mut Round) {
        if self.lost {
            round.note(Uncertainty::ShortBitmap);
        }
    }

    /// Ends a round. `compared`: all that had to be compared was.
    pub(crate) fn end(&mut self, compared: bool, suspended: bool) {
        if compared {
            self.offers.end_round(suspended);
        }
        self.lost = false;
    }

    /// Reads what has to be read before the log.
    pub(crate) fn before_log(
        &mut self,
        round: &mut Round,
        p2m: &mut P2m,
        ledger: &Ledger,
        destination: &Destination,
        guest: &mut Guest<'_>,
    ) -> Result<(), Error> {
        let roots = guest.phase(Phase::Roots, |guest| {
            self.check_offers(round, p2m, ledger, destination, guest)?;
            let held = guest.p2m.domain_frames().map_err(Error::port("p2m source"))?;
            p2m.domain.count(held, guest.m2p.frames());
            guest.p2m.roots().map_err(Error::port("p2m source"))
        })?;
        // The log was switched on just now: the first copy needs no bitmap.
        let is_first = round.is_first() && p2m.roots.is_none();
        self.span = if is_first { 0 } else { span(&roots, p2m) };
        Ok(())
    }

    /// The buffer for the log: empty, as long as the log has to be read. It has no pfns if the log
    /// need not be read.
    pub(crate) fn buffer(&mut self) -> LogBuffer<'_> {
        self.log.reset(self.span);
        self.log.fill()
    }

    /// Owes what the log names, and what it may name where it was not read; finds the p2m frames in
    /// it.
    pub(crate) fn take_log(
        &mut self,
        round: &mut Round,
        p2m: &mut P2m,
        ledger: &mut Ledger,
        destination: &Destination,
        guest: &mut Guest<'_>,
        read: impl FnOnce(&mut Self) -> Read,
    ) -> Result<(), Error> {
        if self.span > 0 {
            guest.phase(Phase::Clean, |guest| {
                let read = read(self);
                self.mark(round, p2m, ledger, destination, guest, read)
            })?;
        }
        let roots = guest.phase(Phase::Roots, |guest| {
            self.check_offers(round, p2m, ledger, destination, guest)?;
            guest.p2m.roots().map_err(Error::port("p2m source"))
        })?;
        p2m.compare_roots(&roots, round.config.rewalk);
        Ok(())
    }

    /// The log buffer was lent and not handed over: owes what it has, and what it may have had.
    pub(crate) fn lose_log(
        &mut self,
        round: &mut Round,
        p2m: &mut P2m,
        ledger: &mut Ledger,
        destination: &Destination,
        guest: &mut Guest<'_>,
    ) -> Result<(), Error> {
        if self.span == 0 {
            return Ok(());
        }
        self.lost = true;
        self.mark(round, p2m, ledger, destination, guest, Read { pfns: 0, lost: None })
    }

    fn mark(
        &mut self,
        round: &mut Round,
        p2m: &mut P2m,
        ledger: &mut Ledger,
        destination: &Destination,
        guest: &mut Guest<'_>,
        read: Read,
    ) -> Result<(), Error> {
        // Before anything else can fail: what was read is in no other log.
        round.report.log_dirty_pfns = self.log.owe(&mut ledger.bitmap, &round.shards);
        let uncertainty =
            if read.lost.is_some() { Uncertainty::LogLost } else { Uncertainty::ShortBitmap };
        read.lost.unwrap_or(Ok(())).map_err(Error::port("log-dirty"))?;
        // Upper frames lead to everything else and are few: the m2p is read for each. Writes to one
        // that had no pfn so far were not marked anywhere.
        for part in p2m.layout.backing.to_ask() {
            p2m.p2m_frame_moved(part, guest.m2p, &mut round.report.structure);
        }
        let mut parts = p2m.layout.backing.dirty(&self.log);
        let unread = read.pfns.min(self.span)..self.span;
        if !unread.is_empty() {
            // What was not read may be dirty: so may every p2m frame there.
            let backing = &p2m.layout.backing;
            let from = unread.start;
            uncertain::owe(unread, p2m, ledger, destination);
            let unread = |&part: &usize| backing.pfn(part).is_some_and(|pfn| pfn.0 >= from);
            parts.extend((0..backing.len()).filter(unread));
            round.note(uncertainty);
        }
        p2m.p2m_frames_written(&parts);
        if round.config.verify == Verify::Full {
            for leaf in p2m.leaves() {
                p2m.pending.add_new(leaf, Cause::Uncertain);
            }
        }
        Ok(())
    }

    /// Checks whether the guest takes frames by transfer, and for which pfns. Before and after
    /// CLEAN: a frame that came back just before it has its leaf in this round's log and in no
    /// other, and the offer may be as recent.
    fn check_offers(
        &mut self,
        round: &mut Round,
        p2m: &P2m,
        ledger: &Ledger,
        destination: &Destination,
        guest: &mut Guest<'_>,
    ) -> Result<(), Error> {
        let failed = Error::port("unlogged writers");
        let offered = guest.unlogged.accepts_transfer().map_err(failed)?;
        // The port reports an offer once: record it even if a later step fails.
        let named = named(guest);
        for pfn in self.offers.record(offered, named.as_ref().ok().and_then(Option::as_deref)) {
            ledger.bitmap.mark(pfn, Cause::Unlogged);
        }
        named.map_err(Error::port("unlogged writers"))?;
        if round.is_suspended() && self.offers.are_nameless() {
            round.note(Uncertainty::Transfers);
            uncertain::owe_all(p2m, ledger, destination);
        }
        Ok(())
    }
}

/// Owes what is written without a log-dirty mark, for a suspended guest.
pub(crate) fn owe_unlogged(
    round: &mut Round,
    ledger: &Ledger,
    guest: &mut Guest<'_>,
) -> Result<(), Error> {
    let mut pfns = Vec::new();
    guest.unlogged.pfns(&mut pfns).map_err(Error::port("unlogged writers"))?;
    pfns.sort_unstable();
    pfns.dedup();
    for pfn in pfns {
        let known = ledger.bitmap.mark(pfn, Cause::Unlogged);
        round.report.settled.unlogged += u64::from(known);
    }
    Ok(())
}

/// Pfns that a request for the log has to cover: the guest's own count up to the p2m size limit,
/// everything tracked, and every backing pfn. Never 0: Xen treats a CLEAN without a bitmap as one
/// that clears everything unread.
fn span(roots: &Roots, p2m: &P2m) -> u64 {
    roots
        .pfn_count
        .min(p2m.limit_pfns())
        .max(p2m.layout.pfns())
        .max(p2m.layout.backing.pfns_with_frames().pfns())
        .max(1)
        .next_multiple_of(LOG_DIRTY_LEAF_PFNS)
}

/// The pfns that transfer entries of the grant table name, if that is known.
fn named(guest: &mut Guest<'_>) -> Result<Option<Vec<Pfn>>, PortError> {
    let mut entries = Vec::new();
    if !guest.unlogged.transfers(&mut entries)? {
        return Ok(None);
    }
    let named = entries.iter().filter_map(|&entry| match entry {
        Transfer::Into(pfn) => Some(pfn),
        Transfer::Came(mfn) => guest.m2p.pfn(mfn).filter(|_| mfn.0 < guest.m2p.frames()),
    });
    Ok(Some(named.collect()))
}
