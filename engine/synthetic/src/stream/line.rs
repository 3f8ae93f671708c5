// SPDX-License-Identifier: MIT OR Apache-2.0
//! The line between a simulated sender and its receiver.
//! Not here: what is sent.
//! Units: bytes.
//! Threads: one.
//! Source: none; a model.

use std::io;

use p2mtrack_stream::sink::{Piece, Sink};

/// The sink: bytes that the receiver has not read yet.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) bytes: Vec<u8>,
    /// Bytes that it takes. Of a write with more it takes these, and fails; then it has room again,
    /// for a sender that goes on behind what was cut.
    pub(crate) room: u64,
}

impl Line {
    /// It takes all bytes.
    pub(crate) const fn new() -> Self {
        Self { bytes: Vec::new(), room: u64::MAX }
    }
}

impl Sink for Line {
    fn write(&mut self, pieces: &mut dyn Iterator<Item = Piece<'_>>) -> io::Result<()> {
        let before = self.bytes.len() as u64;
        self.bytes.write(pieces)?;
        let written = self.bytes.len() as u64 - before;
        if let Some(room) = self.room.checked_sub(written) {
            self.room = room;
            return Ok(());
        }
        self.bytes.truncate((before + self.room) as usize);
        self.room = u64::MAX;
        Err(io::ErrorKind::StorageFull.into())
    }
}
