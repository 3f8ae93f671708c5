// SPDX-License-Identifier: MIT OR Apache-2.0
//! Comparison of live leaves with their shadow: marks what differs and counts it.
//! Not here: which leaves are compared (`compare`), how two copies are compared (`diff`).
//! Units: slots of a leaf; marks go to the leaf's own lines of the resend bitmap.
//! Threads: shards run it in parallel on different leaves; each has its own lines of the bitmap.
//! Source: `docs/design.md`, law 2: report before remember; equal entries and the transfer
//! exception.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bitmap::{PfnBitmap, bits_at};
use crate::cause::Cause;
use crate::destination::Sent;
use crate::diff::{Kernel, diff, diff_live, fetch};
use crate::form::{Base, Likeness, Segment, Step, wrap};
use crate::frame::{Claim, Entry, LeafIndex, Mfn, Pfn, Width};
use crate::guest::{Ahead, GuestLeaf};
use crate::intake::Offers;
use crate::leaf::{Leaf, LeafMask};
use crate::p2m::{Backing, Item, Layout};
use crate::port::{M2p, P2mSource};
use crate::report::EntryCounts;
use crate::resend::ResendShard;
use crate::shadow::{Shadow, ShadowShard};
use crate::shard::Join;

/// Positions at which a leaf that names frames may be listed.
const ALIAS_POSITIONS_MAX: u64 = 4;

/// Lines of a later leaf that are prefetched before a comparison begins: a processor waits for
/// about a dozen at a time.
const LINES_EARLY: usize = 12;

/// A pfn that is owed for one of these was counted when its entry changed.
const COUNTED: [Cause; 2] = [Cause::Deferred, Cause::Returned];

/// What a shard found in its leaves.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Leaves that were compared.
    pub(super) leaves: u64,
    /// Of these, dirty and found equal.
    pub(super) unchanged: u64,
    pub(super) counts: EntryCounts,
    /// Leaves that could not be mapped: nothing was compared.
    pub(super) unmapped: Vec<LeafIndex>,
    /// A leaf that names frames and is listed at too many positions for an honest guest.
    pub(super) aliased: Option<(LeafIndex, Mfn, u64)>,
    /// Changed pfns that hold frames of the p2m.
    pub(super) backing: Vec<Pfn>,
    /// Copies of leaves that are listed at several positions, to be put into the shadow whole, each
    /// with some of those positions.
    pub(super) adopt: Vec<(Vec<LeafIndex>, Arc<Leaf>)>,
}

impl Compared {
    /// Counts a leaf at one more of many positions.
    fn repeat(&mut self, item: &Item, found: &Repeated) {
        self.leaves += 1;
        self.unchanged += u64::from(found.changed == 0 && item.cause == Cause::Entry);
        self.counts.other += found.changed;
        self.counts.beyond_log_dirty += found.changed;
        if let Some(number) = found.adopted {
            self.adopt[number].0.push(item.leaf);
        }
    }
}

/// What was found for a leaf without frames at one of many positions: the same holds at each where
/// the shadow is the same.
#[derive(Clone, Copy, Debug)]
struct Repeated {
    /// Entries that changed.
    changed: u64,
    /// Its number in [`Compared::adopt`].
    adopted: Option<usize>,
}

/// A frame at many positions, and what it is compared with there.
type Shared = (Mfn, Likeness);

impl Join for Compared {
    fn join(mut self, mut next: Self) -> Self {
        self.leaves += next.leaves;
        self.unchanged += next.unchanged;
        self.counts.add(&next.counts);
        self.unmapped.append(&mut next.unmapped);
        self.aliased = self.aliased.or(next.aliased);
        self.backing.append(&mut next.backing);
        self.adopt.append(&mut next.adopt);
        self
    }
}

/// What one shard writes.
struct Notes<'a, 'b> {
    resend: &'a mut ResendShard<'b>,
    found: Compared,
    /// A copy of the last leaf that did not take the fast path.
    copy: Leaf,
    /// Leaves without frames at many positions.
    repeated: HashMap<Shared, Repeated>,
}

impl<'a, 'b> Notes<'a, 'b> {
    fn new(resend: &'a mut ResendShard<'b>) -> Self {
        Self { resend, found: Compared::default(), copy: Leaf::HOLE, repeated: HashMap::new() }
    }
}

/// What an observer has to remember of one leaf.
enum Seen {
    /// Nothing new.
    Known,
    /// A leaf that was a hole is now one run.
    Run(Segment),
    /// The copy is new.
    Copy,
}

/// Everything that a comparison reads.
pub(super) struct Comparison<'a> {
    pub(super) kernel: Kernel,
    pub(super) layout: &'a Layout,
    pub(super) p2m: &'a dyn P2mSource,
    pub(super) m2p: &'a dyn M2p,
    pub(super) log: &'a PfnBitmap,
    /// Equal entries of uncertain leaves are owed too: frames may have come back by transfer.
    pub(super) offers: &'a Offers,
    /// What the entries were settled as, and what was sent since every leaf was last compared: the
    /// latter is owed even if its entry is equal, because it may have been sent under another one.
    pub(super) sent: &'a Sent,
    /// The sender does not report what tables named: a pfn without a frame may have had one
    /// meanwhile, and a table may name it.
    pub(super) tables_unknown: bool,
    /// Entries of compared leaves are checked against the m2p: the guest is suspended, or all is
    /// verified.
    pub(super) check_m2p: bool,
}

impl Comparison<'_> {
    /// Compares leaves and marks what is owed. All leaves lie in `resend`.
    pub(super) fn run(
        &self,
        items: &[Item],
        shadow: &Shadow,
        resend: &mut ResendShard<'_>,
    ) -> Compared {
        let mut notes = Notes::new(resend);
        for (item, ahead) in self.walk(items) {
            self.compare_leaf(item, &shadow.base(item.leaf), ahead, &mut notes);
        }
        notes.found
    }

    /// The same for an observer: what is read goes into the shadow at once. All leaves lie in
    /// `shard`, too.
    pub(super) fn observe(
        &self,
        items: &[Item],
        shard: &mut ShadowShard,
        first: LeafIndex,
        resend: &mut ResendShard<'_>,
    ) -> Compared {
        let mut notes = Notes::new(resend);
        for (item, ahead) in self.walk(items) {
            let place = (item.leaf.0 - first.0) as usize;
            match self.compare_leaf(item, &shard.base(place), ahead, &mut notes) {
                Seen::Known => {}
                Seen::Run(run) => shard.put_run(place, run),
                // Slots past the guest's count are not its entries yet.
                Seen::Copy if !self.is_tracked_whole(item.leaf) => {
                    shard.put(place, &self.tracked_part(item.leaf, &notes.copy));
                }
                Seen::Copy if self.layout.is_shared(item.leaf) => {
                    notes.found.adopt.push((vec![item.leaf], Arc::new(notes.copy.clone())));
                }
                Seen::Copy => shard.put(place, &notes.copy),
            }
        }
        notes.found
    }

    /// Each item with what is prefetched while it is compared.
    fn walk<'i>(&'i self, items: &'i [Item]) -> impl Iterator<Item = (&'i Item, Ahead<'i>)> {
        let live = |item: &Item| {
            // Of a leaf at several positions mostly one is read.
            let alone = !self.layout.is_shared(item.leaf);
            alone.then(|| self.layout.backing(self.p2m, item.leaf).live()).flatten()
        };
        let mut later = items.iter().skip(2).map(live);
        let mut page = later.next().flatten();
        items.iter().map(move |item| {
            let lines = std::mem::replace(&mut page, later.next().flatten());
            // Until the lines of this item are read, the memory would be idle.
            if let Some(leaf) = lines {
                leaf.prefetch(LINES_EARLY);
            }
            (item, Ahead { lines, page })
        })
    }

    /// What a leaf at many positions has in common with its other positions, unless something is
    /// noted of a pfn at this one.
    fn shared_by_many(
        &self,
        item: &Item,
        base: &Base<'_>,
        resend: &ResendShard<'_>,
    ) -> Option<Shared> {
        let (mfn, positions) = self.layout.sharing(item.leaf)?;
        let likeness = base.likeness().filter(|_| positions > ALIAS_POSITIONS_MAX)?;
        let width = self.layout.width();
        let (first, entries) = (width.first_pfn(item.leaf), width.entries());
        let noted = self.sent.since.has_any(first, entries)
            || self.layout.backing.pfns_with_frames().has_any(first, entries)
            || self.log.count_in(first, entries) > 0
            || !resend.owed_for(&COUNTED, width, item.leaf).is_empty();
        (!noted && self.is_tracked_whole(item.leaf)).then_some((mfn, likeness))
    }

    /// Compares one leaf.
    fn compare_leaf(
        &self,
        item: &Item,
        base: &Base<'_>,
        ahead: Ahead<'_>,
        notes: &mut Notes<'_, '_>,
    ) -> Seen {
        let shared = self.shared_by_many(item, base, notes.resend);
        if let Some(found) = shared.and_then(|shared| notes.repeated.get(&shared)) {
            notes.found.repeat(item, found);
            return Seen::Known;
        }
        match self.layout.backing(self.p2m, item.leaf) {
            Backing::Unmapped => {
                notes.found.unmapped.push(item.leaf);
                return Seen::Known;
            }
            Backing::Hole if self.is_still_nothing(item, base) => {
                notes.found.leaves += 1;
                return Seen::Known;
            }
            Backing::Hole => notes.copy = Leaf::HOLE,
            Backing::Live(live) => {
                if let Some(seen) = self.fast_path(item, base, live, ahead, notes) {
                    return seen;
                }
                fetch(self.kernel, live, &mut notes.copy);
            }
        }
        self.compare(item, base, shared, notes)
    }

    /// Handles leaves that need no copy: an unchanged one, and a new one that is a run. Any other
    /// leaf is read again, once, and only that copy counts: it was read later, but after the same
    /// CLEAN.
    fn fast_path(
        &self,
        item: &Item,
        base: &Base<'_>,
        live: GuestLeaf<'_>,
        ahead: Ahead<'_>,
        notes: &mut Notes<'_, '_>,
    ) -> Option<Seen> {
        let width = self.layout.width();
        let sent_since = || self.sent.since.has_any(width.first_pfn(item.leaf), width.entries());
        if self.check_m2p
            || self.offers.is_uncertain(item.leaf)
            || self.layout.is_shared(item.leaf)
            || self.tables_unknown && !item.is_new()
            || sent_since()
        {
            return None; // equal entries and other positions matter, too
        }
        let whole = self.is_tracked_whole(item.leaf);
        if matches!(base, Base::Hole) && item.is_new() && whole {
            let run = likely_run(width, live)?;
            let nothing_owed = !notes.resend.is_owed(width, item.leaf);
            let runs = || diff_live(self.kernel, width, live, &Base::Affine(run), ahead).is_empty();
            return (nothing_owed && runs()).then(|| self.first_run(item, run, notes));
        }
        let changed = diff_live(self.kernel, width, live, base, ahead);
        let equal =
            changed.is_empty() || !whole && changed.and(&self.tracked_slots(item.leaf)).is_empty();
        equal.then(|| {
            notes.found.leaves += 1;
            notes.found.unchanged += u64::from(item.cause == Cause::Entry);
            Seen::Known
        })
    }

    /// Whether a new position has no leaf, and nothing is known to have been there.
    fn is_still_nothing(&self, item: &Item, base: &Base<'_>) -> bool {
        let width = self.layout.width();
        matches!(base, Base::Hole)
            && item.is_new()
            && !self.sent.since.has_any(width.first_pfn(item.leaf), width.entries())
    }

    /// Counts and marks a new leaf that is one run, without reading its entries one by one.
    fn first_run(&self, item: &Item, run: Segment, notes: &mut Notes<'_, '_>) -> Seen {
        let width = self.layout.width();
        let found = &mut notes.found;
        found.leaves += 1;
        if run.is_hole(width) {
            return Seen::Known;
        }
        let ends = [0, width.entries() - 1].map(|slot| run.entry_at(width, slot));
        // The words between two frames of a run are frames; otherwise each word is checked.
        let frames = self.m2p.frames();
        let changed = width.entries() as u64;
        let mapped = if ends.iter().all(|end| end.names_frame(width, frames)) {
            changed
        } else {
            let names = |&slot: &usize| run.entry_at(width, slot).names_frame(width, frames);
            (0..width.entries()).filter(names).count() as u64
        };
        found.counts.mapped += mapped;
        found.counts.other += changed - mapped;
        let first = width.first_pfn(item.leaf);
        found.counts.beyond_log_dirty += changed - self.log.count_in(first, width.entries());
        let all = LeafMask::first(width.entries());
        notes.resend.mark_leaf(width, item.leaf, &all, item.cause);
        Seen::Run(run)
    }

    /// Compares the private copy.
    fn compare(
        &self,
        item: &Item,
        base: &Base<'_>,
        shared: Option<Shared>,
        notes: &mut Notes<'_, '_>,
    ) -> Seen {
        let width = self.layout.width();
        let Notes { resend, found, copy, repeated } = notes;
        if let Some((mfn, positions)) = self.aliased(item.leaf, copy) {
            found.aliased = found.aliased.or(Some((item.leaf, mfn, positions)));
            return Seen::Known;
        }
        let tracked = self.tracked_slots(item.leaf);
        let changed = diff(self.kernel, width, copy, base).and(&tracked);
        let equal = changed.is_empty();
        found.leaves += 1;
        found.unchanged += u64::from(equal && item.cause == Cause::Entry);
        if !equal {
            let mut before = Leaf::default();
            base.decode(width, &mut before);
            self.count(item, [&before, copy], &changed, resend, found);
            if self.maps_no_frame_everywhere(item.leaf, copy, &before, &changed) {
                let changed = u64::from(changed.count());
                let adopted = Some(found.adopt.len());
                repeated.extend(shared.map(|shared| (shared, Repeated { changed, adopted })));
                found.adopt.push((vec![item.leaf], Arc::new(copy.clone())));
                return Seen::Known;
            }
        } else if let Some(shared) = shared {
            repeated.insert(shared, Repeated { changed: 0, adopted: None });
        }
        let owed = self.owed(item, copy, changed, &tracked);
        resend.mark_leaf(width, item.leaf, &owed, item.cause);
        if equal { Seen::Known } else { Seen::Copy }
    }

    /// Whether all slots of a leaf are pfns of the guest: the last leaf may end early.
    fn is_tracked_whole(&self, leaf: LeafIndex) -> bool {
        let width = self.layout.width();
        width.first_pfn(leaf).0.saturating_add(width.entries() as u64) <= self.layout.pfns()
    }

    /// The slots of a leaf that are pfns of the guest.
    fn tracked_slots(&self, leaf: LeafIndex) -> LeafMask {
        let width = self.layout.width();
        let left = self.layout.pfns().saturating_sub(width.first_pfn(leaf).0);
        LeafMask::first(left.min(width.entries() as u64) as usize)
    }

    /// The tracked slots of a leaf; the others are holes.
    fn tracked_part(&self, leaf: LeafIndex, copy: &Leaf) -> Leaf {
        let (width, mut part) = (self.layout.width(), Leaf::HOLE);
        for slot in self.tracked_slots(leaf).slots() {
            part.set_entry(width, slot, copy.entry(width, slot));
        }
        part
    }

    fn count(
        &self,
        item: &Item,
        [before, live]: [&Leaf; 2],
        changed: &LeafMask,
        resend: &ResendShard<'_>,
        found: &mut Compared,
    ) {
        let width = self.layout.width();
        let frames = self.m2p.frames();
        let words = (width.first_pfn(item.leaf).0 / 64) as usize..;
        let backing = self.layout.backing.pfns_with_frames();
        for (index, &word) in words.clone().zip(changed.used(width)).filter(|_| !item.is_new()) {
            let pfns = bits_at(index, word & backing.word(index));
            found.backing.extend(pfns.map(|pfn| Pfn(pfn as u64)));
        }
        // The others were counted when they changed; the shadow of an owed pfn says nothing.
        let fresh = changed.and_not(&resend.owed_for(&COUNTED, width, item.leaf));
        for (index, &word) in words.zip(fresh.used(width)) {
            let logged = self.log.words().get(index).copied().unwrap_or(0);
            found.counts.beyond_log_dirty += u64::from((word & !logged).count_ones());
        }
        for slot in fresh.slots() {
            let was = before.entry(width, slot).names_frame(width, frames);
            let now = live.entry(width, slot).names_frame(width, frames);
            found.counts.mapped += u64::from(!was && now);
            found.counts.unmapped += u64::from(was && !now);
            found.counts.remapped += u64::from(was && now);
            found.counts.other += u64::from(!was && !now);
        }
    }

    /// Two positions share a leaf that names frames while a guest swaps two leaves; more are an
    /// attack on the engine's memory, because each would need its own shadow.
    fn aliased(&self, leaf: LeafIndex, live: &Leaf) -> Option<(Mfn, u64)> {
        let (mfn, positions) = self.layout.sharing(leaf)?;
        let too_many = positions > ALIAS_POSITIONS_MAX && !self.maps_no_frame(live);
        too_many.then_some((mfn, positions))
    }

    fn maps_no_frame(&self, live: &Leaf) -> bool {
        live.entries(self.layout.width()).all(|entry| self.names_nothing(entry))
    }

    fn names_nothing(&self, entry: Entry) -> bool {
        entry.claim(self.layout.width()).names_nothing(self.m2p.frames())
    }

    /// A leaf listed at several positions that names no frame, over a shadow that named none
    /// either: Linux's missing and identity leaves. One copy serves all positions, nothing is owed.
    fn maps_no_frame_everywhere(
        &self,
        leaf: LeafIndex,
        live: &Leaf,
        before: &Leaf,
        changed: &LeafMask,
    ) -> bool {
        let width = self.layout.width();
        self.layout.is_shared(leaf)
            && self.maps_no_frame(live)
            && changed.slots().all(|slot| self.names_nothing(before.entry(width, slot)))
    }

    fn owed(&self, item: &Item, live: &Leaf, changed: LeafMask, tracked: &LeafMask) -> LeafMask {
        let mut owed = changed;
        let equal_owed = self.offers.is_uncertain(item.leaf);
        let width = self.layout.width();
        let sent_since = self.sent.since.has_any(width.first_pfn(item.leaf), width.entries());
        // Not for a leaf at several positions: each would cost marks for pfns that can't hold a
        // frame.
        let tables_unknown =
            self.tables_unknown && !item.is_new() && !self.layout.is_shared(item.leaf);
        if !equal_owed && !sent_since && !tables_unknown && !self.check_m2p {
            return owed;
        }
        let frames = self.m2p.frames();
        let first = width.first_pfn(item.leaf).0;
        for slot in tracked.and_not(&changed).slots() {
            if sent_since && self.sent.since.get(Pfn(first + slot as u64)) {
                owed.set(slot);
                continue;
            }
            let entry = live.entry(width, slot);
            if tables_unknown && self.names_nothing(entry) {
                owed.set(slot);
            }
            let Some(mfn) = entry.claim(width).named().filter(|mfn| mfn.0 < frames) else {
                continue;
            };
            let pfn = Pfn(first + slot as u64);
            let agrees = || self.m2p.pfn(mfn) == Some(pfn);
            let owe = match entry.claim(width) {
                // A tagged frame is the pfn's own only if the m2p says so.
                Claim::Foreign(_) if equal_owed => agrees(),
                Claim::Foreign(_) => self.check_m2p && agrees() == self.sent.is_foreign(pfn),
                _ => equal_owed || self.check_m2p && !agrees(),
            };
            if owe {
                owed.set(slot);
            }
        }
        owed
    }
}

/// The run that the first two entries of a leaf would make.
fn likely_run(width: Width, live: GuestLeaf<'_>) -> Option<Segment> {
    let [first, second] = [0, 1].map(|slot| wrap(width, live.entry(width, slot).0));
    Segment::new(width, 0, Step::between(width, first, second)?, first)
}
