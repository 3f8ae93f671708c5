// SPDX-License-Identifier: MIT OR Apache-2.0
//! A libxc stream that is being checked: its headers, and one record after the other.
//! Not here: what each kind of record has to be (a file each), what is around the stream
//! (`containers`).
//! Units: offsets in bytes from the first one of the outermost container.
//! Threads: one.
//! Source: Xen `docs/specs/libxc-migration-stream.pandoc`; the stream is hostile.

use std::io::Read;

use p2mtrack::frame::{FRAME_BYTES, Pfn, Width};
use p2mtrack::leaf::Leaf;

use crate::check::arrived::Arrived;
use crate::check::order::Order;
use crate::check::point::{self, Looks};
use crate::check::rule::{Findings, Rule};
use crate::check::vcpus::Vcpus;
use crate::check::{list, pages};
use crate::header::{ID, MARKER, PAGE_SHIFT, TYPE_PV, VERSIONS, little};
use crate::reader::{ReadFault, Reader, RecordHeader};
use crate::record::{BODY_BYTES_MAX, OPTIONAL, RecordKind};
use crate::word::{Word, WordKind};

/// Why reading stops before the end.
#[derive(Debug)]
pub(super) enum Halt {
    /// As in [`ReadFault`].
    Read(ReadFault),
    /// What follows can't be understood; the rule that says why was reported.
    Lost,
}

impl From<ReadFault> for Halt {
    fn from(fault: ReadFault) -> Self {
        Self::Read(fault)
    }
}

/// A stream that is being checked.
pub(super) struct Libxc<'r, R> {
    pub(super) reader: Reader<R>,
    pub(super) findings: Findings<'r>,
    pub(super) order: Order,
    pub(super) arrived: Arrived,
    vcpus: Vcpus,
    pub(super) version: u32,
    looks: Looks,
    /// X86_PV_INFO came.
    has_width: bool,
    body: Vec<u8>,
    words: Vec<Word>,
}

impl<'r, R: Read> Libxc<'r, R> {
    /// A stream that begins with the next byte of `reader`.
    pub(super) fn new(reader: Reader<R>, findings: Findings<'r>) -> Self {
        Self {
            reader,
            findings,
            order: Order::new(),
            arrived: Arrived::new(),
            vcpus: Vcpus::default(),
            version: 0,
            looks: Looks::default(),
            has_width: false,
            body: Vec::new(),
            words: Vec::new(),
        }
    }

    /// The two headers of the libxc stream.
    pub(super) fn headers(&mut self) -> Result<(), Halt> {
        let offset = self.reader.offset();
        let image = self.reader.image_header()?;
        let mut expect = |holds, at, rule, what: &str, found: u64| {
            let found = format_args!("{what} is {found:#x}");
            self.findings.expect(holds, offset + at, rule, found)
        };
        let is_image =
            expect(image.marker == MARKER, 0, Rule::ImageMarker, "the marker", image.marker)
                & expect(image.id == ID, 8, Rule::ImageId, "the id", image.id.into());
        let is_known = VERSIONS.contains(&image.version);
        let is_known =
            expect(is_known, 12, Rule::ImageVersion, "the version", image.version.into());
        let is_little =
            expect(image.options == 0, 16, Rule::ImageOptions, "options", image.options.into());
        expect(image.reserved == 0, 18, Rule::ImageReserved, "a reserved field", image.reserved);
        if !is_image || !is_known || !is_little && image.options & 1 != 0 {
            return Err(Halt::Lost);
        }
        self.version = image.version;
        self.order.set_version(image.version);
        let offset = self.reader.offset();
        let domain = self.reader.domain_header()?;
        let mut expect = |holds, at, rule, what: &str, found: u64| {
            let found = format_args!("{what} is {found:#x}");
            self.findings.expect(holds, offset + at, rule, found)
        };
        let kind = domain.domain_type;
        let is_pv = expect(kind == TYPE_PV, 0, Rule::DomainType, "the type", kind.into());
        let shift = domain.page_shift;
        expect(shift == PAGE_SHIFT, 4, Rule::DomainPageShift, "the page shift", shift.into());
        let reserved = domain.reserved;
        expect(reserved == 0, 6, Rule::DomainReserved, "a reserved field", reserved.into());
        if is_pv { Ok(()) } else { Err(Halt::Lost) }
    }

    /// Records up to one that hands the line back to libxl.
    pub(super) fn part(&mut self) -> Result<RecordKind, Halt> {
        loop {
            if let Some(kind @ (RecordKind::End | RecordKind::Checkpoint)) = self.record()? {
                return Ok(kind);
            }
        }
    }

    /// One record of the libxc stream; `None` if the format does not know it.
    fn record(&mut self) -> Result<Option<RecordKind>, Halt> {
        let offset = self.reader.offset();
        let header = self.reader.record_header()?;
        let RecordHeader { number, length } = header;
        let found = format_args!("a record has {length:#x} bytes");
        if !self.findings.expect(length <= BODY_BYTES_MAX, offset, Rule::RecordLength, found) {
            return Err(Halt::Lost);
        }
        let kind = RecordKind::of(number);
        match kind {
            Some(kind) => {
                self.order.begin(&mut self.findings, offset, kind);
                self.known(offset, kind, length)?;
            }
            None => {
                let rule =
                    if number & OPTIONAL == 0 { Rule::RecordKnown } else { Rule::RecordOptional };
                self.findings.add(
                    offset,
                    rule,
                    format_args!("a record has the number {number:#x}"),
                );
                self.reader.skip("a record's body", length.into())?;
            }
        }
        let at = self.reader.offset();
        let is_zero = self.reader.padding(length)?;
        self.findings.expect(is_zero, at, Rule::Padding, "the padding of a record is not zeros");
        if let Some(kind @ (RecordKind::End | RecordKind::Checkpoint)) = kind {
            let has_first = self.vcpus.has_first();
            self.order.end_state(&mut self.findings, offset, kind, has_first);
            let (arrived, looks) = (&mut self.arrived, &mut self.looks);
            point::check(arrived, &self.vcpus, looks, &mut self.findings);
            self.vcpus = Vcpus::default();
        }
        Ok(kind)
    }

    /// The body of a record that the format knows.
    fn known(&mut self, offset: u64, kind: RecordKind, length: u32) -> Result<(), Halt> {
        use RecordKind as Kind;
        match kind {
            Kind::PageData => return self.page_data(offset, length),
            Kind::HvmContext | Kind::HvmParams | Kind::Toolstack | Kind::CheckpointDirtyPfnList => {
                self.findings.add(offset, Rule::RecordPv, format_args!("{} came", kind.name()));
                return Ok(self.reader.skip("a record's body", length.into())?);
            }
            _ => {}
        }
        let mut body = std::mem::take(&mut self.body);
        self.reader.body("a record's body", length as usize, &mut body)?;
        self.body_of(offset, kind, &body);
        self.body = body;
        Ok(())
    }

    fn body_of(&mut self, offset: u64, kind: RecordKind, body: &[u8]) {
        use RecordKind as Kind;
        let (name, length) = (kind.name(), body.len());
        let mut expect_length = |holds: bool, words: &str| {
            let found = format_args!("{name} has {length} bytes, not {words}");
            self.findings.expect(holds, offset, Rule::BodyLength, found)
        };
        match kind {
            Kind::PvInfo => {
                if expect_length(length == 8, "8") {
                    self.pv_info(offset, body);
                }
            }
            Kind::P2mFrames => list::take(&mut self.arrived, &mut self.findings, offset, body),
            Kind::VcpuBasic | Kind::VcpuExtended | Kind::VcpuXsave | Kind::VcpuMsrs => {
                let width = self.arrived.width;
                self.vcpus.take(&mut self.findings, offset, width, kind, body);
            }
            Kind::SharedInfo => {
                expect_length(length == FRAME_BYTES, "4096");
            }
            Kind::TscInfo => {
                if expect_length(length == 24, "24") {
                    let reserved = little(&body[20..]);
                    let found = format_args!("{name} has {reserved:#x} in its reserved field");
                    self.findings.expect(reserved == 0, offset, Rule::Reserved, found);
                }
            }
            Kind::CpuidPolicy => {
                let is_whole = length > 0 && length.is_multiple_of(24);
                expect_length(is_whole, "a multiple of 24, 0 excepted");
            }
            Kind::MsrPolicy => {
                let is_whole = length > 0 && length.is_multiple_of(16);
                expect_length(is_whole, "a multiple of 16, 0 excepted");
            }
            _ => {
                expect_length(length == 0, "0");
            }
        }
    }

    fn pv_info(&mut self, offset: u64, body: &[u8]) {
        let reserved = little(&body[2..]);
        let found = format_args!("X86_PV_INFO has {reserved:#x} in its reserved fields");
        self.findings.expect(reserved == 0, offset, Rule::Reserved, found);
        // A second one was reported; the list is counted by the first one's width.
        let is_first = !std::mem::replace(&mut self.has_width, true);
        match (body[0], body[1]) {
            (8, 4) if is_first => self.arrived.width = Width::W64,
            (4, 3) if is_first => self.arrived.width = Width::W32,
            (8, 4) | (4, 3) => {}
            (width, levels) => {
                let found = format_args!("X86_PV_INFO has width {width} and {levels} levels");
                self.findings.add(offset, Rule::PvInfoWidth, found);
            }
        }
    }

    fn page_data(&mut self, offset: u64, length: u32) -> Result<(), Halt> {
        let mut head = [0; 8];
        let found = format_args!("PAGE_DATA has {length} bytes, not 8 or more");
        if !self.findings.expect(length >= 8, offset, Rule::BodyLength, found) {
            return Ok(self.reader.skip("a record's body", length.into())?);
        }
        self.reader.fill("the head of a PAGE_DATA record", &mut head)?;
        let (count, reserved) = (little(&head[..4]), little(&head[4..]));
        let found = format_args!("PAGE_DATA has {reserved:#x} in its reserved field");
        self.findings.expect(reserved == 0, offset, Rule::Reserved, found);
        let left = u64::from(length) - 8;
        let found = format_args!("PAGE_DATA has {count} words in {left} bytes");
        if !self.findings.expect(count > 0 && 8 * count <= left, offset, Rule::PageCount, found) {
            return Ok(self.reader.skip("a record's body", left)?);
        }
        let at = self.reader.offset();
        let mut words = std::mem::take(&mut self.words);
        self.reader.words(count as usize, &mut words)?;
        let is_verify = self.order.is_verify;
        pages::take_words(&mut self.arrived, &mut self.findings, at, &words, is_verify);
        let left = left - 8 * count;
        let taken = self.pages_of(offset, &words, left);
        self.words = words;
        taken
    }

    /// The pages of a record with these words, which have `left` bytes.
    fn pages_of(&mut self, offset: u64, words: &[Word], left: u64) -> Result<(), Halt> {
        let page_bytes = FRAME_BYTES as u64;
        let has_page = |word: &&Word| word.kind().is_some_and(WordKind::has_page);
        let pages = words.iter().filter(has_page).count() as u64;
        // How long the page of a word without a type is, nothing says.
        let all_typed = words.iter().all(|word| word.kind().is_some());
        if left != pages * page_bytes {
            let found = format_args!("PAGE_DATA has {left} bytes for {pages} pages");
            self.findings.expect(!all_typed, offset, Rule::PageCount, found);
            return Ok(self.reader.skip("a record's pages", left)?);
        }
        let mut unread = 0;
        for word in words.iter().filter(has_page) {
            let Some(WordKind::Table { level, .. }) = word.kind() else {
                unread += page_bytes;
                continue;
            };
            self.reader.skip("a page", unread)?;
            unread = 0;
            self.table(word.pfn(), level)?;
        }
        self.reader.skip("a page", unread)?;
        self.arrived.pages += pages;
        Ok(())
    }

    fn table(&mut self, pfn: Pfn, level: u8) -> Result<(), Halt> {
        let offset = self.reader.offset();
        let mut table = Leaf::default();
        self.reader.table(&mut table)?;
        // A pfn that is not listed was reported, and is not followed.
        if pfn.0 < self.arrived.list.pfns {
            let is_verify = self.order.is_verify;
            let (arrived, findings) = (&mut self.arrived, &mut self.findings);
            pages::take_table(arrived, findings, offset, (pfn, level), &table, is_verify);
        }
        Ok(())
    }
}
