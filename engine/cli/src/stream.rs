// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stream check FILE`: every rule that a migration stream breaks.
//! Not here: the rules (`p2mtrack_stream::check`).
//! Units: offsets in bytes of the file.
//! Threads: one.
//! Source: own; formats and rules are an interface and are not renamed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use p2mtrack_stream::check::{Broken, Rule, Summary, Unreadable, check};
use p2mtrack_stream::container::Format;
use serde::Serialize;

use crate::failure::{Failure, VERDICT, printable};
use crate::output::{BAD, GOOD, Output, counted};

/// Migration streams of PV guests
#[derive(Debug, clap::Args)]
pub(crate) struct StreamArgs {
    #[command(subcommand)]
    command: StreamCommand,
}

#[derive(Debug, Subcommand)]
enum StreamCommand {
    Check(CheckArgs),
}

/// Check a migration stream by every rule of its format
///
/// Prints a line for each breach of a rule: the byte, the rule, what was found.
///
/// Exit status: 0 no rule is broken, 1 a rule is broken, 2 usage or unreadable stream.
#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The stream, or - for standard input
    #[arg(required_unless_present = "rules")]
    file: Option<PathBuf>,
    /// What the stream comes in: nothing (libxc), libxl's stream, or a file as xl save writes it;
    /// auto looks at its first bytes
    #[arg(long, value_enum, default_value = "auto")]
    format: FormatArg,
    /// List the rules, and what each one demands
    #[arg(long)]
    rules: bool,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArg {
    Auto,
    Libxc,
    Libxl,
    Xl,
}

impl FormatArg {
    const fn format(self) -> Option<Format> {
        match self {
            Self::Auto => None,
            Self::Libxc => Some(Format::Libxc),
            Self::Libxl => Some(Format::Libxl),
            Self::Xl => Some(Format::Xl),
        }
    }
}

#[derive(Serialize)]
struct RuleLine {
    event: &'static str,
    rule: &'static str,
    text: &'static str,
}

#[derive(Serialize)]
struct BrokenLine<'a> {
    event: &'static str,
    offset: u64,
    rule: &'static str,
    words: &'a str,
}

#[derive(Serialize)]
struct CheckedLine {
    event: &'static str,
    format: &'static str,
    version: u32,
    records: u64,
    pages: u64,
    pfns: u64,
    tables: u64,
    checkpoints: u64,
    broken: u64,
}

pub(crate) fn run(args: &StreamArgs) -> Result<ExitCode, Failure> {
    let StreamCommand::Check(args) = &args.command;
    let mut out = Output::stdout(args.json);
    if args.rules {
        print_rules(&mut out)?;
    }
    let Some(file) = &args.file else {
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    };
    let summary = checked(&mut out, file, args.format.format())?;
    let printed = print_summary(&mut out, &summary).and_then(|()| out.finish());
    match printed {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => Err(cause.into()),
        _ if summary.broken == 0 => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::from(VERDICT)),
    }
}

fn print_rules(out: &mut Output) -> io::Result<()> {
    for rule in Rule::ALL {
        let (name, text) = (rule.name(), rule.text());
        out.object(&RuleLine { event: "rule", rule: name, text })?;
        out.text(format_args!("{name:<18} {text}"))?;
    }
    Ok(())
}

/// Checks a file and prints each breach as it is found.
fn checked(out: &mut Output, file: &Path, format: Option<Format>) -> Result<Summary, Failure> {
    let mut printed = Ok(());
    let mut report = |broken: Broken| {
        if printed.is_ok() {
            printed = print_broken(out, &broken);
        }
    };
    let summary = if file == Path::new("-") {
        check(io::stdin().lock(), format, &mut report)
    } else {
        let open = File::open(file).map_err(Unreadable::Io);
        open.and_then(|open| check(open, format, &mut report))
    };
    let summary = summary.map_err(Failure::file(file))?;
    // The verdict holds whoever reads it.
    match printed {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => Err(cause.into()),
        _ => Ok(summary),
    }
}

fn print_broken(out: &mut Output, broken: &Broken) -> io::Result<()> {
    let Broken { offset, rule, words } = broken;
    let (rule, words) = (rule.name(), printable(words));
    out.object(&BrokenLine { event: "broken", offset: *offset, rule, words: &words })?;
    out.text(format_args!("{offset} {rule} {words}"))
}

fn print_summary(out: &mut Output, summary: &Summary) -> io::Result<()> {
    let Summary { format, version, records, pages, pfns, tables, checkpoints, broken } = *summary;
    out.object(&CheckedLine {
        event: "checked",
        format: format.name(),
        version,
        records,
        pages,
        pfns,
        tables,
        checkpoints,
        broken,
    })?;
    let what = format!(
        "{format}, version {version}: {}, {}, {}, {}, {}",
        counted(records, "record", "records"),
        counted(pages, "page", "pages"),
        counted(pfns, "pfn with a frame", "pfns with frames"),
        counted(tables, "page table", "page tables"),
        counted(checkpoints, "checkpoint", "checkpoints"),
    );
    match broken {
        0 => out.styled(GOOD, format_args!("{what}: no rule is broken")),
        _ => out.styled(BAD, format_args!("{what}: {}", counted(broken, "breach", "breaches"))),
    }
}
