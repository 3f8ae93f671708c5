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
        let (_, mfn) = self.unmapped_data()?;
        let (other, before) = self.room()?;
        self.push(Step::Entry { pfn: other, name: Name::Frame(Val::Is(mfn)) });
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
            there.push(machphys(self.hole()?));
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

    fn written_now_and_then(&mut self, mfn: u64) {
        for _ in 0..self.dice().between(1, 5) {
            let wait = self.dice().between(1, 4);
            self.push(Step::AwaitRounds(wait));
            let write = self.chance(3, 4);
            self.extend(write.then_some(Step::Write(Val::Is(mfn))));
        }
    }
}
