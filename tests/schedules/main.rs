// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a range of schedules over all scenarios and faults, in parallel, and reports every failure
//! as one command.
//! Not here: what a schedule is (`schedule`), a run (`p2mtrack_synthetic::outcome`), the totals
//! (`tally`).
//! Units: schedules.
//! Threads: as many as the machine has; each run is deterministic, independent of the others.
//! Source: `docs/verification.md`, "A million schedules".

mod failure;
mod schedule;
mod state;
mod tally;

use std::cell::Cell;
use std::error::Error;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::panic::{resume_unwind, set_hook, take_hook};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use p2mtrack_synthetic::SimConfig;
use p2mtrack_synthetic::outcome::{Attempt, Outcome, attempt};

use failure::Report;
use schedule::Schedule;
use state::State;

/// Schedules between two saves of the state: less than a second of work.
const CHUNK: u64 = 256;
/// Failures of one kind that are shrunk; for more, only the command is printed.
const FAILURES_MAX: usize = 4;
/// Time between two progress lines without a terminal.
const QUIET: Duration = Duration::from_secs(10);

/// Run many simulated migrations and report each failure as one command that replays it.
///
/// An interrupted run is resumed. Exit status: 0 no failure, 1 a run failed, 2 unusable arguments
/// or files.
#[derive(Debug, Parser)]
#[command(name = "schedules")]
struct Args {
    /// Number of schedules
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    count: u64,
    /// Number of the first schedule
    #[arg(long, value_name = "N", default_value_t = 1)]
    from: u64,
    /// File with the state, to resume an interrupted run
    #[arg(long, value_name = "FILE", default_value = "target/schedules.state")]
    state: PathBuf,
    /// Also append the output to a file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Parallel runs [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Stop at the first failure
    #[arg(long)]
    fail_fast: bool,
}

/// Terminal and log file for the output.
struct Teller {
    bar: ProgressBar,
    log: Option<std::fs::File>,
    reported: Instant,
}

impl Teller {
    fn new(args: &Args) -> Result<Self, Box<dyn Error>> {
        let bar = ProgressBar::new(args.count);
        bar.set_draw_target(if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        });
        let template = "{bar:40} {human_pos} of {human_len} schedules, {msg}, {eta} to go";
        bar.set_style(ProgressStyle::with_template(template)?);
        let open = |path| OpenOptions::new().append(true).create(true).open(path);
        let log = args.log.as_ref().map(open).transpose()?;
        Ok(Self { bar, log, reported: Instant::now() })
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        if let Some(log) = &mut self.log {
            writeln!(log, "{text}")?;
        }
        self.bar.suspend(|| writeln!(io::stdout(), "{text}"))
    }

    fn progress(
        &mut self,
        args: &Args,
        state: &State,
        begun: Instant,
        first: u64,
    ) -> io::Result<()> {
        let done = state.next - state.from;
        let speed = (state.next - first) as f64 / begun.elapsed().as_secs_f64();
        let silent = state.tally.total().silent();
        self.bar.set_position(done);
        self.bar.set_message(format!("{speed:.0}/s, {silent} silent"));
        if self.reported.elapsed() < QUIET {
            return Ok(());
        }
        self.reported = Instant::now();
        let line = format!("{done} of {} schedules, {speed:.0}/s, {silent} silent", args.count);
        if let Some(log) = &mut self.log {
            writeln!(log, "{line}")?;
        }
        if self.bar.is_hidden() { writeln!(io::stderr(), "{line}") } else { Ok(()) }
    }
}

thread_local! {
    /// Whether the thread is in a run, whose panics are caught, counted and reported with their
    /// command.
    static IN_RUN: Cell<bool> = const { Cell::new(false) };
}

/// Makes one run; a panic in it is reported by its outcome alone, not by the hook.
fn quietly(schedule: &Schedule, config: &SimConfig) -> Attempt {
    IN_RUN.set(true);
    let attempt = attempt(config, schedule.engine(config));
    IN_RUN.set(false);
    attempt
}

/// Runs some schedules in parallel. Results are in order.
fn run(first: u64, end: u64, threads: usize) -> Vec<(Schedule, Attempt)> {
    let next = AtomicU64::new(first);
    let work = || {
        let mut done = Vec::new();
        loop {
            // ORDER: only the number itself is shared
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= end {
                return done;
            }
            let schedule = Schedule::nth(number);
            let attempt = quietly(&schedule, &schedule.config);
            done.push((schedule, attempt));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined
            .flat_map(|done| done.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    done.sort_by_key(|(schedule, _)| schedule.number);
    done
}

/// Runs all that is left. Returns the state at the end.
fn run_all(args: &Args, teller: &mut Teller) -> Result<State, Box<dyn Error>> {
    let mut state = State::open(&args.state, args.from)?;
    let end = args.from.checked_add(args.count).ok_or("the range ends past the last number")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or(cores, usize::from);
    if state.next > end {
        return Err(format!("{} is past {end} already", args.state.display()).into());
    }
    if state.next > args.from {
        teller.say(&format!("going on after {} schedules", state.next - args.from))?;
    }
    let (begun, first, before) = (Instant::now(), state.next, state.seconds);
    while state.next < end {
        let stop = end.min(state.next + CHUNK);
        let mut stopped = false;
        for (schedule, attempt) in run(state.next, stop, threads) {
            state.tally.add(&schedule, &attempt);
            state.next = schedule.number + 1;
            if let Outcome::Failed(failure) = attempt.outcome {
                if state.reported(failure) < FAILURES_MAX {
                    let report = Report::new(&schedule, &attempt, failure);
                    teller.say(&report.text())?;
                    state.failures.push(report);
                } else {
                    let command = schedule.command(&schedule.config);
                    teller.say(&format!(
                        "FAILED schedule {}, {failure}: {command}",
                        schedule.number
                    ))?;
                }
                stopped = args.fail_fast;
            }
            if stopped {
                break;
            }
        }
        state.seconds = before + begun.elapsed().as_secs_f64();
        state.save(&args.state)?;
        teller.progress(args, &state, begun, first)?;
        if stopped {
            break;
        }
    }
    teller.bar.finish_and_clear();
    Ok(state)
}

fn sum_up(args: &Args, state: &State, teller: &mut Teller) -> io::Result<()> {
    let done = state.next - state.from;
    teller.say(&state.tally.table())?;
    for report in &state.failures {
        teller.say(&report.json().to_string())?;
    }
    for line in state.tally.json(args.from, done, state.seconds) {
        teller.say(&line.to_string())?;
    }
    let total = state.tally.total();
    let all = if done < args.count { format!(" of {}", args.count) } else { String::new() };
    teller.say(&format!(
        "{done}{all} schedules from {} on: silent: {}; {} identical, {} ended by a fault that was named, {} hostile \
         guests refused, in {:.0} s",
        state.from,
        total.silent(),
        total.identical,
        total.by_fault.iter().sum::<u64>(),
        total.refused,
        state.seconds
    ))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let usual = take_hook();
    set_hook(Box::new(move |panic| {
        if !IN_RUN.get() {
            usual(panic);
        }
    }));
    let result = Teller::new(&args).and_then(|mut teller| {
        let state = run_all(&args, &mut teller)?;
        sum_up(&args, &state, &mut teller)?;
        Ok(state.tally.total().silent())
    });
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "schedules: {error}");
            ExitCode::from(2)
        }
    }
}
