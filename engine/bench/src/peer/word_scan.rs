// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flat bitmap that is scanned word by word: the least work that a bitmap without levels can do.
//! Not here: the same bit by bit (`bit_scan`).
//! Units: bit `pfn % 64` of word `pfn / 64`.
//! Threads: one.
//! Source: none.

use super::{DirtySet, push_bits};

/// The bitmap.
#[derive(Debug)]
pub struct WordScan(Vec<u64>);

impl WordScan {
    /// Nothing is marked.
    #[must_use]
    pub fn new(pfns: u64) -> Self {
        Self(vec![0; pfns.div_ceil(64) as usize])
    }
}

impl DirtySet for WordScan {
    fn name(&self) -> &'static str {
        "word-scan"
    }

    fn is_concurrent(&self) -> bool {
        false
    }

    fn mark(&mut self, pfn: u64) {
        self.0[(pfn / 64) as usize] |= 1 << (pfn % 64);
    }

    fn take(&mut self, into: &mut Vec<u64>) {
        for (index, word) in self.0.iter_mut().enumerate().filter(|(_, word)| **word != 0) {
            push_bits(index, std::mem::take(word), into);
        }
    }
}
