// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes a range of pfns owed if something about it could not be found out.
//! Not here: how long that may go on (`round`, `uncertainty`).
//! Units: pfns.
//! Threads: one owner.
//! Source: `docs/design.md`, law 4.

use std::ops::Range;

use crate::cause::Cause;
use crate::destination::Destination;
use crate::frame::{LeafIndex, Pfn};
use crate::ledger::Ledger;
use crate::p2m::P2m;
use crate::shadow::EmptyLeaves;

/// Owes a range. Leaves without frames in the shadow are left out: they have no page to send again,
/// and their entries are compared in any case.
pub(crate) fn owe(pfns: Range<u64>, p2m: &P2m, ledger: &Ledger, destination: &Destination) {
    let width = p2m.width();
    let leaves = width.leaf_of(Pfn(pfns.start)).0..width.leaves(pfns.end);
    let mut empty = EmptyLeaves::new(p2m.domain.machine);
    for leaf in (leaves.start..leaves.end.min(p2m.layout.tracked())).map(LeafIndex) {
        if empty.has(&destination.shadow.base(leaf), width) {
            continue;
        }
        let first = width.first_pfn(leaf).0;
        let last = first + width.entries() as u64;
        let range = first.max(pfns.start)..last.min(pfns.end);
        ledger.bitmap.mark_range(range, Cause::Uncertain);
    }
}

/// Owes everything.
pub(crate) fn owe_all(p2m: &P2m, ledger: &Ledger, destination: &Destination) {
    owe(0..p2m.layout.pfns(), p2m, ledger, destination);
}
