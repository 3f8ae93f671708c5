// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small PV guest's stream, record by record, so that a test can break any part of it.
//! Not here: rules.
//! Units: pfns; page tables hold pfns.
//! Threads: plain values.
//! Source: the specification; what `xl save` of a real guest writes has the same records.

use p2mtrack::frame::{Pfn, Width};
use p2mtrack_stream::check::{Broken, Rule, Summary, check};
use p2mtrack_stream::container::{Format, LibxlHeader, LibxlRecord, XlHeader};
use p2mtrack_stream::record::{RecordKind, padding};
use p2mtrack_stream::vcpu::basic_bytes;
use p2mtrack_stream::word::{Word, WordKind};
use p2mtrack_stream::writer::{TscInfo, Writer};

/// A record as it is on the wire, before padding.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number.
    pub number: u32,
    /// Its body.
    pub body: Vec<u8>,
    /// Its length, if the header is to lie.
    pub length: Option<u32>,
    /// What pads it.
    pub pad: u8,
}

/// A stream in parts.
#[derive(Clone, Debug)]
pub struct Stream {
    /// The image header.
    pub image: [u8; 24],
    /// The domain header.
    pub domain: [u8; 16],
    /// Its records, in order.
    pub records: Vec<Record>,
    /// Bytes behind everything.
    pub rest: Vec<u8>,
}

/// Pfns that the guest's list covers: two leaves.
pub const fn pfns(width: Width) -> u64 {
    2 * width.entries() as u64
}

/// start_info: data.
pub const START_INFO: u64 = 1;
/// A frame of vCPU 0's GDT: data.
pub const GDT: u64 = 2;
/// A page table of level 1.
pub const L1: u64 = 3;
/// A page table of level 2.
pub const L2: u64 = 4;
/// A page table of level 3.
pub const L3: u64 = 5;
/// A page table of level 4; data in a 32-bit guest.
pub const L4: u64 = 6;
/// The user page table of vCPU 0; data in a 32-bit guest.
pub const USER: u64 = 7;
/// A pfn without a frame.
pub const ABSENT: u64 = 8;
/// A frame without contents.
pub const ALLOCATED: u64 = 9;
/// The leaves of the p2m.
pub const LEAVES: [u64; 2] = [10, 11];

/// A present PTE that names a pfn.
pub fn pte(pfn: u64) -> u64 {
    pfn << 12 | 0x67
}

/// A page with these words, and zeros.
pub fn page(words: &[(usize, u64)]) -> Vec<u8> {
    let mut page = vec![0; 4096];
    for &(slot, word) in words {
        page[8 * slot..8 * slot + 8].copy_from_slice(&word.to_le_bytes());
    }
    page
}

/// A PAGE_DATA record.
pub fn page_data(parts: &[(u64, WordKind, Vec<u8>)]) -> Record {
    let mut body = (parts.len() as u32).to_le_bytes().to_vec();
    body.extend([0; 4]);
    for &(pfn, kind, _) in parts {
        body.extend(Word::new(Pfn(pfn), kind).0.to_le_bytes());
    }
    for (_, kind, page) in parts {
        if kind.has_page() {
            body.extend(page);
        }
    }
    Record::new(RecordKind::PageData, body)
}

/// A page table that is not pinned.
pub fn table(level: u8) -> WordKind {
    WordKind::Table { level, pinned: false }
}

/// The pages of the guest.
pub fn parts(width: Width) -> Vec<(u64, WordKind, Vec<u8>)> {
    let pinned = |level| WordKind::Table { level, pinned: true };
    let mut parts = vec![
        (START_INFO, WordKind::Data, page(&[(0, 1)])),
        (GDT, WordKind::Data, page(&[])),
        (L1, table(1), page(&[(0, pte(START_INFO)), (1, pte(GDT)), (2, 5 << 12)])),
        (L2, table(2), page(&[(0, pte(L1))])),
    ];
    match width {
        Width::W64 => parts.extend([
            (L3, table(3), page(&[(511, pte(L2))])),
            (L4, pinned(4), page(&[(511, pte(L3))])),
            (USER, pinned(4), page(&[(0, pte(L3))])),
        ]),
        Width::W32 => parts.extend([
            (L3, pinned(3), page(&[(3, pte(L2))])),
            (L4, WordKind::Data, page(&[])),
            (USER, WordKind::Data, page(&[])),
        ]),
    }
    parts.extend([
        (ABSENT, WordKind::Absent, vec![]),
        (ALLOCATED, WordKind::Allocated, vec![]),
        (LEAVES[0], WordKind::Data, page(&[(3, 99)])),
        (LEAVES[1], WordKind::Data, page(&[])),
    ]);
    parts
}

/// Offsets in a vCPU's registers: edx, GDT's frames and entries, control registers.
pub const fn registers(width: Width) -> [usize; 4] {
    match width {
        Width::W64 => [616, 4832, 4960, 4984],
        Width::W32 => [524, 2640, 2704, 2716],
    }
}

/// A BASIC context.
pub fn basic(width: Width) -> Vec<u8> {
    let mut context = vec![0; basic_bytes(width)];
    let word = width.bits() as usize / 8;
    let mut put = |at: usize, value: u64| {
        context[at..at + word].copy_from_slice(&value.to_le_bytes()[..word]);
    };
    let [edx, frames, entries, ctrlreg] = registers(width);
    put(edx, START_INFO);
    put(frames, GDT);
    put(entries, 512);
    match width {
        Width::W64 => {
            put(ctrlreg + 3 * word, L4 << 12);
            put(ctrlreg + word, USER << 12 | 1);
        }
        Width::W32 => put(ctrlreg + 3 * word, L3 << 12),
    }
    context
}

/// A vCPU's record.
pub fn vcpu(kind: RecordKind, id: u32, context: &[u8]) -> Record {
    let mut body = id.to_le_bytes().to_vec();
    body.extend([0; 4]);
    body.extend(context);
    Record::new(kind, body)
}

/// An EXTENDED context.
pub fn extended(id: u32) -> Vec<u8> {
    let mut context = vec![0; 96];
    context[..4].copy_from_slice(&id.to_le_bytes());
    context[4..8].copy_from_slice(&96_u32.to_le_bytes());
    context
}

impl Record {
    /// A record of this kind.
    pub fn new(kind: RecordKind, body: Vec<u8>) -> Self {
        Self { number: kind as u32, body, length: None, pad: 0 }
    }

    fn put(&self, into: &mut Vec<u8>) {
        let length = self.length.unwrap_or(self.body.len() as u32);
        into.extend(self.number.to_le_bytes());
        into.extend(length.to_le_bytes());
        into.extend(&self.body);
        into.extend(vec![self.pad; padding(self.body.len() as u32)]);
    }
}

impl Stream {
    /// A stream that breaks no rule, as the writer writes it.
    pub fn good(width: Width) -> Self {
        let bytes = written(width);
        let mut records = Vec::new();
        let mut rest = &bytes[40..];
        while !rest.is_empty() {
            let number = u32::from_le_bytes(rest[..4].try_into().expect("a number"));
            let length = u32::from_le_bytes(rest[4..8].try_into().expect("a length"));
            let (body, after) = rest[8..].split_at(length as usize);
            records.push(Record { number, body: body.to_vec(), length: None, pad: 0 });
            rest = &after[padding(length)..];
        }
        Self {
            image: bytes[..24].try_into().expect("a header"),
            domain: bytes[24..40].try_into().expect("a header"),
            records,
            rest: Vec::new(),
        }
    }

    /// The same, with a checkpoint before the end.
    pub fn remus(width: Width) -> Self {
        let mut stream = Self::good(width);
        let state = stream.place(RecordKind::TscInfo);
        let tail = stream.records[state..].to_vec();
        stream.records.pop();
        stream.records.push(Record::new(RecordKind::Checkpoint, vec![]));
        stream.records.push(page_data(&parts(width)[..1]));
        stream.records.extend(tail);
        stream
    }

    /// Where the first record of this kind is.
    ///
    /// # Panics
    /// If there is none.
    pub fn place(&self, kind: RecordKind) -> usize {
        let of_kind = |record: &Record| record.number == kind as u32;
        self.records.iter().position(of_kind).expect("a record")
    }

    /// The first record of this kind.
    pub fn record(&mut self, kind: RecordKind) -> &mut Record {
        let at = self.place(kind);
        &mut self.records[at]
    }

    /// Puts a record before the first one of this kind.
    pub fn insert(&mut self, before: RecordKind, record: Record) {
        let at = self.place(before);
        self.records.insert(at, record);
    }

    /// Removes the first record of this kind.
    pub fn remove(&mut self, kind: RecordKind) -> Record {
        let at = self.place(kind);
        self.records.remove(at)
    }

    /// Its records, one by one.
    pub fn bodies(&self) -> Vec<Vec<u8>> {
        let body = |record: &Record| {
            let mut bytes = Vec::new();
            record.put(&mut bytes);
            bytes
        };
        self.records.iter().map(body).collect()
    }

    /// By itself.
    pub fn libxc(&self) -> Vec<u8> {
        let mut bytes = self.image.to_vec();
        bytes.extend(self.domain);
        bytes.extend(self.bodies().concat());
        bytes.extend(&self.rest);
        bytes
    }

    /// In a libxl stream.
    pub fn libxl(&self) -> Vec<u8> {
        let mut bytes = LibxlHeader::WRITTEN.encode().to_vec();
        bytes.extend(libxl_record(LibxlRecord::LibxcContext));
        bytes.extend(self.image);
        bytes.extend(self.domain);
        for (record, body) in self.records.iter().zip(self.bodies()) {
            bytes.extend(body);
            if record.number == RecordKind::Checkpoint as u32 {
                bytes.extend(libxl_record(LibxlRecord::CheckpointEnd));
            }
        }
        bytes.extend(libxl_record(LibxlRecord::End));
        bytes.extend(&self.rest);
        bytes
    }

    /// In a file of xl's.
    pub fn xl(&self, json: &[u8]) -> Vec<u8> {
        let mut bytes = XlHeader::encode(Some(json.len() as u32)).to_vec();
        bytes.extend((json.len() as u32).to_le_bytes());
        bytes.extend(json);
        bytes.extend(self.libxl());
        bytes
    }
}

/// A libxl record without a body.
pub fn libxl_record(record: LibxlRecord) -> Vec<u8> {
    let mut bytes = (record as u32).to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes
}

/// The guest's stream by the writer.
///
/// # Panics
/// If the writer miscounts.
pub fn written(width: Width) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    write(&mut writer, width).expect("memory takes everything");
    let written = (writer.bytes, writer.records);
    let bytes = writer.into_sink();
    assert_eq!(written, (bytes.len() as u64, 15));
    bytes
}

fn write(writer: &mut Writer<Vec<u8>>, width: Width) -> std::io::Result<()> {
    use p2mtrack_stream::sink::Piece;
    writer.headers((4, 17))?;
    writer.pv_info(width)?;
    writer.cpuid_policy(&[0; 48])?;
    writer.msr_policy(&[0; 16])?;
    writer.static_data_end()?;
    writer.p2m_frames(pfns(width) as u32 - 1, &LEAVES.map(Pfn))?;
    let parts = parts(width);
    let words: Vec<_> = parts.iter().map(|part| Word::new(Pfn(part.0), part.1)).collect();
    let pages: Vec<_> =
        parts.iter().filter(|part| part.1.has_page()).map(|part| Piece::Own(&part.2)).collect();
    writer.page_data(&words, pages.into_iter())?;
    let tsc = TscInfo { mode: 1, khz: 2_000_000, nsec: 1 << 40, incarnation: 2 };
    writer.tsc_info(&tsc)?;
    writer.shared_info(&[7; 4096])?;
    for id in [0, 2] {
        writer.vcpu(RecordKind::VcpuBasic, id, &basic(width))?;
        writer.vcpu(RecordKind::VcpuExtended, id, &extended(id))?;
    }
    writer.vcpu(RecordKind::VcpuXsave, 2, &[0; 576])?;
    writer.vcpu(RecordKind::VcpuMsrs, 2, &[0; 32])?;
    writer.mark(RecordKind::End)
}

/// What the checker says.
///
/// # Panics
/// If the bytes begin as no stream does.
pub fn checked(bytes: &[u8], format: Option<Format>) -> (Summary, Vec<Broken>) {
    let mut broken = Vec::new();
    let summary = check(bytes, format, &mut |found| broken.push(found)).expect("readable");
    assert_eq!(summary.broken, broken.len() as u64);
    (summary, broken)
}

/// The rules that it breaks, each once.
pub fn rules(bytes: &[u8], format: Option<Format>) -> Vec<Rule> {
    let mut rules: Vec<_> = checked(bytes, format).1.iter().map(|found| found.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}
