// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the boundary costs: a round through C beside the same round in Rust, on one guest, in turn.
//! Not here: what a round costs (`p2mtrack bench`). Pages are taken and answered; nobody reads or sends them.
//! Units: ratios of times and of instructions, C to Rust.
//! Threads: the caller's.
//! Source: `docs/perf.md`, "The boundary".

mod in_c;
mod in_rust;
mod stage;

use std::error::Error;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use p2mtrack_bench::contest::{Contest, WallClock};

use crate::in_c::InC;
use crate::in_rust::InRust;
use crate::stage::Stage;

/// Holds a round through C against the same round in Rust.
#[derive(Debug, Parser)]
#[command(name = "p2mtrack-boundary")]
struct Args {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Debug, Subcommand)]
enum Cmd {
    /// Times, in turn: exit status 1 if C takes more than this per cent longer
    Time {
        /// The guest's memory in GiB
        #[arg(long, default_value_t = 64)]
        gib: u64,
        /// Per cent
        #[arg(long, default_value_t = 5.0)]
        most: f64,
    },
    /// Instructions, counted by callgrind: exit status 1 if C takes more than this per cent more, and more than 4,000
    Count {
        /// The guest's memory in GiB
        #[arg(long, default_value_t = 4)]
        gib: u64,
        /// Per cent
        #[arg(long, default_value_t = 2.0)]
        most: f64,
    },
    /// Rounds of one side: what is counted
    #[command(hide = true)]
    Work { side: Which, round: Round, gib: u64, rounds: u32 },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    Rust,
    C,
}

/// What the guest did before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Round {
    /// Nothing.
    Quiet,
    /// Pages were written, 16 in each leaf, and no entry changed.
    Written,
    /// An entry in each of 2,000 leaves changed, and their pages and leaves are in the log.
    Busy,
}

const ROUNDS: [Round; 3] = [Round::Quiet, Round::Written, Round::Busy];
/// Instructions that the calls and callbacks of a round may cost whatever the guest's size: less than a per cent of a
/// quiet round of 64 GiB, and much of one of 1 GiB.
const CALLS_MOST: f64 = 4_000.0;

impl Round {
    const fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Written => "written",
            Self::Busy => "busy",
        }
    }

    /// Rounds that one measurement takes: tens of milliseconds, whatever the guest's size.
    fn times(self, gib: u64) -> u64 {
        match self {
            Self::Quiet => (64_000 / gib).clamp(5, 5_000),
            Self::Written | Self::Busy => 1,
        }
    }
}

/// One way of making rounds.
trait Side {
    /// A round; how many pages it took.
    fn round(&mut self) -> u64;
    /// The guest changes the entries that this side knows, or leaves it alone.
    fn prepare(&mut self, round: Round);
}

fn main() -> ExitCode {
    match run(&Args::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("p2mtrack-boundary: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(command: &Cmd) -> Result<bool, Box<dyn Error>> {
    match *command {
        Cmd::Time { gib, most } => {
            let stage = Stage::new(gib)?;
            let (mut rust, mut c) = (InRust::new(&stage), InC::new(&stage));
            println!("{gib} GiB, {} leaves change in a busy round", stage.changing());
            let told = |round: Round| {
                let times = round.times(gib);
                let ratio = time(&stage, &mut rust, &mut c, round, times);
                tell(round, "time", ratio, 1.0 + most / 100.0)
            };
            Ok(ROUNDS.map(told).iter().all(|&held| held))
        }
        Cmd::Count { gib, most } => {
            let mut held = true;
            for round in ROUNDS {
                let [rust, c] = [count("rust", round, gib)?, count("c", round, gib)?];
                println!(
                    "{gib} GiB, {}: {rust:.0} instructions in Rust, {c:.0} through C",
                    round.name()
                );
                let most = 1.0 + (most / 100.0).max(CALLS_MOST / rust);
                held &= tell(round, "instructions", c / rust, most);
            }
            Ok(held)
        }
        Cmd::Work { side, round, gib, rounds } => {
            let stage = Stage::new(gib)?;
            let side: &mut dyn Side = match side {
                Which::Rust => &mut InRust::new(&stage),
                Which::C => &mut InC::new(&stage),
            };
            for _ in 0..rounds {
                side.prepare(round);
                assert_eq!(side.round(), stage.expected(round));
            }
            Ok(true)
        }
    }
}

fn tell(round: Round, what: &str, ratio: f64, most: f64) -> bool {
    let held = ratio <= most;
    let verdict = if held { "ok" } else { "FAILED" };
    println!(
        "round.{:7} {what:12} C / Rust {ratio:.4} (at most {most:.2}) {verdict}",
        round.name()
    );
    held
}

/// The time through C over that in Rust: A B B A, medians.
fn time(stage: &Stage, rust: &mut InRust<'_>, c: &mut InC<'_>, round: Round, times: u64) -> f64 {
    fn add<'a>(
        contest: Contest<'a>,
        name: &str,
        stage: &Stage,
        (round, times): (Round, u64),
        side: &'a mut dyn Side,
    ) -> Contest<'a> {
        let side = std::rc::Rc::new(std::cell::RefCell::new(side));
        let prepared = std::rc::Rc::clone(&side);
        let expected = times * stage.expected(round);
        contest.prepared(
            name,
            expected,
            move || prepared.borrow_mut().prepare(round),
            move || (0..times).map(|_| side.borrow_mut().round()).sum(),
        )
    }
    let contest = add(Contest::default(), "rust", stage, (round, times), rust);
    let times = add(contest, "c", stage, (round, times), c).run(&WallClock::default());
    times.speed("rust", "c")
}

/// Instructions of a round: the difference between many and few.
fn count(side: &str, round: Round, gib: u64) -> Result<f64, Box<dyn Error>> {
    const FEW: u32 = 2;
    const MORE: u32 = 20;
    let collected = |rounds: u32| -> Result<u64, Box<dyn Error>> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe()?)
            .args(["work", side, round.name(), &gib.to_string(), &rounds.to_string()])
            .output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        let line = told.lines().find_map(|line| line.split_once("Collected : "));
        let number =
            line.filter(|_| output.status.success()).ok_or_else(|| format!("valgrind: {told}"))?.1;
        Ok(number.trim().parse()?)
    };
    let (many, few) = (collected(FEW + MORE)?, collected(FEW)?);
    Ok(many.checked_sub(few).ok_or("more rounds cost less")? as f64 / f64::from(MORE))
}
