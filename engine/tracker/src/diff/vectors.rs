// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each vector kernel is compiled from: compares a frame's lines with those of its form.
//! Not here: instructions (`avx2`, `avx512`), or which kernel runs (`diff`).
//! Units: as in `lines`.
//! Threads: as in `lines`.
//! Source: the forms are those of `form`.

#![expect(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "vectors over live memory: one condition, the processor's features; docs/safety.md"
)]

use super::lines::{Frames, LINE_BYTES, Lines, Predict, Run};
use super::scratch::{PREFETCHED, Scratch};
use crate::form::{Base, PackedWords, Step};
use crate::frame::{FRAME_BYTES, Width};
use crate::guest::GuestLeaf;
use crate::leaf::{FRAME_WORDS, Leaf, LeafMask};

/// What an instruction set's file provides. All calls need the features that `is_available` checks.
pub(super) struct Vectors {
    /// Whether this processor has the instructions, and the operating system supports them.
    pub(super) is_available: fn() -> bool,
    /// [`diff`].
    pub(super) diff: unsafe fn(Width, Frames<'_>, &Base<'_>) -> LeafMask,
    /// [`fetch`].
    pub(super) fetch: unsafe fn(GuestLeaf<'_>, &mut Leaf),
}

/// The `VECTORS` of a file: the loops, compiled with the same features that `$asks`, a macro of
/// `std`, checks on the processor.
macro_rules! vectors {
    ($lines:ty, $asks:ident, $($feature:tt),+) => {
        pub(super) const VECTORS: $crate::diff::vectors::Vectors = {
            use $crate::{diff::vectors, form::Base, frame::Width, guest::GuestLeaf, leaf};

            $(#[target_feature(enable = $feature)])+
            unsafe fn diff(
                width: Width,
                frames: $crate::diff::lines::Frames<'_>,
                base: &Base<'_>,
            ) -> leaf::LeafMask {
                // SAFETY: the caller's.
                unsafe { vectors::diff::<$lines>(width, frames, base) }
            }

            $(#[target_feature(enable = $feature)])+
            unsafe fn fetch(live: GuestLeaf<'_>, into: &mut leaf::Leaf) {
                // SAFETY: the caller's.
                unsafe { vectors::fetch::<$lines>(live, into) };
            }

            vectors::Vectors { is_available: || $($asks!($feature))&&+, diff, fetch }
        };
    };
}
pub(super) use vectors;

/// Compares a frame with its form.
///
/// # Safety
/// The processor has the features of `L`.
#[inline(always)]
pub(super) unsafe fn diff<L: Lines>(width: Width, frames: Frames<'_>, base: &Base<'_>) -> LeafMask {
    // SAFETY: the caller's.
    unsafe {
        match *base {
            Base::Hole => run::<L>(width, frames, u64::MAX, Step::Zero),
            Base::Affine(all) => run::<L>(width, frames, all.word_at(width, 0), all.step()),
            Base::Packed { high, low } => L::compare::<8>(frames, Packed { high, low }),
            Base::Raw(copy) => compare::<L, _>(width, frames, Words::<0>(&copy.words)),
            Base::Segments { segments, patches } => {
                // Branches on where short runs end can't be predicted.
                let mut scratch = Scratch::new();
                let words = scratch.decode::<L>(width, segments, patches, frames);
                compare::<L, _>(width, frames, Words::<PREFETCHED>(words))
            }
        }
    }
}

/// Copies a frame.
///
/// # Safety
/// The processor has the features of `L`.
#[inline(always)]
pub(super) unsafe fn fetch<L: Lines>(live: GuestLeaf<'_>, into: &mut Leaf) {
    let (live, into) = (live.as_ptr(), into.words.as_mut_ptr().cast::<u8>());
    for at in (0..FRAME_BYTES).step_by(LINE_BYTES) {
        // SAFETY: both are frames, and `at` is a line of them.
        unsafe { L::store(L::load(live.wrapping_add(at)), into.wrapping_add(at)) };
    }
}

/// One segment over the whole leaf.
#[inline(always)]
unsafe fn run<L: Lines>(width: Width, frames: Frames<'_>, first: u64, step: Step) -> LeafMask {
    // SAFETY: the caller's.
    unsafe {
        match width {
            Width::W64 => L::compare::<8>(frames, Run::<L, 8>::new(first, step)),
            Width::W32 => L::compare::<16>(frames, Run::<L, 16>::new(first, step)),
        }
    }
}

#[inline(always)]
unsafe fn compare<L: Lines, P: Predict<L>>(width: Width, frames: Frames<'_>, form: P) -> LeafMask {
    // SAFETY: the caller's.
    unsafe {
        match width {
            Width::W64 => L::compare::<8>(frames, form),
            Width::W32 => L::compare::<16>(frames, form),
        }
    }
}

/// Words packed into half their size.
#[derive(Clone, Copy)]
struct Packed<'a> {
    high: u32,
    low: &'a PackedWords,
}

impl<L: Lines> Predict<L> for Packed<'_> {
    #[inline(always)]
    unsafe fn next(&mut self, line: usize) -> L::Line {
        // SAFETY: the caller's; 64 lines of 8 words are all 512.
        unsafe { L::unpack(self.low.as_ptr().wrapping_add(8 * line), self.high) }
    }
}

/// All words; that many lines of the later frame were prefetched when they were written.
#[derive(Clone, Copy)]
struct Words<'a, const LINES: usize>(&'a [u64; FRAME_WORDS]);

impl<L: Lines, const LINES: usize> Predict<L> for Words<'_, LINES> {
    const PREFETCHED: usize = LINES;

    #[inline(always)]
    unsafe fn next(&mut self, line: usize) -> L::Line {
        // SAFETY: the caller's; 64 lines of 8 words are all 512.
        unsafe { L::own(self.0.as_ptr().cast::<u8>().wrapping_add(line * LINE_BYTES)) }
    }
}
