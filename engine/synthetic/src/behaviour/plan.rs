// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program that is being planned: its steps so far, its claims on the guest, and what it draws.
//! Not here: the programs; each of the other files has a group of them.
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: own.

use crate::dice::Dice;
use crate::grant::map_foreign;
use crate::guest::{Guest, Layout};
use crate::program::{Program, REGISTERS, Step, Val};
use crate::xen::Xen;

/// A program that is being planned.
pub(super) struct Plan<'w> {
    pub(super) guest: &'w mut Guest,
    pub(super) xen: &'w mut Xen,
    /// Frames of other domains.
    pub(super) others: &'w mut Vec<u64>,
    pub(super) dice: &'w mut Dice,
    pub(super) program: Program,
    /// Registers that are taken.
    pub(super) registers: usize,
}

impl Plan<'_> {
    /// True `part` times of `whole`.
    pub(super) fn chance(&mut self, part: u64, whole: u64) -> bool {
        self.dice.chance(part, whole)
    }

    pub(super) fn push(&mut self, step: Step) {
        self.program.steps.push_back(step);
    }

    pub(super) fn extend(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.program.steps.extend(steps);
    }

    /// Steps during which the guest would not suspend.
    pub(super) fn section(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.push(Step::Open);
        self.extend(steps);
        self.push(Step::Close);
    }

    /// Changes of the list's mapping, inside the generation's bracket.
    pub(super) fn bracket(&mut self, steps: impl IntoIterator<Item = Step>) {
        let counted = matches!(self.guest.layout, Layout::Linear(_));
        let bump = counted.then_some(Step::Bump);
        let steps: Vec<Step> = bump.into_iter().chain(steps).chain(bump).collect();
        self.section(steps);
    }

    /// A register.
    pub(super) fn register(&mut self) -> Option<usize> {
        self.registers += 1;
        (self.registers <= REGISTERS).then(|| self.registers - 1)
    }

    /// Takes a pfn.
    pub(super) fn claim(&mut self, pfn: u64) -> Option<()> {
        let guest = &mut self.guest;
        guest.claims.take_pfn(guest.width, pfn, &mut self.program.claimed).then_some(())
    }

    /// Takes the lock over the p2m's structure.
    pub(super) fn lock_structure(&mut self) -> Option<()> {
        self.guest.claims.lock_structure(&mut self.program.claimed).then_some(())
    }

    /// Locks an unused leaf.
    pub(super) fn lock_leaf(&mut self, position: u64) -> Option<()> {
        self.guest.claims.lock_leaf(position, &mut self.program.claimed).then_some(())
    }

    /// Takes a pfn with an ordinary data page.
    pub(super) fn data(&mut self) -> Option<(u64, u64)> {
        let Self { guest, xen, dice, .. } = self;
        let pfn = guest.pick_data(&xen.machine, dice)?;
        let mfn = guest.frame(&xen.machine, pfn)?;
        self.claim(pfn)?;
        Some((pfn, mfn))
    }

    /// Takes a pfn with a data page that no page table names.
    pub(super) fn unmapped_data(&mut self) -> Option<(u64, u64)> {
        let Self { guest, xen, dice, .. } = self;
        let found = (0..8).find_map(|_| {
            let pfn = guest.pick_data(&xen.machine, dice)?;
            let mfn = guest.frame(&xen.machine, pfn)?;
            (xen.machine.refs(mfn) == 0).then_some((pfn, mfn))
        })?;
        self.claim(found.0)?;
        Some(found)
    }

    /// Takes a pfn without a frame.
    pub(super) fn hole(&mut self) -> Option<u64> {
        let Self { guest, xen, dice, .. } = self;
        let pfn = guest.take_hole(&xen.machine, dice)?;
        self.claim(pfn)?;
        Some(pfn)
    }

    /// A frame of another domain, referenced from now on so that it stays that domain's.
    pub(super) fn foreign(&mut self) -> Option<u64> {
        let Self { others, dice, xen, .. } = self;
        let mfn = (!others.is_empty()).then(|| dice.pick(others))?;
        map_foreign(xen, mfn);
        Some(mfn)
    }

    /// Steps that clear every PTE that names a frame; the tables are taken too.
    pub(super) fn clear_ptes(&mut self, mfn: u64) -> Option<Vec<Step>> {
        let ptes: Vec<(u64, u16)> = self.xen.machine.ptes_to(mfn).collect();
        for &(table, _) in &ptes {
            let pfn = self.xen.machine.m2p.pfn(table)?;
            if !self.program.claimed.has_pfn(pfn) {
                self.claim(pfn)?;
            }
        }
        Some(ptes.into_iter().map(|(table, slot)| Step::Pte { table, slot, to: None }).collect())
    }

    /// Steps that write the PTEs of [`Plan::clear_ptes`] again, for another frame.
    pub(super) fn restore_ptes(cleared: &[Step], to: Val) -> Vec<Step> {
        let restored = cleared.iter().filter_map(|step| match *step {
            Step::Pte { table, slot, .. } => Some(Step::Pte { table, slot, to: Some(to) }),
            _ => None,
        });
        restored.collect()
    }

    /// Whether Xen has enough frames that no program runs out.
    pub(super) fn has_free_frames(&self) -> Option<()> {
        (self.xen.machine.free.len() > 1024).then_some(())
    }

    /// Whether the guest has enough frames to give some away.
    pub(super) fn has_frames_to_spare(&self) -> Option<()> {
        (self.xen.machine.guest_frames() > self.guest.frames_at_start() / 2).then_some(())
    }

    /// A short wait for rounds to pass, or none.
    pub(super) fn maybe_wait(&mut self) -> Vec<Step> {
        match self.dice.below(4) {
            0 => vec![Step::AwaitRounds(1)],
            1 => vec![Step::AwaitRounds(self.dice.between(1, 3))],
            _ => vec![],
        }
    }
}
