// SPDX-License-Identifier: MIT OR Apache-2.0
//! One round of a recording in plain arrays: what a recorder read, and all that a checker needs.
//! Not here: files (`writer`, `reader`), or anything that a tracker would conclude.
//! Units: arrays by leaf position or pfn; [`NONE`] = no frame; entries widened as in
//! `p2mtrack::frame::Entry`.
//! Threads: plain values.
//! Source: own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Mfn, Pfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::Roots;

use crate::error::TraceFault;
use crate::format::BlockKind;
use crate::meta::Meta;

/// No frame, in arrays of mfns and pfns; an invalid entry.
pub const NONE: u64 = u64::MAX;

/// Which structure of the p2m an upper frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Structure {
    /// A page table of the linear list, levels 1 to 4.
    Table,
    /// The 3-level tree: 2 = mid, 3 = top.
    Tree,
}

/// A frame of the p2m above its leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpperFrame {
    /// The structure that it is part of.
    pub structure: Structure,
    /// Its level in that structure.
    pub level: u8,
    /// The frame.
    pub mfn: Mfn,
    /// Its pfn by the m2p.
    pub pfn: Option<Pfn>,
    /// What it holds.
    pub content: Arc<Leaf>,
}

/// A round: round 0 is the first copy, each later one begins with a CLEAN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// The roots as read before CLEAN.
    pub before: Roots,
    /// The roots under which the walk was made.
    pub after: Roots,
    /// What CLEAN returned, with its length in pfns. Round 0 has none.
    pub log_dirty: Option<PfnBitmap>,
    /// Each frame above the leaves once.
    pub upper: Vec<UpperFrame>,
    /// For each leaf position the mfn of its frame, or [`NONE`].
    pub leaf_mfns: Vec<u64>,
    /// For each leaf position the pfn of its frame by the m2p, or [`NONE`].
    pub leaf_pfns: Vec<u64>,
    /// All entries in pfn order: [`Width::entries`] for each leaf position.
    pub entries: Vec<u64>,
    /// m2p of frames that are not listed above and for which the entries give another value: mfn ->
    /// pfn or none.
    pub exceptions: BTreeMap<u64, Option<u64>>,
}

impl Round {
    /// The entries of one leaf position.
    ///
    /// # Panics
    /// If there is no such position.
    #[must_use]
    pub fn leaf_entries(&self, width: Width, position: usize) -> &[u64] {
        &self.entries[position * width.entries()..][..width.entries()]
    }

    /// Checks that this round does not contradict itself about a frame. `touched` names the leaf
    /// positions whose frame or entries may differ from a round that was checked before; without it
    /// all are checked.
    pub(crate) fn check(&self, meta: &Meta, touched: Option<&[bool]>) -> Result<(), Broken> {
        let mut pfns = HashMap::with_capacity(self.upper.len());
        for (index, frame) in self.upper.iter().enumerate() {
            let known = self.check_upper(meta, frame, &pfns);
            known.map_err(|fault| Column::Upper.broken(index, fault))?;
            pfns.insert(frame.mfn.0, (pfn_of(frame), UPPER));
        }
        self.check_lengths(meta)?;
        let changed = |position: usize| touched.is_none_or(|touched| touched[position]);
        self.check_leaves(meta, changed, pfns)?;
        for (&mfn, &pfn) in &self.exceptions {
            TraceFault::limit("mfn of an exception", mfn, meta.max_mfn.saturating_sub(1))
                .and_then(|()| {
                    let pfn = pfn.unwrap_or(0);
                    TraceFault::limit("pfn of an exception", pfn, EXCEPTION_PFN_MAX)
                })
                .map_err(|fault| Column::M2p.broken(0, fault))?;
        }
        Ok(())
    }

    fn check_upper(
        &self,
        meta: &Meta,
        frame: &UpperFrame,
        seen: &HashMap<u64, (u64, usize)>,
    ) -> Result<(), TraceFault> {
        let level = match frame.structure {
            Structure::Table => (1..=4).contains(&frame.level),
            Structure::Tree => (2..=3).contains(&frame.level),
        };
        let (mfn, found) = (frame.mfn, || format!("{} is of level {}", frame.mfn, frame.level));
        TraceFault::agree("a level of page tables (1 to 4) or of the tree (2, 3)", level, found)?;
        check_mfn(meta, mfn.0)?;
        let once = !seen.contains_key(&mfn.0);
        TraceFault::agree("each upper frame once", once, || format!("{mfn} is there before"))?;
        self.check_exception(mfn.0, "no m2p exception for an upper frame")
    }

    fn check_exception(&self, mfn: u64, expected: &'static str) -> Result<(), TraceFault> {
        let listed = !self.exceptions.contains_key(&mfn);
        TraceFault::agree(expected, listed, || format!("M2P has one for {}", Mfn(mfn)))
    }

    fn check_lengths(&self, meta: &Meta) -> Result<(), Broken> {
        let positions = self.leaf_mfns.len();
        TraceFault::same("number of leaf pfns", self.leaf_pfns.len() as u64, positions as u64)
            .map_err(|fault| Column::LeafPfns.broken(0, fault))?;
        let entries = (positions * meta.width.entries()) as u64;
        TraceFault::same("number of entries", self.entries.len() as u64, entries)
            .map_err(|fault| Column::Entries.broken(0, fault))
    }

    fn check_leaves(
        &self,
        meta: &Meta,
        changed: impl Fn(usize) -> bool,
        mut seen: HashMap<u64, (u64, usize)>,
    ) -> Result<(), Broken> {
        for (position, (&mfn, &pfn)) in self.leaf_mfns.iter().zip(&self.leaf_pfns).enumerate() {
            if mfn == NONE {
                self.check_absent(meta, position, pfn, changed(position))?;
                continue;
            }
            check_mfn(meta, mfn)
                .and_then(|()| self.check_exception(mfn, "no m2p exception for a leaf"))
                .map_err(|fault| Column::LeafMfns.broken(position, fault))?;
            let (first_pfn, first) = *seen.entry(mfn).or_insert((pfn, position));
            check_pfn(mfn, pfn, first_pfn)
                .map_err(|fault| Column::LeafPfns.broken(position, fault))?;
            if first == UPPER {
                seen.insert(mfn, (pfn, position));
            } else if first != position && (changed(first) || changed(position)) {
                self.check_alias(meta, [first, position])?;
            }
        }
        Ok(())
    }

    /// Two positions of one frame have the same entries.
    fn check_alias(&self, meta: &Meta, positions: [usize; 2]) -> Result<(), Broken> {
        let [a, b] = positions.map(|at| self.leaf_entries(meta.width, at));
        let Some(slot) = a.iter().zip(b).position(|(a, b)| a != b) else { return Ok(()) };
        let [first, position] = positions;
        let found = format!(
            "leaves {first:#x} and {position:#x} are {}, with {:#x} and {:#x} in slot {slot:#x}",
            Mfn(self.leaf_mfns[position]),
            a[slot],
            b[slot],
        );
        let expected = "the same entries wherever one frame is a leaf";
        let fault = TraceFault::Contradiction { expected, found };
        Err(Column::Entries.broken(position * meta.width.entries() + slot, fault))
    }

    /// A position without a frame has no pfn and no valid entry.
    fn check_absent(
        &self,
        meta: &Meta,
        position: usize,
        pfn: u64,
        changed: bool,
    ) -> Result<(), Broken> {
        let found = || format!("leaf {position:#x} has no frame, and {}", Pfn(pfn));
        TraceFault::agree("no pfn where there is no leaf", pfn == NONE, found)
            .map_err(|fault| Column::LeafPfns.broken(position, fault))?;
        let entries = self.leaf_entries(meta.width, position);
        let Some(slot) = entries.iter().position(|&entry| changed && entry != NONE) else {
            return Ok(());
        };
        let found =
            format!("leaf {position:#x} has no frame, and {:#x} in slot {slot:#x}", entries[slot]);
        let expected = "only invalid entries where there is no leaf";
        let fault = TraceFault::Contradiction { expected, found };
        Err(Column::Entries.broken(position * meta.width.entries() + slot, fault))
    }
}

/// A column of numbers in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    Upper,
    LeafMfns,
    LeafPfns,
    Entries,
    M2p,
}

impl Column {
    /// The block of a trace that it is in.
    pub(crate) const fn block(self) -> BlockKind {
        match self {
            Self::Upper => BlockKind::Upper,
            Self::LeafMfns | Self::LeafPfns => BlockKind::Leaves,
            Self::Entries => BlockKind::Entries,
            Self::M2p => BlockKind::M2p,
        }
    }

    pub(crate) const fn broken(self, index: usize, fault: TraceFault) -> Broken {
        Broken { column: self, index, fault }
    }
}

/// A rule that a round breaks.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Where.
    pub(crate) column: Column,
    /// Index of the number in it; 0 if the rule is not about one number.
    pub(crate) index: usize,
    pub(crate) fault: TraceFault,
}

fn pfn_of(frame: &UpperFrame) -> u64 {
    frame.pfn.map_or(NONE, |pfn| pfn.0)
}

/// Largest pfn of an exception: the file's code reserves two numbers (`format`, M2P).
const EXCEPTION_PFN_MAX: u64 = u64::MAX - 2;

/// Stands for a leaf position where a frame was seen above the leaves.
const UPPER: usize = usize::MAX;

fn check_mfn(meta: &Meta, mfn: u64) -> Result<(), TraceFault> {
    let found = || format!("{}, where META has {:#x} frames", Mfn(mfn), meta.max_mfn);
    TraceFault::agree("a machine frame below the count of META", mfn < meta.max_mfn, found)
}

fn check_pfn(mfn: u64, pfn: u64, first: u64) -> Result<(), TraceFault> {
    let found = || format!("{} has {pfn:#x} here and {first:#x} before", Mfn(mfn));
    TraceFault::agree("one pfn for a frame in all its places", pfn == first, found)
}

/// Whether a guest of this width can have written the entry, after widening.
pub(crate) const fn fits(width: Width, entry: u64) -> bool {
    match width {
        Width::W64 => true,
        Width::W32 => entry < u32::MAX as u64 || entry == NONE,
    }
}

/// Count of numbers in a frame's content, as coded in runs: guest words of a tree, PTEs with the
/// frame number first.
pub(crate) const fn lanes(structure: Structure, width: Width) -> usize {
    match structure {
        Structure::Table => 512,
        Structure::Tree => width.entries(),
    }
}

/// One number of a frame's content.
pub(crate) const fn lane(structure: Structure, width: Width, content: &Leaf, index: usize) -> u64 {
    match (structure, width) {
        (Structure::Table, _) => content.words[index].rotate_right(12),
        (Structure::Tree, Width::W64) => content.words[index],
        (Structure::Tree, Width::W32) => content.word32(index) as u64,
    }
}

/// Writes one number of a frame's content.
pub(crate) fn set_lane(
    structure: Structure,
    width: Width,
    content: &mut Leaf,
    index: usize,
    value: u64,
) -> Result<(), TraceFault> {
    match (structure, width) {
        (Structure::Table, _) => content.words[index] = value.rotate_left(12),
        (Structure::Tree, Width::W64) => content.words[index] = value,
        (Structure::Tree, Width::W32) => {
            let word = u32::try_from(value)
                .map_err(|_| TraceFault::Malformed { expected: "a word of 32 bits" })?;
            content.set_word32(index, word);
        }
    }
    Ok(())
}
