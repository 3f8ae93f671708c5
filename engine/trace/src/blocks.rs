// SPDX-License-Identifier: MIT OR Apache-2.0
//! The blocks of a capture, unpacked one after another; a block that is too long is not read.
//! Not here: what blocks hold (`raw`), decompression itself.
//! Units: bytes; offsets in errors are of the decompressed file.
//! Threads: one.
//! Source: own. A few bytes of a compressed file can expand to gigabytes: a length is accepted only
//! if earlier blocks justify it, and memory is allocated only as bytes arrive.

use std::io::{self, Read};

use p2mtrack::frame::Width;
use p2mtrack::port::LOG_DIRTY_LEAF_PFNS;

use crate::error::{Place, TraceError, TraceFault};
use crate::format::{META_BYTES_MAX, padding_bytes};
use crate::limits::Limits;

/// First bytes of a capture.
pub(crate) const MAGIC: &[u8] = b"P2MRAW\0\x01";
const BLOCK_HEADER_BYTES: u64 = 16;
/// Largest ROOTS payload: some 20 numbers.
const ROOTS_BYTES_MAX: u64 = 1 << 16;
/// Bytes that are read at a time, whole words.
const PIECE_BYTES: u64 = 1 << 16;
/// Upper frames that a p2m without any leaf may have.
const UPPER_FRAMES_MIN: u64 = 64;

/// The types of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Meta = 1,
    RootsBefore = 2,
    RootsAfter = 3,
    LogDirty = 4,
    LeafMfns = 5,
    LeafPfns = 6,
    Upper = 7,
    Entries = 8,
    M2p = 9,
    End = 10,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Meta,
        Self::RootsBefore,
        Self::RootsAfter,
        Self::LogDirty,
        Self::LeafMfns,
        Self::LeafPfns,
        Self::Upper,
        Self::Entries,
        Self::M2p,
        Self::End,
    ];

    /// Its name in the format.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "META",
            Self::RootsBefore => "ROOTS_BEFORE",
            Self::RootsAfter => "ROOTS_AFTER",
            Self::LogDirty => "LOGDIRTY",
            Self::LeafMfns => "LEAF_MFNS",
            Self::LeafPfns => "LEAF_PFNS",
            Self::Upper => "UPPER",
            Self::Entries => "ENTRIES",
            Self::M2p => "M2P",
            Self::End => "END",
        }
    }

    /// The block of a round.
    pub(crate) const fn of(self, round: u64) -> Place {
        match self {
            Self::Meta | Self::End => Place { block: self.name(), round: None },
            _ => Place { block: self.name(), round: Some(round) },
        }
    }
}

/// The header of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// First byte of the header.
    start: u64,
    kind: u32,
    round: u32,
    length: u64,
}

impl Header {
    /// Whether the block is of this kind.
    pub(crate) const fn is(&self, kind: Kind) -> bool {
        self.kind == kind as u32
    }

    /// The block has to be this one. The last block may be of any round.
    pub(crate) fn expect(&self, kind: Kind, round: u64) -> Result<(), TraceError> {
        let is_round = kind == Kind::End || u64::from(self.round) == round;
        if self.is(kind) && is_round {
            return Ok(());
        }
        let known = Kind::ALL.into_iter().find(|&known| self.is(known));
        let name =
            known.map_or_else(|| format!("type {:#x}", self.kind), |kind| kind.name().into());
        let found = format!("a block {name} of round {}", self.round);
        let fault = TraceFault::Contradiction { expected: "this block next", found };
        Err(fault.at(self.start).within(kind.of(round)))
    }
}

/// The payload of a block.
#[derive(Debug, Default)]
pub(crate) struct Payload {
    /// Its first byte in the file.
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The decoded words of a block.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// The first byte of the payload in the file.
    pub(crate) start: u64,
    pub(crate) words: Vec<u64>,
}

/// A capture as blocks.
#[derive(Debug)]
pub(crate) struct Blocks<R> {
    from: R,
    at: u64,
    limit: u64,
}

impl<R: Read> Blocks<R> {
    /// Checks the first bytes. At most `limit` bytes are unpacked.
    pub(crate) fn begin(from: R, limit: u64) -> Result<Self, TraceError> {
        let mut blocks = Self { from, at: 0, limit };
        let magic = blocks.take("magic", MAGIC.len() as u64)?;
        TraceFault::rule("the first bytes of a p2mraw 1 file, plain or xz", magic == MAGIC)
            .map_err(|fault| fault.at(0))?;
        Ok(blocks)
    }

    /// The header of the next block.
    pub(crate) fn header(&mut self) -> Result<Header, TraceError> {
        let start = self.at;
        let bytes = self.take("block header", BLOCK_HEADER_BYTES)?;
        let word = |at| Width::W32.word(&bytes, at) as u32;
        let length = Width::W64.word(&bytes, 8);
        Ok(Header { start, kind: word(0), round: word(4), length })
    }

    /// The payload of the block, if its length was `allowed`.
    pub(crate) fn payload(
        &mut self,
        header: &Header,
        allowed: Result<(), TraceFault>,
    ) -> Result<Payload, TraceError> {
        allowed.map_err(|fault| fault.at(header.start + 8))?;
        let start = self.at;
        let bytes = self.take("block payload", header.length)?;
        let padding = self.at;
        let zeros = self.take("padding", padding_bytes(header.length))?.iter().all(|&b| b == 0);
        TraceFault::rule("zeros as padding", zeros).map_err(|fault| fault.at(padding))?;
        Ok(Payload { start, bytes })
    }

    /// The payload of the block, if its length was `allowed`, in whole words. Each is decoded as it
    /// is read, so that there is no second copy.
    pub(crate) fn words(
        &mut self,
        header: &Header,
        allowed: Result<(), TraceFault>,
        mut decode: impl FnMut(u64, u64) -> Result<u64, TraceFault>,
    ) -> Result<Words, TraceError> {
        allowed.map_err(|fault| fault.at(header.start + 8))?;
        self.expect_left(header.length)?;
        let start = self.at;
        let mut words = Vec::new();
        while self.at < start + header.length {
            let bytes = self.read((start + header.length - self.at).min(PIECE_BYTES))?;
            let whole = bytes.as_chunks::<8>().0;
            for (word, at) in whole.iter().zip((self.at..).step_by(8)) {
                let word = decode((at - start) / 8, u64::from_le_bytes(*word));
                words.push(word.map_err(|fault| fault.at(at))?);
            }
            let read = self.at + bytes.len() as u64 - start;
            if (bytes.len() as u64) < PIECE_BYTES && read < header.length {
                let (what, needed) = ("block payload", header.length);
                return Err(TraceFault::Short { what, needed, left: read }.at(start));
            }
            self.at = start + read;
        }
        Ok(Words { start, words })
    }

    /// Bytes that may still be unpacked.
    pub(crate) const fn left(&self) -> u64 {
        self.limit - self.at
    }

    /// Checks that nothing follows. Only here does a decompressor check its own sums.
    pub(crate) fn end(mut self) -> Result<(), TraceError> {
        let read = self.read(1).map_err(at_the_end)?;
        TraceFault::rule("nothing after the last block", read.is_empty())
            .map_err(|fault| fault.at(self.at))
    }

    fn expect_left(&self, length: u64) -> Result<(), TraceError> {
        if length > self.left() {
            return Err(self.too_large());
        }
        Ok(())
    }

    /// The file has more bytes than may be unpacked.
    pub(crate) fn too_large(&self) -> TraceError {
        let text = format!("more than {} bytes", self.limit);
        let cause = io::Error::new(io::ErrorKind::FileTooLarge, text);
        TraceFault::Io(cause).at(self.at)
    }

    fn take(&mut self, what: &'static str, length: u64) -> Result<Vec<u8>, TraceError> {
        self.expect_left(length)?;
        let bytes = self.read(length)?;
        let left = bytes.len() as u64;
        if left < length {
            return Err(TraceFault::Short { what, needed: length, left }.at(self.at));
        }
        self.at += length;
        Ok(bytes)
    }

    /// Up to `length` bytes: fewer only at the end of the file. Memory is allocated as they arrive.
    fn read(&mut self, length: u64) -> Result<Vec<u8>, TraceError> {
        let mut bytes = Vec::new();
        let result = (&mut self.from).take(length).read_to_end(&mut bytes);
        result.map_err(|cause| TraceFault::Io(cause).at(self.at + bytes.len() as u64))?;
        Ok(bytes)
    }
}

/// An error after the last block: a decompressor that needs more input lacks its own end.
fn at_the_end(error: TraceError) -> TraceError {
    let fault = match error.fault {
        TraceFault::Io(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
            let words = "the compressed file is cut short, or something else follows it";
            TraceFault::Io(io::Error::new(cause.kind(), words))
        }
        fault => fault,
    };
    TraceError { fault, ..error }
}

/// How long blocks can be, from what was read before them.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    width: Width,
    limits: Limits,
    /// The largest count of pfns that was read so far.
    pfns: u64,
    /// Leaves of this round.
    leaves: u64,
}

impl Bounds {
    /// After META.
    pub(crate) fn new(width: Width, pfn_count: u64, limits: Limits) -> Self {
        let mut bounds = Self { width, limits, pfns: 0, leaves: 0 };
        bounds.grow(pfn_count);
        bounds
    }

    /// Checks META itself.
    pub(crate) fn meta(header: &Header) -> Result<(), TraceFault> {
        TraceFault::limit("block length", header.length, META_BYTES_MAX)
    }

    /// The guest also had this many pfns. It may claim any number; the limit of entries caps it.
    pub(crate) fn grow(&mut self, pfn_count: u64) {
        self.pfns = self.pfns.max(pfn_count.min(self.limits.entries));
    }

    /// Sets the leaves of the round. Returns the least bytes of the blocks to come: a pfn for each
    /// leaf, and an entry and an m2p value for each pfn.
    pub(crate) const fn list(&mut self, leaves: u64) -> u64 {
        self.leaves = leaves;
        leaves.saturating_mul(8 + 16 * self.width.entries() as u64)
    }

    /// Checks that a block can be that long.
    pub(crate) fn check(&self, kind: Kind, header: &Header) -> Result<(), TraceFault> {
        let (length, entries) = (header.length, self.width.entries() as u64);
        match kind {
            Kind::Meta => Self::meta(header),
            Kind::RootsBefore | Kind::RootsAfter => {
                TraceFault::limit("block length", length, ROOTS_BYTES_MAX)
            }
            Kind::LogDirty => self.check_log(length),
            Kind::LeafMfns => self.at_most(length, 8, "leaves", self.width.leaves(self.pfns)),
            Kind::Upper => {
                let frames = self.width.leaves(self.pfns) + UPPER_FRAMES_MIN;
                self.at_most(length, 24, "upper frames", frames.min(self.limits.upper_frames))
            }
            Kind::LeafPfns => self.exactly(length, "a pfn for each leaf of LEAF_MFNS", 1),
            Kind::Entries => self.exactly(length, "whole leaves, as many as LEAF_MFNS", entries),
            Kind::M2p => self.exactly(length, "an m2p value for each of ENTRIES", entries),
            Kind::End => TraceFault::same("bytes of the last block", length, 0),
        }
    }

    /// A CLEAN covers the count of pfns in whole leaves of Xen's log. Twice as many are allowed:
    /// the recorder may have seen another count.
    fn check_log(&self, length: u64) -> Result<(), TraceFault> {
        let leaves = self.pfns.saturating_mul(2).div_ceil(LOG_DIRTY_LEAF_PFNS);
        let pfns = leaves.saturating_mul(LOG_DIRTY_LEAF_PFNS).min(self.limits.log_dirty_pfns);
        if length <= pfns / 8 {
            return Ok(());
        }
        let found = format!("{length:#x} bytes of log for a count of {:#x} pfns", self.pfns);
        Err(TraceFault::Contradiction { expected: "a log-dirty bitmap of the guest's pfns", found })
    }

    fn at_most(&self, length: u64, each: u64, what: &str, most: u64) -> Result<(), TraceFault> {
        let expected = if each == 8 { "64-bit words" } else { "triples of words" };
        TraceFault::rule(expected, length.is_multiple_of(each))?;
        let count = length / each;
        if count <= most {
            return Ok(());
        }
        let found = format!(
            "{count:#x} {what}, where {:#x} pfns, the largest count so far, can have {most:#x}",
            self.pfns
        );
        Err(TraceFault::Contradiction { expected: "no more than the pfns can have", found })
    }

    fn exactly(&self, length: u64, expected: &'static str, words: u64) -> Result<(), TraceFault> {
        TraceFault::rule("64-bit words", length.is_multiple_of(8))?;
        let (count, leaves) = (length / 8, self.leaves);
        if count == words * leaves {
            return Ok(());
        }
        let needed = words * leaves;
        let found = format!("number of words is {count:#x}, {leaves:#x} leaves need {needed:#x}");
        Err(TraceFault::Contradiction { expected, found })
    }
}
