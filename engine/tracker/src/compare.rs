// SPDX-License-Identifier: MIT OR Apache-2.0
//! Comparison of one live leaf with its shadow: marks what differs and counts it.
//! Not here: which leaves are compared (`tracker`), how two leaves are compared (`diff`).
//! Units: slots of one leaf; marks go to the leaf's own lines of the resend bitmap.
//! Threads: shards run it at once on different leaves; everything it changes is atomic.
//! Source: `docs/design.md`, section 3: report before remember; equal entries and the transfer exception.

use std::sync::Arc;

use crate::bitmap::PfnBitmap;
use crate::cause::Cause;
use crate::diff::Kernel;
use crate::frame::{Claim, LeafIndex, Mfn, Pfn};
use crate::layout::{Backing, Layout, names_nothing};
use crate::leaf::{Leaf, LeafMask};
use crate::offers::Offers;
use crate::port::{M2p, P2mSource};
use crate::report::EntryCounts;
use crate::resend::ResendBitmap;
use crate::shadow::Shadow;

/// Positions at which a leaf that names frames may be listed.
const ALIAS_POSITIONS_MAX: u64 = 4;

/// A leaf that has to be compared, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) leaf: LeafIndex,
    pub(crate) cause: Cause,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) item: Item,
    /// The frame, if it could not be mapped: nothing was compared.
    pub(crate) unmapped: Option<Mfn>,
    pub(crate) equal: bool,
    /// No live entry names anything.
    pub(crate) hole: bool,
    /// The leaf names frames and is listed at too many positions for an honest guest.
    pub(crate) aliased: Option<(Mfn, u64)>,
    pub(crate) counts: EntryCounts,
    /// Changed pfns that hold frames of the p2m.
    pub(crate) holders: Vec<Pfn>,
    /// The copy, where the whole leaf is to be remembered at once.
    pub(crate) adopt: Option<Arc<Leaf>>,
}

/// Everything a comparison reads.
pub(crate) struct Comparison<'a> {
    pub(crate) kernel: Kernel,
    pub(crate) layout: &'a Layout,
    pub(crate) shadow: &'a Shadow,
    pub(crate) resend: &'a ResendBitmap,
    pub(crate) p2m: &'a dyn P2mSource,
    pub(crate) m2p: &'a dyn M2p,
    pub(crate) log: &'a PfnBitmap,
    /// Remember every leaf as it was seen (observing, nothing is sent).
    pub(crate) adopt_all: bool,
    /// Equal entries of leaves in doubt are owed too: frames may have come back by transfer.
    pub(crate) offers: &'a Offers,
    /// The guest is suspended: entries of dirty leaves are held against the m2p.
    pub(crate) check_m2p: bool,
}

impl Comparison<'_> {
    /// Compares one leaf and marks what is owed.
    pub(crate) fn run(&self, item: &Item) -> Compared {
        let mut found = Compared {
            item: *item,
            unmapped: None,
            equal: true,
            hole: false,
            aliased: None,
            counts: EntryCounts::default(),
            holders: Vec::new(),
            adopt: None,
        };
        let mut live = Leaf::HOLE;
        match self.layout.backing(self.p2m, item.leaf) {
            Backing::Hole => {}
            Backing::Live(guest) => guest.fetch(&mut live),
            Backing::Unmapped(mfn) => {
                found.unmapped = Some(mfn);
                return found;
            }
        }
        found.aliased = self.aliased(item.leaf, &live);
        if found.aliased.is_some() {
            return found;
        }
        let tracked = self.tracked_slots(item.leaf);
        let changed = self.shadow.diff(self.kernel, item.leaf, &live).and(&tracked);
        found.equal = changed.is_empty();
        found.hole = found.equal && live.is_hole();
        if !found.equal {
            self.count(item, &live, &changed, &mut found);
        }
        if !found.equal && !self.adopt_all && self.is_barren_everywhere(item.leaf, &live, &changed)
        {
            found.adopt = Some(Arc::new(live));
            return found;
        }
        let owed = self.owed(item, &live, changed, &tracked);
        self.resend.mark_leaf(self.layout.width(), item.leaf, &owed, item.cause);
        if self.adopt_all && !found.equal {
            found.adopt = Some(Arc::new(live));
        }
        found
    }

    /// Slots of the leaf that are pfns of the guest: the last leaf may end early.
    fn tracked_slots(&self, leaf: LeafIndex) -> LeafMask {
        let width = self.layout.width();
        let left = self.layout.pfns().saturating_sub(width.first_pfn(leaf).0);
        LeafMask::first(left.min(width.entries() as u64) as usize)
    }

    fn count(&self, item: &Item, live: &Leaf, changed: &LeafMask, found: &mut Compared) {
        let leaf = item.leaf;
        // What is seen for the first time is no change of what the walk before went by.
        let known = !matches!(item.cause, Cause::First | Cause::Growth);
        let width = self.layout.width();
        let frames = self.m2p.frames();
        let first = width.first_pfn(leaf).0;
        for slot in changed.slots() {
            let pfn = Pfn(first + slot as u64);
            if known && self.layout.holders.plane().get(pfn) {
                found.holders.push(pfn);
            }
            let why = self.resend.why(pfn);
            if why.contains(Cause::Deferred) || why.contains(Cause::Returned) {
                continue; // counted when it changed; the shadow of an owed pfn says nothing
            }
            let was = self.shadow.entry(pfn).names_frame(width, frames);
            let now = live.entry(width, slot).names_frame(width, frames);
            match (was, now) {
                (false, true) => found.counts.mapped += 1,
                (true, false) => found.counts.unmapped += 1,
                (true, true) => found.counts.remapped += 1,
                (false, false) => found.counts.other += 1,
            }
            found.counts.beyond_log_dirty += u64::from(!self.log.get(pfn));
        }
    }

    /// Two positions share a leaf that names frames while a guest swaps two leaves; more are an attack
    /// on the host's memory, because each would need a shadow of its own.
    fn aliased(&self, leaf: LeafIndex, live: &Leaf) -> Option<(Mfn, u64)> {
        let (mfn, positions) = self.layout.sharing(leaf)?;
        let crowded = positions > ALIAS_POSITIONS_MAX && !self.is_barren(live);
        crowded.then_some((mfn, positions))
    }

    fn is_barren(&self, live: &Leaf) -> bool {
        let width = self.layout.width();
        let frames = self.m2p.frames();
        live.entries(width).all(|entry| names_nothing(entry.claim(width), frames))
    }

    /// A leaf listed at several positions that names no frame, over a shadow that named none either:
    /// Linux's missing and identity leaves. One copy serves all positions, nothing is owed.
    fn is_barren_everywhere(&self, leaf: LeafIndex, live: &Leaf, changed: &LeafMask) -> bool {
        let width = self.layout.width();
        let frames = self.m2p.frames();
        let first = width.first_pfn(leaf).0;
        self.layout.is_shared(leaf)
            && self.is_barren(live)
            && changed.slots().all(|slot| {
                let was = self.shadow.entry(Pfn(first + slot as u64));
                names_nothing(was.claim(width), frames)
            })
    }

    fn owed(&self, item: &Item, live: &Leaf, changed: LeafMask, tracked: &LeafMask) -> LeafMask {
        let mut owed = changed;
        let equal_owed = self.offers.doubt(item.leaf);
        if !equal_owed && !self.check_m2p {
            return owed;
        }
        let width = self.layout.width();
        let frames = self.m2p.frames();
        let first = width.first_pfn(item.leaf).0;
        for slot in tracked.and_not(&changed).slots() {
            let Claim::Frame(mfn) = live.entry(width, slot).claim(width) else { continue };
            let disagrees = || self.m2p.pfn(mfn) != Some(Pfn(first + slot as u64));
            if mfn.0 < frames && (equal_owed || self.check_m2p && disagrees()) {
                owed.set(slot);
            }
        }
        owed
    }
}
