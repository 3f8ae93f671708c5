// SPDX-License-Identifier: MIT OR Apache-2.0
//! `hi_sparse_bitset::BitSet`: three levels, for one writer.
//! Not here: its set operations.
//! Units: pfns; the capacity of a set is just below 2^24, so that there are as many sets as needed.
//! Threads: one.
//! Source: crate hi_sparse_bitset, its largest configuration.

use hi_sparse_bitset::{BitSet, config};

use super::DirtySet;

/// Pfns of one set.
const SET_PFNS: u64 = 1 << 23;

/// The sets.
pub struct HiSparse(Vec<BitSet<config::_256bit>>);

impl HiSparse {
    /// Nothing is marked.
    #[must_use]
    pub fn new(pfns: u64) -> Self {
        Self((0..pfns.div_ceil(SET_PFNS)).map(|_| BitSet::new()).collect())
    }
}

impl DirtySet for HiSparse {
    fn name(&self) -> &'static str {
        "hi-sparse"
    }

    fn is_concurrent(&self) -> bool {
        false
    }

    fn mark(&mut self, pfn: u64) {
        self.0[(pfn / SET_PFNS) as usize].insert((pfn % SET_PFNS) as usize);
    }

    fn take(&mut self, into: &mut Vec<u64>) {
        for (first, set) in (0..).step_by(SET_PFNS as usize).zip(&mut self.0) {
            if set.is_empty() {
                continue;
            }
            into.extend(std::mem::take(set).iter().map(|index| first + index as u64));
        }
    }
}
