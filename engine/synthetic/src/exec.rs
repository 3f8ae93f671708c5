// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out one step of a program on guest, hypervisor and other domains.
//! Not here: when (`world`), or why (`behaviour`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: see `program` and `xen`.

use p2mtrack::frame::{Entry, Mfn, Width};

use crate::dice::Dice;
use crate::guest::{Guest, NONE};
use crate::machine::Owner;
use crate::program::{Name, Program, Step, Val};
use crate::walk::owned_frame;
use crate::xen::Xen;
use crate::{grant, page_table};

/// All that a step can access.
pub(crate) struct Executor<'w> {
    pub(crate) xen: &'w mut Xen,
    pub(crate) guest: &'w mut Guest,
    /// Frames of other domains.
    pub(crate) others: &'w mut Vec<u64>,
    pub(crate) dice: &'w mut Dice,
    /// Times that log-dirty was taken.
    pub(crate) rounds: u64,
    /// Queries of the grant table.
    pub(crate) grant_queries: u64,
}

impl Executor<'_> {
    /// Takes the next step of a program, and the markers before it. Returns whether anything was
    /// done.
    pub(crate) fn advance(&mut self, program: &mut Program) -> bool {
        while let Some(step) = program.steps.pop_front() {
            match step {
                Step::Open => program.open += 1,
                Step::Close => program.open = program.open.saturating_sub(1),
                Step::AwaitRounds(n) => {
                    program.after_round = self.rounds + n;
                    return true;
                }
                Step::AwaitGrantQueries(n) => {
                    program.after_grant_query = self.grant_queries + n;
                    return true;
                }
                step => {
                    self.perform(program, step);
                    // A section that is over must not delay the suspend.
                    while let Some(Step::Close) = program.steps.front() {
                        program.steps.pop_front();
                        program.open = program.open.saturating_sub(1);
                    }
                    return true;
                }
            }
        }
        false
    }

    fn perform(&mut self, program: &mut Program, step: Step) {
        // Planning took this reference, so even an idle program has to drop it.
        if program.idle && !matches!(step, Step::UnmapForeign(Val::Is(_))) {
            return;
        }
        match step {
            Step::Open | Step::Close | Step::AwaitRounds(_) | Step::AwaitGrantQueries(_) => {}
            Step::Write(val) => self.xen.guest_writes(program.value(val)),
            Step::WriteUnlogged(mfn) => self.xen.writes_unlogged(mfn),
            Step::Entry { pfn, name } => self.write_entry(program, pfn, name),
            Step::Machphys { mfn, pfn } => self.xen.machphys_update(program.value(mfn), pfn),
            Step::Decrease(val) => self.xen.decrease_reservation(program.value(val)),
            Step::Populate { pfn, reg, prefer } => {
                let mfn = self.xen.populate(pfn, prefer);
                Self::receive(program, reg, mfn);
            }
            Step::Exchange { old, pfn, reg } if [NONE, old].contains(&program.registers[reg]) => {
                let mfn = self.xen.exchange(old, pfn);
                Self::receive(program, reg, mfn);
            }
            Step::Pte { table, slot, to } => {
                page_table::write_pte(self.xen, table, slot, to.map(|val| program.value(val)));
            }
            Step::Fill { mfn, word } => self.xen.guest_fills(mfn, word),
            Step::Word { mfn, index, word } => self.xen.guest_stores_word(mfn, index, word),
            Step::Slot { mfn, slot, word } => self.xen.guest_stores_entry(mfn, slot, Entry(word)),
            Step::Copy { from, to } => self.xen.guest_copies(from, program.value(to)),
            Step::Pin { mfn, level } => page_table::pin(self.xen, mfn, level),
            Step::Unpin(mfn) => page_table::unpin(self.xen, mfn),
            Step::PinPiece { mfn, level, slots } => {
                page_table::pin_piece(self.xen, mfn, level, slots);
            }
            Step::UnpinPiece { mfn, slots } => page_table::unpin_piece(self.xen, mfn, slots),
            Step::UnmapForeign(val) => grant::unmap_foreign(self.xen, program.value(val)),
            Step::TheyTake { pfn, reg, prefer } => {
                let mfn = self.they_take(pfn, prefer);
                Self::receive(program, reg, mfn);
            }
            Step::TheyFree(val) => self.they_free(program.value(val)),
            Step::Settle { pfn, reg } => self.settle_entry(program, pfn, reg),
            Step::TheirPfn { mfn, pfn } => grant::their_pfn(self.xen, mfn, pfn),
            Step::OtherTakes | Step::OtherFrees => {
                self.others_act(matches!(step, Step::OtherTakes));
            }
            step => self.perform_on_kernel(program, step),
        }
    }

    /// Puts a frame from Xen into a register. Without a frame the program ends.
    fn receive(program: &mut Program, reg: usize, mfn: Option<u64>) {
        match mfn {
            Some(mfn) => program.registers[reg] = mfn,
            None => {
                program.steps.clear();
                program.open = 0;
            }
        }
    }

    fn perform_on_kernel(&mut self, program: &mut Program, step: Step) {
        let (xen, guest) = (&mut *self.xen, &mut *self.guest);
        match step {
            Step::Hang { level, key, mfn } => guest.set_slot(xen, level, key, program.value(mfn)),
            Step::Adopt { level, key, mfn } => guest.note_slot(level, key, mfn),
            Step::Bump if guest.bumps => {
                self.set_generation(self.guest.roots.generation.wrapping_add(1));
            }
            Step::Generation(generation) => self.set_generation(generation),
            Step::Count(count) => guest.roots.pfn_count = count,
            Step::Root(mfn) => guest.set_root(mfn),
            Step::Roots { frame_list_list, p2m_cr3 } => {
                guest.roots.frame_list_list = frame_list_list;
                guest.roots.p2m_cr3 = p2m_cr3;
            }
            Step::ListTable { mfn, level, listed: true } => guest.tables.push((mfn, level)),
            Step::ListTable { mfn, .. } => guest.tables.retain(|table| table.0 != mfn),
            Step::BackendMaps(mfn) => guest.grants.backend_maps(xen, mfn),
            Step::BackendUnmaps(mfn) => guest.grants.backend_unmaps(xen, mfn),
            Step::CopyBegins(mfn) => grant::copy_begins(xen, mfn),
            Step::CopyEnds(mfn) => grant::copy_ends(xen, mfn),
            step => self.perform_transfer(program, step),
        }
    }

    fn perform_transfer(&mut self, program: &mut Program, step: Step) {
        let grants = &mut self.guest.grants;
        match (step, program.offer) {
            (Step::Accept(pfn), _) => program.offer = Some(grants.accept(pfn)),
            (Step::Withdraw, Some(entry)) => grants.withdraw(entry),
            (Step::Offer(offer), Some(entry)) => grants.note(entry, offer),
            (Step::TransferIn { mfn, pfn }, Some(entry)) => {
                grant::transfer_in(self.xen, mfn, pfn);
                self.others.retain(|&other| other != mfn);
                grants.came(entry, mfn);
            }
            (Step::TransferOut { mfn, pfn, there, touched }, offer) => {
                if grant::transfer_out(self.xen, mfn, there) {
                    return;
                }
                if let Some(entry) = offer {
                    grants.withdraw(entry);
                }
                if touched {
                    self.write_entry(program, pfn, Name::Frame(Val::Is(mfn)));
                }
                program.steps.clear();
                program.open = 0;
            }
            _ => {}
        }
    }

    fn set_generation(&mut self, generation: u64) {
        self.guest.roots.generation = match self.guest.width {
            Width::W32 => generation & 0xffff_ffff,
            Width::W64 => generation,
        };
    }

    fn write_entry(&mut self, program: &Program, pfn: u64, name: Name) {
        let width = self.guest.width;
        let entry = match name {
            Name::Nothing => Entry::INVALID,
            Name::Frame(val) => Entry(program.value(val)),
            Name::Foreign(val) => Entry::foreign(width, Mfn(program.value(val))),
            Name::Word(word) => Entry(word),
        };
        let (leaf, slot) = self.guest.place(pfn).expect("programs write entries of private leaves");
        debug_assert!(self.guest.is_private(self.guest.position(pfn)), "pfn {pfn:#x}");
        self.xen.guest_stores_entry(leaf, slot, entry);
    }

    fn settle_entry(&mut self, program: &Program, pfn: u64, reg: usize) {
        let entry = self.guest.entry(&self.xen.machine, pfn);
        if owned_frame(&self.xen.machine, self.guest.width, entry) != Some(program.registers[reg]) {
            self.write_entry(program, pfn, Name::Frame(Val::Reg(reg)));
        }
    }

    fn they_take(&mut self, pfn: u64, prefer: Option<u64>) -> Option<u64> {
        let mfn = self.xen.machine.allocate(prefer, Owner::Other)?;
        grant::their_pfn(self.xen, mfn, pfn);
        self.xen.machine.write(mfn);
        grant::map_foreign(self.xen, mfn);
        self.others.push(mfn);
        Some(mfn)
    }

    fn they_free(&mut self, mfn: u64) {
        if self.xen.machine.owner(mfn) == Owner::Other && self.xen.machine.refs(mfn) == 0 {
            self.others.retain(|&other| other != mfn);
            self.xen.machine.give_back(mfn);
        }
    }

    /// Another domain takes or frees a frame.
    fn others_act(&mut self, take: bool) {
        if take {
            if let Some(mfn) = self.xen.machine.allocate(None, Owner::Other) {
                let pfn = self.dice.below(self.guest.pfns_at_start);
                self.xen.machine.hand_over(mfn, Owner::Other, Some(pfn));
                self.xen.machine.write(mfn);
                self.others.push(mfn);
            }
        } else if self.others.len() > 64 {
            let at = self.dice.index(self.others.len());
            if self.xen.machine.refs(self.others[at]) == 0 {
                let mfn = self.others.swap_remove(at);
                self.xen.machine.give_back(mfn);
            }
        }
    }
}
