// SPDX-License-Identifier: MIT OR Apache-2.0
//! One whole migration of a simulated guest by the real engine, judged at the end.
//! Not here: the engine, the oracle; this only calls them in the order that a toolstack would.
//! Units: rounds.
//! Threads: the caller's; the engine starts its own.
//! Source: the loop of a toolstack: live rounds, checkpoints, suspend, final round; on an error,
//! cancel.

use std::error::Error as StdError;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::config::{Config, ForeignPtePolicy};
use p2mtrack::error::{EntryCause, Error, StructureCause};
use p2mtrack::frame::Pfn;
use p2mtrack::migration::Migration;
use p2mtrack::port::{
    Answer, Deferral, FrameList, Guest, LogBuffer, LogDirty, Observer, Page, PortError, Ports,
    Transport,
};
use p2mtrack::report::RoundReport;
use p2mtrack::table::TableView;
use p2mtrack::uncertainty::Uncertainty;

use crate::fault::{Fault, SimError};
use crate::options::TransportKind;
use crate::oracle::{Difference, Judgement, Verdict};
use crate::simulation::{Activity, SimConfig, SimPorts, Simulation};
use crate::stream::{SimStream, StreamEnd};

/// Times that a failed round is repeated before the migration is given up.
const REPEATS_MAX: u32 = 2;
/// Live rounds between two checkpoints.
const ROUNDS_BETWEEN_CHECKPOINTS: u32 = 2;

/// Observes a migration while it runs.
pub trait Watch: Observer {
    /// A round ended. `log` has what was read from log-dirty since the round before; pfns that were
    /// not read are marked.
    ///
    /// # Errors
    /// The migration is cancelled with this error.
    fn round(
        &mut self,
        report: &RoundReport,
        log: Option<&PfnBitmap>,
        simulation: &Simulation,
    ) -> Result<(), PortError>;

    /// Whether `round` wants the log: it has to be copied.
    fn wants_log(&self) -> bool {
        false
    }
}

/// No observer.
impl Watch for () {
    fn round(
        &mut self,
        _: &RoundReport,
        _: Option<&PfnBitmap>,
        _: &Simulation,
    ) -> Result<(), PortError> {
        Ok(())
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// It completed, and the oracle judged.
    Judged(Verdict),
    /// It ended with an error or was cancelled.
    #[default]
    Aborted,
}

impl Ending {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Judged(verdict) => verdict.name(),
            Self::Aborted => "aborted",
        }
    }
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Run {
    /// How it ended.
    pub ending: Ending,
    /// The oracle's last judgement, if there was one.
    pub judgement: Option<Judgement>,
    /// Why it was aborted.
    pub error: Option<String>,
    /// The kind of the engine's error, if that is why.
    pub kind: Option<&'static str>,
    /// Frames that the last suspended round did not account for.
    pub unaccounted_frames: Option<i64>,
    /// The injected fault that the error is about, if it is about one.
    pub fault: Option<Fault>,
    /// Every fault that struck, and how often.
    pub struck: Vec<(Fault, u64)>,
    /// What the migration left behind at the source: nothing, unless the engine is wrong.
    pub harmed: Option<String>,
    /// Rounds that ended well.
    pub rounds: u64,
    /// Times that a failed round was repeated with success.
    pub repeats: u64,
    /// Pages that the engine would never have sent without a shadow of the p2m.
    pub beyond_log_dirty: u64,
    /// Pages that were sent and arrived, in all rounds, failed ones included.
    pub pages_sent: u64,
    /// Of these, those that upstream sent while the guest was suspended: pages and page tables.
    pub upstream_suspended: (u64, u64),
    /// Pfns that were reported to the receiver as gone.
    pub gone: u64,
    /// Structure events that were followed.
    pub structure_events: u64,
    /// Frames that a stock receiver of the stream would keep although the source has none; `None`
    /// if the pages went through no stream.
    pub stock_leaked: Option<u64>,
    /// The last round.
    pub last: Option<RoundReport>,
    /// What the guest did until the migration ended.
    pub activity: Activity,
}

/// Builds a simulation and migrates it.
#[must_use]
pub fn migrate(config: &SimConfig, engine: Config, watch: &mut dyn Watch) -> Run {
    migrate_with(&Simulation::new(config), engine, watch)
}

/// Migrates many guests side by side, on as many threads as the machine has. Results are in order.
#[must_use]
pub fn migrate_all(
    configs: &[SimConfig],
    engine: impl Fn(&SimConfig) -> Config + Sync,
) -> Vec<Run> {
    side_by_side(configs, |config| migrate(config, engine(config), &mut ()))
}

/// Calls `run` with every configuration, on as many threads as the machine has. Results are in
/// order.
///
/// The threads are not from a pool: a pool worker that waits for an engine's own pool would start
/// further runs on the same stack.
#[must_use]
pub fn side_by_side<T: Send>(
    configs: &[SimConfig],
    run: impl Fn(&SimConfig) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            // ORDER: only the number itself is shared
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(config) = configs.get(index) else { return done };
            done.push((index, run(config)));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(ScopedJoinHandle::join);
        joined
            .flat_map(|done| done.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    done.sort_by_key(|&(index, _)| index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Migrates the guest of a fresh simulation.
#[must_use]
pub fn migrate_with(simulation: &Simulation, engine: Config, watch: &mut dyn Watch) -> Run {
    let mut driver = Driver::new(simulation, &engine, watch);
    driver.run(engine);
    driver.run
}

/// Migrates through a stream, and returns its bytes too. After `room` bytes behind the static
/// records the sink fails once, mostly in the middle of a write.
#[must_use]
pub fn migrate_into_bytes(config: &SimConfig, engine: Config, room: u64) -> (Run, Vec<u8>) {
    let config = SimConfig { transport: TransportKind::Stream, ..config.clone() };
    let (simulation, mut nobody) = (Simulation::new(&config), ());
    let mut driver = Driver::new(&simulation, &engine, &mut nobody);
    let stream = driver.stream.as_mut().expect("a stream is configured");
    stream.keep(room);
    driver.run(engine);
    let bytes = driver.stream.as_mut().map(SimStream::take_kept).unwrap_or_default();
    (driver.run, bytes)
}

/// A migration under way.
struct Driver<'a> {
    simulation: &'a Simulation,
    /// One set for the whole run: mappings belong to it.
    handles: SimPorts,
    /// Pages go through it, if there is one.
    stream: Option<SimStream>,
    watch: &'a mut dyn Watch,
    cancelled: Arc<AtomicBool>,
    /// What was read from log-dirty since the last round that ended well, failed calls included;
    /// only if `watch` wants it.
    log: Option<PfnBitmap>,
    /// Pages after which the transport of the next call breaks.
    breaks_after: Option<u64>,
    /// The policy allows the engine to clear PTEs to other domains' frames.
    clears: bool,
    run: Run,
}

/// Why the driver gives up.
enum Stop {
    Engine(Error),
    Cancelled,
    /// The observer returned an error.
    Watch(PortError),
    /// A checkpoint's judgement was bad.
    Judged,
}

/// One call of the engine.
#[derive(Clone, Copy)]
enum Call {
    Round,
    Checkpoint,
    Finish,
}

impl<'a> Driver<'a> {
    fn new(simulation: &'a Simulation, engine: &Config, watch: &'a mut dyn Watch) -> Self {
        Self {
            simulation,
            handles: simulation.ports(),
            stream: simulation.stream(),
            watch,
            cancelled: simulation.cancel_flag(),
            log: None,
            breaks_after: None,
            clears: engine.foreign_pte == ForeignPtePolicy::Clear,
            run: Run::default(),
        }
    }

    fn run(&mut self, engine: Config) {
        let mut migration = None;
        let result = self.steps(engine, &mut migration);
        self.run.activity = self.simulation.activity();
        match result {
            Ok(()) => self.settle(),
            Err(stop) => self.give_up(stop, migration),
        }
        self.end_stream();
        self.run.struck = self.simulation.faults_struck();
        self.run.pages_sent = self.simulation.shared().lock().receiver.pages;
    }

    fn steps(&mut self, engine: Config, slot: &mut Option<Migration>) -> Result<(), Stop> {
        let started = self.with_ports(|ports| Migration::start(engine, ports));
        let migration = slot.insert(started.map_err(Stop::Engine)?);
        for checkpoint in 0..self.simulation.checkpoints() {
            for _ in 0..ROUNDS_BETWEEN_CHECKPOINTS {
                self.call(migration, Call::Round)?;
            }
            self.simulation.suspend();
            self.breaks_after = self.simulation.checkpoint_fails_after(checkpoint);
            if self.breaks_after.is_some() {
                self.take_back(migration)?;
            } else {
                self.call(migration, Call::Checkpoint)?;
                self.judge();
                if !matches!(self.run.ending, Ending::Judged(Verdict::Identical)) {
                    return Err(Stop::Judged);
                }
            }
            self.simulation.resume();
        }
        while !self.simulation.wants_suspend() {
            self.call(migration, Call::Round)?;
        }
        self.simulation.suspend();
        self.call(migration, Call::Finish)
    }

    /// Makes one call, repeats it if a port failed, and stops on a cancellation at any point.
    fn call(&mut self, migration: &mut Migration, call: Call) -> Result<(), Stop> {
        let mut repeats = 0;
        if let Some(stream) = &mut self.stream {
            stream.set_final(matches!(call, Call::Finish));
        }
        loop {
            let result = self.with_ports(|ports| match call {
                Call::Round => migration.round(ports),
                Call::Checkpoint => migration.checkpoint(ports),
                Call::Finish => migration.finish(ports),
            });
            if self.cancelled.load(Ordering::Relaxed)
                && !matches!(call, Call::Finish if result.is_ok())
            {
                // ORDER: a flag of its own, set by this thread's own calls
                return Err(Stop::Cancelled);
            }
            match result {
                Ok(report) => {
                    self.run.repeats += u64::from(repeats > 0);
                    return self.note(report).map_err(Stop::Watch);
                }
                Err(Error::Port { .. } | Error::Page { .. }) if repeats < REPEATS_MAX => {
                    repeats += 1;
                }
                Err(error) => return Err(Stop::Engine(error)),
            }
        }
    }

    /// A checkpoint whose transport breaks: it is not repeated, and the guest runs on.
    fn take_back(&mut self, migration: &mut Migration) -> Result<(), Stop> {
        if let Some(stream) = &mut self.stream {
            stream.set_final(false);
        }
        let result = self.with_ports(|ports| migration.checkpoint(ports));
        self.breaks_after = None;
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Stop::Cancelled); // ORDER: as in `call`
        }
        match result {
            Ok(report) => self.note(report).map_err(Stop::Watch),
            Err(Error::Port { .. } | Error::Page { .. }) => Ok(()),
            Err(error) => Err(Stop::Engine(error)),
        }
    }

    fn note(&mut self, report: RoundReport) -> Result<(), PortError> {
        self.run.rounds += 1;
        self.run.beyond_log_dirty +=
            if report.round == 0 { 0 } else { report.entries.beyond_log_dirty };
        self.run.gone += report.settled.gone;
        self.run.structure_events += report.structure.events();
        let log = self.log.take();
        let watched = self.watch.round(&report, log.as_ref(), self.simulation);
        self.run.unaccounted_frames = report.unaccounted_frames.or(self.run.unaccounted_frames);
        self.run.last = Some(report);
        watched
    }

    fn with_ports<T>(&mut self, call: impl FnOnce(&mut Ports<'_>) -> T) -> T {
        let handles = &mut self.handles;
        let mut transport = Cancellable {
            inner: match &mut self.stream {
                Some(stream) => stream,
                None => &mut handles.transport,
            },
            cancelled: Arc::clone(&self.cancelled),
            breaks_after: self.breaks_after,
        };
        let mut log_dirty = Tap {
            inner: &mut handles.log_dirty,
            marks: self.watch.wants_log().then_some(&mut self.log),
        };
        call(&mut Ports {
            guest: Guest {
                p2m: &mut handles.p2m,
                m2p: &handles.m2p,
                types: &mut handles.types,
                unlogged: &mut handles.unlogged,
                observer: self.watch,
            },
            log_dirty: &mut log_dirty,
            transport: &mut transport,
        })
    }

    /// What became of the stream: a breach of its rules is as bad as a wrong page.
    fn end_stream(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let is_complete = matches!(self.run.ending, Ending::Judged(_));
        let StreamEnd { broken, left_over } = stream.end(is_complete);
        self.run.stock_leaked = Some(left_over);
        let Some(first) = broken.first() else { return };
        let what = format!("the stream breaks {} at {}: {}", first.rule, first.offset, first.words);
        self.run.error = Some(what);
        self.run.ending = Ending::Judged(Verdict::Corrupt);
    }

    fn judge(&mut self) {
        let mut judgement = self.simulation.judge();
        let as_reported = self.clears_as_reported(&judgement);
        if let Err(what) = &as_reported {
            let pfn = judgement.cleared_ptes.first().map_or(0, |(table, _)| table.0);
            judgement.differences.push(Difference { pfn, what: what.clone() });
        }
        // Stricter than the oracle: surplus positions are wrong even if they overwrite no page.
        let exact = judgement.list_surplus == 0 && as_reported.is_ok();
        let verdict = if exact { judgement.verdict } else { Verdict::Corrupt };
        self.run.ending = Ending::Judged(verdict);
        self.run.judgement = Some(judgement);
    }

    /// Every PTE that arrived not present was reported, and there is none if the policy refuses
    /// them.
    fn clears_as_reported(&self, judgement: &Judgement) -> Result<(), String> {
        let cleared = judgement.cleared_ptes.len() as u64;
        let reported = self.run.last.as_ref().map_or(0, |report| report.settled.cleared_ptes);
        if cleared != reported || cleared > 0 && !self.clears {
            let policy = if self.clears { "clear" } else { "refuse" };
            return Err(format!("{cleared} PTEs cleared, {reported} reported, policy {policy}"));
        }
        Ok(())
    }

    fn settle(&mut self) {
        self.judge();
        self.run.harmed = self.simulation.harm();
    }

    fn give_up(&mut self, stop: Stop, migration: Option<Migration>) {
        let mut cancel = Ok(());
        if let Some(mut migration) = migration {
            cancel = self.with_ports(|ports| migration.cancel(ports));
        }
        match stop {
            Stop::Judged => {}
            Stop::Cancelled => {
                self.run.ending = Ending::Aborted;
                self.run.error = Some("cancelled".to_owned());
                self.run.fault = self.struck(Fault::Cancel);
            }
            Stop::Watch(error) => {
                self.run.ending = Ending::Aborted;
                self.run.error = Some(error.to_string());
            }
            Stop::Engine(error) => {
                self.run.ending = Ending::Aborted;
                self.run.fault = self.fault_behind(&error);
                self.run.kind = Some(error.kind());
                self.run.unaccounted_frames = error.unaccounted_frames();
                self.run.error = Some(in_full(&error));
            }
        }
        let harm = self.simulation.harm();
        self.run.harmed = cancel.err().map(|error| in_full(&error)).or(harm);
    }

    /// The injected fault that an error is about: named in its sources, or the only fault that
    /// leads to this kind of error.
    fn fault_behind(&self, error: &Error) -> Option<Fault> {
        let mut source: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(error) = source {
            if let Some(injected) = error.downcast_ref::<SimError>().and_then(|e| e.injected) {
                return Some(injected);
            }
            source = error.source();
        }
        let fault = match error {
            Error::Uncertain { uncertainty: Uncertainty::QueryFailed, .. } => Fault::QueryFailure,
            Error::Uncertain { uncertainty: Uncertainty::ShortBitmap, .. } => Fault::ShortBitmap,
            Error::Uncertain { uncertainty: Uncertainty::LogLost, .. } => Fault::AllocationFailure,
            Error::Uncertain {
                uncertainty: Uncertainty::LeafUnmapped | Uncertainty::Walk, ..
            }
            | Error::Structure { cause: StructureCause::Unreadable(_), .. } => Fault::MapFailure,
            Error::Entry { cause: EntryCause::Deferred(deferral), .. } => match deferral {
                Deferral::MapFailed(_) | Deferral::LeafUnmapped => Fault::MapFailure,
                Deferral::QueryFailed => Fault::QueryFailure,
                Deferral::Unacknowledged => Fault::LostAck,
                _ => return None,
            },
            _ => return None,
        };
        self.struck(fault)
    }

    fn struck(&self, fault: Fault) -> Option<Fault> {
        self.simulation.faults_struck().iter().find(|(struck, _)| *struck == fault).map(|_| fault)
    }
}

/// An error with its sources.
pub(crate) fn in_full(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// Log-dirty that also adds what was read to `marks`, for the observer.
struct Tap<'a> {
    inner: &'a mut dyn LogDirty,
    marks: Option<&'a mut Option<PfnBitmap>>,
}

impl LogDirty for Tap<'_> {
    fn enable(&mut self) -> Result<(), PortError> {
        self.inner.enable()
    }

    fn disable(&mut self) -> Result<(), PortError> {
        self.inner.disable()
    }

    fn clean(&mut self, mut into: LogBuffer<'_>) -> Result<u64, PortError> {
        let read = self.inner.clean(into.lend());
        if let Some(marks) = &mut self.marks {
            let (marks, log) =
                (marks.get_or_insert_default(), into.marks(*read.as_ref().unwrap_or(&0)));
            marks.resize(marks.pfns().max(log.pfns()));
            LogBuffer::over(marks).add(0, log.words());
        }
        read
    }
}

/// A transport whose user may cancel amid a round, and which may break.
struct Cancellable<'a> {
    inner: &'a mut dyn Transport,
    cancelled: Arc<AtomicBool>,
    /// Pages that it still takes before it breaks.
    breaks_after: Option<u64>,
}

/// The error of a broken transport.
const BROKEN: &str = "the connection is gone";

impl Transport for Cancellable<'_> {
    fn send(
        &mut self,
        pages: &[Page],
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        // ORDER: a flag of its own, set by this thread's own calls
        if self.cancelled.load(Ordering::Relaxed) {
            return Err("cancelled".into());
        }
        let Some(left) = &mut self.breaks_after else {
            return self.inner.send(pages, view, answers);
        };
        let taken = pages.len().min(*left as usize);
        *left -= taken as u64;
        self.inner.send(&pages[..taken], view, answers)?;
        if taken < pages.len() { Err(BROKEN.into()) } else { Ok(()) }
    }

    fn frame_list(&mut self, list: FrameList<'_>) -> Result<(), PortError> {
        self.inner.frame_list(list)
    }

    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        self.inner.gone(pfns)
    }

    fn note_gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        self.inner.note_gone(pfns)
    }

    fn returned(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        self.inner.returned(into)
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        if self.breaks_after.is_some() { Err(BROKEN.into()) } else { self.inner.consistent() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Marks pfn 3, then reads this much of the log or fails.
    struct Reads(Result<u64, &'static str>);

    impl LogDirty for Reads {
        fn enable(&mut self) -> Result<(), PortError> {
            Ok(())
        }

        fn disable(&mut self) -> Result<(), PortError> {
            Ok(())
        }

        fn clean(&mut self, mut into: LogBuffer<'_>) -> Result<u64, PortError> {
            into.set(Pfn(3));
            self.0.map_err(Into::into)
        }
    }

    #[test]
    fn marks_are_kept_until_a_round_ends_and_what_was_not_read_counts_as_marked() {
        let (mut marks, mut expected) = (None, Vec::new());
        for (read, pfns, known) in [(Ok(64), 64, 64), (Ok(100), 128, 100), (Err("no"), 192, 0)] {
            let mut bits = PfnBitmap::new(pfns);
            let mut tap = Tap { inner: &mut Reads(read), marks: Some(&mut marks) };
            assert_eq!(tap.clean(LogBuffer::over(&mut bits)).ok(), read.ok());
            assert_eq!(bits.drain(), [Pfn(3)], "the engine's own");
            expected.push(Pfn(3));
            expected.extend((known..pfns).map(Pfn));
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(marks.iter().flat_map(PfnBitmap::iter).collect::<Vec<_>>(), expected);
        }
    }
}
