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
