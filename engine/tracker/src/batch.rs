// SPDX-License-Identifier: MIT OR Apache-2.0
//! One batch: taken from the resend bitmap, decided, sent, and its answers written down.
//! Not here: the order of batches (`migration`).
//! Units: at most `QUERY_FRAMES_MAX` pfns; they are a debt until each is paid or put down elsewhere.
//! Threads: the caller's.
//! Source: `docs/design.md`, laws 3 (debt) and 5 (the shadow is what was sent).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::cause::{Cause, CauseSet};
use crate::doubt::Doubt;
use crate::error::Error;
use crate::frame::{Claim, Entry, FrameType, Mfn, Pfn, Width};
use crate::migration::{Migration, Waiting};
use crate::port::{Answer, Deferral, Page, Ports, QUERY_FRAMES_MAX};
use crate::report::{PageCounts, RoundReport};
use crate::resend::Taken;
use crate::resolve::{Outcome, Resolver, is_frame, named_frame};
use crate::sent::Sent;
use crate::shadow::Shadow;
use crate::tracker::Tracker;
use crate::view::View;

/// What a batch leaves to be followed up once its debt is settled.
#[derive(Debug, Default)]
struct FollowUp {
    /// Pages that were accepted: their frames are where the m2p says, also under an equal entry.
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
        let Tracker { layout, shadow, resend, sent, doubts, report, config, .. } =
            &mut self.tracker;
        let suspended = report.stage.is_suspended();
        let mut taken = resend.take(QUERY_FRAMES_MAX, from);
        if taken.pfns().is_empty() {
            return Ok(None);
        }
        let mut outcomes = Vec::with_capacity(taken.pfns().len());
        let resolver = Resolver { config, layout, p2m: ports.p2m, m2p: ports.m2p, suspended };
        if !resolver.run(ports.types, taken.pfns(), &mut outcomes)? {
            doubts.mark(Doubt::QueryFailed);
        }
        let mut books = Books {
            width: layout.width(),
            shadow,
            sent,
            report,
            waiting: &mut self.waiting,
            postponed: &mut self.postponed,
            cleared: &mut self.cleared,
            #[cfg(debug_assertions)]
            accepted: &mut self.accepted,
            follow,
            remembered: Vec::new(),
        };
        let flights = books.sort(&mut taken, &outcomes, hold_tables);
        // Before anybody looks at the shadow again: a table of this batch may name one of these pfns.
        books.remember();
        if !flights.is_empty() {
            let view = View {
                layout,
                p2m: ports.p2m,
                m2p: ports.m2p,
                shadow: books.shadow,
                types: RefCell::new(ports.types),
                foreign_pte: config.foreign_pte,
                suspended,
                named: RefCell::default(),
                cleared: RefCell::default(),
                unsure: Cell::new(false),
                foreign: RefCell::default(),
            };
            let pages: Vec<_> = flights.iter().map(|flight| flight.page).collect();
            let mut answers = Vec::with_capacity(pages.len());
            let sent = ports.transport.send(&pages, &view, &mut answers);
            let unsure = view.unsure.get();
            let (named, cleared) = (view.named.into_inner(), view.cleared.into_inner());
            books.note_tables(&pages, named, cleared);
            sent.map_err(Error::port("transport"))?;
            // A transport that says too little has said nothing about the rest.
            answers.resize_with(pages.len(), || Answer::Deferred(Deferral::Unacknowledged));
            for (flight, answer) in flights.into_iter().zip(answers) {
                let answer = match answer {
                    Answer::Deferred(Deferral::Table(_)) if unsure => {
                        Answer::Deferred(Deferral::QueryFailed)
                    }
                    answer => answer,
                };
                books.write_down(&mut taken, flight, answer);
            }
            books.remember(); // before the debt is forgotten
        }
        Ok(Some(taken.next()))
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
        if self.tracker.shadow.entry(pfn).claim(width) == Claim::Frame(mfn) {
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

/// Everything that a batch's outcomes and answers are written into.
struct Books<'a> {
    width: Width,
    shadow: &'a mut Shadow,
    sent: &'a mut Sent,
    report: &'a mut RoundReport,
    waiting: &'a mut BTreeMap<Pfn, Waiting>,
    postponed: &'a mut BTreeMap<Pfn, CauseSet>,
    cleared: &'a mut BTreeMap<Pfn, Vec<Mfn>>,
    #[cfg(debug_assertions)]
    accepted: &'a mut crate::invariant::Accepted,
    follow: &'a mut FollowUp,
    /// Entries under which pfns were accepted and which the shadow does not show yet, in ascending order.
    remembered: Vec<(Pfn, Entry)>,
}

impl Books<'_> {
    /// Settles what needs no transport and returns what does. What is returned is still a debt.
    fn sort(&mut self, taken: &mut Taken<'_>, outcomes: &[Outcome], hold: bool) -> Vec<Flight> {
        let mut flights = Vec::with_capacity(outcomes.len());
        for (index, outcome) in outcomes.iter().enumerate() {
            let (pfn, causes) = (taken.pfns()[index], taken.causes()[index]);
            match *outcome {
                // The whole leaf waits, holes and all: it stays in the bitmap, which costs nothing.
                Outcome::Wait(Deferral::LeafUnmapped) => {
                    self.report.pages.deferred_doubt += u64::from(hold);
                }
                Outcome::Wait(reason) => {
                    self.wait(pfn, reason, causes);
                    taken.pay(index);
                }
                Outcome::Frameless { entry, foreign } => {
                    self.settle_frameless(pfn, entry, foreign);
                    taken.pay(index);
                }
                Outcome::Send { page, .. } if hold && page.kind.is_table() => {
                    self.postponed.insert(pfn, causes);
                    taken.pay(index);
                }
                Outcome::Send { page, stale, alias } => {
                    // Whatever the answer will be, the receiver may have it from now on.
                    self.sent.hold(pfn);
                    flights.push(Flight { index, page, stale, alias });
                }
            }
        }
        flights
    }

    fn wait(&mut self, pfn: Pfn, reason: Deferral, causes: CauseSet) {
        self.report.pages.defer(reason);
        self.waiting.insert(pfn, Waiting { reason, causes });
    }

    fn settle_frameless(&mut self, pfn: Pfn, entry: Entry, foreign: bool) {
        self.accept(pfn, entry);
        self.sent.frameless(pfn, foreign);
        self.cleared.remove(&pfn);
        self.report.pages.frameless += 1;
    }

    /// Notes what the tables of a batch were normalised with.
    fn note_tables(&mut self, pages: &[Page], named: Vec<(Mfn, Pfn)>, cleared: Vec<(Pfn, Mfn)>) {
        self.follow.named = named;
        for page in pages {
            self.cleared.remove(&page.pfn);
        }
        for (table, mfn) in cleared {
            self.cleared.entry(table).or_default().push(mfn);
        }
    }

    /// Writes down the transport's answer for one page. A failed one stays a debt.
    fn write_down(&mut self, taken: &mut Taken<'_>, flight: Flight, answer: Answer) {
        let Flight { index, page: Page { pfn, mfn, entry, kind }, stale, alias } = flight;
        match answer {
            Answer::Accepted => {
                self.follow.arrived.push((pfn, mfn));
                self.accept(pfn, entry);
                self.sent.accepted(pfn, kind.is_table(), stale);
                self.report.pages.accepted += 1;
                self.report.pages.tables += u64::from(kind.is_table());
                self.report.settled.aliases += u64::from(alias);
                taken.pay(index);
            }
            Answer::Deferred(reason) => {
                self.wait(pfn, reason, taken.causes()[index]);
                taken.pay(index);
            }
            Answer::Failed(source) => {
                self.follow.failed = Some(Error::Page { pfn, mfn, source });
            }
        }
    }

    /// The pfn was accepted under this entry: law 5.
    fn accept(&mut self, pfn: Pfn, entry: Entry) {
        let before = named_frame(self.shadow.entry(pfn), self.width);
        if let Some(mfn) = before.filter(|&mfn| !is_frame(entry.claim(self.width), mfn)) {
            self.follow.departed.push((pfn, mfn));
        }
        self.remembered.push((pfn, entry));
        #[cfg(debug_assertions)]
        self.accepted.note(pfn, entry);
    }

    /// Writes what was accepted into the shadow, leaf by leaf.
    fn remember(&mut self) {
        self.shadow.update(&self.remembered);
        self.remembered.clear();
    }
}

impl PageCounts {
    fn defer(&mut self, reason: Deferral) {
        match reason {
            Deferral::M2pMismatch => self.deferred_m2p += 1,
            Deferral::NotOwned | Deferral::MapFailed(_) => {
                self.deferred_frame += 1;
            }
            Deferral::Table(_) => self.deferred_table += 1,
            Deferral::LeafUnmapped | Deferral::QueryFailed | Deferral::Unacknowledged => {
                self.deferred_doubt += 1;
            }
        }
    }
}
