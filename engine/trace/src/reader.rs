// SPDX-License-Identifier: MIT OR Apache-2.0
//! An open trace: all blocks are checked when it is opened, rounds are decoded on demand.
//! Not here: the decoding (`rounds`), a replay (`replay`), the expected result (`naive`).
//! Units: bytes and rounds; the layout is in `format`.
//! Threads: may be shared.
//! Source: own. The file is untrusted; see `limits`.

use std::path::Path;

use crate::bytes::Bytes;
use crate::container::Container;
use crate::error::{TraceError, TraceFault};
use crate::format::{BlockKind, META_BYTES_MAX, round_blocks};
use crate::limits::Limits;
use crate::meta::Meta;
use crate::payloads::Payloads;
use crate::rounds::Rounds;
use crate::staged::StagedFile;

/// A trace whose container is sound: every block is there, in order, and has its checksum.
#[derive(Debug)]
pub struct Reader<'b> {
    payloads: Payloads<'b>,
    meta: Meta,
    limits: Limits,
}

impl Reader<'static> {
    /// Opens a trace file with the default limits. Files of 64 MiB and more are mapped: no process
    /// may write or truncate them while the reader lives (SIGBUS). Smaller ones are read.
    ///
    /// # Errors
    /// The file can't be read, or is not a whole trace of this version.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        Self::open_with(path, Limits::default())
    }

    /// Opens a trace file with other limits.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_with(path: &Path, limits: Limits) -> Result<Self, TraceError> {
        let bytes = Bytes::open(path).map_err(|cause| TraceFault::Io(cause).at(0))?;
        Self::check(bytes, limits)
    }

    /// Opens a trace that has no name yet, with the default limits.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn of_staged(staged: &StagedFile) -> Result<Self, TraceError> {
        let bytes = Bytes::of(staged.file()).map_err(|cause| TraceFault::Io(cause).at(0))?;
        Self::check(bytes, Limits::default())
    }

    /// Reads a trace that is in memory, and owns it.
    ///
    /// # Errors
    /// As [`Reader::new`].
    pub fn from_vec(bytes: Vec<u8>, limits: Limits) -> Result<Self, TraceError> {
        Self::check(Bytes::Owned(bytes), limits)
    }
}

impl<'b> Reader<'b> {
    /// Reads a trace that is in memory.
    ///
    /// # Errors
    /// It is not a whole trace of this version.
    pub fn new(bytes: &'b [u8], limits: Limits) -> Result<Self, TraceError> {
        Self::check(Bytes::Lent(bytes), limits)
    }

    fn check(bytes: Bytes<'b>, limits: Limits) -> Result<Self, TraceError> {
        let mut container = Container::begin(&bytes)?;
        let mut json = container.block(BlockKind::Meta, 0, META_BYTES_MAX)?;
        let start = json.offset();
        let meta: Meta = serde_json::from_slice(json.take("meta", json.left() as u64)?)
            .map_err(|cause| TraceFault::Json(cause).at(start).within(BlockKind::Meta.of(0)))?;
        let mut places = Vec::new();
        let mut rounds = 0;
        while rounds == 0 || !container.at_end_block() {
            for &kind in round_blocks(rounds) {
                let block = container.block(kind, rounds, u64::MAX);
                let block = block.map_err(|error| error.within(kind.of(rounds)))?;
                places.push((block.offset() as usize, block.left()));
            }
            rounds += 1;
        }
        container.end(rounds)?;
        Ok(Self { payloads: Payloads { bytes, places, rounds }, meta, limits })
    }

    /// What the trace is of.
    #[must_use]
    pub const fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Rounds, the first copy counted: at least 1.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.payloads.rounds
    }

    /// Whether there is no round: always false.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.payloads.rounds == 0
    }

    /// The limits that it was opened with.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes of the file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.payloads.bytes.len() as u64
    }

    /// A cursor before the first copy.
    #[must_use]
    pub fn rounds(&self) -> Rounds<'_> {
        Rounds::new(&self.payloads, &self.meta, &self.limits)
    }

    /// Decodes every round.
    ///
    /// # Errors
    /// The first payload that breaks a rule.
    pub fn verify(&self) -> Result<(), TraceError> {
        let mut rounds = self.rounds();
        while rounds.advance()? {}
        Ok(())
    }
}
