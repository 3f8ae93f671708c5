// SPDX-License-Identifier: MIT OR Apache-2.0
//! Brings a cache line near that will be written soon, so that the misses of scattered lines overlap.
//! Not here: live guest memory, whose kernels fetch for themselves (`diff`).
//! Units: lines of 64 bytes.
//! Threads: any; nothing is read or written.
//! Source: x86's `prefetcht0`; elsewhere nothing is done, and nothing depends on it.

#![cfg_attr(
    all(target_arch = "x86_64", not(miri), not(loom)),
    expect(unsafe_code, reason = "the intrinsic is unsafe to name; docs/safety.md")
)]

use crate::sync::AtomicU64;

/// Asks for the line of a word.
#[inline(always)]
pub(crate) fn prefetch(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(word).cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
    let _ = word;
}
