// SPDX-License-Identifier: MIT OR Apache-2.0
//! One run: a line per round as it happens, the verdict at the end.
//! Not here: many runs (`many`).
//! Units: microseconds by the wall clock, for people only.
//! Threads: the caller's.
//! Source: none.

use std::fmt;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::port::{Observer, Phase, PortError};
use p2mtrack::report::RoundReport;
use p2mtrack_synthetic::run::{Run, Watch, migrate_with};
use p2mtrack_synthetic::{P2mKind, SimConfig, Simulation, upstream};
use p2mtrack_trace::StagedFile;
use serde::Serialize;

use super::args::SimulateArgs;
use super::line;
use super::record::Recording;
use super::result::{Outcome, P2MTRACK, UPSTREAM, exit_status, program, round};
use crate::failure::Failure;
use crate::output::Output;
use crate::stopwatch::Stopwatch;
use crate::written::stage_trace;

/// Prints what happens.
struct Printer<'a> {
    config: &'a SimConfig,
    screen: &'a mut Screen,
    recording: Option<Recording>,
    begun: Instant,
    round_begun: Instant,
    phases: Stopwatch,
    rounds: u64,
}

/// Where lines appear, above a spinner.
pub(super) struct Screen {
    pub(super) bar: ProgressBar,
    pub(super) out: Output,
}

impl Screen {
    /// Prints a line for people.
    pub(super) fn text(&mut self, line: impl fmt::Display) -> io::Result<()> {
        self.bar.suspend(|| self.out.text(format_args!("{line}")))
    }

    /// Prints a line for programs.
    pub(super) fn object(&mut self, object: &impl Serialize) -> io::Result<()> {
        self.bar.suspend(|| self.out.object(object))
    }
}

impl Observer for Printer<'_> {
    fn begin(&mut self, phase: Phase) {
        self.phases.begin();
        self.screen.bar.set_message(format!("round {}: {}", self.rounds, phase.name()));
    }

    fn end(&mut self, phase: Phase) {
        self.phases.end(phase);
    }
}

impl Watch for Printer<'_> {
    fn round(
        &mut self,
        report: &RoundReport,
        log: Option<&PfnBitmap>,
        simulation: &Simulation,
    ) -> Result<(), PortError> {
        self.rounds = report.round + 1;
        let elapsed = self.round_begun.elapsed();
        let (scenario, seed) = (self.config.scenario.name(), self.config.seed);
        self.screen.object(&round(scenario, seed, report, &self.phases))?;
        self.screen.text(line::round(report, elapsed.as_millis()))?;
        if let Some(recording) = &mut self.recording {
            recording.round(log, simulation)?;
        }
        self.phases.clear();
        self.round_begun = Instant::now();
        Ok(())
    }

    fn wants_log(&self) -> bool {
        self.recording.is_some()
    }
}

/// A spinner, if standard error is a terminal.
pub(super) fn progress(json: bool) -> ProgressBar {
    let terminal = io::stderr().is_terminal() && !json;
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let bar = ProgressBar::new_spinner();
    bar.set_draw_target(if terminal {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    });
    let template = if plain { "{spinner} {msg}" } else { "{spinner:.cyan} {msg}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if terminal {
        bar.enable_steady_tick(Duration::from_millis(100)); // on a thread of its own
    }
    bar
}

/// Runs and prints. Returns the exit status.
pub(super) fn run(args: &SimulateArgs, config: &SimConfig) -> Result<u8, Failure> {
    // Before anything runs: a file that can't be written is an error at once.
    let staged = args.record.as_deref().map(stage_trace).transpose()?;
    let out = Output::stdout(args.json).beside_a_file(staged.is_some());
    let mut screen = Screen { bar: progress(args.json), out };
    // As JSON the engine's result is the last line, so the other tracker goes first.
    if args.json && args.tracker().has_upstream() {
        print_upstream(args, config, &mut screen)?;
    }
    let mut status = 0;
    if args.tracker().has_p2mtrack() {
        status = run_p2mtrack(args, config, staged, &mut screen)?;
    }
    if !args.json && args.tracker().has_upstream() {
        print_upstream(args, config, &mut screen)?;
    }
    screen.bar.finish_and_clear();
    screen.out.finish()?;
    Ok(status)
}

/// The same guest under upstream's algorithm.
fn print_upstream(
    args: &SimulateArgs,
    config: &SimConfig,
    screen: &mut Screen,
) -> Result<(), Failure> {
    screen.bar.set_message("the same guest under upstream's algorithm");
    let run: Run = upstream::migrate(config);
    screen.object(&Outcome::new(config, UPSTREAM, &run))?;
    screen.text(line::upstream(config, &args.command(config), &run))?;
    Ok(())
}

fn run_p2mtrack(
    args: &SimulateArgs,
    config: &SimConfig,
    staged: Option<(&Path, StagedFile)>,
    screen: &mut Screen,
) -> Result<u8, Failure> {
    screen.bar.set_message("building the guest");
    let simulation = Simulation::new(config);
    let kind = match simulation.p2m_kind() {
        P2mKind::Linear => "linear",
        P2mKind::Tree => "tree",
    };
    let recording = staged.map(|file| Recording::create(file, config, &simulation)).transpose()?;
    screen.text(line::opening(config, kind, &args.command(config)))?;
    screen.text(line::head())?;
    let now = Instant::now();
    let mut printer = Printer {
        config,
        screen,
        recording,
        begun: now,
        round_begun: now,
        phases: Stopwatch::new(),
        rounds: 0,
    };
    let run = migrate_with(&simulation, args.engine(config), &mut printer);
    let seconds = printer.begun.elapsed().as_secs_f64();
    let recorded = printer.recording.take().map_or(Ok(()), Recording::finish);
    for begun in run.activity.begun.iter().filter(|_| args.story) {
        screen.object(&program(config, begun))?;
        screen.text(line::program(begun))?;
    }
    let record_error = recorded.as_ref().err().map(Failure::words);
    let outcome = Outcome::new(config, P2MTRACK, &run);
    screen.object(&Outcome { record_error: record_error.as_deref(), ..outcome })?;
    let (threads, kernel) =
        run.last.as_ref().map_or((1, "none"), |last| (last.threads, last.kernel));
    screen.text(line::legend())?;
    screen.text(format_args!("\n{}", line::verdict(&run)))?;
    screen.text(format_args!("{seconds:.1} s, {threads} threads, kernel {kernel}."))?;
    recorded?;
    Ok(exit_status(&run))
}
