// SPDX-License-Identifier: MIT OR Apache-2.0
//! Causes: why a pfn is owed, and so why a page was sent.
//! Not here: which pfns are owed (`resend`).
//! Units: one bit of a set per cause, in the order of [`Cause::ALL`].
//! Threads: plain values.
//! Source: the changes that are tracked, `docs/design`; names are part of the report's format.

use std::fmt;

/// Why a pfn is owed to the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Never sent before.
    First,
    /// Its frame is in the write log.
    LogDirty,
    /// Its p2m entry differs from the shadow.
    Entry,
    /// Its leaf is backed by another frame: the p2m was reshaped.
    Structure,
    /// The p2m grew over it.
    Growth,
    /// It could not be sent in an earlier round.
    Deferred,
    /// It was last sent as a page table, and a frame has moved since.
    Table,
    /// Something could not be found out, so all that it may concern is owed.
    Uncertain,
    /// It has a writer that the write log does not see.
    Unlogged,
    /// It was accepted and then lost on the way.
    Returned,
}

impl Cause {
    /// Every cause, in the order of declaration.
    pub const ALL: [Self; 10] = [
        Self::First,
        Self::LogDirty,
        Self::Entry,
        Self::Structure,
        Self::Growth,
        Self::Deferred,
        Self::Table,
        Self::Uncertain,
        Self::Unlogged,
        Self::Returned,
    ];

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::LogDirty => "log-dirty",
            Self::Entry => "entry",
            Self::Structure => "structure",
            Self::Growth => "growth",
            Self::Deferred => "deferred",
            Self::Table => "table",
            Self::Uncertain => "uncertain",
            Self::Unlogged => "unlogged",
            Self::Returned => "returned",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A set of causes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CauseSet(u16);

impl fmt::Debug for CauseSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl CauseSet {
    /// The causes whose bits are set, in the order of [`Cause::ALL`].
    pub(crate) const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The set of one cause.
    pub(crate) const fn of(cause: Cause) -> Self {
        Self(1 << cause as u16)
    }

    /// One bit for each cause in the set, in the order of [`Cause::ALL`].
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Adds a cause.
    pub const fn insert(&mut self, cause: Cause) {
        self.0 |= 1 << cause as u16;
    }

    /// Whether a cause is in the set.
    #[must_use]
    pub const fn contains(self, cause: Cause) -> bool {
        self.0 >> cause as u16 & 1 == 1
    }

    /// Whether no cause is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Causes of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The causes in the order of [`Cause::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Cause> {
        Cause::ALL.into_iter().filter(move |&cause| self.contains(cause))
    }
}

impl FromIterator<Cause> for CauseSet {
    fn from_iter<I: IntoIterator<Item = Cause>>(causes: I) -> Self {
        let mut set = Self::default();
        causes.into_iter().for_each(|cause| set.insert(cause));
        set
    }
}

/// The names in alphabetical order, joined by `+`; `none` for the empty set.
impl fmt::Display for CauseSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.iter().map(Cause::name).collect();
        names.sort_unstable();
        f.pad(&if names.is_empty() { "none".into() } else { names.join("+") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_each_cause_apart() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
            let alone = CauseSet::from_iter([cause]);
            assert_eq!(alone.iter().collect::<Vec<_>>(), [cause]);
            assert_eq!(alone.to_string(), cause.name());
            assert!(!alone.is_empty());
            let others: CauseSet = Cause::ALL.into_iter().filter(|&c| c != cause).collect();
            assert!(!others.contains(cause));
            assert_eq!(others.union(alone), Cause::ALL.into_iter().collect());
        }
        assert!(CauseSet::default().is_empty());
    }

    #[test]
    fn names_are_sorted_and_joined() {
        let set = CauseSet::from_iter([Cause::LogDirty, Cause::Entry]);
        assert_eq!(set.to_string(), "entry+log-dirty");
        assert_eq!(format!("{set:>16}"), " entry+log-dirty");
        assert_eq!(CauseSet::default().to_string(), "none");
    }
}
