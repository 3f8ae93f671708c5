// SPDX-License-Identifier: MIT OR Apache-2.0
//! A recorded guest from a file: a trace as it is, a capture imported in memory.
//! Not here: formats (`p2mtrack_trace`).
//! Units: bytes.
//! Threads: may be shared.
//! Source: own. What a file is, its first bytes say; its name is not asked.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use p2mtrack_trace::import::{ImportError, import, meta_of};
use p2mtrack_trace::raw::{Capture, is_capture};
use p2mtrack_trace::{Limits, Reader, Writer};

use crate::failure::Failure;

/// A recording that is open.
pub(crate) struct Recording {
    /// `trace` or `capture`.
    pub(crate) kind: &'static str,
    /// Its rounds.
    pub(crate) reader: Reader<'static>,
}

impl Recording {
    /// Opens a trace or a capture.
    ///
    /// # Errors
    /// The file is neither, or not a whole one.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        if is_capture(&first_bytes(path).map_err(Failure::file(path))?) {
            let reader = import_in_memory(path).map_err(Failure::file(path))?;
            return Ok(Self { kind: "capture", reader });
        }
        let reader = Reader::open(path).map_err(Failure::file(path))?;
        Ok(Self { kind: "trace", reader })
    }
}

fn first_bytes(path: &Path) -> io::Result<Vec<u8>> {
    // Asked before opening: a pipe that nobody writes to would wait for ever.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut start = Vec::new();
    File::open(path)?.take(8).read_to_end(&mut start)?;
    Ok(start)
}

fn import_in_memory(path: &Path) -> Result<Reader<'static>, ImportError> {
    let limits = Limits::default();
    let capture = Capture::open(path, &limits).map_err(ImportError::Capture)?;
    let mut writer = Writer::new(Vec::new(), &meta_of(&capture)).map_err(ImportError::Trace)?;
    import(&capture, &mut writer)?;
    let bytes = writer.finish().map_err(ImportError::Trace)?;
    Reader::from_vec(bytes, limits).map_err(ImportError::Trace)
}
