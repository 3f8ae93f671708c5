// SPDX-License-Identifier: MIT OR Apache-2.0
//! A number for each pfn or frame that differs from what it was at the start: few of many.
//! Not here: what it was at the start (the callers know: a `Pattern`, or zero).
//! Units: indices below a limit that is given once.
//! Threads: many readers and writers; reading an index that does not deviate takes no lock.
//! Source: own. Changes of a huge guest are scattered: in a plain table each would cost a page of
//! memory.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::mapping::{Mapping, Use};
use super::permutation::word_at;

/// Shards with a lock each: one shard grows at a time, which bounds the memory that growing takes.
const SHARDS: usize = 64;
/// Neighbouring indices in one shard, as a power of two.
const SHARD_BITS: usize = 9;

/// Hashes an index; no untrusted source chooses the indices.
#[derive(Default)]
struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn write_u32(&mut self, index: u32) {
        self.0 = word_at(self.0, index.into());
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Shard = RwLock<HashMap<u32, u32, BuildHasherDefault<IndexHasher>>>;

/// The numbers that deviate.
#[derive(Debug)]
pub(crate) struct Deviations {
    limit: u64,
    /// A bit for each index that has a number in its shard.
    deviant: Mapping<AtomicU64>,
    shards: Box<[Shard]>,
}

impl Deviations {
    /// None so far, for indices below `limit`.
    pub(crate) fn new(limit: u64) -> io::Result<Self> {
        let deviant = Mapping::new(limit.div_ceil(64) as usize, Use::Sparse)?;
        Ok(Self { limit, deviant, shards: (0..SHARDS).map(|_| Shard::default()).collect() })
    }

    /// One past the last index.
    pub(crate) const fn limit(&self) -> u64 {
        self.limit
    }

    fn shard(&self, index: u64) -> &Shard {
        &self.shards[(index as usize >> SHARD_BITS) % SHARDS]
    }

    /// The number of an index, if it deviates.
    pub(crate) fn get(&self, index: u64) -> Option<u32> {
        assert!(index < self.limit, "{index} is past the end");
        // ORDER: Acquire: a bit that is seen has its number in the shard, whose lock orders the
        // rest.
        let word = self.deviant[(index / 64) as usize].load(Ordering::Acquire);
        if word >> (index % 64) & 1 == 0 {
            return None;
        }
        let shard = self.shard(index).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&(index as u32)).copied()
    }

    /// Sets the number of an index; `None` restores the one that it had at the start.
    pub(crate) fn set(&self, index: u64, number: Option<u32>) {
        if number.is_none() && self.get(index).is_none() {
            return;
        }
        let mut shard = self.shard(index).write().unwrap_or_else(PoisonError::into_inner);
        let word = &self.deviant[(index / 64) as usize];
        let bit = 1 << (index % 64);
        match number {
            Some(number) => {
                shard.insert(index as u32, number);
                word.fetch_or(bit, Ordering::Release); // ORDER: pairs with the load in `get`
            }
            None => {
                word.fetch_and(!bit, Ordering::Release); // ORDER: as above
                shard.remove(&(index as u32));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deviation_stays_until_it_is_taken_back() {
        let numbers = Deviations::new(100_000).expect("memory");
        for index in (0..100_000).step_by(7) {
            numbers.set(index, Some(index as u32 * 2));
        }
        numbers.set(7, None);
        numbers.set(8, None);
        numbers.set(14, Some(5));
        for index in 0..100_000_u64 {
            let wanted = match index {
                7 => None,
                14 => Some(5),
                _ => index.is_multiple_of(7).then_some(index as u32 * 2),
            };
            assert_eq!(numbers.get(index), wanted, "{index}");
        }
        assert_eq!(numbers.limit(), 100_000);
    }
}
