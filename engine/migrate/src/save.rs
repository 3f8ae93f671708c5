// SPDX-License-Identifier: MIT OR Apache-2.0
//! A save: head, live rounds, suspend, last round, tail; and the way back after an error.
//! Not here: which rounds are enough (`policy`), who suspends the guest (`toolstack`), what is in
//! the stream (`p2mtrack_stream`).
//! Units: rounds, pages, time.
//! Threads: one owner; the engine's, and one that writes.
//! Source: `xen-migrate.md` 2. After any error the source runs on with log-dirty off; but from a
//! complete stream that is to take its place there must not be a second guest.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::error::Error;
use p2mtrack::frame::{Claim, Mfn, Pfn};
use p2mtrack::migration::Migration;
use p2mtrack::port::{LOG_DIRTY_LEAF_PFNS, LogDirty, Observer, P2mSource, Ports};
use p2mtrack::report::RoundReport;
use p2mtrack::tracker::Tracker;
use p2mtrack_stream::cancel::Cancel;
use p2mtrack_stream::paced::Paced;
use p2mtrack_stream::populated::{Populated, TooMany};
use p2mtrack_stream::record::RecordKind;
use p2mtrack_stream::sink::Sink;
use p2mtrack_stream::transport::{Counts, StreamTransport};
use p2mtrack_stream::writer::Writer;
use p2mtrack_xen::{ClaimError, GuardError, IfOn, SuspendError};

use crate::estimate::{Estimate, in_words};
use crate::fault::Fault;
use crate::kind::Kind;
use crate::log::{GuardedLog, NoLog};
use crate::outcome::{Event, Outcome, Part, Round, runs};
use crate::pages::DomainPages;
use crate::plan::{After, Plan, Receiver, Unconverged};
use crate::policy::{Policy, Verdict};
use crate::source::{Source, of_claim};
use crate::tail::DomainTail;
use crate::times::Times;
use crate::toolstack::{Toolstack, not_resumed};
use crate::watched::Watched;

/// Pages of pfns that lost their frame, and are kept for later in the first copy, when the pace is
/// not known.
const FIRST_KEPT: u64 = 4096;

/// A save that is under way.
#[expect(missing_debug_implementations, reason = "the toolstack is a trait object")]
pub struct Save<'a, S: Sink> {
    source: &'a mut Source,
    plan: &'a Plan,
    cancel: EndOfWriting,
    transport: StreamTransport<DomainPages, Paced<S>, DomainTail>,
    migration: Option<Migration>,
    /// The same, once it has ended.
    ended: Option<Migration>,
    estimate: Estimate,
    /// For the first time that log-dirty is switched on.
    if_on: Option<IfOn>,
    took_over: bool,
    refused: Option<ClaimError>,
    /// Suspends the guest.
    toolstack: &'a mut dyn Toolstack,
    /// The guest was asked to suspend, and is not resumed.
    asked: bool,
    /// The stream is complete: after that the source is not resumed because of an error.
    complete: bool,
    suspended_at: Option<Instant>,
    /// The last round has begun, before which this was sent.
    is_last_round: bool,
    live: Counts,
    /// Pages that are left, as far as that is known.
    left: u64,
    /// For what was written since the log was read.
    written: PfnBitmap,
    /// A stock receiver could not hold the guest.
    too_many: Option<TooMany>,
    outcome: Outcome,
}

/// The end of a stream, in the hands of who knows where it goes.
pub trait Ending<S> {
    /// Before END: what was written has arrived, at the reader or on the disk, if that matters.
    ///
    /// # Errors
    /// It may not have arrived.
    fn settle(&mut self, sink: &mut S) -> io::Result<()>;

    /// Writes what stands behind END.
    ///
    /// # Errors
    /// It is not written.
    fn write(&mut self, sink: &mut S) -> io::Result<()>;

    /// Whether nobody can use what was written before [`Ending::publish`].
    fn is_hidden(&self) -> bool;

    /// Gives a file its name.
    ///
    /// # Errors
    /// It has none.
    fn publish(&mut self) -> io::Result<()>;
}

/// Cancels when it is dropped: nobody reads on after an error, and nobody may wait for a reader
/// that does not read.
#[derive(Debug)]
struct EndOfWriting(Arc<Cancel>);

impl Drop for EndOfWriting {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What is left of a save that has ended. When this is dropped, its thread has ended, and its
/// memory is free. A process that is about to end may forget it instead, if there was no error:
/// nothing of the guest is mapped, and the thread has nothing to write.
#[derive(Debug)]
pub struct Rest<S: Sink> {
    _cancel: EndOfWriting,
    _transport: StreamTransport<DomainPages, Paced<S>, DomainTail>,
    _migration: Option<Migration>,
}

impl<'a, S: Sink + Send + 'static> Save<'a, S> {
    /// Writes the head of the stream. Nothing is touched yet.
    ///
    /// # Errors
    /// It can't be written, or Xen does not answer.
    pub fn begin(
        source: &'a mut Source,
        plan: &'a Plan,
        toolstack: &'a mut dyn Toolstack,
        sink: Paced<S>,
        cancel: &Arc<Cancel>,
    ) -> Result<Self, Fault> {
        let mut tail = DomainTail::new(&source.domain)?;
        let estimate = Estimate::new(tail.rehearse()?);
        let mut writer = Writer::new(sink);
        tail.write_head(&mut writer).map_err(|error| Fault::port(&error))?;
        let (pages, width) = (DomainPages::new(&source.domain)?, source.domain.width());
        let transport = StreamTransport::new(writer, pages, tail, width);
        let transport = match plan.receiver {
            Receiver::Stock { pfns } => transport.for_stock(pfns),
        };
        let transport = if plan.verify { transport.verified() } else { transport };
        let transport = transport
            .with_thread()
            .map_err(|error| Fault::new(Kind::NoMemory, format!("no thread: {error}")))?;
        Ok(Self {
            source,
            plan,
            cancel: EndOfWriting(Arc::clone(cancel)),
            transport,
            migration: None,
            ended: None,
            estimate,
            if_on: Some(plan.if_on),
            took_over: false,
            refused: None,
            toolstack,
            asked: false,
            complete: false,
            suspended_at: None,
            is_last_round: false,
            live: Counts::default(),
            left: 0,
            written: PfnBitmap::new(0),
            too_many: None,
            outcome: Outcome::default(),
        })
    }

    /// Runs it to the end. `tell` hears of each live round; `ending` ends the stream while the
    /// source is still suspended: if that fails, the save has failed.
    pub fn run(
        mut self,
        after: After,
        tell: &mut dyn FnMut(Event),
        ending: &mut dyn Ending<S>,
    ) -> (Outcome, Rest<S>) {
        let saved = self.migrate(tell);
        let ended = if self.plan.checkpoints {
            saved.and_then(|()| self.checkpoints(tell)).and_then(|()| self.end_migration())
        } else {
            let complete = |()| self.complete(after, ending);
            saved.and_then(complete).and_then(|()| self.end(after))
        };
        if let Err(fault) = ended {
            self.cancel.0.cancel(); // as in `drop`, but before the count
            self.undo(fault);
        }
        self.count();
        let Self { outcome, cancel, transport, ended, .. } = self;
        (outcome, Rest { _cancel: cancel, _transport: transport, _migration: ended })
    }

    fn migrate(&mut self, tell: &mut dyn FnMut(Event)) -> Result<(), Fault> {
        let verdict = if self.plan.live {
            self.start(tell)?;
            self.live_rounds(tell)?
        } else {
            Verdict::NotLive
        };
        self.outcome.verdict = Some(verdict);
        if !verdict.is_good() && self.plan.unconverged == Unconverged::Abort {
            let words = format!(
                "after {} rounds the guest would stand still for {}, more than {:?} ({})",
                self.outcome.rounds,
                in_words(self.outcome.estimate),
                self.plan.limits.downtime,
                verdict.name()
            );
            return Err(Fault::new(Kind::Unconverged, words));
        }
        (self.is_last_round, self.live) = (true, self.transport.counts());
        self.transport.keep_for_later(0);
        self.transport
            .with_writer(|writer| writer.sink_mut().hurry())
            .map_err(|error| Fault::sink(&error))?;
        self.suspend(tell)?;
        if self.plan.live {
            return self.last_round(Part::Round(self.outcome.rounds), tell);
        }
        self.start(tell)?;
        self.last_round(Part::Whole, tell)
    }

    /// The guest is suspended: everything that is owed is sent, and what stands behind it.
    fn last_round(&mut self, part: Part, tell: &mut dyn FnMut(Event)) -> Result<(), Fault> {
        tell(Event::Begins(part));
        let step = if self.plan.checkpoints { Migration::checkpoint } else { Migration::finish };
        let report = self.step(Seen { observer: &mut (), left: self.left, tell }, step)?;
        self.outcome.gone = report.settled.gone;
        self.outcome.unlogged = report.settled.unlogged;
        self.outcome.unaccounted_frames = report.unaccounted_frames.unwrap_or(0);
        Ok(())
    }

    /// The pages of the first checkpoint are written. Makes checkpoints until the toolstack wants
    /// no more.
    fn checkpoints(&mut self, tell: &mut dyn FnMut(Event)) -> Result<(), Fault> {
        loop {
            self.check_suspended()?;
            self.with_sink(|writer| writer.mark(RecordKind::Checkpoint))?;
            self.resume()?;
            if !self.toolstack.checkpoint()? {
                self.complete = true;
                return Ok(());
            }
            self.look_after_guard(tell);
            self.suspend(tell)?;
            self.last_round(Part::Checkpoint, tell)?;
        }
    }

    fn check_suspended(&mut self) -> Result<(), Fault> {
        let still = self.source.guest.p2m.still_suspended();
        still.map_err(|error| Fault::port(&error))
    }

    /// Switches log-dirty on, of a live save.
    fn start(&mut self, tell: &mut dyn FnMut(Event)) -> Result<(), Fault> {
        let config = self.plan.config;
        let seen = Seen { observer: &mut (), left: 0, tell };
        match self.with_ports(seen, |ports| Migration::start(config, ports)) {
            Ok(migration) => {
                self.migration = Some(migration);
                self.outcome.touched = true;
                if self.took_over {
                    tell(Event::TookOver);
                }
                Ok(())
            }
            Err(error) => Err(match self.refused.take() {
                Some(ClaimError::Guard(error)) => {
                    // Without Xen's answer it is open what the guard has done, or does.
                    let refused = matches!(error, GuardError::Xen(_));
                    let fault = Fault::guard(&error, self.source.has_pci);
                    // One that was taken over is off now, if it was not that none can be on.
                    let taken = self.plan.if_on == IfOn::TakeOver;
                    let is_off = taken && fault.kind != Kind::NoShadowPaging;
                    self.outcome.unknown = !refused;
                    self.outcome.touched = !refused || is_off;
                    fault
                }
                Some(error) => {
                    self.outcome.touched = true;
                    of_claim(&error)
                }
                None => error.into(),
            }),
        }
    }

    fn live_rounds(&mut self, tell: &mut dyn FnMut(Event)) -> Result<Verdict, Fault> {
        let mut policy = Policy::new(self.plan.limits);
        let begun = Instant::now();
        let mut shown = Shown::default();
        self.left = self.source.domain.info()?.frames;
        loop {
            tell(Event::Begins(Part::Round(self.outcome.rounds)));
            let round = self.live_round(self.outcome.rounds, &mut shown, tell)?;
            self.outcome.rounds += 1;
            self.outcome.estimate = round.estimate;
            tell(Event::Round(round));
            if let Some(verdict) = policy.judge(round.left, round.estimate, begun.elapsed()) {
                return Ok(verdict);
            }
            self.look_after_guard(tell);
        }
    }

    fn look_after_guard(&mut self, tell: &mut dyn FnMut(Event)) {
        if let Some(replaced) = self.source.claim.look_after() {
            tell(Event::Guard(replaced));
        }
    }

    fn live_round(
        &mut self,
        number: u64,
        shown: &mut Shown,
        tell: &mut dyn FnMut(Event),
    ) -> Result<Round, Fault> {
        let most = match number {
            0 => FIRST_KEPT,
            _ => self.estimate.pages_within(self.plan.limits.downtime / 2),
        };
        self.transport.keep_for_later(most);
        let (bytes, begun) = (self.transport.bytes(), Instant::now());
        let (before, waited, writing) =
            (self.transport.counts().pages, self.transport.waited(), self.writing()?);
        let mut times = Times::begin();
        let seen = Seen { observer: &mut times, left: self.left, tell };
        let report = self.step(seen, Migration::round)?;
        let (sending, rest) = times.end();
        let writing = self.writing()? - writing; // waits until all is written
        let pages = self.transport.counts().pages - before;
        // Two threads send: one maps, the other writes.
        let mapping = sending.saturating_sub(self.transport.waited() - waited);
        self.estimate.add(pages, mapping.max(writing), rest);
        self.estimate.set_leaves(report.leaves.distinct);
        let frames = self.source.domain.info()?.frames;
        self.too_many = self.too_many(frames);
        let left = self.left(&report, frames)?;
        self.left = left;
        let seconds = begun.elapsed().as_secs_f64().max(1e-6);
        Ok(Round {
            number,
            pages,
            rate: ((self.transport.bytes() - bytes) as f64 / seconds) as u64,
            left,
            percent: shown.percent(frames, left),
            estimate: self.estimate.downtime(left),
        })
    }

    /// Pages that would have to be sent now: owed, and written since the log was read.
    fn left(&mut self, report: &RoundReport, frames: u64) -> Result<u64, Fault> {
        if report.p2m_unreadable {
            return Ok(frames); // nothing was compared or sent
        }
        let tracked = self.migration.as_ref().map_or(0, |migration| migration.tracker().pfns());
        let pfns = tracked.max(1).next_multiple_of(LOG_DIRTY_LEAF_PFNS);
        self.written.reset(pfns);
        match self.source.guest.log_dirty.peek(&mut self.written) {
            Ok(_) => Ok(report.pages.left + self.written.count()),
            Err(error) if error.errno() == libc::ESRCH => Err(error.into()),
            Err(_) => Ok(frames), // the next CLEAN finds that too, and mends it
        }
    }

    /// How long the sink has written. Waits until all is.
    fn writing(&mut self) -> Result<Duration, Fault> {
        let writing = self.transport.with_writer(|writer| writer.sink().writing());
        writing.map_err(|error| Fault::sink(&error))
    }

    /// What a stock receiver would hold of what the guest has now, if that is too much.
    fn too_many(&self, frames: u64) -> Option<TooMany> {
        let populated = self.transport.populated()?;
        let limit = populated.limit();
        // No more than these, and perhaps fewer: only then each pfn is looked at.
        let most = populated.count() + frames.saturating_sub(self.transport.held_pfns());
        let pfns = match &self.migration {
            _ if most <= limit => most,
            None => frames,
            Some(migration) => populated.count() + beyond(migration.tracker(), populated),
        };
        (pfns > limit).then_some(TooMany { pfns, limit })
    }

    fn suspend(&mut self, tell: &mut dyn FnMut(Event)) -> Result<(), Fault> {
        let info = self.source.domain.info()?;
        if !self.plan.live {
            (self.too_many, self.left) = (self.too_many(info.frames), info.frames);
        }
        if let Some(too_many) = self.too_many {
            return Err(Fault::new(Kind::ReceiverLimit, too_many.to_string()));
        }
        if let Some(reason) = info.shutdown {
            return Err(Fault::suspend(&SuspendError::Ended { reason }));
        }
        self.check_cancelled()?;
        self.toolstack.prepare(self.source)?;
        (self.asked, self.outcome.touched) = (true, true);
        let cancel = Arc::clone(&self.cancel.0);
        self.toolstack.suspend(self.source, &|| cancel.is_cancelled())?;
        self.suspended_at = Some(Instant::now());
        tell(Event::Suspended);
        Ok(())
    }

    fn check_cancelled(&self) -> Result<(), Fault> {
        match self.cancel.0.is_cancelled() {
            true => Err(Fault::suspend(&SuspendError::Cancelled)),
            false => Ok(()),
        }
    }

    /// Ends the stream. If it may be all that is left of the guest, the guard is told before
    /// anybody can use it: even if this process is killed now, there must not be two guests.
    fn complete(&mut self, after: After, ending: &mut dyn Ending<S>) -> Result<(), Fault> {
        self.with_sink(|writer| ending.settle(writer.sink_mut().inner_mut()))?;
        self.check_suspended()?;
        let is_kept = after == After::Leave;
        if is_kept && !ending.is_hidden() {
            self.toolstack.give_up(self.source);
        }
        let mut completed = self.with_sink(|writer| {
            writer.mark(RecordKind::End)?;
            ending.write(writer.sink_mut().inner_mut())
        });
        if is_kept && completed.is_ok() {
            self.toolstack.give_up(self.source);
            completed = ending.publish().map_err(|error| Fault::sink(&error));
        }
        if is_kept && completed.is_err() {
            self.toolstack.keep(self.source);
        }
        self.complete = completed.is_ok();
        completed
    }

    fn with_sink(
        &mut self,
        write: impl FnOnce(&mut Writer<Paced<S>>) -> io::Result<()>,
    ) -> Result<(), Fault> {
        let written = self.transport.with_writer(write);
        written.and_then(|written| written).map_err(|error| Fault::sink(&error))
    }

    /// The stream is complete.
    fn end(&mut self, after: After) -> Result<(), Fault> {
        let ended = self.end_migration();
        if after == After::Resume {
            self.resume()?;
        }
        self.stop_clock();
        ended
    }

    /// The guest does not stand still any longer, or is given up.
    fn stop_clock(&mut self) {
        self.asked = false;
        if let Some(since) = self.suspended_at.take() {
            self.outcome.downtime += since.elapsed();
        }
    }

    /// Log-dirty is off, at the latest now.
    fn end_migration(&mut self) -> Result<(), Fault> {
        let Some(mut migration) = self.migration.take() else { return Ok(()) };
        let seen = Seen { observer: &mut (), left: 0, tell: &mut |_| () };
        let cancelled = self.with_ports(seen, |ports| migration.cancel(ports));
        self.outcome.cleared = cleared(&migration);
        self.ended = Some(migration);
        if let Err(error) = cancelled
            && !self.source.domain.is_gone()
        {
            self.outcome.left_behind = true;
            return Err(error.into());
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Fault> {
        let resumed = self.toolstack.resume(self.source);
        self.outcome.left_behind |=
            resumed.as_ref().is_err_and(|fault| fault.kind == Kind::ResumeFailed);
        resumed?;
        self.stop_clock();
        Ok(())
    }

    /// The source runs on, with log-dirty off.
    fn undo(&mut self, mut fault: Fault) {
        if let Err(left) = self.end_migration() {
            fault.words = format!("{}; log-dirty may be on: {}", fault.words, left.words);
        }
        if self.asked && !self.complete {
            match self.toolstack.call_off(self.source) {
                Ok(()) => self.stop_clock(),
                Err(error) => {
                    self.outcome.left_behind = true;
                    let failed = not_resumed(&error);
                    fault = Fault { words: format!("{}; {}", fault.words, failed.words), ..failed };
                }
            }
        }
        if self.source.domain.is_gone() && fault.kind.may_hide_a_domain_that_is_gone() {
            (fault.kind, fault.errno) = (Kind::DomainGone, Kind::DomainGone.errno());
        }
        // The guard tries again, when this process is gone.
        self.outcome.unknown |= self.asked && self.outcome.left_behind;
        self.outcome.fault = Some(fault);
    }

    fn count(&mut self) {
        let Counts { pages, tables, .. } = self.transport.counts();
        let outcome = &mut self.outcome;
        (outcome.pages, outcome.tables) = (pages, tables);
        if self.is_last_round {
            outcome.suspended_pages = pages - self.live.pages;
            outcome.suspended_tables = tables - self.live.tables;
        }
        outcome.is_complete = self.complete;
        outcome.bytes = self.transport.bytes();
        outcome.distinct_pfns = self.transport.populated().map_or(0, Populated::count);
        if self.complete {
            outcome.leaked = runs(self.transport.leaked()); // else nobody restores it
        }
        let info = self.source.domain.info();
        outcome.source_running = info.is_ok_and(|info| info.shutdown.is_none());
    }

    /// A step of the migration.
    fn step(
        &mut self,
        seen: Seen<'_>,
        step: impl FnOnce(&mut Migration, &mut Ports<'_>) -> Result<RoundReport, Error>,
    ) -> Result<RoundReport, Fault> {
        self.check_cancelled()?;
        let Some(mut migration) = self.migration.take() else {
            return Err(Fault::new(Kind::Hypercall, "the migration has not begun"));
        };
        let report = self.with_ports(seen, |ports| step(&mut migration, ports));
        self.migration = Some(migration);
        Ok(report?)
    }

    fn with_ports<T>(&mut self, seen: Seen<'_>, call: impl FnOnce(&mut Ports<'_>) -> T) -> T {
        let Seen { observer, left, tell } = seen;
        let Source { guest, claim, .. } = &mut *self.source;
        let (guest, log) = guest.lend(observer);
        let (if_on, refused) = (&mut self.if_on, &mut self.refused);
        let mut guarded = GuardedLog { log, claim, if_on, took_over: &mut self.took_over, refused };
        let log_dirty: &mut dyn LogDirty = if self.plan.live { &mut guarded } else { &mut NoLog };
        let mut transport = Watched::new(&mut self.transport, left, self.plan.verify, tell);
        call(&mut Ports { guest, log_dirty, transport: &mut transport })
    }
}

/// Who hears of a step while it is made.
struct Seen<'a> {
    observer: &'a mut dyn Observer,
    /// Pages that it will send, as far as that is known.
    left: u64,
    tell: &'a mut dyn FnMut(Event),
}

fn cleared(migration: &Migration) -> Vec<(Pfn, Mfn)> {
    let tables = migration.tracker().cleared_ptes();
    tables.flat_map(|(table, frames)| frames.iter().map(move |&mfn| (table, mfn))).collect()
}

/// Pfns with a frame that are not among these.
fn beyond(tracker: &Tracker, populated: &Populated) -> u64 {
    let has_frame =
        |pfn| matches!(tracker.shadow_entry(pfn).claim(tracker.width()), Claim::Frame(_));
    let pfns = (0..tracker.pfns()).map(Pfn);
    pfns.filter(|&pfn| !populated.has(pfn) && has_frame(pfn)).count() as u64
}

/// The percentage that was shown last: it goes back only if the guest grew.
#[derive(Debug, Default)]
struct Shown {
    frames: u64,
    percent: f64,
}

impl Shown {
    fn percent(&mut self, frames: u64, left: u64) -> f64 {
        let same = frames.saturating_sub(left) as f64 * 100.0 / frames.max(1) as f64;
        self.percent = if frames > self.frames { same } else { self.percent.max(same) };
        self.frames = frames;
        self.percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_goes_back_only_if_the_guest_grew() {
        let mut shown = Shown::default();
        let steps = [(1000, 900, 10.0), (1000, 100, 90.0), (1000, 500, 90.0), (900, 450, 90.0)];
        for (frames, left, percent) in steps {
            assert!((shown.percent(frames, left) - percent).abs() < 1e-9);
        }
        assert!((shown.percent(2000, 1000) - 50.0).abs() < 1e-9);
        assert!(shown.percent(0, 7).abs() < 51.0, "a guest without frames");
    }
}
