// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest that obeys Xen: random, but each write of its p2m is marked under the backing pfn of the
//! frame.
//! Not here: guests that break rules (`life`), page contents, a hypervisor (`p2mtrack-synthetic`).
//! Units: few leaves; one table names them all.
//! Threads: plain values.
//! Source: own; marked by the m2p at the time of the write, as in Xen.

use std::collections::BTreeMap;
use std::sync::Arc;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Mfn, Pfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::Roots;
use p2mtrack_trace::{NONE, Round, Structure, UpperFrame};
use proptest::prelude::*;

use super::MAX_MFN;

/// Pfns of the log-dirty bitmap: one leaf of Xen's own tree.
const LOG_PFNS: u64 = 32_768;
/// First frame that is a leaf; those below are the tables.
const LEAF_MFN: u64 = 100;
/// First backing pfn of a leaf.
const LEAF_PFN: u64 = 10;
/// A leaf of invalid entries, listed at positions without frames.
const MISSING: u64 = 99;
const LEAVES_MAX: usize = 8;

/// One thing that the guest does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// An entry gets a value.
    Write(usize, u64),
    /// A page is written.
    Dirty(u64),
    /// A leaf's frame goes to another pfn.
    Move(usize, usize),
    /// A leaf gets another frame, with an entry changed.
    Repoint(usize, usize, u64),
    /// The p2m grows by a leaf of its own.
    Grow,
    /// The p2m grows by this many positions that share one leaf.
    GrowShared(usize),
}

/// What a guest does in each round before CLEAN, and after it.
pub(crate) fn acts() -> impl Strategy<Value = Vec<[Vec<Act>; 2]>> {
    let value = || prop_oneof![6 => 1000..MAX_MFN, 2 => Just(NONE), 1 => MAX_MFN..MAX_MFN + 9];
    let calm = move || {
        prop_oneof![
            6 => (20_usize..3000, value()).prop_map(|(pfn, value)| Act::Write(pfn, value)),
            2 => (0_u64..3000).prop_map(Act::Dirty),
            1 => (0_usize..LEAVES_MAX, 20_usize..3000, value()).prop_map(|(a, b, c)| Act::Repoint(a, b, c)),
            1 => Just(Act::Grow),
            1 => (2_usize..4).prop_map(Act::GrowShared),
        ]
    };
    let moves = (0_usize..LEAVES_MAX, 300_usize..500).prop_map(|(a, b)| Act::Move(a, b));
    let early = prop_oneof![5 => calm(), 1 => moves];
    let round = (prop::collection::vec(early, 0..6), prop::collection::vec(calm(), 0..4));
    prop::collection::vec(round.prop_map(|(early, late)| [early, late]), 1..7)
}

/// The guest.
pub(crate) struct Guest {
    width: Width,
    linear: bool,
    entries: Vec<u64>,
    leaves: Vec<u64>,
    /// The backing pfn of each p2m frame.
    backing: BTreeMap<u64, u64>,
    log: PfnBitmap,
    generation: u64,
    next: u64,
}

impl Guest {
    /// Two leaves of frames.
    pub(crate) fn new(width: Width, linear: bool) -> Self {
        let mut guest = Self {
            width,
            linear,
            entries: (1000..1000 + 2 * width.entries() as u64).collect(),
            leaves: vec![LEAF_MFN, LEAF_MFN + 1],
            backing: (1..5).map(|table| (table, table)).collect(),
            log: PfnBitmap::new(LOG_PFNS),
            generation: 0,
            next: 2,
        };
        guest.backing.extend([(MISSING, 9), (LEAF_MFN, LEAF_PFN), (LEAF_MFN + 1, LEAF_PFN + 1)]);
        for (&mfn, &pfn) in &guest.backing {
            guest.entries[pfn as usize] = mfn;
        }
        guest
    }

    /// All rounds of a guest that does this.
    pub(crate) fn live(mut self, life: &[[Vec<Act>; 2]]) -> Vec<Round> {
        let mut rounds = vec![self.round(self.roots(), None)];
        for [early, late] in life {
            early.iter().for_each(|&act| self.act(act));
            let before = self.roots();
            let log = std::mem::replace(&mut self.log, PfnBitmap::new(LOG_PFNS));
            late.iter().for_each(|&act| self.act(act));
            rounds.push(self.round(before, Some(log)));
        }
        rounds
    }

    fn mark(&mut self, mfn: u64) {
        self.log.set(Pfn(self.backing[&mfn]));
    }

    fn write(&mut self, pfn: usize, value: u64) {
        let leaf = self.leaves[pfn / self.width.entries()];
        if leaf != MISSING {
            self.entries[pfn] = value;
            self.mark(leaf);
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Write(pfn, value) if pfn < self.entries.len() => self.write(pfn, value),
            Act::Dirty(pfn) => _ = self.log.set(Pfn(pfn)),
            Act::Move(position, to) if position < self.leaves.len() => self.move_leaf(position, to),
            Act::Repoint(position, at, value) if position < self.leaves.len() => {
                self.leaves[position] = self.fresh_frame();
                self.mark(self.table());
                self.write(position * self.width.entries() + at % self.width.entries(), value);
            }
            Act::Grow if self.leaves.len() < LEAVES_MAX => {
                let leaf = self.fresh_frame();
                self.grow(leaf);
            }
            Act::GrowShared(count) if self.leaves.len() + count <= LEAVES_MAX => {
                (0..count).for_each(|_| self.grow(MISSING));
            }
            _ => {}
        }
    }

    fn grow(&mut self, leaf: u64) {
        self.leaves.push(leaf);
        self.entries.resize(self.leaves.len() * self.width.entries(), NONE);
        self.mark(self.table());
        self.generation += 2;
    }

    /// A frame for a leaf, at a pfn of its own.
    fn fresh_frame(&mut self) -> u64 {
        let (mfn, pfn) = (LEAF_MFN + self.next, LEAF_PFN + self.next);
        self.next += 1;
        self.backing.insert(mfn, pfn);
        self.write(pfn as usize, mfn);
        mfn
    }

    /// m2p first (`MMU_MACHPHYS_UPDATE` marks the new pfn), then the entries.
    fn move_leaf(&mut self, position: usize, to: usize) {
        let leaf = self.leaves[position];
        if self.backing.values().any(|&pfn| pfn == to as u64) {
            return;
        }
        let from = self.backing.insert(leaf, to as u64).expect("a leaf has one");
        self.mark(leaf);
        self.write(to, leaf);
        self.write(from as usize, NONE);
    }

    /// The frame that names the leaves.
    const fn table(&self) -> u64 {
        if self.linear { 4 } else { 2 }
    }

    fn roots(&self) -> Roots {
        let (p2m_cr3, p2m_vaddr) = match (self.linear, self.width) {
            (false, _) => (0, 0),
            (true, Width::W64) => (1 << 12, 0xffff_c900_0000_0000),
            (true, Width::W32) => (2 << 12, 0xf500_0000),
        };
        Roots {
            pfn_count: self.entries.len() as u64,
            frame_list_list: 1,
            p2m_cr3,
            p2m_vaddr,
            generation: self.generation,
        }
    }

    fn round(&self, before: Roots, log_dirty: Option<PfnBitmap>) -> Round {
        Round {
            before,
            after: self.roots(),
            log_dirty,
            upper: if self.linear { self.tables() } else { self.tree() },
            leaf_mfns: self.leaves.clone(),
            leaf_pfns: self.leaves.iter().map(|leaf| self.backing[leaf]).collect(),
            entries: self.entries.clone(),
            ..Round::default()
        }
    }

    fn upper(&self, structure: Structure, level: u8, mfn: u64, content: Leaf) -> UpperFrame {
        let pfn = Some(Pfn(self.backing[&mfn]));
        UpperFrame { structure, level, mfn: Mfn(mfn), pfn, content: Arc::new(content) }
    }

    fn tree(&self) -> Vec<UpperFrame> {
        let (mut top, mut mid) = (Leaf::HOLE, Leaf::HOLE);
        let set = |frame: &mut Leaf, slot, mfn: u64| match self.width {
            Width::W64 => frame.words[slot] = mfn,
            Width::W32 => frame.set_word32(slot, mfn as u32),
        };
        set(&mut top, 0, 2);
        self.leaves.iter().enumerate().for_each(|(slot, &leaf)| set(&mut mid, slot, leaf));
        vec![self.upper(Structure::Tree, 3, 1, top), self.upper(Structure::Tree, 2, 2, mid)]
    }

    fn tables(&self) -> Vec<UpperFrame> {
        let roots = self.roots();
        let levels = if self.width == Width::W64 { 4 } else { 3 };
        let table = |level: u8| {
            let mut content = Leaf::default();
            let first = (roots.p2m_vaddr >> (12 + 9 * (u32::from(level) - 1))) as usize % 512;
            let below = [5 - u64::from(level) + 1];
            let named = if level == 1 { &self.leaves[..] } else { &below };
            for (slot, mfn) in (first..).zip(named) {
                content.words[slot] = mfn << 12 | 0x67;
            }
            self.upper(Structure::Table, level, 5 - u64::from(level), content)
        };
        (1..=levels).rev().map(table).collect()
    }
}
