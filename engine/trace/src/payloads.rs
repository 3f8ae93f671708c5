// SPDX-License-Identifier: MIT OR Apache-2.0
//! The payloads of a trace whose blocks are all there and sound.
//! Not here: the blocks around them (`container`), what they hold (`rounds`).
//! Units: bytes; numbers count from round 0's ROOTS.
//! Threads: may be shared.
//! Source: own; the layout is in `format`.

use crate::bytes::Bytes;
use crate::cursor::Cursor;

/// A trace's bytes, and where its payloads lie in them.
#[derive(Debug)]
pub(crate) struct Payloads<'b> {
    pub(crate) bytes: Bytes<'b>,
    /// First byte and length of each round's payloads, ROOTS first.
    pub(crate) places: Vec<(usize, usize)>,
    pub(crate) rounds: u64,
}

impl Payloads<'_> {
    /// The payload with this number.
    pub(crate) fn cursor(&self, number: usize) -> Cursor<'_> {
        let (start, length) = self.places[number];
        Cursor::new(&self.bytes[start..start + length], start as u64)
    }
}
