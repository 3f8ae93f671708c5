// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ledger: every pfn that is owed to the destination, and why. A pfn is in the bitmap, in
//! flight, postponed or deferred.
//! Not here: what makes a pfn owed (`intake`, `structure`, `compare`), what is done about it
//! (`resolve`, `send`).
//! Units: pfns.
//! Threads: one owner; the bitmap is lent to shards.
//! Source: `docs/design.md`, law 3: what was taken is owed until it is paid.

use std::collections::BTreeMap;

use crate::bitmap::LINE_PFNS;
use crate::cause::{Cause, CauseSet};
use crate::destination::Footing;
use crate::frame::Pfn;
use crate::port::{Deferral, Page};
use crate::resend::{ResendBitmap, Taken};

/// The pfns that are owed.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// To be taken.
    pub(crate) bitmap: ResendBitmap,
    /// Out of the bitmap.
    pub(crate) out: Out,
    /// Accepted, and lost on the way by the transport's report: owed again from the next `wake` on.
    returned: Vec<Pfn>,
}

/// Owed pfns that are not in the bitmap.
#[derive(Debug, Default)]
pub(crate) struct Out {
    /// Pages in flight, in ascending order of pfns.
    pages: Vec<Page>,
    /// One for each page.
    flights: Vec<Flight>,
    /// Page tables postponed to the second half of the sweep, when most of the pages they name were
    /// sent.
    postponed: BTreeMap<Pfn, CauseSet>,
    /// Pfns that could not be sent in their round.
    deferred: BTreeMap<Pfn, Deferred>,
}

/// What else is known of a page in flight.
#[derive(Clone, Copy, Debug)]
struct Flight {
    causes: CauseSet,
    footing: Footing,
}

/// A pfn that could not be sent in its round.
#[derive(Clone, Copy, Debug)]
struct Deferred {
    reason: Deferral,
    causes: CauseSet,
}

impl Out {
    /// Puts a page in flight. Pages come in ascending order of pfns.
    pub(crate) fn send(&mut self, page: Page, causes: CauseSet, footing: Footing) {
        self.pages.push(page);
        self.flights.push(Flight { causes, footing });
    }

    /// Postpones a page table.
    pub(crate) fn postpone(&mut self, pfn: Pfn, causes: CauseSet) {
        self.postponed.insert(pfn, causes);
    }

    /// Defers a pfn to the next sweep.
    pub(crate) fn defer(&mut self, pfn: Pfn, reason: Deferral, causes: CauseSet) {
        self.deferred.insert(pfn, Deferred { reason, causes });
    }
}

impl Ledger {
    /// An empty ledger.
    pub(crate) fn new() -> Self {
        Self { bitmap: ResendBitmap::new(0), out: Out::default(), returned: Vec::new() }
    }

    /// Takes pfns from `from` on. Each is a debt until it is paid or put into [`Out`].
    pub(crate) fn take(&mut self, limit: usize, from: u64) -> (Taken<'_>, &mut Out) {
        (self.bitmap.take(limit, from), &mut self.out)
    }

    /// The same for an observer, which sends nothing: the pfns are paid at once. Also returns where
    /// to go on.
    pub(crate) fn take_paid(&self, limit: usize, from: u64) -> (Vec<(Pfn, CauseSet)>, u64) {
        let mut taken = self.bitmap.take(limit, from);
        let owed = taken.pfns().iter().copied().zip(taken.causes().iter().copied()).collect();
        taken.pay_all();
        (owed, taken.next())
    }

    /// The pages in flight.
    pub(crate) fn pages(&self) -> &[Page] {
        &self.out.pages
    }

    /// Why each of them is owed.
    pub(crate) fn page_causes(&self) -> impl Iterator<Item = CauseSet> {
        self.out.flights.iter().map(|flight| flight.causes)
    }

    /// A page in flight, why it is owed, and its footing.
    pub(crate) fn page(&self, index: usize) -> (Page, CauseSet, Footing) {
        let Flight { causes, footing } = self.out.flights[index];
        (self.out.pages[index], causes, footing)
    }

    /// Every page in flight was answered.
    pub(crate) fn landed(&mut self) {
        self.out.pages.clear();
        self.out.flights.clear();
    }

    /// The pages were not sent, or may not have been: all of them are owed as before.
    pub(crate) fn turn_back(&mut self) {
        for (page, flight) in self.out.pages.iter().zip(&self.out.flights) {
            self.bitmap.mark_all(page.pfn, flight.causes);
        }
        self.landed();
    }

    /// These pfns were accepted, and lost on the way.
    pub(crate) fn give_back(&mut self, pfns: &[Pfn]) {
        self.returned.extend(pfns);
    }

    /// Whether pfns were returned since the last `wake`.
    pub(crate) const fn has_returned(&self) -> bool {
        !self.returned.is_empty()
    }

    /// Puts deferred, postponed and returned pfns back into the bitmap. Marks first, forgets
    /// second. Returns how many were returned.
    pub(crate) fn wake(&mut self) -> u64 {
        for (&pfn, deferred) in &self.out.deferred {
            self.bitmap.mark_all(pfn, deferred.causes);
            self.bitmap.mark(pfn, Cause::Deferred);
        }
        self.out.deferred.clear();
        self.wake_postponed();
        let mark = |pfn| u64::from(self.bitmap.mark(pfn, Cause::Returned));
        self.returned.drain(..).map(mark).sum()
    }

    /// Puts postponed pfns back into the bitmap.
    pub(crate) fn wake_postponed(&mut self) {
        for (&pfn, &causes) in &self.out.postponed {
            self.bitmap.mark_all(pfn, causes);
        }
        self.out.postponed.clear();
    }

    /// Pfns owed now.
    pub(crate) fn owed(&self) -> u64 {
        let out = self.out.pages.len() + self.out.deferred.len() + self.out.postponed.len();
        self.bitmap.count() + out as u64
    }

    /// Fills in one bit for each line of pfns: set if any of them may be owed now.
    pub(crate) fn owed_lines(&self, lines: &mut Vec<u64>) {
        self.bitmap.owed_lines(lines);
        let out = &self.out;
        let pages = out.pages.iter().map(|page| page.pfn);
        let elsewhere = out.postponed.keys().chain(out.deferred.keys()).chain(&self.returned);
        for pfn in pages.chain(elsewhere.copied()) {
            let line = pfn.0 / LINE_PFNS;
            if let Some(word) = lines.get_mut((line / 64) as usize) {
                *word |= 1 << (line % 64);
            }
        }
    }

    /// Whether a pfn is owed now.
    pub(crate) fn is_owed(&self, pfn: Pfn) -> bool {
        !self.why(pfn).is_empty()
    }

    /// Why a pfn is owed now; empty if it is not.
    pub(crate) fn why(&self, pfn: Pfn) -> CauseSet {
        let in_flight = self.out.pages.binary_search_by_key(&pfn, |page| page.pfn).ok();
        let elsewhere = [
            self.out.deferred.get(&pfn).map(|deferred| deferred.causes),
            self.out.postponed.get(&pfn).copied(),
            in_flight.map(|index| self.out.flights[index].causes),
        ];
        elsewhere.into_iter().flatten().fold(self.bitmap.why(pfn), CauseSet::union)
    }

    /// Why a pfn was deferred.
    pub(crate) fn deferral(&self, pfn: Pfn) -> Option<Deferral> {
        self.out.deferred.get(&pfn).map(|deferred| deferred.reason)
    }

    /// The deferred pfns, and why they are.
    pub(crate) fn deferred(&self) -> impl Iterator<Item = (Pfn, Deferral)> {
        self.out.deferred.iter().map(|(&pfn, deferred)| (pfn, deferred.reason))
    }

    /// Number of deferred pfns.
    pub(crate) fn deferred_pfns(&self) -> u64 {
        self.out.deferred.len() as u64
    }

    /// The first pfn that is owed in the bitmap.
    pub(crate) fn first(&self) -> Option<Pfn> {
        self.bitmap.take(1, 0).pfns().first().copied() // not paid: owed as before
    }
}
