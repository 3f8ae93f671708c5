// SPDX-License-Identifier: MIT OR Apache-2.0
//! AVX-512: a line is one register.
//! Not here: the loops (`lines`).
//! Units: as in `lines`.
//! Threads: pure.
//! Source: Intel SDM; only AVX512F is used, and only AVX512F is required.

#![expect(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "vectors over live memory: one condition, the processor's features; docs/safety.md"
)]

use std::arch::asm;
use std::arch::x86_64::*;

use super::lines::{self, Frames, Lines, Predict};
use super::vectors::vectors;
use crate::leaf::LeafMask;

vectors!(Avx512, is_x86_feature_detected, "avx512f");

/// A line of live memory: eight loads of 64 bits, made by one instruction.
///
/// # Safety
/// AVX512F; 64 readable bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(line: *const u8) -> __m512i {
    let words;
    // SAFETY: the caller's. The instruction writes one register and no flags.
    unsafe {
        asm!("vmovdqu64 {words}, zmmword ptr [{line}]",
            words = out(zmm_reg) words, line = in(reg) line,
            options(nostack, preserves_flags, readonly));
    }
    words
}

enum Avx512 {}

impl Lines for Avx512 {
    type Line = __m512i;

    #[inline(always)]
    unsafe fn load(line: *const u8) -> __m512i {
        // SAFETY: the trait's.
        unsafe { load(line) }
    }

    #[inline(always)]
    unsafe fn own(line: *const u8) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_loadu_si512(line.cast()) }
    }

    #[inline(always)]
    unsafe fn store(line: __m512i, into: *mut u8) {
        // SAFETY: the trait's.
        unsafe { _mm512_storeu_si512(into.cast(), line) };
    }

    #[inline(always)]
    unsafe fn splat64(word: u64) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_set1_epi64(word as i64) }
    }

    #[inline(always)]
    unsafe fn splat32(word: u64) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_set1_epi32(word as i32) }
    }

    #[inline(always)]
    unsafe fn add64(line: __m512i, by: __m512i) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_add_epi64(line, by) }
    }

    #[inline(always)]
    unsafe fn add32(line: __m512i, by: __m512i) -> __m512i {
        // SAFETY: the trait's.
        unsafe { _mm512_add_epi32(line, by) }
    }

    #[inline(always)]
    unsafe fn unpack(low: *const u32, high: u32) -> __m512i {
        // SAFETY: the trait's, and 32 readable bytes.
        unsafe {
            let low = _mm512_cvtepu32_epi64(_mm256_loadu_si256(low.cast()));
            let invalid = _mm512_cmpeq_epi64_mask(low, _mm512_set1_epi64(0xffff_ffff));
            let high = _mm512_set1_epi64((u64::from(high) << 32) as i64);
            _mm512_mask_mov_epi64(_mm512_or_si512(low, high), invalid, _mm512_set1_epi64(-1))
        }
    }

    #[inline(always)]
    unsafe fn unequal64(live: __m512i, predicted: __m512i) -> u64 {
        // SAFETY: the trait's.
        u64::from(unsafe { _mm512_cmpneq_epi64_mask(live, predicted) })
    }

    #[inline(always)]
    unsafe fn unequal32(live: __m512i, predicted: __m512i) -> u64 {
        // SAFETY: the trait's.
        u64::from(unsafe { _mm512_cmpneq_epi32_mask(live, predicted) })
    }

    #[inline(always)]
    unsafe fn compare<const SLOTS: usize>(
        frames: Frames<'_>,
        predict: impl Predict<Self>,
    ) -> LeafMask {
        // SAFETY: the trait's.
        unsafe { lines::each::<Self, _, SLOTS>(frames, predict) }
    }
}
