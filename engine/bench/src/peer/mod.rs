// SPDX-License-Identifier: MIT OR Apache-2.0
//! Alternatives to our code, measured in the same run on the same data.
//! Not here: our own kernels, which are peers of one another (`diff`).
//! Units: pfns; leaves.
//! Threads: each set says whether other threads may mark during a take.
//! Source: glibc; Xen's `tools/libs/guest`; vm-memory, roaring, hi_sparse_bitset behind the feature
//! `peers`.

#[cfg(feature = "peers")]
pub mod atomic_bitmap;
pub mod bit_scan;
#[cfg(feature = "peers")]
pub mod hi_sparse;
pub mod memcmp;
#[cfg(feature = "peers")]
pub mod roaring;
pub mod word_scan;
pub mod writev;

/// A set of dirty pfns to compare the resend bitmap with.
pub trait DirtySet {
    /// The name in figures.
    fn name(&self) -> &'static str;

    /// Whether several threads may mark while one takes.
    fn is_concurrent(&self) -> bool;

    /// Marks a pfn that is below the length.
    fn mark(&mut self, pfn: u64);

    /// Appends all marked pfns in ascending order, and leaves none marked.
    fn take(&mut self, into: &mut Vec<u64>);
}

/// All sets that this build has, empty, for pfns below `pfns`.
#[must_use]
pub fn dirty_sets(pfns: u64) -> Vec<Box<dyn DirtySet>> {
    vec![
        Box::new(bit_scan::BitScan::new(pfns)),
        Box::new(word_scan::WordScan::new(pfns)),
        #[cfg(feature = "peers")]
        Box::new(atomic_bitmap::VmMemory::new(pfns)),
        #[cfg(feature = "peers")]
        Box::new(roaring::Roaring::default()),
        #[cfg(feature = "peers")]
        Box::new(hi_sparse::HiSparse::new(pfns)),
    ]
}

/// Appends the pfns of the bits of word `index`, in ascending order.
fn push_bits(index: usize, mut word: u64, into: &mut Vec<u64>) {
    while word != 0 {
        into.push(64 * index as u64 + u64::from(word.trailing_zeros()));
        word &= word - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Past the first 2^24 pfns, and not a multiple of anything.
    const PFNS: u64 = (1 << 25) + 77;

    #[test]
    fn every_set_returns_each_marked_pfn_once() {
        let scattered = (0..5000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % PFNS);
        let marked: Vec<_> = scattered
            .chain([0, 63, 64, (1 << 24) - 1, 1 << 24, PFNS - 1])
            .chain(1000..1200)
            .collect();
        let expected: Vec<_> = BTreeSet::from_iter(marked.iter().copied()).into_iter().collect();
        for mut set in dirty_sets(PFNS) {
            for _ in 0..2 {
                marked.iter().for_each(|&pfn| set.mark(pfn));
                let mut taken = Vec::new();
                set.take(&mut taken);
                assert_eq!(taken, expected, "{}", set.name());
                set.take(&mut taken);
                assert_eq!(taken.len(), expected.len(), "{}: taken twice", set.name());
            }
        }
    }

    #[test]
    fn names_are_distinct() {
        let names: BTreeSet<_> = dirty_sets(1).iter().map(|set| set.name()).collect();
        assert_eq!(names.len(), if cfg!(feature = "peers") { 5 } else { 2 });
    }
}
