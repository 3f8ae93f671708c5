// SPDX-License-Identifier: MIT OR Apache-2.0
//! `import RAW OUT`: converts a capture into a trace.
//! Not here: the import (`p2mtrack_trace::import`).
//! Units: rounds after the first copy; pfns that the last round's p2m covers; bytes of the trace.
//! Threads: one.
//! Source: own.

use std::fs;
use std::io::BufWriter;
use std::path::Path;
use std::process::ExitCode;

use p2mtrack_trace::import::{ImportError, import, meta_of};
use p2mtrack_trace::raw::CaptureReader;
use p2mtrack_trace::{Limits, Reader, StagedFile, TraceError, TraceFault, Writer};
use serde::Serialize;

use crate::args::ImportArgs;
use crate::failure::{Failure, printable};
use crate::output::{Output, counted};
use crate::recording::{expect_plain, no_capture};
use crate::written::{commit, stage_trace};

/// What was written.
#[derive(Serialize)]
struct Imported<'a> {
    event: &'static str,
    name: &'a str,
    rounds: u64,
    pfns: u64,
    bytes: u64,
}

pub(crate) fn run(args: &ImportArgs) -> Result<ExitCode, Failure> {
    let (_, staged) = stage_trace(&args.out)?;
    expect_two(&args.raw, &args.out)?;
    expect_plain(&args.raw)?;
    let staged = write(args, staged)?;
    // Read back before anything is replaced: the report is about the trace itself.
    let reader = Reader::of_staged(&staged).map_err(Failure::file(&args.out))?;
    let pfns = last_pfns(&reader).map_err(Failure::file(&args.out))?;
    let name = &reader.meta().name;
    let (rounds, bytes) = (reader.len() - 1, reader.file_bytes());
    commit(staged, &args.out)?;
    let mut out = Output::stdout(args.json);
    out.object(&Imported { event: "import", name, rounds, pfns, bytes })?;
    out.text(format_args!(
        "{}: {} after the first copy, {pfns} pfns, {bytes} bytes",
        printable(&args.out.display().to_string()),
        counted(rounds, "round", "rounds"),
    ))?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// The trace must not replace the only copy of the capture.
fn expect_two(raw: &Path, out: &Path) -> Result<(), Failure> {
    match (fs::canonicalize(raw), fs::canonicalize(out)) {
        (Ok(raw), Ok(there)) if raw == there => Err(Failure::file(out)("is the capture itself")),
        _ => Ok(()),
    }
}

/// Writes all rounds.
fn write(args: &ImportArgs, staged: StagedFile) -> Result<StagedFile, Failure> {
    let failed = |error| failed(args, error);
    let reader = CaptureReader::open(&args.raw, &Limits::default());
    let mut reader = reader.map_err(ImportError::Capture).map_err(failed)?;
    let writer = Writer::new(BufWriter::new(staged), &meta_of(reader.meta()));
    let mut writer = writer.map_err(ImportError::Trace).map_err(failed)?;
    import(&mut reader, &mut writer).map_err(failed)?;
    writer.finish_file().map_err(ImportError::Trace).map_err(failed)
}

/// An error is about the capture, unless the trace's file can't be written.
fn failed(args: &ImportArgs, error: ImportError) -> Failure {
    let is_out = matches!(&error, ImportError::Trace(TraceError { fault: TraceFault::Io(_), .. }));
    if is_out { Failure::file(&args.out)(error) } else { no_capture(&args.raw, error) }
}

fn last_pfns(reader: &Reader<'_>) -> Result<u64, TraceError> {
    let mut rounds = reader.rounds();
    while rounds.advance()? {}
    Ok(rounds.round().entries.len() as u64)
}
