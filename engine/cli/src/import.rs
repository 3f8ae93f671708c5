// SPDX-License-Identifier: MIT OR Apache-2.0
//! `import RAW OUT`: a trace of a capture.
//! Not here: the import (`p2mtrack_trace::import`).
//! Units: rounds after the first copy; pfns that the last round's p2m covers; bytes of the trace.
//! Threads: one.
//! Source: own.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use p2mtrack_trace::import::import_file;
use p2mtrack_trace::{Limits, Reader, TraceError};
use serde::Serialize;

use crate::args::ImportArgs;
use crate::failure::{Failure, printable};
use crate::output::{Output, counted};

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
    may_replace(&args.raw, &args.out).map_err(Failure::file(&args.out))?;
    import_file(&args.raw, &args.out, &Limits::default()).map_err(Failure::file(&args.raw))?;
    // Read again from the disk: what is reported is what is there.
    let reader = Reader::open(&args.out).map_err(Failure::file(&args.out))?;
    let pfns = last_pfns(&reader).map_err(Failure::file(&args.out))?;
    let name = &reader.meta().name;
    let (rounds, bytes) = (reader.len() - 1, reader.file_bytes());
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

/// A rename replaces whatever has the name: that must not be a device, nor the only copy of the capture.
fn may_replace(raw: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let Ok(there) = fs::symlink_metadata(out) else { return Ok(()) };
    if !there.is_file() {
        return Err("there, and not a regular file".into());
    }
    if fs::canonicalize(raw).ok() == Some(fs::canonicalize(out)?) {
        return Err("is the capture itself".into());
    }
    Ok(())
}

fn last_pfns(reader: &Reader<'_>) -> Result<u64, TraceError> {
    let mut rounds = reader.rounds();
    while rounds.advance()? {}
    Ok(rounds.round().entries.len() as u64)
}
