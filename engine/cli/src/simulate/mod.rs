// SPDX-License-Identifier: MIT OR Apache-2.0
//! `simulate`: migrates synthetic guests with the real engine and lets the oracle judge.
//! Not here: guests and judge (`p2mtrack-synthetic`), one run's lines (`single`), many runs (`many`).
//! Units: sizes in bytes with binary suffixes.
//! Threads: one run uses the engine's own; many runs use one thread each, side by side.
//! Source: options and exit status are an interface: see `docs/json.md` and `--help`.

mod huge;
mod huge_line;
mod line;
mod many;
pub(crate) mod record;
mod result;
mod single;
mod table;

use std::error::Error;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use p2mtrack::config::Config;
use p2mtrack::frame::Width;
use p2mtrack_synthetic::run::{migrate, side_by_side};
use p2mtrack_synthetic::{FaultSet, Limits, Numbers, P2mKind, Scenario, SimConfig, upstream};

use huge::HugeArgs;

use crate::compare::CompareArgs;
use crate::failure::{Failure, VERDICT};
use crate::output::counted;
use crate::size::parse_size;

/// Size of the guest when nothing else is said: large enough to be worth a tracker.
const SHOW_GUEST_BYTES: u64 = 64 << 30;
/// Size of the guest of a named scenario: what is tried there is the order of events, not the size.
const SCENARIO_GUEST_BYTES: u64 = 256 << 20;
/// The smallest guest: its own tables and a few pages to play with.
const GUEST_BYTES_MIN: u64 = 8 << 20;
/// Runs that are under way at once, or waiting to be printed.
const CHUNK: usize = 64;
/// Runs of one command.
const RUNS_MAX: u64 = 10_000_000;
/// The largest guest whose pages have contents.
const GUEST_BYTES_MAX: u64 = 256 << 30;

/// A run was corrupt or leaked, or harmed its source.
const EXIT_WRONG: u8 = VERDICT;
/// A run ended with an error.
const EXIT_ABORTED: u8 = 3;

/// Guest widths on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WidthName {
    #[value(name = "64")]
    W64,
    #[value(name = "32")]
    W32,
}

/// Trackers on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TrackerName {
    /// The engine of this project
    P2mtrack,
    /// A model of the algorithm of Xen's own toolstack
    Upstream,
    /// One after the other on the same guests
    Both,
}

impl TrackerName {
    const fn has_p2mtrack(self) -> bool {
        !matches!(self, Self::Upstream)
    }

    const fn has_upstream(self) -> bool {
        !matches!(self, Self::P2mtrack)
    }
}

/// p2m kinds on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum P2mName {
    Linear,
    Tree,
}

/// Migrate a synthetic guest that changes its p2m while it runs, and judge the result.
///
/// Exit status, by the runs of p2mtrack: 0 all identical, 1 a run was corrupt or leaked, 2 unusable
/// arguments, a file that can't be written, or no memory, 3 a run ended with an error. What upstream
/// does changes no exit status.
#[derive(Args, Debug)]
pub(crate) struct SimulateArgs {
    /// The guest's memory, such as 64GiB or 256MiB [default: 64GiB; 256MiB with --scenario]. Above
    /// 256GiB, up to 8TiB, it is a huge guest: see --shape
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    guest_size: Option<u64>,
    /// The guest's width in bits
    #[arg(long, value_enum, default_value = "64")]
    width: WidthName,
    /// How the guest publishes its p2m [default: the scenario's, or drawn from the seed]
    #[arg(long, value_enum)]
    p2m: Option<P2mName>,
    #[command(flatten)]
    huge: HugeArgs,
    /// What the guest does: a name, `all`, or `list` to have them explained [default: mixed]
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// The seed that decides everything
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "seeds")]
    seed: u64,
    /// One run for each seed from A to B, both included
    #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
    seeds: Option<RangeInclusive<u64>>,
    /// Who migrates: the engine, the model of Xen's own toolstack, or both on the same guests
    /// [default: both; p2mtrack for a huge guest]
    #[arg(long, value_enum)]
    tracker: Option<TrackerName>,
    /// Threads that compare leaves [default: the machine's for one run, 1 for each of many]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    #[command(flatten)]
    compare: CompareArgs,
    /// Checkpoints (suspend, copy, resume) before the last suspend
    #[arg(long, value_name = "N", default_value_t = 0)]
    checkpoints: u32,
    /// What may go wrong: a comma-separated list of map-failure, short-bitmap, lost-ack, cancel,
    /// allocation-failure, transport-failure, query-failure, returned; or `all`
    #[arg(long, value_name = "LIST")]
    faults: Option<FaultSet>,
    /// The guest stands still after N steps; up to there the run is the same
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Of the guest's programs only these do anything (numbers from 1 and ranges, such as 3,7,12-14,
    /// or `none`); the others take their time and do nothing. `--story` tells the numbers
    #[arg(long, value_name = "LIST", value_parser = parse_programs)]
    programs: Option<Numbers>,
    /// The guest's plain stores into data pages are left out
    #[arg(long)]
    no_plain_writes: bool,
    /// Tell which programs the guest began, by number, step and name (one run only)
    #[arg(long)]
    story: bool,
    /// Write the guest's p2m life to a trace (one run only); it appears whole or not at all, and
    /// replaces a file of that name
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

fn parse_seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (first, last) = text.split_once("..").ok_or("expected A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("{first} is after {last}"));
    }
    Ok(first..=last)
}

fn parse_programs(text: &str) -> Result<Numbers, Box<dyn Error + Send + Sync>> {
    let numbers: Numbers = text.parse()?;
    if numbers.contains(0) {
        return Err("programs are numbered from 1".into());
    }
    Ok(numbers)
}

impl SimulateArgs {
    fn scenarios(&self) -> Result<Vec<Scenario>, String> {
        match self.scenario.as_deref() {
            None => Ok(vec![Scenario::Mixed]),
            Some("all") => Ok(Scenario::ALL.to_vec()),
            Some(name) => name.parse().map(|scenario| vec![scenario]).map_err(|_| {
                format!("no scenario is called '{name}'; `--scenario list` tells which there are")
            }),
        }
    }

    fn tracker(&self) -> TrackerName {
        self.tracker.unwrap_or(TrackerName::Both)
    }

    /// A guest whose pages have no contents: of a shape, or too large for others.
    fn is_huge(&self) -> bool {
        self.huge.shape.is_some() || self.guest_size.is_some_and(|size| size > GUEST_BYTES_MAX)
    }

    fn guest_bytes(&self) -> Result<u64, String> {
        let default = if self.scenario.is_some() { SCENARIO_GUEST_BYTES } else { SHOW_GUEST_BYTES };
        let bytes = self.guest_size.unwrap_or(default);
        if !(GUEST_BYTES_MIN..=GUEST_BYTES_MAX).contains(&bytes) {
            return Err("--guest-size is from 8MiB to 256GiB".to_owned());
        }
        Ok(bytes)
    }

    /// Every run that was asked for, scenario by scenario.
    fn runs(&self) -> Result<Vec<SimConfig>, String> {
        let seeds = self.seeds.clone().unwrap_or(self.seed..=self.seed);
        let scenarios = self.scenarios()?;
        let guest_bytes = self.guest_bytes()?;
        let width = match self.width {
            WidthName::W64 => Width::W64,
            WidthName::W32 => Width::W32,
        };
        let p2m = self.p2m.map(|name| match name {
            P2mName::Linear => P2mKind::Linear,
            P2mName::Tree => P2mKind::Tree,
        });
        let count = (seeds.end() - seeds.start()).saturating_add(1);
        let count = count.saturating_mul(scenarios.len() as u64);
        if count > RUNS_MAX {
            return Err(format!("{count} runs are too many for one command: at most {RUNS_MAX}"));
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.map_or(if count == 1 { cores } else { 1 }, usize::from);
        Ok(scenarios
            .into_iter()
            .flat_map(|scenario| {
                seeds.clone().map(move |seed| SimConfig {
                    seed,
                    guest_bytes,
                    width,
                    p2m,
                    scenario,
                    faults: self.faults.clone().unwrap_or_default(),
                    checkpoints: self.checkpoints,
                    threads,
                    limits: self.limits(),
                })
            })
            .collect())
    }

    /// What is left out of each run.
    fn limits(&self) -> Limits {
        Limits {
            steps: self.steps,
            programs: self.programs.clone(),
            no_writes: self.no_plain_writes,
        }
    }

    /// Refuses a number in `--programs` that no guest comes to, neither so nor with all of its programs: it comes to fewer, or
    /// more, when others do nothing. How far one comes only a run tells, so that some are made, silently, until one is enough.
    fn expect_programs(&self, runs: &[SimConfig]) -> Result<(), Failure> {
        let Some(last) = self.programs.as_ref().and_then(Numbers::last) else { return Ok(()) };
        let mut most = 0;
        for chunk in runs.chunks(CHUNK) {
            for limits in [self.limits(), Limits { programs: None, ..self.limits() }] {
                let came_to = side_by_side(chunk, |run| {
                    self.programs_of(&SimConfig { limits: limits.clone(), ..run.clone() })
                });
                most = most.max(came_to.into_iter().max().unwrap_or(0));
                if last <= most {
                    return Ok(());
                }
            }
        }
        let most = counted(most, "program", "programs");
        Err(failed(format!("--programs names {last}, and the guest has {most}: see --story")))
    }

    /// The programs that a guest thinks of until its migration ends.
    fn programs_of(&self, run: &SimConfig) -> u64 {
        let run = if self.tracker().has_p2mtrack() {
            migrate(run, self.engine(run), &mut ())
        } else {
            upstream::migrate(run)
        };
        run.activity.planned
    }

    /// The engine's configuration for a run.
    fn engine(&self, run: &SimConfig) -> Config {
        let config = Config { threads: run.threads, ..self.compare.config() };
        run.scenario.engine(run.seed, config)
    }

    /// The command that repeats one run.
    fn command(&self, run: &SimConfig) -> String {
        format!("p2mtrack simulate {}{}", run.options(), self.compare.options())
    }
}

/// Runs the command.
pub(crate) fn run(args: &SimulateArgs) -> Result<ExitCode, Failure> {
    dispatch(args).map(ExitCode::from)
}

fn dispatch(args: &SimulateArgs) -> Result<u8, Failure> {
    if args.scenario.as_deref() == Some("list") {
        return line::list_scenarios(args.json).map(|()| 0).map_err(failed);
    }
    if args.is_huge() {
        return huge::run(args);
    }
    args.huge.expect_none().map_err(failed)?;
    let runs = args.runs().map_err(failed)?;
    if args.record.is_some() && !args.tracker().has_p2mtrack() {
        return Err(failed("--record shows what p2mtrack looked at: not with --tracker upstream"));
    }
    if runs.len() > 1 && args.record.is_some() {
        return Err(failed("--record takes one run: one scenario, one seed"));
    }
    if runs.len() > 1 && args.story {
        return Err(failed("--story takes one run: one scenario, one seed"));
    }
    args.expect_programs(&runs)?;
    match runs.as_slice() {
        [run] => single::run(args, run),
        _ => many::run(args, &runs),
    }
}

/// An error about the arguments, or of the output.
fn failed(error: impl Into<Box<dyn Error>>) -> Failure {
    match error.into().downcast::<io::Error>() {
        Ok(output) => Failure::Output(*output),
        Err(source) => Failure::Unusable { about: "simulate".to_owned(), source },
    }
}
