// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads a stream piece by piece, never more than is asked for: what follows may be another
//! reader's.
//! Not here: what the pieces mean (`header`, `record`, `word`), or whether they are right
//! (`check`).
//! Units: bytes; offsets count from the first byte of the outermost container.
//! Threads: one.
//! Source: own. No length is trusted: memory grows with what was read.

use std::io::{self, ErrorKind, Read};

use p2mtrack::leaf::Leaf;

use crate::header::{DOMAIN_HEADER_BYTES, DomainHeader, IMAGE_HEADER_BYTES, ImageHeader, little};
use crate::record::{RECORD_HEADER_BYTES, padding};
use crate::word::Word;

/// Bytes that are read at once of a body whose length only the stream says.
const PIECE_BYTES: usize = 64 << 10;

/// Why a read gave less than was asked for.
#[derive(Debug)]
pub enum ReadFault {
    /// The stream ended.
    Ended {
        /// What was being read.
        what: &'static str,
        /// Whether some of it was there.
        inside: bool,
    },
    /// The operating system.
    Io(io::Error),
}

/// A record's header, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Its number ([`RecordKind`](crate::record::RecordKind)).
    pub number: u32,
    /// Bytes of its body, without padding.
    pub length: u32,
}

/// A stream that is being read.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    offset: u64,
    piece: Box<[u8]>,
}

impl<R: Read> Reader<R> {
    /// Begins at the first byte of `input`.
    pub fn new(input: R) -> Self {
        Self { input, offset: 0, piece: vec![0; PIECE_BYTES].into() }
    }

    /// The byte of the stream that is next.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads until `into` is full.
    ///
    /// # Errors
    /// The stream ended before, or can't be read. What was read is lost.
    pub fn fill(&mut self, what: &'static str, into: &mut [u8]) -> Result<(), ReadFault> {
        let (read, fault) = fill(&mut self.input, into);
        self.offset += read as u64;
        match fault {
            Some(fault) => Err(ReadFault::Io(fault)),
            None if read < into.len() => Err(ReadFault::Ended { what, inside: read > 0 }),
            None => Ok(()),
        }
    }

    /// Reads an image header.
    ///
    /// # Errors
    /// As [`Reader::fill`].
    pub fn image_header(&mut self) -> Result<ImageHeader, ReadFault> {
        let mut bytes = [0; IMAGE_HEADER_BYTES];
        self.fill("the image header", &mut bytes)?;
        Ok(ImageHeader::decode(&bytes))
    }

    /// Reads a domain header.
    ///
    /// # Errors
    /// As [`Reader::fill`].
    pub fn domain_header(&mut self) -> Result<DomainHeader, ReadFault> {
        let mut bytes = [0; DOMAIN_HEADER_BYTES];
        self.fill("the domain header", &mut bytes)?;
        Ok(DomainHeader::decode(&bytes))
    }

    /// Reads a record's header.
    ///
    /// # Errors
    /// As [`Reader::fill`].
    pub fn record_header(&mut self) -> Result<RecordHeader, ReadFault> {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        self.fill("a record's header", &mut bytes)?;
        Ok(RecordHeader { number: little(&bytes[..4]) as u32, length: little(&bytes[4..]) as u32 })
    }

    /// Reads `length` bytes into `into`, which is cleared first and grows as they come.
    ///
    /// # Errors
    /// As [`Reader::fill`].
    pub fn body(
        &mut self,
        what: &'static str,
        length: usize,
        into: &mut Vec<u8>,
    ) -> Result<(), ReadFault> {
        into.clear();
        while into.len() < length {
            let from = into.len();
            into.resize(length.min(from + PIECE_BYTES), 0);
            self.fill(what, &mut into[from..])?;
        }
        Ok(())
    }

    /// Reads `count` words of a PAGE_DATA record into `into`, as [`Reader::body`] does.
    ///
    /// # Errors
    /// As [`Reader::fill`].
    pub fn words(&mut self, count: usize, into: &mut Vec<Word>) -> Result<(), ReadFault> {
        into.clear();
        while into.len() < count {
            let from = into.len();
            into.resize(count.min(from + PIECE_BYTES / size_of::<Word>()), Word::default());
            self.fill(
                "the words of a PAGE_DATA record",
                bytemuck::cast_slice_mut(&mut into[from..]),
            )?;
            for word in &mut into[from..] {
                word.0 = u64::from_le(word.0);
            }
        }
        Ok(())
    }

    /// Reads a page table.
    ///
    /// # Errors
    /// As [`Reader::fill`].
    pub fn table(&mut self, into: &mut Leaf) -> Result<(), ReadFault> {
        self.fill("a page table", bytemuck::cast_slice_mut(&mut into.words))?;
        into.words.iter_mut().for_each(|word| *word = u64::from_le(*word));
        Ok(())
    }

    /// Reads `length` bytes, and forgets them.
    ///
    /// # Errors
    /// As [`Reader::fill`].
    pub fn skip(&mut self, what: &'static str, length: u64) -> Result<(), ReadFault> {
        let mut left = length;
        let mut piece = std::mem::take(&mut self.piece);
        let mut read = Ok(());
        while left > 0 && read.is_ok() {
            let now = left.min(piece.len() as u64) as usize;
            read = self.fill(what, &mut piece[..now]);
            left -= now as u64;
        }
        self.piece = piece;
        read
    }

    /// Reads the padding behind a body of this length; says whether it is zeros.
    ///
    /// # Errors
    /// As [`Reader::fill`].
    pub fn padding(&mut self, length: u32) -> Result<bool, ReadFault> {
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..padding(length)];
        self.fill("a record's padding", bytes)?;
        Ok(bytes.iter().all(|&byte| byte == 0))
    }

    /// Whether nothing is left.
    ///
    /// # Errors
    /// As [`Reader::fill`], but that the stream ends is no error.
    pub fn is_at_end(&mut self) -> Result<bool, ReadFault> {
        match self.fill("nothing", &mut [0]) {
            Ok(()) => Ok(false),
            Err(ReadFault::Ended { .. }) => Ok(true),
            Err(fault) => Err(fault),
        }
    }
}

/// Reads until `into` is full, the input ends, or fails. Returns how many bytes were read.
fn fill(input: &mut impl Read, into: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut read = 0;
    while read < into.len() {
        match input.read(&mut into[read..]) {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
            Err(fault) => return (read, Some(fault)),
        }
    }
    (read, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, and is interrupted before each.
    struct Slow<'b> {
        bytes: &'b [u8],
        interrupted: bool,
    }

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Err(ErrorKind::Interrupted.into());
            }
            let now = 1.min(self.bytes.len()).min(into.len());
            into[..now].copy_from_slice(&self.bytes[..now]);
            self.bytes = &self.bytes[now..];
            Ok(now)
        }
    }

    #[test]
    fn pieces_come_whole_however_slow_the_input_is() {
        let bytes: Vec<u8> = (0..40).collect();
        let mut reader = Reader::new(Slow { bytes: &bytes, interrupted: false });
        let record = reader.record_header().expect("eight bytes");
        assert_eq!(record, RecordHeader { number: 0x0302_0100, length: 0x0706_0504 });
        let mut body = vec![9; 3];
        reader.body("a body", 5, &mut body).expect("five bytes");
        assert_eq!((body.as_slice(), reader.offset()), (&bytes[8..13], 13));
        assert!(!reader.padding(5).expect("three bytes"));
        let mut words = Vec::new();
        reader.words(2, &mut words).expect("two words");
        assert_eq!(words, [Word(0x1716_1514_1312_1110), Word(0x1f1e_1d1c_1b1a_1918)]);
        reader.skip("the rest", 7).expect("seven bytes");
        assert!(!reader.is_at_end().expect("a byte"));
        assert!(reader.is_at_end().expect("nothing"));
    }

    #[test]
    fn an_end_is_told_from_an_end_inside_of_a_piece() {
        for (bytes, inside) in [(0, false), (3, true)] {
            let mut reader = Reader::new(&[1; 3][..bytes]);
            let fault = reader.record_header().expect_err("no header");
            assert!(matches!(fault, ReadFault::Ended { inside: found, .. } if found == inside));
            assert_eq!(reader.offset(), bytes as u64);
        }
    }

    #[test]
    fn memory_grows_with_what_comes() {
        let mut reader = Reader::new(&[0; 100][..]);
        let (mut body, mut words) = (Vec::new(), Vec::new());
        reader.body("a body", 1 << 40, &mut body).expect_err("ends");
        assert!(body.capacity() <= 2 * PIECE_BYTES);
        Reader::new(&[0; 100][..]).words(1 << 40, &mut words).expect_err("ends");
        assert!(words.capacity() <= 2 * PIECE_BYTES / 8);
    }
}
