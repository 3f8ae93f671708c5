// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gate: compares counts of instructions and allocations with a record in the repository, and
//! ratios with floors.
//! Not here: times; what is counted (`scenario`), or how ratios are measured (`p2mtrack-bench`).
//! Units: instructions and allocations for one unit of a scenario's work; ratios.
//! Threads: one for a count, as many counts at once as there are processors; two for ratios.
//! Source: `docs/perf.md`, "The gate". Counts are the same on a busy machine.
#![forbid(unsafe_code)]

mod allocations;
mod floors;
mod instructions;
mod quiet;
mod record;
mod scenario;
mod stream;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use p2mtrack::diff::Kernel;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::floors::Floors;
use crate::record::{Count, Record};
use crate::scenario::Scenario;

/// Counts what the engine's hot paths cost, and says if they cost more than they did.
#[derive(Debug, Parser)]
#[command(name = "p2mtrack-perf")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare with the record; exit status 1 if a count grew by more than 2 % or past its ceiling
    Gate {
        /// The record
        #[arg(long, default_value = "perf/record.json")]
        record: PathBuf,
        /// Count only scenarios whose name contains this
        #[arg(long, default_value = "")]
        only: String,
        /// Plant this much extra work, in percent, for the gate to catch
        #[arg(long, default_value_t = 0)]
        plant: u32,
    },
    /// Write the record anew
    Record {
        /// The record
        #[arg(long, default_value = "perf/record.json")]
        record: PathBuf,
        /// Count only scenarios whose name contains this; the record has nothing else then
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Measure figures of `p2mtrack bench`; exit status 1 if one is twice below its floor
    Floors {
        /// The floors
        #[arg(long, default_value = "perf/floors.json")]
        floors: PathBuf,
        /// Measure only figures whose name contains this
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Do a scenario's work so many times; this is what is counted
    #[command(hide = true)]
    Work { scenario: String, kernel: Kernel, turns: u32, plant: u32 },
}

fn main() -> ExitCode {
    match run(&Args::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("p2mtrack-perf: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(command: &Command) -> Result<bool, Box<dyn Error>> {
    match command {
        Command::Gate { record, only, plant } => {
            let record = Record::read(record)?;
            let mut held = true;
            for (Subject { name, scenario, .. }, count) in counts(only, *plant)? {
                let verdict = record.judge(&name, &count, scenario.allocations_max());
                println!("{name:34} {count}  {verdict}");
                held &= verdict.holds();
            }
            Ok(held)
        }
        Command::Record { record, only } => {
            let mut fresh = Record::new(instructions::compiler()?);
            for (Subject { name, .. }, count) in counts(only, 0)? {
                println!("{name:34} {count}");
                fresh.add(name, count);
            }
            fresh.write(record)?;
            Ok(true)
        }
        Command::Floors { floors, only } => Floors::read(floors)?.hold(only),
        Command::Work { scenario, kernel, turns, plant } => {
            let scenario: Scenario = scenario.parse()?;
            scenario.prepare(*kernel).work(*turns, *plant);
            Ok(true)
        }
    }
}

/// What is counted.
struct Subject {
    name: String,
    scenario: Scenario,
    kernel: Kernel,
}

/// Each scenario with the kernels that an instruction counter can run, if its name contains `only`.
fn subjects(only: &str) -> Vec<Subject> {
    let kernels = ["scalar", "avx2"].into_iter().filter_map(|name| name.parse::<Kernel>().ok());
    let kernels: Vec<_> = kernels.collect();
    let all = Scenario::ALL.into_iter().flat_map(|scenario| {
        let used = if scenario.has_kernel() { &*kernels } else { &[Kernel::SCALAR] };
        used.iter().map(move |&kernel| {
            let name = match scenario.has_kernel() {
                true => format!("{scenario}.{kernel}"),
                false => scenario.to_string(),
            };
            Subject { name, scenario, kernel }
        })
    });
    all.filter(|subject| subject.name.contains(only)).collect()
}

/// Counts them in parallel, which does not affect counts as it would times.
fn counts(only: &str, plant: u32) -> Result<Vec<(Subject, Count)>, String> {
    let count = |subject: Subject| {
        let Subject { name, scenario, kernel } = &subject;
        let instructions = instructions::of(*scenario, *kernel, plant);
        let instructions = instructions.map_err(|error| format!("{name}: {error}"))?;
        let allocations = allocations::of(*scenario, *kernel);
        Ok((subject, Count { instructions, allocations }))
    };
    subjects(only).into_par_iter().map(count).collect()
}
