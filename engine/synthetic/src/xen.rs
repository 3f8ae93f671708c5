// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulated hypervisor: every way in which a frame of the guest changes, and what each one
//! marks.
//! Not here: page tables (`page_table`), grants and transfers (`grant`).
//! Units: mfn and pfn as plain numbers; the types of the engine begin at the ports.
//! Threads: one owner.
//! Source: `xen/arch/x86/mm/paging.c`, `mm/physmap.c`, `common/memory.c`; marks by pfn through the
//! m2p.

use std::collections::BTreeMap;

use p2mtrack::frame::{Entry, Width};

use crate::log_dirty::Log;
use crate::machine::{Machine, Owner};

/// The hypervisor.
#[derive(Debug)]
pub(crate) struct Xen {
    pub(crate) machine: Machine,
    pub(crate) log: Log,
    pub(crate) width: Width,
    /// Partly validated page tables, and the slots below which their PTEs were taken.
    pub(crate) partial: BTreeMap<u64, usize>,
}

impl Xen {
    /// `paging_mark_dirty`: by the pfn that the m2p holds now, and only for a frame of the guest.
    pub(crate) fn mark(&mut self, mfn: u64) {
        if let Some(pfn) = self.machine.m2p.pfn(mfn).filter(|_| self.machine.is_guest(mfn)) {
            self.log.mark(pfn);
        }
    }

    /// The guest stores into a page of data.
    pub(crate) fn guest_writes(&mut self, mfn: u64) {
        self.machine.write(mfn);
        self.mark(mfn);
    }

    /// The guest stores a p2m entry (or a mid or top slot) into one of its pages.
    pub(crate) fn guest_stores_entry(&mut self, mfn: u64, slot: usize, entry: Entry) {
        let width = self.width;
        self.machine.words_to_write(mfn).store_entry(width, slot, entry);
        self.mark(mfn);
    }

    /// The guest fills a page with one word.
    pub(crate) fn guest_fills(&mut self, mfn: u64, word: u64) {
        let words = self.machine.words_to_write(mfn);
        for index in 0..words.live.len() {
            words.store(index, word);
        }
        self.mark(mfn);
    }

    /// The guest stores a word into a page of data that will be a page table.
    pub(crate) fn guest_stores_word(&mut self, mfn: u64, index: usize, word: u64) {
        self.machine.words_to_write(mfn).store(index, word);
        self.mark(mfn);
    }

    /// The guest copies a page.
    pub(crate) fn guest_copies(&mut self, from: u64, to: u64) {
        let source = self.machine.picture(from).clone();
        let words = self.machine.words_to_write(to);
        for index in 0..words.live.len() {
            words.store(index, source.load(index));
        }
        self.mark(to);
    }

    /// Xen, a backend or a daemon of dom0 stores into a page: no mark.
    pub(crate) fn writes_unlogged(&mut self, mfn: u64) {
        self.machine.write(mfn);
    }

    /// `XENMEM_decrease_reservation`: no mark; the m2p keeps the pfn until the last reference goes.
    pub(crate) fn decrease_reservation(&mut self, mfn: u64) {
        self.machine.give_back(mfn);
    }

    /// `XENMEM_populate_physmap`: sets the m2p, marks nothing, contents undefined.
    pub(crate) fn populate(&mut self, pfn: u64, prefer: Option<u64>) -> Option<u64> {
        let mfn = self.machine.allocate(prefer, Owner::Guest)?;
        self.machine.m2p.set(mfn, Some(pfn));
        Some(mfn)
    }

    /// `XENMEM_exchange` of one frame: the old one goes, a new one comes, nothing is marked. A
    /// frame with other references stays (`steal_page`). Returns the frame that the guest has then.
    pub(crate) fn exchange(&mut self, old: u64, pfn: u64) -> Option<u64> {
        if self.machine.refs(old) > 0 {
            return Some(old);
        }
        let new = self.populate(pfn, None)?;
        self.machine.give_back(old);
        Some(new)
    }

    /// `MMU_MACHPHYS_UPDATE`: sets the m2p and marks the new pfn only.
    pub(crate) fn machphys_update(&mut self, mfn: u64, pfn: u64) {
        if self.machine.is_guest(mfn) {
            self.machine.m2p.set(mfn, Some(pfn));
            self.log.mark(pfn);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Guest frames 1..=4 at pfns 11..=14, free 5..=7, another domain's 8 (its pfn 12) and 9.
    pub(crate) fn xen() -> Xen {
        let mut machine = Machine::new(16);
        for mfn in 1..=4 {
            machine.settle(mfn, Owner::Guest, Some(mfn + 10), true);
        }
        for mfn in 5..=7 {
            machine.settle(mfn, Owner::Free, None, false);
        }
        machine.settle(8, Owner::Other, Some(12), true);
        machine.settle(9, Owner::Other, Some(40), true);
        let mut log = Log::default();
        log.enable().expect("was off");
        Xen { machine, log, width: Width::W64, partial: BTreeMap::new() }
    }

    /// The pfns below 64 that are marked.
    pub(crate) fn marks(xen: &Xen) -> Vec<u64> {
        (0..64).filter(|&pfn| xen.log.is_marked(pfn)).collect()
    }

    #[test]
    fn a_write_marks_the_pfn_that_the_m2p_holds_at_that_moment() {
        let mut xen = xen();
        xen.guest_writes(1);
        assert_eq!(marks(&xen), [11]);
        xen.machine.m2p.set(2, Some(30));
        xen.guest_writes(2);
        assert_eq!(marks(&xen), [11, 30]);
        xen.machine.m2p.set(3, None);
        xen.guest_writes(3);
        assert_eq!(marks(&xen), [11, 30], "invalid m2p: no bit");
    }

    #[test]
    fn a_foreign_frame_is_never_marked() {
        let mut xen = xen();
        xen.guest_writes(8);
        assert!(marks(&xen).is_empty());
    }

    #[test]
    fn stores_of_words_mark_the_page_that_holds_them() {
        let mut xen = xen();
        xen.guest_stores_entry(1, 7, Entry(5));
        xen.guest_fills(2, 0);
        xen.guest_copies(1, 3);
        assert_eq!(marks(&xen), [11, 12, 13]);
        assert_eq!(xen.machine.entry(3, Width::W64, 7), Entry(5));
        assert_eq!(xen.machine.content(1), xen.machine.content(3));
    }

    #[test]
    fn decrease_populate_and_exchange_mark_nothing() {
        let mut xen = xen();
        xen.decrease_reservation(1);
        let mfn = xen.populate(20, None).expect("free frames");
        assert_eq!(xen.machine.m2p.pfn(mfn), Some(20));
        let new = xen.exchange(2, 12).expect("free frames");
        assert_eq!(xen.machine.m2p.pfn(new), Some(12));
        assert_eq!(xen.machine.m2p.pfn(2), None);
        assert!(marks(&xen).is_empty());
    }

    #[test]
    fn a_frame_with_another_reference_is_not_exchanged() {
        let mut xen = xen();
        xen.machine.hold(1);
        assert_eq!(xen.exchange(1, 11), Some(1));
        assert_eq!(xen.machine.m2p.pfn(1), Some(11));
        xen.machine.drop_hold(1);
        assert_ne!(xen.exchange(1, 11), Some(1));
    }

    #[test]
    fn a_ballooned_frame_keeps_its_pfn_while_it_is_referenced() {
        let mut xen = xen();
        xen.machine.hold(1);
        xen.decrease_reservation(1);
        assert_eq!(xen.machine.m2p.pfn(1), Some(11));
        xen.machine.drop_hold(1);
        assert_eq!(xen.machine.m2p.pfn(1), None);
    }

    #[test]
    fn machphys_update_marks_the_new_pfn_only() {
        let mut xen = xen();
        xen.machphys_update(1, 50);
        assert_eq!(marks(&xen), [50]);
        assert_eq!(xen.machine.m2p.pfn(1), Some(50));
        xen.machphys_update(8, 51);
        assert_eq!(xen.machine.m2p.pfn(8), Some(12), "not the guest's frame: refused");
        assert_eq!(marks(&xen), [50]);
    }

    #[test]
    fn daemons_and_xen_write_without_a_mark() {
        let mut xen = xen();
        let before = xen.machine.content(1);
        xen.writes_unlogged(1);
        assert_ne!(xen.machine.content(1), before);
        assert!(marks(&xen).is_empty());
    }
}
