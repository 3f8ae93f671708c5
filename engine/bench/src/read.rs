// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading, and nothing else: the floor of everything that must read each byte.
//! Not here: comparing.
//! Units: frames of 512 words; the result for a frame is the XOR of its words, so that no read can
//! be optimized away.
//! Threads: pure reads; no thread writes meanwhile.
//! Source: the widest loads of this processor. Prefetching later frames is faster on most machines
//! and slower on some: both are measured, and the faster one is the floor.

#![expect(unsafe_code, reason = "loops that are built for wider registers; docs/safety.md")]

use std::sync::atomic::AtomicU64;

use p2mtrack::leaf::FRAME_WORDS;

/// The words of a frame.
type Frame<W> = [W; FRAME_WORDS];

/// A word of 64 bits.
pub trait Word: private::Sealed {}

impl Word for u64 {}
impl Word for AtomicU64 {}

mod private {
    /// What is laid out as a `u64`.
    pub trait Sealed {}

    impl Sealed for u64 {}
    impl Sealed for super::AtomicU64 {}
}

/// Words that are XOR-ed at once: four registers of the widest kind.
const LANES: usize = 32;

/// The XOR of a frame's words. Of two later frames, prefetches all lines of the first one, and one
/// line of the second one, so that its page tables have been walked when its lines are prefetched.
#[must_use]
pub fn xor<W: Word>(frame: &Frame<W>, [ahead, page]: [Option<&Frame<W>>; 2]) -> u64 {
    if let Some(page) = page {
        fetch(page);
    }
    let words = frame.as_ptr().cast();
    let ahead = ahead.map(|ahead| ahead.as_ptr().cast());
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has it; a frame is 512 words that no thread writes now.
            return unsafe { xor_avx512(words, ahead) };
        }
        if std::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { xor_avx2(words, ahead) };
        }
    }
    // SAFETY: a frame is 512 words that no thread writes now.
    unsafe { xor_words(words, ahead) }
}

/// # Safety
/// `words` is readable for 512 words, which no thread writes meanwhile; the processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn xor_avx512(words: *const u64, ahead: Option<*const u64>) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { xor_words(words, ahead) }
}

/// # Safety
/// `words` is readable for 512 words, which no thread writes meanwhile; the processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn xor_avx2(words: *const u64, ahead: Option<*const u64>) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { xor_words(words, ahead) }
}

/// # Safety
/// `words` is readable for 512 words, which no thread writes meanwhile.
#[inline(always)]
unsafe fn xor_words(words: *const u64, ahead: Option<*const u64>) -> u64 {
    let mut sums = [0_u64; LANES];
    for first in (0..FRAME_WORDS).step_by(LANES) {
        if let Some(ahead) = ahead {
            for line in (first..first + LANES).step_by(8) {
                fetch(ahead.wrapping_add(line));
            }
        }
        for (lane, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise; below 512.
            *sum ^= unsafe { *words.wrapping_add(first + lane) };
        }
    }
    sums.into_iter().fold(0, |all, sum| all ^ sum)
}

/// Prefetches a line, where the processor can.
#[inline(always)]
fn fetch<T>(line: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint, whatever the address is.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        let words: [u64; FRAME_WORDS] =
            std::array::from_fn(|slot| (slot as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let naive = words.iter().fold(0, |all, word| all ^ word);
        let frame = words.map(AtomicU64::new);
        assert_eq!(xor(&frame, [None; 2]), naive);
        assert_eq!(xor(&frame, [Some(&frame); 2]), naive);
        assert_eq!([xor(&words, [None; 2]), xor(&words, [Some(&words); 2])], [naive; 2]);
        let pointer = frame.as_ptr().cast();
        // SAFETY: a frame of the test's own.
        assert_eq!(unsafe { xor_words(pointer, None) }, naive);
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") {
            // SAFETY: as above, and the processor has it.
            assert_eq!(unsafe { xor_avx2(pointer, None) }, naive);
        }
    }
}
