// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes the records of a PV guest's stream, version 3.
//! Not here: which records come when (the caller's), which leaves a list names (`frame_list`).
//! Units: pfns; a record is padded to a multiple of 8 bytes.
//! Threads: one.
//! Source: Xen `docs/specs/libxc-migration-stream.pandoc`, revision 3. No record is optional: after
//! a CHECKPOINT a stock receiver fails at one (`xen-migrate.md` 0.5).

use std::io;

use p2mtrack::frame::{FRAME_BYTES, Pfn, Width};

use crate::header::{DomainHeader, ImageHeader};
use crate::record::{BODY_BYTES_MAX, RecordKind, padding};
use crate::sink::{Piece, Sink};
use crate::word::{Word, WordKind};

/// A guest's time stamp counter, as in X86_TSC_INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TscInfo {
    /// Xen's TSC mode.
    pub mode: u32,
    /// Its frequency.
    pub khz: u32,
    /// Elapsed time.
    pub nsec: u64,
    /// How often it changed.
    pub incarnation: u32,
}

/// A stream that is being written. What it counts may be read at any time. After a write that
/// failed, every other one fails, too: the receiver may have got a part of a record.
#[derive(Debug)]
pub struct Writer<S> {
    sink: S,
    /// Bytes that the sink took.
    pub bytes: u64,
    /// Records that the sink took.
    pub records: u64,
    /// The head of a record, and its words; kept, so that a record needs no memory of its own.
    head: Vec<u8>,
    /// Records that are written together.
    gathered: Option<Vec<u8>>,
    /// A write failed, perhaps amid a record: nothing that follows could be read.
    broken: bool,
}

impl<S: Sink> Writer<S> {
    /// A writer to this sink. Nothing is written yet.
    pub const fn new(sink: S) -> Self {
        Self { sink, bytes: 0, records: 0, head: Vec::new(), gathered: None, broken: false }
    }

    /// The sink.
    pub const fn sink(&self) -> &S {
        &self.sink
    }

    /// The sink: what it is given itself is not counted.
    pub const fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// Nothing may follow what was written: it is not whole.
    pub const fn break_off(&mut self) {
        self.broken = true;
    }

    /// Whether nothing more can be written.
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Ends, and returns the sink.
    pub fn into_sink(self) -> S {
        self.sink
    }

    /// Writes all records that `write` writes in one call of the sink: small ones cost more than
    /// their bytes. If one of them fails, none is written.
    ///
    /// # Errors
    /// Those of `write`, and the sink's.
    pub fn at_once<E: From<io::Error>>(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let (bytes, records) = (self.bytes, self.records);
        if let Some(length) = self.gathered.as_ref().map(Vec::len) {
            let written = write(self); // with those around it, or not at all
            if let (true, Some(gathered)) = (written.is_err(), &mut self.gathered) {
                gathered.truncate(length);
                (self.bytes, self.records) = (bytes, records);
            }
            return written;
        }
        let gathering = Gathering::begin(self);
        let written = write(gathering.0);
        let gathered = gathering.end();
        let sent = std::mem::replace(&mut self.records, records);
        self.bytes = bytes;
        written?;
        self.put(gathered.len(), &mut std::iter::once(Piece::Own(&gathered)))?;
        self.records = sent;
        Ok(())
    }

    /// Writes the two headers.
    ///
    /// # Errors
    /// The sink's, as with all that follow.
    pub fn headers(&mut self, xen: (u32, u32)) -> io::Result<()> {
        let (image, domain) = (ImageHeader::WRITTEN.encode(), DomainHeader::pv(xen).encode());
        let pieces = [Piece::Own(&image), Piece::Own(&domain)];
        self.put(image.len() + domain.len(), &mut pieces.into_iter())
    }

    /// X86_PV_INFO.
    ///
    /// # Errors
    /// The sink's.
    pub fn pv_info(&mut self, width: Width) -> io::Result<()> {
        let (bytes, levels) = match width {
            Width::W64 => (8, 4),
            Width::W32 => (4, 3),
        };
        self.record(RecordKind::PvInfo, &[&[bytes, levels, 0, 0, 0, 0, 0, 0]])
    }

    /// X86_CPUID_POLICY, leaves of 24 bytes; without any there is no record.
    ///
    /// # Errors
    /// The sink's.
    pub fn cpuid_policy(&mut self, leaves: &[u8]) -> io::Result<()> {
        self.unless_empty(RecordKind::CpuidPolicy, leaves)
    }

    /// X86_MSR_POLICY, MSRs of 16 bytes; without any there is no record.
    ///
    /// # Errors
    /// The sink's.
    pub fn msr_policy(&mut self, msrs: &[u8]) -> io::Result<()> {
        self.unless_empty(RecordKind::MsrPolicy, msrs)
    }

    fn unless_empty(&mut self, kind: RecordKind, body: &[u8]) -> io::Result<()> {
        if body.is_empty() { Ok(()) } else { self.record(kind, &[body]) }
    }

    /// STATIC_DATA_END.
    ///
    /// # Errors
    /// The sink's.
    pub fn static_data_end(&mut self) -> io::Result<()> {
        self.record(RecordKind::StaticDataEnd, &[])
    }

    /// X86_PV_P2M_FRAMES for the pfns from 0 to `last`: a pfn for each of their leaves.
    ///
    /// # Errors
    /// The sink's.
    pub fn p2m_frames(&mut self, last: u32, leaves: &[Pfn]) -> io::Result<()> {
        let length = 8 + 8 * leaves.len();
        self.begin(RecordKind::P2mFrames, length)?;
        self.head.extend(0_u32.to_le_bytes());
        self.head.extend(last.to_le_bytes());
        leaves.iter().for_each(|leaf| self.head.extend(leaf.0.to_le_bytes()));
        self.end(length, &mut std::iter::empty())
    }

    /// PAGE_DATA: words, at least one, each pfn at most once; and for each word with a page that
    /// page, in the same order.
    ///
    /// # Errors
    /// The sink's.
    ///
    /// # Panics
    /// If there are not as many pages as words that have one.
    pub fn page_data<'p>(
        &mut self,
        words: &[Word],
        pages: impl ExactSizeIterator<Item = Piece<'p>>,
    ) -> io::Result<()> {
        let with_page = |word: &&Word| word.kind().is_some_and(WordKind::has_page);
        assert_eq!(words.iter().filter(with_page).count(), pages.len(), "a page for each word");
        let length = 8 + 8 * words.len() + FRAME_BYTES * pages.len();
        self.begin(RecordKind::PageData, length)?;
        self.head.extend((words.len() as u32).to_le_bytes());
        self.head.extend([0; 4]);
        words.iter().for_each(|word| self.head.extend(word.0.to_le_bytes()));
        self.end(length, &mut { pages })
    }

    /// X86_TSC_INFO.
    ///
    /// # Errors
    /// The sink's.
    pub fn tsc_info(&mut self, tsc: &TscInfo) -> io::Result<()> {
        let TscInfo { mode, khz, nsec, incarnation } = *tsc;
        let numbers = [mode, khz, nsec as u32, (nsec >> 32) as u32, incarnation, 0];
        let mut body = [0; 24];
        for (into, number) in body.chunks_exact_mut(4).zip(numbers) {
            into.copy_from_slice(&number.to_le_bytes());
        }
        self.record(RecordKind::TscInfo, &[&body])
    }

    /// SHARED_INFO.
    ///
    /// # Errors
    /// The sink's.
    pub fn shared_info(&mut self, page: &[u8; FRAME_BYTES]) -> io::Result<()> {
        self.record(RecordKind::SharedInfo, &[page])
    }

    /// One of the four records of a vCPU.
    ///
    /// # Errors
    /// The sink's.
    pub fn vcpu(&mut self, kind: RecordKind, id: u32, context: &[u8]) -> io::Result<()> {
        let id = u64::from(id).to_le_bytes();
        self.record(kind, &[&id, context])
    }

    /// VERIFY, CHECKPOINT or END: a record without a body.
    ///
    /// # Errors
    /// The sink's.
    pub fn mark(&mut self, kind: RecordKind) -> io::Result<()> {
        self.record(kind, &[])
    }

    /// A record with a body of own bytes.
    fn record(&mut self, kind: RecordKind, body: &[&[u8]]) -> io::Result<()> {
        let length = body.iter().map(|part| part.len()).sum();
        self.begin(kind, length)?;
        body.iter().for_each(|part| self.head.extend(*part));
        self.end(length, &mut std::iter::empty())
    }

    /// Begins a record: its header is in `head`.
    fn begin(&mut self, kind: RecordKind, length: usize) -> io::Result<()> {
        if length > BODY_BYTES_MAX as usize {
            let words = format!("{} of {length} bytes is too long", kind.name());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        self.head.clear();
        self.head.extend((kind as u32).to_le_bytes());
        self.head.extend((length as u32).to_le_bytes());
        Ok(())
    }

    /// Writes `head`, what follows it, and the padding behind a body of this length.
    fn end(&mut self, length: usize, rest: &mut dyn Iterator<Item = Piece<'_>>) -> io::Result<()> {
        let zeros = &[0; 8][..padding(length as u32)];
        let head = std::mem::take(&mut self.head);
        let mut pieces = std::iter::once(Piece::Own(&head))
            .chain(rest.map(shorter))
            .chain((!zeros.is_empty()).then_some(Piece::Own(zeros)));
        let written = self.put(8 + length + zeros.len(), &mut pieces);
        self.head = head;
        self.records += u64::from(written.is_ok());
        written
    }

    fn put(&mut self, bytes: usize, pieces: &mut dyn Iterator<Item = Piece<'_>>) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "a write before this one failed",
            ));
        }
        if let Some(gathered) = &mut self.gathered {
            self.bytes += bytes as u64;
            return gathered.write(pieces);
        }
        self.broken = true; // until the sink has said otherwise
        self.sink.write(pieces)?;
        self.broken = false;
        self.bytes += bytes as u64;
        Ok(())
    }
}

/// A writer that gathers. If it is not ended (a panic), what was gathered is lost, and counted:
/// nothing may follow.
struct Gathering<'a, S>(&'a mut Writer<S>);

impl<'a, S> Gathering<'a, S> {
    fn begin(writer: &'a mut Writer<S>) -> Self {
        writer.gathered = Some(Vec::new());
        Self(writer)
    }

    fn end(self) -> Vec<u8> {
        self.0.gathered.take().unwrap_or_default()
    }
}

impl<S> Drop for Gathering<'_, S> {
    fn drop(&mut self) {
        self.0.broken |= self.0.gathered.take().is_some();
    }
}

/// The same piece, for a shorter time.
const fn shorter<'s, 'p: 's>(piece: Piece<'p>) -> Piece<'s> {
    piece
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack::leaf::Leaf;

    /// Takes so many calls.
    struct Takes(u32);

    impl Sink for Takes {
        fn write(&mut self, _: &mut dyn Iterator<Item = Piece<'_>>) -> io::Result<()> {
            self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
            Ok(())
        }
    }

    #[test]
    fn nothing_follows_a_write_that_failed() {
        let mut writer = Writer::new(Takes(1));
        writer.pv_info(Width::W64).expect("taken");
        let full = writer.mark(RecordKind::End).expect_err("full");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        writer.sink_mut().0 = 9;
        let broken = writer.mark(RecordKind::End).expect_err("broken");
        assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!((writer.bytes, writer.records), (16, 1));
    }

    #[test]
    fn records_at_once_are_one_write_or_none() {
        let write = |writer: &mut Writer<Vec<u8>>| {
            writer.pv_info(Width::W64)?;
            writer.tsc_info(&TscInfo { khz: 7, ..TscInfo::default() })?;
            let page = Leaf { words: [5; 512] };
            let words = [Word::new(Pfn(3), WordKind::Data)];
            writer.page_data(&words, std::iter::once(Piece::Own(bytemuck::cast_slice(&page.words))))
        };
        let (mut one, mut each) = (Writer::new(Vec::new()), Writer::new(Vec::new()));
        write(&mut each).expect("memory");
        one.at_once(write).expect("memory");
        assert_eq!((one.bytes, one.records), (each.bytes, each.records));
        assert_eq!(&one.into_sink(), each.sink());
        let mut nested = Writer::new(Vec::new());
        nested.at_once(|writer| writer.at_once(write)).expect("memory");
        assert_eq!((nested.bytes, nested.records), (each.bytes, each.records));
        assert_eq!(nested.into_sink(), each.sink().clone());
        let mut some = Writer::new(Vec::new());
        some.at_once(|writer| {
            writer.pv_info(Width::W64)?;
            let fails = writer.at_once(|writer| {
                writer.mark(RecordKind::End)?;
                Err(io::Error::from(io::ErrorKind::NotFound))
            });
            assert!(fails.is_err());
            Ok::<_, io::Error>(())
        })
        .expect("memory");
        assert_eq!((some.bytes, some.records, some.sink().len()), (16, 1, 16));
        let mut counted = Writer::new(Takes(1));
        counted
            .at_once(|writer| {
                writer.pv_info(Width::W64)?;
                writer.mark(RecordKind::End)
            })
            .expect("one call");
        let fails = |writer: &mut Writer<Takes>| {
            writer.mark(RecordKind::End)?;
            Err(io::Error::from(io::ErrorKind::NotFound))
        };
        assert_eq!(counted.at_once(fails).expect_err("fails").kind(), io::ErrorKind::NotFound);
        assert_eq!((counted.bytes, counted.records, counted.is_broken()), (24, 2, false));
        counted.at_once(|writer| writer.mark(RecordKind::End)).expect_err("full");
        assert!(counted.is_broken());
        assert_eq!((counted.bytes, counted.records), (24, 2));
    }

    #[test]
    fn nothing_follows_a_panic_amid_records_that_were_gathered() {
        let mut writer = Writer::new(Vec::new());
        let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            writer.at_once(|writer| -> io::Result<()> {
                writer.mark(RecordKind::End)?;
                panic!("amid the records")
            })
        }));
        panics.expect_err("it panics");
        writer.mark(RecordKind::End).expect_err("broken");
        assert!(writer.sink().is_empty());
    }

    #[test]
    fn a_body_that_is_too_long_is_not_begun() {
        let mut writer = Writer::new(Takes(9));
        let long = vec![0; BODY_BYTES_MAX as usize + 1];
        writer.vcpu(RecordKind::VcpuXsave, 0, &long).expect_err("too long");
        writer.mark(RecordKind::End).expect("nothing is broken");
    }
}
