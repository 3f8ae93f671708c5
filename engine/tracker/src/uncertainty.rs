// SPDX-License-Identifier: MIT OR Apache-2.0
//! Uncertainty: what the engine could not find out, by kind, and for how many rounds in a row.
//! Not here: what is owed for one (the caller marks the range), or the causes of single pfns
//! (`cause`).
//! Units: rounds; uncertainties of one round.
//! Threads: one owner.
//! Source: `docs/design.md`, law 4 (uncertainty sets the bit).

use std::fmt;

/// Something that could not be found out. Everything it may concern is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Uncertainty {
    /// Log-dirty read less than it was asked for.
    ShortBitmap,
    /// Log-dirty failed and was switched off and on: its marks are lost.
    LogLost,
    /// The generation was odd, or changed during every walk. By itself it makes nothing owed and is
    /// never an error.
    Generation,
    /// The roots can't be followed.
    Roots,
    /// A frame of the p2m's upper levels can't be read.
    Walk,
    /// A leaf can't be mapped.
    LeafUnmapped,
    /// The type query failed.
    QueryFailed,
    /// A frame moved to another pfn: tables sent before may name the old one.
    Tables,
    /// The guest takes frames by transfer, and the port can't say for which pfns.
    Transfers,
}

impl Uncertainty {
    /// Every kind, in report order.
    pub const ALL: [Self; 9] = [
        Self::ShortBitmap,
        Self::LogLost,
        Self::Generation,
        Self::Roots,
        Self::Walk,
        Self::LeafUnmapped,
        Self::QueryFailed,
        Self::Tables,
        Self::Transfers,
    ];

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ShortBitmap => "short-bitmap",
            Self::LogLost => "log-lost",
            Self::Generation => "generation",
            Self::Roots => "roots",
            Self::Walk => "walk",
            Self::LeafUnmapped => "leaf-unmapped",
            Self::QueryFailed => "query-failed",
            Self::Tables => "tables",
            Self::Transfers => "transfers",
        }
    }
}

impl fmt::Display for Uncertainty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counts of uncertainties in this round, and for how many rounds in a row each kind was marked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uncertainties {
    marked: [u64; Uncertainty::ALL.len()],
    running: [u32; Uncertainty::ALL.len()],
}

impl Uncertainties {
    /// Forgets what an unfinished round noted.
    pub(crate) fn begin_round(&mut self) {
        self.marked = Default::default();
    }

    /// Notes one uncertainty in this round.
    pub(crate) fn mark(&mut self, uncertainty: Uncertainty) {
        self.marked[uncertainty as usize] += 1;
    }

    /// Rounds in a row, before this one, in which the kind was marked.
    #[must_use]
    pub(crate) const fn running(&self, uncertainty: Uncertainty) -> u32 {
        self.running[uncertainty as usize]
    }

    /// Counts of this round by kind.
    #[must_use]
    pub(crate) const fn counts(&self) -> [u64; Uncertainty::ALL.len()] {
        self.marked
    }

    /// Uncertainties of this round for which whole ranges are owed.
    #[must_use]
    pub(crate) fn of_ranges(&self) -> u64 {
        let single = [Uncertainty::QueryFailed, Uncertainty::Tables, Uncertainty::Generation];
        let ranges =
            Uncertainty::ALL.into_iter().filter(|uncertainty| !single.contains(uncertainty));
        ranges.map(|uncertainty| self.marked[uncertainty as usize]).sum()
    }

    /// Ends the round. Returns a kind that was marked in more than `rounds_max` rounds in a row.
    pub(crate) fn end_round(&mut self, rounds_max: u32) -> Option<Uncertainty> {
        let mut persistent = None;
        for uncertainty in Uncertainty::ALL {
            let running = &mut self.running[uncertainty as usize];
            *running = if self.marked[uncertainty as usize] == 0 { 0 } else { *running + 1 };
            // Uncertain tables are left to a suspended round instead (`send::again`). A vCPU that
            // is not running may leave the generation odd for ever; a new walk of the suspended
            // guest decides.
            if *running > rounds_max
                && ![Uncertainty::Tables, Uncertainty::Generation].contains(&uncertainty)
            {
                persistent = persistent.or(Some(uncertainty));
            }
        }
        self.marked = Default::default();
        persistent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_reports() {
        let names = "short-bitmap log-lost generation roots walk leaf-unmapped query-failed tables \
                     transfers";
        assert_eq!(Uncertainty::ALL.map(Uncertainty::name).join(" "), names);
    }

    #[test]
    fn an_uncertainty_runs_only_while_it_is_marked_every_round() {
        let mut uncertainties = Uncertainties::default();
        for _ in 0..3 {
            uncertainties.mark(Uncertainty::Roots);
            assert_eq!(uncertainties.end_round(3), None);
        }
        assert_eq!(uncertainties.end_round(3), None);
        for _ in 0..3 {
            uncertainties.mark(Uncertainty::Roots);
            uncertainties.mark(Uncertainty::Tables);
            uncertainties.mark(Uncertainty::Generation);
            assert_eq!(uncertainties.end_round(3), None);
        }
        for uncertainty in [Uncertainty::Generation, Uncertainty::Roots, Uncertainty::Tables] {
            uncertainties.mark(uncertainty);
        }
        assert_eq!(uncertainties.end_round(3), Some(Uncertainty::Roots));
        assert_eq!(uncertainties.running(Uncertainty::Tables), 4);
    }
}
