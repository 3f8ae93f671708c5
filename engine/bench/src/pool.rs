// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that split a list of leaves in the same way each time.
//! Not here: the engine's own shards, of which there are more than threads.
//! Units: items of a list.
//! Threads: a pool of its own; each thread takes the same piece in every pass, whichever side it
//! runs for.
//! Source: none.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// Threads that work on one list together.
#[derive(Debug)]
pub struct Pool(ThreadPool);

impl Pool {
    /// Starts threads, one at least.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn new(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        ThreadPoolBuilder::new().num_threads(threads.max(1)).build().map(Self)
    }

    /// The number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.0.current_num_threads()
    }

    /// The sum of what each thread finds in its piece of the list.
    pub fn sum<T: Sync>(&self, list: &[T], work: impl Fn(&[T]) -> u64 + Sync) -> u64 {
        self.fold(list, work, u64::wrapping_add)
    }

    /// What each thread finds in its piece of the list, combined by `join`.
    pub fn fold<T: Sync>(
        &self,
        list: &[T],
        work: impl Fn(&[T]) -> u64 + Sync,
        join: impl Fn(u64, u64) -> u64,
    ) -> u64 {
        let found = self.0.broadcast(|at| work(self.piece(list, at.index())));
        found.into_iter().fold(0, join)
    }

    /// The pieces of the list, one for each thread.
    pub fn pieces<'a, T>(&self, list: &'a [T]) -> impl Iterator<Item = &'a [T]> {
        (0..self.threads()).map(|index| self.piece(list, index))
    }

    fn piece<'a, T>(&self, list: &'a [T], index: usize) -> &'a [T] {
        let cut = |index: usize| index * list.len() / self.threads();
        &list[cut(index)..cut(index + 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_belongs_to_one_thread() {
        let list: Vec<u64> = (0..1001).collect();
        for threads in [0, 1, 2, 3, 7] {
            let pool = Pool::new(threads).expect("threads");
            assert_eq!(pool.threads(), threads.max(1));
            assert_eq!(pool.sum(&list, |piece| piece.iter().sum()), 1000 * 1001 / 2);
            assert_eq!(pool.sum(&list[..1], |piece| piece.len() as u64), 1);
            assert_eq!(pool.pieces(&list).collect::<Vec<_>>().concat(), list);
        }
    }
}
