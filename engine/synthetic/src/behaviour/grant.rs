// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest as a backend: frames of other domains in its p2m and, for a while, in its page tables.
//! Not here: the guest's own frames in the hands of a backend (`backend`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: Linux `set_foreign_p2m_mapping`; the m2p overrides of 3.x kernels.

use crate::behaviour::Plan;
use crate::program::{Name, Step, Val};

/// How long a PTE to a foreign frame is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pte {
    /// Gone before any suspend.
    Brief,
    /// A suspend may come before it goes.
    Stays,
}

impl Plan<'_> {
    /// A foreign frame at a ballooned pfn, and away again.
    pub(super) fn grant_map(&mut self) -> Option<()> {
        let (pfn, mfn) = (self.hole()?, self.foreign()?);
        self.push(Step::Entry { pfn, name: Name::Foreign(Val::Is(mfn)) });
        let wait = self.dice().between(1, 4);
        self.push(Step::AwaitRounds(wait));
        let nothing = Step::Entry { pfn, name: Name::Nothing };
        if self.chance(2, 3) {
            self.extend([nothing, Step::UnmapForeign(Val::Is(mfn))]);
        } else {
            self.section([Step::UnmapForeign(Val::Is(mfn)), nothing]);
        }
        Some(())
    }

    /// An old kernel lays a foreign frame over a page that has one, and restores the entry later.
    pub(super) fn overlay(&mut self) -> Option<()> {
        let ((pfn, own), mfn) = (self.unmapped_data()?, self.foreign()?);
        if self.chance(1, 2) {
            self.push(Step::Write(Val::Is(own)));
        }
        self.push(Step::Entry { pfn, name: Name::Foreign(Val::Is(mfn)) });
        let wait = self.dice().between(1, 4);
        self.extend([
            Step::AwaitRounds(wait),
            Step::Entry { pfn, name: Name::Frame(Val::Is(own)) },
            Step::UnmapForeign(Val::Is(mfn)),
        ]);
        Some(())
    }

    /// The same with a frame granted to oneself, for a moment: the entry is as it was before anybody looks again.
    pub(super) fn self_overlay(&mut self) -> Option<()> {
        let ((pfn, own), (_, other)) = (self.unmapped_data()?, self.data()?);
        let wait = self.maybe_wait();
        self.extend([Step::Open, Step::Entry { pfn, name: Name::Foreign(Val::Is(other)) }]);
        self.extend(wait);
        self.extend([Step::Entry { pfn, name: Name::Frame(Val::Is(own)) }, Step::Close]);
        Some(())
    }

    /// A frame granted to oneself: its entry is tagged, and for a while a second pfn names it too.
    pub(super) fn self_grant(&mut self) -> Option<()> {
        let (pfn, mfn) = self.data()?;
        self.push(Step::Entry { pfn, name: Name::Foreign(Val::Is(mfn)) });
        if self.chance(1, 2) {
            let alias = self.hole()?;
            let wait = self.maybe_wait();
            self.push(Step::Open);
            self.push(Step::Entry { pfn: alias, name: Name::Foreign(Val::Is(mfn)) });
            self.extend(wait);
            self.extend([Step::Entry { pfn: alias, name: Name::Nothing }, Step::Close]);
        }
        let wait = self.dice().between(1, 3);
        self.push(Step::AwaitRounds(wait));
        if self.chance(1, 2) {
            self.push(Step::Write(Val::Is(mfn)));
        }
        self.push(Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) });
        Some(())
    }

    /// A PTE to a foreign frame, gone before any suspend.
    pub(super) fn foreign_pte(&mut self) -> Option<()> {
        let (table, mfn) = (self.own_table()?, self.foreign()?);
        let slot = self.unused_slot(table)?;
        let wait = self.maybe_wait();
        self.extend([Step::Open, Step::Pte { table, slot, to: Some(Val::Is(mfn)) }]);
        self.extend(wait);
        self.extend([
            Step::Pte { table, slot, to: None },
            Step::Close,
            Step::UnmapForeign(Val::Is(mfn)),
        ]);
        Some(())
    }

    /// A foreign frame at a ballooned pfn which is also the one that its own domain has it at, so that p2m and m2p agree
    /// on a frame of somebody else; perhaps with a PTE.
    pub(super) fn same_pfn(&mut self, pte: Pte) -> Option<()> {
        let pfn = self.hole()?;
        let slot = if pte == Pte::Stays || self.chance(1, 2) {
            let table = self.own_table()?;
            Some((table, self.unused_slot(table)?))
        } else {
            None
        };
        let mfn = self.foreign()?;
        let name = self.foreign_name(Val::Is(mfn));
        let mut mapped = vec![Step::TheirPfn { mfn, pfn }, Step::Entry { pfn, name }];
        let wait = self.dice().between(1, 4);
        let mut unmapped = vec![Step::Entry { pfn, name: Name::Nothing }];
        if let Some((table, slot)) = slot {
            mapped.push(Step::Pte { table, slot, to: Some(Val::Is(mfn)) });
            unmapped.push(Step::Pte { table, slot, to: None });
        }
        self.dice().shuffle(&mut mapped);
        self.dice().shuffle(&mut unmapped);
        let brief = slot.is_some() && pte == Pte::Brief;
        self.extend(brief.then_some(Step::Open));
        self.extend(mapped);
        self.push(Step::AwaitRounds(wait));
        self.extend(unmapped);
        self.extend(brief.then_some(Step::Close));
        self.push(Step::UnmapForeign(Val::Is(mfn)));
        Some(())
    }

    /// How an entry names a foreign frame: Linux tags it, others do not.
    pub(super) fn foreign_name(&mut self, frame: Val) -> Name {
        if self.chance(1, 2) { Name::Foreign(frame) } else { Name::Frame(frame) }
    }
}
