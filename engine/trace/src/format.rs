// SPDX-License-Identifier: MIT OR Apache-2.0
//! The trace file, version 1: its layout, and the numbers that name its parts.
//! Not here: how blocks are written (`writer`), read (`reader`), or how numbers are packed
//! (`runs`).
//! Units: little endian throughout; lengths in bytes; blocks begin at multiples of 8.
//! Threads: plain values.
//! Source: own.
//!
//! ```text
//!  0      8      12     16
//!  | magic | version | crc of bytes 0..12 |             file header, 16 bytes
//!
//!  0      4     8       16       24
//!  | type | crc | round | length | payload .. | zeros to a multiple of 8 |
//!            `- crc32 of type, round, length and payload
//!
//!  META                                                  JSON, see `meta`
//!  round 0:    ROOTS            UPPER  LEAVES  ENTRIES  M2P     the first copy
//!  round 1..:  ROOTS LOG_DIRTY  UPPER  LEAVES  ENTRIES  M2P
//!  END                                                   round = number of rounds; nothing follows
//! ```
//!
//! | type | block | payload |
//! |---|---|---|
//! | 1 | META | JSON |
//! | 2 | ROOTS | 10 u64: before CLEAN, then as the walk was made: pfn_count, frame list list, cr3, vaddr, generation |
//! | 3 | LOG_DIRTY | length in pfns, number of stretches, then (pfns to skip, pfns set - 1) each |
//! | 4 | UPPER | number of frames; runs: places; runs: mfns; runs: pfns; changed frames: number, (to skip, runs: content) each |
//! | 5 | LEAVES | number of leaf positions; runs: mfns; runs: pfns |
//! | 6 | ENTRIES | runs: entries in pfn order, leaf after leaf |
//! | 7 | M2P | number of changed exceptions; (mfns to skip, 0 = withdrawn, 1 = none, pfn + 2) each |
//! | 8 | END | u64 rounds, u64 blocks before this one, u64 digest |
//!
//! Numbers in blocks 3 to 7 are varints: seven bits a byte, low first, in their shortest form. A
//! *place* is the level of a page table (1 to 4), or 16 + the level of a tree frame (2 = mid, 3 =
//! top). *Runs* say how a sequence differs from the one of the round before, position by position;
//! positions that are new count as all ones before: number of runs, then for each run the positions
//! to skip, (length - 1) * 4 + step (0 same, 1 up, 2 down by one a position), and the first value
//! as a zigzag distance from the last value of the run before. A frame's content is coded against
//! its own of the round before, or zeros: page tables as 512 words rotated right by 12 bits (the
//! frame number comes first), tree frames as guest words.
//!
//! All ones is "none" for an mfn or pfn, and an invalid entry in either width. *m2p*: a listed
//! frame (LEAVES, UPPER) has the pfn beside it; any other has its exception if there is one; else
//! the lowest pfn whose entry names it.
//!
//! The digest is FNV-1a (64 bits) over the file header and every block header before END: each of
//! those holds the crc of its payload, so that no block can be lost, doubled or exchanged for one
//! of another file.

use crate::error::Place;

/// First bytes of a trace. As in PNG, they are not text, and a transfer as text damages them.
pub const MAGIC: [u8; 8] = *b"\x89p2mt\r\n\x1a";

/// The version that this crate reads and writes.
pub const VERSION: u32 = 1;

/// Bytes of the file header.
pub const FILE_HEADER_BYTES: usize = 16;

/// Bytes of a block header.
pub const BLOCK_HEADER_BYTES: usize = 24;

/// Bytes of a ROOTS payload.
pub const ROOTS_BYTES: usize = 80;

/// Bytes of an END payload.
pub const END_BYTES: usize = 24;

/// Largest META payload.
pub const META_BYTES_MAX: u64 = 1 << 20;

/// The types of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum BlockKind {
    /// What the trace is of.
    Meta = 1,
    /// Roots before and after CLEAN.
    Roots = 2,
    /// What CLEAN returned.
    LogDirty = 3,
    /// The frames of page tables, top and mids.
    Upper = 4,
    /// Where the leaves are.
    Leaves = 5,
    /// What the leaves hold.
    Entries = 6,
    /// Where the m2p differs from the p2m.
    M2p = 7,
    /// The end.
    End = 8,
}

impl BlockKind {
    /// Its name in the format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "META",
            Self::Roots => "ROOTS",
            Self::LogDirty => "LOG_DIRTY",
            Self::Upper => "UPPER",
            Self::Leaves => "LEAVES",
            Self::Entries => "ENTRIES",
            Self::M2p => "M2P",
            Self::End => "END",
        }
    }

    /// The block of a round.
    #[must_use]
    pub const fn of(self, round: u64) -> Place {
        let round = if matches!(self, Self::Meta | Self::End) { None } else { Some(round) };
        Place { block: self.name(), round }
    }
}

/// The blocks of one round, in their order.
#[must_use]
pub const fn round_blocks(round: u64) -> &'static [BlockKind] {
    use BlockKind::{Entries, Leaves, LogDirty, M2p, Roots, Upper};
    match round {
        0 => &[Roots, Upper, Leaves, Entries, M2p],
        _ => &[Roots, LogDirty, Upper, Leaves, Entries, M2p],
    }
}

/// Zeros after a payload of this length.
#[must_use]
pub const fn padding_bytes(payload_bytes: u64) -> u64 {
    payload_bytes.wrapping_neg() % 8
}

/// The header of a block, without its crc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// A [`BlockKind`], not checked.
    pub kind: u32,
    /// The round that the block belongs to.
    pub round: u64,
    /// Bytes of the payload.
    pub length: u64,
}

impl BlockHeader {
    /// crc32 of the header and the payload.
    #[must_use]
    pub fn crc(&self, payload: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.kind.to_le_bytes());
        crc.update(&self.round.to_le_bytes());
        crc.update(&self.length.to_le_bytes());
        crc.update(payload);
        crc.finalize()
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self, crc: u32) -> [u8; BLOCK_HEADER_BYTES] {
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.round.to_le_bytes());
        bytes[16..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }
}

/// The file header's bytes.
#[must_use]
pub fn file_header() -> [u8; FILE_HEADER_BYTES] {
    let mut bytes = [0; FILE_HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// FNV-1a over headers (offset basis and prime of the 64-bit form).
#[derive(Clone, Copy, Debug)]
pub struct Digest(u64);

impl Digest {
    /// Of nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// The digest of what was added.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_as_drawn() {
        let header = file_header();
        assert_eq!(&header[..12], b"\x89p2mt\r\n\x1a\x01\0\0\0");
        let block = BlockHeader { kind: 3, round: 0x0102, length: 0x0304 };
        let bytes = block.encode(0x0a0b_0c0d);
        assert_eq!(bytes[..12], [3, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a, 2, 1, 0, 0]);
        assert_eq!(bytes[16..20], [4, 3, 0, 0]);
        assert_eq!([0, 1, 7, 8, 9].map(padding_bytes), [0, 7, 1, 0, 7]);
        assert_eq!(round_blocks(0).len() + 1, round_blocks(1).len());
    }

    #[test]
    fn digest_is_fnv_1a() {
        let mut digest = Digest::new();
        digest.update(b"foobar");
        assert_eq!(digest.value(), 0x8594_4171_f739_67e8);
    }
}
