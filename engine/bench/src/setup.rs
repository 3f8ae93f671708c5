// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all figures of one run have in common: the guest's size, the threads, what is forced.
//! Not here: where it comes from (the command line).
//! Units: bytes of guest memory; leaves of 512 entries, a 64-bit guest's.
//! Threads: the pool is the one that all sides use, figures of one thread apart.
//! Source: none.

use p2mtrack::diff::Kernel;
use p2mtrack::frame::FRAME_BYTES;
use p2mtrack::shadow::Forms;

use crate::pool::Pool;

/// Bytes of live p2m that one measured pass looks at, at least: less is looked at several times, up
/// to 64.
pub const PASS_BYTES: usize = 256 << 20;

/// Looks of a pass, at most: guests that small are for trying things out.
const LOOKS_MAX: usize = 64;

/// Bytes of live p2m that are compared from end to end, at most: many times what any cache holds,
/// and with copies and shadow beside it still a part of the machine.
const WHOLE_BYTES_MAX: usize = 2 << 30;

/// One run of some figures.
#[derive(Debug)]
pub struct Setup {
    /// The guest's memory.
    pub guest_bytes: u64,
    /// The kernel that is measured.
    pub kernel: Kernel,
    /// The form of the shadow that figures are measured with that do not say their own.
    pub forms: Forms,
    /// As [`PASS_BYTES`]; tests have less time.
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

    /// How often a pass looks at so many leaves.
    #[must_use]
    pub fn repeats(&self, leaves: usize) -> usize {
        (self.pass_bytes / FRAME_BYTES).div_ceil(leaves.max(1)).clamp(1, LOOKS_MAX)
    }
}
