// SPDX-License-Identifier: MIT OR Apache-2.0
//! A receiver that reads real bytes and does as libxc's does.
//! Not here: what it then holds (`crate::receiver`), the rules of a stream (the checker's).
//! Units: whole records; of one that is cut nothing is taken.
//! Threads: one.
//! Source: libxc `xg_sr_restore.c`, `xg_sr_restore_x86_pv.c`: a word without a frame is only noted,
//! and the frame stays; here it goes, and is counted as left over.

use std::collections::BTreeSet;
use std::mem;

use p2mtrack::frame::{FrameType, Pfn};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::PortError;
use p2mtrack_stream::reader::{ReadFault, Reader};
use p2mtrack_stream::record::{RECORD_HEADER_BYTES, RecordKind, padding};
use p2mtrack_stream::word::{Word, WordKind};

use crate::receiver::{Receiver, Refusal};
use crate::words::Content;

/// Bytes of the two headers.
const HEADER_BYTES: usize = 40;

/// Reads a stream record by record.
#[derive(Debug, Default)]
pub(crate) struct StreamReceiver {
    has_headers: bool,
    /// The beginning of a record, whose rest may come.
    cut: Vec<u8>,
    /// Frames that libxc's receiver would keep although the source has none.
    pub(crate) left_over: BTreeSet<u64>,
}

/// What the receiver can't take.
#[derive(Debug)]
pub(crate) struct Fault(String);

impl Fault {
    fn unreadable(what: &str) -> Self {
        Self(format!("the receiver can't read {what}"))
    }
}

impl From<ReadFault> for Fault {
    fn from(fault: ReadFault) -> Self {
        Self(format!("the receiver: {fault:?}"))
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self(format!("the receiver refuses: {refusal:?}"))
    }
}

impl From<Fault> for PortError {
    fn from(fault: Fault) -> Self {
        fault.0.into()
    }
}

impl StreamReceiver {
    /// Whether it waits for the rest of a record.
    pub(crate) const fn waits(&self) -> bool {
        !self.cut.is_empty()
    }

    /// Takes the records that are whole.
    pub(crate) fn take(&mut self, bytes: &[u8], into: &mut Receiver) -> Result<(), Fault> {
        let mut joined = mem::take(&mut self.cut);
        let mut rest = bytes;
        if !joined.is_empty() {
            joined.extend(bytes);
            rest = &joined;
        }
        if !self.has_headers && !bytes.is_empty() {
            rest = bytes.get(HEADER_BYTES..).ok_or_else(|| Fault::unreadable("the headers"))?;
            self.has_headers = true;
        }
        while rest.len() >= RECORD_HEADER_BYTES {
            let mut reader = Reader::new(rest);
            let header = reader.record_header()?;
            let whole = RECORD_HEADER_BYTES + header.length as usize + padding(header.length);
            if rest.len() < whole {
                break;
            }
            match RecordKind::of(header.number) {
                Some(RecordKind::PageData) => self.page_data(&mut reader, into)?,
                Some(RecordKind::P2mFrames) => {
                    let body = &rest[RECORD_HEADER_BYTES..][..header.length as usize];
                    list(body, into);
                }
                _ => {}
            }
            rest = &rest[whole..];
        }
        self.cut = rest.to_vec();
        Ok(())
    }

    fn page_data(&mut self, reader: &mut Reader<&[u8]>, into: &mut Receiver) -> Result<(), Fault> {
        let mut head = [0; 8];
        reader.fill("a count", &mut head)?;
        let count = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let mut words = Vec::new();
        reader.words(count as usize, &mut words)?;
        for word in words {
            self.word(word, reader, into)?;
        }
        Ok(())
    }

    fn word(
        &mut self,
        word: Word,
        reader: &mut Reader<&[u8]>,
        into: &mut Receiver,
    ) -> Result<(), Fault> {
        let pfn = word.pfn();
        match word.kind() {
            Some(WordKind::Data) => {
                let mut page = Leaf::default();
                reader.table(&mut page)?;
                into.take_data(pfn.0, FrameType::Data, Content::of_page(&page))?;
                self.left_over.remove(&pfn.0);
            }
            Some(WordKind::Table { level, pinned }) => {
                let mut words = Box::new(Leaf::default());
                reader.table(&mut words)?;
                into.take_table(pfn.0, FrameType::Table { level, pinned }, words)?;
                self.left_over.remove(&pfn.0);
            }
            Some(WordKind::Absent) => {
                if into.get(pfn.0).is_some() {
                    self.left_over.insert(pfn.0);
                }
                into.take_gone(&[pfn]);
            }
            other => return Err(Fault(format!("the receiver got {other:?} for {pfn}"))),
        }
        Ok(())
    }
}

fn list(body: &[u8], into: &mut Receiver) {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
    let (range, leaves) = body.split_at(8);
    let leaves: Vec<_> = leaves.chunks_exact(8).map(|leaf| Some(Pfn(number(leaf)))).collect();
    into.take_list(number(&range[4..]) + 1, &leaves);
}
