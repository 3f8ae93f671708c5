// SPDX-License-Identifier: MIT OR Apache-2.0
//! vm-memory's `AtomicBitmap`: the dirty bitmap of virtual machine monitors in Rust.
//! Not here: its mapping of addresses to pages; a bit is a pfn.
//! Units: pfns.
//! Threads: other threads may mark during a take.
//! Source: crate vm-memory, `bitmap::AtomicBitmap`; `get_and_reset` is its take.

use std::num::NonZeroUsize;

use vm_memory::bitmap::AtomicBitmap;

use super::{DirtySet, push_bits};

/// The bitmap.
#[derive(Debug)]
pub struct VmMemory(AtomicBitmap);

impl VmMemory {
    /// Nothing is marked.
    #[must_use]
    pub fn new(pfns: u64) -> Self {
        Self(AtomicBitmap::new(pfns as usize, NonZeroUsize::MIN))
    }
}

impl DirtySet for VmMemory {
    fn name(&self) -> &'static str {
        "vm-memory"
    }

    fn is_concurrent(&self) -> bool {
        true
    }

    fn mark(&mut self, pfn: u64) {
        self.0.set_bit(pfn as usize);
    }

    fn take(&mut self, into: &mut Vec<u64>) {
        let words = self.0.get_and_reset();
        for (index, word) in words.into_iter().enumerate().filter(|(_, word)| *word != 0) {
            push_bits(index, word, into);
        }
    }
}
