// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decides what is done about an owed pfn: the checks of p2m, m2p and type, and the outcome table.
//! Not here: sending (`send`), page tables' contents (`table`, `send::view`).
//! Units: pfns of one batch, at most `QUERY_FRAMES_MAX`.
//! Threads: the caller's.
//! Source: `docs/design.md`, "Outcomes": one test per row.

use crate::config::{AliasPolicy, Config};
use crate::destination::Footing;
use crate::error::{EntryCause, Error};
use crate::frame::{Claim, Entry, FrameType, Mfn, Pfn};
use crate::p2m::Layout;
use crate::port::{Deferral, FrameTypes, M2p, P2mSource, Page};

/// What is done about an owed pfn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its page is sent.
    Send {
        page: Page,
        /// Whether log-dirty names this pfn when the frame is written.
        footing: Footing,
    },
    /// It has no frame: nothing is sent.
    Unpopulated {
        entry: Entry,
        /// The entry names something that is not the domain's.
        foreign: bool,
    },
    /// It is deferred.
    Wait(Deferral),
    /// It is deferred because p2m and m2p give its frame to this other pfn.
    WaitBeside(Pfn),
}

/// Everything that a decision reads.
pub(crate) struct Resolver<'a> {
    pub(crate) config: &'a Config,
    pub(crate) layout: &'a Layout,
    pub(crate) p2m: &'a dyn P2mSource,
    pub(crate) m2p: &'a dyn M2p,
    /// The guest is suspended: the table decides every pfn, none waits for its m2p.
    pub(crate) suspended: bool,
}

/// A pfn whose entry names a frame that exists.
struct Candidate {
    index: usize,
    entry: Entry,
    mfn: Mfn,
    /// Linux's foreign tag: a grant mapping, unless the frame turns out to be the pfn's own.
    tagged: bool,
}

impl Resolver<'_> {
    /// Decides a batch; one outcome per pfn, in order. Returns whether the type query worked.
    ///
    /// # Errors
    /// [`Error::Entry`] for a broken frame, or for an alias that the policy refuses.
    pub(crate) fn run(
        &self,
        types: &mut dyn FrameTypes,
        pfns: &[Pfn],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<bool, Error> {
        outcomes.clear();
        let mut candidates = Vec::with_capacity(pfns.len());
        for (index, &pfn) in pfns.iter().enumerate() {
            outcomes.push(self.claim(index, pfn, &mut candidates));
        }
        let frames: Vec<_> = candidates.iter().map(|candidate| candidate.mfn).collect();
        let mut found = vec![FrameType::NotOwned; frames.len()];
        if frames.is_empty() {
            return Ok(true);
        }
        if types.query(&frames, &mut found).is_err() {
            for candidate in candidates {
                outcomes[candidate.index] = Outcome::Wait(Deferral::QueryFailed);
            }
            return Ok(false);
        }
        for (candidate, kind) in candidates.into_iter().zip(found) {
            outcomes[candidate.index] = self.settle(pfns[candidate.index], &candidate, kind)?;
        }
        Ok(true)
    }

    /// Reads the live entry, once. Entries that can't name a frame are decided here.
    fn claim(&self, index: usize, pfn: Pfn, candidates: &mut Vec<Candidate>) -> Outcome {
        let Some(entry) = self.layout.entry(self.p2m, pfn) else {
            return Outcome::Wait(Deferral::LeafUnmapped);
        };
        let (mfn, tagged) = match entry.claim(self.layout.width()) {
            Claim::Invalid => return Outcome::Unpopulated { entry, foreign: false },
            Claim::Identity => return Outcome::Unpopulated { entry, foreign: true },
            Claim::Foreign(mfn) => (mfn, true),
            Claim::Frame(mfn) => (mfn, false),
        };
        if mfn.0 < self.m2p.frames() {
            candidates.push(Candidate { index, entry, mfn, tagged });
        }
        Outcome::Unpopulated { entry, foreign: true }
    }

    /// The outcome table.
    fn settle(&self, pfn: Pfn, candidate: &Candidate, kind: FrameType) -> Result<Outcome, Error> {
        let &Candidate { entry, mfn, tagged, .. } = candidate;
        let foreign = Outcome::Unpopulated { entry, foreign: true };
        let send = |footing| Ok(Outcome::Send { page: Page { pfn, mfn, entry, kind }, footing });
        let named = self.m2p.pfn(mfn);
        match kind {
            FrameType::NotOwned if tagged || self.suspended => Ok(foreign),
            FrameType::NotOwned => Ok(Outcome::Wait(Deferral::NotOwned)),
            FrameType::Broken => {
                Err(Error::Entry { pfn, mfn: Some(mfn), cause: EntryCause::Broken })
            }
            _ if named == Some(pfn) => send(Footing::Sound),
            // A frame of the domain, granted to itself and mapped here: it is another pfn's.
            _ if tagged => Ok(foreign),
            _ => match named.filter(|&other| self.names(other, mfn)) {
                None if !self.suspended => Ok(Outcome::Wait(Deferral::M2pMismatch)),
                Some(other) if !self.suspended => Ok(Outcome::WaitBeside(other)),
                None => send(Footing::Stale),
                Some(twin) if self.config.alias == AliasPolicy::Copy => send(Footing::Alias(twin)),
                Some(other) => {
                    Err(Error::Entry { pfn, mfn: Some(mfn), cause: EntryCause::Alias(other) })
                }
            },
        }
    }

    /// Whether the live entry of `pfn` names `mfn`.
    fn names(&self, pfn: Pfn, mfn: Mfn) -> bool {
        self.layout.names(self.p2m, pfn, mfn)
    }
}
