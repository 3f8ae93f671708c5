// SPDX-License-Identifier: MIT OR Apache-2.0
//! `GNTTABOP_transfer`: frames that come with contents of another domain, unmarked.
//! Not here: grants (`grant`, `backend`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: `xen/common/grant_table.c` gnttab_transfer; the entry is withdrawn only after the table was looked at.

use crate::behaviour::Plan;
use crate::program::{Name, Step, Val};
use crate::world::World;

/// Looks at the grant table between the last transfer and the withdrawal of its entry: without any the
/// offer is one that nobody can see.
const LOOKS: u64 = 1;

impl Plan<'_> {
    /// A frame of another domain arrives at a ballooned pfn.
    pub(super) fn transfer_in(&mut self) -> Option<()> {
        let pfn = self.hole()?;
        let mfn = self.take_foreign()?;
        self.push(Step::Accept);
        self.arrive(pfn, mfn, true);
        Some(())
    }

    fn wait_if(&mut self, slow: bool) {
        let wait = if slow { self.maybe_wait() } else { vec![] };
        self.extend(wait);
    }

    /// A frame of another domain that nobody maps; it is not theirs to free any more.
    pub(super) fn take_foreign(&mut self) -> Option<u64> {
        let at = {
            let World { others, xen, dice, .. } = &mut *self.world;
            (0..8).find_map(|_| {
                let at = dice.index(others.len());
                (xen.machine.refs(*others.get(at)?) == 0).then_some(at)
            })?
        };
        Some(self.world.others.swap_remove(at))
    }

    fn arrive(&mut self, pfn: u64, mfn: u64, slow: bool) {
        self.wait_if(slow);
        self.extend([Step::WriteUnlogged(mfn), Step::TransferIn { mfn, pfn }]);
        self.wait_if(slow);
        self.push(Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) });
        if self.chance(1, 4) {
            self.push(Step::Write(Val::Is(mfn)));
        }
        self.extend([Step::AwaitLooks(LOOKS), Step::Withdraw]);
    }

    /// A frame goes to another domain, which writes it, and comes back to the same pfn.
    pub(super) fn transfer_back(&mut self) -> Option<()> {
        let (pfn, mfn) = self.unmapped_data()?;
        let there = self.dice().below(1 << 16);
        // Most transfers take no time; some pages were surely copied before.
        let slow = self.chance(1, 3);
        if self.chance(1, 6) {
            self.push(Step::AwaitRounds(1));
        }
        self.push(Step::Accept);
        if self.chance(1, 2) {
            self.push(Step::Write(Val::Is(mfn)));
        }
        self.push(Step::Entry { pfn, name: Name::Nothing });
        self.wait_if(slow);
        self.push(Step::TransferOut { mfn, pfn, there });
        self.arrive(pfn, mfn, slow);
        Some(())
    }
}
