// SPDX-License-Identifier: MIT OR Apache-2.0
//! The buffer that the log of one round is read into.
//! Not here: what is done with it (`intake::log`), or about pfns that were not read (`intake`).
//! Units: pfns; bits as in `bitmap`. The buffer of a round covers whole leaves of Xen's log, or
//! nothing.
//! Threads: one writer.
//! Source: law 4 of `docs/design.md`: bits that were read are in no other log, so all of them are
//! owed.

use crate::bitmap::{PfnBitmap, bits_within};
use crate::frame::Pfn;

/// A log buffer. It can only be filled: the borrower can't replace it or change its length.
///
/// ```
/// # use p2mtrack::{bitmap::PfnBitmap, frame::Pfn, port::LogBuffer};
/// fn clean(mut into: LogBuffer<'_>) -> u64 {
///     into.set(Pfn(7));
///     into.add(1, &[1 << 5]);
///     into.words_mut()[2] |= 1;
///     into.pfns()
/// }
/// let mut bits = PfnBitmap::new(192);
/// assert_eq!(clean(LogBuffer::over(&mut bits)), 192);
/// assert_eq!(bits.drain(), [Pfn(7), Pfn(69), Pfn(128)]);
/// ```
///
/// ```compile_fail
/// # use p2mtrack::{bitmap::PfnBitmap, port::LogBuffer};
/// fn clean(into: LogBuffer<'_>) -> u64 {
///     into.resize(64); // a bitmap's, not a log buffer's
///     into.pfns()
/// }
/// ```
#[derive(Debug)]
pub struct LogBuffer<'a> {
    bits: &'a mut PfnBitmap,
}

impl<'a> LogBuffer<'a> {
    /// A bitmap as a log buffer, for a caller that calls a port directly.
    pub const fn over(bits: &'a mut PfnBitmap) -> Self {
        Self { bits }
    }

    /// The same buffer, lent by a caller that reads it afterwards.
    pub const fn lend(&mut self) -> LogBuffer<'_> {
        LogBuffer { bits: self.bits }
    }

    /// Number of pfns that the log has to be read for.
    #[must_use]
    pub const fn pfns(&self) -> u64 {
        self.bits.pfns()
    }

    /// Adds a pfn; past the end it does nothing.
    pub fn set(&mut self, pfn: Pfn) {
        self.bits.set(pfn);
    }

    /// Adds the bits of a piece of a log that begins at pfn `64 * first_word`; past the end they
    /// are dropped.
    pub fn add(&mut self, first_word: usize, words: &[u64]) {
        let (pfns, all) = (self.pfns(), self.bits.words_mut().iter_mut().enumerate());
        for ((index, word), &bits) in all.skip(first_word).zip(words) {
            *word |= bits & bits_within(&(0..pfns), index);
        }
    }

    /// All words, one bit per pfn, for writing them at once. Bits past the end have to stay zero.
    #[must_use]
    pub fn words_mut(&mut self) -> &mut [u64] {
        self.bits.words_mut()
    }

    /// A copy of what was written so far.
    #[must_use]
    pub fn copy(&self) -> PfnBitmap {
        self.bits.clone()
    }

    /// A copy after `read` pfns of the log were read: pfns that were not read may be dirty, and are
    /// marked, as the engine does.
    #[must_use]
    pub fn marks(&self, read: u64) -> PfnBitmap {
        let (mut marks, pfns) = (self.copy(), self.pfns());
        let words = marks.words_mut().iter_mut().enumerate();
        for (index, word) in words.skip((read / 64) as usize) {
            *word |= bits_within(&(read..pfns), index);
        }
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_filled_up_to_its_end() {
        let mut bits = PfnBitmap::new(100);
        let mut buffer = LogBuffer::over(&mut bits);
        for pfn in [3, 99, 100, u64::MAX] {
            buffer.lend().set(Pfn(pfn));
        }
        buffer.add(1, &[u64::MAX << 35, u64::MAX]);
        buffer.add(2, &[1]);
        assert_eq!((buffer.pfns(), buffer.words_mut().len()), (100, 2));
        assert_eq!(buffer.copy().drain(), [Pfn(3), Pfn(99)]);
        for (read, first) in [(0, 0), (64, 64), (70, 70), (98, 98), (99, 99)] {
            let mut expected: Vec<_> = (first..100).map(Pfn).collect();
            if first > 3 {
                expected.insert(0, Pfn(3));
            }
            assert_eq!(buffer.marks(read).drain(), expected, "{read}");
        }
        for read in [100, 128, u64::MAX] {
            assert_eq!(buffer.marks(read).drain(), [Pfn(3), Pfn(99)], "{read}");
        }
        buffer.add(0, &[1, 1]);
        assert_eq!(bits.drain(), [Pfn(0), Pfn(3), Pfn(64), Pfn(99)]);
    }
}
