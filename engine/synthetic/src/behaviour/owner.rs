// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that change their owner under an entry that stays, or that is equal when it is back; tagged or not.
//! Not here: transfers (`transfer`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: the outcome table: what is not ours has no frame, whatever the entry's tag; Xen hands out any free frame.

use crate::behaviour::Plan;
use crate::program::{Name, Step, Val};

impl Plan<'_> {
    /// A foreign frame without a tag, at a ballooned pfn or over a page that has a frame.
    pub(super) fn untagged(&mut self) -> Option<()> {
        let over = self.chance(1, 2);
        let (pfn, after) = if over {
            let (pfn, own) = self.unmapped_data()?;
            (pfn, Name::Frame(Val::Is(own)))
        } else {
            (self.hole()?, Name::Nothing)
        };
        let mfn = self.foreign()?;
        if self.chance(1, 2) {
            self.push(Step::TheirPfn { mfn, pfn });
        }
        self.push(Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) });
        let wait = self.dice().between(1, 9);
        self.extend([
            Step::AwaitRounds(wait),
            Step::Entry { pfn, name: after },
            Step::UnmapForeign(Val::Is(mfn)),
        ]);
        Some(())
    }

    /// A page goes out, another domain gets its frame, at the same pfn, and the guest maps that: the entry is as it was
    /// or differs in its tag, and perhaps a PTE names the frame, too. Then the frame comes back the same way.
    pub(super) fn given_and_mapped(&mut self, pte: bool) -> Option<()> {
        self.has_free_frames()?;
        let slot = if pte {
            let table = self.own_table()?;
            Some((table, self.unused_slot(table)?))
        } else {
            None
        };
        let (pfn, own) = self.data()?;
        let out = self.page_out(pfn, own)?;
        let reg = self.register()?;
        let name = self.foreign_name(Val::Reg(reg));
        self.extend(out);
        self.push(Step::TheyTake { pfn, reg, prefer: Some(own) });
        let mut mapped = vec![Step::Entry { pfn, name }];
        if let Some((table, slot)) = slot {
            mapped.push(Step::Pte { table, slot, to: Some(Val::Reg(reg)) });
        }
        self.dice().shuffle(&mut mapped);
        self.extend(mapped);
        let wait = self.dice().between(1, 9);
        self.push(Step::AwaitRounds(wait));
        self.extend(slot.map(|(table, slot)| Step::Pte { table, slot, to: None }));
        self.comes_to(pfn, Val::Reg(reg), own)
    }

    /// A frame of another domain is mapped, given up there, and handed to the guest at the very pfn that names it.
    pub(super) fn frame_comes(&mut self) -> Option<()> {
        self.has_free_frames()?;
        let pfn = self.hole()?;
        let mfn = self.take_foreign()?;
        let name = self.foreign_name(Val::Is(mfn));
        self.world.xen.map_foreign(mfn);
        self.push(Step::Entry { pfn, name });
        let wait = self.dice().between(1, 9);
        self.push(Step::AwaitRounds(wait));
        self.comes_to(pfn, Val::Is(mfn), mfn)
    }

    /// A mapped frame is freed by its owner and populated at the pfn whose entry names it: the entry is taken out and
    /// written again, or stays as it is.
    fn comes_to(&mut self, pfn: u64, frame: Val, wanted: u64) -> Option<()> {
        let reg = self.register()?;
        let gone = [Step::UnmapForeign(frame), Step::TheyFree(frame)];
        let come = Step::Populate { pfn, reg, prefer: Some(wanted) };
        let settle = Step::Settle { pfn, reg };
        if self.chance(1, 2) {
            self.push(Step::Entry { pfn, name: Name::Nothing });
            self.extend(gone);
            let wait = self.maybe_wait();
            self.extend(wait);
            self.extend([come, settle]);
        } else {
            // Whoever else gets the frame has it under its own entry, too, until this one is written.
            self.section(gone.into_iter().chain([come, settle]));
        }
        if self.chance(1, 3) {
            self.push(Step::Write(Val::Reg(reg)));
        }
        let wait = self.maybe_wait();
        self.extend(wait);
        // Linux tags no frame of its own for good.
        self.push(Step::Entry { pfn, name: Name::Frame(Val::Reg(reg)) });
        Some(())
    }
}
