// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be wrong with a trace or a capture, and where.
//! Not here: which side of an import failed (`import`).
//! Units: offsets in bytes from the start of the file; in a compressed capture, of the decompressed
//! file.
//! Threads: plain values.
//! Source: own.

use std::{error, fmt, io};

/// A trace or capture that can't be read or written.
#[derive(Debug)]
pub struct TraceError {
    /// Byte of the file at which the fault was noticed; for a writer, the bytes written so far.
    pub offset: u64,
    /// The block that it is in, as far as it is known.
    pub place: Option<Place>,
    /// The fault.
    pub fault: TraceFault,
}

/// A block of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name in the format.
    pub block: &'static str,
    /// Its round; none if it is not of a round.
    pub round: Option<u64>,
}

impl TraceError {
    /// The error in this block, unless it is known to be in another one.
    #[must_use]
    pub(crate) fn within(self, place: Place) -> Self {
        Self { place: self.place.or(Some(place)), ..self }
    }
}

/// One thing that is wrong with a file.
#[derive(Debug)]
pub enum TraceFault {
    /// The operating system, or the decompressor.
    Io(io::Error),
    /// A file that was written can't be completed: not synced, or not given its name.
    Commit(io::Error),
    /// The file, or one of its blocks, ends too early.
    Short {
        /// What was being read.
        what: &'static str,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// A number is not the only valid one.
    Mismatch {
        /// Which number.
        what: &'static str,
        /// What the file says.
        found: u64,
        /// What it has to say.
        expected: u64,
    },
    /// A number exceeds what the file's own rules or the caller's [`Limits`](crate::Limits) allow.
    Limit {
        /// Which number.
        what: &'static str,
        /// What the file says.
        found: u64,
        /// The largest that is allowed.
        limit: u64,
    },
    /// A rule of the format is broken.
    Malformed {
        /// The rule, as what should have been there.
        expected: &'static str,
    },
    /// A rule of the format is broken by what the file says in two places.
    Contradiction {
        /// The rule, as what should have been there.
        expected: &'static str,
        /// What was found, and what contradicts it.
        found: String,
    },
    /// A JSON payload does not parse.
    Json(serde_json::Error),
}

impl TraceFault {
    /// The fault at its place.
    #[must_use]
    pub const fn at(self, offset: u64) -> TraceError {
        TraceError { offset, place: None, fault: self }
    }

    /// `Limit` unless `found` is within it.
    pub(crate) const fn limit(what: &'static str, found: u64, limit: u64) -> Result<(), Self> {
        if found > limit { Err(Self::Limit { what, found, limit }) } else { Ok(()) }
    }

    /// `Mismatch` unless the numbers agree.
    pub(crate) const fn same(what: &'static str, found: u64, expected: u64) -> Result<(), Self> {
        if found == expected { Ok(()) } else { Err(Self::Mismatch { what, found, expected }) }
    }

    /// `Contradiction` unless `holds`.
    pub(crate) fn agree(
        expected: &'static str,
        holds: bool,
        found: impl FnOnce() -> String,
    ) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::Contradiction { expected, found: found() }) }
    }

    /// `Malformed` unless `holds`.
    pub(crate) const fn rule(expected: &'static str, holds: bool) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::Malformed { expected }) }
    }
}

impl fmt::Display for TraceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(_) => write!(f, "file can't be read or written"),
            Self::Commit(_) => write!(f, "file can't be completed"),
            Self::Short { what, needed, left } => {
                write!(f, "{what} needs {needed} bytes, {left} are left")
            }
            Self::Mismatch { what, found, expected } => {
                write!(f, "{what} is {found:#x}, expected {expected:#x}")
            }
            Self::Limit { what, found, limit } => {
                write!(f, "{what} is {found}, expected at most {limit}")
            }
            Self::Malformed { expected } => write!(f, "expected {expected}"),
            Self::Contradiction { expected, found } => write!(f, "expected {expected}: {found}"),
            Self::Json(_) => write!(f, "expected a JSON object with the fields of this block"),
        }
    }
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            // All bytes are written: the error has no byte.
            _ if matches!(self.fault, TraceFault::Commit(_)) => write!(f, "{}", self.fault),
            None => write!(f, "byte {}: {}", self.offset, self.fault),
            Some(place) => write!(f, "byte {}: {place}: {}", self.offset, self.fault),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.round {
            None => write!(f, "{}", self.block),
            Some(round) => write!(f, "{} of round {round}", self.block),
        }
    }
}

impl error::Error for TraceError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.fault {
            TraceFault::Io(cause) | TraceFault::Commit(cause) => Some(cause),
            TraceFault::Json(cause) => Some(cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    #[test]
    fn messages_name_the_byte_and_what_was_expected() {
        let text = |fault: TraceFault| fault.at(24).to_string();
        let short = TraceFault::Short { what: "block header", needed: 24, left: 3 };
        assert_eq!(text(short), "byte 24: block header needs 24 bytes, 3 are left");
        let version = TraceFault::Mismatch { what: "version", found: 2, expected: 1 };
        assert_eq!(text(version), "byte 24: version is 0x2, expected 0x1");
        let entries = TraceFault::Limit { what: "entries", found: 9, limit: 8 };
        assert_eq!(text(entries), "byte 24: entries is 9, expected at most 8");
        let rule = TraceFault::Malformed { expected: "zeros as padding" };
        assert_eq!(text(rule), "byte 24: expected zeros as padding");
        let rule = TraceFault::Contradiction { expected: "one pfn", found: "two".to_owned() };
        let place = Place { block: "LEAVES", round: Some(3) };
        let error = rule.at(24).within(place).within(Place { block: "META", round: None });
        assert_eq!(error.to_string(), "byte 24: LEAVES of round 3: expected one pfn: two");
    }

    #[test]
    fn causes_are_kept_as_source() {
        let io = TraceFault::Io(io::Error::other("disk")).at(0);
        assert_eq!(io.source().expect("cause").to_string(), "disk");
        let commit = TraceFault::Commit(io::Error::other("disk")).at(24);
        assert_eq!(commit.to_string(), "file can't be completed");
        assert_eq!(commit.source().expect("cause").to_string(), "disk");
        let json = serde_json::from_str::<u8>("x").expect_err("no JSON");
        assert!(TraceFault::Json(json).at(0).source().is_some());
    }
}
