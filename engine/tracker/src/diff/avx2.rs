// SPDX-License-Identifier: MIT OR Apache-2.0
//! AVX2: a line is two registers.
//! Not here: the loops (`lines`).
//! Units: as in `lines`.
//! Threads: pure.
//! Source: Intel SDM; AVX2 implies the AVX that is used.

#![expect(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "vectors over live memory: one condition, the processor's features; docs/safety.md"
)]

use std::arch::asm;
use std::arch::x86_64::*;

use super::lines::{self, Frames, Lines, Predict, Together};
use super::vectors::vectors;
use crate::leaf::LeafMask;

vectors!(Avx2, is_x86_feature_detected, "avx2");

/// Half a line of live memory: four loads of 64 bits, made by one instruction.
///
/// # Safety
/// AVX2; 32 readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(half: *const u8) -> __m256i {
    let words;
    // SAFETY: the caller's. The instruction writes one register and no flags.
    unsafe {
        asm!("vmovdqu {words}, ymmword ptr [{half}]",
            words = out(ymm_reg) words, half = in(reg) half,
            options(nostack, preserves_flags, readonly));
    }
    words
}

enum Avx2 {}

impl Lines for Avx2 {
    type Line = [__m256i; 2];

    #[inline(always)]
    unsafe fn load(line: *const u8) -> Self::Line {
        // SAFETY: the trait's.
        unsafe { [load(line), load(line.wrapping_add(32))] }
    }

    #[inline(always)]
    unsafe fn own(line: *const u8) -> Self::Line {
        let half = |at| line.wrapping_add(at).cast();
        // SAFETY: the trait's.
        unsafe { [_mm256_loadu_si256(half(0)), _mm256_loadu_si256(half(32))] }
    }

    #[inline(always)]
    unsafe fn store(line: Self::Line, into: *mut u8) {
        // SAFETY: the trait's.
        unsafe {
            _mm256_storeu_si256(into.cast(), line[0]);
            _mm256_storeu_si256(into.wrapping_add(32).cast(), line[1]);
        }
    }

    #[inline(always)]
    unsafe fn splat64(word: u64) -> Self::Line {
        // SAFETY: the trait's.
        unsafe { [_mm256_set1_epi64x(word as i64); 2] }
    }

    #[inline(always)]
    unsafe fn splat32(word: u64) -> Self::Line {
        // SAFETY: the trait's.
        unsafe { [_mm256_set1_epi32(word as i32); 2] }
    }

    #[inline(always)]
    unsafe fn add64(line: Self::Line, by: Self::Line) -> Self::Line {
        // SAFETY: the trait's.
        unsafe { [_mm256_add_epi64(line[0], by[0]), _mm256_add_epi64(line[1], by[1])] }
    }

    #[inline(always)]
    unsafe fn add32(line: Self::Line, by: Self::Line) -> Self::Line {
        // SAFETY: the trait's.
        unsafe { [_mm256_add_epi32(line[0], by[0]), _mm256_add_epi32(line[1], by[1])] }
    }

    #[inline(always)]
    unsafe fn unpack(low: *const u32, high: u32) -> Self::Line {
        // SAFETY: the trait's, and 32 readable bytes.
        unsafe {
            let high = _mm256_set1_epi64x((u64::from(high) << 32) as i64);
            let half = |low: *const u32| {
                let low = _mm256_cvtepu32_epi64(_mm_loadu_si128(low.cast()));
                let invalid = _mm256_cmpeq_epi64(low, _mm256_set1_epi64x(0xffff_ffff));
                _mm256_or_si256(_mm256_or_si256(low, high), invalid)
            };
            [half(low), half(low.wrapping_add(4))]
        }
    }

    #[inline(always)]
    unsafe fn unequal64(live: Self::Line, predicted: Self::Line) -> u64 {
        // SAFETY: the trait's.
        let equal = |half: usize| unsafe {
            let equal = _mm256_cmpeq_epi64(live[half], predicted[half]);
            _mm256_movemask_pd(_mm256_castsi256_pd(equal)) as u64
        };
        (equal(0) | equal(1) << 4) ^ 0xff
    }

    #[inline(always)]
    unsafe fn unequal32(live: Self::Line, predicted: Self::Line) -> u64 {
        // SAFETY: the trait's.
        let equal = |half: usize| unsafe {
            let equal = _mm256_cmpeq_epi32(live[half], predicted[half]);
            _mm256_movemask_ps(_mm256_castsi256_ps(equal)) as u64
        };
        (equal(0) | equal(1) << 8) ^ 0xffff
    }

    #[inline(always)]
    unsafe fn compare<const SLOTS: usize>(
        frames: Frames<'_>,
        predict: impl Predict<Self>,
    ) -> LeafMask {
        // SAFETY: the trait's.
        unsafe { lines::together::<Self, _, SLOTS>(frames, predict) }
    }
}

impl Together for Avx2 {
    #[inline(always)]
    unsafe fn gather(found: Self::Line, live: Self::Line, predicted: Self::Line) -> Self::Line {
        // SAFETY: the trait's.
        let half = |half: usize| unsafe {
            _mm256_or_si256(found[half], _mm256_xor_si256(live[half], predicted[half]))
        };
        [half(0), half(1)]
    }

    #[inline(always)]
    unsafe fn any(found: Self::Line) -> bool {
        // SAFETY: the trait's.
        unsafe {
            let found = _mm256_or_si256(found[0], found[1]);
            _mm256_testz_si256(found, found) == 0
        }
    }
}
