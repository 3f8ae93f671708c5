// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: every command with its options, as `--help` shows it.
//! Not here: what the commands do.
//! Units: pfns in decimal or, with 0x, in hexadecimal.
//! Threads: plain values.
//! Source: own; names of commands and options are an interface and are not renamed.

use std::num::ParseIntError;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use p2mtrack::frame::Pfn;

use crate::bench::BenchArgs;
use crate::compare::CompareArgs;
use crate::doctor::DoctorArgs;
use crate::guard::GuardArgs;
use crate::save::SaveArgs;
use crate::simulate::SimulateArgs;
use crate::stream::StreamArgs;
use crate::track::TrackArgs;

/// Tracks changes to the p2m of Xen PV guests during live migration.
#[derive(Debug, Parser)]
#[command(name = "p2mtrack", version, arg_required_else_help = true)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Simulate(SimulateArgs),
    Import(ImportArgs),
    Replay(ReplayArgs),
    Inspect(InspectArgs),
    Bench(BenchArgs),
    Track(TrackArgs),
    Save(SaveArgs),
    Doctor(DoctorArgs),
    Stream(StreamArgs),
    #[command(hide = true)]
    Guard(GuardArgs),
}

/// Convert a capture of a real guest into a trace
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// The capture: .p2mraw or .p2mraw.xz
    pub(crate) raw: PathBuf,
    /// The trace to write; it appears only when complete, and replaces a file of that name
    pub(crate) out: PathBuf,
    /// Print JSON, one object per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Run the engine over a recorded guest and show what each round finds
///
/// Exit status: 0 done, 1 --check found a missed change or checked fewer than two rounds, 2 usage
/// or unusable file, 3 the engine failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// A trace, or a capture (.p2mraw, .p2mraw.xz)
    pub(crate) file: PathBuf,
    /// Compare every entry after each round, and count changes that neither that round nor the next
    /// one found. Takes at least two rounds, the first copy included
    #[arg(long)]
    pub(crate) check: bool,
    /// Print JSON, one object per line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) compare: CompareArgs,
    /// Threads that compare leaves
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
}

/// Show what is in a recording, or the history of one pfn
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// A trace, or a capture (.p2mraw, .p2mraw.xz)
    pub(crate) file: PathBuf,
    /// Show this pfn round by round, and why it was owed (decimal, or 0x and hexadecimal)
    #[arg(long, value_name = "N", value_parser = parse_pfn)]
    pub(crate) pfn: Option<Pfn>,
    /// Print JSON, one object per line
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_pfn(text: &str) -> Result<Pfn, ParseIntError> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match hex {
        // `from_str_radix` would accept a sign.
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).map(Pfn),
        Some(_) => "+".parse().map(Pfn),
        None => text.parse().map(Pfn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn pfns_are_decimal_or_hexadecimal() {
        assert_eq!(parse_pfn("1234"), Ok(Pfn(1234)));
        assert_eq!(parse_pfn("0x4D2"), Ok(Pfn(0x4d2)));
        for bad in ["", "0x", "-1", "0x-1", "0x+1", "4d2", "0x1_0000_0000_0000_0000"] {
            assert!(parse_pfn(bad).is_err(), "{bad}");
        }
    }
}
