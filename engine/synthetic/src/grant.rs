// SPDX-License-Identifier: MIT OR Apache-2.0
//! Grants and transfers: how frames are shared with, given to and taken from other domains.
//! Not here: which of the guest's programs do it (`behaviour`).
//! Units: mfn and pfn as plain numbers.
//! Threads: one owner.
//! Source: `xen/common/grant_table.c`: a writable mapping marks at unmap, a copy when it is done; a
//! transfer in sets the m2p, unmarked.

use std::collections::{BTreeMap, BTreeSet};

use p2mtrack::frame::{Mfn, Pfn};
use p2mtrack::port::Transfer;

use crate::machine::Owner;
use crate::xen::Xen;

/// What a transfer entry of the grant table says, by its flags and its frame field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// `GTF_accept_transfer`: the pfn that a frame is to have.
    Made(u64),
    /// `GTF_transfer_committed` too: the pfn, and then the frame.
    Committed(u64),
    /// `GTF_transfer_completed` too: the frame.
    Completed(u64),
}

/// The guest's grant table, as far as it matters here.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    /// Frames of the guest that a backend has mapped for writing.
    pub(crate) mapped: BTreeSet<u64>,
    /// Transfer entries by number.
    offers: BTreeMap<u64, Offer>,
    /// Transfer entries made so far.
    made: u64,
    /// One was made since the last query.
    young: bool,
}

impl Grants {
    /// The guest offers to take a frame at a pfn. Returns the number of the entry.
    pub(crate) fn accept(&mut self, pfn: u64) -> u64 {
        self.made += 1;
        self.offers.insert(self.made, Offer::Made(pfn));
        self.young = true;
        self.made
    }

    /// Xen writes an entry.
    pub(crate) fn note(&mut self, entry: u64, offer: Offer) {
        if let Some(there) = self.offers.get_mut(&entry) {
            *there = offer;
        }
    }

    /// A frame came by an entry. Completes the entry, unless its flags are written one by one.
    pub(crate) fn came(&mut self, entry: u64, mfn: u64) {
        if let Some(there @ &mut Offer::Made(_)) = self.offers.get_mut(&entry) {
            *there = Offer::Completed(mfn);
        }
    }

    /// The guest removes an entry.
    pub(crate) fn withdraw(&mut self, entry: u64) {
        self.offers.remove(&entry);
    }

    /// Whether there is a transfer entry, or one was made since the last query that was `counted`.
    pub(crate) fn accepts_transfer(&mut self, counted: bool) -> bool {
        let accepts = self.young || !self.offers.is_empty();
        self.young &= !counted;
        accepts
    }

    /// What the entries name.
    pub(crate) fn transfers(&self) -> impl Iterator<Item = Transfer> {
        self.offers.values().flat_map(|&offer| {
            let (pfn, mfn) = match offer {
                Offer::Made(pfn) => (Some(pfn), None),
                Offer::Committed(either) => (Some(either), Some(either)),
                Offer::Completed(mfn) => (None, Some(mfn)),
            };
            let into = pfn.map(|pfn| Transfer::Into(Pfn(pfn)));
            into.into_iter().chain(mfn.map(|mfn| Transfer::Came(Mfn(mfn))))
        })
    }

    /// A backend maps a frame of the guest for writing.
    pub(crate) fn backend_maps(&mut self, xen: &mut Xen, mfn: u64) {
        if self.mapped.insert(mfn) {
            xen.machine.hold(mfn);
        }
    }

    /// The backend unmaps it: the one moment at which its writes are marked.
    pub(crate) fn backend_unmaps(&mut self, xen: &mut Xen, mfn: u64) {
        if self.mapped.remove(&mfn) {
            xen.mark(mfn);
            xen.machine.drop_hold(mfn);
        }
    }
}

/// The guest, as a backend, maps a frame of another domain.
pub(crate) fn map_foreign(xen: &mut Xen, mfn: u64) {
    xen.machine.hold(mfn);
}

/// The guest unmaps it.
pub(crate) fn unmap_foreign(xen: &mut Xen, mfn: u64) {
    xen.machine.drop_hold(mfn);
}

/// Another domain gives a frame of its own a pfn, by any means; no mark in the guest's log.
pub(crate) fn their_pfn(xen: &mut Xen, mfn: u64, pfn: u64) {
    if xen.machine.owner(mfn) == Owner::Other {
        xen.machine.m2p.set(mfn, Some(pfn));
    }
}

/// `GNTTABOP_copy` into a page of the guest: written while Xen holds it, and marked after. The log
/// may be taken between.
pub(crate) fn copy_begins(xen: &mut Xen, mfn: u64) {
    xen.machine.hold(mfn);
    xen.machine.write(mfn);
}

/// The copy is done.
pub(crate) fn copy_ends(xen: &mut Xen, mfn: u64) {
    xen.mark(mfn);
    xen.machine.drop_hold(mfn);
}

/// `GNTTABOP_transfer` by the guest; refused while the frame has other references.
pub(crate) fn transfer_out(xen: &mut Xen, mfn: u64, pfn_there: u64) -> bool {
    let free =
        xen.machine.is_guest(mfn) && xen.machine.refs(mfn) == 0 && !xen.machine.is_given_back(mfn);
    if free {
        xen.machine.hand_over(mfn, Owner::Other, Some(pfn_there));
    }
    free
}

/// `GNTTABOP_transfer` by another domain: the frame comes with its contents, unmarked.
pub(crate) fn transfer_in(xen: &mut Xen, mfn: u64, pfn: u64) {
    xen.machine.hand_over(mfn, Owner::Guest, Some(pfn));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::tests::{marks, xen};

    #[test]
    fn a_backend_marks_only_when_it_unmaps() {
        let (mut xen, mut grants) = (xen(), Grants::default());
        grants.backend_maps(&mut xen, 1);
        xen.writes_unlogged(1);
        assert!(marks(&xen).is_empty());
        grants.backend_unmaps(&mut xen, 1);
        assert_eq!(marks(&xen), [11]);
        assert_eq!(xen.machine.refs(1), 0);
    }

    #[test]
    fn a_copy_marks_after_it_wrote() {
        let mut xen = xen();
        let before = xen.machine.content(1);
        copy_begins(&mut xen, 1);
        assert_ne!(xen.machine.content(1), before);
        assert!(marks(&xen).is_empty() && xen.machine.refs(1) == 1);
        copy_ends(&mut xen, 1);
        assert_eq!((marks(&xen), xen.machine.refs(1)), (vec![11], 0));
    }

    #[test]
    fn a_transfer_in_marks_nothing_and_brings_defined_contents() {
        let mut xen = xen();
        let there = xen.machine.content(9);
        transfer_in(&mut xen, 9, 33);
        assert!(marks(&xen).is_empty());
        assert_eq!(xen.machine.m2p.pfn(9), Some(33));
        assert_eq!(xen.machine.content(9), there);
    }

    #[test]
    fn the_pfns_of_other_domains_are_theirs_to_choose() {
        let mut xen = xen();
        their_pfn(&mut xen, 9, 11);
        their_pfn(&mut xen, 1, 40);
        assert_eq!((xen.machine.m2p.pfn(9), xen.machine.m2p.pfn(1)), (Some(11), Some(11)));
        assert!(marks(&xen).is_empty());
    }

    #[test]
    fn an_offer_is_reported_while_it_exists_and_once_after() {
        let mut grants = Grants::default();
        assert!(!grants.accepts_transfer(true));
        let entry = grants.accept(33);
        grants.withdraw(entry);
        assert!(grants.accepts_transfer(false) && grants.accepts_transfer(true));
        assert!(!grants.accepts_transfer(true));
        let (one, two) = (grants.accept(33), grants.accept(34));
        grants.came(one, 9);
        grants.note(two, Offer::Committed(34));
        grants.came(two, 8);
        let named: Vec<_> = grants.transfers().collect();
        let (into, came) = (Transfer::Into(Pfn(34)), Transfer::Came(Mfn(34)));
        assert_eq!(named, [Transfer::Came(Mfn(9)), into, came]);
        grants.withdraw(one);
        assert!(grants.accepts_transfer(true) && grants.accepts_transfer(true));
    }

    #[test]
    fn a_held_frame_cannot_be_transferred() {
        let mut xen = xen();
        xen.machine.hold(1);
        assert!(!transfer_out(&mut xen, 1, 5));
        xen.machine.drop_hold(1);
        assert!(transfer_out(&mut xen, 1, 5));
        assert!(!xen.machine.is_guest(1));
        assert!(marks(&xen).is_empty());
    }
}
