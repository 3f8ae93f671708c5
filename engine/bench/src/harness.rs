// SPDX-License-Identifier: MIT OR Apache-2.0
//! A huge guest and its migration, run and timed phase by phase.
//! Not here: which rounds are figures (`figures`).
//! Units: seconds of the engine's own work; callers exclude the ports' time before the end of the
//! clean phase.
//! Threads: the engine's, as many as the setup's pool has.
//! Source: phases are the engine's (`port::Observer`).

use std::time::{Duration, Instant};

use p2mtrack::config::Config;
use p2mtrack::frame::Pfn;
use p2mtrack::leaf::FRAME_WORDS;
use p2mtrack::migration::Migration;
use p2mtrack::monitor::Monitor;
use p2mtrack::port::{
    Answer, FrameList, LogBuffer, LogDirty, Observer, Page, Phase, PortError, Ports, Transport,
};
use p2mtrack::report::RoundReport;
use p2mtrack::table::TableView;
use p2mtrack_synthetic::huge::Guest;
use p2mtrack_synthetic::huge::ports::GuestPorts;

use crate::read::xor;
use crate::setup::Setup;

/// When the clean phase ended, and how long all comparisons of leaves took.
#[derive(Debug)]
pub struct Phases {
    began: Instant,
    diff: Duration,
    clean: Instant,
}

impl Default for Phases {
    fn default() -> Self {
        let now = Instant::now();
        Self { began: now, diff: Duration::ZERO, clean: now }
    }
}

impl Phases {
    /// Time in which leaves were compared.
    #[must_use]
    pub const fn diff(&self) -> Duration {
        self.diff
    }

    /// Time since the end of the intake.
    #[must_use]
    pub fn since_intake(&self) -> Duration {
        self.clean.elapsed()
    }

    /// Time from a moment to the end of the intake.
    #[must_use]
    pub fn intake_since(&self, moment: Instant) -> Duration {
        self.clean.saturating_duration_since(moment)
    }
}

impl Observer for Phases {
    fn begin(&mut self, _: Phase) {
        self.began = Instant::now();
    }

    fn end(&mut self, phase: Phase) {
        match phase {
            Phase::Clean => self.clean = Instant::now(),
            Phase::Diff => self.diff += self.began.elapsed(),
            _ => {}
        }
    }
}

/// A transport that always fails: whatever was found stays owed.
#[derive(Debug)]
struct Broken;

impl Transport for Broken {
    fn send(
        &mut self,
        _: &[Page],
        _: &dyn TableView,
        _: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        Err("broken on purpose".into())
    }

    fn frame_list(&mut self, _: FrameList<'_>) -> Result<(), PortError> {
        Err("broken on purpose".into())
    }

    fn gone(&mut self, _: &[Pfn]) -> Result<(), PortError> {
        Err("broken on purpose".into())
    }

    fn returned(&mut self, _: &mut Vec<Pfn>) -> Result<(), PortError> {
        Ok(())
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        Err("broken on purpose".into())
    }
}

/// The guest's log with more bits in it, and the moment when it was read.
struct Planted<'a> {
    log: &'a mut dyn LogDirty,
    bits: &'a [u64],
    done: &'a mut Instant,
}

impl LogDirty for Planted<'_> {
    fn enable(&mut self) -> Result<(), PortError> {
        self.log.enable()
    }

    fn disable(&mut self) -> Result<(), PortError> {
        self.log.disable()
    }

    fn clean(&mut self, mut into: LogBuffer<'_>) -> Result<u64, PortError> {
        let read = self.log.clean(into.lend())?;
        into.add(0, self.bits);
        *self.done = Instant::now();
        Ok(read)
    }
}

/// A guest under migration.
pub struct Harness<'g> {
    guest: &'g Guest,
    ports: GuestPorts<'g>,
    migration: Migration,
}

impl<'g> Harness<'g> {
    /// Starts a migration.
    ///
    /// # Panics
    /// If the engine refuses.
    #[must_use]
    pub fn new(setup: &Setup, guest: &'g Guest) -> Self {
        let mut ports = GuestPorts::new(guest);
        let started = Migration::start(config(setup), &mut ports.lend(&mut ()));
        Self { guest, ports, migration: started.expect("a migration starts") }
    }

    /// The guest.
    #[must_use]
    pub const fn guest(&self) -> &'g Guest {
        self.guest
    }

    /// A live round: its report, and its time from the end of the intake.
    ///
    /// # Panics
    /// If it ends in an error.
    pub fn round(&mut self) -> (RoundReport, Duration) {
        let mut phases = Phases::default();
        let report = self.migration.round(&mut self.ports.lend(&mut phases));
        let took = phases.since_intake();
        (report.expect("a round"), took)
    }

    /// A round with these bits in the log, which fails when it sends. Returns the time of the
    /// intake, from the moment when the log was read.
    ///
    /// # Panics
    /// If the round succeeds: then nothing was owed.
    pub fn intake(&mut self, bits: &[u64]) -> Duration {
        let (mut phases, mut done) = (Phases::default(), Instant::now());
        let mut broken = Broken;
        let Ports { guest, log_dirty, .. } = self.ports.lend(&mut phases);
        let mut planted = Planted { log: log_dirty, bits, done: &mut done };
        let mut ports = Ports { guest, log_dirty: &mut planted, transport: &mut broken };
        self.migration.round(&mut ports).expect_err("the transport is broken");
        phases.intake_since(done)
    }

    /// Suspends the guest and ends the migration. Also returns the time in which leaves were
    /// compared.
    ///
    /// # Panics
    /// If it ends in an error, or the engine broke a port's contract or left something at the
    /// source.
    pub fn finish(mut self) -> (RoundReport, Duration) {
        let mut phases = Phases::default();
        self.guest.suspend(true);
        let report = self.migration.finish(&mut self.ports.lend(&mut phases));
        let report = report.expect("a final round");
        assert_eq!(self.guest.harm(), None);
        (report, phases.diff())
    }
}

fn config(setup: &Setup) -> Config {
    Config {
        threads: setup.pool.threads(),
        kernel: Some(setup.kernel),
        shadow: Some(setup.forms),
        ..Config::default()
    }
}

/// A guest whose p2m is tracked without sending anything.
pub struct Watched<'g> {
    guest: &'g Guest,
    ports: GuestPorts<'g>,
    monitor: Monitor,
}

impl<'g> Watched<'g> {
    /// Takes the first snapshot of a guest's p2m. Also returns the time in which leaves were read,
    /// and how many were.
    ///
    /// # Panics
    /// If the engine refuses.
    #[must_use]
    pub fn new(setup: &Setup, guest: &'g Guest) -> (Self, Duration, u64) {
        let (mut ports, mut phases) = (GuestPorts::new(guest), Phases::default());
        let mut lent = ports.lend(&mut phases);
        let mut monitor = Monitor::new(config(setup), lent.guest.p2m.width()).expect("a monitor");
        lent.log_dirty.enable().expect("log-dirty is off");
        let mut owed = 0_u64;
        let report = monitor.observe(&mut lent.guest, lent.log_dirty, |_, _| owed += 1);
        let report = report.expect("a first round");
        assert_eq!(owed, guest.frames(), "each pfn with a frame");
        (Self { guest, ports, monitor }, phases.diff(), report.leaves.compared)
    }

    /// The guest.
    #[must_use]
    pub const fn guest(&self) -> &'g Guest {
        self.guest
    }

    /// A round: its report, how many pfns are owed, and its time from the end of the intake.
    ///
    /// # Panics
    /// If it ends in an error.
    pub fn round(&mut self) -> (RoundReport, u64, Duration) {
        let (mut phases, mut owed) = (Phases::default(), 0);
        let mut lent = self.ports.lend(&mut phases);
        let report = self.monitor.observe(&mut lent.guest, lent.log_dirty, |_, _| owed += 1);
        let took = phases.since_intake();
        (report.expect("a round"), owed, took)
    }

    /// Stops tracking the guest.
    ///
    /// # Panics
    /// If log-dirty can't be switched off.
    pub fn release(mut self) {
        let mut no_observer = ();
        let ports = self.ports.lend(&mut no_observer);
        self.monitor.release(ports.guest.p2m);
        ports.log_dirty.disable().expect("log-dirty was on");
    }
}

/// Reads words with the setup's pool. Returns the time of the faster way.
#[must_use]
pub fn read_words(setup: &Setup, words: &[u64]) -> Duration {
    let (frames, rest) = words.as_chunks::<FRAME_WORDS>();
    let rest = || rest.iter().fold(0, |sum, word| sum ^ word);
    faster(|ahead| {
        rest()
            ^ setup.pool.sum(frames, |piece| {
                let read = |(at, frame)| {
                    let later = |by| piece.get(at + by).filter(|_| ahead);
                    xor(frame, [later(2), later(3)])
                };
                piece.iter().enumerate().map(read).fold(0, |sum, frame| sum ^ frame)
            })
    })
}

/// The time of reading, without and with later frames prefetched: what is faster.
fn faster(read: impl Fn(bool) -> u64) -> Duration {
    let time = |ahead| {
        let begin = Instant::now();
        std::hint::black_box(read(ahead));
        begin.elapsed()
    };
    time(false).min(time(true))
}

/// Reads leaves of a guest's p2m with the setup's pool. Returns the time of the faster way.
///
/// # Panics
/// If a leaf is missing.
#[must_use]
pub fn read(setup: &Setup, guest: &Guest, leaves: &[u64]) -> Duration {
    let leaf = |&index: &u64| guest.leaf(index).expect("a leaf");
    faster(|ahead| {
        setup.pool.sum(leaves, |piece| {
            let later = |at: usize| piece.get(at).filter(|_| ahead).map(leaf);
            let read = |(at, index)| xor(leaf(index), [later(at + 2), later(at + 3)]);
            piece.iter().enumerate().map(read).fold(0, |sum, frame| sum ^ frame)
        })
    })
}
