// SPDX-License-Identifier: MIT OR Apache-2.0
//! A shuffle without a table: number by number, forwards and back, and random words by place.
//! Not here: streams of choices (`dice`).
//! Units: plain numbers below a limit.
//! Threads: plain values; each number by itself.
//! Source: own. Each step (odd factor, sum, folding the upper half into the lower) can be undone in
//! `bits` bits; what lands past the limit goes round again ("cycle walking", Black and Rogaway
//! 2002).

const ROUNDS: usize = 4;

/// The random word of a seed for a place (the finaliser of splitmix64).
#[must_use]
pub(crate) const fn word_at(seed: u64, place: u64) -> u64 {
    let word = seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// One step.
#[derive(Clone, Copy, Debug)]
struct Round {
    factor: u64,
    inverse: u64,
    sum: u64,
}

/// A bijection of the numbers below a limit.
#[derive(Clone, Debug)]
pub(crate) struct Permutation {
    limit: u64,
    mask: u64,
    fold: u32,
    rounds: [Round; ROUNDS],
}

/// The factor that undoes an odd factor modulo 2^64: each turn doubles the bits that are right.
const fn inverse_of(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut turn = 0;
    while turn < 5 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        turn += 1;
    }
    inverse
}

impl Permutation {
    /// The shuffle of the numbers below `limit` that belongs to a seed.
    pub(crate) fn new(limit: u64, seed: u64) -> Self {
        let bits = 64 - limit.saturating_sub(1).leading_zeros();
        let rounds = std::array::from_fn(|index| {
            let factor = word_at(seed, 2 * index as u64) | 1;
            let sum = word_at(seed, 2 * index as u64 + 1);
            Round { factor, inverse: inverse_of(factor), sum }
        });
        let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        Self { limit, mask, fold: bits.div_ceil(2).max(1), rounds }
    }

    /// One past the last number.
    pub(crate) const fn limit(&self) -> u64 {
        self.limit
    }

    /// Where a number goes.
    pub(crate) fn forward(&self, number: u64) -> u64 {
        debug_assert!(number < self.limit, "{number} is not below {}", self.limit);
        let mut at = number;
        loop {
            for round in &self.rounds {
                at = at.wrapping_mul(round.factor).wrapping_add(round.sum) & self.mask;
                at ^= at >> self.fold;
            }
            if at < self.limit {
                return at;
            }
        }
    }

    /// Which number goes there.
    pub(crate) fn backward(&self, number: u64) -> u64 {
        debug_assert!(number < self.limit, "{number} is not below {}", self.limit);
        let mut at = number;
        loop {
            for round in self.rounds.iter().rev() {
                at ^= at >> self.fold;
                at = at.wrapping_sub(round.sum).wrapping_mul(round.inverse) & self.mask;
            }
            if at < self.limit {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_bijection_that_can_be_undone() {
        for limit in [1, 2, 3, 5, 64, 100, 511, 4096, 5000] {
            for seed in 0..4 {
                let shuffle = Permutation::new(limit, seed);
                let mut hit = vec![false; limit as usize];
                for number in 0..limit {
                    let there = shuffle.forward(number);
                    assert!(!std::mem::replace(&mut hit[there as usize], true), "{there} twice");
                    assert_eq!(shuffle.backward(there), number, "limit {limit}, seed {seed}");
                }
            }
        }
    }

    #[test]
    fn neighbours_part_and_seeds_differ() {
        let shuffle = Permutation::new(1 << 20, 1);
        let other = Permutation::new(1 << 20, 2);
        let mut neighbours = 0;
        let mut equal = 0;
        for number in 0..(1 << 20) - 1 {
            let (here, next) = (shuffle.forward(number), shuffle.forward(number + 1));
            neighbours += u64::from(here.abs_diff(next) == 1);
            equal += u64::from(here == other.forward(number));
        }
        // Of a fair shuffle about two each.
        assert!(neighbours < 20 && equal < 20, "{neighbours} neighbours, {equal} equal");
    }
}
