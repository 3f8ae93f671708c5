// SPDX-License-Identifier: MIT OR Apache-2.0
//! The destination: what arrived for each pfn. It knows no tracker, only what a stream can carry.
//! Not here: whether that is right (`oracle`).
//! Units: indexed by pfn; page tables hold pfns where the source's hold mfns.
//! Threads: under the world's lock.
//! Source: libxc `xg_sr_restore*.c`: growth is announced by the frame list; a receiver may allocate
//! the pfns that an arriving table names.

use std::collections::BTreeMap;

use p2mtrack::frame::{FrameType, Pfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::table::{PTE_PRESENT, pte_mfn};

use crate::words::Content;

/// A page table as it arrived, or as it should.
pub(crate) type TableWords = Box<Leaf>;

/// What the receiver has for a pfn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Data, or page table with level and pin.
    pub kind: FrameType,
    /// Its bytes; for a page table see its PTEs.
    pub content: Content,
}

/// What the receiver refuses because no real one could take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A page past every frame list so far.
    PageBeyondList(u64),
    /// A page table names a pfn past every frame list so far.
    PteBeyondList(u64),
}

/// The destination.
#[derive(Debug)]
pub(crate) struct Receiver {
    width: Width,
    contents: Vec<Content>,
    kinds: Vec<u8>,
    tables: BTreeMap<u64, TableWords>,
    list: Vec<Option<Pfn>>,
    list_pfns: u64,
    /// The most pfns that any frame list covered.
    limit: u64,
    /// Allocates a frame for each pfn that an arriving table names, as libxc does.
    eager: bool,
    names_holes: bool,
    pub(crate) pages: u64,
    /// Of these, page tables.
    pub(crate) tables_received: u64,
    pub(crate) gone: u64,
}

/// No frame; other values are `1 + level`, plus 8 if pinned.
const ABSENT: u8 = 0;

pub(crate) const fn kind_byte(kind: FrameType) -> u8 {
    match kind {
        FrameType::Data => 1,
        FrameType::Table { level, pinned } => 1 + level + if pinned { 8 } else { 0 },
        FrameType::NotOwned | FrameType::Broken => ABSENT,
    }
}

pub(crate) const fn kind_of(byte: u8) -> FrameType {
    match byte & 7 {
        0 => FrameType::NotOwned,
        1 => FrameType::Data,
        level => FrameType::Table { level: level - 1, pinned: byte & 8 != 0 },
    }
}

impl Receiver {
    /// A receiver that expects about `pfns` pfns.
    pub(crate) fn new(width: Width, pfns: u64, eager: bool) -> Self {
        let n = pfns as usize;
        Self {
            width,
            contents: vec![Content::UNDEFINED; n],
            kinds: vec![ABSENT; n],
            tables: BTreeMap::new(),
            list: Vec::new(),
            list_pfns: 0,
            limit: 0,
            eager,
            names_holes: false,
            pages: 0,
            tables_received: 0,
            gone: 0,
        }
    }

    /// From now on it reads a stream: it allocates what tables name, as libxc does, and positions
    /// without a leaf name a leaf without frames.
    pub(crate) const fn read_stream(&mut self) {
        self.eager = true;
        self.names_holes = true;
    }

    /// Whether positions without a leaf name a leaf without frames.
    pub(crate) const fn names_holes(&self) -> bool {
        self.names_holes
    }

    fn slot(&mut self, pfn: u64) -> usize {
        let at = pfn as usize;
        if at >= self.kinds.len() {
            self.kinds.resize(at + 1, ABSENT);
            self.contents.resize(at + 1, Content::UNDEFINED);
        }
        at
    }

    /// A page of data.
    pub(crate) fn take_data(
        &mut self,
        pfn: u64,
        kind: FrameType,
        content: Content,
    ) -> Result<(), Refusal> {
        if pfn >= self.limit {
            return Err(Refusal::PageBeyondList(pfn));
        }
        let at = self.slot(pfn);
        if self.kinds[at] > 1 {
            self.tables.remove(&pfn);
        }
        self.kinds[at] = kind_byte(kind);
        self.contents[at] = content;
        self.pages += 1;
        Ok(())
    }

    /// A page table, its PTEs normalised.
    pub(crate) fn take_table(
        &mut self,
        pfn: u64,
        kind: FrameType,
        words: TableWords,
    ) -> Result<(), Refusal> {
        if self.eager {
            for &pte in words.words.iter().filter(|&&pte| pte & PTE_PRESENT != 0) {
                let named = pte_mfn(pte).0;
                if named >= self.limit {
                    return Err(Refusal::PteBeyondList(named));
                }
                let at = self.slot(named);
                if self.kinds[at] == ABSENT {
                    self.kinds[at] = kind_byte(FrameType::Data);
                    self.contents[at] = Content::EMPTY;
                }
            }
        }
        self.take_data(pfn, kind, Content::digest(&words))?;
        self.tables_received += 1;
        self.tables.insert(pfn, words);
        Ok(())
    }

    /// A type without a page (XTAB). The stream can't free a frame: an existing one stays, but not
    /// as a page table.
    pub(crate) fn take_absent(&mut self, pfn: u64) {
        if let Some(kind) = self.kinds.get_mut(pfn as usize).filter(|kind| **kind > 1) {
            *kind = kind_byte(FrameType::Data);
            self.tables.remove(&pfn);
        }
    }

    /// A new frame list. It may shrink; pfns that were announced once stay allowed.
    pub(crate) fn take_list(&mut self, pfns: u64, leaves: &[Option<Pfn>]) {
        self.list = leaves.to_vec();
        self.list_pfns = pfns;
        // A stream's receiver knows the last pfn.
        let whole = leaves.len() as u64 * self.width.entries() as u64;
        self.limit = self.limit.max(if self.names_holes { pfns } else { pfns.max(whole) });
    }

    /// Frees the frames of these pfns.
    pub(crate) fn take_gone(&mut self, pfns: &[Pfn]) {
        for &Pfn(pfn) in pfns {
            if let Some(kind) = self.kinds.get_mut(pfn as usize) {
                self.gone += u64::from(*kind != ABSENT);
                *kind = ABSENT;
                self.tables.remove(&pfn);
            }
        }
    }

    /// Pfns that have no frame now. An eager receiver ignores notes, as libxc's does; another frees
    /// their frames.
    pub(crate) fn take_note(&mut self, pfns: &[Pfn]) {
        if !self.eager {
            self.take_gone(pfns);
        }
    }

    /// What is there for a pfn.
    pub(crate) fn get(&self, pfn: u64) -> Option<Received> {
        let at = pfn as usize;
        let &byte = self.kinds.get(at)?;
        (byte != ABSENT).then(|| Received { kind: kind_of(byte), content: self.contents[at] })
    }

    /// The page table of a pfn.
    pub(crate) fn table(&self, pfn: u64) -> Option<&Leaf> {
        self.tables.get(&pfn).map(AsRef::as_ref)
    }

    /// One past the last pfn that may have a frame.
    pub(crate) fn pfns(&self) -> u64 {
        self.kinds.len() as u64
    }

    /// The guest's width.
    pub(crate) const fn width(&self) -> Width {
        self.width
    }

    /// The frame list that it fills in at the end.
    pub(crate) fn list(&self) -> &[Option<Pfn>] {
        &self.list
    }

    /// Pfns that the frame list covers.
    pub(crate) const fn list_pfns(&self) -> u64 {
        self.list_pfns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiver(eager: bool) -> Receiver {
        let mut receiver = Receiver::new(Width::W64, 512, eager);
        receiver.take_list(512, &[Some(Pfn(3))]);
        receiver
    }

    #[test]
    fn an_eager_receiver_allocates_what_a_table_names() {
        for eager in [false, true] {
            let mut receiver = receiver(eager);
            let mut words = Box::new(Leaf::default());
            words.words[0] = 9 << 12 | 1;
            let kind = FrameType::Table { level: 1, pinned: true };
            receiver.take_table(7, kind, words).expect("in the list");
            assert_eq!(receiver.get(9).map(|r| r.content), eager.then_some(Content::EMPTY));
            assert_eq!(receiver.get(7).map(|r| r.kind), Some(kind));
            receiver.take_gone(&[Pfn(9), Pfn(7), Pfn(8)]);
            assert_eq!((receiver.get(9), receiver.get(7)), (None, None));
            assert_eq!(receiver.gone, 1 + u64::from(eager));
        }
    }

    #[test]
    fn growth_is_announced_first() {
        let mut receiver = receiver(true);
        let page = |receiver: &mut Receiver| receiver.take_data(600, FrameType::Data, Content(99));
        assert_eq!(page(&mut receiver), Err(Refusal::PageBeyondList(600)));
        receiver.take_list(1024, &[Some(Pfn(3)), None]);
        page(&mut receiver).expect("announced");
        let mut words = Box::new(Leaf::default());
        words.words[0] = 2000 << 12 | 1;
        let kind = FrameType::Table { level: 1, pinned: false };
        assert_eq!(receiver.take_table(7, kind, words), Err(Refusal::PteBeyondList(2000)));
    }
}
