// SPDX-License-Identifier: MIT OR Apache-2.0
//! The view of p2m and m2p that a transport normalises page tables with.
//! Not here: the normalisation (`table`).
//! Units: frames and pfns of single PTEs.
//! Threads: the caller's; a view lives for one batch.
//! Source: the round trip `p2m[m2p[mfn]] = mfn`, which proves nothing about the owner; libxc
//! `x86_pv_normalise_page`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

use crate::bitmap::LINE_PFNS;
use crate::config::ForeignPtePolicy;
use crate::destination::Destination;
use crate::frame::{FrameType, Mfn, Pfn, Width};
use crate::leaf::{FRAME_WORDS, Leaf};
use crate::ledger::Ledger;
use crate::named_pfns::NamedPfns;
use crate::p2m::{Layout, P2m};
use crate::port::{FrameTypes, Guest, M2p, P2mSource};
use crate::round::Round;
use crate::send::plain::Plain;
use crate::shard::Shards;
use crate::table::{
    PTE_PRESENT, Resolved, TableCause, TableCopy, TableFault, TableView, normalise, pte_mfn,
};

/// A view for one batch.
pub(crate) struct View<'a> {
    layout: &'a Layout,
    p2m: &'a dyn P2mSource,
    m2p: &'a dyn M2p,
    ledger: &'a Ledger,
    destination: &'a Destination,
    types: RefCell<&'a mut dyn FrameTypes>,
    foreign_pte: ForeignPtePolicy,
    suspended: bool,
    /// It is suspended, and every leaf was compared with what was settled.
    at_rest: bool,
    notes: &'a Notes,
    shards: &'a Shards,
}

/// A table that is looked at PTE by PTE: its fault, if it has one, is not known yet.
const NOT_PLAIN: TableFault =
    TableFault { level: 0, slot: 0, mfn: Mfn(0), cause: TableCause::Unsaid };

/// What is found while the tables of a batch are normalised.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Frames named by PTEs, with pfns that were not accepted with them (yet).
    named: RefCell<Vec<(Mfn, Pfn)>>,
    /// What the tables name, by table.
    named_by: RefCell<HashMap<Pfn, NamedPfns>>,
    /// Frames of other domains whose PTEs were made not present, by table.
    cleared: RefCell<BTreeMap<Pfn, Vec<Mfn>>>,
    /// A query failed: no table fault of this batch is final.
    unsure: Cell<bool>,
    /// One bit for each line of pfns; kept for its memory.
    owed_lines: RefCell<Vec<u64>>,
    /// Frames that were queried: whether they are another domain's. A table may name one in each of
    /// its slots.
    foreign: RefCell<BTreeMap<Mfn, bool>>,
}

impl Notes {
    /// Takes what was named.
    pub(crate) fn take_named(&mut self) -> Vec<(Mfn, Pfn)> {
        std::mem::take(self.named.get_mut())
    }

    /// Takes what a table names; `None` if it was not normalised here.
    pub(crate) fn take_named_by(&mut self, table: Pfn) -> Option<NamedPfns> {
        self.named_by.get_mut().remove(&table)
    }

    /// A table may be normalised more than once: any of its copies may be what is sent.
    fn add_named_by(&self, table: Pfn, named: NamedPfns) {
        let mut tables = self.named_by.borrow_mut();
        tables.entry(table).and_modify(|before| *before = before.or(named)).or_insert(named);
    }

    /// Takes what was cleared in a table.
    pub(crate) fn take_cleared_in(&mut self, table: Pfn) -> Option<Vec<Mfn>> {
        self.cleared.get_mut().remove(&table)
    }

    /// Takes whether a query failed.
    pub(crate) fn take_unsure(&mut self) -> bool {
        self.unsure.take()
    }

    /// Forgets the rest.
    pub(crate) fn end(&mut self) {
        self.foreign.get_mut().clear();
        self.cleared.get_mut().clear();
        self.named_by.get_mut().clear();
    }
}

impl<'a> View<'a> {
    /// A view for one batch.
    pub(crate) fn new(
        round: &'a Round,
        p2m: &'a P2m,
        ledger: &'a Ledger,
        destination: &'a Destination,
        guest: &'a mut Guest<'_>,
        notes: &'a Notes,
    ) -> Self {
        Self {
            layout: &p2m.layout,
            at_rest: round.is_suspended() && !p2m.is_open(),
            p2m: guest.p2m,
            m2p: guest.m2p,
            ledger,
            destination,
            types: RefCell::new(guest.types),
            foreign_pte: round.config.foreign_pte,
            suspended: round.is_suspended(),
            notes,
            shards: &round.shards,
        }
    }

    /// Resolves a frame that has no pfn. While the guest runs it stays unresolved.
    fn owner(&self, table: Pfn, mfn: Mfn) -> Resolved {
        if !self.suspended {
            return Resolved::Unresolved;
        }
        if self.is_foreign(mfn) != Some(true) {
            return Resolved::Unresolved;
        }
        match self.foreign_pte {
            ForeignPtePolicy::Refuse => Resolved::Foreign,
            ForeignPtePolicy::Clear => {
                self.notes.cleared.borrow_mut().entry(table).or_default().push(mfn);
                Resolved::Clear
            }
        }
    }

    /// Whether live entries need not be read: those of a suspended guest are what was settled,
    /// except of pfns that are owed. To find where these are costs a bit for each line of pfns, and
    /// has to be less than what it saves. Without a batch the guest may run again.
    fn knows_live_entries(&self, tables: usize) -> bool {
        let words = self.layout.pfns() / (64 * LINE_PFNS);
        self.at_rest
            && !self.ledger.pages().is_empty()
            && words <= (tables * FRAME_WORDS / 8) as u64
    }

    /// Whether a frame is another domain's; `None` if the query failed. Each is queried once.
    fn is_foreign(&self, mfn: Mfn) -> Option<bool> {
        if mfn.0 >= self.m2p.frames() {
            return Some(true);
        }
        if let Some(&foreign) = self.notes.foreign.borrow().get(&mfn) {
            return Some(foreign);
        }
        let mut kind = [FrameType::Data];
        if self.types.borrow_mut().query(&[mfn], &mut kind).is_err() {
            self.notes.unsure.set(true);
            return None; // queried again next time
        }
        let foreign = kind[0] == FrameType::NotOwned;
        self.notes.foreign.borrow_mut().insert(mfn, foreign);
        Some(foreign)
    }
}

impl TableView for View<'_> {
    fn width(&self) -> Width {
        self.layout.width()
    }

    fn begin(&self, table: Pfn) {
        self.notes.cleared.borrow_mut().remove(&table);
    }

    fn resolve(&self, table: Pfn, mfn: Mfn) -> Resolved {
        let pfn = self.m2p.pfn(mfn).filter(|pfn| pfn.0 < self.layout.pfns());
        let Some(pfn) = pfn.filter(|&pfn| self.layout.names(self.p2m, pfn, mfn)) else {
            return self.owner(table, mfn);
        };
        // p2m and m2p name each other, but the frame may still be another domain's, which has it at
        // the same pfn.
        if !self.destination.is_settled_with(pfn, mfn) {
            match self.is_foreign(mfn) {
                None => return Resolved::Unresolved,
                Some(true) => return self.owner(table, mfn),
                Some(false) => self.notes.named.borrow_mut().push((mfn, pfn)),
            }
        }
        Resolved::Pfn(pfn)
    }

    fn is_compat_m2p(&self, mfn: Mfn) -> bool {
        self.m2p.compat_frame() == Some(mfn)
    }

    fn normalise_all(&self, tables: &mut [TableCopy]) {
        tables.iter().for_each(|table| self.begin(table.pfn));
        let Self { layout, p2m, m2p, destination, .. } = *self;
        let mut lines = self.notes.owed_lines.borrow_mut();
        let owed = self.knows_live_entries(tables.len()).then(|| {
            self.ledger.owed_lines(&mut lines);
            &lines[..]
        });
        let plain = Plain { layout, p2m, m2p, destination, owed };
        self.shards.each_mut(tables, |table| match plain.normalise(table) {
            Some(named) => (table.fault, table.named) = (None, named),
            None => table.fault = Some(NOT_PLAIN),
        });
        for table in tables {
            match table.fault {
                None => self.notes.add_named_by(table.pfn, table.named),
                Some(_) => {
                    table.fault = normalise(table.pfn, table.level, &mut table.words, self).err();
                }
            }
        }
    }

    fn normalised(&self, table: Pfn, words: &Leaf) {
        let present = words.words.iter().filter(|&pte| pte & PTE_PRESENT != 0);
        let pfns = present.map(|&pte| Pfn(pte_mfn(pte).0));
        self.notes.add_named_by(table, NamedPfns::of(pfns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p2m::tests::{Nowhere, layout_of};

    struct NoTypes;

    impl FrameTypes for NoTypes {
        fn query(&mut self, _: &[Mfn], _: &mut [FrameType]) -> Result<(), crate::port::PortError> {
            Err("no query is expected".into())
        }
    }

    /// Every frame is another domain's.
    #[derive(Default)]
    struct Strangers {
        asked: Vec<Mfn>,
        fails: bool,
    }

    impl FrameTypes for Strangers {
        fn query(
            &mut self,
            frames: &[Mfn],
            types: &mut [FrameType],
        ) -> Result<(), crate::port::PortError> {
            self.asked.extend(frames);
            types.fill(FrameType::NotOwned);
            if self.fails { Err("not now".into()) } else { Ok(()) }
        }
    }

    #[test]
    fn law_6_a_frame_in_every_slot_is_queried_once() {
        let layout = layout_of(Width::W64, &[Mfn(7)], 1, Mfn(7));
        let ports = Nowhere { width: Width::W64, compat: None };
        for (fails, asked) in [(false, vec![Mfn(3), Mfn(4)]), (true, vec![Mfn(3), Mfn(4), Mfn(3)])]
        {
            let notes = Notes::default();
            let mut types = Strangers { fails, ..Strangers::default() };
            let view = View {
                layout: &layout,
                p2m: &ports,
                m2p: &ports,
                ledger: &Ledger::new(),
                destination: &Destination::new(Width::W64, None).expect("forms"),
                types: RefCell::new(&mut types),
                foreign_pte: ForeignPtePolicy::Clear,
                suspended: true,
                at_rest: true,
                notes: &notes,
                shards: &Shards::new(1).expect("no threads"),
            };
            let answers = [3, 4, 3].map(|mfn| view.resolve(Pfn(1), Mfn(mfn)));
            let expected = if fails { Resolved::Unresolved } else { Resolved::Clear };
            assert_eq!(answers, [expected; 3]);
            let cleared: usize = notes.cleared.borrow().values().map(Vec::len).sum();
            assert_eq!((notes.unsure.get(), cleared), (fails, if fails { 0 } else { 3 }));
            assert_eq!(types.asked, asked);
        }
    }

    #[test]
    fn only_the_machines_own_frame_marks_xens_slots() {
        let layout = layout_of(Width::W32, &[Mfn(7)], 1, Mfn(7));
        for (compat, frame, is_compat) in
            [(Some(Mfn(5)), 5, true), (Some(Mfn(5)), 6, false), (None, 5, false)]
        {
            let (notes, mut types) = (Notes::default(), NoTypes);
            let ports = Nowhere { width: Width::W32, compat };
            let view = View {
                layout: &layout,
                p2m: &ports,
                m2p: &ports,
                ledger: &Ledger::new(),
                destination: &Destination::new(Width::W32, None).expect("forms"),
                types: RefCell::new(&mut types),
                foreign_pte: ForeignPtePolicy::Refuse,
                suspended: true,
                at_rest: true,
                notes: &notes,
                shards: &Shards::new(1).expect("no threads"),
            };
            assert_eq!(view.is_compat_m2p(Mfn(frame)), is_compat);
        }
    }
}
