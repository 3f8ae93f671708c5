// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads a payload: every read is checked, every fault has its byte of the file.
//! Not here: the meaning of the numbers, the budget (`runs`, `rounds`).
//! Units: offsets in bytes of the file; varints as in `format`.
//! Threads: one.
//! Source: own.

use crate::error::{TraceError, TraceFault};

/// Appends a varint in its shortest form.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A signed distance as a number that is small if the distance is.
pub(crate) const fn zigzag(distance: u64) -> u64 {
    (distance << 1) ^ ((distance as i64 >> 63) as u64)
}

/// The reverse of [`zigzag`].
pub(crate) const fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// A place in a payload.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
    base: u64,
}

impl<'b> Cursor<'b> {
    /// Begins at the first byte of `bytes`, which is byte `base` of the file.
    pub(crate) const fn new(bytes: &'b [u8], base: u64) -> Self {
        Self { bytes, at: 0, base }
    }

    /// The byte of the file that is next.
    pub(crate) const fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Bytes that are left.
    pub(crate) const fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Places a fault here.
    pub(crate) fn check(&self, result: Result<(), TraceFault>) -> Result<(), TraceError> {
        result.map_err(|fault| fault.at(self.offset()))
    }

    /// The next `length` bytes.
    pub(crate) fn take(&mut self, what: &'static str, length: u64) -> Result<&'b [u8], TraceError> {
        let left = self.left();
        match usize::try_from(length) {
            Ok(length) if length <= left => {
                let bytes = &self.bytes[self.at..self.at + length];
                self.at += length;
                Ok(bytes)
            }
            _ => {
                let short = TraceFault::Short { what, needed: length, left: left as u64 };
                Err(short.at(self.offset()))
            }
        }
    }

    /// A little-endian u32.
    pub(crate) fn word32(&mut self, what: &'static str) -> Result<u32, TraceError> {
        let bytes = self.take(what, 4)?;
        Ok(bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte)))
    }

    /// A little-endian u64.
    pub(crate) fn word64(&mut self, what: &'static str) -> Result<u64, TraceError> {
        let bytes = self.take(what, 8)?;
        Ok(bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)))
    }

    /// A varint. A longer form than needed is an error.
    pub(crate) fn varint(&mut self, what: &'static str) -> Result<u64, TraceError> {
        let start = self.offset();
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(what, 1)?[0];
            let bits = u64::from(byte & 0x7f);
            let fits = bits << shift >> shift == bits;
            let shortest = bits != 0 || shift == 0 || byte & 0x80 != 0;
            TraceFault::rule("a varint of 64 bits in its shortest form", fits && shortest)
                .map_err(|fault| fault.at(start))?;
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(TraceFault::Malformed { expected: "a varint of at most 10 bytes" }.at(start))
    }

    /// Zeros up to a multiple of 8.
    pub(crate) fn padding(&mut self, length: u64) -> Result<(), TraceError> {
        let start = self.offset();
        let zeros = self.take("padding", length)?.iter().all(|&byte| byte == 0);
        TraceFault::rule("zeros as padding", zeros).map_err(|fault| fault.at(start))
    }

    /// Checks that nothing is left.
    pub(crate) fn end(&self) -> Result<(), TraceError> {
        self.check(TraceFault::same("bytes after the last number", self.left() as u64, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_round_trip(value: u64, shift in 0_u32..64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut cursor = Cursor::new(&bytes, 0);
            prop_assert_eq!(cursor.varint("number").expect("reads"), value);
            prop_assert!(cursor.end().is_ok());
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn zigzag_keeps_small_distances_small() {
        let of = |distance: i64| zigzag(distance as u64);
        assert_eq!(
            [0, -1, 1, -2, i64::MAX, i64::MIN].map(of),
            [0, 1, 2, 3, u64::MAX - 1, u64::MAX]
        );
    }

    #[test]
    fn only_the_shortest_form_is_read() {
        let read = |bytes: &[u8]| Cursor::new(bytes, 100).varint("number");
        assert_eq!(read(&[0]).expect("zero"), 0);
        assert!(read(&[0x80, 0]).is_err());
        let top = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(read(&top).expect("all ones"), u64::MAX);
        assert!(read(&[0xff; 11]).is_err());
        let mut over = top;
        over[9] = 2;
        assert!(read(&over).is_err());
        assert_eq!(read(&[0x80]).expect_err("cut").offset, 101);
    }

    #[test]
    fn reads_end_where_the_payload_ends() {
        let mut cursor = Cursor::new(&[1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9], 8);
        assert_eq!(cursor.word32("a").expect("reads"), 1);
        assert_eq!(cursor.word64("b").expect("reads"), 2);
        assert!(cursor.end().is_err());
        let error = cursor.take("c", u64::MAX).expect_err("too long");
        assert_eq!(error.to_string(), "byte 20: c needs 18446744073709551615 bytes, 1 are left");
        assert!(cursor.padding(1).is_err());
    }
}
