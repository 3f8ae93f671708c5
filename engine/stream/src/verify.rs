// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every page once more, behind a VERIFY record: the receiver compares them with what it has.
//! Not here: when that is asked for, and what a difference means (the receiver).
//! Units: pfns in ascending order; a batch is one PAGE_DATA record.
//! Threads: one owner.
//! Source: `xen-migrate.md` 2, VERIFY. Page tables are read and normalised when all is settled, as
//! only then the engine's view is there; they are kept until the frame list is written.

use std::collections::BTreeMap;
use std::fmt;

use p2mtrack::frame::{FrameType, Mfn, Pfn};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::PortError;
use p2mtrack::table::{TableCopy, TableView};

use crate::page_record::PageRecord;
use crate::pages::{PageBatch, Pages};
use crate::record::RecordKind;
use crate::sink::Sink;
use crate::word::Word;
use crate::writer::Writer;

/// Pages of a record.
const BATCH: usize = 1024;

/// A page that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    mfn: Mfn,
    kind: FrameType,
}

/// What was sent last, of each pfn.
#[derive(Debug, Default)]
pub(crate) struct Verify {
    sent: Vec<Option<Sent>>, // by pfn
    /// Page tables, normalised.
    tables: BTreeMap<Pfn, Leaf>,
}

impl Verify {
    /// This page was sent.
    pub(crate) fn add(&mut self, pfn: Pfn, mfn: Mfn, kind: FrameType) {
        let at = pfn.0 as usize;
        if at >= self.sent.len() {
            self.sent.resize(at + 1, None);
        }
        self.sent[at] = Some(Sent { mfn, kind });
    }

    fn iter(&self) -> impl Iterator<Item = (Pfn, Sent)> + '_ {
        let sent = (0..).map(Pfn).zip(&self.sent);
        sent.filter_map(|(pfn, sent)| sent.map(|sent| (pfn, sent)))
    }

    /// Reads the page tables. One that can't be read, or is none any more, may be of a pfn that has
    /// lost its frame, which is said later: `write` tells.
    pub(crate) fn read_tables<P: Pages>(
        &mut self,
        pages: &mut P,
        view: &dyn TableView,
    ) -> Result<(), PortError> {
        let tables = self.iter().filter_map(|(pfn, sent)| match sent.kind {
            FrameType::Table { level, .. } => Some((pfn, sent, level)),
            _ => None,
        });
        for some in tables.collect::<Vec<_>>().chunks(BATCH) {
            let frames: Vec<Mfn> = some.iter().map(|(_, sent, _)| sent.mfn).collect();
            let batch = pages.map(&frames)?;
            let mut copies = Vec::new();
            for (index, &(pfn, _, level)) in some.iter().enumerate() {
                let Ok(live) = batch.page(index) else { continue };
                let mut copy = Leaf::default();
                live.fetch(&mut copy);
                copies.push(TableCopy::new(pfn, level, copy));
            }
            view.normalise_all(&mut copies);
            let normal = copies.into_iter().filter(|copy| copy.fault.is_none());
            self.tables.extend(normal.map(|copy| (copy.pfn, copy.words)));
        }
        Ok(())
    }

    /// Writes VERIFY and every page of `held` pfns. Forgets what was kept.
    pub(crate) fn write<P: Pages, S: Sink>(
        mut self,
        pages: &mut P,
        held: impl Fn(Pfn) -> bool,
        writer: &mut Writer<S>,
    ) -> Result<(), PortError> {
        writer.mark(RecordKind::Verify)?;
        let mut tables = std::mem::take(&mut self.tables);
        let sent: Vec<_> = self.iter().filter(|&(pfn, _)| held(pfn)).collect();
        for some in sent.chunks(BATCH) {
            let frames: Vec<Mfn> = some.iter().map(|(_, sent)| sent.mfn).collect();
            let batch = pages.map(&frames)?;
            let mut record = PageRecord::new();
            for (index, &(pfn, sent)) in some.iter().enumerate() {
                let word = Word::new(pfn, sent.kind.into());
                match (tables.remove(&pfn), sent.kind) {
                    (Some(table), _) => record.add_copy(word, table),
                    (None, FrameType::Table { .. }) => {
                        return Err(not_read(pfn, &"it is no page table any more"));
                    }
                    (None, _) => {
                        batch.page(index).map_err(|fault| not_read(pfn, &fault))?;
                        record.add_mapped(word, index);
                    }
                }
            }
            record.set_batch(batch);
            record.write(writer)?;
        }
        Ok(())
    }
}

fn not_read(pfn: Pfn, fault: &dyn fmt::Display) -> PortError {
    format!("pfn {:#x} can't be read once more to be verified: {fault}", pfn.0).into()
}
