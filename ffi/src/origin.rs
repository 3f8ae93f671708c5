// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which process created a handle: a word of memory that a child does not inherit.
//! Not here: the error that a child gets (`boundary`).
//! Units: one page, or a process id where the kernel is older than Linux 4.14. A child that shares
//! its parent's memory (vfork) counts as its parent.
//! Threads: written before it is shared, then only read.
//! Source: madvise(2), `MADV_WIPEONFORK`. Reading a process id takes a system call each time, and a
//! child in a pid namespace of its own may have the id of its parent.

#![expect(unsafe_code, reason = "memory by page, and how it is inherited; docs/safety.md")]

use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};

/// The value of the word in the process that created it.
const HERE: u64 = 0x7032_6d74_7261_636b;
/// The size of the mapping, which the kernel rounds up to a page.
const BYTES: usize = size_of::<AtomicU64>();

/// An advice that the kernel refuses.
const NO_ADVICE: libc::c_int = -1;

/// The process of a handle.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A mapped word, which is 0 in a child.
    Word(NonNull<AtomicU64>),
    Process(u32),
}

// SAFETY: the word belongs to no thread; it is written once, before the value is shared.
unsafe impl Send for Origin {}
// SAFETY: through a shared reference the word is only read.
unsafe impl Sync for Origin {}

impl Origin {
    /// The calling process.
    pub(crate) fn here() -> Self {
        Self::word().unwrap_or_else(|| Self::Process(std::process::id()))
    }

    fn word() -> Option<Self> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let at = unsafe { libc::mmap(null_mut(), BYTES, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return None;
        }
        // Before the advice, so that the word is unmapped on every path.
        let origin = Self::Word(NonNull::new(at.cast())?);
        // SAFETY: the page that was just mapped. There is no such advice: a kernel that accepts it
        // accepts any and follows none (emulators).
        let takes_any = unsafe { libc::madvise(at, BYTES, NO_ADVICE) } == 0;
        // SAFETY: as above.
        if takes_any || unsafe { libc::madvise(at, BYTES, libc::MADV_WIPEONFORK) } != 0 {
            return None;
        }
        if let Self::Word(word) = &origin {
            // SAFETY: a page of zeroes is there, which is an atomic word, until the value is
            // dropped.
            let word = unsafe { word.as_ref() };
            word.store(HERE, Ordering::Relaxed); // ORDER: it is not shared yet
        }
        Some(origin)
    }

    /// Whether the calling process is this one, and not a child of it.
    pub(crate) fn is_here(&self) -> bool {
        match self {
            Self::Word(word) => {
                // SAFETY: as above: it is mapped until the value is dropped; a child has a page of
                // zeroes there.
                let word = unsafe { word.as_ref() };
                // ORDER: written once, before the host got the handle
                word.load(Ordering::Relaxed) == HERE
            }
            Self::Process(process) => *process == std::process::id(),
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Self::Word(word) = self {
            // SAFETY: the page that `word` mapped; it is not used after.
            unsafe { libc::munmap(word.as_ptr().cast(), BYTES) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/misuse.rs` shows that a child is detected by the word; this tests the process id, for
    /// old kernels.
    #[test]
    fn another_process_is_not_here() {
        assert!(Origin::here().is_here());
        assert!(Origin::Process(std::process::id()).is_here());
        assert!(!Origin::Process(std::process::id().wrapping_add(1)).is_here());
    }

    #[test]
    #[cfg(not(miri))] // has no madvise
    fn this_kernel_has_the_word() {
        assert!(matches!(Origin::here(), Origin::Word(_)));
    }
}
