// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables of the guest's processes: made, written, pinned, freed and used as data again.
//! Not here: the page tables of the linear list (`reshape`).
//! Units: pfn and mfn as plain numbers; slots below 512.
//! Threads: under the world's lock.
//! Source: Linux `xen_pgd_pin`, `xen_alloc_pte`; a table is filled as data, then pinned or hung below another.

use p2mtrack::leaf::FRAME_WORDS;
use p2mtrack::table::PTE_PRESENT;

use crate::behaviour::Plan;
use crate::page_table::pte;
use crate::program::{Step, Val};
use crate::world::World;

impl Plan<'_> {
    /// Takes a level 1 table of a process.
    pub(super) fn own_table(&mut self) -> Option<u64> {
        let lower: Vec<u64> = {
            let World { guest, xen, .. } = &*self.world;
            let level = |mfn: &u64| xen.machine.level(*mfn) == 1;
            guest.tables.iter().filter(|t| t.1 == 1).map(|t| t.0).filter(level).collect()
        };
        let table = (!lower.is_empty()).then(|| self.dice().pick(&lower))?;
        self.claim(self.machine().m2p.pfn(table)?)?;
        Some(table)
    }

    /// A slot of a table without a PTE.
    pub(super) fn unused_slot(&mut self, table: u64) -> Option<u16> {
        (0..8).find_map(|_| {
            let slot = self.dice().index(FRAME_WORDS);
            (self.machine().word(table, slot) & PTE_PRESENT == 0).then_some(slot as u16)
        })
    }

    /// A page is filled with PTEs and becomes a table.
    pub(super) fn table_made(&mut self) -> Option<()> {
        if self.world.guest.tables.len() > 64 {
            return None;
        }
        let (_, table) = self.data()?;
        self.push(Step::Fill { mfn: table, word: 0 });
        for _ in 0..self.dice().magnitude(12) {
            let Some((_, target)) = self.data() else { break };
            let index = self.dice().index(FRAME_WORDS);
            self.push(Step::Word { mfn: table, index, word: pte(target) });
        }
        if self.chance(1, 2) {
            self.push(Step::Pin { mfn: table, level: 1 });
        } else {
            let upper: Vec<u64> = {
                let World { guest, xen, .. } = &*self.world;
                let level = |mfn: &u64| xen.machine.level(*mfn) == 2;
                guest.tables.iter().map(|t| t.0).filter(level).collect()
            };
            let upper = (!upper.is_empty()).then(|| self.dice().pick(&upper))?;
            self.claim(self.machine().m2p.pfn(upper)?)?;
            let slot = self.unused_slot(upper)?;
            self.push(Step::Pte { table: upper, slot, to: Some(Val::Is(table)) });
        }
        self.push(Step::ListTable { mfn: table, level: 1, listed: true });
        Some(())
    }

    /// A level 2 table over new level 1 tables is pinned in pieces, is a table for a while, and is taken apart in pieces;
    /// the guest may be suspended between any two of them.
    pub(super) fn table_in_pieces(&mut self) -> Option<()> {
        let (_, upper) = self.unmapped_data()?;
        let mut pages = vec![upper];
        self.push(Step::Fill { mfn: upper, word: 0 });
        for _ in 0..self.dice().between(2, 6) {
            let Some((_, lower)) = self.unmapped_data() else { break };
            self.push(Step::Fill { mfn: lower, word: 0 });
            for _ in 0..self.dice().magnitude(4) {
                let Some((_, target)) = self.data() else { break };
                let index = self.dice().index(FRAME_WORDS);
                self.push(Step::Word { mfn: lower, index, word: pte(target) });
            }
            let index = self.dice().index(FRAME_WORDS);
            self.push(Step::Word { mfn: upper, index, word: pte(lower) });
            pages.push(lower);
        }
        let slots = self.dice().pick(&[64, 128, 200, 400]);
        self.pieces(Step::PinPiece { mfn: upper, level: 2, slots }, slots);
        let wait = self.maybe_wait();
        self.extend(wait);
        self.pieces(Step::UnpinPiece { mfn: upper, slots }, slots);
        for mfn in pages {
            if self.chance(1, 2) {
                self.push(Step::Write(Val::Is(mfn)));
            }
        }
        Some(())
    }

    fn pieces(&mut self, piece: Step, slots: usize) {
        for _ in 0..FRAME_WORDS.div_ceil(slots) {
            self.push(piece);
            let wait = self.maybe_wait();
            self.extend(wait);
        }
    }

    /// PTEs come and go.
    pub(super) fn table_written(&mut self) -> Option<()> {
        let table = self.own_table()?;
        for _ in 0..self.dice().magnitude(6) {
            let clear = self.chance(1, 3);
            let slot = self.dice().index(FRAME_WORDS) as u16;
            let to = if clear { None } else { Some(Val::Is(self.data()?.1)) };
            self.push(Step::Pte { table, slot, to });
        }
        Some(())
    }

    /// A table is taken down and used as data, or ballooned out.
    pub(super) fn table_freed(&mut self) -> Option<()> {
        if self.world.guest.tables.len() < 6 {
            return None;
        }
        let table = self.own_table()?;
        let pfn = self.machine().m2p.pfn(table)?;
        let holders = self.clear_ptes(table)?;
        self.push(Step::ListTable { mfn: table, level: 1, listed: false });
        self.extend(holders);
        self.push(Step::Unpin(table));
        if self.chance(1, 3) {
            return Some(());
        }
        let wait = self.maybe_wait();
        self.extend(wait);
        self.push(Step::Write(Val::Is(table)));
        if self.chance(1, 2) && self.has_frames_to_spare().is_some() {
            let steps = self.page_out_plain(pfn, table);
            self.extend(steps);
        }
        Some(())
    }

    /// A page out that no PTE names by then.
    fn page_out_plain(&mut self, pfn: u64, mfn: u64) -> Vec<Step> {
        use crate::program::Name;
        let mut steps = vec![Step::Entry { pfn, name: Name::Nothing }];
        steps.extend(self.maybe_wait());
        steps.push(Step::Decrease(Val::Is(mfn)));
        steps
    }

    /// A table below another is pinned or unpinned.
    pub(super) fn table_pinned(&mut self) -> Option<()> {
        let table = self.own_table()?;
        let held = {
            let machine = self.machine();
            machine.ptes_to(table).any(|(holder, _)| machine.level(holder) == 2)
        };
        let unpin = held && self.machine().is_pinned(table);
        // A pin that outlives its wait is taken back only where the table stays one without it.
        self.push(if unpin { Step::Unpin(table) } else { Step::Pin { mfn: table, level: 1 } });
        Some(())
    }
}
