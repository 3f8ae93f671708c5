// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the p2m's leaves hang: page tables of a linear list, or top and mid frames of a tree.
//! Not here: the leaves' entries.
//! Units: level 0 is a leaf; a linear list has levels 1 to 3 or 4 above it, a tree 1 (mid) and 2
//! (top). A key counts tables of its level through the address space (linear) or mids (tree).
//! Source: `xen-save-path.md` 2.2 and 2.3; page-table geometry of PAE and of long mode.

use std::collections::BTreeMap;

use p2mtrack::frame::{Entry, Width};

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

/// What an unused slot of a tree holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Empty {
    /// All ones (mini-os).
    Ones,
    /// Zero.
    Zero,
    /// The shared missing frame (Linux).
    Missing,
}

/// A linear list.
#[derive(Debug)]
pub(crate) struct Linear {
    /// Frames of the page tables by level - 1 and key.
    pub(crate) tables: Vec<BTreeMap<u64, u64>>,
    /// The shared level 1 table whose every slot is the missing leaf.
    pub(crate) missing_table: u64,
}

/// A three-level tree.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) top: u64,
    /// The frame of each mid; [`NONE`] where the top has none.
    pub(crate) mids: Vec<u64>,
    pub(crate) missing_mid: u64,
    pub(crate) empty: Empty,
}

/// The layout of a p2m.
#[derive(Debug)]
pub(crate) enum Layout {
    Linear(Linear),
    Tree(Tree),
}

/// Levels of page tables of a width.
pub(crate) const fn levels(width: Width) -> u8 {
    match width {
        Width::W32 => 3,
        Width::W64 => 4,
    }
}

/// `p2m_cr3` for a root frame: a 32-bit guest folds the frame number.
pub(crate) const fn cr3_of(width: Width, mfn: u64) -> u64 {
    match width {
        Width::W64 => mfn << 12,
        Width::W32 => (mfn << 12 | mfn >> 20) & 0xffff_ffff,
    }
}

/// The root frame in a `p2m_cr3`.
pub(crate) const fn mfn_of_cr3(width: Width, cr3: u64) -> u64 {
    match width {
        Width::W64 => cr3 >> 12,
        Width::W32 => (cr3 >> 12 | cr3 << 20) & 0xffff_ffff,
    }
}

impl Tree {
    /// The word of an unused slot that names no frame at all.
    pub(crate) const fn empty_word(&self) -> Entry {
        match self.empty {
            Empty::Zero => Entry(0),
            Empty::Ones | Empty::Missing => Entry::INVALID,
        }
    }
}
