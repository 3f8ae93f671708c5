// SPDX-License-Identifier: MIT OR Apache-2.0
//! One batch: taken from the resend bitmap and decided, in flight until it is answered, its answers written down.
//! Not here: the order of batches (`round`).
//! Units: at most `QUERY_FRAMES_MAX` pfns; they are a debt until each is paid or put down elsewhere.
//! Threads: the caller's.
//! Source: `docs/design.md`, laws 3 (debt) and 5 (the shadow is what was sent).

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::cause::{Cause, CauseSet};
use crate::config::{Config, Sender};
use crate::doubt::{Doubt, Doubts};
use crate::error::Error;
use crate::frame::{Entry, FrameType, Mfn, Pfn, Width};
use crate::layout::Layout;
use crate::migration::{Migration, Waiting};
use crate::pfn_set::PfnSet;
use crate::port::{Answer, Deferral, FrameTypes, M2p, P2mSource, Page, Ports, QUERY_FRAMES_MAX};
use crate::report::{PageCounts, RoundReport};
use crate::resend::{ResendBitmap, Taken};
use crate::resolve::{Outcome, Resolver};
use crate::sent::{Footing, Sent};
use crate::shadow::Shadow;
use crate::table::TableView;
use crate::tracker::Tracker;
use crate::view::{Notes, View};

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

/// What else is known of a page on its way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    causes: CauseSet,
    footing: Footing,
}

/// Pages on their way: out of the bitmap, and not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// In ascending order of pfns.
    pages: Vec<Page>,
    /// One for each page.
    flights: Vec<Flight>,
    /// What their tables were normalised with so far.
    notes: Notes,
    follow: FollowUp,
}

impl Batch {
    /// The pages, in ascending order of pfns.
    pub(crate) fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// Why each of them is owed.
    pub(crate) fn causes(&self) -> impl Iterator<Item = CauseSet> {
        self.flights.iter().map(|flight| flight.causes)
    }

    /// Owes all of them as they were owed.
    fn owe(&self, resend: &ResendBitmap) {
        for (page, flight) in self.pages.iter().zip(&self.flights) {
            resend.mark_all(page.pfn, flight.causes);
        }
    }

    /// Why a pfn is in flight; empty if it is not.
    pub(crate) fn why(&self, pfn: Pfn) -> CauseSet {
        let found = self.pages.binary_search_by_key(&pfn, |page| page.pfn);
        found.map_or_else(|_| CauseSet::default(), |index| self.flights[index].causes)
    }
}

impl Migration {
    /// Takes and decides one batch of pfns from `from` on. Returns where to go on, or `None` if nothing was
    /// left. What has to be sent is in `self.batch`, which is empty if nothing has. With `hold_tables`, page
    /// tables are postponed.
    pub(crate) fn take_batch(
        &mut self,
        ports: &mut Ports<'_>,
        from: u64,
        hold_tables: bool,
    ) -> Result<Option<u64>, Error> {
        let next = self.decide_batch(ports, from, hold_tables);
        if self.batch.pages.is_empty() {
            self.follow(ports); // also after an error: what was settled before it stays settled
        }
        next
    }

    fn decide_batch(
        &mut self,
        ports: &mut Ports<'_>,
        from: u64,
        hold_tables: bool,
    ) -> Result<Option<u64>, Error> {
        let (mut books, Parts { layout, resend, doubts, config }) = self.books(ports.m2p);
        let suspended = books.report.stage.is_suspended();
        let mut taken = resend.take(QUERY_FRAMES_MAX, from);
        if taken.pfns().is_empty() {
            return Ok(None);
        }
        let mut outcomes = Vec::with_capacity(taken.pfns().len());
        let resolver = Resolver { config, layout, p2m: ports.p2m, m2p: ports.m2p, suspended };
        if !resolver.run(ports.types, taken.pfns(), &mut outcomes)? {
            doubts.mark(Doubt::QueryFailed);
        }
        books.sort(&mut taken, &outcomes, hold_tables);
        // Before anybody looks at the shadow again: a table of this batch may name one of these pfns.
        books.remember();
        Ok(Some(taken.next()))
    }

    /// The view that the page tables of the batch are normalised with: what it resolves is noted for the batch.
    pub fn view<'a>(
        &'a self,
        p2m: &'a dyn P2mSource,
        m2p: &'a dyn M2p,
        types: &'a mut dyn FrameTypes,
    ) -> impl TableView + use<'a> {
        View {
            layout: &self.tracker.layout,
            p2m,
            m2p,
            shadow: &self.tracker.shadow,
            sent: &self.tracker.sent,
            types: RefCell::new(types),
            foreign_pte: self.tracker.config.foreign_pte,
            suspended: self.tracker.report.stage.is_suspended(),
            notes: &self.batch.notes,
        }
    }

    /// Writes down the answers for the batch, one per page in order. Who says too little has said nothing
    /// about the rest.
    ///
    /// # Errors
    /// [`Error::Page`] if a page can't be sent; it is owed as before.
    pub(crate) fn settle_batch(
        &mut self,
        ports: &mut Ports<'_>,
        answers: impl IntoIterator<Item = Answer>,
    ) -> Result<(), Error> {
        let (mut books, Parts { resend, .. }) = self.books(ports.m2p);
        let unsure = books.note_tables();
        let silence = || Answer::Deferred(Deferral::Unacknowledged);
        let mut answers = answers.into_iter();
        for index in 0..books.batch.pages.len() {
            let answer = match answers.next().unwrap_or_else(silence) {
                Answer::Deferred(Deferral::Table(_)) if unsure => {
                    Answer::Deferred(Deferral::QueryFailed)
                }
                answer => answer,
            };
            books.write_down(resend, index, answer);
        }
        books.remember(); // before the debt is forgotten
        self.end_batch(ports)
    }

    /// The batch was not sent, or nobody knows: all of it is owed as before.
    pub(crate) fn give_batch_back(&mut self, ports: &mut Ports<'_>) {
        if self.batch.pages.is_empty() {
            return;
        }
        let (mut books, Parts { resend, .. }) = self.books(ports.m2p);
        books.note_tables();
        books.batch.owe(resend);
        let _ = self.end_batch(ports); // no page of it was answered
    }

    /// The same at the end of everything: nobody follows up any more.
    pub(crate) fn forget_batch(&mut self) {
        self.batch.owe(&self.tracker.resend);
        self.batch = Batch::default();
    }

    fn end_batch(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        self.batch.pages.clear();
        self.batch.flights.clear();
        self.batch.notes.end();
        self.follow(ports);
        self.batch.follow.failed.take().map_or(Ok(()), Err)
    }

    /// Everything that outcomes and answers are written into, and what is looked at meanwhile.
    fn books(&mut self, m2p: &dyn M2p) -> (Books<'_>, Parts<'_>) {
        let Tracker { layout, shadow, resend, sent, doubts, report, config, handed, .. } =
            &mut self.tracker;
        let books = Books {
            width: layout.width(),
            machine_frames: m2p.frames(),
            sender: config.sender,
            handed,
            shadow,
            sent,
            report,
            waiting: &mut self.waiting,
            postponed: &mut self.postponed,
            cleared: &mut self.cleared,
            #[cfg(debug_assertions)]
            accepted: &mut self.accepted,
            batch: &mut self.batch,
            remembered: Vec::new(),
        };
        (books, Parts { layout, resend, doubts, config })
    }

    /// Looks after frames that moved.
    fn follow(&mut self, ports: &mut Ports<'_>) {
        let mut follow = std::mem::take(&mut self.batch.follow);
        for (pfn, mfn) in follow.arrived.drain(..) {
            if self.tracker.sent.arrived(mfn, pfn) {
                self.tracker.report.pages.moved += 1;
                self.tracker.sent.doubt_tables();
            }
            self.tracker.frame_named(ports, mfn);
        }
        self.follow_departed(ports, &follow.departed);
        follow.departed.clear();
        for (mfn, pfn) in follow.named.drain(..) {
            self.follow_named(mfn, pfn);
        }
        self.batch.follow = follow; // its memory serves the next
    }

    /// A table was sent that names `mfn` as `pfn`, but `pfn` was not accepted under it.
    fn follow_named(&mut self, mfn: Mfn, pfn: Pfn) {
        if self.tracker.is_settled_with(pfn, mfn) {
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

/// Pfns that are owed for nothing but this were never a frame's as far as anybody who sends could know.
const FIRST_LOOKS: [CauseSet; 2] = [CauseSet::of(Cause::First), CauseSet::of(Cause::Growth)];

/// What a batch is decided by.
struct Parts<'a> {
    layout: &'a Layout,
    resend: &'a ResendBitmap,
    doubts: &'a mut Doubts,
    config: &'a Config,
}

/// Everything that a batch's outcomes and answers are written into.
struct Books<'a> {
    width: Width,
    machine_frames: u64,
    sender: Sender,
    handed: &'a mut PfnSet,
    shadow: &'a mut Shadow,
    sent: &'a mut Sent,
    report: &'a mut RoundReport,
    waiting: &'a mut BTreeMap<Pfn, Waiting>,
    postponed: &'a mut BTreeMap<Pfn, CauseSet>,
    cleared: &'a mut BTreeMap<Pfn, Vec<Mfn>>,
    #[cfg(debug_assertions)]
    accepted: &'a mut crate::invariant::Accepted,
    batch: &'a mut Batch,
    /// Entries under which pfns were accepted and which the shadow does not show yet, in ascending order.
    remembered: Vec<(Pfn, Entry)>,
}

impl Books<'_> {
    /// Settles what needs no transport and puts what does in flight, where it is a debt as before.
    fn sort(&mut self, taken: &mut Taken<'_>, outcomes: &[Outcome], hold: bool) {
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
                Outcome::WaitBeside(other) => {
                    self.sent.contest(pfn, other);
                    self.wait(pfn, Deferral::M2pMismatch, causes);
                    taken.pay(index);
                }
                Outcome::Frameless { entry, foreign } => {
                    if self.sender != Sender::Told && !FIRST_LOOKS.contains(&causes) {
                        self.sent.hold(pfn); // a table that was sent may name it
                    }
                    self.settle_frameless(pfn, entry, foreign);
                    taken.pay(index);
                }
                Outcome::Send { page, .. } if hold && page.kind.is_table() => {
                    self.postponed.insert(pfn, causes);
                    taken.pay(index);
                }
                Outcome::Send { page, footing } => {
                    // Whatever the answer will be, the receiver may have it from now on.
                    self.sent.hold(pfn);
                    // Of a guest that stands still everybody reads the same.
                    if self.sender == Sender::Reads && !self.report.stage.is_suspended() {
                        self.handed.set(pfn);
                    }
                    self.batch.pages.push(page);
                    self.batch.flights.push(Flight { causes, footing });
                    taken.pay(index);
                }
            }
        }
    }

    fn wait(&mut self, pfn: Pfn, reason: Deferral, causes: CauseSet) {
        self.report.pages.defer(reason);
        self.waiting.insert(pfn, Waiting { reason, causes });
    }

    fn settle_frameless(&mut self, pfn: Pfn, entry: Entry, foreign: bool) {
        if foreign
            && !self.sent.is_foreign(pfn)
            && self.named(pfn) == entry.claim(self.width).named()
        {
            // It was the pfn's own until somebody else got it under the same entry: a table may name it so.
            self.sent.doubt_tables();
        }
        let before = self.accept(pfn, entry);
        self.sent.frameless(pfn, before, foreign);
        self.cleared.remove(&pfn);
        self.report.pages.frameless += 1;
    }

    /// Notes what the tables of the batch were normalised with. Returns whether a query failed.
    fn note_tables(&mut self) -> bool {
        let Batch { notes, follow, .. } = &mut *self.batch;
        follow.named.append(&mut notes.take_named());
        notes.take_unsure()
    }

    /// What was cleared in a page, if it is a table, as it was accepted.
    fn note_cleared(&mut self, pfn: Pfn, kind: FrameType) {
        match self.batch.notes.take_cleared_in(pfn).filter(|_| kind.is_table()) {
            Some(frames) => self.cleared.insert(pfn, frames),
            None => self.cleared.remove(&pfn),
        };
    }

    /// Writes down the answer for one page. A failed one stays a debt.
    fn write_down(&mut self, resend: &ResendBitmap, index: usize, answer: Answer) {
        let Page { pfn, mfn, entry, kind } = self.batch.pages[index];
        let Flight { causes, footing } = self.batch.flights[index];
        match answer {
            Answer::Accepted => {
                self.batch.follow.arrived.push((pfn, mfn));
                let before = self.accept(pfn, entry);
                // The m2p may have gone over to a pfn that was a copy, or waited: then the other one is the copy now.
                let copy = self.sent.beside(pfn).filter(|&other| self.named(other) == Some(mfn));
                self.sent.accepted(pfn, before, kind.is_table(), footing);
                if let (Footing::Sound, Some(other)) = (footing, copy) {
                    self.sent.pair(other, pfn);
                }
                self.note_cleared(pfn, kind);
                self.report.pages.accepted += 1;
                self.report.pages.tables += u64::from(kind.is_table());
            }
            Answer::Deferred(reason) => self.wait(pfn, reason, causes),
            Answer::Failed(source) => {
                resend.mark_all(pfn, causes);
                self.batch.follow.failed = Some(Error::Page { pfn, mfn, source });
            }
        }
    }

    /// The frame that a pfn was last accepted with.
    fn named(&self, pfn: Pfn) -> Option<Mfn> {
        let here = self.remembered.binary_search_by_key(&pfn, |&(pfn, _)| pfn);
        let entry = here.map_or_else(|_| self.shadow.entry(pfn), |index| self.remembered[index].1);
        entry.claim(self.width).named()
    }

    /// The pfn was accepted under this entry: law 5. Returns whether the entry before named a frame of the machine.
    fn accept(&mut self, pfn: Pfn, entry: Entry) -> bool {
        let before = self.shadow.entry(pfn).claim(self.width).named();
        if let Some(mfn) = before.filter(|&mfn| !entry.claim(self.width).names(mfn)) {
            self.batch.follow.departed.push((pfn, mfn));
        }
        self.remembered.push((pfn, entry));
        #[cfg(debug_assertions)]
        self.accepted.note(pfn, entry);
        before.is_some_and(|mfn| mfn.0 < self.machine_frames)
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
