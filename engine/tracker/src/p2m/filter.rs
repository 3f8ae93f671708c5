// SPDX-License-Identifier: MIT OR Apache-2.0
//! A quick check whether a frame can be a p2m frame, made for every page that is sent.
//! Not here: the exact answer (`backing`).
//! Units: one bit per frame in two lines of 512 frames; lines share memory by two hashes of their
//! number.
//! Threads: one owner.
//! Source: the frames of a p2m lie close together, so that they are in few lines; memory depends on
//! their number.

use crate::frame::Mfn;

/// Words of a line.
const LINE_WORDS: usize = 8;
/// P2m frames for each line: at most one bit in 32 is set, so that at most one other frame in 1,000
/// passes.
const LINE_FRAMES: usize = 8;
/// Odd numbers near 2^64 / 1.618 (Fibonacci hashing) and 2^64 / 1.755: the upper bits of a product
/// are good.
const HASHES: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0x91e1_0da5_c79e_7b1d];

/// Frames that may be p2m frames.
#[derive(Debug, Default)]
pub(super) struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// A filter that passes these frames, and few others.
    pub(super) fn new(frames: impl ExactSizeIterator<Item = Mfn>) -> Self {
        let lines = (frames.len() / LINE_FRAMES + 1).next_power_of_two();
        let mut filter = Self { words: vec![0; lines * LINE_WORDS] };
        for mfn in frames {
            for hash in HASHES {
                let (word, bit) = filter.place(mfn, hash);
                filter.words[word] |= bit;
            }
        }
        filter
    }

    /// Whether a frame may be one of them.
    #[inline]
    pub(super) fn may_have(&self, mfn: Mfn) -> bool {
        HASHES.into_iter().all(|hash| {
            let (word, bit) = self.place(mfn, hash);
            self.words.get(word).is_some_and(|word| word & bit != 0)
        })
    }

    #[inline]
    fn place(&self, mfn: Mfn, hash: u64) -> (usize, u64) {
        let lines = (self.words.len() / LINE_WORDS).max(1);
        let hash = (mfn.0 / 512).wrapping_mul(hash) >> 32;
        let line = hash as usize & (lines - 1);
        (line * LINE_WORDS + (mfn.0 % 512 / 64) as usize, 1 << (mfn.0 % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_never_denied_and_few_others_are_not() {
        for stride in [1, 7, 512, 4096 + 3] {
            let frames: Vec<_> = (0..10_000).map(|index| Mfn(index * stride)).collect();
            let filter = Filter::new(frames.iter().copied());
            assert!(frames.iter().all(|&mfn| filter.may_have(mfn)));
            let others = (1 << 40)..(1 << 40) + 100_000;
            let wrong = others.filter(|&mfn| filter.may_have(Mfn(mfn))).count();
            assert!(wrong < 1_000, "{wrong} of 100,000 others, stride {stride}");
        }
        assert!(!Filter::default().may_have(Mfn(u64::MAX)));
    }
}
