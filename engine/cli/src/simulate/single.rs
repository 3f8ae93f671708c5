// SPDX-License-Identifier: MIT OR Apache-2.0
//! One run, watched: a line per round as it happens, the verdict at the end.
//! Not here: many runs (`many`).
//! Units: microseconds by the wall clock, for people only.
//! Threads: the caller's.
//! Source: none.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::port::{Observer, Phase, PortError};
use p2mtrack::report::RoundReport;
use p2mtrack_synthetic::run::{Run, Watch, migrate_with};
use p2mtrack_synthetic::{P2mKind, SimConfig, Simulation, upstream};

use super::record::Recording;
use super::result::{Outcome, P2MTRACK, UPSTREAM, exit_status, program, round};
use super::{SimulateArgs, line};
use crate::stopwatch::{Stopwatch, phase_name};

/// Prints what happens.
struct Printer<'a> {
    args: &'a SimulateArgs,
    config: &'a SimConfig,
    bar: &'a ProgressBar,
    recording: Option<Recording>,
    begun: Instant,
    round_begun: Instant,
    phases: Stopwatch,
    rounds: u64,
}

impl Printer<'_> {
    fn say(&self, text: &str) -> io::Result<()> {
        self.bar.suspend(|| writeln!(anstream::stdout(), "{text}"))
    }
}

impl Observer for Printer<'_> {
    fn begin(&mut self, phase: Phase) {
        self.phases.begin();
        self.bar.set_message(format!("round {}: {}", self.rounds, phase_name(phase)));
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
        if self.args.json {
            let (scenario, seed) = (self.config.scenario.name(), self.config.seed);
            self.say(&round(scenario, seed, report, &self.phases).to_string())?;
        } else {
            self.say(&line::round(report, elapsed.as_millis()))?;
        }
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

/// A spinner for whoever watches a terminal.
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
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Runs and prints. Returns the exit status.
pub(super) fn run(args: &SimulateArgs, config: &SimConfig) -> Result<u8, Box<dyn Error>> {
    let bar = progress(args.json);
    // As JSON the engine's result is the last line, so the other tracker goes first.
    if args.json && args.tracker().has_upstream() {
        print_upstream(args, config, &bar)?;
    }
    let status = if args.tracker().has_p2mtrack() { run_p2mtrack(args, config, &bar)? } else { 0 };
    if !args.json && args.tracker().has_upstream() {
        print_upstream(args, config, &bar)?;
    }
    bar.finish_and_clear();
    Ok(status)
}

/// The same guest under upstream's algorithm.
fn print_upstream(
    args: &SimulateArgs,
    config: &SimConfig,
    bar: &ProgressBar,
) -> Result<(), Box<dyn Error>> {
    bar.set_message("the same guest under upstream's algorithm");
    let run: Run = upstream::migrate(config);
    let text = if args.json {
        serde_json::to_string(&Outcome::new(config, UPSTREAM, &run))?
    } else {
        line::upstream(config, &args.command(config), &run)
    };
    bar.suspend(|| writeln!(anstream::stdout(), "{text}"))?;
    Ok(())
}

fn run_p2mtrack(
    args: &SimulateArgs,
    config: &SimConfig,
    bar: &ProgressBar,
) -> Result<u8, Box<dyn Error>> {
    bar.set_message("building the guest");
    let simulation = Simulation::new(config);
    let kind = match simulation.p2m_kind() {
        P2mKind::Linear => "linear",
        P2mKind::Tree => "tree",
    };
    let recording = match &args.record {
        None => None,
        Some(path) => Some(Recording::create(path, config, &simulation)?),
    };
    let now = Instant::now();
    let mut printer = Printer {
        args,
        config,
        bar,
        recording,
        begun: now,
        round_begun: now,
        phases: Stopwatch::new(),
        rounds: 0,
    };
    if !args.json {
        printer.say(&line::opening(config, kind, &args.command(config)))?;
        printer.say(&line::head())?;
    }
    let run = migrate_with(&simulation, args.engine(config), &mut printer);
    for begun in run.activity.begun.iter().filter(|_| args.story) {
        printer.say(&if args.json {
            program(config, begun).to_string()
        } else {
            line::program(begun)
        })?;
    }
    if args.json {
        printer.say(&serde_json::to_string(&Outcome::new(config, P2MTRACK, &run))?)?;
    } else {
        let seconds = printer.begun.elapsed().as_secs_f64();
        let (threads, kernel) =
            run.last.as_ref().map_or((1, "none"), |last| (last.threads, last.kernel));
        printer.say(line::legend())?;
        printer.say(&format!("\n{}", line::verdict(&run)))?;
        printer.say(&format!("{seconds:.1} s, {threads} threads, kernel {kernel}."))?;
    }
    if let Some(recording) = printer.recording.take() {
        recording.finish()?;
    }
    Ok(exit_status(&run))
}
