// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a caller can choose.
//! Not here: anything about the guest, which the ports tell.
//! Units: threads, rounds.
//! Threads: plain values.
//! Source: policies of the outcome table, `docs/design.md`, "Outcomes".

use crate::diff::Kernel;
use crate::shadow::Forms;

/// When the structure is walked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rewalk {
    /// When something says that it changed.
    #[default]
    WhenNeeded,
    /// In every round, whatever is said: for recordings and for checks.
    EveryRound,
}

/// How much of the p2m is held against the m2p.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verify {
    /// While the guest runs what changed, when it stands still every entry of a dirty leaf.
    #[default]
    Dirty,
    /// Every entry, in every round, against the m2p and against the owner of its frame: finds a
    /// guest whose m2p lies about leaves that it never writes, or that gives frames away without a
    /// write of their entries. Costs a read of the whole p2m and a question for each frame a round.
    Full,
}

/// Two pfns, one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AliasPolicy {
    /// The migration ends with an error that names both.
    #[default]
    Refuse,
    /// The bytes are sent to both; the destination has two frames.
    Copy,
}

/// A page table that names a frame of another domain when the guest is suspended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForeignPtePolicy {
    /// The migration ends with an error that names table, slot and frame.
    #[default]
    Refuse,
    /// The PTE becomes not present at the destination, counted.
    Clear,
}

/// Frames of a domain that may be no pfn's, or pfns' and not the domain's, before it is an error: 4
/// MiB. Linux has at most 512 at a time on their way between Xen and a pfn
/// (`docs/decisions/0021-the-books-balance.md`).
pub const UNACCOUNTED_FRAMES_MAX: u64 = 1024;

/// The frames that the domain holds, and those that were sent or are known otherwise, differ by
/// more than real guests' ever do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnaccountedPolicy {
    /// The migration ends with an error that says by how many.
    #[default]
    Refuse,
    /// It is only reported.
    Report,
}

/// What whoever sends goes by: how far what was sent is what was handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sender {
    /// Each page is sent by the entry that it was handed out under, and page tables are normalised
    /// by the engine's view.
    #[default]
    Engine,
    /// Sent by the entry handed out; page tables are normalised by the sender's own mapping of p2m
    /// and m2p. What they name is not known: all of them are uncertain whenever the p2m was
    /// written.
    CallerNormalises,
    /// As before, and the entries are the sender's own, too, from its live mapping of the p2m. What
    /// was handed out in the last round, and lies in a leaf that was written since, may have been
    /// sent under another entry: it is owed again.
    CallerReadsP2m,
}

/// The caller's choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Threads that compare leaves; 0 and 1 mean the caller's own. A caller that is a worker of
    /// another rayon pool takes 1: while it waits for this one it would begin other work on the
    /// same stack.
    pub threads: usize,
    /// The diff kernel; `None` is what `P2MTRACK_KERNEL` says, or else the best one for this
    /// machine.
    pub kernel: Option<Kernel>,
    /// Forms of the shadow's leaves; `None` is what `P2MTRACK_SHADOW` says, or else the smallest
    /// ones.
    pub shadow: Option<Forms>,
    /// When the structure is walked.
    pub rewalk: Rewalk,
    /// How much is held against the m2p.
    pub verify: Verify,
    /// Rounds running for which an uncertainty of one kind is tolerated while the guest runs.
    pub uncertain_rounds_max: u32,
    /// Two pfns, one frame.
    pub alias: AliasPolicy,
    /// Page tables with frames of another domain.
    pub foreign_pte: ForeignPtePolicy,
    /// Frames of the domain that are no pfn's.
    pub unaccounted: UnaccountedPolicy,
    /// What whoever sends goes by.
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
