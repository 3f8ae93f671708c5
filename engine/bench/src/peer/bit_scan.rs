// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flat bitmap that is scanned bit by bit: what Xen's toolstack does with its copy of log-dirty.
//! Not here: the same word by word (`word_scan`).
//! Units: bit `pfn % 64` of word `pfn / 64`.
//! Threads: one.
//! Source: the loop over all pfns in `tools/libs/guest/xg_sr_save.c`, `send_dirty_pages`.

use super::DirtySet;

/// The bitmap.
#[derive(Debug)]
pub struct BitScan {
    pfns: u64,
    words: Vec<u64>,
}

impl BitScan {
    /// Nothing is marked.
    #[must_use]
    pub fn new(pfns: u64) -> Self {
        Self { pfns, words: vec![0; pfns.div_ceil(64) as usize] }
    }
}

impl DirtySet for BitScan {
    fn name(&self) -> &'static str {
        "bit-scan"
    }

    fn is_concurrent(&self) -> bool {
        false
    }

    fn mark(&mut self, pfn: u64) {
        self.words[(pfn / 64) as usize] |= 1 << (pfn % 64);
    }

    fn take(&mut self, into: &mut Vec<u64>) {
        for pfn in 0..self.pfns {
            let word = &mut self.words[(pfn / 64) as usize];
            if *word >> (pfn % 64) & 1 == 1 {
                *word &= !(1 << (pfn % 64));
                into.push(pfn);
            }
        }
    }
}
