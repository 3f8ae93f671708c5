// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's frames: owner, m2p, contents, type bits, references; and Xen's allocator.
//! Not here: what marks log-dirty (`xen`), or the guest's own view (`guest`).
//! Units: indexed by mfn; about 26 bytes a frame, so that a 64 GiB guest fits well under a
//! gigabyte.
//! Threads: one owner, except the m2p, which any thread reads at any time.
//! Source: Xen `xen/arch/x86/mm.c`, `xen/common/page_alloc.c`: a frame is free when its last
//! reference goes.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use p2mtrack::frame::{Entry, FrameType, Width};
use p2mtrack::leaf::Leaf;

use crate::words::{Content, FrameWords, pattern};

/// Who owns a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Owner {
    /// No owner.
    Free,
    /// The guest that is migrated.
    Guest,
    /// Another domain.
    Other,
    /// The hypervisor.
    Xen,
}

const LEVEL: u8 = 0b111;
const PINNED: u8 = 1 << 3;
const WORDS: u8 = 1 << 4;
const GIVEN_BACK: u8 = 1 << 5;

/// Xen's mfn to pfn table: a word for each frame, all ones if it has no pfn. Reading it needs no
/// lock.
#[derive(Clone, Debug)]
pub(crate) struct M2pTable(Arc<[AtomicU64]>);

impl M2pTable {
    /// A word for each frame of the machine.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        &self.0
    }

    /// Frames of the machine.
    pub(crate) fn frames(&self) -> u64 {
        self.0.len() as u64
    }

    /// The pfn of a frame.
    pub(crate) fn pfn(&self, mfn: u64) -> Option<u64> {
        // ORDER: Relaxed, a single word; a real m2p promises no more.
        let word = self.0.get(mfn as usize)?.load(Ordering::Relaxed);
        (word != u64::MAX).then_some(word)
    }

    /// Sets the pfn of a frame.
    pub(crate) fn set(&self, mfn: u64, pfn: Option<u64>) {
        let word = pfn.unwrap_or(u64::MAX);
        self.0[mfn as usize].store(word, Ordering::Relaxed); // ORDER: as in `pfn`
    }
}

/// Hashes a frame number by one multiplication: no untrusted source chooses the numbers.
#[derive(Default)]
struct MfnHasher(u64);

impl Hasher for MfnHasher {
    fn write_u64(&mut self, mfn: u64) {
        self.0 = (self.0 ^ mfn).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// All frames.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) m2p: M2pTable,
    owners: Vec<Owner>,
    bits: Vec<u8>,
    contents: Vec<u64>,
    refs: Vec<u32>,
    /// Looked up for every entry that is read.
    words: HashMap<u64, FrameWords, BuildHasherDefault<MfnHasher>>,
    /// (frame, table, slot) for each PTE of a validated page table.
    ptes: BTreeSet<(u64, u64, u16)>,
    pub(crate) free: Vec<u64>,
    guest_frames: u64,
    fresh: u64,
}

impl Machine {
    /// A machine of `frames` frames, all Xen's.
    pub(crate) fn new(frames: u64) -> Self {
        let n = frames as usize;
        Self {
            m2p: M2pTable((0..n).map(|_| AtomicU64::new(u64::MAX)).collect()),
            owners: vec![Owner::Xen; n],
            bits: vec![0; n],
            contents: vec![0; n],
            refs: vec![0; n],
            words: HashMap::default(),
            ptes: BTreeSet::new(),
            free: Vec::new(),
            guest_frames: 0,
            fresh: Content::FIRST,
        }
    }

    /// Frames that the guest holds.
    pub(crate) const fn guest_frames(&self) -> u64 {
        self.guest_frames
    }

    /// Who owns a frame; beyond the machine everything is Xen's.
    pub(crate) fn owner(&self, mfn: u64) -> Owner {
        self.owners.get(mfn as usize).copied().unwrap_or(Owner::Xen)
    }

    /// Whether the guest owns a frame.
    pub(crate) fn is_guest(&self, mfn: u64) -> bool {
        self.owner(mfn) == Owner::Guest
    }

    /// Gives a frame to an owner at the machine's start.
    pub(crate) fn settle(&mut self, mfn: u64, owner: Owner, pfn: Option<u64>, defined: bool) {
        self.owners[mfn as usize] = owner;
        self.m2p.set(mfn, pfn);
        match owner {
            Owner::Guest => self.guest_frames += 1,
            Owner::Free => self.free.push(mfn),
            Owner::Other | Owner::Xen => {}
        }
        if defined {
            self.write(mfn);
        }
    }

    /// Changes a frame's owner and keeps its contents.
    pub(crate) fn hand_over(&mut self, mfn: u64, owner: Owner, pfn: Option<u64>) {
        let old = std::mem::replace(&mut self.owners[mfn as usize], owner);
        self.guest_frames += u64::from(owner == Owner::Guest);
        self.guest_frames -= u64::from(old == Owner::Guest);
        self.m2p.set(mfn, pfn);
    }

    /// Takes a free frame for an owner, `prefer` if it is free: contents undefined, no pfn yet.
    pub(crate) fn allocate(&mut self, prefer: Option<u64>, owner: Owner) -> Option<u64> {
        let at = prefer
            .and_then(|want| self.free.iter().rposition(|&mfn| mfn == want))
            .or_else(|| self.free.len().checked_sub(1))?;
        let mfn = self.free.swap_remove(at);
        self.hand_over(mfn, owner, None);
        Some(mfn)
    }

    /// Drops the owner's own reference; the frame is free when no other is left.
    pub(crate) fn give_back(&mut self, mfn: u64) {
        self.bits[mfn as usize] |= GIVEN_BACK;
        self.free_if_unused(mfn);
    }

    /// Whether the owner gave the frame back while references remain.
    pub(crate) fn is_given_back(&self, mfn: u64) -> bool {
        self.bits[mfn as usize] & GIVEN_BACK != 0
    }

    fn free_if_unused(&mut self, mfn: u64) {
        let at = mfn as usize;
        if self.refs[at] > 0 || self.bits[at] & GIVEN_BACK == 0 {
            return;
        }
        self.words.remove(&mfn);
        self.bits[at] = 0;
        self.contents[at] = 0;
        self.hand_over(mfn, Owner::Free, None);
        self.free.push(mfn);
    }

    /// References beside the owner's own.
    pub(crate) fn refs(&self, mfn: u64) -> u32 {
        self.refs[mfn as usize]
    }

    /// Takes a reference.
    pub(crate) fn hold(&mut self, mfn: u64) {
        self.refs[mfn as usize] += 1;
    }

    /// Drops a reference; the last one may free the frame.
    pub(crate) fn drop_hold(&mut self, mfn: u64) {
        self.refs[mfn as usize] -= 1;
        self.free_if_unused(mfn);
    }

    /// The page-table level of a frame, 0 for data.
    pub(crate) fn level(&self, mfn: u64) -> u8 {
        self.bits[mfn as usize] & LEVEL
    }

    /// Makes a frame data (0) or a page table.
    pub(crate) fn set_level(&mut self, mfn: u64, level: u8) {
        let bits = &mut self.bits[mfn as usize];
        *bits = *bits & !LEVEL | level;
    }

    /// Whether a page table is pinned.
    pub(crate) fn is_pinned(&self, mfn: u64) -> bool {
        self.bits[mfn as usize] & PINNED != 0
    }

    /// Pins or unpins.
    pub(crate) fn set_pinned(&mut self, mfn: u64, pinned: bool) {
        let bits = &mut self.bits[mfn as usize];
        *bits = *bits & !PINNED | if pinned { PINNED } else { 0 };
    }

    /// What `XEN_DOMCTL_getpageframeinfo3` says of a frame (`xen/arch/x86/domctl.c`): it reads
    /// `PGT_type_mask` and `PGT_pinned`, and not `PGT_partial`, so that a partly validated table is
    /// one of its level.
    pub(crate) fn frame_type(&self, mfn: u64) -> FrameType {
        match self.owner(mfn) {
            Owner::Guest if self.level(mfn) == 0 => FrameType::Data,
            Owner::Guest => {
                FrameType::Table { level: self.level(mfn), pinned: self.is_pinned(mfn) }
            }
            _ => FrameType::NotOwned,
        }
    }

    /// The PTEs of page tables that name a frame, as (table, slot).
    pub(crate) fn ptes_to(&self, mfn: u64) -> impl Iterator<Item = (u64, u16)> + '_ {
        self.ptes
            .range((mfn, 0, 0)..=(mfn, u64::MAX, u16::MAX))
            .map(|&(_, table, slot)| (table, slot))
    }

    /// Records that a PTE names a frame, or no longer does.
    pub(crate) fn note_pte(&mut self, mfn: u64, table: u64, slot: u16, present: bool) {
        if present {
            if self.ptes.insert((mfn, table, slot)) {
                self.hold(mfn);
            }
        } else if self.ptes.remove(&(mfn, table, slot)) {
            self.drop_hold(mfn);
        }
    }

    fn fresh(&mut self) -> u64 {
        self.fresh += 1;
        self.fresh
    }

    /// Writes the page as data: new, defined contents.
    pub(crate) fn write(&mut self, mfn: u64) {
        let version = self.fresh();
        self.contents[mfn as usize] = version;
        if self.bits[mfn as usize] & WORDS == 0 {
            return;
        }
        if self.refs[mfn as usize] == 0 {
            self.words.remove(&mfn);
            self.bits[mfn as usize] &= !WORDS;
        } else if let Some(words) = self.words.get_mut(&mfn) {
            words.mirror = true;
            for index in 0..words.live.len() {
                words.store(index, pattern(version, index));
            }
        }
    }

    /// What a frame holds.
    pub(crate) fn content(&self, mfn: u64) -> Content {
        match self.real_words(mfn) {
            Some(words) => {
                let mut copy = Leaf::default();
                words.copy(&mut copy);
                Content::digest(&copy)
            }
            None => Content(self.contents[mfn as usize]),
        }
    }

    /// Whether a frame has real words.
    pub(crate) fn has_real_words(&self, mfn: u64) -> bool {
        self.bits[mfn as usize] & WORDS != 0 && self.real_words(mfn).is_some()
    }

    /// The real words of a frame.
    pub(crate) fn real_words(&self, mfn: u64) -> Option<&FrameWords> {
        if self.bits[mfn as usize] & WORDS == 0 {
            return None;
        }
        self.words.get(&mfn).filter(|words| !words.mirror)
    }

    /// The words of a frame, derived from its version if it has no real ones.
    pub(crate) fn picture(&mut self, mfn: u64) -> &FrameWords {
        let version = self.contents[mfn as usize];
        self.bits[mfn as usize] |= WORDS;
        self.words
            .entry(mfn)
            .or_insert_with(|| FrameWords::from_fn(|index| pattern(version, index), true))
    }

    /// Copies the words of a frame and stores nothing.
    pub(crate) fn copy_words(&self, mfn: u64, into: &mut Leaf) {
        match self.words.get(&mfn) {
            Some(words) => words.copy(into),
            None => {
                let version = self.contents[mfn as usize];
                for (index, word) in into.words.iter_mut().enumerate() {
                    *word = pattern(version, index);
                }
            }
        }
    }

    /// The words of a frame, real from now on.
    pub(crate) fn words_to_write(&mut self, mfn: u64) -> &FrameWords {
        self.picture(mfn);
        let words = self.words.get_mut(&mfn).expect("just made");
        words.mirror = false;
        words
    }

    /// Gives a frame real words at the machine's start.
    pub(crate) fn install(&mut self, mfn: u64, words: FrameWords) {
        self.bits[mfn as usize] |= WORDS;
        self.words.insert(mfn, words);
    }

    /// The words of a frame, if it has any, real or not.
    pub(crate) fn words(&self, mfn: u64) -> Option<&FrameWords> {
        self.words.get(&mfn)
    }

    /// One entry of a p2m frame.
    pub(crate) fn entry(&self, mfn: u64, width: Width, slot: usize) -> Entry {
        self.words.get(&mfn).map_or(Entry::INVALID, |words| words.entry(width, slot))
    }

    /// One word of a page table.
    pub(crate) fn word(&self, mfn: u64, index: usize) -> u64 {
        self.words.get(&mfn).map_or(0, |words| words.load(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let mut machine = Machine::new(8);
        machine.settle(1, Owner::Guest, Some(10), true);
        machine.settle(2, Owner::Free, None, false);
        machine
    }

    #[test]
    fn a_frame_is_free_when_its_last_reference_goes() {
        let mut machine = machine();
        machine.hold(1);
        machine.give_back(1);
        assert!(machine.is_guest(1) && machine.is_given_back(1));
        assert_eq!(machine.m2p.pfn(1), Some(10));
        machine.drop_hold(1);
        assert_eq!(machine.owner(1), Owner::Free);
        assert_eq!(machine.m2p.pfn(1), None);
        assert_eq!(machine.content(1), Content::UNDEFINED);
        assert_eq!(machine.guest_frames(), 0);
    }

    #[test]
    fn a_preferred_frame_is_allocated_again() {
        let mut machine = machine();
        machine.give_back(1);
        assert_eq!(machine.allocate(Some(2), Owner::Guest), Some(2));
        assert_eq!(machine.allocate(Some(7), Owner::Guest), Some(1));
        assert_eq!(machine.allocate(None, Owner::Guest), None);
        assert_eq!(machine.content(1), Content::UNDEFINED);
    }

    #[test]
    fn a_mapped_data_page_pictures_its_version() {
        let mut machine = machine();
        let before = machine.content(1);
        machine.hold(1);
        let live = machine.picture(1).clone();
        assert_eq!(machine.content(1), before);
        machine.write(1);
        assert_ne!(machine.content(1), before);
        let mut copy = Leaf::default();
        live.copy(&mut copy);
        assert_eq!(copy.words[3], pattern(machine.contents[1], 3));
        machine.words_to_write(1).store(0, 5);
        assert_eq!(machine.content(1).0 >> 63, 1);
        machine.drop_hold(1);
        machine.write(1);
        assert_eq!(machine.content(1).0 >> 63, 0);
    }
}
