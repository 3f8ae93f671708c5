// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracker: runs the steps of a round in order; other modules do the work of each step.
//! Not here: reading the log and sending pages, by the caller or by `migration`.
//! Units: rounds; at most `QUERY_FRAMES_MAX` pages a batch.
//! Threads: one owner, stepped by its caller; no clock.
//! Source: order of the steps: `docs/design.md`, laws 1 to 5 and 7.

use std::ops::Range;
use std::sync::Arc;

use crate::cause::CauseSet;
use crate::config::{Config, Sender, Verify};
use crate::destination::Destination;
use crate::error::Error;
use crate::frame::{Entry, Mfn, Pfn, Width};
use crate::intake::{Intake, Read};
use crate::leaf::Leaf;
use crate::ledger::Ledger;
use crate::p2m::P2m;
use crate::port::{Answer, Deferral, Guest, LogBuffer, P2mSource, Page, Phase, PortError, Roots};
use crate::report::{RoundReport, Stage};
use crate::round::Round;
use crate::send::{Notes, Sweep, View, again, moves};
use crate::shadow::ShadowBytes;
use crate::table::TableView;
use crate::uncertainty::Uncertainty;
use crate::{compare, intake, send, settle, structure};

/// Walks with comparisons in one round: a comparison may find a reason for another walk.
const FOLLOWS_LIVE: u32 = 3;
const FOLLOWS_SUSPENDED: u32 = 16;
/// Sweeps of a suspended round that settle nothing before it is an error: transports and
/// hypervisors have transient failures, a suspended guest has none.
const IDLE_SWEEPS_MAX: u32 = 8;
/// Sweeps of a suspended round in all.
const SWEEPS_MAX: u32 = 64;
/// Pfns that an observer takes from the bitmap at once: bounds its memory.
const OBSERVED_PFNS_MAX: usize = 65_536;

/// State of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Live,
    Finished,
    Cancelled,
}

/// State of a round. An error of a step ends the round: the caller begins it again, and nothing is
/// lost.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// No round is under way.
    Closed,
    /// The log is to be read.
    Begun,
    /// Batches are taken.
    Sending(Sweeps),
    /// Nothing is left to take.
    Swept,
}

/// Sweeps over all that is owed: pages first, then the tables that name them. For a suspended guest
/// they are repeated until all is settled.
#[derive(Clone, Copy, Debug, Default)]
struct Sweeps {
    under_way: Option<Sweep>,
    /// A sweep has ended, and what is still owed is not decided yet.
    ended: bool,
    begun: u32,
    /// Sweeps in a row that settled nothing.
    idle: u32,
    /// Pfns settled in this round when the sweep began.
    settled: u64,
}

/// What comes next while batches are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// There are pages in flight.
    Batch,
    /// All owed pfns of a suspended guest were taken once: the next call decides which are still
    /// owed.
    SweepEnds,
    /// Nothing is left to take.
    Nothing,
}

/// Follows one guest's p2m, step by step. One round, for a caller that reads the log and sends the
/// pages itself:
///
/// 1. [`Tracker::give_back`] the pfns that were accepted before and lost on the way.
/// 2. [`Tracker::begin`]. Read and clear log-dirty into its buffer, unless that has no pfns.
/// 3. [`Tracker::scan`].
/// 4. [`Tracker::take`], until it returns no pages. Each time, if [`Tracker::frame_list_changed`]:
///    send [`Tracker::frame_list`], and call [`Tracker::frame_list_sent`]. Then send
///    [`Tracker::batch`], its page tables normalised with [`Tracker::view`], and call
///    [`Tracker::answer`]. After the last batch, send the frame list again if it changed.
/// 5. For a suspended guest: send [`Tracker::gone`], and have the destination confirm all of it.
///    The tracker can't check that this was done.
/// 6. [`Tracker::end`].
///
/// [`Migration`](crate::migration::Migration) does all of it.
#[derive(Debug)]
pub struct Tracker {
    round: Round,
    intake: Intake,
    p2m: P2m,
    ledger: Ledger,
    destination: Destination,
    /// What was found so far while the tables of the batch were normalised.
    notes: Notes,
    state: State,
    step: Step,
    /// The guest was suspended for a round, and may have resumed since.
    was_suspended: bool,
}

impl Tracker {
    /// Makes a tracker for a guest of this width. Nothing is read yet. Log-dirty is the caller's:
    /// it has to be on before the first round, and empty when it is switched on.
    ///
    /// # Errors
    /// [`Error::Threads`] if the pool can't be started, [`Error::Environment`] if a requested
    /// kernel or form does not exist.
    pub fn new(config: Config, width: Width) -> Result<Self, Error> {
        Ok(Self {
            destination: Destination::new(width, config.shadow)?,
            round: Round::new(config)?,
            intake: Intake::default(),
            p2m: P2m::new(width),
            ledger: Ledger::new(),
            notes: Notes::default(),
            state: State::Live,
            step: Step::Closed,
            was_suspended: false,
        })
    }

    /// Begins a round, and lends a buffer for the log. The caller reads and clears log-dirty into
    /// it, as [`LogDirty::clean`](crate::port::LogDirty::clean) would, for all of its pfns, and
    /// hands it over by [`Tracker::scan`]. The buffer has no pfns if log-dirty need not be read. A
    /// round that did not end is abandoned: what it did not settle is owed, and if its log was not
    /// handed over, everything is.
    ///
    /// # Errors
    /// A port's error.
    pub fn begin(&mut self, guest: &mut Guest<'_>, stage: Stage) -> Result<LogBuffer<'_>, Error> {
        self.expect_live("begin")?;
        if matches!(self.step, Step::Begun) {
            self.lose_log(guest)?; // it may have bits that are nowhere else
        }
        self.step = Step::Closed;
        self.turn_back(guest);
        if std::mem::replace(&mut self.was_suspended, stage.is_suspended()) {
            // A guest that resumes rewrites its lists and resets its generation: equal numbers
            // prove nothing. It may have resumed after an error, too.
            self.p2m.distrust();
        }
        self.open(guest, stage);
        self.owe_again();
        if stage.is_suspended() {
            intake::owe_unlogged(&mut self.round, &self.ledger, guest)?;
            again::owe_unsound(&self.ledger, &self.destination);
        }
        self.before_log(guest)?;
        self.step = Step::Begun;
        Ok(self.intake.buffer())
    }

    /// Takes the log, of which the first `read` pfns were read, and finds what is owed. Pfns that
    /// were not read are uncertain; bits among them are owed as log-dirty.
    ///
    /// # Errors
    /// Any of [`Error`]; the round may be begun again.
    pub fn scan(&mut self, guest: &mut Guest<'_>, read: u64) -> Result<&RoundReport, Error> {
        self.scan_by(guest, |_| Read { pfns: read, lost: None })?;
        Ok(&self.round.report)
    }

    /// The same, but `read` reads the log now, and is called only if the log has to be read.
    pub(crate) fn scan_by(
        &mut self,
        guest: &mut Guest<'_>,
        read: impl FnOnce(LogBuffer<'_>) -> Read,
    ) -> Result<(), Error> {
        self.expect_live("scan")?;
        match self.step {
            Step::Begun => self.step = Step::Closed,
            Step::Closed => {
                return Err(Error::Order { call: "scan", state: "no round was begun" });
            }
            Step::Sending(_) | Step::Swept => {
                return Err(Error::Order {
                    call: "scan",
                    state: "the log was handed over already",
                });
            }
        }
        self.take_log(guest, read)?;
        if self.round.is_suspended() {
            // Of a dying domain the log may have been read without an error, and be empty.
            guest.p2m.still_suspended().map_err(Error::port("p2m source"))?;
        }
        self.follow(guest, false)?;
        if self.round.config.sender != Sender::Engine {
            // Tables that the scan made uncertain are sent in this round.
            again::owe_tables(&mut self.round, &self.ledger, &mut self.destination);
        }
        self.round.sending_begins(self.ledger.owed());
        self.step = Step::Sending(Sweeps::default());
        Ok(())
    }

    /// Takes the next pages, at most [`QUERY_FRAMES_MAX`](crate::port::QUERY_FRAMES_MAX), to be
    /// sent and answered; page tables are normalised with [`Tracker::view`]. No pages are returned
    /// if none are left: for a suspended guest everything is settled then.
    ///
    /// The result keeps the tracker borrowed: a caller that sends tables checks here whether there
    /// are pages, and then reads [`Tracker::batch`] beside [`Tracker::view`].
    ///
    /// # Errors
    /// [`Error::Order`] if the last batch has no answer, or nothing was scanned. Otherwise any of
    /// [`Error`]; the round may be begun again.
    pub fn take(&mut self, guest: &mut Guest<'_>) -> Result<&[Page], Error> {
        self.expect_answered("take")?;
        guest.phase(Phase::Send, |guest| {
            while self.next(guest)? == Next::SweepEnds {}
            Ok::<_, Error>(())
        })?;
        Ok(self.ledger.pages())
    }

    /// Continues until there are pages in flight, a sweep ends, or nothing is left.
    pub(crate) fn next(&mut self, guest: &mut Guest<'_>) -> Result<Next, Error> {
        let Step::Sending(mut sweeps) = self.step else { return Ok(Next::Nothing) };
        self.step = Step::Closed;
        let next = self.sweep(guest, &mut sweeps)?;
        self.step = match next {
            Next::Batch | Next::SweepEnds => Step::Sending(sweeps),
            Next::Nothing => Step::Swept,
        };
        Ok(next)
    }

    /// The view for normalising the page tables of the batch: what it resolves is noted for the
    /// batch.
    pub fn view<'a>(&'a self, guest: &'a mut Guest<'_>) -> impl TableView + use<'a> {
        View::new(&self.round, &self.p2m, &self.ledger, &self.destination, guest, &self.notes)
    }

    /// Answers the batch, one answer per page in order; the rest counts as not acknowledged.
    ///
    /// # Errors
    /// [`Error::Order`] if there is no batch, or if a changed frame list was not sent before:
    /// nothing is recorded then. [`Error::Page`] if a page can't be sent.
    pub fn answer(
        &mut self,
        guest: &mut Guest<'_>,
        answers: impl IntoIterator<Item = Answer>,
    ) -> Result<(), Error> {
        self.expect_live("answer")?;
        if self.ledger.pages().is_empty() {
            return Err(Error::Order { call: "answer", state: "no batch was taken" });
        }
        self.expect_frame_list_sent("answer")?;
        let settled = guest.phase(Phase::Send, |guest| self.record(guest, answers));
        let settled = settled
            .and_then(|()| settle::expect_few_deferred(&self.p2m, &self.ledger, &self.destination));
        if settled.is_err() {
            self.step = Step::Closed;
        }
        settled
    }

    /// Records the answers for the batch, and follows the frames that moved.
    pub(crate) fn record(
        &mut self,
        guest: &mut Guest<'_>,
        answers: impl IntoIterator<Item = Answer>,
    ) -> Result<(), Error> {
        let Self { round, ledger, destination, notes, .. } = self;
        let answered = send::answer(round, ledger, destination, notes, answers);
        self.follow_moves(guest);
        answered
    }

    /// The batch, if there is one, was not sent, or may not have been: all of it is owed as before.
    pub(crate) fn turn_back(&mut self, guest: &mut Guest<'_>) {
        if !self.ledger.pages().is_empty() {
            send::turn_back(&mut self.ledger, &mut self.destination, &mut self.notes);
            self.follow_moves(guest);
        }
    }

    /// These pfns were accepted, and lost on the way: they are owed again from the next round on,
    /// for a suspended guest from the next sweep on.
    pub fn give_back(&mut self, pfns: &[Pfn]) {
        pfns.iter().for_each(|&pfn| self.destination.distrust(pfn));
        self.ledger.give_back(pfns);
    }

    /// Whether the destination may hold a frame for a pfn: its page was taken in a batch, whatever
    /// the answer was, or a table that was sent names it.
    #[must_use]
    pub fn is_held(&self, pfn: Pfn) -> bool {
        self.destination.sent.is_held(pfn)
    }

    /// Pfns that the destination may hold a frame for, and that had none when they were last
    /// checked: those noted since the last call. For a receiver that frees frames while the guest
    /// runs. Of very many some are left out.
    pub fn take_noted_gone(&mut self) -> Vec<Pfn> {
        self.destination.take_noted()
    }

    /// The digest of the bytes that the destination has for a pfn, if its page was answered with
    /// [`Answer::AcceptedCopy`].
    #[must_use]
    pub fn digest(&self, pfn: Pfn) -> Option<u64> {
        self.destination.digest(pfn)
    }

    /// Ends the round: the destination has what was accepted; for a suspended guest also the frame
    /// list and the gone pfns, as one consistent state. A live round may be ended early. After the
    /// final round every mapping is released.
    ///
    /// # Errors
    /// [`Error::Order`] if a batch has no answer or, for a suspended guest, the frame list was not
    /// sent or not everything is settled: the round goes on. [`Error::Uncertain`] if an uncertainty
    /// ran for too long.
    pub fn end(&mut self, guest: &mut Guest<'_>) -> Result<RoundReport, Error> {
        self.expect_answered("end")?;
        let stage = self.round.report.stage;
        if stage.is_suspended() {
            self.expect_frame_list_sent("end")?; // a live round may leave it to the next
            if !self.is_settled() {
                return Err(Error::Order { call: "end", state: "not everything is settled" });
            }
            if self.ledger.has_returned() {
                let state = "pfns that were given back are owed: begin the round again";
                return Err(Error::Order { call: "end", state });
            }
        }
        self.step = Step::Closed;
        if stage.is_suspended() {
            self.destination.consistent(&mut self.round.report.settled);
        }
        self.round.sending_ends(self.ledger.owed());
        #[cfg(debug_assertions)]
        self.destination.check(self.p2m.layout.pfns(), |pfn| self.ledger.is_owed(pfn));
        let report = self.close()?;
        if stage == Stage::Final {
            self.state = State::Finished;
            self.release(guest.p2m);
        }
        Ok(report)
    }

    /// Ends the migration at any point: nothing is mapped any more. Log-dirty is the caller's.
    pub fn cancel(&mut self, p2m: &mut dyn P2mSource) {
        self.release(p2m);
        self.ledger.turn_back();
        self.step = Step::Closed;
        if self.state == State::Live {
            self.state = State::Cancelled;
        }
    }

    /// One round without sending: everything that is found counts as accepted at once, as read.
    /// `each` is called for every pfn that was owed, with its causes.
    pub(crate) fn observe(
        &mut self,
        guest: &mut Guest<'_>,
        read: impl FnOnce(LogBuffer<'_>) -> Read,
        mut each: impl FnMut(Pfn, CauseSet),
    ) -> Result<RoundReport, Error> {
        self.open(guest, Stage::Live);
        self.before_log(guest)?;
        self.intake.buffer();
        self.take_log(guest, read)?;
        self.follow(guest, true)?;
        self.destination.forget_removed(); // no table was sent that could name them
        if !self.round.report.p2m_unreadable {
            let held = self.p2m.domain.held.cast_signed();
            let unaccounted = held - self.destination.observed_frames().cast_signed();
            self.round.report.unaccounted_frames = Some(unaccounted);
        }
        let mut from = 0;
        loop {
            let (owed, next) = self.ledger.take_paid(OBSERVED_PFNS_MAX, from);
            from = next;
            if owed.is_empty() {
                break;
            }
            self.round.report.pages.accepted += owed.len() as u64;
            let width = self.width();
            for of_leaf in owed.chunk_by(|a, b| width.leaf_of(a.0) == width.leaf_of(b.0)) {
                let base = self.destination.shadow.base(width.leaf_of(of_leaf[0].0));
                for &(pfn, causes) in of_leaf {
                    each(pfn, causes);
                    // A p2m frame may be found under another pfn, as when its page is sent.
                    let claim = base.entry(width, width.slot_of(pfn)).claim(width);
                    if let Some(mfn) = claim.named() {
                        self.p2m.frame_named(mfn, guest.m2p, &mut self.round.report.structure);
                    }
                }
            }
        }
        self.close()
    }

    fn open(&mut self, guest: &Guest<'_>, stage: Stage) {
        let full = self.round.config.verify == Verify::Full;
        self.round.begin(stage);
        self.p2m.recheck.begin_round(stage.is_suspended(), full);
        self.intake.begin(&mut self.round);
        self.destination.on_a_machine_of(guest.m2p.frames());
    }

    /// An uncertainty that ran for too long ends a live migration here.
    fn close(&mut self) -> Result<RoundReport, Error> {
        self.intake.end(self.p2m.pending.is_empty(), self.round.is_suspended());
        self.round.end().map_err(|uncertainty| Error::Uncertain {
            uncertainty,
            rounds: self.round.uncertain.running(uncertainty),
            source: match uncertainty {
                // The first leaf that is not mapped now.
                Uncertainty::LeafUnmapped => self.p2m.unmapped_leaf().map(PortError::from),
                _ => None,
            },
        })
    }

    fn before_log(&mut self, guest: &mut Guest<'_>) -> Result<(), Error> {
        let Self { round, intake, p2m, ledger, destination, .. } = self;
        intake.before_log(round, p2m, ledger, destination, guest)
    }

    fn take_log(
        &mut self,
        guest: &mut Guest<'_>,
        read: impl FnOnce(LogBuffer<'_>) -> Read,
    ) -> Result<(), Error> {
        let Self { round, intake, p2m, ledger, destination, .. } = self;
        let read = |intake: &mut Intake| read(intake.log.fill());
        intake.take_log(round, p2m, ledger, destination, guest, read)
    }

    /// The log buffer was lent and not handed over.
    fn lose_log(&mut self, guest: &mut Guest<'_>) -> Result<(), Error> {
        let Self { round, intake, p2m, ledger, destination, .. } = self;
        intake.lose_log(round, p2m, ledger, destination, guest)
    }

    /// Walks and compares until nothing new is found. `adopt`: what is read goes into the shadow at
    /// once.
    fn follow(&mut self, guest: &mut Guest<'_>, adopt: bool) -> Result<(), Error> {
        self.walk_and_compare(guest, adopt)?;
        let Self { round, intake, p2m, ledger, destination, .. } = self;
        again::owe_what_was_read(round, p2m, ledger, destination);
        round.report.pfn_count = p2m.layout.pfn_count();
        p2m.count_leaves(&intake.log, &mut round.report.leaves);
        Ok(())
    }

    fn walk_and_compare(&mut self, guest: &mut Guest<'_>, adopt: bool) -> Result<(), Error> {
        let Self { round, intake, p2m, ledger, destination, .. } = self;
        let suspended = round.is_suspended();
        let follows = if suspended { FOLLOWS_SUSPENDED } else { FOLLOWS_LIVE };
        let (mut unstable, mut at_rest) = (false, false);
        for _ in 0..follows {
            if p2m.reasons.call() {
                let offers = &mut intake.offers;
                unstable |= !guest.phase(Phase::Walk, |guest| {
                    structure::walk(round, offers, p2m, ledger, destination, guest)
                })?;
            }
            if round.report.p2m_unreadable {
                return Ok(());
            }
            guest.phase(Phase::Walk, |guest| compare::map(suspended, p2m, guest))?;
            let changed = guest.phase(Phase::Diff, |guest| {
                compare::run(adopt, round, intake, p2m, ledger, destination, guest)
            })?;
            for pfn in changed {
                p2m.entry_of_p2m_frame_changed(pfn, guest.m2p, &mut round.report.structure);
            }
            at_rest = !p2m.reasons.call() && (p2m.pending.is_empty() || !suspended);
            if at_rest {
                break;
            }
        }
        // A walk during which the guest changed the structure is repeated in the next round.
        p2m.reasons.generation |= unstable;
        if at_rest || !suspended { Ok(()) } else { Err(p2m.unstable()) }
    }

    /// Walks and compares, for a suspended guest, until the structure is at rest. A leaf's frame
    /// may have got another pfn without a write to any table: then that pfn is owed, and its entry
    /// names the frame.
    fn rest(&mut self, guest: &mut Guest<'_>) -> Result<(), Error> {
        for _ in 0..FOLLOWS_SUSPENDED {
            structure::find_moved_p2m_frames(&mut self.round, &mut self.p2m, &self.ledger, guest);
            if !self.p2m.is_open() {
                return Ok(());
            }
            self.walk_and_compare(guest, false)?;
        }
        Err(self.p2m.unstable())
    }

    fn sweep(&mut self, guest: &mut Guest<'_>, sweeps: &mut Sweeps) -> Result<Next, Error> {
        loop {
            // Before anything is in flight.
            settle::expect_few_deferred(&self.p2m, &self.ledger, &self.destination)?;
            let Some(sweep) = sweeps.under_way else {
                let settled = std::mem::take(&mut sweeps.ended) && self.end_sweep(guest, sweeps)?;
                if settled || !self.begin_sweep(guest, sweeps)? {
                    return Ok(Next::Nothing);
                }
                continue;
            };
            match self.take_batch(guest, sweep)? {
                Some(from) => {
                    sweeps.under_way = Some(Sweep { from, ..sweep });
                    if !self.ledger.pages().is_empty() {
                        return Ok(Next::Batch);
                    }
                }
                None => {
                    self.ledger.wake_postponed();
                    sweeps.under_way = sweep.holds_tables.then_some(Sweep::TABLES);
                    sweeps.ended = sweeps.under_way.is_none();
                    if sweeps.ended {
                        let suspended = self.round.is_suspended();
                        return Ok(if suspended { Next::SweepEnds } else { Next::Nothing });
                    }
                }
            }
        }
    }

    fn take_batch(&mut self, guest: &mut Guest<'_>, sweep: Sweep) -> Result<Option<u64>, Error> {
        let Self { round, p2m, ledger, destination, .. } = self;
        let next = send::take(round, p2m, ledger, destination, guest, sweep);
        if self.ledger.pages().is_empty() {
            // also after an error: what was settled before it stays settled
            self.follow_moves(guest);
        }
        next
    }

    /// Begins a sweep over all that is owed. Returns whether one is possible.
    fn begin_sweep(&mut self, guest: &mut Guest<'_>, sweeps: &mut Sweeps) -> Result<bool, Error> {
        let suspended = self.round.is_suspended();
        if suspended && sweeps.begun == SWEEPS_MAX {
            return Err(settle::unsettled(&mut self.p2m, &self.ledger, guest));
        }
        if !suspended {
            if self.round.report.p2m_unreadable {
                return Ok(false);
            }
            moves::forget_departed(&mut self.destination, guest);
        }
        let Self { round, p2m, ledger, destination, .. } = self;
        compare::ask_owners(round, p2m, ledger, destination, guest);
        if suspended {
            self.rest(guest)?;
        }
        again::owe_twins(&self.round, &self.ledger, &self.destination);
        sweeps.begun += 1;
        sweeps.settled = self.settled_pfns();
        sweeps.under_way = Some(Sweep::PAGES);
        let Self { round, p2m, ledger, destination, .. } = self;
        moves::follow_removed(round, p2m, ledger, destination, guest);
        Ok(true)
    }

    /// Ends a sweep over a suspended guest. Returns whether all is settled: nothing is owed,
    /// nothing waits and the structure is at rest.
    fn end_sweep(&mut self, guest: &mut Guest<'_>, sweeps: &mut Sweeps) -> Result<bool, Error> {
        if self.p2m.is_open() {
            self.owe_again(); // what was deferred under it is decided again
            return Ok(false);
        }
        settle::expect_no_bad_table(&self.ledger)?;
        sweeps.idle = if self.settled_pfns() == sweeps.settled { sweeps.idle + 1 } else { 0 };
        if sweeps.idle > IDLE_SWEEPS_MAX {
            return Err(settle::unsettled(&mut self.p2m, &self.ledger, guest));
        }
        self.owe_again();
        if self.ledger.owed() > 0 || self.p2m.recheck.are_due(true) {
            return Ok(false);
        }
        moves::forget_departed(&mut self.destination, guest);
        self.destination.sent.recheck_tables();
        again::owe_tables(&mut self.round, &self.ledger, &mut self.destination);
        if self.ledger.owed() > 0 {
            return Ok(false);
        }
        self.p2m.unnamed_leaf(guest.p2m).map_or(Ok(()), Err)?;
        settle::balance(&mut self.round, &self.destination, guest)?;
        Ok(true)
    }

    const fn settled_pfns(&self) -> u64 {
        self.round.report.pages.accepted + self.round.report.pages.unpopulated
    }

    /// Marks what earlier rounds or sweeps left: deferred, postponed and returned pfns, uncertain
    /// tables.
    fn owe_again(&mut self) {
        self.round.report.pages.returned += self.ledger.wake();
        again::owe_tables(&mut self.round, &self.ledger, &mut self.destination);
    }

    fn follow_moves(&mut self, guest: &mut Guest<'_>) {
        let Self { round, p2m, ledger, destination, .. } = self;
        moves::follow(round, p2m, ledger, destination, guest);
    }

    /// The pages that were taken and not answered yet.
    #[must_use]
    pub fn batch(&self) -> &[Page] {
        self.ledger.pages()
    }

    /// Why each page of [`Tracker::batch`] is owed.
    pub fn batch_causes(&self) -> impl Iterator<Item = CauseSet> {
        self.ledger.page_causes()
    }

    /// Whether the frame list changed since it was last sent.
    #[must_use]
    pub const fn frame_list_changed(&self) -> bool {
        self.p2m.layout.list_changed
    }

    /// The leaves of the frame list: for each the pfn of its frame, as in
    /// [`FrameList`](crate::port::FrameList).
    #[must_use]
    pub fn frame_list(&self) -> Vec<Option<Pfn>> {
        self.p2m.layout.frame_list()
    }

    /// Pfns that the frame list covers.
    #[must_use]
    pub const fn pfn_count(&self) -> u64 {
        self.p2m.layout.pfn_count()
    }

    /// The caller sent the frame list to the destination.
    pub const fn frame_list_sent(&mut self) {
        self.p2m.layout.list_changed = false;
        self.round.report.structure.frame_lists += 1;
    }

    /// Whether the structure was walked since the last call: a caller with its own mapping drops
    /// it.
    pub fn remap(&mut self) -> bool {
        std::mem::take(&mut self.p2m.walked)
    }

    /// The pfns that have no frame at the source, and may have one at the destination, to be given
    /// back there before the round is ended.
    ///
    /// # Errors
    /// [`Error::Order`] unless the guest is suspended and everything is settled.
    pub fn gone(&self) -> Result<Vec<Pfn>, Error> {
        if self.is_settled() {
            return Ok(self.destination.sent.gone());
        }
        Err(Error::Order { call: "gone", state: "not everything is settled" })
    }

    /// Whether a round is under way: it was begun, and neither ended nor stopped by an error.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        !matches!(self.step, Step::Closed)
    }

    /// Whether everything of a suspended guest is settled, and the round has not ended.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        matches!(self.step, Step::Swept) && self.round.is_suspended()
    }

    /// Whether the migration was neither finished nor cancelled.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    pub(crate) fn expect_live(&self, call: &'static str) -> Result<(), Error> {
        match self.state {
            State::Live => Ok(()),
            State::Finished => Err(Error::Order { call, state: "the migration is finished" }),
            State::Cancelled => Err(Error::Order { call, state: "the migration is cancelled" }),
        }
    }

    fn expect_answered(&self, call: &'static str) -> Result<(), Error> {
        self.expect_live(call)?;
        if !self.ledger.pages().is_empty() {
            return Err(Error::Order { call, state: "the last batch has no answer" });
        }
        match self.step {
            Step::Sending(_) | Step::Swept => Ok(()),
            Step::Begun => Err(Error::Order { call, state: "the log was not handed over" }),
            Step::Closed => Err(Error::Order { call, state: "no round was begun" }),
        }
    }

    const fn expect_frame_list_sent(&self, call: &'static str) -> Result<(), Error> {
        if self.frame_list_changed() {
            return Err(Error::Order { call, state: "the frame list changed and was not sent" });
        }
        Ok(())
    }

    /// Sets how much is checked against the m2p, from the next round on.
    pub const fn set_verify(&mut self, verify: Verify) {
        self.round.config.verify = verify;
    }

    /// Releases all mappings.
    pub fn release(&mut self, p2m: &mut dyn P2mSource) {
        self.p2m.layout.release(p2m);
    }

    /// The report of the current round so far; after its end, of the last one.
    #[must_use]
    pub const fn report(&self) -> &RoundReport {
        &self.round.report
    }

    /// Why a pfn is owed now; empty if it is not.
    #[must_use]
    pub fn why(&self, pfn: Pfn) -> CauseSet {
        self.ledger.why(pfn)
    }

    /// Why a pfn was deferred in the last round.
    #[must_use]
    pub fn deferral(&self, pfn: Pfn) -> Option<Deferral> {
        self.ledger.deferral(pfn)
    }

    /// Pfns owed now.
    #[must_use]
    pub fn owed(&self) -> u64 {
        self.ledger.owed()
    }

    /// Page tables with PTEs that were made not present because they named foreign frames.
    pub fn cleared_ptes(&self) -> impl Iterator<Item = (Pfn, &[Mfn])> {
        self.destination.cleared.iter().map(|(&pfn, frames)| (pfn, frames.as_slice()))
    }

    /// The entry under which a pfn was last accepted.
    #[must_use]
    pub fn shadow_entry(&self, pfn: Pfn) -> Entry {
        self.destination.shadow.entry(pfn)
    }

    /// Memory of the shadow by form.
    #[must_use]
    pub fn shadow_bytes(&self) -> ShadowBytes {
        self.destination.shadow.bytes()
    }

    /// The addresses of the bitmaps with a bit for each pfn, those of 2 MiB and more: for a caller
    /// that reports their memory.
    #[must_use]
    pub fn mapped_at(&self) -> Vec<Range<usize>> {
        let mut list = Vec::new();
        self.intake.log.bits().mapped_at(&mut list);
        self.p2m.layout.backing.pfns_with_frames().mapped_at(&mut list);
        self.ledger.bitmap.mapped_at(&mut list);
        self.destination.sent.mapped_at(&mut list);
        list
    }

    /// The guest's width.
    #[must_use]
    pub const fn width(&self) -> Width {
        self.p2m.width()
    }

    /// Tracked pfns: from here on no pfn can have a frame.
    #[must_use]
    pub const fn pfns(&self) -> u64 {
        self.p2m.layout.pfns()
    }

    /// The frame at each listed leaf position, tracked or not, as the last walk found it; all ones
    /// where there is none.
    #[must_use]
    pub fn leaf_frames(&self) -> &[Mfn] {
        self.p2m.layout.leaves()
    }

    /// The upper frames that the last walk read: level (1 names leaves), frame, private copy.
    pub fn tables(&self) -> impl Iterator<Item = (u8, Mfn, &Arc<Leaf>)> {
        self.p2m.layout.copies.iter().map(|(&(level, mfn), copy)| (level, mfn, copy))
    }

    /// The roots under which the last walk was made; `None` before the first.
    #[must_use]
    pub const fn roots(&self) -> Option<Roots> {
        self.p2m.roots
    }
}
