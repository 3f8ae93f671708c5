// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that two pfns name, or one pfn whose m2p is another: what is written there marks the m2p's pfn alone.
//! Not here: guests that lie about it in clean leaves (`hostile`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: the outcome table, rows *alias* and *anything else*; `xen-save-path.md` 6.5.

use crate::behaviour::Plan;
use crate::program::{Name, Step, Val};

impl Plan<'_> {
    /// A pfn names the frame of another one, too.
    pub(super) fn shared_alias(&mut self) -> Option<()> {
        let table = self.chance(1, 6);
        let mfn = if table { self.own_table()? } else { self.unmapped_data()?.1 };
        let (other, before) = self.room()?;
        self.push(Step::Entry { pfn: other, name: Name::Frame(Val::Is(mfn)) });
        if table {
            self.table_written_now_and_then(mfn)?;
            self.push(Step::Entry { pfn: other, name: before });
            return Some(());
        }
        self.written_now_and_then(mfn);
        self.push(Step::Entry { pfn: other, name: before });
        Some(())
    }

    /// A frame moves in the p2m, and its m2p stays behind or is a third pfn; then it follows, or the frame moves back.
    pub(super) fn stale_m2p(&mut self) -> Option<()> {
        let (pfn, mfn) = self.unmapped_data()?;
        let (other, before) = self.room()?;
        let frame = Name::Frame(Val::Is(mfn));
        let machphys = |pfn| Step::Machphys { mfn: Val::Is(mfn), pfn };
        let mut there =
            vec![Step::Entry { pfn: other, name: frame }, Step::Entry { pfn, name: Name::Nothing }];
        if self.chance(1, 3) {
            // A pfn without a frame, or one that no guest has.
            let third = if self.chance(1, 2) { self.hole()? } else { 1 << 31 };
            there.push(machphys(third));
        }
        self.dice().shuffle(&mut there);
        self.section(there);
        self.written_now_and_then(mfn);
        let follows = matches!(before, Name::Nothing) && self.chance(1, 2);
        let mut end = if follows {
            vec![machphys(other)]
        } else {
            let back = Step::Entry { pfn, name: frame };
            vec![back, Step::Entry { pfn: other, name: before }, machphys(pfn)]
        };
        self.dice().shuffle(&mut end);
        self.section(end);
        Some(())
    }

    /// A pfn that can name another frame for a while, and what it names otherwise.
    fn room(&mut self) -> Option<(u64, Name)> {
        if self.chance(1, 2) {
            return Some((self.hole()?, Name::Nothing));
        }
        let (pfn, own) = self.unmapped_data()?;
        Some((pfn, Name::Frame(Val::Is(own))))
    }

    fn table_written_now_and_then(&mut self, table: u64) -> Option<()> {
        for _ in 0..self.dice().between(1, 3) {
            let wait = self.dice().between(1, 4);
            let slot = self.unused_slot(table)?;
            let (_, target) = self.data()?;
            self.push(Step::AwaitRounds(wait));
            self.push(Step::Pte { table, slot, to: Some(Val::Is(target)) });
        }
        Some(())
    }

    fn written_now_and_then(&mut self, mfn: u64) {
        for _ in 0..self.dice().between(1, 5) {
            let wait = self.dice().between(1, 4);
            self.push(Step::AwaitRounds(wait));
            let write = self.chance(3, 4);
            self.extend(write.then_some(Step::Write(Val::Is(mfn))));
        }
    }
}
