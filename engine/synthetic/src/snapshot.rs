// SPDX-License-Identifier: MIT OR Apache-2.0
//! The source at suspend: for each pfn whether it has a frame, of which type, with which contents.
//! Not here: the comparison with the receiver (`oracle`).
//! Units: indexed by pfn; 9 bytes a pfn.
//! Threads: plain values.
//! Source: the project's design, section 3: a pfn has a frame if its entry names a frame of the
//! guest whose m2p is this pfn; with an alias or a stale m2p, if the entry names it without a tag.

use std::collections::{BTreeMap, BTreeSet};

use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::table::{PTE_FRAME, PTE_PRESENT, pte_mfn};

use crate::page_table::is_xen_slot;
use crate::receiver::{Received, TableWords, kind_byte, kind_of};
use crate::walk::{NoP2m, owned_frame, resolve, walk};
use crate::words::Content;
use crate::world::World;

/// A page table as it should arrive, and the slots of PTEs that resolve to no pfn.
#[derive(Clone, Debug)]
pub(crate) struct TableTruth {
    pub(crate) words: TableWords,
    /// Slots that name no pfn's frame: a policy may clear them.
    pub(crate) unresolved: BTreeSet<u16>,
    /// Slots that name a frame of an ambiguous pfn: their meaning is undefined.
    pub(crate) ambiguous: BTreeSet<u16>,
}

/// What the pass over the leaves collects.
#[derive(Default)]
struct Seen {
    /// Page tables: pfn, frame, level.
    tables: Vec<(u64, u64, u8)>,
    /// Frames of ambiguous pfns.
    ambiguous: BTreeSet<u64>,
    /// Leaves without any frame: a shared one may be listed a million times.
    holes: BTreeSet<u64>,
}

/// A frame of the suspended source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceFrame {
    /// Its pfn, by p2m and m2p; by the p2m alone if the guest has frames that are shared or whose
    /// m2p is stale.
    pub pfn: Pfn,
    /// The frame.
    pub mfn: Mfn,
    /// Its type.
    pub kind: FrameType,
}

/// The source at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) width: Width,
    pub(crate) pfn_count: u64,
    /// The kernel's p2m covers the count.
    pub(crate) count_is_true: bool,
    pub(crate) list: Vec<Option<Pfn>>,
    kinds: Vec<u8>,
    contents: Vec<Content>,
    pub(crate) tables: BTreeMap<u64, TableTruth>,
    /// Pfns whose entry names a frame of the guest that the m2p gives to another pfn: an honest
    /// guest has none.
    pub(crate) ambiguous: BTreeSet<u64>,
    /// Why the roots name no p2m at all.
    pub(crate) broken: Option<NoP2m>,
    /// Frames that the guest holds, whatever its p2m says.
    held: u64,
}

impl Snapshot {
    /// Takes the snapshot of a suspended world.
    pub(crate) fn take(world: &World) -> Self {
        let width = world.guest.width;
        let machine = &world.xen.machine;
        let roots = &world.guest.roots;
        let (leaves, broken) = match walk(machine, width, roots) {
            Ok(leaves) => (leaves, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let mut snapshot = Self {
            width,
            pfn_count: roots.pfn_count,
            count_is_true: width.leaves(roots.pfn_count) <= world.guest.leaves.len() as u64,
            list: leaves.iter().map(|leaf| machine.m2p.pfn((*leaf)?).map(Pfn)).collect(),
            kinds: Vec::new(),
            contents: Vec::new(),
            tables: BTreeMap::new(),
            ambiguous: BTreeSet::new(),
            broken,
            held: machine.guest_frames(),
        };
        // Page tables come last: what they mean depends on every leaf.
        let mut seen = Seen::default();
        for (position, leaf) in leaves.iter().enumerate() {
            if let Some(leaf) = leaf {
                snapshot.take_leaf(world, position, *leaf, &mut seen);
            }
        }
        for (pfn, mfn, level) in std::mem::take(&mut seen.tables) {
            let truth = table_truth(world, &leaves, mfn, level, &seen.ambiguous);
            snapshot.tables.insert(pfn, truth);
        }
        snapshot
    }

    fn take_leaf(&mut self, world: &World, position: usize, leaf: u64, seen: &mut Seen) {
        let machine = &world.xen.machine;
        let slots = self.width.entries();
        if seen.holes.contains(&leaf) {
            return;
        }
        let (words, width) = (machine.words(leaf), self.width);
        let entry_of = |slot| words.map_or(Entry::INVALID, |words| words.entry(width, slot));
        if (0..slots).all(|slot| entry_of(slot) == Entry::INVALID) {
            seen.holes.insert(leaf);
            return;
        }
        for slot in 0..slots {
            let pfn = (position * slots + slot) as u64;
            let entry = entry_of(slot);
            if entry == Entry::INVALID || pfn >= self.pfn_count {
                continue;
            }
            let Some(mfn) = owned_frame(machine, self.width, entry) else { continue };
            if machine.m2p.pfn(mfn) != Some(pfn) && !world.mix.shares(width, entry) {
                self.ambiguous.insert(pfn);
                seen.ambiguous.insert(mfn);
                continue;
            }
            let kind = machine.frame_type(mfn);
            let at = pfn as usize;
            if at >= self.kinds.len() {
                self.kinds.resize(at + 1, 0);
                self.contents.resize(at + 1, Content::UNDEFINED);
            }
            self.kinds[at] = kind_byte(kind);
            self.contents[at] = machine.content(mfn);
            if let FrameType::Table { level, .. } = kind {
                seen.tables.push((pfn, mfn, level));
            }
        }
    }

    /// The count of pfns in shared_info.
    #[must_use]
    pub const fn pfn_count(&self) -> u64 {
        self.pfn_count
    }

    /// For each leaf in order the pfn of its frame.
    #[must_use]
    pub fn list(&self) -> &[Option<Pfn>] {
        &self.list
    }

    /// One past the last pfn that may have a frame.
    #[must_use]
    pub fn pfns(&self) -> u64 {
        self.kinds.len() as u64
    }

    /// Pfns that have a frame.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.kinds.iter().filter(|&&kind| kind != 0).count() as u64
    }

    /// Frames that the guest holds and frames that its p2m names, if the p2m names less than half:
    /// then it can't be the guest's p2m.
    pub(crate) fn lost(&self) -> Option<(u64, u64)> {
        let named = self.frames() + self.ambiguous.len() as u64;
        (named < self.held / 2).then_some((self.held, named))
    }

    /// What a pfn has.
    pub(crate) fn get(&self, pfn: u64) -> Option<Received> {
        let at = pfn as usize;
        let &byte = self.kinds.get(at)?;
        (byte != 0).then(|| Received { kind: kind_of(byte), content: self.contents[at] })
    }
}

/// The frames of a suspended world in the order of their pfns.
pub(crate) fn frames(world: &World) -> Vec<SourceFrame> {
    let (machine, width) = (&world.xen.machine, world.guest.width);
    let mut frames = Vec::new();
    for (position, leaf) in walk(machine, width, &world.guest.roots).iter().flatten().enumerate() {
        let Some(leaf) = *leaf else { continue };
        for slot in 0..width.entries() {
            let pfn = (position * width.entries() + slot) as u64;
            let entry = machine.entry(leaf, width, slot);
            let Some(mfn) = owned_frame(machine, width, entry) else { continue };
            let named = machine.m2p.pfn(mfn) == Some(pfn) || world.mix.shares(width, entry);
            if named && pfn < world.guest.roots.pfn_count {
                let kind = machine.frame_type(mfn);
                frames.push(SourceFrame { pfn: Pfn(pfn), mfn: Mfn(mfn), kind });
            }
        }
    }
    frames
}

fn table_truth(
    world: &World,
    leaves: &[Option<u64>],
    mfn: u64,
    level: u8,
    unclear: &BTreeSet<u64>,
) -> TableTruth {
    let (machine, width) = (&world.xen.machine, world.guest.width);
    let mut words = TableWords::default();
    let (mut unresolved, mut ambiguous) = (BTreeSet::new(), BTreeSet::new());
    machine.copy_words(mfn, &mut words);
    for (slot, pte) in words.words.iter_mut().enumerate() {
        if is_xen_slot(width, level, slot) {
            *pte = 0;
        } else if *pte & PTE_PRESENT != 0 {
            match resolve(machine, width, leaves, pte_mfn(*pte).0) {
                Some(pfn) => *pte = *pte & !PTE_FRAME | pfn << 12,
                None if unclear.contains(&pte_mfn(*pte).0) => {
                    ambiguous.insert(slot as u16);
                }
                None => {
                    unresolved.insert(slot as u16);
                }
            }
        }
    }
    TableTruth { words, unresolved, ambiguous }
}
