// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a stream goes to.
//! Not here: what is in it (`writer`).
//! Units: bytes.
//! Threads: one writer.
//! Source: own.

use std::io;

use p2mtrack::frame::FRAME_BYTES;
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;

/// Bytes to be written: the program's own, or a page of live guest memory, which has no Rust
/// reference.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// The program's own bytes.
    Own(&'a [u8]),
    /// A frame of the guest, which may be written meanwhile.
    Live(GuestLeaf<'a>),
}

impl Piece<'_> {
    /// How long it is.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Live(_) => FRAME_BYTES,
        }
    }
}

/// Takes the bytes of a stream in order.
pub trait Sink {
    /// Writes all pieces, one after the other. Each live page is read once.
    ///
    /// # Errors
    /// Not all bytes were written; how many were, is not known.
    fn write(&mut self, pieces: &mut dyn Iterator<Item = Piece<'_>>) -> io::Result<()>;
}

/// Memory takes everything.
impl Sink for Vec<u8> {
    fn write(&mut self, pieces: &mut dyn Iterator<Item = Piece<'_>>) -> io::Result<()> {
        for piece in pieces {
            match piece {
                Piece::Own(bytes) => self.extend_from_slice(bytes),
                Piece::Live(page) => {
                    let mut copy = Leaf::default();
                    page.fetch(&mut copy);
                    self.extend_from_slice(bytemuck::cast_slice(&copy.words));
                }
            }
        }
        Ok(())
    }
}

impl<S: Sink + ?Sized> Sink for &mut S {
    fn write(&mut self, pieces: &mut dyn Iterator<Item = Piece<'_>>) -> io::Result<()> {
        (**self).write(pieces)
    }
}
