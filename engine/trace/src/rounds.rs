// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decodes a trace round after round, each from its differences to the one before.
//! Not here: the container (`container`), ports for a tracker (`replay`).
//! Units: as in `round`; payloads are described in `format`.
//! Threads: one cursor a thread.
//! Source: own. The file is untrusted: nothing is allocated or followed beyond `Limits`.

use std::collections::HashMap;
use std::sync::Arc;

use p2mtrack::frame::{Mfn, Pfn};
use p2mtrack::port::Roots;

use crate::cursor::Cursor;
use crate::error::{TraceError, TraceFault};
use crate::format::{BlockKind, ROOTS_BYTES, round_blocks};
use crate::limits::Limits;
use crate::meta::Meta;
use crate::payloads::Payloads;
use crate::round::{Broken, Column, NONE, Round, Structure, UpperFrame, fits, lanes, set_lane};
use crate::runs::{Budget, take_bitmap, take_runs};
use crate::writer::{TREE_PLACE, upper_columns};

/// A cursor over a trace's rounds. Holds one round and changes it into the next.
#[derive(Debug)]
pub struct Rounds<'r> {
    payloads: &'r Payloads<'r>,
    meta: &'r Meta,
    limits: &'r Limits,
    next: u64,
    payload: usize,
    round: Round,
    touched: Vec<bool>,
    budget: Budget,
    failed: bool,
}

impl<'r> Rounds<'r> {
    /// Before the first copy.
    pub(crate) fn new(payloads: &'r Payloads<'r>, meta: &'r Meta, limits: &'r Limits) -> Self {
        Self {
            payloads,
            meta,
            limits,
            next: 0,
            payload: 0,
            round: Round::default(),
            touched: Vec::new(),
            budget: Budget::new(limits.work),
            failed: false,
        }
    }

    /// The current round; an empty one before the first [`Rounds::advance`].
    #[must_use]
    pub const fn round(&self) -> &Round {
        &self.round
    }

    /// The current round's number, if there is one.
    #[must_use]
    pub const fn number(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }

    /// What the trace is of.
    #[must_use]
    pub const fn meta(&self) -> &'r Meta {
        self.meta
    }

    /// Advances to the next round. `false` after the last one, which stays.
    ///
    /// # Errors
    /// A payload breaks a rule; the current round is then incomplete and unusable.
    pub fn advance(&mut self) -> Result<bool, TraceError> {
        self.advance_with(|_, _, _| ())
    }

    /// The same; `changed` gets each entry that is written: pfn, old and new value. Entries that a
    /// shrink removes are reported as invalid.
    pub(crate) fn advance_with(
        &mut self,
        mut changed: impl FnMut(u64, u64, u64),
    ) -> Result<bool, TraceError> {
        if self.next == self.payloads.rounds {
            return Ok(false);
        }
        let first = self.payload;
        let again = TraceFault::rule("no second step of a cursor that has failed", !self.failed);
        again.map_err(|fault| fault.at(0))?;
        self.failed = true;
        let number = self.next;
        let within = |kind: BlockKind| move |error: TraceError| error.within(kind.of(number));
        self.roots().map_err(within(BlockKind::Roots))?;
        if number > 0 {
            self.log_dirty().map_err(within(BlockKind::LogDirty))?;
        }
        let starts = [
            self.upper().map_err(within(BlockKind::Upper))?,
            self.leaves(&mut changed).map_err(within(BlockKind::Leaves))?,
            self.entries(&mut changed).map_err(within(BlockKind::Entries))?,
            self.m2p().map_err(within(BlockKind::M2p))?,
        ];
        let checked = self.round.check(self.meta, Some(&self.touched));
        checked.map_err(|Broken { column, fault, .. }| {
            let start = match column {
                Column::Upper => 0,
                Column::LeafMfns | Column::LeafPfns => 1,
                Column::Entries => 2,
                Column::M2p => 3,
            };
            fault.at(starts[start]).within(column.block().of(number))
        })?;
        debug_assert_eq!(self.payload - first, round_blocks(self.next).len());
        self.next += 1;
        self.failed = false;
        Ok(true)
    }

    /// For each leaf position whether its frame or entries were written in this round.
    pub(crate) fn touched(&self) -> &[bool] {
        &self.touched
    }

    /// A cursor over the next payload.
    fn next_payload(&mut self) -> Cursor<'r> {
        let cursor = self.payloads.cursor(self.payload);
        self.payload += 1;
        cursor
    }

    fn roots(&mut self) -> Result<(), TraceError> {
        let mut cursor = self.next_payload();
        let found = cursor.left() as u64;
        cursor.check(TraceFault::same("bytes of roots", found, ROOTS_BYTES as u64))?;
        for roots in [&mut self.round.before, &mut self.round.after] {
            *roots = Roots {
                pfn_count: cursor.word64("pfn count")?,
                frame_list_list: cursor.word64("frame list list")?,
                p2m_cr3: cursor.word64("p2m cr3")?,
                p2m_vaddr: cursor.word64("p2m vaddr")?,
                generation: cursor.word64("generation")?,
            };
        }
        cursor.end()
    }

    fn log_dirty(&mut self) -> Result<(), TraceError> {
        let mut cursor = self.next_payload();
        let limit = self.limits.log_dirty_pfns;
        self.round.log_dirty = Some(take_bitmap(&mut cursor, &mut self.budget, limit)?);
        cursor.end()
    }

    /// Returns the offset of the payload, for faults that are found later.
    fn upper(&mut self) -> Result<u64, TraceError> {
        let mut cursor = self.next_payload();
        let start = cursor.offset();
        let count = cursor.varint("upper frames")?;
        let limit = self.limits.upper_frames;
        cursor.check(TraceFault::limit("upper frames", count, limit))?;
        cursor.check(self.budget.spend(count))?;
        let old = std::mem::take(&mut self.round.upper);
        let mut columns = upper_columns(&old);
        for column in &mut columns {
            take_column(&mut cursor, &mut self.budget, column, count, |_, _, _| Ok(()))?;
        }
        let known: HashMap<u64, Arc<_>> =
            old.into_iter().map(|frame| (frame.mfn.0, frame.content)).collect();
        let zeros = Arc::default();
        let [places, mfns, pfns] = &columns;
        for ((&place, &mfn), &pfn) in places.iter().zip(mfns).zip(pfns) {
            let (structure, level) =
                place_of(place).ok_or(TraceFault::Malformed { expected: PLACES }.at(start))?;
            let pfn = (pfn != NONE).then_some(Pfn(pfn));
            let content = Arc::clone(known.get(&mfn).unwrap_or(&zeros));
            self.round.upper.push(UpperFrame { structure, level, mfn: Mfn(mfn), pfn, content });
        }
        self.upper_contents(&mut cursor)?;
        cursor.end()?;
        Ok(start)
    }

    fn upper_contents(&mut self, cursor: &mut Cursor<'_>) -> Result<(), TraceError> {
        let width = self.meta.width;
        let changed = cursor.varint("changed frames")?;
        let mut next = 0;
        for _ in 0..changed {
            let position = cursor.varint("frames to skip")?.saturating_add(next);
            next = position.saturating_add(1);
            let count = self.round.upper.len() as u64;
            cursor.check(TraceFault::limit("end of changed frames", next, count))?;
            let frame = &mut self.round.upper[position as usize];
            let structure = frame.structure;
            let length = lanes(structure, width) as u64;
            cursor.check(self.budget.spend(length))?;
            let content = Arc::make_mut(&mut frame.content);
            take_runs(cursor, &mut self.budget, length, |index, value| {
                set_lane(structure, width, content, index, value)
            })?;
        }
        Ok(())
    }

    fn leaves(&mut self, changed: &mut impl FnMut(u64, u64, u64)) -> Result<u64, TraceError> {
        let mut cursor = self.next_payload();
        let start = cursor.offset();
        let positions = cursor.varint("leaf positions")?;
        let width = self.meta.width;
        let limit = self.limits.entries / width.entries() as u64;
        cursor.check(TraceFault::limit("leaf positions", positions, limit))?;
        cursor.check(self.budget.spend(positions))?;
        self.touched.clear();
        self.touched.resize(self.round.leaf_mfns.len().min(positions as usize), false);
        self.touched.resize(positions as usize, true);
        let touched = &mut self.touched;
        let budget = &mut self.budget;
        take_column(&mut cursor, budget, &mut self.round.leaf_mfns, positions, |at, _, _| {
            touched[at] = true;
            Ok(())
        })?;
        let pfns = &mut self.round.leaf_pfns;
        take_column(&mut cursor, budget, pfns, positions, |_, _, _| Ok(()))?;
        cursor.end()?;
        self.resize_entries(positions as usize * width.entries(), changed)
            .map_err(|fault| fault.at(start))?;
        Ok(start)
    }

    fn resize_entries(
        &mut self,
        length: usize,
        changed: &mut impl FnMut(u64, u64, u64),
    ) -> Result<(), TraceFault> {
        let entries = &mut self.round.entries;
        self.budget.spend(entries.len().abs_diff(length) as u64)?;
        for (pfn, &old) in entries.iter().enumerate().skip(length) {
            if old != NONE {
                changed(pfn as u64, old, NONE);
            }
        }
        entries.resize(length, NONE);
        Ok(())
    }

    fn entries(&mut self, changed: &mut impl FnMut(u64, u64, u64)) -> Result<u64, TraceError> {
        let mut cursor = self.next_payload();
        let start = cursor.offset();
        let width = self.meta.width;
        let length = self.round.entries.len() as u64;
        let (entries, touched) = (&mut self.round.entries, &mut self.touched);
        take_column(&mut cursor, &mut self.budget, entries, length, |pfn, old, new| {
            TraceFault::rule("an entry of the guest's width, widened", fits(width, new))?;
            touched[pfn >> width.entry_bits()] = true;
            changed(pfn as u64, old, new);
            Ok(())
        })?;
        cursor.end()?;
        Ok(start)
    }

    fn m2p(&mut self) -> Result<u64, TraceError> {
        let mut cursor = self.next_payload();
        let start = cursor.offset();
        let exceptions = &mut self.round.exceptions;
        let mut next = 0_u64;
        for _ in 0..cursor.varint("changed exceptions")? {
            let mfn = cursor.varint("mfns to skip")?.saturating_add(next);
            next = mfn.saturating_add(1);
            match cursor.varint("pfn of an exception")? {
                0 => {
                    let there = exceptions.remove(&mfn).is_some();
                    cursor.check(TraceFault::rule("an exception to withdraw", there))?;
                }
                1 => _ = exceptions.insert(mfn, None),
                code => _ = exceptions.insert(mfn, Some(code - 2)),
            }
        }
        cursor.end()?;
        cursor.check(self.budget.spend(exceptions.len() as u64))?;
        Ok(start)
    }
}

/// The valid places.
const PLACES: &str = "a level of page tables (1 to 4) or 16 + a level of the tree (2, 3)";

fn place_of(place: u64) -> Option<(Structure, u8)> {
    match place {
        1..=4 => Some((Structure::Table, place as u8)),
        18..=19 => Some((Structure::Tree, (place - TREE_PLACE) as u8)),
        _ => None,
    }
}

/// Reads runs into a column and resizes it to `length` positions; new ones begin as none.
fn take_column(
    cursor: &mut Cursor<'_>,
    budget: &mut Budget,
    column: &mut Vec<u64>,
    length: u64,
    mut written: impl FnMut(usize, u64, u64) -> Result<(), TraceFault>,
) -> Result<(), TraceError> {
    column.resize(length as usize, NONE);
    take_runs(cursor, budget, length, |at, value| {
        let old = std::mem::replace(&mut column[at], value);
        written(at, old, value)
    })
}
