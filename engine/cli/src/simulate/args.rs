// SPDX-License-Identifier: MIT OR Apache-2.0
//! The options of `simulate`, and the runs that they ask for.
//! Not here: the runs (`single`, `many`, `huge`), options that a huge guest refuses (`huge_plan`).
//! Units: sizes in bytes with binary suffixes.
//! Threads: plain values.
//! Source: names and options are an interface: see `--help`.

use std::error::Error;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use p2mtrack::config::Config;
use p2mtrack::frame::Width;
use p2mtrack_synthetic::huge::Shape;
use p2mtrack_synthetic::{FaultSet, Limits, Numbers, P2mKind, Scenario, SimConfig, TransportKind};

use crate::compare::CompareArgs;
use crate::failure::Failure;
use crate::size::parse_size;

/// Default size of the guest: large enough to be worth a tracker.
pub(super) const SHOW_GUEST_BYTES: u64 = 64 << 30;
/// Default size with a named scenario: a scenario tests the order of events, not the size.
const SCENARIO_GUEST_BYTES: u64 = 256 << 20;
/// The smallest guest: its own tables and a few pages to work with.
pub(super) const GUEST_BYTES_MIN: u64 = 8 << 20;
/// Runs of one command.
const RUNS_MAX: u64 = 10_000_000;
/// The largest guest whose pages have contents.
const GUEST_BYTES_MAX: u64 = 256 << 30;
/// The largest guest whose pages go through a stream.
const STREAM_GUEST_BYTES_MAX: u64 = 1 << 30;

/// Guest widths on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum WidthName {
    #[value(name = "64")]
    W64,
    #[value(name = "32")]
    W32,
}

/// Trackers on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TrackerName {
    /// The engine of this project
    P2mtrack,
    /// A model of the algorithm of Xen's own toolstack
    Upstream,
    /// Both, one after the other, on the same guests
    Both,
}

impl TrackerName {
    pub(super) const fn has_p2mtrack(self) -> bool {
        !matches!(self, Self::Upstream)
    }

    pub(super) const fn has_upstream(self) -> bool {
        !matches!(self, Self::P2mtrack)
    }
}

/// Transports on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TransportName {
    /// Straight into a simulated receiver
    Direct,
    /// The bytes of a libxc stream: a receiver reads them as libxc's does, and every rule of the
    /// format is checked
    Stream,
}

/// p2m kinds on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum P2mName {
    Linear,
    Tree,
}

/// Migrate a synthetic guest that changes its p2m while it runs, and check the result
///
/// Exit status, of p2mtrack's runs only: 0 all identical, 1 a run was corrupt or leaked, or harmed
/// its source, 2 unusable arguments, a file that can't be written, or no memory, 3 a run ended with
/// an error. Runs of upstream don't count.
#[derive(Args, Debug)]
pub(crate) struct SimulateArgs {
    /// The guest's memory, such as 64GiB or 256MiB [default: 64GiB; 256MiB with --scenario]. A
    /// guest of more than 256GiB, up to 8TiB, is a huge guest: see --shape
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) guest_size: Option<u64>,
    /// The guest's width in bits
    #[arg(long, value_enum, default_value = "64")]
    pub(super) width: WidthName,
    /// How the guest publishes its p2m [default: the scenario's, or drawn from the seed]
    #[arg(long, value_enum)]
    pub(super) p2m: Option<P2mName>,
    /// What the pages of p2mtrack's runs go through; stream: a guest of at most 1GiB [default:
    /// direct]
    #[arg(long, value_enum)]
    pub(super) transport: Option<TransportName>,
    #[command(flatten)]
    pub(super) huge: HugeArgs,
    /// What the guest does: a scenario, `all`, or `list` to explain them [default: mixed]
    #[arg(long, value_name = "NAME")]
    pub(super) scenario: Option<String>,
    /// The seed: the same seed and options give the same run
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "seeds")]
    pub(super) seed: u64,
    /// One run for each seed from A to B, both included
    #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
    pub(super) seeds: Option<RangeInclusive<u64>>,
    /// What migrates the guest: the engine, the model of Xen's own toolstack, or both on the same
    /// guests [default: both; p2mtrack for a huge guest]
    #[arg(long, value_enum)]
    pub(super) tracker: Option<TrackerName>,
    /// Threads that compare leaves [default: the machine's for one run, 1 for each of many]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) threads: Option<u16>,
    #[command(flatten)]
    pub(super) compare: CompareArgs,
    /// Checkpoints (suspend, copy, resume) before the final suspend
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) checkpoints: u32,
    /// Faults to inject: a comma-separated list of map-failure, short-bitmap, lost-ack, cancel,
    /// allocation-failure, transport-failure, query-failure, returned; or `all`
    #[arg(long, value_name = "LIST")]
    pub(super) faults: Option<FaultSet>,
    /// Suspend the guest after N steps; until then the run does not change
    #[arg(long, value_name = "N")]
    pub(super) steps: Option<u64>,
    /// Let only these of the guest's programs act (numbers from 1 and ranges, such as 3,7,12-14, or
    /// `none`); the others take the same time and do nothing. `--story` prints the numbers
    #[arg(long, value_name = "LIST", value_parser = parse_programs)]
    pub(super) programs: Option<Numbers>,
    /// Leave out the guest's plain stores into data pages
    #[arg(long)]
    pub(super) no_plain_writes: bool,
    /// Print the programs that the guest began: number, step and name (one run only)
    #[arg(long)]
    pub(super) story: bool,
    /// Record the guest's p2m in a trace (one run only); it appears only when complete, and
    /// replaces a file of that name
    #[arg(long, value_name = "FILE")]
    pub(super) record: Option<PathBuf>,
    /// Print JSON, one object per line
    #[arg(long)]
    pub(super) json: bool,
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
                format!("no scenario is called '{name}'; `--scenario list` lists them all")
            }),
        }
    }

    pub(super) fn tracker(&self) -> TrackerName {
        self.tracker.unwrap_or(TrackerName::Both)
    }

    /// A guest whose pages have no contents: of a shape, or too large for others.
    pub(super) fn is_huge(&self) -> bool {
        self.huge.shape.is_some() || self.guest_size.is_some_and(|size| size > GUEST_BYTES_MAX)
    }

    /// What pages go through.
    pub(super) fn transport(&self) -> TransportKind {
        match self.transport {
            None | Some(TransportName::Direct) => TransportKind::Direct,
            Some(TransportName::Stream) => TransportKind::Stream,
        }
    }

    fn guest_bytes(&self) -> Result<u64, String> {
        let is_small = self.scenario.is_some() || self.transport() == TransportKind::Stream;
        let default = if is_small { SCENARIO_GUEST_BYTES } else { SHOW_GUEST_BYTES };
        let bytes = self.guest_size.unwrap_or(default);
        if self.transport() == TransportKind::Stream && bytes > STREAM_GUEST_BYTES_MAX {
            return Err("--transport stream takes a guest of at most 1GiB".to_owned());
        }
        if !(GUEST_BYTES_MIN..=GUEST_BYTES_MAX).contains(&bytes) {
            return Err("--guest-size is from 8MiB to 256GiB".to_owned());
        }
        Ok(bytes)
    }

    /// Every run that was asked for, scenario by scenario.
    pub(super) fn runs(&self) -> Result<Vec<SimConfig>, String> {
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
                    transport: self.transport(),
                })
            })
            .collect())
    }

    /// What is left out of each run.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            steps: self.steps,
            programs: self.programs.clone(),
            no_writes: self.no_plain_writes,
        }
    }

    /// The engine's configuration for a run.
    pub(super) fn engine(&self, run: &SimConfig) -> Config {
        let config = Config { threads: run.threads, ..self.compare.config() };
        run.scenario.engine(run.seed, config)
    }

    /// The command that repeats one run.
    pub(super) fn command(&self, run: &SimConfig) -> String {
        format!("p2mtrack simulate {}{}", run.options(), self.compare.options())
    }
}

/// Options of huge guests.
#[derive(Args, Debug)]
pub(super) struct HugeArgs {
    /// Migrate a huge guest, whose p2m is all in memory and whose pages are only numbers. SHAPE is
    /// the layout of its frames [default above 256GiB: superpage]
    #[arg(long, value_name = "SHAPE", value_parser = shapes())]
    pub(super) shape: Option<Shape>,
    /// With --shape real: the trace or capture whose last p2m is repeated to fill the guest
    #[arg(long, value_name = "FILE")]
    pub(super) capture: Option<PathBuf>,
    /// Rounds of a huge guest between the first copy and the suspend [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub(super) rounds: Option<u64>,
}

fn shapes() -> impl TypedValueParser<Value = Shape> {
    PossibleValuesParser::new(Shape::ALL.map(Shape::name)).try_map(|name| name.parse::<Shape>())
}

impl HugeArgs {
    /// Refuses these options for other guests.
    pub(super) fn expect_none(&self) -> Result<(), String> {
        let given = [("--capture", self.capture.is_some()), ("--rounds", self.rounds.is_some())];
        given.into_iter().find(|(_, given)| *given).map_or(Ok(()), |(option, _)| {
            Err(format!("{option} is for huge guests: --shape, or more than 256GiB"))
        })
    }
}

/// An error about the arguments, or of the output.
pub(super) fn failed(error: impl Into<Box<dyn Error>>) -> Failure {
    match error.into().downcast::<io::Error>() {
        Ok(output) => Failure::Output(*output),
        Err(source) => Failure::Unusable { about: "simulate".to_owned(), source },
    }
}
