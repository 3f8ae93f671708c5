// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables whose PTEs are all plain: the pfn that the m2p has for a frame was settled with it,
//! and its live entry still names it. That is nearly all of them.
//! Not here: any other PTE, for which owners are queried and notes made (`view`).
//! Units: 512 PTEs; ports are called once a table, or once a run of PTEs, not once a PTE.
//! Threads: reads only; many tables at once.
//! Source: as `view`: the two have the same answers. Law 5: what was settled is what a suspended
//! guest's live entry says, or the pfn is owed.

use std::ops::Range;

use crate::bitmap::LINE_PFNS;
use crate::destination::Destination;
use crate::frame::{Entry, LeafIndex, Mfn, Pfn, Width};
use crate::leaf::FRAME_WORDS;
use crate::named_pfns::NamedPfns;
use crate::p2m::Layout;
use crate::port::{M2p, MapSlot, P2mSource};
use crate::table::{PTE_FRAME, PTE_PRESENT, PTE_SUPERPAGE, TableCopy, is_xen_slot, pte_mfn};

/// What plain tables are normalised with.
#[derive(Clone, Copy)]
pub(crate) struct Plain<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) p2m: &'a dyn P2mSource,
    pub(crate) m2p: &'a dyn M2p,
    pub(crate) destination: &'a Destination,
    /// One bit for each line of pfns: set if any of them may be owed. Only of a suspended guest.
    pub(crate) owed: Option<&'a [u64]>,
}

/// The present PTEs of a table.
struct Present {
    count: usize,
    slots: [u16; FRAME_WORDS],
    frames: [Mfn; FRAME_WORDS],
}

/// Live entries that have to be read, and the frames that they should name.
struct Unknown {
    count: usize,
    places: [(MapSlot, u32); FRAME_WORDS],
    frames: [Mfn; FRAME_WORDS],
}

impl Plain<'_> {
    /// Normalises a table, and returns what it names, if all of its PTEs are plain. Otherwise
    /// nothing is changed.
    pub(crate) fn normalise(&self, table: &mut TableCopy) -> Option<NamedPfns> {
        let may_have_compat = self.layout.width() == Width::W32 && table.level == 2;
        if may_have_compat {
            return None;
        }
        self.normalise_runs(table).or_else(|| self.normalise_each(table))
    }

    /// The same for a table whose PTEs are in few runs, as are the pfns of their frames.
    fn normalise_runs(&self, table: &mut TableCopy) -> Option<NamedPfns> {
        let runs = Runs::of(self.layout.width(), table)?;
        let mut pfns = [Pfn(0); RUNS_MAX];
        for (run, first) in runs.list().iter().zip(&mut pfns) {
            let pfn = self.m2p.pfn(run.frame)?;
            if !self.is_plain_run(run, pfn) {
                return None;
            }
            *first = pfn;
        }
        let words = &mut table.words.words;
        for (run, first) in runs.list().iter().zip(&pfns) {
            for (pte, pfn) in words[run.slots()].iter_mut().zip(first.0..) {
                *pte = *pte & !PTE_FRAME | pfn << 12 & PTE_FRAME;
            }
        }
        clear_xen_slots(self.layout.width(), table);
        let named = runs.list().iter().zip(pfns);
        Some(NamedPfns::of_runs(named.map(|(run, first)| (first, u64::from(run.count)))))
    }

    /// Whether a run's frames have the pfns from `first` on, all plain.
    fn is_plain_run(&self, run: &Run, first: Pfn) -> bool {
        let (width, layout, destination) = (self.layout.width(), self.layout, self.destination);
        let count = u64::from(run.count);
        let end = Pfn(first.0.saturating_add(count));
        let is_untagged = (run.frame.0 + count) >> (width.bits() - 2) == 0;
        if !is_untagged || end.0 > layout.pfns() || !self.m2p.is_run(run.frame, first, count) {
            return false;
        }
        let mut pfn = first;
        while pfn < end {
            let (leaf, slot) = (width.leaf_of(pfn), width.slot_of(pfn));
            let here = (end.0 - pfn.0).min((width.entries() - slot) as u64);
            let frame = Mfn(run.frame.0 + (pfn.0 - first.0));
            let Some(held) = layout.slot(leaf) else { return false };
            let base = destination.shadow.base(leaf);
            let is_live = || self.p2m.is_run(held, slot as u32, frame, here);
            let is_known = self.is_live_known(pfn) && self.is_live_known(Pfn(pfn.0 + here - 1));
            if !base.is_run(width, slot, frame, here as usize) || !is_known && !is_live() {
                return false;
            }
            pfn.0 += here;
        }
        let is_own = |pfn: u64| !destination.sent.is_foreign(Pfn(pfn));
        destination.sent.foreign_pfns() == 0 || (first.0..end.0).all(is_own)
    }

    /// The same for PTEs in any order.
    fn normalise_each(&self, table: &mut TableCopy) -> Option<NamedPfns> {
        let width = self.layout.width();
        let present = Present::of(width, table)?;
        let count = present.count;
        let frames = &present.frames[..count];
        let mut pfns = [None; FRAME_WORDS];
        self.m2p.pfns(frames, &mut pfns[..count]);
        let mut unknown = Unknown::NONE;
        if !self.are_settled(width, frames, &pfns[..count], &mut unknown)
            || !unknown.are_live(self.p2m)
        {
            return None;
        }
        let words = &mut table.words.words;
        for (slot, pfn) in present.slots.iter().zip(pfns.iter().flatten()).take(count) {
            let pte = &mut words[usize::from(*slot)];
            *pte = *pte & !PTE_FRAME | pfn.0 << 12 & PTE_FRAME;
        }
        clear_xen_slots(width, table);
        Some(NamedPfns::of(pfns[..count].iter().flatten().copied()))
    }
}

fn clear_xen_slots(width: Width, table: &mut TableCopy) {
    if table.level < XEN_LEVEL_MIN {
        return;
    }
    for (slot, pte) in table.words.words.iter_mut().enumerate() {
        if is_xen_slot(width, table.level, slot, false) {
            *pte = 0;
        }
    }
}

/// Xen has slots of its own in tables of this level and above; in level 2 of a 32-bit guest only
/// in a table that is not looked at here.
const XEN_LEVEL_MIN: u8 = 3;

/// Runs of a table that is looked at run by run, at most.
const RUNS_MAX: usize = 32;

/// Present PTEs in neighbouring slots, with frames that follow one another and the same flags.
#[derive(Clone, Copy)]
struct Run {
    slot: u16,
    count: u16,
    frame: Mfn,
}

impl Run {
    fn slots(&self) -> Range<usize> {
        usize::from(self.slot)..usize::from(self.slot + self.count)
    }
}

/// The runs of a table.
struct Runs {
    runs: [Run; RUNS_MAX],
    count: usize,
}

impl Runs {
    fn list(&self) -> &[Run] {
        &self.runs[..self.count]
    }

    /// `None` if there are too many, or PTEs that are not plain by themselves.
    fn of(width: Width, table: &TableCopy) -> Option<Self> {
        let words = &table.words.words;
        let mut runs =
            Self { runs: [Run { slot: 0, count: 0, frame: Mfn(0) }; RUNS_MAX], count: 0 };
        let mut slot = 0;
        while slot < FRAME_WORDS {
            let pte = words[slot];
            if pte & PTE_PRESENT == 0 || is_xen_slot(width, table.level, slot, false) {
                slot += 1;
                continue;
            }
            if table.level > 1 && pte & PTE_SUPERPAGE != 0 || runs.count == RUNS_MAX {
                return None;
            }
            let follows = |&(at, &next): &(usize, &u64)| {
                next == pte.wrapping_add((at as u64) << 12)
                    && (table.level < XEN_LEVEL_MIN
                        || !is_xen_slot(width, table.level, slot + at, false))
            };
            let count = words[slot..].iter().enumerate().take_while(follows).count();
            runs.runs[runs.count] =
                Run { slot: slot as u16, count: count as u16, frame: pte_mfn(pte) };
            runs.count += 1;
            slot += count;
        }
        Some(runs)
    }
}

impl Plain<'_> {
    /// Whether each pfn was settled with its frame, as the domain's own and without a tag. Adds the
    /// live entries that have to be read.
    fn are_settled(
        &self,
        width: Width,
        frames: &[Mfn],
        pfns: &[Option<Pfn>],
        unknown: &mut Unknown,
    ) -> bool {
        let (destination, layout) = (self.destination, self.layout);
        self.prefetch(width, pfns);
        let any_foreign = destination.sent.foreign_pfns() > 0;
        let mut leaf = LeafIndex(u64::MAX);
        let mut held = (MapSlot(0), destination.shadow.base(leaf));
        for (&mfn, pfn) in frames.iter().zip(pfns) {
            let Some(pfn) = pfn.filter(|&pfn| pfn.0 < layout.pfns()) else { return false };
            // Frames of neighbours are mostly those of one leaf.
            if width.leaf_of(pfn) != leaf {
                leaf = width.leaf_of(pfn);
                let Some(slot) = layout.slot(leaf) else { return false };
                held = (slot, destination.shadow.base(leaf));
            }
            let slot = width.slot_of(pfn);
            let is_untagged = mfn.0 >> (width.bits() - 2) == 0;
            if !is_untagged
                || held.1.entry(width, slot) != Entry::frame(mfn)
                || any_foreign && destination.sent.is_foreign(pfn)
            {
                return false;
            }
            if !self.is_live_known(pfn) {
                unknown.add((held.0, slot as u32), mfn);
            }
        }
        true
    }

    /// Whether the live entry of a pfn is what was settled.
    fn is_live_known(&self, pfn: Pfn) -> bool {
        let line = pfn.0 / LINE_PFNS;
        let lines = self.owed.and_then(|lines| lines.get((line / 64) as usize));
        lines.is_some_and(|lines| lines >> (line % 64) & 1 == 0)
    }

    /// Prefetches what the shadow has for these pfns, unless they follow one another.
    fn prefetch(&self, width: Width, pfns: &[Option<Pfn>]) {
        let mut leaf = LeafIndex(u64::MAX);
        for &pfn in pfns.iter().flatten() {
            if width.leaf_of(pfn) != leaf {
                leaf = width.leaf_of(pfn);
                self.destination.shadow.base(leaf).prefetch(width, width.slot_of(pfn));
            }
        }
    }
}

impl Unknown {
    const NONE: Self =
        Self { count: 0, places: [(MapSlot(0), 0); FRAME_WORDS], frames: [Mfn(0); FRAME_WORDS] };

    fn add(&mut self, place: (MapSlot, u32), frame: Mfn) {
        (self.places[self.count], self.frames[self.count]) = (place, frame);
        self.count += 1;
    }

    /// Whether each of them names its frame.
    fn are_live(&self, p2m: &dyn P2mSource) -> bool {
        if self.count == 0 {
            return true;
        }
        let mut entries = [Entry::INVALID; FRAME_WORDS];
        p2m.entries(&self.places[..self.count], &mut entries[..self.count]);
        let mut named = entries[..self.count].iter().zip(&self.frames);
        named.all(|(&entry, &mfn)| entry == Entry::frame(mfn))
    }
}

impl Present {
    /// `None` if the table has a superpage.
    fn of(width: Width, table: &TableCopy) -> Option<Self> {
        let mut present = Self { count: 0, slots: [0; FRAME_WORDS], frames: [Mfn(0); FRAME_WORDS] };
        for (slot, &pte) in table.words.words.iter().enumerate() {
            if pte & PTE_PRESENT == 0 || is_xen_slot(width, table.level, slot, false) {
                continue;
            }
            if table.level > 1 && pte & PTE_SUPERPAGE != 0 {
                return None;
            }
            present.slots[present.count] = slot as u16;
            present.frames[present.count] = pte_mfn(pte);
            present.count += 1;
        }
        Some(present)
    }
}
