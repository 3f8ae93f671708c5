// SPDX-License-Identifier: MIT OR Apache-2.0
//! A buffer in which a comparison decodes segments, and the fast loops that do it.
//! Not here: what a segment is, and how it is decoded to be read (`form`).
//! Units: words as in the leaf; two of 32 bits in one of 64, the lower one first.
//! Threads: one owner.
//! Source: `docs/perf.md`, "Segments": loop ends that no processor predicts cost more than words
//! written twice.

#![expect(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "vector stores: one condition, the processor's features; docs/safety.md"
)]

use std::mem::MaybeUninit;

use super::lines::{FRAME_LINES, Frames, Lines, Run};
use crate::form::{Segment, spans};
use crate::frame::Width;
use crate::leaf::FRAME_WORDS;

/// Lines that are written per turn, also past the end of a segment: the next segment overwrites
/// them. A loop to the end of each segment would be mispredicted.
const STRIDE_LINES: usize = 4;
/// Lines of the later frame that are prefetched meanwhile: else the memory would be idle. The
/// comparison prefetches the rest: a processor waits for about a dozen lines at most.
pub(super) const PREFETCHED: usize = FRAME_LINES / 2;
/// Words of 64 bits in a line.
const LINE_WORDS: usize = 8;

/// Space for a leaf, and for what is written past its end. To zero it would cost a tenth of a
/// comparison.
#[repr(C, align(64))]
pub(super) struct Scratch(MaybeUninit<[u64; FRAME_WORDS + STRIDE_LINES * LINE_WORDS]>);

impl Scratch {
    /// An uninitialized buffer.
    #[inline(always)]
    pub(super) const fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    /// Writes the words of a leaf, and prefetches [`PREFETCHED`] lines of the later frame.
    ///
    /// # Safety
    /// The processor has the features of `L`.
    ///
    /// # Panics
    /// If the segments do not begin with slot 0.
    #[inline(always)]
    pub(super) unsafe fn decode<L: Lines>(
        &mut self,
        width: Width,
        segments: &[u64],
        patches: &[u64],
        frames: Frames<'_>,
    ) -> &[u64; FRAME_WORDS] {
        assert!(segments.first().is_some_and(|&first| Segment(first).slot() == 0));
        // SAFETY: the caller's.
        unsafe {
            match width {
                Width::W64 => self.write::<L, 8>(width, segments, frames),
                Width::W32 => self.write::<L, 16>(width, segments, frames),
            }
        }
        // SAFETY: segments cover the leaf from slot 0 to its end (`spans`): all its words are
        // written.
        let words = unsafe { &mut *self.0.as_mut_ptr().cast::<[u64; FRAME_WORDS]>() };
        for patch in patches.iter().map(|&patch| Segment(patch)) {
            let (slot, word) = (patch.slot(), patch.word(width));
            match width {
                Width::W64 => words[slot] = word,
                Width::W32 => {
                    let halves: &mut [u32] = bytemuck::cast_slice_mut(words);
                    halves[slot] = word as u32;
                }
            }
        }
        words
    }

    #[inline(always)]
    unsafe fn write<L: Lines, const SLOTS: usize>(
        &mut self,
        width: Width,
        segments: &[u64],
        frames: Frames<'_>,
    ) {
        let buffer = self.0.as_mut_ptr().cast::<u8>();
        for (segment, end) in spans(width, segments) {
            // SAFETY: the caller's.
            let mut run = unsafe { Run::<L, SLOTS>::new(segment.word(width), segment.step()) };
            let slots = segment.slot()..end.min(width.entries());
            for at in slots.step_by(STRIDE_LINES * SLOTS) {
                let part = |line: usize| line * PREFETCHED / FRAME_LINES;
                (0..part(STRIDE_LINES)).for_each(|line| frames.prefetch(part(at / SLOTS) + line));
                for line in 0..STRIDE_LINES {
                    let byte = (at + line * SLOTS) * (LINE_WORDS * 8 / SLOTS);
                    // SAFETY: the caller's. `at` is a slot of the leaf, and the buffer has space
                    // past the leaf for all lines that are written from any slot on.
                    unsafe { L::store(run.advance(), buffer.wrapping_add(byte)) };
                }
            }
        }
    }
}
