// SPDX-License-Identifier: MIT OR Apache-2.0
//! A p2m in memory, live and as the full copy that `memcmp` needs, and the leaves of it that are
//! compared.
//! Not here: its shape, the shadow.
//! Units: leaves by position, 512 entries each.
//! Threads: written by the pool that will read it, so that memory is local to its thread.
//! Source: none.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use p2mtrack::frame::LeafIndex;
use p2mtrack::guest::{Ahead, GuestLeaf};
use p2mtrack::leaf::{FRAME_WORDS, Leaf};
use p2mtrack_synthetic::huge::{Pattern, Shape};

use crate::frames::{FrameWords, Frames, Pages};
use crate::pool::Pool;
use crate::read::xor;

/// The seed of all patterns.
const SEED: u64 = 1;

/// One in so many listed leaves has planted changes.
const PLANT_EVERY: usize = 97;

/// Changes that were planted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    /// Pfns whose entries differ.
    pub pfns: u64,
    /// Leaves with such pfns.
    pub leaves: u64,
}

/// The p2m of a shape, the same in each run.
///
/// # Panics
/// If there are no leaves, or more than a huge guest has; or if the shape is that of a capture.
#[must_use]
pub fn pattern(shape: Shape, leaves: usize) -> Pattern {
    let pfns = (leaves * FRAME_WORDS) as u64;
    Pattern::new(shape, pfns, SEED, &[]).expect("a shape without a tile")
}

/// A live p2m beside a full copy with the same pages.
#[derive(Debug)]
pub struct LiveP2m {
    live: Frames,
    copy: Frames,
    pages: Pages,
    listed: Vec<u32>,
}

impl LiveP2m {
    /// A p2m of so many leaves. `fill` writes the words of the listed ones, live and copied; others
    /// stay untouched.
    ///
    /// # Panics
    /// If there is no address space.
    #[must_use]
    pub fn new(
        pool: &Pool,
        leaves: usize,
        pages: Pages,
        listed: Vec<u32>,
        fill: impl Fn(u64, &mut [u64; FRAME_WORDS]) + Sync,
    ) -> Self {
        let frames = || Frames::new(leaves, pages).expect("address space for the p2m");
        let (live, copy) = (frames(), frames());
        pool.sum(&listed, |piece| {
            let mut leaf = Leaf::default();
            for &index in piece {
                fill(u64::from(index), &mut leaf.words);
                live.write(index as usize, &leaf);
                copy.write(index as usize, &leaf);
            }
            0
        });
        Self { live, copy, pages, listed }
    }

    /// A p2m of 4 KiB pages, with all leaves listed.
    ///
    /// # Panics
    /// If there is no address space.
    #[must_use]
    pub fn whole(
        pool: &Pool,
        leaves: usize,
        fill: impl Fn(u64, &mut [u64; FRAME_WORDS]) + Sync,
    ) -> Self {
        Self::new(pool, leaves, Pages::Small, (0..leaves as u32).collect(), fill)
    }

    /// The same of a shape.
    ///
    /// # Panics
    /// As [`LiveP2m::whole`] and [`pattern`].
    #[must_use]
    pub fn of_shape(pool: &Pool, leaves: usize, shape: Shape) -> Self {
        let pattern = pattern(shape, leaves);
        Self::whole(pool, leaves, |leaf, words| pattern.fill_leaf(leaf, words))
    }

    /// The number of leaves, listed or not.
    #[must_use]
    pub fn leaves(&self) -> usize {
        self.live.len()
    }

    /// The leaves that are compared, in ascending order.
    #[must_use]
    pub fn listed(&self) -> &[u32] {
        &self.listed
    }

    /// Whether all leaves are listed.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.listed.len() == self.leaves()
    }

    /// Lists other leaves, which must have been written.
    pub fn list(&mut self, listed: Vec<u32>) {
        self.listed = listed;
    }

    /// The live frame of a leaf.
    #[must_use]
    pub fn live(&self, index: u32) -> &FrameWords {
        self.live.frame(index as usize)
    }

    /// The copy of a leaf.
    #[must_use]
    pub fn copy(&self, index: u32) -> &FrameWords {
        self.copy.frame(index as usize)
    }

    /// The page size of both mappings.
    #[must_use]
    pub const fn pages(&self) -> Pages {
        self.pages
    }

    /// Live frames and copies from the first to the last leaf of a piece of the list.
    #[must_use]
    pub fn between(&self, piece: &[u32]) -> (&[FrameWords], &[FrameWords]) {
        let (Some(&first), Some(&last)) = (piece.first(), piece.last()) else { return (&[], &[]) };
        let frames = first as usize..=last as usize;
        (&self.live.all()[frames.clone()], &self.copy.all()[frames])
    }

    /// Changes some live entries, or reverts such a change. Returns how many pfns and leaves.
    pub fn plant(&self) -> Planted {
        let mut planted = Planted::default();
        for &index in self.listed.iter().step_by(PLANT_EVERY) {
            planted.leaves += 1;
            // The first and the last entry, and one that depends on the leaf.
            for slot in BTreeSet::from([0, index as usize % FRAME_WORDS, FRAME_WORDS - 1]) {
                planted.pfns += 1;
                // ORDER: before threads
                self.live(index)[slot].fetch_xor(1 << 20, Ordering::Relaxed);
            }
        }
        planted
    }

    /// Changes so many live entries of each listed leaf, or reverts such a change.
    ///
    /// # Panics
    /// If a leaf has fewer.
    pub fn change(&self, entries: usize) {
        assert!(entries <= FRAME_WORDS, "a leaf has 512 entries");
        for &index in &self.listed {
            // An odd stride visits each slot once.
            let slots = (0..entries).map(|turn| (turn * 167 + index as usize * 31) % FRAME_WORDS);
            for slot in slots {
                // ORDER: before threads
                self.live(index)[slot].fetch_xor(1 << 20, Ordering::Relaxed);
            }
        }
    }

    /// Copies the listed leaves again, into other pages.
    ///
    /// # Panics
    /// If there is no address space.
    pub fn copy_again(&mut self, pages: Pages) {
        let copy = Frames::new(self.leaves(), pages).expect("address space for the copy");
        let mut leaf = Leaf::default();
        for &index in &self.listed {
            GuestLeaf::from_atomics(self.live(index)).fetch(&mut leaf);
            copy.write(index as usize, &leaf);
        }
        self.copy = copy;
    }

    /// The live memory's actual page size, in words.
    #[must_use]
    pub fn pages_in_words(&self) -> String {
        let share = self.live.huge_share().map(|share| (share * 100.0).round());
        match (self.pages, share) {
            (Pages::Small, _) => "4 KiB pages".to_owned(),
            (Pages::Huge, None) => "2 MiB pages asked for".to_owned(),
            (Pages::Huge, Some(percent)) => format!("2 MiB pages ({percent} %)"),
        }
    }

    /// Each leaf of a piece with its live frame and what is prefetched meanwhile.
    pub(crate) fn walk<'a>(
        &'a self,
        piece: &'a [u32],
    ) -> impl Iterator<Item = (LeafIndex, GuestLeaf<'a>, Ahead<'a>)> {
        let guest = |index| GuestLeaf::from_atomics(self.live(index));
        piece.iter().enumerate().map(move |(at, &index)| {
            let later = |by| piece.get(at + by).map(|&leaf| guest(leaf));
            let ahead = Ahead { lines: later(2), page: later(3) };
            (LeafIndex(u64::from(index)), guest(index), ahead)
        })
    }

    /// Reads all leaves of a piece; with `ahead`, prefetches later ones as the engine does. The
    /// result depends on each word.
    #[must_use]
    pub fn read(&self, piece: &[u32], ahead: bool) -> u64 {
        let leaves = piece.iter().enumerate().map(|(at, &index)| {
            let later = |by| piece.get(at + by).filter(|_| ahead).map(|&leaf| self.live(leaf));
            xor(self.live(index), [later(2), later(3)])
        });
        leaves.fold(0, u64::wrapping_add)
    }

    /// What [`LiveP2m::read`] must return for all listed leaves, computed by another loop.
    #[must_use]
    pub fn checksum(&self) -> u64 {
        let mut leaf = Leaf::default();
        let leaves = self.listed.iter().map(|&index| {
            GuestLeaf::from_atomics(self.live(index)).fetch(&mut leaf);
            leaf.words.iter().fold(0, |all, word| all ^ word)
        });
        leaves.fold(0, u64::wrapping_add)
    }
}
