// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that somebody else holds: Xen exchanges none of them, and the guest tries again or lets it be.
//! Not here: frames that nobody holds (`balloon`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: `steal_page` in `xen/arch/x86/mm.c`; Linux `xen_create_contiguous_region` puts the old frames back.

use crate::behaviour::Plan;
use crate::program::{Name, Step, Val};

impl Plan<'_> {
    /// A page in a backend's hands, or in a page table, is to be exchanged: once in vain, and perhaps once more when it
    /// was let go.
    pub(super) fn held(&mut self) -> Option<()> {
        self.has_free_frames()?;
        let (pfn, old) = self.data()?;
        let ptes = self.clear_ptes(old)?;
        let reg = self.register()?;
        let mapped = ptes.is_empty() || self.chance(1, 2);
        if mapped {
            self.extend([Step::BackendMaps(old), Step::WriteUnlogged(old)]);
            self.exchange_once(pfn, old, reg, &ptes);
        } else {
            self.exchange_once(pfn, old, reg, &[]);
        }
        let wait = self.maybe_wait();
        self.extend(wait);
        self.extend(mapped.then_some(Step::BackendUnmaps(old)));
        if self.chance(2, 3) {
            self.exchange_once(pfn, old, reg, &ptes);
        }
        if self.chance(1, 2) {
            self.push(Step::Write(Val::Reg(reg)));
        }
        Some(())
    }

    /// A page is ballooned out while a backend has it mapped: it is the guest's until the backend lets go, and its pfn
    /// may have another frame by then.
    pub(super) fn out_while_mapped(&mut self) -> Option<()> {
        self.has_frames_to_spare()?;
        self.has_free_frames()?;
        let (pfn, mfn) = self.unmapped_data()?;
        let out = self.page_out(pfn, mfn)?;
        self.push(Step::BackendMaps(mfn));
        self.extend(out);
        let wait = self.maybe_wait();
        self.extend(wait);
        let reg = self.register()?;
        let again = if self.chance(1, 2) { self.page_in(pfn, reg, None) } else { vec![] };
        let lets_go = vec![Step::WriteUnlogged(mfn), Step::BackendUnmaps(mfn)];
        let mixed = self.dice().riffle(vec![again, lets_go]);
        self.extend(mixed);
        Some(())
    }

    /// A leaf is copied and its slot re-pointed; its old frame is to be exchanged as soon as nobody has it mapped.
    pub(super) fn old_leaf_exchanged(&mut self) -> Option<()> {
        self.has_free_frames()?;
        self.lock_structure()?;
        let (position, old) = self.own_leaf()?;
        let pfn = self.machine().m2p.pfn(old)?;
        if self.world.guest.frame(self.machine(), pfn) != Some(old) {
            return None;
        }
        self.claim(pfn)?;
        let (_, new) = self.unmapped_data()?;
        let reg = self.register()?;
        self.push(Step::Copy { from: old, to: Val::Is(new) });
        self.bracket([Step::Hang { level: 0, key: position, mfn: Val::Is(new) }]);
        for _ in 0..self.dice().between(1, 3) {
            self.exchange_once(pfn, old, reg, &[]);
            let wait = self.maybe_wait();
            self.extend(wait);
        }
        self.push(Step::Write(Val::Reg(reg)));
        Some(())
    }

    /// One try, with PTEs taken away and put back, whatever comes of it.
    fn exchange_once(&mut self, pfn: u64, old: u64, reg: usize, ptes: &[Step]) {
        let after = Val::Reg(reg);
        let mut steps = ptes.to_vec();
        steps.push(Step::Entry { pfn, name: Name::Nothing });
        steps.push(Step::Exchange { old, pfn, reg });
        steps.push(Step::Entry { pfn, name: Name::Frame(after) });
        steps.extend(Self::restore_ptes(ptes, after));
        self.section(steps);
    }
}
