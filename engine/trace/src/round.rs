// SPDX-License-Identifier: MIT OR Apache-2.0
//! One round of a life in plain arrays: what a recorder saw, and all that a checker needs.
//! Not here: files (`writer`, `reader`), or anything that a tracker would conclude.
//! Units: arrays by leaf position or pfn; [`NONE`] = no frame; entries widened as in `p2mtrack::frame::Entry`.
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
    /// Of which structure.
    pub structure: Structure,
    /// On which level.
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
    /// m2p of frames that are not listed above and are not what the entries say: mfn -> pfn or none.
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

    /// Whether this round says one thing of each frame. `touched` names the leaf positions whose frame
    /// or entries may differ from a round that was checked before; without it all are looked at.
    pub(crate) fn check(
        &self,
        meta: &Meta,
        touched: Option<&[bool]>,
    ) -> Result<(), (BlockKind, TraceFault)> {
        let mut pfns = HashMap::with_capacity(self.upper.len());
        self.check_upper(meta, &mut pfns).map_err(|fault| (BlockKind::Upper, fault))?;
        self.check_leaves(meta, touched, pfns)?;
        let listed = |fault| (BlockKind::M2p, fault);
        for (&mfn, &pfn) in &self.exceptions {
            TraceFault::limit("mfn of an exception", mfn, meta.max_mfn.saturating_sub(1))
                .map_err(listed)?;
            TraceFault::limit("pfn of an exception", pfn.unwrap_or(0), EXCEPTION_PFN_MAX)
                .map_err(listed)?;
        }
        Ok(())
    }

    fn check_upper(
        &self,
        meta: &Meta,
        pfns: &mut HashMap<u64, (u64, usize)>,
    ) -> Result<(), TraceFault> {
        for frame in &self.upper {
            let level = match frame.structure {
                Structure::Table => (1..=4).contains(&frame.level),
                Structure::Tree => (2..=3).contains(&frame.level),
            };
            TraceFault::rule("a level of page tables (1 to 4) or of the tree (2, 3)", level)?;
            check_mfn(meta, frame.mfn.0)?;
            let pfn = frame.pfn.map_or(NONE, |pfn| pfn.0);
            let once = pfns.insert(frame.mfn.0, (pfn, UPPER)).is_none();
            TraceFault::rule("each upper frame once", once)?;
            let exception = self.exceptions.contains_key(&frame.mfn.0);
            TraceFault::rule("no m2p exception for an upper frame", !exception)?;
        }
        Ok(())
    }

    fn check_leaves(
        &self,
        meta: &Meta,
        touched: Option<&[bool]>,
        mut seen: HashMap<u64, (u64, usize)>,
    ) -> Result<(), (BlockKind, TraceFault)> {
        let leaves = |fault| (BlockKind::Leaves, fault);
        let positions = self.leaf_mfns.len();
        TraceFault::same("number of leaf pfns", self.leaf_pfns.len() as u64, positions as u64)
            .map_err(leaves)?;
        let entries = (positions * meta.width.entries()) as u64;
        TraceFault::same("number of entries", self.entries.len() as u64, entries)
            .map_err(leaves)?;
        let changed = |position: usize| touched.is_none_or(|touched| touched[position]);
        for (position, (&mfn, &pfn)) in self.leaf_mfns.iter().zip(&self.leaf_pfns).enumerate() {
            if mfn == NONE {
                self.check_absent(meta, position, pfn, changed(position))?;
                continue;
            }
            check_mfn(meta, mfn).map_err(leaves)?;
            let exception = self.exceptions.contains_key(&mfn);
            TraceFault::rule("no m2p exception for a leaf", !exception).map_err(leaves)?;
            let (first_pfn, first) = *seen.entry(mfn).or_insert((pfn, position));
            TraceFault::rule("one pfn for a frame in all its places", pfn == first_pfn)
                .map_err(leaves)?;
            if first == UPPER {
                seen.insert(mfn, (pfn, position));
            } else if first != position && (changed(first) || changed(position)) {
                let [a, b] = [first, position].map(|at| self.leaf_entries(meta.width, at));
                TraceFault::rule("the same entries wherever one frame is a leaf", a == b)
                    .map_err(|fault| (BlockKind::Entries, fault))?;
            }
        }
        Ok(())
    }

    /// A position without a frame has no pfn and no valid entry.
    fn check_absent(
        &self,
        meta: &Meta,
        position: usize,
        pfn: u64,
        changed: bool,
    ) -> Result<(), (BlockKind, TraceFault)> {
        TraceFault::rule("no pfn where there is no leaf", pfn == NONE)
            .map_err(|fault| (BlockKind::Leaves, fault))?;
        let hole =
            !changed || self.leaf_entries(meta.width, position).iter().all(|&entry| entry == NONE);
        TraceFault::rule("only invalid entries where there is no leaf", hole)
            .map_err(|fault| (BlockKind::Entries, fault))
    }
}

/// Largest pfn of an exception: two numbers of the file's code are taken (`format`, M2P).
const EXCEPTION_PFN_MAX: u64 = u64::MAX - 2;

/// Stands for a leaf position where a frame was seen above the leaves.
const UPPER: usize = usize::MAX;

fn check_mfn(meta: &Meta, mfn: u64) -> Result<(), TraceFault> {
    TraceFault::rule("a machine frame below the count of META", mfn < meta.max_mfn)
}

/// Whether a guest of this width can have written the entry, after widening.
pub(crate) const fn fits(width: Width, entry: u64) -> bool {
    match width {
        Width::W64 => true,
        Width::W32 => entry < u32::MAX as u64 || entry == NONE,
    }
}

/// Numbers in a frame's content, as runs see them: guest words of a tree, PTEs with the frame number in front.
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
