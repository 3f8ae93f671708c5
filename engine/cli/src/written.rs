// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that commands write: staged before anything runs, complete or absent at the end.
//! Not here: how a file appears (`p2mtrack_trace::StagedFile`).
//! Units: files.
//! Threads: one owner.
//! Source: own.

use std::error::Error;
use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;

use p2mtrack_trace::StagedFile;

use crate::failure::Failure;
use crate::signals::uninterrupted;

/// A file that could not be written.
#[derive(Debug)]
struct Unwritten {
    what: &'static str,
    cause: io::Error,
}

impl fmt::Display for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} can't be written", self.what)
    }
}

impl Error for Unwritten {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}

/// Stages a trace. Fails if the target must not be replaced.
pub(crate) fn stage_trace(path: &Path) -> Result<(&Path, StagedFile), Failure> {
    stage_as(path, "trace").map(|file| (path, file))
}

/// Stages any other file.
pub(crate) fn stage(path: &Path) -> Result<StagedFile, Failure> {
    stage_as(path, "file")
}

fn stage_as(path: &Path, what: &'static str) -> Result<StagedFile, Failure> {
    uninterrupted(|| StagedFile::create(path))?.map_err(|cause| match cause.raw_os_error() {
        None => Failure::file(path)(cause), // a refusal, with its reason
        Some(_) => Failure::file(path)(Unwritten { what, cause }),
    })
}

/// Gives a complete trace its name.
pub(crate) fn commit(file: StagedFile, path: &Path) -> Result<(), Failure> {
    let ended = uninterrupted(|| file.commit())?;
    ended.map_err(|cause| Failure::file(path)(Unwritten { what: "trace", cause }))
}

/// Writes a staged file in full, and ends it with `end`.
pub(crate) fn fill(
    mut file: StagedFile,
    path: &Path,
    text: &str,
    end: fn(StagedFile) -> io::Result<()>,
) -> Result<(), Failure> {
    let filled = file.write_all(text.as_bytes());
    let ended = filled.map_or_else(|cause| Ok(Err(cause)), |()| uninterrupted(|| end(file)))?;
    ended.map_err(|cause| Failure::file(path)(Unwritten { what: "file", cause }))
}
