// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queries the owners of frames whose entries did not change, and owes the pfns that got or lost
//! their frame by a change of owner.
//! Not here: which entries those are (`p2m::Recheck`), what becomes of an owed pfn (`resolve`).
//! Units: at most `QUERY_FRAMES_MAX` frames a query.
//! Threads: the owner's.
//! Source: `docs/design.md`, "Completeness"; an entry settled as no frame is never equal to one
//! that has a frame.

use crate::cause::Cause;
use crate::destination::Destination;
use crate::frame::{Claim, Entry, FrameType, LeafIndex, Mfn, Pfn};
use crate::leaf::Leaf;
use crate::ledger::Ledger;
use crate::p2m::P2m;
use crate::port::{Guest, PortError, QUERY_FRAMES_MAX};
use crate::round::Round;
use crate::shadow::EmptyLeaves;
use crate::uncertainty::Uncertainty;

/// An entry that names a frame of the machine.
#[derive(Clone, Copy, Debug)]
struct Question {
    pfn: Pfn,
    mfn: Mfn,
    /// Linux's foreign tag: the frame is the pfn's own only if the m2p says so.
    tagged: bool,
}

/// Makes all queries that are due. If one fails, they stay due.
pub(crate) fn ask(
    round: &mut Round,
    p2m: &mut P2m,
    ledger: &Ledger,
    destination: &Destination,
    guest: &mut Guest<'_>,
) {
    let suspended = round.is_suspended();
    if !p2m.recheck.are_due(suspended) {
        return;
    }
    let mut questions = Questions { ledger, destination, asked: Vec::new() };
    match questions.put_all(p2m, guest, suspended) {
        Ok(()) => p2m.recheck.asked(suspended),
        Err(error) => {
            round.note(Uncertainty::QueryFailed);
            p2m.recheck.fail(error);
        }
    }
}

/// Queries that are to be made.
struct Questions<'a> {
    ledger: &'a Ledger,
    destination: &'a Destination,
    asked: Vec<Question>,
}

impl Questions<'_> {
    fn put_all(
        &mut self,
        p2m: &P2m,
        guest: &mut Guest<'_>,
        suspended: bool,
    ) -> Result<(), PortError> {
        let (sent, shadow) = (&self.destination.sent, &self.destination.shadow);
        if p2m.recheck.are_due_of_foreign() {
            for pfn in sent.foreign() {
                self.add(guest, pfn, shadow.entry(pfn));
                self.put(guest, QUERY_FRAMES_MAX)?;
            }
        }
        let mut empty = EmptyLeaves::new(guest.m2p.frames());
        for leaf in p2m.recheck.due(suspended, p2m.layout.tracked()) {
            if empty.has(&shadow.base(leaf), shadow.width()) {
                continue;
            }
            self.add_leaf(guest, leaf, p2m.layout.pfns());
            self.put(guest, QUERY_FRAMES_MAX)?;
        }
        self.put(guest, 1)
    }

    /// Adds what a leaf of the shadow names.
    fn add_leaf(&mut self, guest: &Guest<'_>, leaf: LeafIndex, pfns: u64) {
        let (shadow, mut copy) = (&self.destination.shadow, Leaf::default());
        shadow.read(leaf, &mut copy);
        let first = shadow.width().first_pfn(leaf).0;
        for (pfn, entry) in (first..pfns).zip(copy.entries(shadow.width())) {
            self.add(guest, Pfn(pfn), entry);
        }
    }

    /// Adds the query for a pfn, if it needs one: the frame of an owed pfn is queried in any case.
    fn add(&mut self, guest: &Guest<'_>, pfn: Pfn, entry: Entry) {
        let (mfn, tagged) = match entry.claim(self.destination.shadow.width()) {
            Claim::Frame(mfn) => (mfn, false),
            Claim::Foreign(mfn) => (mfn, true),
            Claim::Invalid | Claim::Identity => return,
        };
        if mfn.0 < guest.m2p.frames() && !self.ledger.bitmap.is_owed(pfn) {
            self.asked.push(Question { pfn, mfn, tagged });
        }
    }

    /// Makes the queries, as long as there are at least `enough`.
    fn put(&mut self, guest: &mut Guest<'_>, enough: usize) -> Result<(), PortError> {
        while self.asked.len() >= enough {
            let now = self.asked.drain(..self.asked.len().min(QUERY_FRAMES_MAX));
            let now: Vec<_> = now.collect();
            let frames: Vec<_> = now.iter().map(|question| question.mfn).collect();
            let mut kinds = vec![FrameType::Data; frames.len()];
            guest.types.query(&frames, &mut kinds)?;
            for (Question { pfn, mfn, tagged }, kind) in now.into_iter().zip(kinds) {
                let ours = kind != FrameType::NotOwned;
                let populated = ours && (!tagged || guest.m2p.pfn(mfn) == Some(pfn));
                if populated == self.destination.sent.is_foreign(pfn) {
                    self.ledger.bitmap.mark(pfn, Cause::Uncertain);
                }
            }
        }
        Ok(())
    }
}
