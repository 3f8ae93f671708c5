// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simplest tracker over the ports: walks the p2m in every round and compares leaves that are
//! dirty or moved.
//! Not here: generations, shards, a shadow that is smaller than the p2m.
//! Units: as in the tracker's `port`.
//! Threads: one.
//! Source: own; shares only the sums' names with the oracle.

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Mfn, Pfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{LOG_DIRTY_LEAF_PFNS, LogBuffer, LogDirty, M2p, P2mSource};
use p2mtrack_trace::naive::Totals;
use p2mtrack_trace::replay::ReplayPorts;
use p2mtrack_trace::{NONE, Reader, Replay};

/// Walks from a root over these index widths; all ones where the walk ends early.
fn walk(p2m: &mut dyn P2mSource, root: u64, indices: &[usize], table: bool) -> u64 {
    let width = p2m.width();
    let mut at = root;
    let mut frame = Leaf::default();
    for &index in indices {
        if p2m.read(Mfn(at), &mut frame).is_err() {
            return NONE;
        }
        at = match table {
            true if frame.words[index] & 1 == 0 => return NONE,
            true => frame.words[index] >> 12 & 0xff_ffff_ffff,
            false => frame.entry(width, index).0,
        };
    }
    at
}

/// The mfn of each leaf, from the present roots.
pub(crate) fn leaves(p2m: &mut dyn P2mSource) -> Vec<u64> {
    let roots = p2m.roots().expect("roots");
    let width = p2m.width();
    let bits = width.entry_bits();
    let count = width.leaves(roots.pfn_count);
    let mut found = Vec::new();
    for position in 0..count {
        let at = |page: u64, bits: u32, level: u32| {
            (page >> (bits * level)) as usize & ((1 << bits) - 1)
        };
        found.push(if roots.p2m_cr3 == 0 {
            let indices = [at(position, bits, 1), at(position, bits, 0)];
            walk(p2m, roots.frame_list_list, &indices, false)
        } else {
            let page = (roots.p2m_vaddr >> 12) + position;
            let (levels, root) = match width {
                Width::W64 => (4, roots.p2m_cr3 >> 12),
                Width::W32 => (3, u64::from((roots.p2m_cr3 as u32).rotate_right(12))),
            };
            let indices: Vec<_> = (0..levels).rev().map(|level| at(page, 9, level)).collect();
            walk(p2m, root, &indices, true)
        });
    }
    found
}

/// The entries of one leaf, through a mapping.
pub(crate) fn entries(p2m: &mut dyn P2mSource, mfn: u64) -> Vec<u64> {
    let mut answers = Vec::new();
    p2m.map(&[Mfn(mfn)], &mut answers);
    let slot = answers.pop().expect("an answer").expect("a leaf");
    let mut leaf = Leaf::default();
    p2m.live(slot).fetch(&mut leaf);
    p2m.unmap(&[slot]);
    let width = p2m.width();
    leaf.entries(width).map(|entry| entry.0).collect()
}

struct Walker {
    mfns: Vec<u64>,
    shadow: Vec<u64>,
    totals: Totals,
}

impl Walker {
    fn round(&mut self, ports: &mut ReplayPorts) {
        let pfns = ports.p2m.roots().expect("roots").pfn_count;
        let mut dirty = PfnBitmap::new(2 * pfns.next_multiple_of(LOG_DIRTY_LEAF_PFNS));
        let read = ports.log_dirty.clean(LogBuffer::over(&mut dirty)).expect("clean");
        assert!(read >= pfns);
        let mfns = leaves(&mut ports.p2m);
        self.totals.rounds += 1;
        for (position, &mfn) in mfns.iter().enumerate() {
            let pfn = ports.m2p.pfn(Mfn(mfn)).expect("a leaf has a pfn");
            let is_new = self.mfns.get(position) != Some(&mfn);
            self.totals.leaves_dirty += u64::from(dirty.get(pfn));
            self.totals.leaves_new += u64::from(is_new);
            if dirty.get(pfn) || is_new {
                self.compare(&mut ports.p2m, &ports.m2p, &dirty, position, mfn);
            }
        }
        self.mfns = mfns;
    }

    fn compare(
        &mut self,
        p2m: &mut dyn P2mSource,
        m2p: &dyn M2p,
        dirty: &PfnBitmap,
        position: usize,
        mfn: u64,
    ) {
        for (slot, new) in entries(p2m, mfn).into_iter().enumerate() {
            let pfn = position * p2m.width().entries() + slot;
            if self.shadow.len() == pfn {
                self.shadow.push(NONE);
            }
            let old = std::mem::replace(&mut self.shadow[pfn], new);
            if old == new {
                continue;
            }
            match (old < m2p.frames(), new < m2p.frames()) {
                (false, true) => self.totals.mapped += 1,
                (true, false) => self.totals.unmapped += 1,
                (true, true) => self.totals.remapped += 1,
                (false, false) => self.totals.other += 1,
            }
            self.totals.entries_changed += 1;
            self.totals.beyond_log_dirty += u64::from(!dirty.get(Pfn(pfn as u64)));
        }
    }
}

/// What the walker finds in a whole trace.
pub(crate) fn replay_totals(reader: &Reader<'_>) -> Totals {
    let mut replay = Replay::new(reader).expect("round 0");
    let mut handles = replay.ports();
    let mfns = leaves(&mut handles.p2m);
    let shadow = mfns.iter().flat_map(|&mfn| entries(&mut handles.p2m, mfn)).collect();
    let mut walker = Walker { mfns, shadow, totals: Totals::default() };
    let mut before = Vec::new();
    while replay.advance().expect("decodes") {
        walker.round(&mut handles);
        assert_eq!(walker.mfns, replay.round().leaf_mfns, "the walk finds what was recorded");
        before.push(replay.round().entries.clone());
    }
    let last = before.pop().expect("a round");
    for (pfn, &entry) in last.iter().enumerate() {
        if walker.shadow[pfn] != entry {
            let known = before.last().and_then(|entries| entries.get(pfn)) == Some(&entry);
            *if known { &mut walker.totals.missed } else { &mut walker.totals.pending } += 1;
        }
    }
    walker.totals
}
