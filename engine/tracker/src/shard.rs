// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shards: work that is cut at leaf borders and run on the engine's own thread pool.
//! Not here: what is done to a leaf (`compare`).
//! Units: leaves; two shards never touch one line of the resend bitmap.
//! Threads: one thread means the caller's own; no global pool (a toolstack forks, and a pool does
//! not survive that).
//! Source: `docs/decisions/0013-shards-have-their-lines-alone.md`.

use std::error::Error as _;
use std::io;
use std::thread::{self, JoinHandle};

use rayon::prelude::*;

use crate::error::Error;

/// The fewest leaves of one task: 64 leaves are 4 KiB of log-dirty, or 128 MiB of guest. Miri needs
/// a tenth of a second per leaf, and has to test shards of a small guest.
const LEAVES_MIN: usize = if cfg!(miri) { 2 } else { 64 };

/// The fewest small items, of a microsecond or so each, for which the pool is woken.
const ITEMS_MIN: usize = 32;

/// Pieces of work per thread.
const PIECES: usize = 4;

/// Joins what shards find.
pub(crate) trait Join: Default + Send {
    /// Adds what the next shard found.
    #[must_use]
    fn join(self, next: Self) -> Self;
}

/// The engine's threads.
#[derive(Debug)]
pub(crate) struct Shards {
    pool: Option<rayon::ThreadPool>,
    /// The threads of the pool, which end when it is dropped.
    threads: Vec<JoinHandle<()>>,
}

/// Waits for the threads: the caller that drops the engine may unload its code, or count threads,
/// right after.
impl Drop for Shards {
    fn drop(&mut self) {
        self.pool = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a panic in it was already passed to the caller of the work
        }
    }
}

/// Rayon's error repeats the system's error, which is also its cause: reports it once.
fn no_threads(error: &rayon::ThreadPoolBuildError) -> Error {
    let cause = error.source().and_then(|cause| cause.downcast_ref()).map(io::Error::raw_os_error);
    let source = match cause.flatten() {
        Some(errno) => io::Error::from_raw_os_error(errno).into(),
        None => error.to_string().into(),
    };
    Error::Threads { source }
}

impl Shards {
    /// Starts `threads` threads; 0 and 1 start none.
    pub(crate) fn new(threads: usize) -> Result<Self, Error> {
        let mut shards = Self { pool: None, threads: Vec::new() };
        if threads <= 1 {
            return Ok(shards);
        }
        let started = &mut shards.threads;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .spawn_handler(|thread| {
                let name = format!("p2mtrack-{}", thread.index());
                started.push(thread::Builder::new().name(name).spawn(|| thread.run())?);
                Ok(())
            })
            .build();
        shards.pool = Some(pool.map_err(|error| no_threads(&error))?);
        Ok(shards)
    }

    /// Threads that do the work: those of the pool, or the caller's.
    pub(crate) fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, rayon::ThreadPool::current_num_threads)
    }

    /// Cuts `items` into a piece per shard. A thread gets several, so that one delayed thread does
    /// not delay all.
    pub(crate) fn pieces<'a, T>(&self, items: &'a [T]) -> Vec<&'a [T]> {
        let piece = match self.threads() {
            1 => items.len(),
            threads => items.len().div_ceil(PIECES * threads),
        };
        items.chunks(piece.max(LEAVES_MIN)).collect()
    }

    /// Does the same to each of many small items.
    pub(crate) fn each_mut<T: Send>(&self, items: &mut [T], each: impl Fn(&mut T) + Sync + Send) {
        match &self.pool {
            Some(pool) if items.len() >= ITEMS_MIN => {
                pool.install(|| items.par_iter_mut().with_min_len(ITEMS_MIN / 4).for_each(each));
            }
            _ => items.iter_mut().for_each(each),
        }
    }

    /// Does each shard's work, and joins the results in the order of the shards.
    pub(crate) fn fold_mut<T: Send, R: Join>(
        &self,
        shards: &mut [T],
        each: impl Fn(&mut T) -> R + Sync + Send,
    ) -> R {
        match &self.pool {
            None => shards.iter_mut().map(each).fold(R::default(), R::join),
            Some(pool) => {
                pool.install(|| shards.par_iter_mut().map(each).reduce(R::default, R::join))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cause::Cause;
    use crate::diff::Kernel;
    use crate::frame::{Entry, LeafIndex, Pfn, Width};
    use crate::guest::GuestLeaf;
    use crate::leaf::{FRAME_WORDS, Leaf};
    use crate::resend::ResendBitmap;
    use crate::shadow::Shadow;
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    impl<T: Send> Join for Vec<T> {
        fn join(mut self, mut next: Self) -> Self {
            self.append(&mut next);
            self
        }
    }

    /// A small parallel round, for Miri: shards copy live leaves while the guest writes them, and
    /// mark what differs. An entry that was written before the round is found; one that is written
    /// during it may be found.
    #[test]
    fn shards_compare_leaves_that_the_guest_writes() {
        const LEAVES: u64 = 4;
        let frame = |_| std::array::from_fn(|_| AtomicU64::new(u64::MAX));
        let live: Vec<[AtomicU64; FRAME_WORDS]> = (0..LEAVES).map(frame).collect();
        let mut shadow = Shadow::new(Width::W64);
        shadow.resize(LEAVES);
        shadow.set(Pfn(3), Entry(9));
        let mut resend = ResendBitmap::new(512 * LEAVES);
        let shards = Shards::new(2).expect("threads");
        let leaves: Vec<_> = (0..LEAVES).map(LeafIndex).collect();
        for leaf in &live {
            leaf[511].store(7, Ordering::Relaxed); // ORDER: no thread beside this one yet
        }
        let copies = thread::scope(|scope| {
            scope.spawn(|| {
                for word in [4, 66].into_iter().flat_map(|slot| live.iter().map(move |l| &l[slot]))
                {
                    word.store(8, Ordering::Relaxed); // ORDER: a guest's stores promise no more
                }
            });
            let pieces = shards.pieces(&leaves);
            let firsts = pieces.iter().map(|leaves| Width::W64.first_pfn(leaves[0]).0);
            let mut parts: Vec<_> = pieces.iter().zip(resend.shards_mut(firsts)).collect();
            shards.fold_mut(&mut parts, |(leaves, resend)| {
                let copies = leaves.iter().map(|&leaf| {
                    let mut copy = Leaf::HOLE;
                    GuestLeaf::from_atomics(&live[leaf.0 as usize]).fetch(&mut copy);
                    let changed = shadow.diff(Kernel::detect(), leaf, &copy);
                    resend.mark_leaf(Width::W64, leaf, &changed, Cause::Entry);
                    copy
                });
                copies.collect::<Vec<_>>()
            })
        });
        let whole = resend.shards_mut([0]).next().expect("one");
        for (leaf, copy) in leaves.into_iter().zip(&copies) {
            let owed = whole.owed_for(&Cause::ALL, Width::W64, leaf);
            assert_eq!(owed, shadow.diff(Kernel::SCALAR, leaf, copy));
            assert!(owed.get(511) && (owed.get(3) == (leaf.0 == 0)));
        }
    }

    #[test]
    fn threads_end_before_the_drop_does() {
        let shards = Shards::new(3).expect("threads");
        let alive = Arc::new(());
        let pool = shards.pool.as_ref().expect("a pool");
        for thread in [0, 1, 2] {
            let alive = Arc::clone(&alive);
            // What a thread keeps is dropped when it ends.
            thread_local!(static KEPT: RefCell<Option<Arc<()>>> = const { RefCell::new(None) });
            pool.broadcast(|context| {
                if context.index() == thread {
                    KEPT.with_borrow_mut(|kept| *kept = Some(Arc::clone(&alive)));
                }
            });
        }
        assert_eq!(Arc::strong_count(&alive), 4);
        drop(shards);
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn order_does_not_depend_on_threads() {
        let items: Vec<u64> = (0..if cfg!(miri) { 20 } else { 10_000 }).collect();
        for threads in [0, 1, 2, 5] {
            let shards = Shards::new(threads).expect("threads");
            assert_eq!(shards.threads(), threads.max(1));
            let mut doubled: Vec<_> = items.iter().map(|x| x * 2).collect();
            let mut pieces = shards.pieces(&items);
            assert!(pieces.concat() == items && pieces.iter().all(|piece| !piece.is_empty()));
            let double = |piece: &mut &[u64]| piece.iter().map(|x| x * 2).collect::<Vec<_>>();
            assert_eq!(shards.fold_mut(&mut pieces, double), doubled);
            assert_eq!(shards.fold_mut(&mut doubled, |x| vec![std::mem::take(x) / 2]), items);
            assert!(doubled.iter().all(|&x| x == 0));
        }
    }
}
