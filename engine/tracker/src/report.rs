// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one round found, sent and left, in numbers with units.
//! Not here: times (the `Observer`'s owner has the clock), or a judgement (the caller's).
//! Units: leaves are positions, not distinct frames; entries and pages are pfns.
//! Threads: plain values.
//! Source: counting rules of entries and leaves: `docs/design.md`, "Counts".

use crate::port::Deferral;
use crate::uncertainty::Uncertainty;

/// Which kind of round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// The guest runs.
    #[default]
    Live,
    /// The guest is suspended and will go on (Remus).
    Checkpoint,
    /// The guest is suspended for good.
    Final,
}

impl Stage {
    /// Whether the guest is suspended.
    #[must_use]
    pub const fn is_suspended(self) -> bool {
        !matches!(self, Self::Live)
    }

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Checkpoint => "checkpoint",
            Self::Final => "final",
        }
    }
}

/// Leaves of the p2m, by position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeafCounts {
    /// Positions that can hold a frame.
    pub tracked: u64,
    /// Distinct frames among them.
    pub distinct: u64,
    /// Positions whose leaf's pfn is in log-dirty.
    pub dirty: u64,
    /// Positions that are new or backed by another frame than at the walk before.
    pub fresh: u64,
    /// Positions that were removed.
    pub dropped: u64,
    /// Leaves compared with the shadow.
    pub compared: u64,
    /// Compared because dirty, and found equal.
    pub unchanged: u64,
}

/// Entries that differ from the shadow; entries owed from earlier rounds are not counted again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryCounts {
    /// No frame before, a frame now.
    pub mapped: u64,
    /// A frame before, none now.
    pub unmapped: u64,
    /// Another frame now.
    pub remapped: u64,
    /// Two words that name no frame.
    pub other: u64,
    /// Changed entries whose own pfn is not in log-dirty: what a tracker without a shadow never
    /// sends.
    pub beyond_log_dirty: u64,
}

impl EntryCounts {
    /// All changed entries.
    #[must_use]
    pub const fn changed(&self) -> u64 {
        self.mapped + self.unmapped + self.remapped + self.other
    }

    pub(crate) const fn add(&mut self, other: &Self) {
        self.mapped += other.mapped;
        self.unmapped += other.unmapped;
        self.remapped += other.remapped;
        self.other += other.other;
        self.beyond_log_dirty += other.beyond_log_dirty;
    }
}

/// The reasons to walk the structure, and how the walks went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StructureCounts {
    /// `p2m_generation` changed or is odd.
    pub generation: u64,
    /// A root changed (list address, page-table root, frame list list).
    pub roots: u64,
    /// The count of pfns changed.
    pub pfn_count: u64,
    /// Upper frames, or leaves that a walk relied on, in log-dirty.
    pub dirty: u64,
    /// Changed entries of pfns that back p2m frames.
    pub entries: u64,
    /// P2m frames found under another pfn than before, while the slots that name them stayed the
    /// same.
    pub moved: u64,
    /// Forced: the first walk, after a resume, or because every round has to walk.
    pub forced: u64,
    /// Walks made.
    pub walks: u64,
    /// Walks that had to be repeated.
    pub retries: u64,
    /// How often the frame list was sent.
    pub frame_lists: u64,
}

impl StructureCounts {
    /// Events of all kinds, forced walks apart.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.generation + self.roots + self.pfn_count + self.dirty + self.entries + self.moved
    }
}

/// Pages of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Owed when sending began.
    pub owed: u64,
    /// Accepted by the transport.
    pub accepted: u64,
    /// Of these page tables.
    pub tables: u64,
    /// Settled without a page: the entry names no frame.
    pub unpopulated: u64,
    /// Deferred: p2m and m2p disagree.
    pub deferred_m2p: u64,
    /// Deferred: the frame is not the domain's, or vanished before it could be mapped.
    pub deferred_frame: u64,
    /// Deferred: page table that can't be normalised.
    pub deferred_table: u64,
    /// Deferred: leaf not mapped, query failed, kept by the transport for later, no answer.
    pub deferred_uncertain: u64,
    /// Frames that moved to another pfn.
    pub moved: u64,
    /// Pfns that the transport returned.
    pub returned: u64,
    /// Owed when the round ended.
    pub left: u64,
}

impl PageCounts {
    /// Counts a pfn that is deferred.
    pub(crate) const fn defer(&mut self, reason: Deferral) {
        match reason {
            Deferral::M2pMismatch => self.deferred_m2p += 1,
            Deferral::NotOwned | Deferral::MapFailed(_) => {
                self.deferred_frame += 1;
            }
            Deferral::Table(_) => self.deferred_table += 1,
            Deferral::LeafUnmapped
            | Deferral::QueryFailed
            | Deferral::Later
            | Deferral::Unacknowledged => self.deferred_uncertain += 1,
        }
    }
}

/// What a consistent point settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettledCounts {
    /// Pfns reported as gone.
    pub gone: u64,
    /// Pfns whose entry names a frame that is not the domain's.
    pub foreign: u64,
    /// Pfns sent under the p2m although the m2p names another or none.
    pub m2p_stale: u64,
    /// Pfns sent as copies of another's frame (policy).
    pub aliases: u64,
    /// PTEs to foreign frames made not present (policy).
    pub cleared_ptes: u64,
    /// Pfns read again because they are written without a log-dirty mark.
    pub unlogged: u64,
}

/// One round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundReport {
    /// Number of the round, from 0.
    pub round: u64,
    /// Which kind.
    pub stage: Stage,
    /// The diff kernel.
    pub kernel: &'static str,
    /// Threads that compare.
    pub threads: usize,
    /// The guest's count of pfns at the last walk.
    pub pfn_count: u64,
    /// Pfns in log-dirty.
    pub log_dirty_pfns: u64,
    /// Leaves.
    pub leaves: LeafCounts,
    /// Entries.
    pub entries: EntryCounts,
    /// Structure.
    pub structure: StructureCounts,
    /// Pages.
    pub pages: PageCounts,
    /// What a consistent point settled; zero in a live round.
    pub settled: SettledCounts,
    /// Uncertainties by kind, in the order of [`Uncertainty::ALL`].
    pub uncertain: [u64; Uncertainty::ALL.len()],
    /// The structure could not be followed: nothing was compared or sent.
    pub p2m_unreadable: bool,
    /// The migration is complete, but log-dirty could not be switched off at the source.
    pub log_left_on: bool,
    /// Pfns newly owed in this round for each page accepted in the round before: the dirty rate in
    /// the engine's own unit of time. Below 1 the migration converges. `None` in the first round,
    /// or if there is no estimate.
    pub dirty_rate: Option<f64>,
    /// Frames that the domain holds and that no known pfn has, in a suspended or observed round.
    /// Negative if more pfns have frames than the domain holds. `None` in other rounds.
    pub unaccounted_frames: Option<i64>,
    /// Fewer pfns are owed than a round ago. `None` as for `dirty_rate`.
    pub shrinking: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_have_names_and_changes_add_up() {
        let names = [Stage::Live, Stage::Checkpoint, Stage::Final].map(Stage::name);
        assert_eq!(names, ["live", "checkpoint", "final"]);
        let one = EntryCounts {
            mapped: 1,
            unmapped: 20,
            remapped: 300,
            other: 4000,
            beyond_log_dirty: 5,
        };
        let mut sum = one;
        sum.add(&one);
        assert_eq!((one.changed(), sum.changed(), sum.beyond_log_dirty), (4321, 8642, 10));
        assert_eq!((sum.mapped, sum.unmapped, sum.remapped, sum.other), (2, 40, 600, 8000));
    }

    #[test]
    fn events_are_what_the_guest_did_and_not_what_was_done_about_it() {
        let done = StructureCounts {
            forced: 1,
            walks: 2,
            retries: 3,
            frame_lists: 4,
            ..Default::default()
        };
        assert_eq!(done.events(), 0);
        let seen = StructureCounts {
            generation: 1,
            roots: 20,
            pfn_count: 300,
            dirty: 4_000,
            entries: 50_000,
            moved: 600_000,
            ..done
        };
        assert_eq!(seen.events(), 654_321);
    }
}
