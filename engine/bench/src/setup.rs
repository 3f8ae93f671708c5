// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all figures of one run have in common: the guest's size, the threads, forced kernel and
//! forms.
//! Not here: the command line that it comes from.
//! Units: bytes of guest memory; leaves of 512 entries, a 64-bit guest's.
//! Threads: all sides use the pool, except in figures of one thread.
//! Source: none.

use p2mtrack::diff::Kernel;
use p2mtrack::frame::FRAME_BYTES;
use p2mtrack::shadow::Forms;

use crate::pool::Pool;

/// Bytes of live p2m that one measured pass compares, at least: a smaller p2m is compared several
/// times, up to 64.
pub const PASS_BYTES: usize = 256 << 20;

/// Repeats of a pass, at most: smaller guests are only for trying things out.
const REPEATS_MAX: usize = 64;

/// Bytes of live p2m that are compared from end to end, at most: many times the size of any cache,
/// and with copies and shadow only a part of the machine's memory.
const WHOLE_BYTES_MAX: usize = 2 << 30;

/// One run of some figures.
#[derive(Debug)]
pub struct Setup {
    /// The guest's memory.
    pub guest_bytes: u64,
    /// The kernel that is measured.
    pub kernel: Kernel,
    /// The forms of the shadow for figures that have none of their own.
    pub forms: Forms,
    /// [`PASS_BYTES`]; less in tests.
    pub pass_bytes: usize,
    /// The threads.
    pub pool: Pool,
}

impl Setup {
    /// Leaves of the guest's whole p2m.
    #[must_use]
    pub const fn leaves(&self) -> usize {
        (self.guest_bytes / (FRAME_BYTES * FRAME_BYTES / 8) as u64) as usize
    }

    /// Leaves of a p2m that is compared from end to end.
    #[must_use]
    pub fn whole_leaves(&self) -> usize {
        self.leaves().min(WHOLE_BYTES_MAX / FRAME_BYTES)
    }

    /// How often a pass compares so many leaves.
    #[must_use]
    pub fn repeats(&self, leaves: usize) -> usize {
        (self.pass_bytes / FRAME_BYTES).div_ceil(leaves.max(1)).clamp(1, REPEATS_MAX)
    }
}
