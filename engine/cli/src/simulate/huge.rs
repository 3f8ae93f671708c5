// SPDX-License-Identifier: MIT OR Apache-2.0
//! One run of a huge guest: a line per round as it happens, the verdict and the peak memory at the
//! end.
//! Not here: guest and judge (`p2mtrack_synthetic::huge`), lines (`huge_line`), plan (`huge_plan`).
//! Units: milliseconds by the wall clock.
//! Threads: the engine's own; the guest is built and judged on rayon's pool.
//! Source: options, keys and status are an interface: see `docs/json.md` and `--help`.

use std::ops::Range;
use std::time::{Duration, Instant};

use p2mtrack::config::Config;
use p2mtrack::frame::Width;
use p2mtrack::port::{Observer, Phase, PortError};
use p2mtrack::report::RoundReport;
use p2mtrack_bench::memory::peak_bytes;
use p2mtrack_synthetic::huge::run::{Turn, Watch, migrate};
use p2mtrack_synthetic::huge::{Guest, Life, Pattern};

use super::args::{SimulateArgs, failed};
use super::huge_line::{HUGE, Outcome, Times};
use super::huge_plan::Plan;
use super::result::round;
use super::single::{Screen, progress};
use super::{huge_line, line};
use crate::bitmaps::Bitmaps;
use crate::failure::Failure;
use crate::output::Output;
use crate::recording::Recording;
use crate::stopwatch::Stopwatch;

/// The entries of a recording's last round.
fn tile(plan: &Plan) -> Result<Vec<u64>, Failure> {
    let Some(path) = &plan.capture else { return Ok(Vec::new()) };
    let recording = Recording::open(path)?;
    if recording.reader.meta().width != Width::W64 {
        return Err(Failure::file(path)("a p2m of a 32-bit guest can't be tiled"));
    }
    let mut rounds = recording.reader.rounds();
    while rounds.advance().map_err(Failure::file(path))? {}
    Ok(rounds.round().entries.clone())
}

/// Prints what happens.
struct Printer<'a> {
    plan: &'a Plan,
    screen: &'a mut Screen,
    round_begun: Instant,
    phases: Stopwatch,
    rounds: u64,
    judge_begun: Option<Instant>,
    bitmaps: Bitmaps,
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
    fn round(&mut self, report: &RoundReport) -> Result<(), PortError> {
        self.rounds = report.round + 1;
        let elapsed = self.round_begun.elapsed();
        self.screen.object(&round(HUGE, self.plan.seed, report, &self.phases))?;
        self.screen.text(line::round(report, elapsed.as_millis()))?;
        self.phases.clear();
        Ok(())
    }

    fn memory(&mut self, bitmaps: &[Range<usize>]) {
        self.bitmaps = Bitmaps::at(bitmaps);
    }

    fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Guest => self.screen.bar.set_message("the guest runs"),
            Turn::Engine => self.round_begun = Instant::now(),
            Turn::Oracle => {
                self.judge_begun = Some(Instant::now());
                self.screen.bar.set_message("the oracle checks every pfn");
            }
        }
    }
}

/// Runs and prints. Returns the exit status.
pub(super) fn run(args: &SimulateArgs) -> Result<u8, Failure> {
    let plan = Plan::new(args).map_err(failed)?;
    let mut screen = Screen { bar: progress(args.json), out: Output::stdout(args.json) };
    screen.bar.set_message("building the guest");
    let begun = Instant::now();
    let pattern = Pattern::new(plan.shape, plan.pages, plan.seed, &tile(&plan)?).map_err(failed)?;
    let guest = Guest::new(pattern).map_err(failed)?;
    let built = begun.elapsed();
    screen.text(huge_line::opening(&plan, &guest))?;
    screen.text(line::head())?;
    let mut printer = Printer {
        plan: &plan,
        screen: &mut screen,
        round_begun: Instant::now(),
        phases: Stopwatch::new(),
        rounds: 0,
        judge_begun: None,
        bitmaps: Bitmaps::default(),
    };
    let run = migrate(&guest, &mut Life::new(plan.seed), engine(args), plan.rounds, &mut printer);
    let judged = printer.judge_begun.map_or(Duration::ZERO, |begun| begun.elapsed());
    let times = Times { built, migrated: begun.elapsed() - built - judged, judged };
    let bitmaps = printer.bitmaps;
    let outcome = Outcome::new(&plan, &guest, &run, times, bitmaps, peak_bytes());
    screen.object(&outcome)?;
    screen.text(line::legend())?;
    screen.text(huge_line::verdict(&outcome, &run))?;
    screen.bar.finish_and_clear();
    screen.out.finish()?;
    Ok(outcome.exit_status())
}

fn engine(args: &SimulateArgs) -> Config {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Config { threads: args.threads.map_or(cores, usize::from), ..args.compare.config() }
}
