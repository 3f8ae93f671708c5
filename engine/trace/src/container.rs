// SPDX-License-Identifier: MIT OR Apache-2.0
//! A trace file as a sequence of blocks: headers, checksums, padding, digest, end.
//! Not here: what payloads hold (`rounds`).
//! Units: bytes; the layout is in `format`.
//! Threads: one.
//! Source: own. The file is untrusted: no length is used before it is checked.

use crate::cursor::Cursor;
use crate::error::{TraceError, TraceFault};
use crate::format::{
    BLOCK_HEADER_BYTES, BlockHeader, BlockKind, Digest, END_BYTES, FILE_HEADER_BYTES, MAGIC,
    VERSION, padding_bytes,
};

/// The file as blocks.
pub(crate) struct Container<'b> {
    cursor: Cursor<'b>,
    digest: Digest,
    blocks: u64,
}

impl<'b> Container<'b> {
    /// Checks the file header.
    pub(crate) fn begin(bytes: &'b [u8]) -> Result<Self, TraceError> {
        let mut cursor = Cursor::new(bytes, 0);
        let header = cursor.take("file header", FILE_HEADER_BYTES as u64)?;
        TraceFault::rule("the first bytes of a p2mtrace file", header[..8] == MAGIC)
            .map_err(|fault| fault.at(0))?;
        let mut fields = Cursor::new(&header[8..], 8);
        let version = fields.word32("version")?;
        TraceFault::same("version", version.into(), VERSION.into()).map_err(|f| f.at(8))?;
        let (found, crc) = (fields.word32("header checksum")?, crc32fast::hash(&header[..12]));
        TraceFault::same("header checksum", found.into(), crc.into()).map_err(|f| f.at(12))?;
        let mut digest = Digest::new();
        digest.update(header);
        Ok(Self { cursor, digest, blocks: 0 })
    }

    /// Whether the next block is the last one.
    pub(crate) fn at_end_block(&self) -> bool {
        let kind = self.cursor.clone().word32("block type");
        kind.is_ok_and(|kind| kind == BlockKind::End as u32)
    }

    /// The payload of the next block, which has to be of this kind and round.
    pub(crate) fn block(
        &mut self,
        kind: BlockKind,
        round: u64,
        length_max: u64,
    ) -> Result<Cursor<'b>, TraceError> {
        let start = self.cursor.offset();
        let bytes = self.cursor.take("block header", BLOCK_HEADER_BYTES as u64)?;
        let mut fields = Cursor::new(bytes, start);
        let found = fields.word32("block type")?;
        TraceFault::same("block type", found.into(), kind as u64).map_err(|f| f.at(start))?;
        let crc = fields.word32("block checksum")?;
        let found = fields.word64("round of a block")?;
        TraceFault::same("round of a block", found, round).map_err(|f| f.at(start + 8))?;
        let length = fields.word64("block length")?;
        TraceFault::limit("block length", length, length_max).map_err(|f| f.at(start + 16))?;
        let base = self.cursor.offset();
        let payload = self.cursor.take("block payload", length)?;
        let expected = BlockHeader { kind: kind as u32, round, length }.crc(payload);
        TraceFault::same("block checksum", crc.into(), expected.into())
            .map_err(|f| f.at(start + 4))?;
        self.cursor.padding(padding_bytes(length))?;
        if kind != BlockKind::End {
            self.digest.update(bytes);
            self.blocks += 1;
        }
        Ok(Cursor::new(payload, base))
    }

    /// Checks the last block, and that nothing follows.
    pub(crate) fn end(mut self, rounds: u64) -> Result<(), TraceError> {
        let place = BlockKind::End.of(rounds);
        let payload = self.block(BlockKind::End, rounds, END_BYTES as u64);
        let mut payload = payload.map_err(|error| error.within(place))?;
        for (what, expected) in [
            ("rounds at the end", rounds),
            ("blocks at the end", self.blocks),
            ("digest", self.digest.value()),
        ] {
            let start = payload.offset();
            let found = payload.word64(what)?;
            TraceFault::same(what, found, expected)
                .map_err(|fault| fault.at(start).within(place))?;
        }
        payload.end()?;
        let trailing = self.cursor.left() as u64;
        self.cursor.check(TraceFault::same("bytes after the last block", trailing, 0))
    }
}
