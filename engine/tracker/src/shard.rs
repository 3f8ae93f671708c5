// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shards: work cut on leaf borders and run on a pool of the engine's own.
//! Not here: what is done to a leaf (`compare`).
//! Units: leaves; two shards never touch one line of the resend bitmap.
//! Threads: one thread means the caller's own; no global pool (a toolstack forks, and a pool does not survive that).
//! Source: `docs/design.md`, section 4.

use rayon::prelude::*;

use crate::error::Error;

/// Leaves that one task takes at least: 64 leaves are the 4 KiB of log-dirty of 128 MiB of guest.
const LEAVES_MIN: usize = 64;

/// The engine's threads.
#[derive(Debug)]
pub(crate) struct Shards {
    pool: Option<rayon::ThreadPool>,
}

impl Shards {
    /// Starts `threads` threads; 0 and 1 start none.
    pub(crate) fn new(threads: usize) -> Result<Self, Error> {
        if threads <= 1 {
            return Ok(Self { pool: None });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("p2mtrack-{index}"))
            .build()
            .map_err(|source| Error::Threads { source: Box::new(source) })?;
        Ok(Self { pool: Some(pool) })
    }

    /// Threads that work, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, rayon::ThreadPool::current_num_threads)
    }

    /// Maps `items` in order.
    pub(crate) fn map<T: Sync, R: Send>(
        &self,
        items: &[T],
        each: impl Fn(&T) -> R + Sync + Send,
    ) -> Vec<R> {
        match &self.pool {
            None => items.iter().map(each).collect(),
            Some(pool) => {
                pool.install(|| items.par_iter().with_min_len(LEAVES_MIN).map(each).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_depend_on_threads() {
        let items: Vec<u64> = (0..10_000).collect();
        for threads in [0, 1, 2, 5] {
            let shards = Shards::new(threads).expect("threads");
            assert_eq!(shards.threads(), threads.max(1));
            assert_eq!(
                shards.map(&items, |x| x * 2),
                items.iter().map(|x| x * 2).collect::<Vec<_>>()
            );
        }
    }
}
