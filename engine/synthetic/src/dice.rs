// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only source of random choices: every choice of a run is drawn here from its seed.
//! Not here: what is chosen.
//! Units: plain integers; a range includes both ends.
//! Threads: one owner.
//! Source: xoshiro256++ by way of `rand_xoshiro`; bounded draws by multiplication (Lemire).

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// A deterministic stream of choices.
#[derive(Clone, Debug)]
pub(crate) struct Dice(Xoshiro256PlusPlus);

impl Dice {
    /// The stream of a seed. `purpose` keeps the streams of one run apart.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose.rotate_left(32);
        Self(Xoshiro256PlusPlus::seed_from_u64(mixed))
    }

    /// A word.
    pub(crate) fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `n`; 0 if `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// An index below `n`.
    pub(crate) fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    /// A number from `first` to `last`.
    pub(crate) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True `part` times of `whole`.
    pub(crate) fn chance(&mut self, part: u64, whole: u64) -> bool {
        self.below(whole) < part
    }

    /// A number from 1 to about `max`, each order of magnitude equally likely.
    pub(crate) fn magnitude(&mut self, max: u64) -> u64 {
        let bits = self.below(u64::from(64 - max.max(1).leading_zeros()));
        (1 << bits) + self.below(1 << bits)
    }

    /// One of several.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// Puts a slice in random order.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }

    /// Merges sequences at random; each keeps its own order.
    pub(crate) fn riffle<T>(&mut self, sequences: Vec<Vec<T>>) -> Vec<T> {
        let mut left: u64 = sequences.iter().map(|s| s.len() as u64).sum();
        let mut merged = Vec::with_capacity(left as usize);
        let mut heads: Vec<_> = sequences.into_iter().map(Vec::into_iter).collect();
        while left > 0 {
            let mut at = self.below(left);
            for head in &mut heads {
                let waiting = head.len() as u64;
                if at < waiting {
                    merged.extend(head.next());
                    break;
                }
                at -= waiting;
            }
            left -= 1;
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_stream() {
        let draw = |seed| {
            let mut dice = Dice::new(seed, 1);
            (0..8).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn riffled_sequences_keep_their_order() {
        let mut dice = Dice::new(1, 1);
        for _ in 0..50 {
            let merged = dice.riffle(vec![vec![1, 2, 3], vec![11, 12], vec![]]);
            assert_eq!(merged.len(), 5);
            assert!(merged.iter().filter(|&&n| n < 10).is_sorted());
            assert!(merged.iter().filter(|&&n| n > 10).is_sorted());
        }
        assert!((0..100).all(|_| (1..=64).contains(&dice.magnitude(32))));
    }
}
