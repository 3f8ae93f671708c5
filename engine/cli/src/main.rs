// SPDX-License-Identifier: MIT OR Apache-2.0
//! p2mtrack, the program: parses the command line, runs one command, returns its exit status.
//! Not here: what the commands do (a file each), or their options (`args`).
//! Units: exit status as in `failure`.
//! Threads: the engine's own, as many as `--threads` says.
//! Source: schema of all JSON output: `docs/json.md`.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod bitmaps;
mod check;
mod compare;
mod doctor;
mod failure;
mod findings;
mod follow;
mod guard;
mod import;
mod inspect;
mod life;
mod output;
mod recording;
mod replay;
mod save;
mod segments;
mod signals;
mod simulate;
mod size;
mod stopwatch;
mod stream;
mod track;
mod written;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use failure::Failure;
use p2mtrack_allocator::OrEnd;

#[cfg(feature = "mimalloc")]
use mimalloc::MiMalloc as Memory;
#[cfg(not(feature = "mimalloc"))]
use std::alloc::System as Memory;

/// Memory for the whole program, simulated guests included: `docs/decisions/0010`.
#[global_allocator]
static ALLOCATOR: OrEnd<Memory> = OrEnd(Memory);

fn main() -> ExitCode {
    signals::limits_are_errors();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return failure::usage(&error),
    };
    let result = match args.command {
        Command::Simulate(args) => simulate::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Track(args) => track::run(&args),
        Command::Save(args) => save::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Stream(args) => stream::run(&args),
        Command::Guard(args) => guard::run(&args),
    };
    result.unwrap_or_else(Failure::report)
}
