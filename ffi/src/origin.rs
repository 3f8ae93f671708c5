// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which process made a handle: a word of memory that the kernel hands to no child.
//! Not here: what a child is told (`boundary`).
//! Units: one page, or a process id where the kernel is older than Linux 4.14. A child that shares
//! its parent's memory (vfork) is its parent.
//! Threads: written before anybody else has it, then only read.
//! Source: madvise(2), `MADV_WIPEONFORK`. A process id is a system call each time it is asked for,
//! and a child in a namespace of its own may have its parent's.

#![expect(unsafe_code, reason = "memory by page, and how it is inherited; docs/safety.md")]

use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};

/// What the word is where it was written.
const HERE: u64 = 0x7032_6d74_7261_636b;
/// What is asked of the kernel, which rounds it up to a page.
const BYTES: usize = size_of::<AtomicU64>();

/// What the kernel refuses.
const NO_ADVICE: libc::c_int = -1;

/// The process of a handle.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A mapped word, which is 0 in a child.
    Word(NonNull<AtomicU64>),
    Process(u32),
}

// SAFETY: the word belongs to no thread; it is written once, before the value is handed to anybody.
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
        // SAFETY: a mapping of nobody else's memory, wherever the kernel likes.
        let at = unsafe { libc::mmap(null_mut(), BYTES, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return None;
        }
        // Before the word is advised: whatever comes next, it is unmapped.
        let origin = Self::Word(NonNull::new(at.cast())?);
        // SAFETY: the page that was just mapped. There is no such advice: who takes it takes any,
        // and follows none (emulators).
        let takes_any = unsafe { libc::madvise(at, BYTES, NO_ADVICE) } == 0;
        // SAFETY: as above.
        if takes_any || unsafe { libc::madvise(at, BYTES, libc::MADV_WIPEONFORK) } != 0 {
            return None;
        }
        if let Self::Word(word) = &origin {
            // SAFETY: a page of zeroes is there, which is an atomic word, until the value is
            // dropped.
            let word = unsafe { word.as_ref() };
            word.store(HERE, Ordering::Relaxed); // ORDER: nobody else has it yet
        }
        Some(origin)
    }

    /// Whether the calling process is the one, and not a child of it.
    pub(crate) fn is_here(&self) -> bool {
        match self {
            Self::Word(word) => {
                // SAFETY: as above: it is mapped until the value is dropped; a child has a page of
                // zeroes there.
                let word = unsafe { word.as_ref() };
                // ORDER: written once, before the handle was handed out
                word.load(Ordering::Relaxed) == HERE
            }
            Self::Process(process) => *process == std::process::id(),
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Self::Word(word) = self {
            // SAFETY: the page that `word` mapped; nobody looks at it after.
            unsafe { libc::munmap(word.as_ptr().cast(), BYTES) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That a child is found out is shown by `tests/misuse.rs`, for the word; this is what an old
    /// kernel is left with.
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
