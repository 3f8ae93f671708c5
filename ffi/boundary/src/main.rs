// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the boundary costs: a round through C and the same round in Rust, on one guest, in turn.
//! Not here: what a round costs (`p2mtrack bench`). Pages are taken and answered, but not read or
//! sent.
//! Units: ratios of times and of instructions, C to Rust.
//! Threads: the caller's.
//! Source: `docs/perf.md`, "The boundary".

mod callgrind;
mod fixture;
mod in_c;
mod in_rust;

use std::error::Error;
use std::fs;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use p2mtrack_bench::ab_run::{AbRun, WallClock};

use crate::fixture::Fixture;
use crate::in_c::InC;
use crate::in_rust::InRust;

/// Compares a round through C with the same round in Rust.
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
        /// The side whose memory is allocated first: with a huge guest the second gets what is left
        #[arg(long, value_enum, default_value_t = Which::Rust)]
        first: Which,
    },
    /// Instructions, counted by callgrind: exit status 1 if C takes more than this per cent more,
    /// more than 2,500, and more than 40 a page that is sent
    Count {
        /// The guest's memory in GiB
        #[arg(long, default_value_t = 64)]
        gib: u64,
        /// Per cent
        #[arg(long, default_value_t = 2.0)]
        most: f64,
    },
    /// Runs the rounds of one side, to be counted
    #[command(hide = true)]
    Work { side: Which, gib: u64 },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    Rust,
    C,
}

/// What the guest did before the round.
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
/// Instructions that the calls and callbacks of a round may cost at any guest size: a small part of
/// a quiet round of 64 GiB, and a large part of one of 1 GiB.
const CALLS_MOST: f64 = 2_500.0;
/// Instructions that a page may cost: converted to the header's structure, checked and accepted.
const PAGE_MOST: f64 = 40.0;
/// Rounds of each kind before those that are counted.
const WARM: u32 = 2;

impl Round {
    const fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Written => "written",
            Self::Busy => "busy",
        }
    }

    /// Rounds of one measurement: tens of milliseconds, at any guest size.
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
        Cmd::Time { gib, most, first } => {
            let fixture = Fixture::new(gib)?;
            let (mut rust, mut c) = match first {
                Which::Rust => {
                    let rust = InRust::new(&fixture);
                    (rust, InC::new(&fixture))
                }
                Which::C => {
                    let c = InC::new(&fixture);
                    (InRust::new(&fixture), c)
                }
            };
            println!("{gib} GiB, {} leaves change in a busy round", fixture.changing());
            let within = |round: Round| {
                let times = round.times(gib);
                let ratio = time(&fixture, &mut rust, &mut c, round, times);
                report(round, "time", ratio, 1.0 + most / 100.0)
            };
            Ok(ROUNDS.map(within).iter().all(|&held| held))
        }
        Cmd::Count { gib, most } => {
            let [rust, c] = [count("rust", gib)?, count("c", gib)?];
            let within = |(round, (rust, c)): (Round, (f64, f64))| {
                println!(
                    "{gib} GiB, {}: {rust:.0} instructions in Rust, {c:.0} through C",
                    round.name()
                );
                let pages = if round == Round::Written { fixture::written_pages(gib) } else { 0 };
                let calls = CALLS_MOST.max(PAGE_MOST * pages as f64);
                let most = 1.0 + (most / 100.0).max(calls / rust);
                report(round, "instructions", c / rust, most)
            };
            let rounds = ROUNDS.into_iter().zip(rust.into_iter().zip(c));
            Ok(rounds.map(within).fold(true, |held, one| held & one))
        }
        Cmd::Work { side, gib } => {
            let fixture = Fixture::new(gib)?;
            match side {
                Which::Rust => work(&mut InRust::new(&fixture), &fixture, gib),
                Which::C => work(&mut InC::new(&fixture), &fixture, gib),
            }
            Ok(true)
        }
    }
}

/// Rounds of each kind that are counted: one takes minutes with a huge guest.
const fn counted(gib: u64) -> u32 {
    if gib > 256 { 1 } else { 10 }
}

/// Runs rounds of each kind, counts the last ones, and writes the counts.
fn work(side: &mut impl Side, fixture: &Fixture, gib: u64) {
    for round in ROUNDS {
        for number in 0..WARM + counted(gib) {
            side.prepare(round);
            let pages =
                if number < WARM { side.round() } else { callgrind::counted(|| side.round()) };
            assert_eq!(pages, fixture.expected(round));
        }
        callgrind::write_down(round.name());
    }
}

fn report(round: Round, what: &str, ratio: f64, most: f64) -> bool {
    let held = ratio <= most;
    let verdict = if held { "ok" } else { "FAILED" };
    println!(
        "round.{:7} {what:12} C / Rust {ratio:.4} (at most {most:.2}) {verdict}",
        round.name()
    );
    held
}

/// The time through C over that in Rust: A B B A, medians.
fn time(
    fixture: &Fixture,
    rust: &mut InRust<'_>,
    c: &mut InC<'_>,
    round: Round,
    times: u64,
) -> f64 {
    fn add<'a>(
        ab_run: AbRun<'a>,
        name: &str,
        fixture: &Fixture,
        (round, times): (Round, u64),
        side: &'a mut dyn Side,
    ) -> AbRun<'a> {
        let side = std::rc::Rc::new(std::cell::RefCell::new(side));
        let prepared = std::rc::Rc::clone(&side);
        let expected = times * fixture.expected(round);
        ab_run.prepared(
            name,
            expected,
            move || prepared.borrow_mut().prepare(round),
            move || (0..times).map(|_| side.borrow_mut().round()).sum(),
        )
    }
    let ab_run = add(AbRun::default(), "rust", fixture, (round, times), rust);
    let times = add(ab_run, "c", fixture, (round, times), c).run(&WallClock::default());
    times.speed("rust", "c")
}

/// Instructions of a round of each kind.
fn count(side: &str, gib: u64) -> Result<[f64; ROUNDS.len()], Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--instr-atstart=no"])
        .arg(format!("--callgrind-out-file={}", folder.path().join("out").display()))
        .arg(std::env::current_exe()?)
        .args(["work", side, &gib.to_string()])
        .output()?;
    if !output.status.success() {
        return Err(format!("valgrind: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let mut found = [0.0; ROUNDS.len()];
    for entry in fs::read_dir(folder.path())? {
        let written = fs::read_to_string(entry?.path())?;
        let value = |key: &str| written.lines().find_map(|line| line.strip_prefix(key));
        let Some(name) = value("desc: Trigger: Client Request: ") else { continue };
        let total: u64 = value("totals: ").ok_or("callgrind wrote no totals")?.parse()?;
        for (found, round) in found.iter_mut().zip(ROUNDS) {
            if round.name() == name {
                *found = total as f64 / f64::from(counted(gib));
            }
        }
    }
    if found.contains(&0.0) {
        return Err(format!("callgrind counted no instructions of some rounds: {found:?}").into());
    }
    Ok(found)
}
