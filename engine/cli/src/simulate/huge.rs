// SPDX-License-Identifier: MIT OR Apache-2.0
//! One huge guest, watched: a line per round as it happens, the verdict and the peak of memory at the end.
//! Not here: guest and judge (`p2mtrack_synthetic::huge`), the lines' texts (`huge_line`).
//! Units: milliseconds by the wall clock.
//! Threads: the engine's own; the guest is built and judged on rayon's pool.
//! Source: options, keys and status are an interface: see `docs/json.md` and `--help`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use p2mtrack::config::Config;
use p2mtrack::frame::{FRAME_BYTES, Width};
use p2mtrack::port::{Observer, Phase, PortError};
use p2mtrack::report::RoundReport;
use p2mtrack_bench::memory::peak_bytes;
use p2mtrack_synthetic::huge::run::{Turn, Watch, migrate};
use p2mtrack_synthetic::huge::{Guest, Life, PFNS_MAX, Pattern, Shape};

use super::huge_line::{HUGE, Outcome, Times};
use super::result::round;
use super::single::{Screen, progress};
use super::{GUEST_BYTES_MIN, P2mName, SHOW_GUEST_BYTES, SimulateArgs, TrackerName, WidthName};
use super::{failed, huge_line, line};
use crate::failure::Failure;
use crate::output::Output;
use crate::recording::Recording;
use crate::size::in_words;
use crate::stopwatch::{Stopwatch, phase_name};

/// Live rounds when nothing else is said.
const ROUNDS: u64 = 4;
/// The largest guest.
const HUGE_BYTES_MAX: u64 = PFNS_MAX * FRAME_BYTES as u64;

/// Options of huge guests.
#[derive(Debug, clap::Args)]
pub(super) struct HugeArgs {
    /// Migrate a huge guest: all of its p2m is in memory, its pages are only numbers. How its frames
    /// lie [default above 256GiB: superpage]
    #[arg(long, value_name = "SHAPE", value_parser = shapes())]
    pub(super) shape: Option<Shape>,
    /// With --shape real: the trace or capture whose last p2m is laid out again and again
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
    /// Rounds of a huge guest between the first copy and the suspend [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    rounds: Option<u64>,
}

fn shapes() -> impl TypedValueParser<Value = Shape> {
    PossibleValuesParser::new(Shape::ALL.map(Shape::name)).try_map(|name| name.parse::<Shape>())
}

impl HugeArgs {
    /// For other guests.
    pub(super) fn expect_none(&self) -> Result<(), String> {
        let given = [("--capture", self.capture.is_some()), ("--rounds", self.rounds.is_some())];
        given.into_iter().find(|(_, given)| *given).map_or(Ok(()), |(option, _)| {
            Err(format!("{option} is for huge guests: --shape, or more than 256GiB"))
        })
    }
}

/// One run as it was asked for.
pub(super) struct Plan {
    pub(super) pages: u64,
    pub(super) shape: Shape,
    pub(super) seed: u64,
    pub(super) rounds: u64,
    capture: Option<PathBuf>,
    options: String,
}

impl Plan {
    fn new(args: &SimulateArgs) -> Result<Self, String> {
        refuse(args)?;
        let bytes = args.guest_size.unwrap_or(SHOW_GUEST_BYTES);
        if !(GUEST_BYTES_MIN..=HUGE_BYTES_MAX).contains(&bytes) {
            return Err("--guest-size of a huge guest is from 8MiB to 8TiB".to_owned());
        }
        let shape = args.huge.shape.unwrap_or(Shape::Superpage);
        if (shape == Shape::Real) != args.huge.capture.is_some() {
            return Err("--shape real takes --capture FILE, and no other shape does".to_owned());
        }
        let leaf_bytes = (Width::W64.entries() * FRAME_BYTES) as u64;
        let pages = bytes.next_multiple_of(leaf_bytes) / FRAME_BYTES as u64;
        let rounds = args.huge.rounds.unwrap_or(ROUNDS);
        let threads = args.threads.map(|threads| format!(" --threads {threads}"));
        let options = threads.unwrap_or_default() + &args.compare.options();
        let capture = args.huge.capture.clone();
        Ok(Self { pages, shape, seed: args.seed, rounds, capture, options })
    }

    /// The guest's memory.
    pub(super) const fn bytes(&self) -> u64 {
        self.pages * FRAME_BYTES as u64
    }

    /// The command that repeats the run.
    pub(super) fn command(&self) -> String {
        let (size, shape) = (in_words(self.bytes()).replace(' ', ""), self.shape);
        let capture = self.capture.as_ref().map(|path| format!(" --capture {}", path.display()));
        format!(
            "p2mtrack simulate --guest-size {size} --shape {shape}{} --seed {} --rounds {}{}",
            capture.unwrap_or_default(),
            self.seed,
            self.rounds,
            self.options
        )
    }
}

/// Names the first option that a huge guest can't follow.
fn refuse(args: &SimulateArgs) -> Result<(), String> {
    let given = [
        ("--scenario", args.scenario.is_some()),
        ("--seeds", args.seeds.is_some()),
        ("--width 32", args.width == WidthName::W32),
        ("--p2m tree", args.p2m == Some(P2mName::Tree)),
        ("--tracker upstream", args.tracker.is_some_and(TrackerName::has_upstream)),
        ("--checkpoints", args.checkpoints > 0),
        ("--faults", args.faults.is_some()),
        ("--steps", args.steps.is_some()),
        ("--programs", args.programs.is_some()),
        ("--no-plain-writes", args.no_plain_writes),
        ("--story", args.story),
        ("--record", args.record.is_some()),
    ];
    given.into_iter().find(|(_, given)| *given).map_or(Ok(()), |(option, _)| {
        Err(format!("a huge guest (--shape, or more than 256GiB) can't have {option}"))
    })
}

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
}

impl Observer for Printer<'_> {
    fn begin(&mut self, phase: Phase) {
        self.phases.begin();
        self.screen.bar.set_message(format!("round {}: {}", self.rounds, phase_name(phase)));
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

    fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Guest => self.screen.bar.set_message("the guest runs"),
            Turn::Engine => self.round_begun = Instant::now(),
            Turn::Oracle => {
                self.judge_begun = Some(Instant::now());
                self.screen.bar.set_message("the oracle looks at every pfn");
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
    };
    let run = migrate(&guest, &mut Life::new(plan.seed), engine(args), plan.rounds, &mut printer);
    let judged = printer.judge_begun.map_or(Duration::ZERO, |begun| begun.elapsed());
    let times = Times { built, migrated: begun.elapsed() - built - judged, judged };
    let outcome = Outcome::new(&plan, &guest, &run, times, peak_bytes());
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
