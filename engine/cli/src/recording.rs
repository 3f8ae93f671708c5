// SPDX-License-Identifier: MIT OR Apache-2.0
//! A recorded guest from a file: a trace as it is, or a capture that is imported in memory.
//! Not here: formats (`p2mtrack_trace`).
//! Units: bytes.
//! Threads: may be shared.
//! Source: own. A file's first bytes decide what it is, not its name.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use p2mtrack_trace::import::{ImportError, import_in_memory};
use p2mtrack_trace::raw::is_capture;
use p2mtrack_trace::{Limits, Reader, TraceError, TraceFault};

use crate::failure::{Failure, in_full};

/// First bytes of an xz file.
const XZ: &[u8] = b"\xfd7zXZ";
/// First bytes of other compressed files, the format, and the command that unpacks them.
const PACKED: [(&[u8], &str, &str); 5] = [
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\x04\x22\x4d\x18", "lz4", "unlz4"),
    (b"PK\x03\x04", "zip", "unzip"),
];

/// An open recording.
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
    /// The file is neither, or is incomplete.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        if is_capture(&expect_plain(path)?) {
            let limits = Limits::default();
            let trace = import_in_memory(path, &limits).map_err(|error| no_capture(path, error))?;
            let reader = Reader::from_vec(trace, limits).map_err(Failure::file(path))?;
            return Ok(Self { kind: "capture", reader });
        }
        let reader = Reader::open(path).map_err(Failure::file(path))?;
        Ok(Self { kind: "trace", reader })
    }
}

/// The first bytes of a file; an error if they show that it has to be unpacked.
pub(crate) fn expect_plain(path: &Path) -> Result<Vec<u8>, Failure> {
    let start = first_bytes(path).map_err(Failure::file(path))?;
    match PACKED.iter().find(|(magic, ..)| start.starts_with(magic)) {
        None => Ok(start),
        Some((_, packer, unpack)) => Err(Failure::file(path)(format!(
            "compressed with {packer}, which is not supported: unpack it first ({unpack})"
        ))),
    }
}

/// The error of an unreadable capture, with a hint if the file may be a trace packed with xz.
pub(crate) fn no_capture(path: &Path, error: ImportError) -> Failure {
    let is_other = matches!(
        &error,
        ImportError::Capture(TraceError { offset: 0, fault: TraceFault::Malformed { .. }, .. })
    );
    if is_other && first_bytes(path).is_ok_and(|start| start.starts_with(XZ)) {
        let words = in_full(&error);
        return Failure::file(path)(format!("{words}; a trace must be unpacked first (unxz)"));
    }
    Failure::file(path)(error)
}

fn first_bytes(path: &Path) -> io::Result<Vec<u8>> {
    // Checked before opening: opening a pipe without a writer would block.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut start = Vec::new();
    File::open(path)?.take(8).read_to_end(&mut start)?;
    Ok(start)
}
