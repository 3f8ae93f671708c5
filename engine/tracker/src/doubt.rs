// SPDX-License-Identifier: MIT OR Apache-2.0
//! Doubt: what the engine could not find out, by kind, and for how many rounds running.
//! Not here: what a doubt owes (the caller marks the range), or the causes of single pfns
//! (`cause`).
//! Units: rounds, and pfns put in doubt.
//! Threads: one owner.
//! Source: `docs/design.md`, law 4 (doubt sets the bit).

use std::fmt;

/// Something that could not be found out. Everything it may concern is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// Log-dirty read less than it was asked for.
    ShortBitmap,
    /// Log-dirty failed and was switched off and on: its marks are lost.
    LogLost,
    /// The generation was odd, or moved during every walk. Owes nothing by itself, and ends
    /// nothing.
    Generation,
    /// The roots make no sense.
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

impl Doubt {
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

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counts of doubts in this round, and how long each kind has been running.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doubts {
    marked: [u64; Doubt::ALL.len()],
    running: [u32; Doubt::ALL.len()],
}

impl Doubts {
    /// Forgets what a round noted that did not end.
    pub(crate) fn begin_round(&mut self) {
        self.marked = Default::default();
    }

    /// Notes one doubt in this round.
    pub(crate) fn mark(&mut self, doubt: Doubt) {
        self.marked[doubt as usize] += 1;
    }

    /// Rounds running, before this one, in which the kind was marked.
    #[must_use]
    pub(crate) const fn running(&self, doubt: Doubt) -> u32 {
        self.running[doubt as usize]
    }

    /// Counts of this round by kind.
    #[must_use]
    pub(crate) const fn counts(&self) -> [u64; Doubt::ALL.len()] {
        self.marked
    }

    /// Doubts of this round for which whole ranges are owed, whatever was in them.
    #[must_use]
    pub(crate) fn of_ranges(&self) -> u64 {
        let single = [Doubt::QueryFailed, Doubt::Tables, Doubt::Generation];
        let ranges = Doubt::ALL.into_iter().filter(|doubt| !single.contains(doubt));
        ranges.map(|doubt| self.marked[doubt as usize]).sum()
    }

    /// Ends the round. Returns a kind that has now run for more than `rounds_max` rounds.
    pub(crate) fn end_round(&mut self, rounds_max: u32) -> Option<Doubt> {
        let mut persistent = None;
        for doubt in Doubt::ALL {
            let running = &mut self.running[doubt as usize];
            *running = if self.marked[doubt as usize] == 0 { 0 } else { *running + 1 };
            // A table doubt that runs on is held back for the final round instead (`send::again`).
            // A vCPU that is not running may stay inside of a change for ever; a fresh walk of the
            // suspended guest decides.
            if *running > rounds_max && ![Doubt::Tables, Doubt::Generation].contains(&doubt) {
                persistent = persistent.or(Some(doubt));
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
        assert_eq!(Doubt::ALL.map(Doubt::name).join(" "), names);
    }

    #[test]
    fn a_doubt_runs_only_while_it_is_marked_every_round() {
        let mut doubts = Doubts::default();
        for _ in 0..3 {
            doubts.mark(Doubt::Roots);
            assert_eq!(doubts.end_round(3), None);
        }
        assert_eq!(doubts.end_round(3), None);
        for _ in 0..3 {
            doubts.mark(Doubt::Roots);
            doubts.mark(Doubt::Tables);
            doubts.mark(Doubt::Generation);
            assert_eq!(doubts.end_round(3), None);
        }
        for doubt in [Doubt::Generation, Doubt::Roots, Doubt::Tables] {
            doubts.mark(doubt);
        }
        assert_eq!(doubts.end_round(3), Some(Doubt::Roots));
        assert_eq!(doubts.running(Doubt::Tables), 4);
    }
}
