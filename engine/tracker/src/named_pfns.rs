// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pfns a page table names, in 24 bytes: all of them, and mostly some of their neighbours.
//! Not here: when a table has to be sent again for one of them (`destination::tables`).
//! Units: pfns, in 64 steps of equal length between the lowest and the highest.
//! Threads: a value.
//! Source: tables of a kernel's direct map name one run of pfns, others some runs.

use crate::frame::Pfn;

/// The pfns that a page table names, and perhaps more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NamedPfns {
    /// The lowest.
    first: u64,
    /// Log 2 of the pfns of a step.
    step: u8,
    /// Bit `k`: some of the pfns of step `k`.
    steps: u64,
}

/// A run of pfns: the first, and how many.
pub(crate) type Run = (Pfn, u64);

const STEPS: u64 = 64;

impl NamedPfns {
    /// No pfn.
    pub(crate) const NONE: Self = Self { first: 0, step: 0, steps: 0 };
    /// Every pfn.
    pub(crate) const ALL: Self = Self { first: 0, step: 58, steps: u64::MAX };

    /// The pfns of these runs, none of which is empty.
    pub(crate) fn of_runs(runs: impl Iterator<Item = Run> + Clone) -> Self {
        let last = |(pfn, pfns): Run| Pfn(pfn.0 + (pfns - 1));
        let ends = runs.clone().fold((u64::MAX, 0), |(lowest, highest), run| {
            (lowest.min(run.0.0), highest.max(last(run).0))
        });
        let Some(mut named) = Self::between(ends) else { return Self::NONE };
        for run in runs {
            let (low, high) = (named.step_of(run.0), named.step_of(last(run)));
            named.steps |= u64::MAX >> (STEPS - 1 - (high - low)) << low;
        }
        named
    }

    /// These pfns.
    pub(crate) fn of(pfns: impl Iterator<Item = Pfn> + Clone) -> Self {
        let ends = pfns
            .clone()
            .fold((u64::MAX, 0), |(lowest, highest), pfn| (lowest.min(pfn.0), highest.max(pfn.0)));
        let Some(mut named) = Self::between(ends) else { return Self::NONE };
        named.steps = pfns.fold(0, |steps, pfn| steps | 1 << named.step_of(pfn));
        named
    }

    /// No pfn yet, of those between the lowest and the highest; `None` if there are none.
    fn between((lowest, highest): (u64, u64)) -> Option<Self> {
        let bits = u64::BITS - highest.checked_sub(lowest)?.leading_zeros();
        Some(Self { first: lowest, step: bits.saturating_sub(STEPS.ilog2()) as u8, steps: 0 })
    }

    const fn step_of(&self, pfn: Pfn) -> u64 {
        (pfn.0 - self.first) >> self.step
    }

    /// What either names.
    pub(crate) fn or(self, other: Self) -> Self {
        if self == other {
            return self;
        }
        if self == Self::ALL || other == Self::ALL {
            return Self::ALL;
        }
        Self::of_runs(self.runs().chain(other.runs()))
    }

    /// Its steps.
    fn runs(self) -> impl Iterator<Item = Run> + Clone {
        let Self { first, step, steps } = self;
        let step_at = move |index: u64| (Pfn(first + (index << step)), 1 << step);
        (0..STEPS).filter(move |index| steps >> index & 1 > 0).map(step_at)
    }

    /// Whether it may name any of these pfns, which are in ascending order.
    pub(crate) fn may_name_any(self, pfns: &[Pfn]) -> bool {
        let mut rest = pfns;
        let mut from = self.first;
        loop {
            rest = &rest[rest.partition_point(|pfn| pfn.0 < from)..];
            let Some(step) = rest.first().map(|pfn| (pfn.0 - self.first) >> self.step) else {
                return false;
            };
            if step >= STEPS || self.steps >> step == 0 {
                return false;
            }
            match (self.steps >> step).trailing_zeros() {
                0 => return true,
                // on to the next step that has any
                away => from = self.first + ((step + u64::from(away)) << self.step),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_run_of_a_table_and_single_pfns_are_exact() {
        let named = NamedPfns::of_runs([(Pfn(512), 32), (Pfn(575), 1)].into_iter());
        for pfn in 500..600 {
            let is_named = (512..544).contains(&pfn) || pfn == 575;
            assert_eq!(named.may_name_any(&[Pfn(pfn)]), is_named, "{pfn}");
        }
        let named = NamedPfns::of_runs([(Pfn(1024), 512)].into_iter());
        assert!(!named.may_name_any(&[Pfn(0), Pfn(1023), Pfn(1536), Pfn(u64::MAX)]));
        assert!(named.may_name_any(&[Pfn(0), Pfn(1535), Pfn(9999)]));
    }

    #[test]
    fn nothing_and_everything() {
        assert_eq!(NamedPfns::of_runs(std::iter::empty()), NamedPfns::NONE);
        assert_eq!(NamedPfns::of(std::iter::empty()), NamedPfns::NONE);
        let ends = [Pfn(0), Pfn(u64::MAX)];
        for pfn in ends {
            assert!(!NamedPfns::NONE.may_name_any(&[pfn]) && NamedPfns::ALL.may_name_any(&[pfn]));
        }
        let some = NamedPfns::of_runs([(Pfn(7), 1)].into_iter());
        assert_eq!((some.or(NamedPfns::NONE), NamedPfns::NONE.or(some)), (some, some));
        assert_eq!(
            (some.or(NamedPfns::ALL), NamedPfns::ALL.or(some)),
            (NamedPfns::ALL, NamedPfns::ALL)
        );
    }

    proptest! {
        #[test]
        fn every_pfn_of_a_table_is_named(
            runs in prop::collection::vec((0_u64..1 << 40, 1_u64..512), 1..64),
            other in prop::collection::vec((0_u64..1 << 20, 1_u64..9), 0..8),
            moved in prop::collection::btree_set(0_u64..1 << 40, 0..20),
            at in any::<prop::sample::Index>(),
        ) {
            let of = |runs: &[(u64, u64)]| NamedPfns::of_runs(runs.iter().map(|&(pfn, n)| (Pfn(pfn), n)));
            let (first, pfns) = runs[at.index(runs.len())];
            for pfn in [first, first + pfns - 1, first + pfns / 2] {
                let mut moved = moved.clone();
                moved.insert(pfn);
                let moved: Vec<_> = moved.into_iter().map(Pfn).collect();
                prop_assert!(of(&runs).may_name_any(&moved));
                let pfns = runs.iter().flat_map(|&(first, pfns)| (first..first + pfns).map(Pfn));
                prop_assert_eq!(NamedPfns::of(pfns), of(&runs));
                prop_assert!(of(&runs).or(of(&other)).may_name_any(&moved));
                prop_assert!(of(&other).or(of(&runs)).may_name_any(&moved));
            }
        }

        #[test]
        fn a_search_in_many_is_one_in_each(
            runs in prop::collection::vec((0_u64..1 << 16, 1_u64..512), 0..20),
            moved in prop::collection::btree_set(0_u64..1 << 17, 0..40),
        ) {
            let named = NamedPfns::of_runs(runs.iter().map(|&(pfn, n)| (Pfn(pfn), n)));
            let moved: Vec<_> = moved.into_iter().map(Pfn).collect();
            let any = moved.iter().any(|&pfn| named.may_name_any(&[pfn]));
            prop_assert_eq!(named.may_name_any(&moved), any);
        }
    }
}
