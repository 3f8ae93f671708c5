// SPDX-License-Identifier: MIT OR Apache-2.0
//! A PAGE_DATA record that is ready to be written: words, mapped pages, and copies of others.
//! Not here: which pages are in it (`transport`).
//! Units: pages in the order of their words.
//! Threads: may be written on another thread than the one that made it.
//! Source: own.

use std::io;

use p2mtrack::frame::Pfn;
use p2mtrack::leaf::Leaf;
use p2mtrack::table::{TableCopy, TableFault, TableView};

use crate::pages::PageBatch;
use crate::sink::{Piece, Sink};
use crate::word::Word;
use crate::writer::Writer;

/// A record, and the memory that it takes, which is used again.
#[derive(Debug)]
pub(crate) struct PageRecord<B> {
    words: Vec<Word>,
    /// For each word where its page is.
    places: Vec<Place>,
    copies: Vec<Leaf>,
    tables: Vec<TableCopy>,
    batch: Option<B>,
}

/// Where a page is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the batch.
    Mapped(usize),
    /// Among the copies.
    Copied(usize),
    /// Among the page tables.
    Table(usize),
}

impl<B: PageBatch> PageRecord<B> {
    /// An empty record.
    pub(crate) const fn new() -> Self {
        Self {
            words: Vec::new(),
            places: Vec::new(),
            copies: Vec::new(),
            tables: Vec::new(),
            batch: None,
        }
    }

    /// Adds page `index` of the batch, as it is when it is written.
    pub(crate) fn add_mapped(&mut self, word: Word, index: usize) {
        self.words.push(word);
        self.places.push(Place::Mapped(index));
    }

    /// Adds a page that is written from this copy.
    pub(crate) fn add_copy(&mut self, word: Word, copy: Leaf) {
        self.words.push(word);
        self.places.push(Place::Copied(self.copies.len()));
        self.copies.push(copy);
    }

    /// Takes a page table to be normalised.
    pub(crate) fn take_table(&mut self, pfn: Pfn, level: u8, words: Leaf) {
        self.tables.push(TableCopy::new(pfn, level, words));
    }

    /// Normalises all page tables.
    pub(crate) fn normalise(&mut self, view: &dyn TableView) {
        if !self.tables.is_empty() {
            view.normalise_all(&mut self.tables);
        }
    }

    /// Adds the page table that was taken as number `index`.
    ///
    /// # Errors
    /// It can't be normalised, and is not added.
    pub(crate) fn add_table(&mut self, word: Word, index: usize) -> Result<(), TableFault> {
        if let Some(fault) = self.tables[index].fault {
            return Err(fault);
        }
        self.words.push(word);
        self.places.push(Place::Table(index));
        Ok(())
    }

    /// The batch in which its pages are mapped.
    pub(crate) fn set_batch(&mut self, batch: B) {
        self.batch = Some(batch);
    }

    /// Whether it has no page.
    pub(crate) const fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Its pfns.
    pub(crate) fn pfns(&self) -> impl Iterator<Item = Pfn> + Clone + '_ {
        self.words.iter().map(|word| word.pfn())
    }

    /// Its page tables, normalised.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Leaf> {
        let at = self.places.iter().filter_map(|place| match place {
            Place::Table(at) => Some(*at),
            _ => None,
        });
        at.map(|at| &self.tables[at].words)
    }

    /// Pages, and how many of them are page tables.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let tables = self.places.iter().filter(|place| matches!(place, Place::Table(_))).count();
        (self.words.len() as u64, tables as u64)
    }

    /// Lets go of the pages: while they are mapped the guest can't give their frames away.
    pub(crate) fn unmap(&mut self) {
        self.batch = None;
    }

    /// Lets go of the pages, and forgets everything but its memory.
    pub(crate) fn clear(&mut self) {
        self.words.clear();
        self.places.clear();
        self.copies.clear();
        self.tables.clear();
        self.unmap();
    }

    /// Writes it.
    ///
    /// # Errors
    /// The sink's.
    pub(crate) fn write<S: Sink>(&self, writer: &mut Writer<S>) -> io::Result<()> {
        let Some(batch) = &self.batch else { return Ok(()) };
        let pieces = self.places.iter().map(|&place| match place {
            Place::Mapped(at) => {
                Piece::Live(batch.page(at).expect("it was mapped when it was added"))
            }
            Place::Copied(at) => Piece::Own(bytemuck::cast_slice(&self.copies[at].words)),
            Place::Table(at) => Piece::Own(bytemuck::cast_slice(&self.tables[at].words.words)),
        });
        writer.page_data(&self.words, pieces)
    }
}
