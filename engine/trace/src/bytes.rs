// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file's bytes: mapped if it is large, read if it is small.
//! Not here: their meaning.
//! Units: bytes.
//! Threads: plain reads may be shared.
//! Source: own.
//!
//! A mapped file must not be written or truncated while it is in use: an access to a truncated page
//! raises SIGBUS, and no check can prevent that. Files below [`MAP_BYTES_MIN`] are copied and don't
//! have this hazard. This program makes traces whole and renames them, so only another program can
//! do it.

#![expect(unsafe_code, reason = "a file is mapped; docs/safety.md")]

use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// Files below this size are read into memory.
pub(crate) const MAP_BYTES_MIN: u64 = 64 << 20;

/// The bytes of a trace.
#[derive(Debug)]
pub(crate) enum Bytes<'b> {
    /// A large file.
    Mapped(Mmap),
    /// A small file.
    Owned(Vec<u8>),
    /// The caller's.
    Lent(&'b [u8]),
}

impl Bytes<'static> {
    /// The bytes of a regular file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::of(&open_regular(path)?.0)
    }

    /// All bytes of a file that is open.
    pub(crate) fn of(mut file: &File) -> io::Result<Self> {
        if file.metadata()?.len() < MAP_BYTES_MIN {
            file.rewind()?;
            return Ok(Self::Owned(read_at_most(file, MAP_BYTES_MIN)?));
        }
        // SAFETY: the file is mapped read-only, and writes by others are visible. The caller must
        // ensure that no process writes or truncates it meanwhile (`Reader::open`). Every read is
        // bounds-checked at the time of the read, so that changed bytes can't lead out of the map.
        let map = unsafe { Mmap::map(file)? };
        Ok(Self::Mapped(map))
    }
}

impl Deref for Bytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
            Self::Lent(bytes) => bytes,
        }
    }
}

/// Opens a file that has a length: a pipe or a device could be endless.
pub(crate) fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    // Checked before opening: opening a pipe without a writer would block.
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// All bytes of `from`, if they are at most `limit`.
pub(crate) fn read_at_most(from: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let text = format!("more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    #[cfg_attr(miri, ignore = "mmap")]
    fn small_files_are_read_and_large_ones_mapped() {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        file.write_all(b"abc").expect("writes");
        let small = Bytes::open(file.path()).expect("opens");
        assert!(matches!(&small, Bytes::Owned(bytes) if bytes == b"abc"));
        file.as_file().set_len(MAP_BYTES_MIN).expect("grows");
        let large = Bytes::open(file.path()).expect("opens");
        assert!(matches!(large, Bytes::Mapped(_)));
        assert_eq!((large.len() as u64, &large[..4]), (MAP_BYTES_MIN, &b"abc\0"[..]));
    }

    #[test]
    fn a_file_without_a_length_is_refused() {
        let error = Bytes::open(Path::new("/dev/zero")).expect_err("a device");
        assert_eq!(error.to_string(), "not a regular file");
        assert!(read_at_most(&b"four"[..], 3).is_err());
        assert_eq!(read_at_most(&b"four"[..], 4).expect("reads"), b"four");
    }
}
