// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes a trace round by round to any `Write`; a file appears only when it is complete.
//! Not here: where rounds come from (`import`, a recorder).
//! Units: as in `round`; the layout is in `format`.
//! Threads: one writer.
//! Source: own.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use p2mtrack::leaf::Leaf;
use p2mtrack::port::Roots;

use crate::cursor::put_varint;
use crate::error::{TraceError, TraceFault};
use crate::format::{BlockHeader, BlockKind, Digest, META_BYTES_MAX, file_header, padding_bytes};
use crate::meta::Meta;
use crate::round::{NONE, Round, Structure, UpperFrame, fits, lane, lanes};
use crate::runs::{put_bitmap, put_runs};
use crate::staged::StagedFile;

/// A trace being written. Holds one round, to know what changes in the next.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    offset: u64,
    digest: Digest,
    blocks: u64,
    meta: Meta,
    last: Round,
    rounds: u64,
    broken: bool,
}

impl<W: Write> Writer<W> {
    /// Begins a trace.
    ///
    /// # Errors
    /// `out` failed, or META is longer than it may be.
    pub fn new(out: W, meta: &Meta) -> Result<Self, TraceError> {
        let mut writer = Self {
            out,
            offset: 0,
            digest: Digest::new(),
            blocks: 0,
            meta: meta.clone(),
            last: Round::default(),
            rounds: 0,
            broken: false,
        };
        let header = file_header();
        writer.put(&header)?;
        writer.digest.update(&header);
        let json = serde_json::to_vec(meta).map_err(|cause| TraceFault::Json(cause).at(0))?;
        TraceFault::limit("block length", json.len() as u64, META_BYTES_MAX)
            .map_err(|fault| fault.at(writer.offset).within(BlockKind::Meta.of(0)))?;
        writer.put_block(BlockKind::Meta, 0, &json)?;
        Ok(writer)
    }

    /// Rounds written so far, the first copy counted.
    #[must_use]
    pub const fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Appends a round.
    ///
    /// # Errors
    /// `out` failed, and the writer is then unusable; or the round contradicts itself or the META,
    /// and nothing was written. A reader with the default [`Limits`](crate::Limits) may refuse a
    /// round that exceeds them.
    pub fn round(&mut self, round: &Round) -> Result<(), TraceError> {
        self.check(round).map_err(|fault| fault.at(self.offset))?;
        self.append(round.clone())
    }

    /// The same for a round that was checked.
    pub(crate) fn append(&mut self, round: Round) -> Result<(), TraceError> {
        let number = self.rounds;
        self.put_block(BlockKind::Roots, number, &roots_payload(&round))?;
        if let Some(bitmap) = &round.log_dirty {
            let mut payload = Vec::new();
            put_bitmap(&mut payload, bitmap);
            self.put_block(BlockKind::LogDirty, number, &payload)?;
        }
        self.put_block(BlockKind::Upper, number, &upper_payload(&self.meta, &self.last, &round))?;
        self.put_block(BlockKind::Leaves, number, &leaves_payload(&self.last, &round))?;
        let mut payload = Vec::new();
        put_column(&mut payload, &self.last.entries, &round.entries);
        self.put_block(BlockKind::Entries, number, &payload)?;
        self.put_block(BlockKind::M2p, number, &m2p_payload(&self.last, &round))?;
        self.last = round;
        self.rounds += 1;
        Ok(())
    }

    /// Ends the trace and returns the flushed target.
    ///
    /// # Errors
    /// `out` failed, or no round was written.
    pub fn finish(mut self) -> Result<W, TraceError> {
        TraceFault::rule("a first copy before the end", self.rounds > 0)
            .map_err(|fault| fault.at(self.offset))?;
        let words = [self.rounds, self.blocks, self.digest.value()];
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put_block(BlockKind::End, self.rounds, &payload)?;
        self.out.flush().map_err(|cause| TraceFault::Io(cause).at(self.offset))?;
        Ok(self.out)
    }

    fn check(&self, round: &Round) -> Result<(), TraceFault> {
        let expected = u64::from(self.rounds > 0);
        let found = u64::from(round.log_dirty.is_some());
        TraceFault::same("number of log-dirty bitmaps", found, expected)?;
        let all_fit = round.entries.iter().all(|&entry| fits(self.meta.width, entry));
        TraceFault::rule("entries of the guest's width, widened", all_fit)?;
        round.check(&self.meta, None).map_err(|broken| broken.fault)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), TraceError> {
        TraceFault::rule("no write after a failed one", !self.broken)
            .map_err(|fault| fault.at(self.offset))?;
        self.out.write_all(bytes).map_err(|cause| {
            self.broken = true;
            TraceFault::Io(cause).at(self.offset)
        })?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn put_block(&mut self, kind: BlockKind, round: u64, payload: &[u8]) -> Result<(), TraceError> {
        let length = payload.len() as u64;
        let header = BlockHeader { kind: kind as u32, round, length };
        let bytes = header.encode(header.crc(payload));
        self.put(&bytes)?;
        self.put(payload)?;
        self.put(&[0; 8][..padding_bytes(length) as usize])?;
        self.digest.update(&bytes);
        self.blocks += 1;
        Ok(())
    }
}

impl Writer<BufWriter<StagedFile>> {
    /// Begins a trace in a file that appears at `path` only on [`Writer::commit`].
    ///
    /// # Errors
    /// As [`StagedFile::create`].
    pub fn create(path: &Path, meta: &Meta) -> Result<Self, TraceError> {
        let staged = StagedFile::create(path).map_err(|cause| TraceFault::Io(cause).at(0))?;
        Self::new(BufWriter::new(staged), meta)
    }

    /// Ends the trace and returns the complete file, which has no name yet.
    ///
    /// # Errors
    /// As [`Writer::finish`].
    pub fn finish_file(self) -> Result<StagedFile, TraceError> {
        let offset = self.offset;
        let file = self.finish()?.into_inner();
        file.map_err(|error| TraceFault::Io(error.into_error()).at(offset))
    }

    /// Ends the trace and gives the file its name.
    ///
    /// # Errors
    /// As [`Writer::finish`] and [`StagedFile::commit`].
    pub fn commit(self) -> Result<(), TraceError> {
        let offset = self.offset;
        self.finish_file()?.commit().map_err(|cause| TraceFault::Commit(cause).at(offset))
    }
}

fn roots_payload(round: &Round) -> Vec<u8> {
    let words = |r: &Roots| [r.pfn_count, r.frame_list_list, r.p2m_cr3, r.p2m_vaddr, r.generation];
    let all = [words(&round.before), words(&round.after)];
    all.as_flattened().iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Runs of a column against the one of the round before, where new positions count as none.
fn put_column(out: &mut Vec<u8>, old: &[u64], new: &[u64]) {
    put_runs(out, new.len(), |i| old.get(i).copied().unwrap_or(NONE), |i| new[i]);
}

fn leaves_payload(last: &Round, round: &Round) -> Vec<u8> {
    let mut payload = Vec::new();
    put_varint(&mut payload, round.leaf_mfns.len() as u64);
    put_column(&mut payload, &last.leaf_mfns, &round.leaf_mfns);
    put_column(&mut payload, &last.leaf_pfns, &round.leaf_pfns);
    payload
}

/// The three columns of a list of upper frames: structure and level, mfn, pfn.
pub(crate) fn upper_columns(upper: &[UpperFrame]) -> [Vec<u64>; 3] {
    let place = |frame: &UpperFrame| match frame.structure {
        Structure::Table => u64::from(frame.level),
        Structure::Tree => TREE_PLACE + u64::from(frame.level),
    };
    [
        upper.iter().map(place).collect(),
        upper.iter().map(|frame| frame.mfn.0).collect(),
        upper.iter().map(|frame| frame.pfn.map_or(NONE, |pfn| pfn.0)).collect(),
    ]
}

/// Added to the level of a tree frame, to distinguish it from a page table's.
pub(crate) const TREE_PLACE: u64 = 16;

fn upper_payload(meta: &Meta, last: &Round, round: &Round) -> Vec<u8> {
    let mut payload = Vec::new();
    put_varint(&mut payload, round.upper.len() as u64);
    let (old, new) = (upper_columns(&last.upper), upper_columns(&round.upper));
    for (old, new) in old.iter().zip(&new) {
        put_column(&mut payload, old, new);
    }
    let known: HashMap<u64, &Arc<Leaf>> =
        last.upper.iter().map(|frame| (frame.mfn.0, &frame.content)).collect();
    let zeros = Arc::new(Leaf::default());
    let (mut contents, mut count, mut next) = (Vec::new(), 0, 0);
    for (position, frame) in round.upper.iter().enumerate() {
        let old = known.get(&frame.mfn.0).copied().unwrap_or(&zeros);
        if **old == *frame.content {
            continue;
        }
        put_varint(&mut contents, (position - next) as u64);
        let of = |content: &Leaf, i| lane(frame.structure, meta.width, content, i);
        let length = lanes(frame.structure, meta.width);
        put_runs(&mut contents, length, |i| of(old, i), |i| of(&frame.content, i));
        next = position + 1;
        count += 1;
    }
    put_varint(&mut payload, count);
    payload.append(&mut contents);
    payload
}

fn m2p_payload(last: &Round, round: &Round) -> Vec<u8> {
    let (old, new) = (&last.exceptions, &round.exceptions);
    let mut changes: Vec<(u64, u64)> =
        old.keys().filter(|mfn| !new.contains_key(mfn)).map(|&mfn| (mfn, 0)).collect();
    let changed = new.iter().filter(|&(mfn, pfn)| old.get(mfn) != Some(pfn));
    changes.extend(changed.map(|(&mfn, pfn)| (mfn, pfn.map_or(1, |pfn| pfn + 2))));
    changes.sort_unstable();
    let mut payload = Vec::new();
    put_varint(&mut payload, changes.len() as u64);
    let mut next = 0;
    for (mfn, code) in changes {
        put_varint(&mut payload, mfn - next);
        put_varint(&mut payload, code);
        next = mfn + 1;
    }
    payload
}
