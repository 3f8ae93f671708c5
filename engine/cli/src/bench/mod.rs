// SPDX-License-Identifier: MIT OR Apache-2.0
//! `bench`: measures the engine against its peers and the machine, and says which goals are
//! reached.
//! Not here: the figures (`p2mtrack-bench`), how they are printed (`object`, `table`).
//! Units: ratios; no figure is a time.
//! Threads: the pool of each figure.
//! Source: names and options are an interface: see `docs/json.md` and `--help`.

mod object;
mod plots;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use p2mtrack::diff::Kernel;
use p2mtrack::shadow::Forms;
use p2mtrack_bench::catalog::Selection;
use p2mtrack_bench::figure::Figure;
use p2mtrack_bench::machine::Machine;
use p2mtrack_bench::pool::Pool;
use p2mtrack_bench::setup::{PASS_BYTES, Setup};

use crate::compare::CompareArgs;
use crate::failure::{Failure, VERDICT};
use crate::output::{BAD, GOOD, HEAD, Output, counted};
use crate::size::{in_words, parse_size};
use plots::Plots;

/// The smallest guest whose figures mean anything at all.
const GUEST_BYTES_MIN: u64 = 256 << 20;
/// The largest guest: its p2m is 8 GiB, and twice that is read.
const GUEST_BYTES_MAX: u64 = 4 << 40;

/// Measure the engine against its peers and against what the memory of this machine allows
///
/// All figures are ratios of things that run in turn on the same data. It takes about ten minutes
/// and 20 GiB.
///
/// Exit status: 0 measured, whatever the figures are, 1 a goal is missed (only with --strict), 2
/// usage or a file that can't be written.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Names of figures, or how they begin, such as diff or diff.affine [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
    /// Write a roofline of the figures, and a scaling curve from one thread up, as SVG files into
    /// this directory
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// The guest's memory; the goals are for 4TiB
    #[arg(long, value_name = "SIZE", default_value = "4TiB", value_parser = parse_guest)]
    size: u64,
    /// Threads of each side, for figures that don't set the number
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    #[command(flatten)]
    compare: CompareArgs,
    /// Exit with status 1 if a goal is missed
    #[arg(long)]
    strict: bool,
}

fn parse_guest(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if !(GUEST_BYTES_MIN..=GUEST_BYTES_MAX).contains(&bytes) {
        return Err("from 256MiB to 4TiB".to_owned());
    }
    Ok(bytes)
}

impl BenchArgs {
    fn setup(&self) -> Result<Setup, Failure> {
        let unusable = |source| Failure::Unusable { about: "bench".to_owned(), source };
        let kernel = self.compare.kernel.map_or_else(Kernel::choose, Ok);
        let pool = Pool::new(usize::from(self.threads));
        Ok(Setup {
            guest_bytes: self.size,
            kernel: kernel.map_err(|error| unusable(error.into()))?,
            forms: self.compare.shadow.unwrap_or(Forms::Auto),
            pass_bytes: PASS_BYTES,
            pool: pool.map_err(|error| unusable(error.into()))?,
        })
    }
}

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode, Failure> {
    let chosen = Selection::new(&args.names)
        .map_err(|error| Failure::Unusable { about: "bench".to_owned(), source: error.into() })?;
    let setup = args.setup()?;
    let plots = args.plot.as_deref().map(Plots::prepare).transpose()?;
    let mut out = Output::stdout(args.json).beside_a_file(plots.is_some());
    open(&setup, &mut out)?;
    let mut figures = Vec::new();
    for entry in chosen.entries() {
        for figure in (entry.run)(&setup).into_iter().filter(|figure| chosen.has(figure)) {
            out.object(&object::figure(&figure))?;
            for line in table::figure(&figure) {
                out.text(format_args!("{line}"))?;
            }
            figures.push(figure);
        }
    }
    out.text(format_args!("\n{}\n", table::LEGEND))?;
    if let Some(plots) = plots {
        plots.write(&setup, &figures, &mut out)?;
    }
    let missed = close(&figures, &mut out)?;
    out.finish()?;
    Ok(if args.strict && missed { ExitCode::from(VERDICT) } else { ExitCode::SUCCESS })
}

/// What is measured, and on what.
fn open(setup: &Setup, out: &mut Output) -> Result<(), Failure> {
    let machine = Machine::detect();
    out.object(&object::machine(&machine, setup))?;
    for line in table::machine(&machine) {
        out.text(format_args!("{line}"))?;
    }
    let guest = in_words(setup.guest_bytes);
    out.text(format_args!("A guest of {guest}, kernel {}.\n", setup.kernel))?;
    out.styled(HEAD, format_args!("{}", table::head()))?;
    Ok(())
}

/// How many goals were reached. Returns whether one was missed.
fn close(figures: &[Figure], out: &mut Output) -> Result<bool, Failure> {
    let count = |met| figures.iter().filter(|figure| figure.met() == Some(met)).count() as u64;
    let (reached, missed) = (count(true), count(false));
    let style = if missed == 0 { GOOD } else { BAD };
    let goals = counted(reached, "goal reached", "goals reached");
    out.styled(style, format_args!("{goals}, {missed} missed."))?;
    Ok(missed > 0)
}
