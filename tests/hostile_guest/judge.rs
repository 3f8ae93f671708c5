// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the p2m names, computed from the machine alone, and whether the destination has it;
//! independent of the tracker.
//! Not here: page tables as the destination sees them, undefined contents (`p2mtrack-synthetic` has
//! the whole oracle).
//! Units: pfns, mfns, versions of contents.
//! Threads: one.
//! Source: `docs/design.md`, "The promise" and "Completeness".

use std::collections::BTreeSet;

use p2mtrack::frame::{Claim, Entry, Width};
use p2mtrack::table::{PTE_PRESENT, PTE_SUPERPAGE, pte_mfn};

use super::{Machine, Owner, State};

/// The most positions that are judged.
const POSITIONS_MAX: u64 = 4096;

impl Machine<'_> {
    /// The frames on the path to the leaf at a position, the leaf last, by the current roots.
    /// `None` if there is no leaf or a frame above it is not the domain's.
    fn path(&self, st: &State<'_>, position: u64) -> Option<Vec<u64>> {
        let width = self.temper.width;
        let linear = st.roots.p2m_cr3 != 0;
        let narrow = !linear && width == Width::W32;
        let bits = if narrow { 10 } else { 9 };
        let (root, levels, first) = match (linear, width) {
            (false, _) => (st.roots.frame_list_list, 2, 0),
            (true, Width::W64) => {
                let page = st.roots.p2m_vaddr >> 12 & ((1 << 36) - 1);
                (pte_mfn(st.roots.p2m_cr3).0, 4, page)
            }
            (true, Width::W32) => {
                let cr3 = st.roots.p2m_cr3 as u32;
                (u64::from(cr3.rotate_right(12)), 3, st.roots.p2m_vaddr >> 12)
            }
        };
        let page = first.checked_add(position)?;
        let mut path = vec![root];
        for level in (1..=levels).rev() {
            let mfn = *path.last()?;
            if !st.owns(mfn) {
                return None;
            }
            let word = self.get(mfn, page >> (bits * (level - 1)) & ((1 << bits) - 1), narrow);
            let invalid = if narrow { u64::from(u32::MAX) } else { u64::MAX };
            path.push(match linear {
                true if word & PTE_PRESENT == 0 => return None,
                true if level > 1 && word & PTE_SUPERPAGE != 0 => return None,
                true => pte_mfn(word).0,
                false if word == 0 || word == invalid => return None,
                false => word,
            });
        }
        Some(path)
    }

    /// The frame listed as the leaf at a position, of any owner.
    pub(crate) fn named_leaf(&self, st: &State<'_>, position: u64) -> Option<u64> {
        self.path(st, position)?.pop()
    }

    /// The leaf at a position.
    pub(crate) fn leaf_of(&self, st: &State<'_>, position: u64) -> Option<u64> {
        self.named_leaf(st, position).filter(|&leaf| st.owns(leaf))
    }

    /// The entry of a pfn.
    pub(crate) fn entry(&self, st: &State<'_>, pfn: u64) -> Entry {
        let width = self.temper.width;
        let leaf = self.leaf_of(st, pfn >> width.entry_bits()).filter(|_| pfn < st.roots.pfn_count);
        let Some(leaf) = leaf else { return Entry::INVALID };
        let word = self.get(leaf, pfn & (width.entries() as u64 - 1), width == Width::W32);
        match width {
            Width::W32 => Entry::widen(word as u32),
            Width::W64 => Entry(word),
        }
    }

    /// The domain's own frame that an entry names, tagged or not.
    fn own_frame(&self, st: &State<'_>, entry: Entry) -> Option<u64> {
        match entry.claim(self.temper.width) {
            Claim::Frame(mfn) | Claim::Foreign(mfn) => Some(mfn.0).filter(|&mfn| st.owns(mfn)),
            Claim::Invalid | Claim::Identity => None,
        }
    }

    /// Whether p2m and m2p agree on each p2m frame: otherwise marks of writes to it have no
    /// meaning, and nothing is promised.
    fn is_sound(&self, st: &State<'_>) -> bool {
        let leaves = self.temper.width.leaves(st.roots.pfn_count);
        if leaves > POSITIONS_MAX {
            return false;
        }
        let frames: BTreeSet<_> =
            (0..leaves).filter_map(|position| self.path(st, position)).flatten().collect();
        frames.into_iter().all(|mfn| {
            let pfn = st.frames.get(mfn as usize).and_then(|frame| frame.m2p);
            st.owns(mfn) && pfn.is_some_and(|pfn| self.entry(st, pfn) == Entry(mfn))
        })
    }

    /// Compares the destination of a completed migration with the guest. Returns the number of pfns
    /// that were judged.
    ///
    /// # Panics
    /// If a pfn on which p2m and m2p agree did not arrive unchanged, or the destination has a frame
    /// for a pfn that has none.
    pub(crate) fn judge(&self, st: &State<'_>) -> u64 {
        if !self.is_sound(st) {
            return 0;
        }
        let mut judged = 0;
        for (mfn, frame) in (0..).zip(&st.frames).filter(|(_, f)| f.owner == Owner::Domain) {
            let Some(pfn) = frame.m2p.filter(|&pfn| pfn < st.roots.pfn_count) else { continue };
            let entry = self.entry(st, pfn);
            if self.own_frame(st, entry) != Some(mfn) {
                continue;
            }
            let there = st.received.get(&pfn);
            let arrived = there.is_some_and(|there| {
                (there.entry, there.mfn, there.version) == (entry, mfn, frame.version)
            });
            assert!(
                arrived,
                "silent loss: pfn {pfn:#x} is {entry:x?} at version {}, the destination has {there:x?}",
                frame.version
            );
            judged += 1;
        }
        for (&pfn, there) in &st.received {
            let entry = self.entry(st, pfn);
            // A frame that was given back under an entry that still names it: only the m2p shows
            // it.
            let there_is_one = self.own_frame(st, entry).is_some() || entry == there.entry;
            assert!(
                there_is_one,
                "leak: pfn {pfn:#x} is {entry:x?}, the destination has {there:x?}"
            );
        }
        judged
    }
}
