// SPDX-License-Identifier: MIT OR Apache-2.0
//! Evidence that the p2m's structure changed: what calls for a walk.
//! Not here: the walk (`tracker`).
//! Units: counts of events; flags are one event each.
//! Threads: plain values.
//! Source: `docs/design.md`, section 2, column "how it is noticed".

use crate::report::StructureCounts;

/// Evidence gathered since the last walk.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Evidence {
    /// The generation moved or is odd.
    pub(crate) generation: bool,
    /// A root moved.
    pub(crate) roots: bool,
    /// The count of pfns moved.
    pub(crate) pfn_count: bool,
    /// A walk was asked for.
    pub(crate) forced: bool,
    /// Upper frames in log-dirty.
    pub(crate) dirty: u64,
    /// The p2m's own frames under other pfns, or under changed entries.
    pub(crate) entries: u64,
}

impl Evidence {
    /// Whether a walk is called for.
    pub(crate) const fn calls(&self) -> bool {
        self.generation
            || self.roots
            || self.pfn_count
            || self.forced
            || self.dirty > 0
            || self.entries > 0
    }

    /// Adds itself to a round's counts.
    pub(crate) fn report(&self, counts: &mut StructureCounts) {
        counts.generation += u64::from(self.generation);
        counts.roots += u64::from(self.roots);
        counts.pfn_count += u64::from(self.pfn_count);
        counts.forced += u64::from(self.forced);
        counts.dirty += self.dirty;
        counts.entries += self.entries;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_calls_for_a_walk_by_itself_and_is_counted_as_itself() {
        assert!(!Evidence::default().calls());
        let mut counts = StructureCounts::default();
        for evidence in [
            Evidence { generation: true, ..Evidence::default() },
            Evidence { roots: true, ..Evidence::default() },
            Evidence { pfn_count: true, ..Evidence::default() },
            Evidence { forced: true, ..Evidence::default() },
            Evidence { dirty: 20, ..Evidence::default() },
            Evidence { entries: 300, ..Evidence::default() },
        ] {
            assert!(evidence.calls());
            evidence.report(&mut counts);
            evidence.report(&mut counts);
        }
        let (generation, roots, pfn_count, forced, dirty, entries) = (2, 2, 2, 2, 40, 600);
        let expected = StructureCounts {
            generation,
            roots,
            pfn_count,
            forced,
            dirty,
            entries,
            ..StructureCounts::default()
        };
        assert_eq!(counts, expected);
    }
}
