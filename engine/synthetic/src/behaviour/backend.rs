// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writers that log-dirty does not see, or sees late: backends with writable grants or copies, daemons, Xen itself.
//! Not here: the port that names them (`ports`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: `xen-save-path.md` 6.4: a grant marks at unmap, a copy at its end; foreign mappings of dom0 and vcpu_info never.

use crate::behaviour::Plan;
use crate::program::{Step, Val};
use crate::world::World;

impl Plan<'_> {
    /// A backend maps a page, writes it now and then, and unmaps it; a suspend may come before.
    pub(super) fn backend(&mut self) -> Option<()> {
        let (_, mfn) = self.data()?;
        self.push(Step::BackendMaps(mfn));
        for _ in 0..self.dice().between(1, 6) {
            let step = match self.dice().below(4) {
                0 => Step::Write(Val::Is(mfn)),
                1 => Step::AwaitRounds(1),
                _ => Step::WriteUnlogged(mfn),
            };
            self.push(step);
        }
        if self.chance(1, 4) {
            self.push(Step::AwaitRounds(9));
        }
        self.push(Step::BackendUnmaps(mfn));
        Some(())
    }

    /// Backends copy into some pages. A copy is short: none is under way when the guest is suspended.
    pub(super) fn grant_copy(&mut self) -> Option<()> {
        let mut copies = Vec::new();
        for _ in 0..self.dice().between(1, 6) {
            let Some((_, mfn)) = self.data() else { break };
            let mut copy = vec![Step::Open, Step::CopyBegins(mfn)];
            copy.extend(self.maybe_wait());
            copy.extend([Step::CopyEnds(mfn), Step::Close]);
            if self.chance(1, 4) {
                copy.push(Step::Write(Val::Is(mfn)));
            }
            copies.push(copy);
        }
        self.play(copies);
        Some(())
    }

    /// The store daemon, the console daemon or Xen writes a page that never moves.
    pub(super) fn daemon(&mut self) -> Option<()> {
        for _ in 0..self.dice().between(1, 4) {
            let pfn = {
                let World { guest, dice, .. } = &mut *self.world;
                dice.pick(&guest.reserved_pfns)
            };
            let mfn = self.world.guest.frame(self.machine(), pfn)?;
            let guest_too = self.chance(1, 3);
            self.push(if guest_too { Step::Write(Val::Is(mfn)) } else { Step::WriteUnlogged(mfn) });
        }
        Some(())
    }

    /// Other domains take free frames and give some back.
    pub(super) fn others(&mut self) -> Option<()> {
        self.has_free_frames()?;
        for _ in 0..self.dice().between(1, 4) {
            let take = self.chance(1, 2);
            self.push(if take { Step::OtherTakes } else { Step::OtherFrees });
        }
        Some(())
    }
}
