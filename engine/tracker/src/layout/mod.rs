// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m's structure as the last walk found it: frame and mapping of each leaf, and who holds them.
//! Not here: entries (`shadow`), or when to walk (`tracker`).
//! Units: positions are leaf indices; a position from `tracked` on can hold no frame.
//! Threads: changed by one owner between phases; read by all shards during one.
//! Source: `docs/design.md`, section 2; a mapping that the last walk does not name is never read.

mod filter;
mod holders;
mod shape;
mod walk;

use std::collections::{BTreeSet, HashMap};

pub(crate) use shape::{Kind, Shape};

pub(crate) use holders::{Holders, Part};
pub(crate) use walk::{LEAF_REACH, NO_LEAF, TableCopies, Walk, Walked, names_nothing};

use filter::Filter;

use crate::frame::{Entry, LeafIndex, Mfn, Pfn, Width};
use crate::guest::GuestLeaf;
use crate::port::{M2p, MapFault, MapSlot, P2mSource};
use crate::resolve::names;

/// A distinct leaf frame in tracked positions.
#[derive(Clone, Copy, Debug)]
struct LeafFrame {
    map: Result<MapSlot, MapFault>,
    first: LeafIndex,
    positions: u64,
}

/// What stands at a position.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Backing<'a> {
    /// No leaf: every entry is invalid.
    Hole,
    /// A leaf that can't be mapped now.
    Unmapped,
    /// A mapped leaf.
    Live(GuestLeaf<'a>),
}

/// What a new walk changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Tracked before and after, but backed by another frame.
    pub(crate) repointed: Vec<LeafIndex>,
    /// Tracked now and not before.
    pub(crate) grown: Vec<LeafIndex>,
    /// Tracked pfns before.
    pub(crate) pfns_before: u64,
    /// Listed positions, tracked or not, that are new or backed by another frame.
    pub(crate) fresh: u64,
    /// Positions of the old walk that the new one lacks.
    pub(crate) dropped: u64,
}

/// The structure.
#[derive(Debug)]
pub(crate) struct Layout {
    width: Width,
    shape: Option<Shape>,
    leaves: Vec<Mfn>,
    /// The mapping at each tracked position, if there is one.
    slots: Vec<Option<MapSlot>>,
    /// Positions that the guest's count of pfns makes, within reach; the last may have no leaf.
    listed_leaves: u64,
    frames: HashMap<Mfn, LeafFrame>,
    /// Those of the frames that are not mapped.
    unmapped: BTreeSet<Mfn>,
    /// Tracked positions of frames that have more than one.
    shared: HashMap<Mfn, Vec<LeafIndex>>,
    /// How often the positions past the tracked ones list a frame.
    tail: HashMap<Mfn, u64>,
    tracked: u64,
    pfns: u64,
    pfn_count: u64,
    pub(crate) holders: Holders,
    filter: Filter,
    pub(crate) copies: TableCopies,
    watched: BTreeSet<Mfn>,
    /// The frame list differs from the one last told.
    pub(crate) list_changed: bool,
}

/// Frames in one call of `P2mSource::map`.
const MAP_FRAMES_MAX: usize = 4096;

impl Layout {
    pub(crate) fn new(width: Width) -> Self {
        Self {
            width,
            shape: None,
            leaves: Vec::new(),
            slots: Vec::new(),
            listed_leaves: 0,
            frames: HashMap::new(),
            unmapped: BTreeSet::new(),
            shared: HashMap::new(),
            tail: HashMap::new(),
            tracked: 0,
            pfns: 0,
            pfn_count: 0,
            holders: Holders::default(),
            filter: Filter::default(),
            copies: HashMap::new(),
            watched: BTreeSet::new(),
            list_changed: false,
        }
    }

    pub(crate) const fn width(&self) -> Width {
        self.width
    }

    /// Geometry of the last walk.
    pub(crate) const fn shape(&self) -> Option<Shape> {
        self.shape
    }

    /// The frame at each listed position, or `NO_LEAF`.
    pub(crate) fn leaves(&self) -> &[Mfn] {
        &self.leaves
    }

    /// Tracked leaves.
    pub(crate) const fn tracked(&self) -> u64 {
        self.tracked
    }

    /// Tracked pfns.
    pub(crate) const fn pfns(&self) -> u64 {
        self.pfns
    }

    /// The guest's own count of pfns at the last walk.
    pub(crate) const fn pfn_count(&self) -> u64 {
        self.pfn_count
    }

    /// Distinct leaf frames in tracked positions.
    pub(crate) fn distinct(&self) -> u64 {
        self.frames.len() as u64
    }

    /// The frame at a position, if it has one.
    pub(crate) fn frame(&self, leaf: LeafIndex) -> Option<Mfn> {
        self.leaves.get(leaf.0 as usize).copied().filter(|&mfn| mfn != NO_LEAF)
    }

    /// Whether the leaf at a position is listed at others too.
    pub(crate) fn is_shared(&self, leaf: LeafIndex) -> bool {
        !self.shared.is_empty() && self.sharing(leaf).is_some()
    }

    /// The frame at a position that is listed at others too, and the number of tracked positions that list it.
    pub(crate) fn sharing(&self, leaf: LeafIndex) -> Option<(Mfn, u64)> {
        let mfn = self.frame(leaf)?;
        Some((mfn, self.shared.get(&mfn)?.len() as u64))
    }

    /// What stands at a tracked position.
    pub(crate) fn backing<'a>(&self, p2m: &'a dyn P2mSource, leaf: LeafIndex) -> Backing<'a> {
        match self.slots.get(leaf.0 as usize) {
            Some(&Some(slot)) => Backing::Live(p2m.live(slot)),
            Some(None) if self.leaves[leaf.0 as usize] != NO_LEAF => Backing::Unmapped,
            Some(None) | None => Backing::Hole,
        }
    }

    /// The live entry of a pfn, read once; `None` where the leaf is not mapped.
    pub(crate) fn entry(&self, p2m: &dyn P2mSource, pfn: Pfn) -> Option<Entry> {
        if pfn.0 >= self.pfns {
            return Some(Entry::INVALID);
        }
        match self.backing(p2m, self.width.leaf_of(pfn)) {
            Backing::Hole => Some(Entry::INVALID),
            Backing::Unmapped => None,
            Backing::Live(guest) => Some(guest.entry(self.width, self.width.slot_of(pfn))),
        }
    }

    /// The tracked positions that list a leaf frame.
    pub(crate) fn positions(&self, mfn: Mfn) -> Vec<LeafIndex> {
        match self.frames.get(&mfn) {
            None => Vec::new(),
            Some(frame) if frame.positions == 1 => vec![frame.first],
            Some(_) => self.shared.get(&mfn).cloned().unwrap_or_default(),
        }
    }

    /// Listed positions of a leaf frame, tracked or not.
    pub(crate) fn listed(&self, mfn: Mfn) -> u64 {
        let tracked = self.frames.get(&mfn).map_or(0, |frame| frame.positions);
        tracked + self.tail.get(&mfn).copied().unwrap_or(0)
    }

    /// Whether the last walk went by what this leaf says.
    pub(crate) fn is_watched(&self, mfn: Mfn) -> bool {
        self.watched.contains(&mfn)
    }

    /// Copies that no log-dirty bit can refute: of a walk that was not taken over.
    pub(crate) fn drop_unheld_copies(&mut self) {
        let holders = &self.holders;
        self.copies.retain(|&(level, mfn), _| holders.knows(Part::Table(level, mfn)));
    }

    /// The part that a frame is of the p2m, if it is one: a leaf, or the upper frames of that number.
    pub(crate) fn parts_of(&self, mfn: Mfn) -> impl Iterator<Item = Part> + '_ {
        let known = self.filter.may_have(mfn);
        let levels = self.shape.map_or(0, |shape| shape.levels);
        std::iter::once(Part::Leaf(mfn))
            .chain((1..=levels).map(move |level| Part::Table(level, mfn)))
            .filter(move |&part| known && self.holders.knows(part))
    }

    /// Takes over a walk. New frames are not mapped yet: see [`Layout::map`].
    pub(crate) fn install(
        &mut self,
        mut walked: Walked,
        pfn_count: u64,
        p2m: &mut dyn P2mSource,
        m2p: &dyn M2p,
        holder_limit: u64,
    ) -> Changes {
        // What was tracked stays so while it is listed: its entries may have to be given up one by one.
        walked.tracked = walked.tracked.max(self.tracked.min(walked.leaves.len() as u64));
        let changes = self.compare(&walked);
        self.list_changed |= self.leaves != walked.leaves || self.pfn_count != pfn_count;
        self.shape = Some(walked.shape);
        self.tracked = walked.tracked;
        self.pfn_count = pfn_count;
        self.listed_leaves = self.width.leaves(pfn_count).min(self.width.leaves(holder_limit));
        self.pfns = pfn_count.min(walked.tracked << self.width.entry_bits());
        self.copies.retain(|key, _| walked.tables.contains(key));
        let parts = walked.parts();
        self.watched = std::mem::take(&mut walked.watched);
        self.leaves = walked.leaves;
        self.reframe(p2m);
        self.rehold(&parts, m2p, holder_limit);
        changes
    }

    fn compare(&self, walked: &Walked) -> Changes {
        let mut changes = Changes {
            pfns_before: self.pfns,
            dropped: self.leaves.len().saturating_sub(walked.leaves.len()) as u64,
            ..Changes::default()
        };
        for (position, leaf) in walked.leaves.iter().enumerate() {
            let moved = self.leaves.get(position) != Some(leaf);
            changes.fresh += u64::from(moved);
            let position = position as u64;
            if position >= walked.tracked {
                continue;
            } else if position >= self.tracked {
                changes.grown.push(LeafIndex(position));
            } else if moved {
                changes.repointed.push(LeafIndex(position));
            }
        }
        changes
    }

    /// Rebuilds the table of distinct frames, keeps held mappings, gives the others back.
    fn reframe(&mut self, p2m: &mut dyn P2mSource) {
        let mut old = std::mem::take(&mut self.frames);
        for position in 0..self.tracked {
            let mfn = self.leaves[position as usize];
            if mfn == NO_LEAF {
                continue;
            }
            let frame = self.frames.entry(mfn).or_insert_with(|| LeafFrame {
                map: old.remove(&mfn).map_or(Err(UNTRIED), |frame| frame.map),
                first: LeafIndex(position),
                positions: 0,
            });
            frame.positions += 1;
        }
        self.index_shared();
        self.unmapped.clear();
        self.slots.clear();
        for &mfn in &self.leaves[..self.tracked as usize] {
            let map = self.frames.get(&mfn).map(|frame| frame.map);
            if let Some(Err(_)) = map {
                self.unmapped.insert(mfn);
            }
            self.slots.push(map.and_then(Result::ok));
        }
        let mut slots: Vec<_> = old.values().filter_map(|frame| frame.map.ok()).collect();
        slots.sort_by_key(|slot| slot.0);
        p2m.unmap(&slots);
    }

    fn index_shared(&mut self) {
        self.shared.clear();
        self.tail.clear();
        let (tracked, tail) = self.leaves.split_at(self.tracked as usize);
        for (position, mfn) in (0..).map(LeafIndex).zip(tracked) {
            if self.frames.get(mfn).is_some_and(|frame| frame.positions > 1) {
                self.shared.entry(*mfn).or_default().push(position);
            }
        }
        for &mfn in tail.iter().filter(|&&mfn| mfn != NO_LEAF) {
            *self.tail.entry(mfn).or_default() += 1;
        }
    }

    fn rehold(&mut self, parts: &BTreeSet<Part>, m2p: &dyn M2p, limit: u64) {
        let gone: Vec<_> = self.holders.all().filter(|part| !parts.contains(part)).collect();
        for part in gone {
            self.holders.release(part);
        }
        self.filter = Filter::new(parts.iter().map(|part| part.mfn()));
        for &part in parts {
            if !self.holders.knows(part) {
                self.hold(part, m2p, limit);
            }
        }
    }

    /// Asks the m2p anew under which pfn writes to a part are marked.
    pub(crate) fn hold(&mut self, part: Part, m2p: &dyn M2p, limit: u64) -> bool {
        let changed = self.holders.hold(part, m2p.pfn(part.mfn()), limit);
        self.list_changed |= changed && matches!(part, Part::Leaf(_));
        changed
    }

    /// Maps every leaf that is not mapped. Returns how many still are not.
    pub(crate) fn map(&mut self, p2m: &mut dyn P2mSource) -> u64 {
        let missing: Vec<_> = self.unmapped.iter().copied().collect();
        for chunk in missing.chunks(MAP_FRAMES_MAX) {
            let mut answers = Vec::with_capacity(chunk.len());
            p2m.map(chunk, &mut answers);
            answers.resize(chunk.len(), Err(UNTRIED));
            for (&mfn, answer) in chunk.iter().zip(answers) {
                self.mapped(mfn, answer);
            }
        }
        self.unmapped.len() as u64
    }

    fn mapped(&mut self, mfn: Mfn, answer: Result<MapSlot, MapFault>) {
        let Some(frame) = self.frames.get_mut(&mfn) else { return };
        frame.map = answer;
        let Ok(slot) = answer else { return };
        self.unmapped.remove(&mfn);
        for LeafIndex(position) in self.positions(mfn) {
            self.slots[position as usize] = Some(slot);
        }
    }

    /// The first tracked position whose leaf is not mapped.
    pub(crate) fn first_unmapped(&self) -> Option<(LeafIndex, Mfn, MapFault)> {
        let frame = |mfn: &Mfn| self.frames.get(mfn).map(|frame| (*mfn, frame));
        let fault = |(mfn, frame): (Mfn, &LeafFrame)| Some((frame.first, mfn, frame.map.err()?));
        self.unmapped.iter().filter_map(frame).filter_map(fault).min_by_key(|found| found.0)
    }

    /// The first tracked position whose leaf is not that of the pfn which the frame list says. One look
    /// for each distinct leaf.
    pub(crate) fn first_unnamed(&self, p2m: &dyn P2mSource) -> Option<(LeafIndex, Mfn)> {
        let named = |mfn: Mfn| {
            let holder = self.holders.of(Part::Leaf(mfn));
            holder.is_some_and(|pfn| names(self, p2m, pfn, mfn))
        };
        let frames = self.frames.iter().filter(|&(&mfn, _)| !named(mfn));
        frames.map(|(&mfn, frame)| (frame.first, mfn)).min()
    }

    /// The first tracked position that lists a leaf frame.
    pub(crate) fn first_position(&self, mfn: Mfn) -> Option<LeafIndex> {
        self.frames.get(&mfn).map(|frame| frame.first)
    }

    /// Gives every mapping back.
    pub(crate) fn release(&mut self, p2m: &mut dyn P2mSource) {
        let mut slots: Vec<_> = self.frames.values().filter_map(|frame| frame.map.ok()).collect();
        slots.sort_by_key(|slot| slot.0);
        p2m.unmap(&slots);
        *self = Self::new(self.width);
    }

    /// Pfn of each listed leaf's frame, in order: what the receiver is told.
    pub(crate) fn frame_list(&self) -> Vec<Option<Pfn>> {
        let holder = |&mfn: &Mfn| match mfn {
            NO_LEAF => None,
            mfn => self.holders.of(Part::Leaf(mfn)),
        };
        let mut list: Vec<_> = self.leaves.iter().map(holder).collect();
        list.resize(list.len().max(self.listed_leaves as usize), None);
        list
    }
}

/// A leaf that nobody tried to map yet.
const UNTRIED: MapFault = MapFault::Errno(0);

impl Walked {
    /// Every frame whose change calls for attention.
    fn parts(&self) -> BTreeSet<Part> {
        let leaves = self.leaves.iter().filter(|&&mfn| mfn != NO_LEAF).map(|&mfn| Part::Leaf(mfn));
        let watched = self.watched.iter().map(|&mfn| Part::Leaf(mfn));
        let tables = self.tables.iter().map(|&(level, mfn)| Part::Table(level, mfn));
        leaves.chain(watched).chain(tables).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
