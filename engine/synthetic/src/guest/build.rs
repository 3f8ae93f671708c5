// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest when its migration begins: frames as a buddy allocator left them, a p2m over them.
//! Not here: anything that happens later.
//! Units: pfns, mfns, positions of leaves.
//! Threads: one owner.
//! Source: captures of real guests: mostly runs of step +1, some descending, some shuffled, holes
//! by ballooning.

use std::collections::BTreeMap;

use p2mtrack::frame::{Entry, FRAME_BYTES, Pfn, Width};
use p2mtrack::leaf::FRAME_WORDS;
use p2mtrack::port::{LOG_DIRTY_LEAF_PFNS, Roots};

use crate::dice::Dice;
use crate::guest::blocks::Mfns;
use crate::guest::claims::{Claimed, Claims};
use crate::guest::kernel::Guest;
use crate::guest::layout::{Empty, Layout, Linear, NONE, P2mKind, Tree, cr3_of, levels};
use crate::guest::tables::make_tables;
use crate::log_dirty::Log;
use crate::machine::{Machine, Owner};
use crate::page_table::{pin, pte};
use crate::words::FrameWords;
use crate::xen::Xen;

/// Frames at the machine's start that are always Xen's.
const XEN_FRAMES: u64 = 64;
/// The smallest guest, in frames: enough for its own structures and for changes.
const FRAMES_MIN: u64 = 2048;

/// The guest to build.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) guest_bytes: u64,
    pub(crate) width: Width,
    pub(crate) kind: P2mKind,
    /// Pfns without a frame between those that have one; 0 without such a gap.
    pub(crate) gap: u64,
}

/// A leaf at the start.
#[derive(Clone, Copy)]
enum Plan {
    /// Frames, but for a run of holes from the first to before the second slot.
    Frames(usize, usize),
    Identity,
    Missing,
}

struct Builder<'a> {
    dice: &'a mut Dice,
    shape: Shape,
    machine: Machine,
    /// Words of private leaves by position.
    words: BTreeMap<u64, FrameWords>,
    holes: Vec<u64>,
    /// Populated pfns not yet taken for a purpose are found from here on.
    cursor: u64,
}

/// Builds the machine and the guest.
pub(crate) fn build(shape: Shape, dice: &mut Dice) -> (Xen, Guest) {
    let entries = shape.width.entries() as u64;
    let frames = (shape.guest_bytes / FRAME_BYTES as u64).max(FRAMES_MIN).next_multiple_of(entries);
    let plans = plan_leaves(shape, frames, dice);
    let needed = plans.iter().map(|plan| match plan {
        Plan::Frames(first, end) => entries - (end - first) as u64,
        Plan::Identity | Plan::Missing => 0,
    });
    let needed: u64 = needed.sum();
    let machine = Machine::new(needed + needed / 16 + 8192 + XEN_FRAMES);
    let words = BTreeMap::new();
    let mut builder = Builder { dice, shape, machine, words, holes: Vec::new(), cursor: 0 };
    builder.populate(&plans, needed);
    builder.finish(&plans)
}

/// Leaves of the guest's start: frames, perhaps a hole of identity entries, a tail of missing
/// leaves.
fn plan_leaves(shape: Shape, frames: u64, dice: &mut Dice) -> Vec<Plan> {
    let entries = shape.width.entries();
    let ballooned = dice.pick(&[2, 4, 8, 32]);
    let mut plans: Vec<Plan> = (0..frames / entries as u64)
        .map(|_| {
            let run =
                if dice.chance(1, ballooned) { dice.between(1, entries as u64 / 8) } else { 0 };
            let first = dice.index(entries - run as usize);
            Plan::Frames(first, first + run as usize)
        })
        .collect();
    if shape.gap > 0 {
        // The kernel's own pages are in the first half; what follows begins with a leaf of Xen's
        // log, or anywhere.
        let at = plans.len() / 2 + dice.index(plans.len() / 4 + 1);
        let of_log = LOG_DIRTY_LEAF_PFNS as usize / entries;
        let mut end = at + (shape.gap as usize).div_ceil(entries);
        if dice.chance(1, 2) {
            end = end.next_multiple_of(of_log);
        }
        plans.splice(at..at, (at..end).map(|_| Plan::Missing));
    }
    if dice.chance(1, 2) {
        let at = dice.index(plans.len());
        for _ in 0..dice.between(1, 3) {
            plans.insert(at, Plan::Identity);
        }
    }
    let tail = if dice.chance(1, 2) { dice.between(1, 12) } else { 0 };
    plans.extend((0..tail).map(|_| Plan::Missing));
    plans
}

impl Builder<'_> {
    /// Allocates the machine's frames in blocks and writes the leaves.
    fn populate(&mut self, plans: &[Plan], needed: u64) {
        let pfns = plans.len() as u64 * self.shape.width.entries() as u64;
        let blocks = self.split_machine(needed, pfns);
        let mut mfns = Mfns::new(blocks, Dice::new(self.dice.word(), 1));
        let width = self.shape.width;
        for (position, plan) in plans.iter().enumerate() {
            let Plan::Frames(first, end) = *plan else { continue };
            let defined = !self.dice.chance(1, 12);
            let base = position as u64 * width.entries() as u64;
            let mut entry = |slot: usize| {
                if (first..end).contains(&slot) {
                    self.holes.push(base + slot as u64);
                    return Entry::INVALID.0;
                }
                let mfn = mfns.next();
                self.machine.settle(mfn, Owner::Guest, Some(base + slot as u64), defined);
                mfn
            };
            let words = match width {
                Width::W64 => FrameWords::from_fn(entry, false),
                Width::W32 => FrameWords::from_fn(
                    |index| {
                        let low = entry(2 * index) & 0xffff_ffff;
                        low | entry(2 * index + 1) << 32
                    },
                    false,
                ),
            };
            self.words.insert(position as u64, words);
        }
    }

    /// Cuts the machine into blocks: the guest's, and between them free frames and other domains'.
    fn split_machine(&mut self, needed: u64, pfns: u64) -> Vec<(u64, u64)> {
        let mut blocks = Vec::new();
        let mut at = XEN_FRAMES;
        let mut left = needed;
        let mut spare = self.machine.m2p.frames() - XEN_FRAMES - needed;
        while at < self.machine.m2p.frames() {
            let len = self.dice.between(64, 1024);
            if left > 0 && !(spare >= len && self.dice.chance(1, 12)) {
                let len = len.min(left);
                blocks.push((at, len));
                left -= len;
                at += len;
                continue;
            }
            let len = len.min(spare);
            let owner = if self.dice.chance(1, 4) { Owner::Other } else { Owner::Free };
            for mfn in at..at + len {
                let other = owner == Owner::Other;
                let pfn = other.then(|| self.dice.below(pfns));
                self.machine.settle(mfn, owner, pfn, other);
            }
            spare -= len;
            at += len;
        }
        for _ in 0..blocks.len() / 6 {
            let (one, two) = (self.dice.index(blocks.len()), self.dice.index(blocks.len()));
            blocks.swap(one, two);
        }
        blocks
    }

    fn entry(&self, pfn: u64) -> Entry {
        let width = self.shape.width;
        match self.words.get(&width.leaf_of(Pfn(pfn)).0) {
            Some(words) => words.entry(width, width.slot_of(Pfn(pfn))),
            None => Entry::INVALID,
        }
    }

    /// The next populated pfn for a page of the kernel's own, now and then from somewhere else.
    fn take_page(&mut self) -> u64 {
        let pfns = self.words.len() as u64 * self.shape.width.entries() as u64;
        if self.dice.chance(1, 9) {
            self.cursor = self.cursor.max(pfns / 8) + self.dice.below(64);
        }
        loop {
            self.cursor += 1;
            let entry = self.entry(self.cursor);
            if entry != Entry::INVALID {
                return entry.0;
            }
        }
    }

    fn install(&mut self, words: FrameWords) -> u64 {
        let mfn = self.take_page();
        self.machine.install(mfn, words);
        mfn
    }

    fn finish(mut self, plans: &[Plan]) -> (Xen, Guest) {
        let width = self.shape.width;
        let entries = width.entries() as u64;
        self.cursor = self.dice.below(entries * self.words.len() as u64 / 4);
        let missing_leaf = self.install(FrameWords::from_fn(|_| u64::MAX, false));
        let identity = FrameWords::from_fn(|_| 0, false);
        for slot in 0..entries {
            identity.store_entry(width, slot as usize, Entry::identity(width, Pfn(slot)));
        }
        let identity_leaf = self.install(identity);
        let positions = plans.len() as u64 + self.dice.between(24, 640);
        let leaves = (0..positions).map(|position| match plans.get(position as usize) {
            Some(Plan::Frames(..)) => {
                // The entry of a leaf's own frame is in some leaf, perhaps the same one: the words
                // stay in `self.words` until all leaves are placed.
                self.take_page()
            }
            Some(Plan::Identity) => identity_leaf,
            Some(Plan::Missing) | None => missing_leaf,
        });
        let leaves: Vec<u64> = leaves.collect();
        let pfn_count = self.pfn_count(plans);
        let (hot_pfn, gap_pfns) = self.hot_pfn(plans, pfn_count);
        let guest = Guest {
            width,
            roots: Roots { pfn_count, ..Roots::default() },
            leaves,
            layout: Layout::Tree(Tree {
                top: NONE,
                mids: Vec::new(),
                missing_mid: NONE,
                empty: Empty::Ones,
            }),
            missing_leaf,
            identity_leaf,
            claims: Claims::default(),
            grants: crate::grant::Grants::default(),
            holes: Vec::new(),
            tables: Vec::new(),
            reserved_pfns: Vec::new(),
            bumps: !self.dice.chance(1, 4),
            pins_all: self.dice.chance(1, 2),
            pfns_at_start: pfn_count,
            hot_pfn,
            gap_pfns,
        };
        self.attach(guest)
    }

    /// Where most work begins, and the pfns of the gap. In a guest with a gap, work begins behind
    /// it or with the first pfn.
    fn hot_pfn(&mut self, plans: &[Plan], pfn_count: u64) -> (u64, u64) {
        if self.shape.gap == 0 {
            return (pfn_count / 3, 0);
        }
        let entries = self.shape.width.entries() as u64;
        let missing = |plan: &&Plan| matches!(plan, Plan::Missing);
        let last = plans.iter().rposition(|plan| matches!(plan, Plan::Frames(..))).unwrap_or(0);
        let gap = plans[..last].iter().filter(missing).count() as u64 * entries;
        let behind = plans[..last].iter().rposition(|plan| missing(&plan)).map_or(0, |at| at + 1);
        (self.dice.pick(&[0, behind as u64 * entries]), gap)
    }

    /// The count often ends inside a leaf or in the tail of missing leaves.
    fn pfn_count(&mut self, plans: &[Plan]) -> u64 {
        let entries = self.shape.width.entries() as u64;
        let pfns = plans.len() as u64 * entries;
        let missing = plans.iter().rev().take_while(|plan| matches!(plan, Plan::Missing)).count();
        if missing > 0 && self.dice.chance(1, 2) { pfns - self.dice.below(entries) } else { pfns }
    }

    fn attach(mut self, mut guest: Guest) -> (Xen, Guest) {
        match self.shape.kind {
            P2mKind::Linear => self.hang_list(&mut guest),
            P2mKind::Tree => self.hang_tree(&mut guest),
        }
        let reserved: Vec<u64> = (0..6).map(|_| self.take_page()).collect();
        let pages: Vec<u64> = (0..10).map(|_| self.take_page()).collect();
        for (position, words) in std::mem::take(&mut self.words) {
            self.machine.install(guest.leaves[position as usize], words);
        }
        let pfn_of = |mfn: &u64| self.machine.m2p.pfn(*mfn).unwrap_or(0);
        guest.reserved_pfns = reserved.iter().map(pfn_of).collect();
        let mut held = Claimed::default();
        for &pfn in &guest.reserved_pfns {
            guest.claims.take_pfn(guest.width, pfn, &mut held);
        }
        guest.holes = std::mem::take(&mut self.holes);
        let mut xen = Xen {
            machine: self.machine,
            log: Log::default(),
            width: guest.width,
            partial: BTreeMap::new(),
        };
        if guest.kind() == P2mKind::Linear {
            pin(&mut xen, guest.root(), levels(guest.width));
        }
        make_tables(&mut xen, &mut guest, &pages, self.dice);
        (xen, guest)
    }

    /// Page tables over the whole capacity; where no leaf is private, the shared missing table.
    fn hang_list(&mut self, guest: &mut Guest) {
        let width = self.shape.width;
        let pages = guest.leaves.len() as u64;
        guest.roots.p2m_vaddr = choose_base(width, pages, self.dice);
        let base = guest.base_page();
        let missing = guest.missing_leaf;
        let missing_table = self.install(FrameWords::from_fn(|_| pte(missing), false));
        let mut tables: Vec<BTreeMap<u64, u64>> = Vec::new();
        let mut below: BTreeMap<u64, u64> =
            (0..pages).map(|p| (base + p, guest.leaves[p as usize])).collect();
        for level in 1..=levels(width) {
            let mut keys: Vec<u64> = below.keys().map(|key| key >> 9).collect();
            keys.dedup();
            let mut here = BTreeMap::new();
            for key in keys {
                let slots: BTreeMap<u64, u64> =
                    below.range(key << 9..(key + 1) << 9).map(|(&k, &m)| (k, m)).collect();
                let shared = level == 1
                    && slots.len() == FRAME_WORDS
                    && slots.values().all(|&m| m == missing);
                let xen_slots = level == 4;
                let word = |slot: usize| match slots.get(&(key << 9 | slot as u64)) {
                    Some(&mfn) => pte(mfn),
                    None if xen_slots && (256..272).contains(&slot) => pte(slot as u64 - 250),
                    None => 0,
                };
                let mfn = if shared {
                    missing_table
                } else {
                    self.install(FrameWords::from_fn(word, false))
                };
                here.insert(key, mfn);
            }
            below.clone_from(&here);
            tables.push(here);
        }
        let root = below.values().next().copied().unwrap_or(NONE);
        guest.roots.p2m_cr3 = cr3_of(width, root);
        // A list-only guest leaves the tree's root 0 or invalid.
        guest.roots.frame_list_list = self.dice.pick(&[0, u64::MAX >> (64 - width.bits())]);
        guest.layout = Layout::Linear(Linear { tables, missing_table });
    }

    /// Mids and top; unused slots as one of the known guests leaves them.
    fn hang_tree(&mut self, guest: &mut Guest) {
        let width = self.shape.width;
        let slots = width.entries();
        let empty = self.dice.pick(&[Empty::Ones, Empty::Zero, Empty::Missing]);
        let mut tree = Tree { top: NONE, mids: Vec::new(), missing_mid: NONE, empty };
        let last = guest.leaves.iter().rposition(|&leaf| leaf != guest.missing_leaf).unwrap_or(0);
        let filler =
            if empty == Empty::Missing { Entry(guest.missing_leaf) } else { tree.empty_word() };
        if empty == Empty::Missing {
            tree.missing_mid = self.install(frame_of(width, |_| filler));
        } else {
            // Without shared frames, positions past the last leaf have no leaf at all.
            let listed = width.leaves(guest.roots.pfn_count) as usize;
            let first_empty = if self.dice.chance(1, 2) { listed } else { last + 1 };
            for leaf in &mut guest.leaves[first_empty..] {
                *leaf = NONE;
            }
            if self.shape.gap > 0 && self.dice.chance(1, 2) {
                let missing = guest.missing_leaf;
                for leaf in guest.leaves.iter_mut().filter(|leaf| **leaf == missing) {
                    *leaf = NONE;
                }
            }
        }
        for chunk in guest.leaves.chunks(slots) {
            let used = chunk.iter().any(|&leaf| leaf != NONE && leaf != guest.missing_leaf);
            let word = |slot: usize| match chunk.get(slot) {
                Some(&leaf) if leaf != NONE => Entry(leaf),
                _ => filler,
            };
            let mid = if used { self.install(frame_of(width, word)) } else { tree.missing_mid };
            tree.mids.push(mid);
        }
        for (position, leaf) in guest.leaves.iter_mut().enumerate() {
            if tree.mids[position / slots] == NONE {
                *leaf = NONE;
            }
        }
        let unused =
            if empty == Empty::Missing { Entry(tree.missing_mid) } else { tree.empty_word() };
        let word = |slot: usize| match tree.mids.get(slot) {
            Some(&mid) if mid != NONE => Entry(mid),
            _ => unused,
        };
        tree.top = self.install(frame_of(width, word));
        guest.roots.frame_list_list = tree.top;
        guest.layout = Layout::Tree(tree);
    }
}

/// A frame of entries made by a function.
fn frame_of(width: Width, entry: impl Fn(usize) -> Entry) -> FrameWords {
    let words = FrameWords::from_fn(|_| 0, false);
    for slot in 0..width.entries() {
        words.store_entry(width, slot, entry(slot));
    }
    words
}

/// The list begins on any page: aligned, at random, or so that it crosses a table boundary.
fn choose_base(width: Width, pages: u64, dice: &mut Dice) -> u64 {
    let (first, last) = match width {
        Width::W32 => (0x8000_0000_u64 >> 12, (0xf500_0000 >> 12) - pages),
        Width::W64 => (0xffff_c900_0000_0000 >> 12, (0xffff_e900_0000_0000 >> 12) - pages),
    };
    let page = dice.between(first, last);
    let unit = dice.pick(&[1, 1 << 9, 1 << 18, 1 << 18, 1 << 27]);
    let border = page & !(unit - 1);
    let crossing = border.saturating_sub(dice.below(pages + 1));
    let page = if dice.chance(2, 3) { crossing } else { border };
    page.clamp(first, last) << 12
}
