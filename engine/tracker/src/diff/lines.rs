// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines of 64 bytes: the operations of an instruction set on one, and the loops over a frame.
//! Not here: instructions (`avx2`, `avx512`), or what a form expects in the lines (`vectors`).
//! Units: 64 lines per leaf, `SLOTS` of 8 or 16 per line; bit i of a line's mask is its slot i.
//! Threads: pure; other threads may write the live frame at any time.
//! Source: `docs/decisions/0011`: why live lines are read by `asm!`; memchr's `arch/generic`.

#![expect(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "vectors over live memory: one condition, the processor's features; docs/safety.md"
)]

use std::marker::PhantomData;
use std::ops::Range;

use crate::form::Step;
use crate::frame::FRAME_BYTES;
use crate::guest::{Ahead, GuestLeaf};
use crate::leaf::{Leaf, LeafMask};
use crate::prefetch::prefetch;

/// Bytes in a line.
pub(super) const LINE_BYTES: usize = 64;
/// Lines in a frame.
pub(super) const FRAME_LINES: usize = FRAME_BYTES / LINE_BYTES;

/// The operations of an instruction set on lines.
///
/// # Safety
/// The processor has the features of the kernel. Lines are readable for 64 bytes.
pub(super) trait Lines: Sized {
    /// A line in registers.
    type Line: Copy;

    /// Reads a line that other threads may write.
    unsafe fn load(line: *const u8) -> Self::Line;
    /// Reads a line that no other thread writes.
    unsafe fn own(line: *const u8) -> Self::Line;
    /// Writes a line that no other thread uses, 64 writable bytes.
    unsafe fn store(line: Self::Line, into: *mut u8);
    /// One word in all 8 lanes of 64 bits.
    unsafe fn splat64(word: u64) -> Self::Line;
    /// One word in all 16 lanes of 32 bits.
    unsafe fn splat32(word: u64) -> Self::Line;
    /// Adds words of 64 bits.
    unsafe fn add64(line: Self::Line, by: Self::Line) -> Self::Line;
    /// Adds words of 32 bits.
    unsafe fn add32(line: Self::Line, by: Self::Line) -> Self::Line;
    /// Unpacks 8 words, from 32 readable bytes.
    unsafe fn unpack(low: *const u32, high: u32) -> Self::Line;
    /// The 8 words of 64 bits that differ.
    unsafe fn unequal64(live: Self::Line, predicted: Self::Line) -> u64;
    /// The 16 words of 32 bits that differ.
    unsafe fn unequal32(live: Self::Line, predicted: Self::Line) -> u64;
    /// Compares all lines of a frame, in the faster way: [`each`] or [`together`].
    unsafe fn compare<const SLOTS: usize>(
        frames: Frames<'_>,
        predict: impl Predict<Self>,
    ) -> LeafMask;
}

/// What [`together`] needs beside [`Lines`].
///
/// # Safety
/// As of [`Lines`].
pub(super) trait Together: Lines {
    /// `found` with the bits in which two lines differ.
    unsafe fn gather(found: Self::Line, live: Self::Line, predicted: Self::Line) -> Self::Line;
    /// Whether any bit is set.
    unsafe fn any(found: Self::Line) -> bool;
}

/// What a form predicts, line by line. A copy continues where the original is.
pub(super) trait Predict<L: Lines>: Copy {
    /// Lines of the later frame, from its first one, that were prefetched when this was made.
    const PREFETCHED: usize = 0;

    /// The next line; `line` is its number, first that of the line where the form begins.
    ///
    /// # Safety
    /// The processor has the features of `L`; `line` is below 64.
    unsafe fn next(&mut self, line: usize) -> L::Line;
}

/// A frame to be compared, and a later one, whose lines are prefetched meanwhile.
#[derive(Clone, Copy)]
pub(super) struct Frames<'a> {
    /// Readable for 4,096 bytes during `'a`.
    live: *const u8,
    ahead: *const u8,
    lent: PhantomData<&'a Leaf>,
}

impl<'a> Frames<'a> {
    /// Live guest memory.
    pub(super) fn live(live: GuestLeaf<'a>, ahead: Ahead<'_>) -> Self {
        if let Some(page) = ahead.page {
            prefetch(page.as_ptr());
        }
        // A prefetch of the frame that is being read costs nothing.
        let ahead = ahead.lines.unwrap_or(live).as_ptr();
        Self { live: live.as_ptr(), ahead, lent: PhantomData }
    }

    /// A private copy.
    pub(super) fn own(copy: &'a Leaf) -> Self {
        let copy = copy.words.as_ptr().cast();
        Self { live: copy, ahead: copy, lent: PhantomData }
    }

    /// Prefetches a line of the later frame.
    #[inline(always)]
    pub(super) fn prefetch(self, line: usize) {
        prefetch(self.ahead.wrapping_add(line * LINE_BYTES));
    }

    /// A line that is read for the first time. Of the later frame, the lines that are not yet
    /// `prefetched` are prefetched evenly meanwhile.
    #[inline(always)]
    fn line(self, line: usize, prefetched: usize) -> *const u8 {
        self.prefetch(line + prefetched - line * prefetched / FRAME_LINES);
        self.near(line)
    }

    /// A line that is read again.
    #[inline(always)]
    fn near(self, line: usize) -> *const u8 {
        self.live.wrapping_add(line * LINE_BYTES)
    }
}

/// Finds the slots that differ line by line: for instruction sets where that is one instruction.
///
/// # Safety
/// The processor has the features of `L`.
#[inline(always)]
pub(super) unsafe fn each<L: Lines, P: Predict<L>, const SLOTS: usize>(
    frames: Frames<'_>,
    mut predict: P,
) -> LeafMask {
    let mut mask = LeafMask::NONE;
    for (index, word) in mask.words[..SLOTS].iter_mut().enumerate() {
        let lines = lines_of::<SLOTS>(index);
        // SAFETY: the caller's; the lines are the frame's.
        unsafe {
            let live = |line| frames.line(line, P::PREFETCHED);
            unequal::<L, SLOTS>(lines, &mut predict, live, word);
        }
    }
    mask
}

/// Checks the lines of each word of the mask together, and finds the slots that differ only where
/// something does.
///
/// # Safety
/// The processor has the features of `L`.
#[inline(always)]
pub(super) unsafe fn together<L: Together, P: Predict<L>, const SLOTS: usize>(
    frames: Frames<'_>,
    mut predict: P,
) -> LeafMask {
    let mut mask = LeafMask::NONE;
    for (index, word) in mask.words[..SLOTS].iter_mut().enumerate() {
        // SAFETY: the caller's; the lines are the frame's.
        unsafe {
            let (mut found, mut again) = (L::splat64(0), predict);
            for line in lines_of::<SLOTS>(index) {
                let live = L::load(frames.line(line, P::PREFETCHED));
                found = L::gather(found, live, predict.next(line));
            }
            if L::any(found) {
                let lines = lines_of::<SLOTS>(index);
                unequal::<L, SLOTS>(lines, &mut again, |line| frames.near(line), word);
            }
        }
    }
    mask
}

/// The lines whose slots are in a word of the mask.
const fn lines_of<const SLOTS: usize>(word: usize) -> Range<usize> {
    let lines = 64 / SLOTS;
    word * lines..(word + 1) * lines
}

/// Finds the slots that differ in the lines of one word of the mask. Each line's byte or two are
/// stored in place: to combine them in a register takes as long as the comparison.
#[inline(always)]
unsafe fn unequal<L: Lines, const SLOTS: usize>(
    lines: Range<usize>,
    predict: &mut impl Predict<L>,
    live: impl Fn(usize) -> *const u8,
    word: &mut u64,
) {
    let bytes = bytemuck::bytes_of_mut(word);
    for line in lines {
        // SAFETY: the caller's.
        let slots = unsafe {
            let (live, predicted) = (L::load(live(line)), predict.next(line));
            if SLOTS == 8 { L::unequal64(live, predicted) } else { L::unequal32(live, predicted) }
        };
        let at = line * (SLOTS / 8) % 8;
        bytes[at..at + SLOTS / 8].copy_from_slice(&slots.to_le_bytes()[..SLOTS / 8]);
    }
}

/// Multiples of each step: what the slots of a line add to its first word.
#[repr(C, align(64))]
struct Ramps<T, const SLOTS: usize>([[T; SLOTS]; 3]);

static RAMPS_64: Ramps<u64, 8> = {
    let mut ramps = [[0; 8]; 3];
    let mut slot = 0;
    while slot < 8 {
        ramps[Step::Up as usize][slot] = slot as u64;
        ramps[Step::Down as usize][slot] = (slot as u64).wrapping_neg();
        slot += 1;
    }
    Ramps(ramps)
};

static RAMPS_32: Ramps<u32, 16> = {
    let mut ramps = [[0; 16]; 3];
    let mut slot = 0;
    while slot < 16 {
        ramps[Step::Up as usize][slot] = slot as u32;
        ramps[Step::Down as usize][slot] = (slot as u32).wrapping_neg();
        slot += 1;
    }
    Ramps(ramps)
};

/// The lines of a segment, in order.
pub(super) struct Run<L: Lines, const SLOTS: usize> {
    line: L::Line,
    /// The difference from one line to the next.
    by: L::Line,
}

impl<L: Lines, const SLOTS: usize> Clone for Run<L, SLOTS> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L: Lines, const SLOTS: usize> Copy for Run<L, SLOTS> {}

impl<L: Lines, const SLOTS: usize> Run<L, SLOTS> {
    /// # Safety
    /// The processor has the features of `L`.
    #[inline(always)]
    pub(super) unsafe fn new(first: u64, step: Step) -> Self {
        let by = step.delta().wrapping_mul(SLOTS as u64);
        // SAFETY: the caller's; a ramp is a line.
        unsafe {
            if SLOTS == 8 {
                let ramp = L::own(RAMPS_64.0[step as usize].as_ptr().cast());
                Self { line: L::add64(L::splat64(first), ramp), by: L::splat64(by) }
            } else {
                let ramp = L::own(RAMPS_32.0[step as usize].as_ptr().cast());
                Self { line: L::add32(L::splat32(first), ramp), by: L::splat32(by) }
            }
        }
    }

    /// Returns the line, and moves on to the next.
    ///
    /// # Safety
    /// The processor has the features of `L`.
    #[inline(always)]
    pub(super) unsafe fn advance(&mut self) -> L::Line {
        let line = self.line;
        // SAFETY: the caller's.
        self.line =
            unsafe { if SLOTS == 8 { L::add64(line, self.by) } else { L::add32(line, self.by) } };
        line
    }
}

impl<L: Lines, const SLOTS: usize> Predict<L> for Run<L, SLOTS> {
    #[inline(always)]
    unsafe fn next(&mut self, _: usize) -> L::Line {
        // SAFETY: the caller's.
        unsafe { self.advance() }
    }
}
