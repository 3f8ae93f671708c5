// SPDX-License-Identifier: MIT OR Apache-2.0
//! One batch: taken from the resend bitmap, decided, sent, and its answers written down.
//! Not here: the order of batches (`migration`).
//! Units: at most `QUERY_FRAMES_MAX` pfns; they are a debt until each is paid or put down elsewhere.
//! Threads: the caller's.
//! Source: `docs/design.md`, laws 3 (debt) and 5 (the shadow is what was sent).

use std::cell::RefCell;

use crate::cause::Cause;
use crate::doubt::Doubt;
use crate::error::Error;
use crate::frame::{Entry, FrameType, Mfn, Pfn, Width};
use crate::migration::{Migration, Waiting};
use crate::port::{Answer, Deferral, MapFault, Page, Ports, QUERY_FRAMES_MAX};
use crate::report::PageCounts;
use crate::resolve::{Outcome, Resolver, is_frame, named_frame};
use crate::tracker::Tracker;
use crate::view::View;

/// What a batch leaves to be followed up once its debt is settled.
#[derive(Debug, Default)]
struct FollowUp {
    /// Pages accepted under an entry that the shadow did not hold.
    arrived: Vec<(Pfn, Mfn)>,
    /// Frames that a pfn had and has no more.
    departed: Vec<(Pfn, Mfn)>,
    /// Frames that tables named under pfns not accepted under them.
    named: Vec<(Mfn, Pfn)>,
    /// The transport's word on a page that can't be sent.
    failed: Option<Error>,
}

/// A page on its way.
#[derive(Clone, Copy)]
struct Flight {
    index: usize,
    page: Page,
    stale: bool,
    alias: bool,
}

impl Migration {
    /// Takes, decides and sends one batch of pfns from `from` on. Returns where to go on, or `None`
    /// if nothing was left. With `hold_tables`, page tables are postponed.
    pub(crate) fn batch(
        &mut self,
        ports: &mut Ports<'_>,
        from: u64,
        hold_tables: bool,
    ) -> Result<Option<u64>, Error> {
        let mut follow = FollowUp::default();
        let next = self.settle_batch(ports, from, hold_tables, &mut follow);
        // Also after an error: what was settled before it stays settled.
        self.follow(ports, &follow);
        match follow.failed {
            Some(error) => Err(error),
            None => next,
        }
    }

    fn settle_batch(
        &mut self,
        ports: &mut Ports<'_>,
        from: u64,
        hold_tables: bool,
        follow: &mut FollowUp,
    ) -> Result<Option<u64>, Error> {
        let Self { tracker, waiting, postponed, cleared, .. } = self;
        let Tracker { layout, shadow, resend, sent, doubts, report, config, .. } = tracker;
        let suspended = report.stage.is_suspended();
        let mut taken = resend.take(QUERY_FRAMES_MAX, from);
        if taken.pages().is_empty() {
            return Ok(None);
        }
        let pfns: Vec<_> = taken.pages().iter().map(|owed| owed.pfn).collect();
        let mut outcomes = Vec::with_capacity(pfns.len());
        let resolver = Resolver { config, layout, p2m: ports.p2m, m2p: ports.m2p, suspended };
        if !resolver.run(ports.types, &pfns, &mut outcomes)? {
            doubts.mark(Doubt::QueryFailed);
        }
        let width = layout.width();
        let mut flights = Vec::with_capacity(pfns.len());
        for (index, (&pfn, outcome)) in pfns.iter().zip(&outcomes).enumerate() {
            let causes = taken.pages()[index].causes;
            match *outcome {
                Outcome::Wait(reason) => {
                    report.pages.defer(reason);
                    waiting.insert(pfn, Waiting { reason, causes });
                    taken.pay(index);
                }
                Outcome::Frameless { entry, foreign } => {
                    follow.leave(pfn, shadow.entry(pfn), entry, width);
                    shadow.set(pfn, entry);
                    sent.frameless(pfn, foreign);
                    report.pages.frameless += 1;
                    cleared.remove(&pfn);
                    taken.pay(index);
                    #[cfg(debug_assertions)]
                    self.accepted.note(pfn, entry);
                }
                Outcome::Send { page, .. } if hold_tables && page.kind.is_table() => {
                    postponed.insert(pfn, causes);
                    taken.pay(index);
                }
                Outcome::Send { page, stale, alias } => {
                    sent.hold(pfn);
                    flights.push(Flight { index, page, stale, alias });
                }
            }
        }
        let next = taken.next();
        if flights.is_empty() {
            return Ok(Some(next));
        }
        let view = View {
            layout,
            p2m: ports.p2m,
            m2p: ports.m2p,
            shadow,
            types: RefCell::new(ports.types),
            foreign_pte: config.foreign_pte,
            suspended,
            named: RefCell::default(),
            cleared: RefCell::default(),
        };
        let pages: Vec<_> = flights.iter().map(|flight| flight.page).collect();
        let mut answers = Vec::with_capacity(pages.len());
        ports.transport.send(&pages, &view, &mut answers).map_err(Error::port("transport"))?;
        follow.named = view.named.into_inner();
        for page in &pages {
            cleared.remove(&page.pfn);
        }
        for (table, mfn) in view.cleared.into_inner() {
            cleared.entry(table).or_default().push(mfn);
        }
        // A transport that says too little has said nothing about the rest.
        answers.resize_with(pages.len(), || Answer::Deferred(Deferral::Unacknowledged));
        for (&Flight { index, page, stale, alias }, answer) in flights.iter().zip(answers) {
            let Page { pfn, mfn, entry, kind } = page;
            match answer {
                Answer::Accepted => {
                    let before = shadow.entry(pfn);
                    if before != entry {
                        follow.leave(pfn, before, entry, width);
                        follow.arrived.push((pfn, mfn));
                    }
                    shadow.set(pfn, entry);
                    sent.accepted(pfn, kind.is_table(), stale);
                    report.pages.accepted += 1;
                    report.pages.tables += u64::from(kind.is_table());
                    report.settled.aliases += u64::from(alias);
                    taken.pay(index);
                    #[cfg(debug_assertions)]
                    self.accepted.note(pfn, entry);
                }
                Answer::Deferred(reason) => {
                    report.pages.defer(reason);
                    let causes = taken.pages()[index].causes;
                    waiting.insert(pfn, Waiting { reason, causes });
                    taken.pay(index);
                }
                Answer::Failed(source) => {
                    follow.failed = Some(Error::Page { pfn, mfn, source });
                }
            }
        }
        Ok(Some(next))
    }

    /// Looks after frames that moved.
    fn follow(&mut self, ports: &mut Ports<'_>, follow: &FollowUp) {
        for &(pfn, mfn) in &follow.arrived {
            if self.tracker.sent.arrived(mfn, pfn) {
                self.tracker.report.pages.moved += 1;
                self.tracker.sent.doubt_tables();
            }
            self.tracker.frame_named(ports, mfn);
        }
        self.follow_departed(ports, &follow.departed);
        for &(mfn, pfn) in &follow.named {
            self.follow_named(mfn, pfn);
        }
    }

    /// A table was sent that names `mfn` as `pfn`, but `pfn` was not accepted under it.
    fn follow_named(&mut self, mfn: Mfn, pfn: Pfn) {
        let width = self.tracker.layout.width();
        if is_frame(self.tracker.shadow.entry(pfn).claim(width), mfn) {
            return; // it was, in the same batch
        }
        // A receiver that localises tables on arrival has made a frame for it.
        self.tracker.sent.hold(pfn);
        if self.tracker.sent.witness(mfn, pfn) {
            self.tracker.sent.doubt_tables();
        }
        if !self.is_owed(pfn) {
            self.tracker.resend.mark(pfn, Cause::Table);
        }
    }

    /// Frames that pfns had and have no more: gone from the domain, under another pfn, or to be watched.
    pub(crate) fn follow_departed(&mut self, ports: &mut Ports<'_>, departed: &[(Pfn, Mfn)]) {
        for chunk in departed.chunks(QUERY_FRAMES_MAX) {
            let known: Vec<_> =
                chunk.iter().copied().filter(|(_, mfn)| mfn.0 < ports.m2p.frames()).collect();
            let frames: Vec<_> = known.iter().map(|&(_, mfn)| mfn).collect();
            let mut kinds = vec![FrameType::Data; frames.len()];
            if !frames.is_empty() && ports.types.query(&frames, &mut kinds).is_err() {
                kinds.fill(FrameType::Data); // taken for the domain's: that errs to the safe side
            }
            for ((pfn, mfn), kind) in known.into_iter().zip(kinds) {
                if kind == FrameType::NotOwned {
                    self.tracker.sent.forget(mfn);
                } else {
                    self.frame_departed(ports, pfn, mfn);
                }
            }
        }
    }

    fn frame_departed(&mut self, ports: &Ports<'_>, pfn: Pfn, mfn: Mfn) {
        let named = ports.m2p.pfn(mfn).filter(|other| other.0 < self.tracker.layout.pfns());
        if let Some(other) = named.filter(|&other| other != pfn) {
            self.tracker.report.pages.moved += 1;
            self.tracker.sent.doubt_tables();
            self.tracker.resend.mark(other, Cause::Entry);
        } else if self.tracker.sent.witness(mfn, pfn) {
            self.tracker.report.pages.moved += 1;
            self.tracker.sent.doubt_tables();
        }
    }
}

impl FollowUp {
    /// Notes that `pfn` changes from one entry to another.
    fn leave(&mut self, pfn: Pfn, before: Entry, after: Entry, width: Width) {
        if let Some(mfn) = named_frame(before, width)
            && !is_frame(after.claim(width), mfn)
        {
            self.departed.push((pfn, mfn));
        }
    }
}

impl PageCounts {
    fn defer(&mut self, reason: Deferral) {
        match reason {
            Deferral::M2pMismatch => self.deferred_m2p += 1,
            Deferral::NotOwned | Deferral::MapFailed(MapFault::NotOwned | MapFault::Errno(_)) => {
                self.deferred_frame += 1;
            }
            Deferral::Table(_) => self.deferred_table += 1,
            Deferral::LeafUnmapped | Deferral::QueryFailed | Deferral::Unacknowledged => {
                self.deferred_doubt += 1;
            }
        }
    }
}
