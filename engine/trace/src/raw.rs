// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads captures of a real guest, format 'p2mraw 1', plain or compressed with xz.
//! Not here: their blocks (`blocks`), conversion into a trace (`import`).
//! Units: little endian; entries of a 32-bit guest widened; offsets in errors are of the
//! decompressed file.
//! Threads: plain reads may be shared.
//! Source: the format's table in `tests/traces/README.md`.
//!
//! 8 bytes of magic, then blocks: u32 type, u32 round, u64 payload bytes, payload, zeros to a
//! multiple of 8. There are no checksums: the reader checks that every block is there, in order,
//! complete, and that lengths agree.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use p2mtrack::frame::{Entry, Pfn, Width};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::blocks::{Blocks, Bounds, Kind, MAGIC, Payload, Words};
use crate::bytes::open_regular;
use crate::error::{Place, TraceError, TraceFault};
use crate::limits::Limits;
use crate::meta::read_width;
use crate::round::fits;

const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";

/// Memory that decompression may take; `xz -9` needs 65 MiB.
const XZ_BYTES_MAX: u64 = 256 << 20;

/// Whether a file that begins with these bytes (8 suffice) should be a capture, plain or
/// compressed.
#[must_use]
pub fn is_capture(start: &[u8]) -> bool {
    start.starts_with(MAGIC) || start.starts_with(XZ_MAGIC)
}

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
    pub leaf_mfns: &'c [u64],
    /// Its pfn by the m2p.
    pub leaf_pfns: &'c [u64],
    /// Frames above the leaves: level, mfn, pfn.
    pub upper: &'c [[u64; 3]],
    /// All entries.
    pub entries: &'c [u64],
    /// m2p of each entry that is below `max_mfn`.
    pub m2p: &'c [u64],
}

/// The blocks of one round, each of the required length.
#[derive(Debug)]
pub struct RoundBlocks {
    number: u64,
    before: CaptureRoots,
    after: CaptureWalk,
    log_dirty: Option<Payload>,
    leaf_mfns: Words,
    leaf_pfns: Words,
    upper: Words,
    entries: Words,
    m2p: Words,
}

impl RoundBlocks {
    /// The round.
    #[must_use]
    pub fn round(&self) -> CaptureRound<'_> {
        CaptureRound {
            before: self.before,
            after: self.after,
            log_dirty: self.log_dirty.as_ref().map(|payload| payload.bytes.as_slice()),
            leaf_mfns: &self.leaf_mfns.words,
            leaf_pfns: &self.leaf_pfns.words,
            upper: self.upper.words.as_chunks().0,
            entries: &self.entries.words,
            m2p: &self.m2p.words,
        }
    }

    /// Takes the entries, and drops the m2p, which is not needed any more.
    pub(crate) fn take_entries(&mut self) -> Vec<u64> {
        self.m2p.words = Vec::new();
        std::mem::take(&mut self.entries.words)
    }

    /// A fault of this round at a word of one of its blocks.
    pub(crate) fn place(&self, kind: Kind, word: u64, fault: TraceFault) -> TraceError {
        let block = match kind {
            Kind::LeafMfns => &self.leaf_mfns,
            Kind::LeafPfns => &self.leaf_pfns,
            Kind::Upper => &self.upper,
            Kind::Entries => &self.entries,
            _ => &self.m2p,
        };
        fault.at(block.start + 8 * word).within(kind.of(self.number))
    }
}

/// A capture that is read round by round: at most one round is in memory.
#[derive(Debug)]
pub struct CaptureReader<R: Read> {
    /// None after the last round.
    blocks: Option<Blocks<R>>,
    meta: CaptureMeta,
    bounds: Bounds,
    rounds: u64,
}

impl CaptureReader<Box<dyn Read>> {
    /// Opens a `.p2mraw` or `.p2mraw.xz` file.
    ///
    /// # Errors
    /// The file can't be read or decompressed, exceeds the limits, or does not begin as a capture
    /// does.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, TraceError> {
        let io_fault = |cause| TraceFault::Io(cause).at(0);
        let (mut file, length) = open_regular(path).map_err(io_fault)?;
        TraceFault::limit("bytes of the file", length, limits.capture_bytes)
            .map_err(|fault| fault.at(0))?;
        let mut start = Vec::new();
        (&mut file).take(8).read_to_end(&mut start).map_err(io_fault)?;
        Self::new(unpack(start, file).map_err(io_fault)?, limits)
    }
}

/// The decompressed bytes of a file whose first bytes, `start`, were read already.
fn unpack(start: Vec<u8>, file: File) -> std::io::Result<Box<dyn Read>> {
    let is_xz = start.starts_with(XZ_MAGIC);
    let whole = BufReader::new(std::io::Cursor::new(start).chain(file));
    if !is_xz {
        return Ok(Box::new(whole));
    }
    let stream = Stream::new_stream_decoder(XZ_BYTES_MAX, CONCATENATED)?;
    Ok(Box::new(XzDecoder::new_stream(whole, stream)))
}

impl<R: Read> CaptureReader<R> {
    /// Begins an uncompressed capture.
    ///
    /// # Errors
    /// It does not begin as a capture does.
    pub fn new(from: R, limits: &Limits) -> Result<Self, TraceError> {
        let mut blocks = Blocks::begin(from, limits.capture_bytes)?;
        let header = blocks.header()?;
        let place = Kind::Meta.of(0);
        header.expect(Kind::Meta, 0)?;
        let payload =
            blocks.payload(&header, Bounds::meta(&header)).map_err(|e| e.within(place))?;
        let meta: CaptureMeta = json(&payload, place)?;
        TraceFault::rule("format p2mraw 1", meta.format == "p2mraw 1")
            .map_err(|fault| fault.at(payload.start).within(place))?;
        let bounds = Bounds::new(meta.width, meta.pfn_count, *limits);
        Ok(Self { blocks: Some(blocks), meta, bounds, rounds: 0 })
    }

    /// What the capture is of.
    #[must_use]
    pub const fn meta(&self) -> &CaptureMeta {
        &self.meta
    }

    /// The next round; none after the last one, when the whole file was read.
    ///
    /// # Errors
    /// A block is missing, in a wrong place, or of a wrong length. The reader is then unusable.
    pub fn next_round(&mut self) -> Result<Option<RoundBlocks>, TraceError> {
        let Some(mut blocks) = self.blocks.take() else { return Ok(None) };
        let first = Kind::RootsBefore.of(self.rounds);
        let header = blocks.header().map_err(|error| error.within(first))?;
        if self.rounds > 0 && header.is(Kind::End) {
            let place = Kind::End.of(0);
            blocks
                .payload(&header, self.bounds.check(Kind::End, &header))
                .map_err(|error| error.within(place))?;
            return blocks.end().map(|()| None);
        }
        let mut next = Next { blocks: &mut blocks, header: Some(header), number: self.rounds };
        let round = next.round(&mut self.bounds, self.meta.width)?;
        self.rounds += 1;
        self.blocks = Some(blocks);
        Ok(Some(round))
    }
}

/// The blocks of a round, one after another.
struct Next<'a, R> {
    blocks: &'a mut Blocks<R>,
    /// Of the first block, if it was read already.
    header: Option<crate::blocks::Header>,
    number: u64,
}

impl<R: Read> Next<'_, R> {
    /// In the order of the file; round 0 has no LOGDIRTY.
    fn round(&mut self, bounds: &mut Bounds, width: Width) -> Result<RoundBlocks, TraceError> {
        let before: CaptureRoots = self.json(Kind::RootsBefore, bounds)?;
        bounds.grow(before.max_pfn);
        let log_dirty = match self.number {
            0 => None,
            _ => Some(self.payload(Kind::LogDirty, bounds)?),
        };
        let after: CaptureWalk = self.json(Kind::RootsAfter, bounds)?;
        bounds.grow(after.roots.max_pfn.max(after.walk_max_pfn));
        let mfns = Kind::LeafMfns;
        let leaf_mfns = self.words(mfns, bounds, width)?;
        // The size of the other blocks is known now: if it is too large, don't unpack them.
        if bounds.list(leaf_mfns.words.len() as u64) > self.blocks.left() {
            return Err(self.blocks.too_large().within(mfns.of(self.number)));
        }
        Ok(RoundBlocks {
            number: self.number,
            before,
            after,
            log_dirty,
            leaf_mfns,
            leaf_pfns: self.words(Kind::LeafPfns, bounds, width)?,
            upper: self.words(Kind::Upper, bounds, width)?,
            entries: self.words(Kind::Entries, bounds, width)?,
            m2p: self.words(Kind::M2p, bounds, width)?,
        })
    }

    fn words(&mut self, kind: Kind, bounds: &Bounds, width: Width) -> Result<Words, TraceError> {
        let read = |next: &mut Self| {
            let header = next.blocks.header()?;
            header.expect(kind, next.number)?;
            next.blocks.words(&header, bounds.check(kind, &header), |index, word| {
                let word = widened(width, word);
                if kind == Kind::Entries {
                    let found = || format!("{word:#x} for {}", Pfn(index));
                    let expected = "entries of 32 bits, as META has the guest's width";
                    TraceFault::agree(expected, fits(width, word), found)?;
                }
                Ok(word)
            })
        };
        read(self).map_err(|error| error.within(kind.of(self.number)))
    }

    fn payload(&mut self, kind: Kind, bounds: &Bounds) -> Result<Payload, TraceError> {
        let read = |next: &mut Self| {
            let header = next.header.take().map_or_else(|| next.blocks.header(), Ok)?;
            header.expect(kind, next.number)?;
            next.blocks.payload(&header, bounds.check(kind, &header))
        };
        read(self).map_err(|error| error.within(kind.of(self.number)))
    }

    fn json<T: DeserializeOwned>(&mut self, kind: Kind, bounds: &Bounds) -> Result<T, TraceError> {
        let payload = self.payload(kind, bounds)?;
        json(&payload, kind.of(self.number))
    }
}

/// A whole capture in memory, for access to any round.
#[derive(Debug)]
pub struct Capture {
    meta: CaptureMeta,
    rounds: Vec<RoundBlocks>,
}

impl Capture {
    /// Reads a `.p2mraw` or `.p2mraw.xz` file into memory.
    ///
    /// # Errors
    /// The file can't be read or decompressed, exceeds the limits, or is not a whole capture.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, TraceError> {
        Self::whole(CaptureReader::open(path, limits)?)
    }

    /// Reads an uncompressed capture that is in memory.
    ///
    /// # Errors
    /// It is not a whole capture.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, TraceError> {
        Self::whole(CaptureReader::new(std::io::Cursor::new(bytes), &Limits::default())?)
    }

    fn whole<R: Read>(mut reader: CaptureReader<R>) -> Result<Self, TraceError> {
        let mut rounds = Vec::new();
        while let Some(round) = reader.next_round()? {
            rounds.push(round);
        }
        Ok(Self { meta: reader.meta, rounds })
    }

    /// What the capture is of.
    #[must_use]
    pub const fn meta(&self) -> &CaptureMeta {
        &self.meta
    }

    /// Rounds, the first copy counted: at least 1.
    #[must_use]
    pub const fn rounds(&self) -> u64 {
        self.rounds.len() as u64
    }

    /// A round.
    ///
    /// # Panics
    /// If `number` is not below [`Capture::rounds`].
    #[must_use]
    pub fn round(&self, number: u64) -> CaptureRound<'_> {
        assert!(number < self.rounds(), "a capture has no round {number}");
        self.rounds[number as usize].round()
    }
}

/// Widens a word of a 32-bit guest: 32 ones become all ones.
fn widened(width: Width, word: u64) -> u64 {
    match (width, u32::try_from(word)) {
        (Width::W32, Ok(word)) => Entry::widen(word).0,
        _ => word,
    }
}

fn json<T: DeserializeOwned>(payload: &Payload, place: Place) -> Result<T, TraceError> {
    serde_json::from_slice(&payload.bytes)
        .map_err(|cause| TraceFault::Json(cause).at(payload.start).within(place))
}
