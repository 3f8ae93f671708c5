// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prefetches a cache line that is needed soon, so that the misses of scattered lines overlap.
//! Not here: which lines those are.
//! Units: lines of 64 bytes.
//! Threads: any; nothing is read or written.
//! Source: x86's `prefetcht0`; does nothing elsewhere, and nothing depends on it.

#![cfg_attr(
    all(target_arch = "x86_64", not(miri), not(loom)),
    expect(unsafe_code, reason = "the intrinsic is unsafe to name; docs/safety.md")
)]

/// Prefetches the line of an address, which may be invalid.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
    let _ = at;
}
