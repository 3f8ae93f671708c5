// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m's structure as the last walk found it: frame and mapping of each leaf, and backing pfns.
//! Not here: entries (`shadow`), or when to walk (`structure`).
//! Units: positions are leaf indices; a position from `tracked` on can hold no frame.
//! Threads: changed by one owner between phases; read by all shards during one.
//! Source: `docs/design.md`, "Changes": a mapping that the last walk does not name is never read.

use std::collections::{BTreeSet, HashMap};

use super::backing::{BackingPfns, P2mFrame};
use super::filter::Filter;
use super::shape::Shape;
use super::walk::{NO_LEAF, TableCopies, Walked};

use crate::frame::{Entry, LeafIndex, Mfn, Pfn, Width};
use crate::guest::GuestLeaf;
use crate::port::{M2p, MapFault, MapSlot, P2mSource};

/// A distinct leaf frame: one that is listed, or that the last walk relied on.
#[derive(Clone, Copy, Debug)]
struct LeafFrame {
    map: Result<MapSlot, MapFault>,
    /// The first tracked position that lists it, and how many do.
    first: LeafIndex,
    positions: u64,
    /// How often the positions past the tracked ones list it.
    tail: u64,
}

/// Tracked positions of a leaf.
#[derive(Clone, Debug)]
pub(crate) enum Positions {
    /// The usual case.
    One(LeafIndex),
    /// None, or some.
    Several(Vec<LeafIndex>),
}

impl std::ops::Deref for Positions {
    type Target = [LeafIndex];

    fn deref(&self) -> &[LeafIndex] {
        match self {
            Self::One(leaf) => std::slice::from_ref(leaf),
            Self::Several(leaves) => leaves,
        }
    }
}

/// What is at a position.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Backing<'a> {
    /// No leaf: every entry is invalid.
    Hole,
    /// A leaf that can't be mapped now.
    Unmapped,
    /// A mapped leaf.
    Live(GuestLeaf<'a>),
}

impl<'a> Backing<'a> {
    /// The leaf, if it is mapped.
    pub(crate) const fn live(self) -> Option<GuestLeaf<'a>> {
        match self {
            Self::Live(live) => Some(live),
            Self::Hole | Self::Unmapped => None,
        }
    }
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
    /// Positions that the guest's count of pfns makes, within the limit; the last may have no leaf.
    listed_leaves: u64,
    /// The leaf frames, by the numbers that `backing` has for them.
    frames: Vec<LeafFrame>,
    /// The number of the frame at each listed position, or `NO_FRAME`.
    numbers: Vec<u32>,
    /// Frames in tracked positions, and those of them that are not mapped.
    distinct: u64,
    unmapped: BTreeSet<u32>,
    /// Tracked positions of frames that have more than one.
    shared: HashMap<u32, Vec<LeafIndex>>,
    tracked: u64,
    pfns: u64,
    pfn_count: u64,
    pub(crate) backing: BackingPfns,
    filter: Filter,
    pub(crate) copies: TableCopies,
    watched: BTreeSet<Mfn>,
    /// The frame list differs from the one last sent.
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
            frames: Vec::new(),
            numbers: Vec::new(),
            distinct: 0,
            unmapped: BTreeSet::new(),
            shared: HashMap::new(),
            tracked: 0,
            pfns: 0,
            pfn_count: 0,
            backing: BackingPfns::default(),
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
    pub(crate) const fn distinct(&self) -> u64 {
        self.distinct
    }

    /// The frame at a position, if it has one.
    pub(crate) fn frame(&self, leaf: LeafIndex) -> Option<Mfn> {
        self.leaves.get(leaf.0 as usize).copied().filter(|&mfn| mfn != NO_LEAF)
    }

    /// Whether the leaf at a position is listed at others too.
    pub(crate) fn is_shared(&self, leaf: LeafIndex) -> bool {
        !self.shared.is_empty() && self.sharing(leaf).is_some()
    }

    /// The frame at a position that is listed at others too, and the number of tracked positions
    /// that list it.
    pub(crate) fn sharing(&self, leaf: LeafIndex) -> Option<(Mfn, u64)> {
        let number = self.numbers.get(leaf.0 as usize)?;
        Some((self.frame(leaf)?, self.shared.get(number)?.len() as u64))
    }

    /// What is at a tracked position.
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

    /// The mapping of the leaf at a position; `None` if there is no leaf, or it is not mapped.
    pub(crate) fn slot(&self, leaf: LeafIndex) -> Option<MapSlot> {
        *self.slots.get(leaf.0 as usize)?
    }

    /// Whether the live entry of `pfn` names `mfn`, tagged or not.
    pub(crate) fn names(&self, p2m: &dyn P2mSource, pfn: Pfn, mfn: Mfn) -> bool {
        self.entry(p2m, pfn).is_some_and(|entry| entry.claim(self.width).names(mfn))
    }

    /// The tracked positions that list a leaf, by its number.
    pub(crate) fn positions(&self, leaf: usize) -> Positions {
        match self.frames.get(leaf) {
            Some(frame) if frame.positions == 1 => Positions::One(frame.first),
            Some(frame) if frame.positions > 1 => {
                Positions::Several(self.shared.get(&(leaf as u32)).cloned().unwrap_or_default())
            }
            Some(_) | None => Positions::Several(Vec::new()),
        }
    }

    /// Listed positions of a leaf, tracked or not, by its number; none of an upper frame.
    pub(crate) fn listed(&self, part: usize) -> u64 {
        self.frames.get(part).map_or(0, |frame| frame.positions + frame.tail)
    }

    /// Whether the last walk relied on what this leaf says.
    pub(crate) fn is_watched(&self, mfn: Mfn) -> bool {
        self.watched.contains(&mfn)
    }

    /// Drops the copies of a walk that was not adopted: no log-dirty bit would invalidate them.
    pub(crate) fn drop_unbacked_copies(&mut self) {
        let backing = &self.backing;
        self.copies.retain(|&(level, mfn), _| backing.find(P2mFrame::Upper(level, mfn)).is_some());
    }

    /// Whether a frame may be a p2m frame: a quick check, after which few others are left.
    #[inline]
    pub(crate) fn may_be_p2m_frame(&self, mfn: Mfn) -> bool {
        self.filter.may_have(mfn)
    }

    /// The p2m frames that a frame is, if any: a leaf, or upper frames. A search for each level.
    pub(crate) fn p2m_frames_of(&self, mfn: Mfn) -> impl Iterator<Item = usize> + '_ {
        let levels = self.shape.map_or(0, |shape| shape.levels);
        std::iter::once(P2mFrame::Leaf(mfn))
            .chain((1..=levels).map(move |level| P2mFrame::Upper(level, mfn)))
            .filter_map(|part| self.backing.find(part))
    }

    /// Installs a walk. New frames are not mapped yet: see [`Layout::map`].
    pub(crate) fn install(
        &mut self,
        mut walked: Walked,
        pfn_count: u64,
        p2m: &mut dyn P2mSource,
        m2p: &dyn M2p,
        limit: u64,
    ) -> Changes {
        // What was tracked stays tracked while it is listed: its entries may have to be given up
        // one by one.
        walked.tracked = walked.tracked.max(self.tracked.min(walked.leaves.len() as u64));
        let changes = self.compare(&walked);
        self.list_changed |= self.leaves != walked.leaves || self.pfn_count != pfn_count;
        self.shape = Some(walked.shape);
        self.tracked = walked.tracked;
        self.pfn_count = pfn_count;
        self.listed_leaves = self.width.leaves(pfn_count).min(self.width.leaves(limit));
        self.pfns = pfn_count.min(walked.tracked << self.width.entry_bits());
        self.copies.retain(|key, _| walked.tables.contains(key));
        self.watched = std::mem::take(&mut walked.watched);
        self.leaves = walked.leaves;
        self.reframe(&walked.tables, p2m, |mfn| m2p.pfn(mfn).filter(|pfn| pfn.0 < limit));
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

    /// Lists the distinct frames again, keeps the mappings of those that stay, releases the others.
    fn reframe(
        &mut self,
        tables: &BTreeSet<(u8, Mfn)>,
        p2m: &mut dyn P2mSource,
        ask: impl Fn(Mfn) -> Option<Pfn>,
    ) {
        let held = self.held_mappings();
        let parts = self.list_frames(tables);
        let mut unmap = Vec::new();
        let mut number = 0;
        for (mfn, slot) in held {
            while number < self.frames.len() && parts[number].mfn() < mfn {
                number += 1;
            }
            match self.frames.get_mut(number) {
                Some(frame) if parts[number].mfn() == mfn && frame.positions > 0 => {
                    frame.map = Ok(slot);
                }
                _ => unmap.push(slot),
            }
        }
        self.filter = Filter::new(parts.iter().map(|part| part.mfn()));
        self.list_changed |= self.backing.install(parts, ask);
        self.index_mappings();
        unmap.sort_unstable_by_key(|slot| slot.0);
        p2m.unmap(&unmap);
    }

    /// Leaf frames that are mapped, in ascending order.
    fn held_mappings(&self) -> Vec<(Mfn, MapSlot)> {
        let frames = self.frames.iter().enumerate();
        let held =
            frames.filter_map(|(number, frame)| Some((self.leaf_frame(number), frame.map.ok()?)));
        held.collect()
    }

    /// The frame of a leaf by its number.
    fn leaf_frame(&self, number: usize) -> Mfn {
        self.backing.frame(number).mfn()
    }

    /// Numbers the frames of all leaves, listed or watched. Returns the p2m frames in the order of
    /// numbers.
    fn list_frames(&mut self, tables: &BTreeSet<(u8, Mfn)>) -> Vec<P2mFrame> {
        let positions = (0..).zip(&self.leaves).filter(|&(_, &mfn)| mfn != NO_LEAF);
        let mut listed: Vec<(Mfn, u32)> =
            positions.map(|(position, &mfn)| (mfn, position)).collect();
        listed.extend(self.watched.iter().map(|&mfn| (mfn, WATCHED)));
        listed.sort_unstable();
        self.frames.clear();
        self.numbers.clear();
        self.numbers.resize(self.leaves.len(), NO_FRAME);
        self.shared.clear();
        let mut parts = Vec::new();
        for same in listed.chunk_by(|a, b| a.0 == b.0) {
            let number = parts.len() as u32;
            parts.push(P2mFrame::Leaf(same[0].0));
            let frame = self.frame_of(number, same);
            self.frames.push(frame);
            for &(_, position) in same.iter().filter(|&&(_, position)| position != WATCHED) {
                self.numbers[position as usize] = number;
            }
        }
        parts.extend(tables.iter().map(|&(level, mfn)| P2mFrame::Upper(level, mfn)));
        parts
    }

    /// A frame by the positions that list it, in ascending order.
    fn frame_of(&mut self, number: u32, listed: &[(Mfn, u32)]) -> LeafFrame {
        let tracked = listed.partition_point(|&(_, position)| u64::from(position) < self.tracked);
        let tail = listed[tracked..].iter().filter(|&&(_, position)| position != WATCHED).count();
        let at = |&(_, position): &(Mfn, u32)| LeafIndex(u64::from(position));
        if tracked > 1 {
            self.shared.insert(number, listed[..tracked].iter().map(at).collect());
        }
        let first = listed[..tracked].first().map_or(LeafIndex(0), at);
        LeafFrame { map: Err(UNTRIED), first, positions: tracked as u64, tail: tail as u64 }
    }

    /// Which positions are mapped, and which frames are not.
    fn index_mappings(&mut self) {
        let frames = (0..).zip(&self.frames).filter(|(_, frame)| frame.positions > 0);
        self.distinct = frames.clone().count() as u64;
        self.unmapped =
            frames.filter(|(_, frame)| frame.map.is_err()).map(|(number, _)| number).collect();
        let numbers = self.numbers[..self.tracked as usize].iter();
        let frame = |&number: &u32| self.frames.get(number as usize);
        self.slots = numbers.map(|number| frame(number)?.map.ok()).collect();
    }

    /// Asks the m2p again under which pfn writes to a p2m frame are marked.
    pub(crate) fn set_backing(&mut self, part: usize, m2p: &dyn M2p, limit: u64) -> bool {
        let frame = self.backing.frame(part);
        let changed = self.backing.set(part, m2p.pfn(frame.mfn()), limit);
        self.list_changed |= changed && matches!(frame, P2mFrame::Leaf(_));
        changed
    }

    /// Maps every leaf that is not mapped. Returns how many still are not.
    pub(crate) fn map(&mut self, p2m: &mut dyn P2mSource) -> u64 {
        let missing: Vec<_> = self.unmapped.iter().copied().collect();
        for chunk in missing.chunks(MAP_FRAMES_MAX) {
            let frames: Vec<_> =
                chunk.iter().map(|&number| self.leaf_frame(number as usize)).collect();
            let mut answers = Vec::with_capacity(chunk.len());
            p2m.map(&frames, &mut answers);
            answers.resize(chunk.len(), Err(UNTRIED));
            for (&number, answer) in chunk.iter().zip(answers) {
                self.mapped(number, answer);
            }
        }
        self.unmapped.len() as u64
    }

    fn mapped(&mut self, number: u32, answer: Result<MapSlot, MapFault>) {
        self.frames[number as usize].map = answer;
        let Ok(slot) = answer else { return };
        self.unmapped.remove(&number);
        for &LeafIndex(position) in &*self.positions(number as usize) {
            self.slots[position as usize] = Some(slot);
        }
    }

    /// The first tracked position whose leaf is not mapped.
    pub(crate) fn first_unmapped(&self) -> Option<(LeafIndex, Mfn, MapFault)> {
        let fault = |&number: &u32| {
            let frame = self.frames[number as usize];
            Some((frame.first, self.leaf_frame(number as usize), frame.map.err()?))
        };
        self.unmapped.iter().filter_map(fault).min_by_key(|found| found.0)
    }

    /// The first tracked position whose leaf is not named by the entry of its pfn in the frame
    /// list. Reads one entry for each distinct leaf.
    pub(crate) fn first_unnamed(&self, p2m: &dyn P2mSource) -> Option<(LeafIndex, Mfn)> {
        let frames = self.frames.iter().enumerate().filter(|(_, frame)| frame.positions > 0);
        let unnamed = frames.filter_map(|(number, frame)| {
            let (mfn, backing) = (self.leaf_frame(number), self.backing.pfn(number));
            let named = backing.is_some_and(|pfn| self.names(p2m, pfn, mfn));
            (!named).then_some((frame.first, mfn))
        });
        unnamed.min()
    }

    /// The first tracked position that lists the same leaf as this one.
    pub(crate) fn first_position(&self, leaf: LeafIndex) -> Option<LeafIndex> {
        let frame = self.frames.get(*self.numbers.get(leaf.0 as usize)? as usize)?;
        (frame.positions > 0).then_some(frame.first)
    }

    /// Releases every mapping.
    pub(crate) fn release(&mut self, p2m: &mut dyn P2mSource) {
        let mut slots: Vec<_> = self.frames.iter().filter_map(|frame| frame.map.ok()).collect();
        slots.sort_unstable_by_key(|slot| slot.0);
        p2m.unmap(&slots);
        *self = Self::new(self.width);
    }

    /// Pfn of each listed leaf's frame, in order: what is sent to the receiver.
    pub(crate) fn frame_list(&self) -> Vec<Option<Pfn>> {
        let backing = |&number: &u32| match number {
            NO_FRAME => None,
            number => self.backing.pfn(number as usize),
        };
        let mut list: Vec<_> = self.numbers.iter().map(backing).collect();
        list.resize(list.len().max(self.listed_leaves as usize), None);
        list
    }
}

/// A position without a frame.
const NO_FRAME: u32 = u32::MAX;
/// In place of a position: the leaf's contents matter, wherever it is listed.
const WATCHED: u32 = u32::MAX;

/// A leaf that the engine did not try to map yet.
const UNTRIED: MapFault = MapFault::Errno(0);

#[cfg(test)]
pub(crate) mod tests;
