// SPDX-License-Identifier: MIT OR Apache-2.0
//! Grants and transfers: how frames are shared with, given to and taken from other domains.
//! Not here: which of the guest's programs do it (`behaviour`).
//! Units: mfn and pfn as plain numbers.
//! Threads: one owner.
//! Source: `xen/common/grant_table.c`: a writable mapping marks at unmap; a transfer in sets the m2p, unmarked.

use std::collections::BTreeSet;

use crate::machine::Owner;
use crate::xen::Xen;

/// The guest's grant table, as far as it matters here.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    /// Frames of the guest that a backend has mapped for writing.
    pub(crate) mapped: BTreeSet<u64>,
    /// Entries that offer to take a frame (`GTF_accept_transfer`).
    pub(crate) accepting: u32,
}

impl Xen {
    /// The guest, as a backend, maps a frame of another domain.
    pub(crate) fn map_foreign(&mut self, mfn: u64) {
        self.machine.hold(mfn);
    }

    /// The guest unmaps it.
    pub(crate) fn unmap_foreign(&mut self, mfn: u64) {
        self.machine.drop_hold(mfn);
    }

    /// Another domain gives a frame of its own a pfn, by what means it likes; no mark in the guest's log.
    pub(crate) fn their_pfn(&mut self, mfn: u64, pfn: u64) {
        if self.machine.owner(mfn) == Owner::Other {
            self.machine.m2p.set(mfn, Some(pfn));
        }
    }

    /// A backend maps a frame of the guest for writing.
    pub(crate) fn backend_maps(&mut self, grants: &mut Grants, mfn: u64) {
        if grants.mapped.insert(mfn) {
            self.machine.hold(mfn);
        }
    }

    /// The backend unmaps it: the one moment at which its writes are marked.
    pub(crate) fn backend_unmaps(&mut self, grants: &mut Grants, mfn: u64) {
        if grants.mapped.remove(&mfn) {
            self.mark(mfn);
            self.machine.drop_hold(mfn);
        }
    }

    /// `GNTTABOP_transfer` by the guest; refused while anybody else holds the frame.
    pub(crate) fn transfer_out(&mut self, mfn: u64, pfn_there: u64) -> bool {
        let free = self.machine.is_guest(mfn)
            && self.machine.refs(mfn) == 0
            && !self.machine.is_given_back(mfn);
        if free {
            self.machine.hand_over(mfn, Owner::Other, Some(pfn_there));
        }
        free
    }

    /// `GNTTABOP_transfer` by another domain: the frame comes with its contents, unmarked.
    pub(crate) fn transfer_in(&mut self, mfn: u64, pfn: u64) {
        self.machine.hand_over(mfn, Owner::Guest, Some(pfn));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::tests::{marks, xen};

    #[test]
    fn a_backend_marks_only_when_it_unmaps() {
        let (mut xen, mut grants) = (xen(), Grants::default());
        xen.backend_maps(&mut grants, 1);
        xen.writes_unlogged(1);
        assert!(marks(&xen).is_empty());
        xen.backend_unmaps(&mut grants, 1);
        assert_eq!(marks(&xen), [11]);
        assert_eq!(xen.machine.refs(1), 0);
    }

    #[test]
    fn a_transfer_in_marks_nothing_and_brings_defined_contents() {
        let mut xen = xen();
        let there = xen.machine.content(9);
        xen.transfer_in(9, 33);
        assert!(marks(&xen).is_empty());
        assert_eq!(xen.machine.m2p.pfn(9), Some(33));
        assert_eq!(xen.machine.content(9), there);
    }

    #[test]
    fn the_pfns_of_other_domains_are_theirs_to_choose() {
        let mut xen = xen();
        xen.their_pfn(9, 11);
        xen.their_pfn(1, 40);
        assert_eq!((xen.machine.m2p.pfn(9), xen.machine.m2p.pfn(1)), (Some(11), Some(11)));
        assert!(marks(&xen).is_empty());
    }

    #[test]
    fn a_held_frame_cannot_be_transferred() {
        let mut xen = xen();
        xen.machine.hold(1);
        assert!(!xen.transfer_out(1, 5));
        xen.machine.drop_hold(1);
        assert!(xen.transfer_out(1, 5));
        assert!(!xen.machine.is_guest(1));
        assert!(marks(&xen).is_empty());
    }
}
