// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asks who owns the frames of entries that nobody changed, and owes the pfns of which something else is true now.
//! Not here: which entries those are (`crate::owners`), what becomes of an owed pfn (`resolve`).
//! Units: at most `QUERY_FRAMES_MAX` frames a question.
//! Threads: the owner's.
//! Source: `docs/design.md`, "Completeness"; an entry settled as no frame is never equal to one that has a frame.

use super::Tracker;
use super::barren::Barren;
use crate::cause::Cause;
use crate::doubt::Doubt;
use crate::frame::{Claim, Entry, FrameType, LeafIndex, Mfn, Pfn};
use crate::leaf::Leaf;
use crate::port::{PortError, Ports, QUERY_FRAMES_MAX};

/// An entry that names a frame of the machine.
#[derive(Clone, Copy, Debug)]
struct Question {
    pfn: Pfn,
    mfn: Mfn,
    /// Linux's foreign tag: the frame is the pfn's own only if the m2p says so.
    tagged: bool,
}

impl Tracker {
    /// Whether there is anything to be asked in this round.
    pub(crate) const fn owners_are_due(&self) -> bool {
        self.owners.are_due(self.report.stage.is_suspended())
    }

    /// Takes why the last question has no answer, if it has none.
    pub(crate) const fn take_owners_failed(&mut self) -> Option<PortError> {
        self.owners.take_failed()
    }

    /// Asks all that is due. If nobody answers, it stays so.
    pub(crate) fn ask_owners(&mut self, ports: &mut Ports<'_>) {
        if !self.owners_are_due() {
            return;
        }
        match self.put_all(ports) {
            Ok(()) => self.owners.asked(self.report.stage.is_suspended()),
            Err(error) => {
                self.doubts.mark(Doubt::QueryFailed);
                self.owners.fail(error);
            }
        }
    }

    fn put_all(&self, ports: &mut Ports<'_>) -> Result<(), PortError> {
        let mut questions = Vec::with_capacity(2 * QUERY_FRAMES_MAX);
        if self.owners.are_due_of_foreign() {
            for pfn in self.sent.foreign() {
                questions.extend(self.question(ports, pfn, self.shadow.entry(pfn)));
                self.put(ports, &mut questions, QUERY_FRAMES_MAX)?;
            }
        }
        let suspended = self.report.stage.is_suspended();
        let mut barren = Barren::new(ports.m2p.frames());
        for leaf in self.owners.due(suspended, self.layout.tracked()) {
            if barren.has(&self.shadow.base(leaf), self.width) {
                continue;
            }
            self.question_leaf(ports, leaf, &mut questions);
            self.put(ports, &mut questions, QUERY_FRAMES_MAX)?;
        }
        self.put(ports, &mut questions, 1)
    }

    /// Adds what a leaf of the shadow names.
    fn question_leaf(&self, ports: &Ports<'_>, leaf: LeafIndex, into: &mut Vec<Question>) {
        let mut copy = Leaf::default();
        self.shadow.read(leaf, &mut copy);
        let first = self.width.first_pfn(leaf).0;
        let entries = (first..self.layout.pfns()).zip(copy.entries(self.width));
        into.extend(entries.filter_map(|(pfn, entry)| self.question(ports, Pfn(pfn), entry)));
    }

    /// What has to be asked about a pfn, if anything: of one that is owed, everything is asked anyway.
    fn question(&self, ports: &Ports<'_>, pfn: Pfn, entry: Entry) -> Option<Question> {
        let (mfn, tagged) = match entry.claim(self.width) {
            Claim::Frame(mfn) => (mfn, false),
            Claim::Foreign(mfn) => (mfn, true),
            Claim::Invalid | Claim::Identity => return None,
        };
        let asked = mfn.0 < ports.m2p.frames() && !self.resend.is_owed(pfn);
        asked.then_some(Question { pfn, mfn, tagged })
    }

    /// Asks, as long as there are at least `enough`.
    fn put(
        &self,
        ports: &mut Ports<'_>,
        questions: &mut Vec<Question>,
        enough: usize,
    ) -> Result<(), PortError> {
        while questions.len() >= enough {
            let now: Vec<_> = questions.drain(..questions.len().min(QUERY_FRAMES_MAX)).collect();
            let frames: Vec<_> = now.iter().map(|question| question.mfn).collect();
            let mut kinds = vec![FrameType::Data; frames.len()];
            ports.types.query(&frames, &mut kinds)?;
            for (Question { pfn, mfn, tagged }, kind) in now.into_iter().zip(kinds) {
                let ours = kind != FrameType::NotOwned;
                let populated = ours && (!tagged || ports.m2p.pfn(mfn) == Some(pfn));
                if populated == self.sent.is_foreign(pfn) {
                    self.resend.mark(pfn, Cause::Doubt);
                }
            }
        }
        Ok(())
    }
}
