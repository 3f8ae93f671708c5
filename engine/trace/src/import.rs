// SPDX-License-Identifier: MIT OR Apache-2.0
//! Converts a capture into a trace. Entries, leaves and log-dirty bitmaps are kept exactly.
//! Not here: reading captures (`raw`), writing traces (`writer`).
//! Units: as in `round`.
//! Threads: one.
//! Source: own; what captures hold is in `tests/traces/README.md`.
//!
//! What a capture lacks is added, so that a replay is consistent:
//! - *Contents of upper frames* are made by the rule of `upper`. The trace's flavour is the
//!   structure that was walked.
//! - *Roots after CLEAN* become those of the walk, with its generation and its count. Where that
//!   count does not give the number of leaves, the count is all entries of the leaves. If a root
//!   does not name the frame on top of the walk, it is changed to name it, also before CLEAN where
//!   it was the same there. A tree walk presents no `p2m_cr3`.
//! - *m2p exceptions*: m2p values that neither the lists nor the entries give. If one frame was
//!   looked up twice in a round with two answers, the later one is kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Write};
use std::path::Path;
use std::{error, fmt};

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Entry, Pfn, Width};
use p2mtrack::port::Roots;

use crate::blocks::Kind;
use crate::error::{TraceError, TraceFault};
use crate::limits::Limits;
use crate::meta::{Flavour, Meta};
use crate::raw::{CaptureMeta, CaptureReader, CaptureRoots, CaptureRound, RoundBlocks, Walk};
use crate::round::{Broken, Column, NONE, Round};
use crate::upper::{self, TooFewFrames, Upper};
use crate::writer::Writer;

/// A trace in memory may have the byte limit of a capture divided by this.
const TRACE_SHARE: u64 = 4;

/// A capture that can't become a trace.
#[derive(Debug)]
pub enum ImportError {
    /// The capture can't be read, or contradicts itself in a way that no trace may.
    Capture(TraceError),
    /// The trace can't be written.
    Trace(TraceError),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capture(_) => write!(f, "capture can't be read"),
            Self::Trace(_) => write!(f, "trace can't be written"),
        }
    }
}

impl error::Error for ImportError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Capture(cause) | Self::Trace(cause) => Some(cause),
        }
    }
}

/// Converts the capture file `from` into a trace in memory, of at most a quarter of the byte limit
/// of a capture.
///
/// # Errors
/// See [`ImportError`].
pub fn import_in_memory(from: &Path, limits: &Limits) -> Result<Vec<u8>, ImportError> {
    let mut reader = CaptureReader::open(from, limits).map_err(ImportError::Capture)?;
    let trace = Bounded { bytes: Vec::new(), limit: limits.capture_bytes / TRACE_SHARE };
    let meta = meta_of(reader.meta());
    let mut writer = Writer::new(trace, &meta).map_err(ImportError::Trace)?;
    import(&mut reader, &mut writer)?;
    Ok(writer.finish().map_err(ImportError::Trace)?.bytes)
}

/// A file in memory with a size limit.
#[derive(Debug)]
struct Bounded {
    bytes: Vec<u8>,
    limit: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + bytes.len()) as u64 > self.limit {
            let text = format!("more than {} bytes: import the capture to a file", self.limit);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all rounds of a capture, one at a time, to a writer that was made with its [`meta_of`].
///
/// # Errors
/// See [`ImportError`].
pub fn import<R: Read, W: Write>(
    reader: &mut CaptureReader<R>,
    writer: &mut Writer<W>,
) -> Result<(), ImportError> {
    while let Some(blocks) = reader.next_round().map_err(ImportError::Capture)? {
        let round = round_of(reader.meta(), blocks).map_err(ImportError::Capture)?;
        writer.append(round).map_err(ImportError::Trace)?;
    }
    Ok(())
}

/// The META of a capture's trace.
#[must_use]
pub fn meta_of(meta: &CaptureMeta) -> Meta {
    Meta {
        name: meta.name.clone(),
        width: meta.width,
        pfn_count: meta.pfn_count,
        max_mfn: meta.max_mfn,
        kernel: meta.kernel.clone(),
        xen: meta.xen.clone(),
        flavour: match meta.walk {
            Walk::Linear => Flavour::Linear,
            Walk::Tree => Flavour::Tree,
        },
        load: meta.load.clone(),
        rounds: meta.rounds,
        source: format!("imported from {}", meta.format),
    }
}

/// The round of the trace, checked.
fn round_of(meta: &CaptureMeta, mut blocks: RoundBlocks) -> Result<Round, TraceError> {
    let from = blocks.round();
    let (width, vaddr) = (meta.width, from.after.roots.p2m_vaddr);
    let upper = match meta.walk {
        Walk::Linear => upper::linear(width, vaddr, from.leaf_mfns, from.upper),
        Walk::Tree => upper::tree(width, from.leaf_mfns, from.upper),
    };
    let upper = upper.map_err(|TooFewFrames { level, needed, listed }| {
        let found = format!("level {level} needs {needed} frames, {listed} are listed");
        let expected = "frames that lead to the leaves of LEAF_MFNS";
        blocks.place(Kind::Upper, 0, TraceFault::Contradiction { expected, found })
    })?;
    let (before, after) = roots_of(meta, &from, &upper);
    let exceptions =
        exceptions_of(meta, &from).map_err(|(pfn, fault)| blocks.place(Kind::M2p, pfn, fault))?;
    let round = Round {
        before,
        after,
        log_dirty: from.log_dirty.map(bitmap_of),
        upper: upper.frames,
        leaf_mfns: from.leaf_mfns.to_vec(),
        leaf_pfns: from.leaf_pfns.to_vec(),
        exceptions,
        entries: blocks.take_entries(),
    };
    let checked = round.check(&meta_of(meta), None);
    checked.map_err(|Broken { column, index, fault }| {
        let (kind, words) = match column {
            Column::Upper => (Kind::Upper, 3),
            Column::LeafMfns => (Kind::LeafMfns, 1),
            Column::LeafPfns => (Kind::LeafPfns, 1),
            Column::Entries => (Kind::Entries, 1),
            Column::M2p => (Kind::M2p, 1),
        };
        blocks.place(kind, words * index as u64, fault)
    })?;
    Ok(round)
}

fn bitmap_of(bytes: &[u8]) -> PfnBitmap {
    let mut bitmap = PfnBitmap::new(8 * bytes.len() as u64);
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, &b| word << 8 | u64::from(b));
    bitmap.copy_from_words(&bytes.chunks(8).map(word).collect::<Vec<_>>());
    bitmap
}

/// The roots to present before CLEAN and for the walk.
fn roots_of(meta: &CaptureMeta, from: &CaptureRound<'_>, upper: &Upper) -> (Roots, Roots) {
    let walk = from.after;
    let entries = meta.width.entries() as u64;
    let positions = from.leaf_mfns.len() as u64;
    let covers = meta.width.leaves(walk.walk_max_pfn) == positions;
    let (mut before, mut after) = (plain(from.before), plain(walk.roots));
    after.pfn_count = if covers { walk.walk_max_pfn } else { entries * positions };
    after.generation = walk.walk_generation;
    let recorded = after;
    match (meta.walk, upper.root) {
        (Walk::Linear, Some(root)) if linear_root(meta.width, after.p2m_cr3) != root => {
            after.p2m_cr3 = cr3_of(meta.width, root);
        }
        (Walk::Tree, root) => {
            after.p2m_cr3 = 0;
            after.frame_list_list = root.unwrap_or(after.frame_list_list);
        }
        _ => {}
    }
    if before.p2m_cr3 == recorded.p2m_cr3 {
        before.p2m_cr3 = after.p2m_cr3;
    }
    if before.frame_list_list == recorded.frame_list_list {
        before.frame_list_list = after.frame_list_list;
    }
    (before, after)
}

const fn plain(roots: CaptureRoots) -> Roots {
    Roots {
        pfn_count: roots.max_pfn,
        frame_list_list: roots.fll,
        p2m_cr3: roots.p2m_cr3,
        p2m_vaddr: roots.p2m_vaddr,
        generation: roots.generation,
    }
}

/// The frame that `p2m_cr3` names. A 32-bit guest folds the bits above 20 into the low ones.
const fn linear_root(width: Width, cr3: u64) -> u64 {
    match width {
        Width::W32 => (cr3 as u32).rotate_right(12) as u64,
        Width::W64 => cr3 >> 12,
    }
}

/// The reverse of [`linear_root`].
const fn cr3_of(width: Width, mfn: u64) -> u64 {
    match width {
        Width::W32 => (mfn as u32).rotate_left(12) as u64,
        Width::W64 => mfn << 12,
    }
}

/// m2p values that differ from those of a trace without exceptions. An error is the pfn with an
/// impossible value.
fn exceptions_of(
    meta: &CaptureMeta,
    from: &CaptureRound<'_>,
) -> Result<BTreeMap<u64, Option<u64>>, (u64, TraceFault)> {
    let listed: HashSet<u64> =
        from.leaf_mfns.iter().copied().chain(from.upper.iter().map(|triple| triple[1])).collect();
    let mut first = HashMap::new();
    for (pfn, &entry) in from.entries.iter().enumerate() {
        if Entry(entry).names_frame(meta.width, meta.max_mfn) {
            first.entry(entry).or_insert(pfn as u64);
        }
    }
    let mut exceptions = BTreeMap::new();
    for (pfn, (&entry, &value)) in from.entries.iter().zip(from.m2p).enumerate() {
        if entry >= meta.max_mfn {
            let found = || format!("{value:#x} for {}, whose entry is {entry:#x}", Pfn(pfn as u64));
            TraceFault::agree("no m2p value where ENTRIES has no frame", value == NONE, found)
                .map_err(|fault| (pfn as u64, fault))?;
        } else if !listed.contains(&entry) {
            let value = (value != NONE).then_some(value);
            if first.get(&entry).copied() == value {
                exceptions.remove(&entry);
            } else {
                exceptions.insert(entry, value);
            }
        }
    }
    Ok(exceptions)
}
