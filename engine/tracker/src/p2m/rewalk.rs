// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reasons to walk the p2m again: signs that its structure changed.
//! Not here: the walk (`structure`).
//! Units: counts of events; flags are one event each.
//! Threads: plain values.
//! Source: `docs/design.md`, "Changes", column "how it is noticed".

use crate::report::StructureCounts;

/// The reasons since the last walk.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reasons {
    /// The generation changed or is odd.
    pub(crate) generation: bool,
    /// A root changed.
    pub(crate) roots: bool,
    /// The count of pfns changed.
    pub(crate) pfn_count: bool,
    /// A walk was asked for.
    pub(crate) forced: bool,
    /// Upper frames, or leaves that a walk relied on, in log-dirty.
    pub(crate) dirty: u64,
    /// P2m frames under other pfns, or under changed entries.
    pub(crate) entries: u64,
}

impl Reasons {
    /// Whether a walk is called for.
    pub(crate) const fn call(&self) -> bool {
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
        assert!(!Reasons::default().call());
        let mut counts = StructureCounts::default();
        for reasons in [
            Reasons { generation: true, ..Reasons::default() },
            Reasons { roots: true, ..Reasons::default() },
            Reasons { pfn_count: true, ..Reasons::default() },
            Reasons { forced: true, ..Reasons::default() },
            Reasons { dirty: 20, ..Reasons::default() },
            Reasons { entries: 300, ..Reasons::default() },
        ] {
            assert!(reasons.call());
            reasons.report(&mut counts);
            reasons.report(&mut counts);
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
