// SPDX-License-Identifier: MIT OR Apache-2.0
//! `simulate`: migrates synthetic guests with the real engine; the oracle judges the results.
//! Not here: guests and judge (`p2mtrack-synthetic`), options (`args`), runs (`single`, `many`).
//! Units: runs.
//! Threads: one run uses the engine's own; many runs use one thread each, side by side.
//! Source: options and exit status are an interface: see `docs/json.md` and `--help`.

mod args;
mod huge;
mod huge_line;
mod huge_plan;
mod line;
mod many;
pub(crate) mod record;
mod result;
mod single;
mod table;

use std::process::ExitCode;

use p2mtrack_synthetic::run::{migrate, side_by_side};
use p2mtrack_synthetic::{Limits, Numbers, SimConfig, upstream};

pub(crate) use args::SimulateArgs;

use args::failed;
use many::CHUNK;

use crate::failure::Failure;
use crate::output::counted;

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
        return Err(failed("--record needs a run of p2mtrack: not with --tracker upstream"));
    }
    if runs.len() > 1 && args.record.is_some() {
        return Err(failed("--record takes one run: one scenario, one seed"));
    }
    if runs.len() > 1 && args.story {
        return Err(failed("--story takes one run: one scenario, one seed"));
    }
    expect_programs(args, &runs)?;
    match runs.as_slice() {
        [run] => single::run(args, run),
        _ => many::run(args, &runs),
    }
}

/// Refuses a number in `--programs` that no guest begins, neither with these programs nor with all:
/// it begins fewer, or more, when others do nothing. Only a run shows how many it begins, so some
/// are made silently until one is enough.
fn expect_programs(args: &SimulateArgs, runs: &[SimConfig]) -> Result<(), Failure> {
    let Some(last) = args.programs.as_ref().and_then(Numbers::last) else { return Ok(()) };
    let mut most = 0;
    for chunk in runs.chunks(CHUNK) {
        for limits in [args.limits(), Limits { programs: None, ..args.limits() }] {
            let came_to = side_by_side(chunk, |run| {
                programs_of(args, &SimConfig { limits: limits.clone(), ..run.clone() })
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

/// The programs that a guest plans until its migration ends.
fn programs_of(args: &SimulateArgs, run: &SimConfig) -> u64 {
    let run = if args.tracker().has_p2mtrack() {
        migrate(run, args.engine(run), &mut ())
    } else {
        upstream::migrate(run)
    };
    run.activity.planned
}
