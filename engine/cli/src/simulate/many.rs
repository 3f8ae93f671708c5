// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many runs in parallel, reported in order: one line for each as JSON, a table by scenario for
//! people.
//! Not here: a single run's rounds (`single`), the table's layout (`table`).
//! Units: runs.
//! Threads: as many as the machine has; each run is deterministic.
//! Source: none.

use std::error::Error;
use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use p2mtrack_synthetic::run::{Ending, Run, migrate, side_by_side};
use p2mtrack_synthetic::{SimConfig, upstream};

use super::args::{SimulateArgs, failed};
use super::result::{EXIT_ABORTED, EXIT_WRONG, Outcome, P2MTRACK, UPSTREAM, exit_status};
use super::table::Table;
use crate::failure::Failure;

/// Runs that are in progress at once, or waiting to be printed.
pub(super) const CHUNK: usize = 64;

fn progress(runs: usize, json: bool) -> ProgressBar {
    let bar = ProgressBar::new(runs as u64);
    bar.set_draw_target(if std::io::stderr().is_terminal() && !json {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    });
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} runs, {eta} to go") {
        bar.set_style(style);
    }
    bar
}

/// One guest under the trackers that were asked for.
struct Pair {
    p2mtrack: Option<Run>,
    upstream: Option<Run>,
}

/// Runs all and prints. Returns the exit status.
pub(super) fn run(args: &SimulateArgs, runs: &[SimConfig]) -> Result<u8, Failure> {
    let bar = progress(runs.len(), args.json);
    let mut table = Table::default();
    let mut statuses = Vec::new();
    for chunk in runs.chunks(CHUNK) {
        let done = side_by_side(chunk, |config| Pair {
            upstream: args.tracker().has_upstream().then(|| upstream::migrate(config)),
            p2mtrack: args
                .tracker()
                .has_p2mtrack()
                .then(|| migrate(config, args.engine(config), &mut ())),
        });
        for (config, pair) in chunk.iter().zip(&done) {
            table.add(config.scenario, pair.p2mtrack.as_ref(), pair.upstream.as_ref());
            statuses.extend(pair.p2mtrack.as_ref().map(exit_status));
            let mut printed = Ok(());
            bar.suspend(|| printed = print(args, config, pair));
            printed.map_err(failed)?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    if !args.json {
        table.print(args.tracker()).map_err(failed)?;
    }
    let worst = [EXIT_WRONG, EXIT_ABORTED].into_iter().find(|status| statuses.contains(status));
    Ok(worst.unwrap_or(0))
}

/// As JSON every run, the engine's after upstream's; for people the engine's runs that are not
/// identical, aborts by an injected fault apart, each with the command that repeats it.
fn print(args: &SimulateArgs, config: &SimConfig, pair: &Pair) -> Result<(), Box<dyn Error>> {
    let mut out = anstream::stdout().lock();
    if args.json {
        for (tracker, run) in [(UPSTREAM, &pair.upstream), (P2MTRACK, &pair.p2mtrack)] {
            if let Some(run) = run {
                let outcome = Outcome::new(config, tracker, run);
                writeln!(out, "{}", serde_json::to_string(&outcome)?)?;
            }
        }
        return Ok(());
    }
    let Some(run) = &pair.p2mtrack else { return Ok(()) };
    if exit_status(run) == EXIT_WRONG || run.ending == Ending::Aborted && run.fault.is_none() {
        let why = run.harmed.as_deref().or(run.error.as_deref());
        let first = run.judgement.iter().flat_map(|j| &j.differences).next();
        let why = why.map(str::to_owned).or_else(|| first.map(ToString::to_string));
        writeln!(out, "{}: {}", run.ending.name(), why.unwrap_or_default())?;
        writeln!(out, "    {}", args.command(config))?;
    }
    Ok(())
}
