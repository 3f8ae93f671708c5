// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads captures of a real guest, format 'p2mraw 1', plain or compressed with xz.
//! Not here: what becomes of them (`import`).
//! Units: little endian; entries of a 32-bit guest widened; offsets in errors are of the decompressed file.
//! Threads: plain reads may be shared.
//! Source: the format's table in `tests/traces/README.md`.
//!
//! 8 bytes of magic, then blocks: u32 type, u32 round, u64 payload bytes, payload, zeros to a multiple of 8. No
//! checksums: what is checked is that every block is there, in order, whole, and that lengths agree.

use std::io::Read;
use std::path::Path;

use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use p2mtrack::frame::{Entry, Width};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bytes::{open_regular, read_at_most};
use crate::cursor::Cursor;
use crate::error::{TraceError, TraceFault};
use crate::format::padding_bytes;
use crate::limits::Limits;
use crate::meta::read_width;

const MAGIC: &[u8] = b"P2MRAW\0\x01";
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";
const BLOCK_HEADER_BYTES: u64 = 16;

/// Memory that decompression may take; `xz -9` needs 65 MiB.
const XZ_BYTES_MAX: u64 = 256 << 20;

/// Whether a file that begins with these bytes (8 suffice) is meant to be a capture, plain or compressed.
#[must_use]
pub fn is_capture(start: &[u8]) -> bool {
    start.starts_with(MAGIC) || start.starts_with(XZ_MAGIC)
}

const META: u32 = 1;
const ROOTS_BEFORE: u32 = 2;
const ROOTS_AFTER: u32 = 3;
const LOG_DIRTY: u32 = 4;
const LEAF_MFNS: u32 = 5;
const LEAF_PFNS: u32 = 6;
const UPPER: u32 = 7;
const ENTRIES: u32 = 8;
const M2P: u32 = 9;
const END: u32 = 10;

/// Blocks of a round in the order of the file; round 0 is without LOG_DIRTY.
const ORDER: [u32; 8] =
    [ROOTS_BEFORE, LOG_DIRTY, ROOTS_AFTER, LEAF_MFNS, LEAF_PFNS, UPPER, ENTRIES, M2P];

/// How the recorder walked the p2m.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Walk {
    /// Through the page tables of the linear list.
    Linear,
    /// Through the 3-level tree.
    Tree,
}

/// The META of a capture.
#[derive(Clone, Debug, Deserialize)]
pub struct CaptureMeta {
    /// `p2mraw 1`.
    pub format: String,
    /// The capture's name.
    pub name: String,
    /// The guest's width.
    #[serde(deserialize_with = "read_width")]
    pub width: Width,
    /// Pfns at the start.
    pub pfn_count: u64,
    /// Frames of the machine.
    pub max_mfn: u64,
    /// The guest's kernel.
    pub kernel: String,
    /// The hypervisor.
    pub xen: String,
    /// How the p2m was walked.
    pub walk: Walk,
    /// What the guest was doing.
    pub load: String,
    /// Rounds after the first copy.
    pub rounds: u64,
}

/// The roots as a capture has them.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct CaptureRoots {
    /// A count of pfns.
    pub max_pfn: u64,
    /// Frame list list.
    pub fll: u64,
    /// Root of the linear list's page tables.
    pub p2m_cr3: u64,
    /// Where the linear list begins.
    pub p2m_vaddr: u64,
    /// Generation of the mapping.
    pub generation: u64,
}

/// The roots after CLEAN, with what the walk was made under.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct CaptureWalk {
    /// The roots.
    #[serde(flatten)]
    pub roots: CaptureRoots,
    /// The count of pfns that the walk covered.
    pub walk_max_pfn: u64,
    /// The generation around the walk.
    pub walk_generation: u64,
}

/// One round of a capture.
#[derive(Debug)]
pub struct CaptureRound<'c> {
    /// Roots before CLEAN.
    pub before: CaptureRoots,
    /// Roots after it, and of the walk.
    pub after: CaptureWalk,
    /// What CLEAN returned: pfn p is bit `p & 7` of byte `p >> 3`. Not in round 0.
    pub log_dirty: Option<&'c [u8]>,
    /// The frame of each leaf position.
    pub leaf_mfns: Vec<u64>,
    /// Its pfn by the m2p.
    pub leaf_pfns: Vec<u64>,
    /// Frames above the leaves: level, mfn, pfn.
    pub upper: Vec<[u64; 3]>,
    /// All entries.
    pub entries: Vec<u64>,
    /// m2p of each entry that is below `max_mfn`.
    pub m2p: Vec<u64>,
}

/// A capture whose blocks are all there and in order.
#[derive(Debug)]
pub struct Capture {
    bytes: Vec<u8>,
    meta: CaptureMeta,
    /// First byte and length of each payload, META and END apart.
    payloads: Vec<(usize, usize)>,
    rounds: u64,
}

impl Capture {
    /// Reads a `.p2mraw` or `.p2mraw.xz` file into memory.
    ///
    /// # Errors
    /// The file can't be read or decompressed, exceeds the limits, or is not a whole capture.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, TraceError> {
        let io_fault = |cause| TraceFault::Io(cause).at(0);
        let (mut file, length) = open_regular(path).map_err(io_fault)?;
        TraceFault::limit("bytes of the file", length, limits.capture_bytes)
            .map_err(|fault| fault.at(0))?;
        let mut start = Vec::new();
        (&mut file).take(8).read_to_end(&mut start).map_err(io_fault)?;
        let whole = start.as_slice().chain(file);
        let bytes = if start.starts_with(XZ_MAGIC) {
            let stream = Stream::new_stream_decoder(XZ_BYTES_MAX, CONCATENATED)
                .map_err(|cause| io_fault(cause.into()))?;
            read_at_most(XzDecoder::new_stream(whole, stream), limits.capture_bytes)
        } else {
            read_at_most(whole, limits.capture_bytes)
        };
        Self::parse(bytes.map_err(io_fault)?)
    }

    /// Takes the bytes of an uncompressed capture.
    ///
    /// # Errors
    /// It is not a whole capture.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, TraceError> {
        let mut cursor = Cursor::new(&bytes, 0);
        let magic = cursor.take("magic", MAGIC.len() as u64)?;
        TraceFault::rule("the first bytes of a p2mraw 1 file, plain or xz", magic == MAGIC)
            .map_err(|fault| fault.at(0))?;
        let (start, length) = take_block(&mut cursor, META, 0)?;
        let meta: CaptureMeta = json(&bytes, start, length)?;
        TraceFault::rule("format p2mraw 1", meta.format == "p2mraw 1")
            .map_err(|fault| fault.at(start as u64))?;
        let mut payloads = Vec::new();
        let mut rounds = 0;
        while rounds == 0 || next_kind(&cursor) != Some(END) {
            for &kind in ORDER.iter().filter(|&&kind| rounds > 0 || kind != LOG_DIRTY) {
                payloads.push(take_block(&mut cursor, kind, rounds)?);
            }
            rounds += 1;
        }
        let left = end_block(&mut cursor)?;
        cursor.check(TraceFault::same("bytes after the last block", left, 0))?;
        Ok(Self { bytes, meta, payloads, rounds: rounds.into() })
    }

    /// What the capture is of.
    #[must_use]
    pub const fn meta(&self) -> &CaptureMeta {
        &self.meta
    }

    /// Rounds, the first copy counted: at least 1.
    #[must_use]
    pub const fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Decodes a round.
    ///
    /// # Errors
    /// A payload is not what its block should hold, or lengths disagree.
    ///
    /// # Panics
    /// If `number` is not below [`Capture::rounds`].
    pub fn round(&self, number: u64) -> Result<CaptureRound<'_>, TraceError> {
        assert!(number < self.rounds, "a capture has no round {number}");
        let first = number as usize * ORDER.len() - usize::from(number > 0);
        let mut next = self.payloads[first..].iter();
        let mut payload = || next.next().copied().unwrap_or_default();
        let (start, length) = payload();
        let before = json(&self.bytes, start, length)?;
        let log_dirty = (number > 0).then(&mut payload);
        let (start, length) = payload();
        let after = json(&self.bytes, start, length)?;
        let leaf_mfns = self.words(payload(), None)?;
        let positions = leaf_mfns.len();
        let leaf_pfns = self.words(payload(), Some(positions))?;
        let (start, length) = payload();
        let upper = self.words((start, length), None)?;
        let (upper, rest) = upper.as_chunks::<3>();
        TraceFault::rule("triples of words", rest.is_empty())
            .map_err(|fault| fault.at(start as u64))?;
        let upper = upper.to_vec();
        let entries = Some(positions * self.meta.width.entries());
        let (entries, m2p) = (self.words(payload(), entries)?, self.words(payload(), entries)?);
        let log_dirty = log_dirty.map(|(start, length)| &self.bytes[start..start + length]);
        Ok(CaptureRound { before, after, log_dirty, leaf_mfns, leaf_pfns, upper, entries, m2p })
    }

    /// A payload of 64-bit words, of this number if one is given.
    fn words(
        &self,
        (start, length): (usize, usize),
        expected: Option<usize>,
    ) -> Result<Vec<u64>, TraceError> {
        let (words, rest) = self.bytes[start..start + length].as_chunks::<8>();
        let found = words.len() as u64;
        TraceFault::rule("64-bit words", rest.is_empty())
            .and_then(|()| {
                TraceFault::same("number of words", found, expected.map_or(found, |n| n as u64))
            })
            .map_err(|fault| fault.at(start as u64))?;
        let widen = |word: u64| match (self.meta.width, u32::try_from(word)) {
            (Width::W32, Ok(word)) => Entry::widen(word).0,
            _ => word,
        };
        Ok(words.iter().map(|&word| widen(u64::from_le_bytes(word))).collect())
    }
}

fn next_kind(cursor: &Cursor<'_>) -> Option<u32> {
    cursor.clone().word32("block type").ok()
}

/// First byte and length of the next block's payload; the block has to be this one.
fn take_block(
    cursor: &mut Cursor<'_>,
    kind: u32,
    round: u32,
) -> Result<(usize, usize), TraceError> {
    let start = cursor.offset();
    let mut header = Cursor::new(cursor.take("block header", BLOCK_HEADER_BYTES)?, start);
    for (what, expected) in [("block type", kind), ("round of a block", round)] {
        let at = header.offset();
        let found = header.word32(what)?;
        TraceFault::same(what, found.into(), expected.into()).map_err(|fault| fault.at(at))?;
    }
    let length = header.word64("block length")?;
    let payload = cursor.offset();
    cursor.take("block payload", length)?;
    cursor.padding(padding_bytes(length))?;
    Ok((payload as usize, length as usize))
}

/// Checks the last block, in whatever round it says, and returns the bytes after it.
fn end_block(cursor: &mut Cursor<'_>) -> Result<u64, TraceError> {
    let mut header = cursor.clone();
    header.word32("block type")?;
    let round = header.word32("round of a block")?;
    let (start, length) = take_block(cursor, END, round)?;
    TraceFault::same("bytes of the last block", length as u64, 0)
        .map_err(|fault| fault.at(start as u64))?;
    Ok(cursor.left() as u64)
}

fn json<T: DeserializeOwned>(bytes: &[u8], start: usize, length: usize) -> Result<T, TraceError> {
    serde_json::from_slice(&bytes[start..start + length])
        .map_err(|cause| TraceFault::Json(cause).at(start as u64))
}
