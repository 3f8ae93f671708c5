// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walk from the roots down to the leaves: which frame backs each position of the p2m.
//! Not here: what to do about a change (`layout`), or the seqlock around a walk (`structure`).
//! Units: positions are leaf indices; a node's slots cover `Shape::leaves_below` leaves each.
//! Threads: the caller's.
//! Source: every word is the guest's: loops end because levels fall, aliases are walked once
//! (`docs/design.md`, law 6).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::shape::{Shape, Slot};
use crate::error::{Error, StructureCause};
use crate::frame::{LeafIndex, Mfn};
use crate::leaf::Leaf;
use crate::port::{M2p, P2mSource};

/// Positions that the limit grows by for each distinct leaf: an honest p2m is dense but for holes
/// that share leaves.
pub(crate) const POSITIONS_PER_LEAF: u64 = 8;

/// A position without a leaf.
pub(crate) const NO_LEAF: Mfn = Mfn(u64::MAX);

/// Private copies of the p2m's upper frames, by level and frame. A copy is good until its frame's
/// pfn is dirty in log-dirty.
pub(crate) type TableCopies = HashMap<(u8, Mfn), Arc<Leaf>>;

/// What a walk found.
#[derive(Debug)]
pub(crate) struct Walked {
    /// The geometry it was made with.
    pub(crate) shape: Shape,
    /// Frame of each leaf; `NO_LEAF` where there is none. Only positions within the limit.
    pub(crate) leaves: Vec<Mfn>,
    /// Positions that can hold a frame; from here on every position is empty or lists a shared leaf
    /// that names no frame (Linux's missing and identity leaves).
    pub(crate) tracked: u64,
    /// The upper frames on the way.
    pub(crate) tables: BTreeSet<(u8, Mfn)>,
    /// Leaves whose contents the walk relied on: a write to one calls for a new walk.
    pub(crate) watched: BTreeSet<Mfn>,
}

/// One walk.
pub(crate) struct Walk<'a> {
    p2m: &'a mut dyn P2mSource,
    m2p: &'a dyn M2p,
    copies: &'a mut TableCopies,
    shape: Shape,
    pfn_count: u64,
    domain_frames: u64,
    limit: u64,
    found: Walked,
    /// Leaves listed so far, each once; and those listed more than once.
    seen: HashSet<Mfn>,
    shared: HashSet<Mfn>,
    tables_without_frames: HashMap<(u8, Mfn), bool>,
    leaves_without_frames: HashMap<Mfn, bool>,
}

impl<'a> Walk<'a> {
    /// Prepares a walk of the first `pfn_count` pfns. `limit` bounds the positions that it lists.
    pub(crate) fn new(
        p2m: &'a mut dyn P2mSource,
        m2p: &'a dyn M2p,
        copies: &'a mut TableCopies,
        shape: Shape,
        pfn_count: u64,
        domain_frames: u64,
        limit: u64,
    ) -> Self {
        let found = Walked {
            shape,
            leaves: Vec::new(),
            tracked: 0,
            tables: BTreeSet::new(),
            watched: BTreeSet::new(),
        };
        Self {
            p2m,
            m2p,
            copies,
            shape,
            pfn_count,
            domain_frames,
            limit,
            found,
            seen: HashSet::new(),
            shared: HashSet::new(),
            tables_without_frames: HashMap::new(),
            leaves_without_frames: HashMap::new(),
        }
    }

    /// Walks.
    ///
    /// # Errors
    /// [`Error::Structure`] for an upper frame that can't be used, [`Error::P2mSize`] if a leaf
    /// that names frames lies past what the domain's size can justify.
    pub(crate) fn run(mut self) -> Result<Walked, Error> {
        let leaves = self.shape.width.leaves(self.pfn_count);
        let pages = self.shape.base..self.shape.base.saturating_add(leaves);
        let top = self.shape.leaves_below(self.shape.levels + 1);
        let first = pages.start / top * top;
        self.descend(self.shape.levels, self.shape.root, first, &pages)?;
        self.trim()?;
        Ok(self.found)
    }

    /// Lists the leaves of one upper frame whose first slot is at page index `first`.
    fn descend(
        &mut self,
        level: u8,
        mfn: Mfn,
        first: u64,
        pages: &std::ops::Range<u64>,
    ) -> Result<(), Error> {
        let below = self.shape.leaves_below(level);
        let table = self.table(level, mfn, first.max(pages.start))?;
        let lo = pages.start.saturating_sub(first) / below;
        let hi = pages.end.saturating_sub(first).div_ceil(below).min(self.shape.slots() as u64);
        for slot in lo..hi {
            let start = first + slot * below;
            let position = start.max(pages.start) - self.shape.base;
            match self.shape.slot(level, &table, slot as usize) {
                Slot::Empty => {}
                Slot::Superpage => {
                    return Err(self.fault(level, mfn, position, StructureCause::Superpage));
                }
                Slot::Frame(leaf) if level == 1 => self.list(position, leaf)?,
                Slot::Frame(table) => {
                    if position < self.limit() || !self.maps_no_frame(level - 1, table, position)? {
                        self.descend(level - 1, table, start, pages)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes the leaf at a position.
    fn list(&mut self, position: u64, leaf: Mfn) -> Result<(), Error> {
        if position >= self.limit() {
            if self.leaf_maps_no_frame(leaf, position)? {
                return Ok(());
            }
            return Err(Error::P2mSize {
                pfn: self.shape.width.first_pfn(LeafIndex(position)),
                limit: self.limit() << self.shape.width.entry_bits(),
                domain_frames: self.domain_frames,
            });
        }
        let leaves = &mut self.found.leaves;
        leaves.resize(leaves.len().max(position as usize + 1), NO_LEAF);
        leaves[position as usize] = leaf;
        if !self.seen.insert(leaf) {
            self.shared.insert(leaf);
        }
        Ok(())
    }

    /// Positions that may be listed: as many as the domain's size justifies, or in proportion to
    /// the distinct leaves that were found below.
    fn limit(&self) -> u64 {
        self.limit.max(POSITIONS_PER_LEAF * self.seen.len() as u64)
    }

    /// Cuts the tail that lists nothing, or shared leaves without frames, off the tracked
    /// positions.
    fn trim(&mut self) -> Result<(), Error> {
        let leaves = std::mem::take(&mut self.found.leaves);
        let mut tracked = leaves.len();
        while tracked > 0 {
            let leaf = leaves[tracked - 1];
            let cut = leaf == NO_LEAF
                || self.shared.contains(&leaf)
                    && self.leaf_maps_no_frame(leaf, tracked as u64 - 1)?;
            if !cut {
                break;
            }
            tracked -= 1;
        }
        self.found.leaves = leaves;
        self.found.tracked = tracked as u64;
        Ok(())
    }

    /// The private copy of an upper frame, read if there is none.
    fn table(&mut self, level: u8, mfn: Mfn, page: u64) -> Result<Arc<Leaf>, Error> {
        self.found.tables.insert((level, mfn));
        if let Some(copy) = self.copies.get(&(level, mfn)) {
            return Ok(Arc::clone(copy));
        }
        let mut copy = Leaf::default();
        self.p2m.read(mfn, &mut copy).map_err(|fault| {
            let position = page.saturating_sub(self.shape.base);
            self.fault(level, mfn, position, StructureCause::Unreadable(fault))
        })?;
        let copy = Arc::new(copy);
        self.copies.insert((level, mfn), Arc::clone(&copy));
        Ok(copy)
    }

    /// Whether nothing below an upper frame names a frame. Each distinct frame is checked once.
    fn maps_no_frame(&mut self, level: u8, mfn: Mfn, position: u64) -> Result<bool, Error> {
        if let Some(&without_frames) = self.tables_without_frames.get(&(level, mfn)) {
            return Ok(without_frames);
        }
        let table = self.table(level, mfn, position + self.shape.base)?;
        let mut without_frames = true;
        for slot in 0..self.shape.slots() {
            without_frames = match self.shape.slot(level, &table, slot) {
                Slot::Empty => true,
                Slot::Superpage => false,
                Slot::Frame(leaf) if level == 1 => self.leaf_maps_no_frame(leaf, position)?,
                Slot::Frame(table) => self.maps_no_frame(level - 1, table, position)?,
            };
            if !without_frames {
                break;
            }
        }
        self.tables_without_frames.insert((level, mfn), without_frames);
        Ok(without_frames)
    }

    /// Whether no entry of a leaf names a frame.
    fn leaf_maps_no_frame(&mut self, mfn: Mfn, position: u64) -> Result<bool, Error> {
        if let Some(&without_frames) = self.leaves_without_frames.get(&mfn) {
            return Ok(without_frames);
        }
        let mut copy = Leaf::default();
        self.p2m
            .read(mfn, &mut copy)
            .map_err(|fault| self.fault(0, mfn, position, StructureCause::Unreadable(fault)))?;
        let width = self.shape.width;
        let frames = self.m2p.frames();
        let without_frames =
            copy.entries(width).all(|entry| entry.claim(width).names_nothing(frames));
        self.leaves_without_frames.insert(mfn, without_frames);
        self.found.watched.insert(mfn);
        Ok(without_frames)
    }

    fn fault(&self, level: u8, mfn: Mfn, position: u64, cause: StructureCause) -> Error {
        let pfn = self.shape.width.first_pfn(LeafIndex(position));
        Error::Structure { level, mfn, pfn, cause }
    }
}

#[cfg(test)]
mod tests;
