// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m's own frames change beneath it: another frame for a leaf's pfn, or another pfn for its frame.
//! Not here: copies under another pfn and slot (`reshape`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: the table of changes in the project's design, section 2.

use crate::behaviour::Plan;
use crate::behaviour::swap::Order;
use crate::guest::Layout;
use crate::program::{Name, Step, Val};
use crate::world::World;

impl Plan<'_> {
    /// Takes a pfn that holds a part of the p2m, or a page table of a process.
    pub(super) fn kernel_frame(&mut self) -> Option<(u64, u64)> {
        let mfn = match self.dice().below(4) {
            0 | 1 => {
                let World { guest, dice, .. } = &mut *self.world;
                dice.pick(&guest.leaves)
            }
            2 => {
                let World { guest, dice, .. } = &mut *self.world;
                match &guest.layout {
                    Layout::Linear(list) => {
                        let tables = dice.pick(&[0, 1, list.tables.len() - 1]);
                        let frames: Vec<u64> = list.tables[tables].values().copied().collect();
                        dice.pick(&frames)
                    }
                    Layout::Tree(tree) if dice.chance(1, 3) => tree.top,
                    Layout::Tree(tree) => dice.pick(&tree.mids),
                }
            }
            _ => self.own_table()?,
        };
        let machine = self.machine();
        let pfn = machine.is_guest(mfn).then(|| machine.m2p.pfn(mfn)).flatten()?;
        if self.world.guest.frame(self.machine(), pfn) != Some(mfn) {
            return None;
        }
        if !self.program.claimed.has_pfn(pfn) {
            self.claim(pfn)?;
        }
        Some((pfn, mfn))
    }

    /// A part of the p2m and a data page swap their pfns; slots and PTEs stay as they are.
    pub(super) fn leaf_renamed(&mut self) -> Option<()> {
        let kernel = self.kernel_frame()?;
        let data = self.data()?;
        let order = match self.dice().below(4) {
            0 => Order::P2mFirst,
            1 => Order::M2pFirst,
            _ => Order::Any,
        };
        self.swap(kernel, data, order, &[data.1]);
        Some(())
    }

    /// A leaf's pfn gets another frame, the leaf copied into it; the old frame goes or stays elsewhere.
    pub(super) fn leaf_exchanged(&mut self) -> Option<()> {
        self.has_free_frames()?;
        self.lock_structure()?;
        let spare = self.hole()?;
        let (position, old) = self.own_leaf()?;
        let pfn = self.machine().m2p.pfn(old)?;
        if self.world.guest.frame(self.machine(), pfn) != Some(old) {
            return None;
        }
        self.claim(pfn)?;
        let reg = self.register()?;
        let new = Val::Reg(reg);
        let inside = self.world.guest.position(pfn) == position;
        let entry = Step::Entry { pfn, name: Name::Frame(new) };
        self.push(Step::Populate { pfn: spare, reg, prefer: None });
        self.push(Step::Open);
        // An entry in the very leaf must not fall between copy and slot.
        let early = !inside && self.chance(1, 2);
        if early {
            self.push(entry);
        }
        self.push(Step::Copy { from: old, to: new });
        let machphys = Step::Machphys { mfn: new, pfn };
        let before = self.chance(1, 2);
        if before {
            self.push(machphys);
        }
        self.bracket([Step::Hang { level: 0, key: position, mfn: new }]);
        if !before {
            self.push(machphys);
        }
        if !early {
            self.push(entry);
        }
        if self.chance(1, 2) {
            self.extend([
                Step::Machphys { mfn: Val::Is(old), pfn: spare },
                Step::Entry { pfn: spare, name: Name::Frame(Val::Is(old)) },
                Step::Write(Val::Is(old)),
                Step::Close,
            ]);
        } else {
            self.extend([Step::Close, Step::Decrease(Val::Is(old))]);
        }
        Some(())
    }
}
