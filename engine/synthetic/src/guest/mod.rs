// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's kernel: its p2m as it keeps it itself, shared_info, and what its programs have in hand.
//! Not here: what its programs do (`behaviour`), or how a step is carried out (`exec`).
//! Units: pfn and mfn as plain numbers; positions of leaves count from 0.
//! Threads: one owner.
//! Source: Linux `arch/x86/xen/p2m.c` (linear list, tree, shared missing and identity pages).

mod blocks;
mod build;
mod claims;
mod layout;
mod tables;

use p2mtrack::frame::{Claim, Entry, Mfn, Pfn, Width};
use p2mtrack::port::Roots;

pub(crate) use build::{Shape, build};
pub(crate) use claims::{Claimed, Claims};
pub(crate) use layout::{Empty, Layout, Linear, Tree, cr3_of, mfn_of_cr3};

use crate::dice::Dice;
use crate::grant::Grants;
use crate::machine::Machine;

/// How a guest keeps its p2m.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum P2mKind {
    /// A virtually mapped list, found by its page tables.
    Linear,
    /// A tree of top, mid and leaf frames.
    Tree,
}

/// No frame.
pub(crate) const NONE: u64 = u64::MAX;

/// The guest's kernel.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) width: Width,
    /// shared_info.
    pub(crate) roots: Roots,
    /// The frame of each leaf, up to the capacity of the p2m; [`NONE`] where the tree has none.
    pub(crate) leaves: Vec<u64>,
    pub(crate) layout: Layout,
    /// The shared leaf without any frame.
    pub(crate) missing_leaf: u64,
    /// The shared leaf of identity entries.
    pub(crate) identity_leaf: u64,
    pub(crate) claims: Claims,
    pub(crate) grants: Grants,
    /// Pfns that may be without a frame and free for use; checked when taken.
    pub(crate) holes: Vec<u64>,
    /// Page tables of the guest's processes: frame and level.
    pub(crate) tables: Vec<(u64, u8)>,
    /// Pfns that never move: the store and console rings, registered vcpu_info.
    pub(crate) reserved_pfns: Vec<u64>,
    /// The kernel moves the generation when it changes the list's mapping, as it should.
    pub(crate) bumps: bool,
    /// The kernel pins all its tables before a suspend, as Linux does.
    pub(crate) pins_all: bool,
    /// Pfns that the guest had at the start; most work happens there.
    pub(crate) pfns_at_start: u64,
    /// Of these, pfns of a gap without frames.
    pub(crate) gap_pfns: u64,
    /// The first of the pfns to which half of the work goes.
    pub(crate) hot_pfn: u64,
}

impl Guest {
    /// How the p2m is kept.
    pub(crate) const fn kind(&self) -> P2mKind {
        match self.layout {
            Layout::Linear(_) => P2mKind::Linear,
            Layout::Tree(_) => P2mKind::Tree,
        }
    }

    /// Pfns outside of the gap that the guest had at the start: about as many as it had frames.
    pub(crate) const fn frames_at_start(&self) -> u64 {
        self.pfns_at_start - self.gap_pfns
    }

    /// The position of the leaf of a pfn.
    pub(crate) const fn position(&self, pfn: u64) -> u64 {
        self.width.leaf_of(Pfn(pfn)).0
    }

    /// Where the entry of a pfn stands: frame of the leaf and slot.
    pub(crate) fn place(&self, pfn: u64) -> Option<(u64, usize)> {
        let leaf = *self.leaves.get(self.position(pfn) as usize)?;
        (leaf != NONE).then(|| (leaf, self.width.slot_of(Pfn(pfn))))
    }

    /// The entry of a pfn.
    pub(crate) fn entry(&self, machine: &Machine, pfn: u64) -> Entry {
        match self.place(pfn) {
            Some((leaf, slot)) => machine.entry(leaf, self.width, slot),
            None => Entry::INVALID,
        }
    }

    /// The frame that a pfn has, by an entry without tags.
    pub(crate) fn frame(&self, machine: &Machine, pfn: u64) -> Option<u64> {
        match self.entry(machine, pfn).claim(self.width) {
            Claim::Frame(Mfn(mfn)) => Some(mfn),
            _ => None,
        }
    }

    /// Whether a leaf is private, so that entries can be written into it.
    pub(crate) fn is_private(&self, position: u64) -> bool {
        self.leaves.get(position as usize).is_some_and(|&leaf| {
            leaf != NONE && leaf != self.missing_leaf && leaf != self.identity_leaf
        })
    }

    /// A pfn with an ordinary data page that nobody has in hand, chosen near the hot end or anywhere.
    pub(crate) fn pick_data(&self, machine: &Machine, dice: &mut Dice) -> Option<u64> {
        let count =
            self.roots.pfn_count.min(self.leaves.len() as u64 * self.width.entries() as u64);
        let hot = (count / 16).clamp(1, 4096);
        (0..48).find_map(|_| {
            let pfn =
                if dice.chance(1, 2) { self.hot_pfn + dice.below(hot) } else { dice.below(count) };
            (pfn < count && self.is_plain(machine, pfn)).then_some(pfn)
        })
    }

    /// Whether a pfn has an ordinary data page that nobody has in hand.
    pub(crate) fn is_plain(&self, machine: &Machine, pfn: u64) -> bool {
        self.frame(machine, pfn).is_some_and(|mfn| {
            machine.is_guest(mfn)
                && machine.level(mfn) == 0
                && !machine.has_real_words(mfn)
                && !machine.is_given_back(mfn)
        }) && !self.claims.has_pfn(pfn)
            && !self.claims.is_locked(self.position(pfn))
    }

    /// Takes a pfn without a frame out of the pool.
    pub(crate) fn take_hole(&mut self, machine: &Machine, dice: &mut Dice) -> Option<u64> {
        for _ in 0..16 {
            if self.holes.is_empty() {
                return None;
            }
            let at = dice.index(self.holes.len());
            let pfn = self.holes.swap_remove(at);
            if self.is_hole(machine, pfn) {
                return Some(pfn);
            }
        }
        None
    }

    /// Whether a pfn is free for a frame.
    pub(crate) fn is_hole(&self, machine: &Machine, pfn: u64) -> bool {
        let position = self.position(pfn);
        pfn < self.roots.pfn_count
            && self.is_private(position)
            && self.entry(machine, pfn) == Entry::INVALID
            && !self.claims.has_pfn(pfn)
            && !self.claims.is_locked(position)
    }

    /// Gives back what a program had in hand; pfns that are without a frame now become holes.
    pub(crate) fn release(&mut self, machine: &Machine, claimed: Claimed) {
        let pfns = self.claims.release(self.width, claimed);
        for pfn in pfns {
            if self.is_hole(machine, pfn) {
                self.holes.push(pfn);
            }
        }
    }
}
