// SPDX-License-Identifier: MIT OR Apache-2.0
//! What has arrived: the last word of each pfn, the pfns that page tables name, the frame list.
//! Not here: whether it is right (`pages`, `list`, `point`).
//! Units: indexed by pfn; the list by leaf.
//! Threads: one.
//! Source: own. Memory is bounded by the stream: for each byte of words and lists at most some 25
//! bytes, for a page table three quarters of its page.

use std::collections::BTreeMap;

use p2mtrack::frame::{Pfn, Width};

use crate::word::WordKind;

/// Pfns in a chunk of [`Kinds`].
const CHUNK_PFNS: u64 = 64;

/// A byte for each of 64 pfns: the type of its last word in the lower half, and flags.
type Chunk = [u8; CHUNK_PFNS as usize];

/// The bits of the type.
const KIND: u8 = 0x0f;
/// A page table names the pfn, or did when all tables were last looked at.
const NAMED: u8 = 0x10;
/// The pfn was listed as a leaf when the list was last looked at.
const LISTED: u8 = 0x20;
/// No word came.
const NO_WORD: u8 = 0x80;

/// The last word of each pfn that had one.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    chunks: Vec<Option<Box<Chunk>>>,
}

const fn kind_of(byte: u8) -> Option<WordKind> {
    if byte & NO_WORD == 0 { WordKind::of(byte & KIND) } else { None }
}

impl Kinds {
    fn byte(&self, pfn: Pfn) -> u8 {
        let chunk = self.chunks.get((pfn.0 / CHUNK_PFNS) as usize).and_then(Option::as_ref);
        chunk.map_or(NO_WORD, |chunk| chunk[(pfn.0 % CHUNK_PFNS) as usize])
    }

    fn byte_mut(&mut self, pfn: Pfn) -> &mut u8 {
        let at = (pfn.0 / CHUNK_PFNS) as usize;
        if at >= self.chunks.len() {
            self.chunks.resize_with(at + 1, || None);
        }
        let chunk = self.chunks[at].get_or_insert_with(|| Box::new([NO_WORD; CHUNK_PFNS as usize]));
        &mut chunk[(pfn.0 % CHUNK_PFNS) as usize]
    }

    /// The pfn's last word; `None` if it had none.
    pub(crate) fn get(&self, pfn: Pfn) -> Option<WordKind> {
        kind_of(self.byte(pfn))
    }

    /// Whether the pfn has a frame.
    pub(crate) fn has_frame(&self, pfn: Pfn) -> bool {
        self.get(pfn).is_some_and(WordKind::has_frame)
    }

    /// All pfns with a word, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Pfn, WordKind)> + '_ {
        let chunks = (0..).zip(&self.chunks).filter_map(|(at, chunk)| Some((at, chunk.as_ref()?)));
        chunks.flat_map(|(at, chunk)| {
            let kinds = (at * CHUNK_PFNS..).zip(chunk.iter());
            kinds.filter_map(|(pfn, &byte)| Some((Pfn(pfn), kind_of(byte)?)))
        })
    }

    /// Takes a flag from all pfns.
    fn clear(&mut self, flag: u8) {
        self.chunks.iter_mut().flatten().flat_map(|chunk| chunk.iter_mut()).for_each(|byte| {
            *byte &= !flag;
        });
    }

    /// Whether any pfn of a leaf has a frame.
    fn any_frame_in(&self, width: Width, leaf: u64) -> bool {
        let entries = width.entries() as u64;
        let first = leaf * entries;
        let chunks = first / CHUNK_PFNS..(first + entries) / CHUNK_PFNS;
        chunks
            .filter_map(|at| self.chunks.get(at as usize)?.as_ref())
            .any(|chunk| chunk.iter().filter_map(|&byte| kind_of(byte)).any(WordKind::has_frame))
    }
}

/// A page table as it arrived.
#[derive(Debug)]
pub(crate) struct Table {
    /// The byte of the stream at which it begins.
    pub(crate) offset: u64,
    /// 1 to 4.
    pub(crate) level: u8,
    /// Slots of its present PTEs that name listed pfns.
    pub(crate) slots: Vec<u16>,
    /// The pfns that they name.
    pub(crate) named: Vec<u32>,
}

/// The frame list.
#[derive(Debug, Default)]
pub(crate) struct List {
    /// For each leaf its pfn.
    pub(crate) leaves: Vec<u64>,
    /// One past the last pfn that any list covered.
    pub(crate) pfns: u64,
    /// For each leaf the byte of the stream at which it was listed last.
    pub(crate) offsets: Vec<u64>,
    /// A list was not understood: what is past the end of the others is not known.
    pub(crate) is_lost: bool,
}

/// What has arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) width: Width,
    pub(crate) kinds: Kinds,
    /// By pfn, those whose last word is a table.
    pub(crate) tables: BTreeMap<Pfn, Table>,
    pub(crate) list: List,
    /// Pages that were carried.
    pub(crate) pages: u64,
    /// Tables since the last consistent point.
    pub(crate) fresh: Vec<Pfn>,
    /// A pfn that a table names lost its frame since all tables were last looked at.
    pub(crate) is_frame_lost: bool,
    /// The list, or what it names, changed since it was last looked at.
    pub(crate) is_list_changed: bool,
    /// A leaf is listed twice.
    pub(crate) is_leaf_shared: bool,
}

impl Arrived {
    pub(crate) fn new() -> Self {
        Self {
            width: Width::W64,
            kinds: Kinds::default(),
            tables: BTreeMap::new(),
            list: List::default(),
            pages: 0,
            fresh: Vec::new(),
            is_frame_lost: false,
            is_list_changed: false,
            is_leaf_shared: false,
        }
    }

    /// Notes a word of a pfn.
    pub(crate) fn note(&mut self, pfn: Pfn, kind: WordKind) {
        if !matches!(kind, WordKind::Table { .. }) {
            self.tables.remove(&pfn);
        }
        let byte = self.kinds.byte_mut(pfn);
        let (before, flags) = (kind_of(*byte), *byte & (NAMED | LISTED));
        *byte = kind.number() | flags;
        let had_frame = before.is_some_and(WordKind::has_frame);
        self.is_frame_lost |= flags & NAMED != 0 && had_frame && !kind.has_frame();
        self.is_list_changed |= flags & LISTED != 0 && before != Some(kind)
            || self.is_leaf_shared && kind.has_frame() && !had_frame;
    }

    /// Takes a page table.
    pub(crate) fn take_table(&mut self, pfn: Pfn, table: Table) {
        for &named in &table.named {
            *self.kinds.byte_mut(Pfn(named.into())) |= NAMED;
        }
        self.tables.insert(pfn, table);
        self.fresh.push(pfn);
    }

    /// All tables were looked at: what they name is marked anew.
    pub(crate) fn mark_named(&mut self) {
        self.kinds.clear(NAMED);
        for &named in self.tables.values().flat_map(|table| &table.named) {
            *self.kinds.byte_mut(Pfn(named.into())) |= NAMED;
        }
    }

    /// The list was looked at: its leaves are marked anew.
    pub(crate) fn mark_listed(&mut self, is_shared: bool) {
        self.kinds.clear(LISTED);
        let pfns = self.list.pfns;
        for &leaf in self.list.leaves.iter().filter(|leaf| **leaf < pfns) {
            *self.kinds.byte_mut(Pfn(leaf)) |= LISTED;
        }
        (self.is_leaf_shared, self.is_list_changed) = (is_shared, false);
    }

    /// Whether any pfn of a leaf has a frame.
    pub(crate) fn any_frame_in(&self, leaf: u64) -> bool {
        self.kinds.any_frame_in(self.width, leaf)
    }

    /// Pfns that have frames, and how many of them are page tables.
    pub(crate) fn counts(&self) -> (u64, u64) {
        self.kinds.iter().fold((0, 0), |(pfns, tables), (_, kind)| {
            let is_table = matches!(kind, WordKind::Table { .. });
            (pfns + u64::from(kind.has_frame()), tables + u64::from(is_table))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts() {
        let mut arrived = Arrived::new();
        let table = WordKind::Table { level: 1, pinned: false };
        arrived.note(Pfn(700), table);
        let nothing = Table { offset: 0, level: 1, slots: Vec::new(), named: Vec::new() };
        arrived.take_table(Pfn(700), nothing);
        arrived.note(Pfn(3), WordKind::Data);
        assert_eq!(arrived.counts(), (2, 1));
        assert!(arrived.any_frame_in(1) && arrived.any_frame_in(0) && !arrived.any_frame_in(2));
        arrived.note(Pfn(700), WordKind::Absent);
        assert_eq!(arrived.counts(), (1, 0));
        assert!(!arrived.any_frame_in(1) && arrived.tables.is_empty());
        assert_eq!(arrived.kinds.get(Pfn(700)), Some(WordKind::Absent));
        assert_eq!(arrived.kinds.get(Pfn(701)), None);
        let pfns: Vec<_> = arrived.kinds.iter().map(|(pfn, _)| pfn.0).collect();
        assert_eq!(pfns, [3, 700]);
    }
}
