// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a caller can configure.
//! Not here: anything about the guest, which the ports report.
//! Units: threads, rounds.
//! Threads: plain values.
//! Source: policies of the outcome table, `docs/design.md`, "Outcomes".

use crate::diff::Kernel;
use crate::shadow::Forms;

/// When the structure is walked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rewalk {
    /// When there is a sign that it changed.
    #[default]
    WhenNeeded,
    /// In every round: for recordings and for checks.
    EveryRound,
}

/// How much of the p2m is checked against the m2p.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verify {
    /// While the guest runs, changed entries; when it is suspended, every entry of a dirty leaf.
    #[default]
    Dirty,
    /// Every entry, in every round, against the m2p and the owner of its frame: finds a guest whose
    /// m2p lies about leaves that it never writes, or that gives frames away without a write of
    /// their entries. Each round reads the whole p2m and queries the owner of each frame.
    Full,
}

/// What to do about two pfns with one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AliasPolicy {
    /// The migration ends with an error that names both.
    #[default]
    Refuse,
    /// The bytes are sent to both; the destination has two frames.
    Copy,
}

/// What to do about a page table that names a frame of another domain when the guest is suspended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForeignPtePolicy {
    /// The migration ends with an error that names table, slot and frame.
    #[default]
    Refuse,
    /// The PTE becomes not present at the destination, and is counted.
    Clear,
}

/// The most frames of a domain that may have no pfn, or have pfns and not be the domain's, without
/// an error: 4 MiB. Linux moves at most 512 at a time between Xen and its pfns
/// (`docs/decisions/0021-the-books-balance.md`).
pub const UNACCOUNTED_FRAMES_MAX: u64 = 1024;

/// What to do if the frames that the domain holds and those that were sent differ by more than
/// [`UNACCOUNTED_FRAMES_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnaccountedPolicy {
    /// The migration ends with an error that gives the difference.
    #[default]
    Refuse,
    /// The difference is only reported.
    Report,
}

/// Which p2m entries and page table view the sender uses: how far what it sent is what the engine
/// gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sender {
    /// The sender sends each page by the entry that the engine gave it, and normalises page tables
    /// by the engine's view.
    #[default]
    Engine,
    /// The sender uses the given entry, and normalises page tables by its own mapping of p2m and
    /// m2p. The engine does not know what they name: all of them are uncertain whenever the p2m was
    /// written.
    CallerNormalises,
    /// As before, and the sender reads the entries, too, from its own live mapping of the p2m. A
    /// pfn that was taken in the last round, and whose leaf was written since, may have been sent
    /// under another entry: it is owed again.
    CallerReadsP2m,
}

/// The caller's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Threads that compare leaves; 0 and 1 mean the caller's own. A caller that is a worker of
    /// another rayon pool must use 1: while it waited for the engine's pool, it would begin other
    /// work on the same stack.
    pub threads: usize,
    /// The diff kernel; with `None`, the one that `P2MTRACK_KERNEL` names, or else the best one for
    /// this machine.
    pub kernel: Option<Kernel>,
    /// Forms of the shadow's leaves; with `None`, those that `P2MTRACK_SHADOW` names, or else the
    /// smallest ones.
    pub shadow: Option<Forms>,
    /// When the structure is walked.
    pub rewalk: Rewalk,
    /// How much is checked against the m2p.
    pub verify: Verify,
    /// Rounds in a row for which an uncertainty of one kind is tolerated while the guest runs.
    pub uncertain_rounds_max: u32,
    /// Two pfns with one frame.
    pub alias: AliasPolicy,
    /// Page tables with frames of another domain.
    pub foreign_pte: ForeignPtePolicy,
    /// Frames of the domain that no pfn has.
    pub unaccounted: UnaccountedPolicy,
    /// What the sender uses.
    pub sender: Sender,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            threads: 1,
            kernel: None,
            shadow: None,
            rewalk: Rewalk::default(),
            verify: Verify::default(),
            uncertain_rounds_max: 5,
            alias: AliasPolicy::default(),
            foreign_pte: ForeignPtePolicy::default(),
            unaccounted: UnaccountedPolicy::default(),
            sender: Sender::default(),
        }
    }
}
