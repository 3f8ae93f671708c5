// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams from anywhere, checked: bytes as they come, or a good stream with a few choices made
//! otherwise. What must hold of the checker's answer is asserted.
//! Not here: which rule a certain fault breaks (`stream_rules`).
//! Units: bytes.
//! Threads: one.
//! Source: Xen `tools/python/xen/migration/libxc.py` for what its verifier demands, written a
//! second time below.

use std::io::{self, Read};

use p2mtrack::frame::Width;
use p2mtrack_stream::check::{Broken, Rule, Summary, Unreadable, check};
use p2mtrack_stream::container::Format;
use p2mtrack_stream::record::{RecordKind, padding};
use p2mtrack_stream::word::WordKind;

use crate::choices::Choices;
use crate::sample_stream::{Record, Stream, page, page_data, pfns, pte};

/// Checks a stream of these choices.
///
/// # Panics
/// If an answer of the checker breaks a law.
pub fn drive(mut choices: Choices<'_>) {
    let width = choices.pick(&[Width::W64, Width::W32]);
    let stream = made(&mut choices, width);
    let mut bytes = match choices.below(8) {
        0 => stream.libxl(),
        1 => stream.xl(b"{}"),
        _ => stream.libxc(),
    };
    for _ in 0..choices.below(4) {
        let at = choices.below(bytes.len() as u64) as usize;
        bytes[at] ^= choices.below(256) as u8;
    }
    if choices.once_in(8) {
        bytes.truncate(choices.below(bytes.len() as u64) as usize);
    }
    hold(&bytes);
}

/// A good stream with changes.
fn made(choices: &mut Choices<'_>, width: Width) -> Stream {
    let mut stream = if choices.once_in(4) { Stream::remus(width) } else { Stream::good(width) };
    for _ in 0..choices.below(6) {
        let at = choices.below(stream.records.len() as u64) as usize;
        match choices.below(6) {
            0 => drop(stream.records.remove(at)),
            1 => {
                let record = stream.records[at].clone();
                let to = choices.below(stream.records.len() as u64) as usize;
                stream.records.insert(to, record);
            }
            2 => stream.records.insert(at, pages(choices, width)),
            3 => stream.records.insert(at, list(choices, width)),
            4 => {
                let body = &mut stream.records[at].body;
                let length = choices.below(body.len() as u64 + 9) as usize;
                body.resize(length, 0);
            }
            _ => stream.records[at].number = choices.below(24) as u32,
        }
        if stream.records.is_empty() {
            break;
        }
    }
    stream
}

fn pages(choices: &mut Choices<'_>, width: Width) -> Record {
    let parts: Vec<_> = (0..choices.below(5))
        .map(|_| {
            let pfn = choices.below(pfns(width) + 4);
            let kind = match choices.below(6) {
                0 => WordKind::Data,
                1 => WordKind::Absent,
                2 => WordKind::Allocated,
                3 => WordKind::Broken,
                _ => WordKind::Table {
                    level: 1 + choices.below(4) as u8,
                    pinned: choices.once_in(2),
                },
            };
            let slot = choices.below(512) as usize;
            (pfn, kind, page(&[(slot, pte(choices.below(pfns(width) + 4)))]))
        })
        .collect();
    page_data(&parts)
}

fn list(choices: &mut Choices<'_>, width: Width) -> Record {
    let entries = width.entries() as u64;
    let (first, leaves) = (choices.below(4), 1 + choices.below(4));
    let end = (first + leaves) * entries - 1 - choices.below(3);
    let mut body = ((first * entries) as u32).to_le_bytes().to_vec();
    body.extend((end as u32).to_le_bytes());
    for _ in 0..leaves {
        body.extend(choices.below(16).to_le_bytes());
    }
    Record::new(RecordKind::P2mFrames, body)
}

/// An answer of the checker.
type Answer = Result<(Summary, Vec<Broken>), ()>;

fn answer(input: impl Read, format: Option<Format>) -> Answer {
    let mut broken = Vec::new();
    match check(input, format, &mut |found| broken.push(found)) {
        Ok(summary) => Ok((summary, broken)),
        Err(Unreadable::Unknown) => Err(()),
        Err(Unreadable::Io(fault)) => panic!("memory can be read: {fault}"),
    }
}

/// Gives a few bytes at a time.
struct Slow<'b>(&'b [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let some = into.len().min(1 + self.0.len() % 4093);
        self.0.read(&mut into[..some])
    }
}

/// What holds of any bytes.
///
/// # Panics
/// If it does not.
pub fn hold(bytes: &[u8]) {
    let Ok((summary, broken)) = answer(bytes, None) else {
        return assert!(bytes.len() < 8 || Format::of(bytes[..8].try_into().expect("8")).is_none());
    };
    assert_eq!(answer(Slow(bytes), None), Ok((summary, broken.clone())), "read slowly");
    assert_eq!(summary.broken, broken.len() as u64);
    assert!(broken.iter().all(|found| found.offset <= bytes.len() as u64), "past the end");
    assert!(summary.tables <= summary.pfns && summary.pages * 4096 <= bytes.len() as u64);
    if summary.format == Format::Libxc {
        let is_good = verified(bytes);
        let is_broken_off = summary.checkpoints > 0 && is_good == Err("truncated");
        assert!(!broken.is_empty() || is_good.is_ok() || is_broken_off, "{is_good:?}");
        in_libxl(bytes, &summary, &broken);
    }
}

/// In a libxl stream the same rules are broken, 24 bytes later.
fn in_libxl(bytes: &[u8], summary: &Summary, broken: &[Broken]) {
    if summary.checkpoints > 0 {
        return; // records of libxl's would have to follow
    }
    let mut wrapped = b"LibxlFmt\0\0\0\x02\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
    wrapped.extend(bytes);
    let (_, found) = answer(&wrapped[..], None).expect("begins as libxl's stream");
    let is_inner = |found: &&Broken| {
        !matches!(found.rule, Rule::AfterEnd | Rule::Truncated | Rule::Padding)
            && !found.rule.name().starts_with("libxl")
    };
    let inner: Vec<_> = found
        .iter()
        .filter(is_inner)
        .map(|found| (found.offset - 24, found.rule, found.words.as_str()))
        .collect();
    let bare: Vec<_> = broken
        .iter()
        .filter(is_inner)
        .map(|found| (found.offset, found.rule, found.words.as_str()))
        .collect();
    assert_eq!(inner, bare, "in a libxl stream");
}

/// What Xen's own verifier says of a libxc stream.
fn verified(bytes: &[u8]) -> Result<(), &'static str> {
    let mut left = bytes;
    let image = take(&mut left, 24)?;
    let domain = take(&mut left, 16)?;
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |n, &b| n << 8 | u64::from(b));
    ensure(image[..12] == *b"\xff\xff\xff\xff\xff\xff\xff\xffXENF", "marker or id")?;
    ensure(matches!(image[12..16], [0, 0, 0, 2 | 3]), "version")?;
    ensure(image[16..] == [0; 8], "options or reserved")?;
    ensure(matches!(domain[0], 1 | 2) && domain[1..4] == [0; 3], "domain type")?;
    ensure(domain[4..8] == [12, 0, 0, 0], "page shift or reserved")?;
    loop {
        let head = take(&mut left, 8)?;
        let kind = RecordKind::of(number(&head[..4]) as u32).ok_or("unknown record")?;
        let length = number(&head[4..]) as usize;
        let body = take(&mut left, length)?;
        let pad = take(&mut left, padding(length as u32))?;
        ensure(pad.iter().all(|&byte| byte == 0), "padding")?;
        body_verified(kind, body, image[15] >= 3)?;
        if kind == RecordKind::End {
            return Ok(());
        }
    }
}

fn body_verified(kind: RecordKind, body: &[u8], is_3: bool) -> Result<(), &'static str> {
    use RecordKind as Kind;
    let length = body.len();
    let number = |at: usize| {
        body.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().expect("4")))
    };
    match kind {
        Kind::End | Kind::Verify | Kind::Checkpoint => ensure(length == 0, "length"),
        Kind::StaticDataEnd => ensure(length == 0 && is_3, "length or version"),
        Kind::CpuidPolicy => ensure(is_3 && length >= 24 && length.is_multiple_of(24), "policy"),
        Kind::MsrPolicy => ensure(is_3 && length >= 16 && length.is_multiple_of(16), "policy"),
        Kind::PvInfo => ensure(
            length == 8 && matches!((body[0], body[1]), (4 | 8, 3 | 4)) && body[2..] == [0; 6],
            "X86_PV_INFO",
        ),
        Kind::P2mFrames => ensure(length >= 8 && length.is_multiple_of(8), "X86_PV_P2M_FRAMES"),
        Kind::VcpuBasic | Kind::VcpuExtended | Kind::VcpuXsave | Kind::VcpuMsrs => {
            ensure(length >= 8 && number(4) == 0, "vCPU")
        }
        Kind::SharedInfo => ensure(length == 4096, "SHARED_INFO"),
        Kind::TscInfo => ensure(length == 24 && number(20) == 0, "X86_TSC_INFO"),
        Kind::PageData => {
            ensure(length > 8 && number(4) == 0, "PAGE_DATA")?;
            let count = number(0) as usize;
            ensure((length - 8) / 8 >= count, "words")?;
            let words = body[8..8 + 8 * count].chunks_exact(8);
            let words = words.map(|word| u64::from_le_bytes(word.try_into().expect("8")));
            let mut pages = 0;
            for word in words {
                ensure(word & 0x0ff0_0000_0000_0000 == 0, "reserved bits")?;
                ensure(!(5..=8).contains(&(word >> 60)), "type")?;
                pages += usize::from(word >> 60 & 7 <= 4);
            }
            ensure(length == 8 + 8 * count + 4096 * pages, "pages")
        }
        // Of HVM guests, or refused by the verifier, too.
        Kind::HvmContext | Kind::HvmParams => Ok(()),
        Kind::Toolstack | Kind::CheckpointDirtyPfnList => Err("refused"),
    }
}

fn ensure(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}

fn take<'b>(left: &mut &'b [u8], bytes: usize) -> Result<&'b [u8], &'static str> {
    let (first, rest) = left.split_at_checked(bytes).ok_or("truncated")?;
    *left = rest;
    Ok(first)
}
