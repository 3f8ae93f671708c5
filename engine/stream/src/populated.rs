// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pfns that a stock receiver has a frame for: it never gives one back.
//! Not here: what the source has (the engine).
//! Units: pfns.
//! Threads: one owner.
//! Source: libxc `xg_sr_restore.c`, `populate_pfns`: a pfn gets a frame when a page comes for it,
//! and when a page table names it. libxl lets the domain hold `memory/target` and 1 MiB more, and
//! Xen refuses what is beyond that (`xen-migrate.md` 0.2).

use std::{error, fmt};

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::Pfn;
use p2mtrack::leaf::Leaf;
use p2mtrack::table::{PTE_PRESENT, pte_mfn};

/// A stock receiver could not hold what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// How many pfns were sent, or named by page tables that were.
    pub pfns: u64,
    /// How many it may hold.
    pub limit: u64,
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pfns, limit } = self;
        write!(
            f,
            "a stock receiver gives no frame back: it would hold {pfns} pfns, and may hold {limit} \
             (memory/target and 1 MiB): raise the target by {} KiB (xl mem-max, xl mem-set), or \
             save the guest while its balloon rests",
            (pfns.saturating_sub(*limit)) * 4
        )
    }
}

impl error::Error for TooMany {}

/// Pfns for which a stock receiver has a frame.
#[derive(Debug)]
pub struct Populated {
    pfns: PfnBitmap,
    count: u64,
    limit: u64,
}

impl Populated {
    /// None so far; the receiver may hold so many.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { pfns: PfnBitmap::new(0), count: 0, limit }
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// How many it may hold.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether it has a frame for this pfn.
    #[must_use]
    pub fn has(&self, pfn: Pfn) -> bool {
        pfn.0 < self.pfns.pfns() && self.pfns.get(pfn)
    }

    /// Those that are not in `held`, in ascending order.
    pub fn beyond<'a>(&'a self, held: &'a PfnBitmap) -> impl Iterator<Item = Pfn> + 'a {
        self.pfns.without(held)
    }

    /// A page comes for this pfn.
    pub(crate) fn add(&mut self, pfn: Pfn) {
        if pfn.0 >= self.pfns.pfns() {
            self.pfns.resize((pfn.0 + 1).next_multiple_of(1 << 15));
        }
        self.count += u64::from(self.pfns.set(pfn));
    }

    /// This page table comes, whose PTEs name pfns.
    pub(crate) fn add_named(&mut self, table: &Leaf) {
        let present = table.words.iter().filter(|&pte| pte & PTE_PRESENT != 0);
        present.for_each(|&pte| self.add(Pfn(pte_mfn(pte).0)));
    }

    /// Whether the receiver can hold them.
    ///
    /// # Errors
    /// It can't.
    pub(crate) const fn check(&self) -> Result<(), TooMany> {
        if self.count > self.limit {
            return Err(TooMany { pfns: self.count, limit: self.limit });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pfn_counts_once_and_those_that_page_tables_name_count() {
        let mut populated = Populated::new(4);
        [3, 5, 3].into_iter().for_each(|pfn| populated.add(Pfn(pfn)));
        let mut table = Leaf::default();
        table.words[0] = 5 << 12 | PTE_PRESENT;
        table.words[7] = 90_000 << 12 | PTE_PRESENT | 1 << 63;
        table.words[8] = 7 << 12; // not present
        populated.add_named(&table);
        assert_eq!((populated.count(), populated.check()), (3, Ok(())));
        assert!(
            populated.has(Pfn(90_000)) && !populated.has(Pfn(7)) && !populated.has(Pfn(1 << 30))
        );
        let mut held = PfnBitmap::new(64);
        held.set(Pfn(5));
        let beyond: Vec<_> = populated.beyond(&held).collect();
        assert_eq!(beyond, [Pfn(3), Pfn(90_000)]);
        populated.add(Pfn(0));
        populated.add(Pfn(1));
        assert_eq!(populated.check(), Err(TooMany { pfns: 5, limit: 4 }));
    }
}
