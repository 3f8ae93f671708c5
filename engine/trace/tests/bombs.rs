// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small files that expand to gigabytes: they are refused as soon as a block is too long, and cost
//! no memory.
//! Not here: other faults of captures (`contradictions`), traces (`hostile`). One test, alone in
//! its process, as it measures the process's memory.
//! Units: bytes.
//! Threads: one.
//! Source: own; `VmHWM` of proc(5).

use std::cell::Cell;
use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::rc::Rc;

use liblzma::write::XzEncoder;
use p2mtrack_trace::import::{ImportError, import, import_in_memory, meta_of};
use p2mtrack_trace::raw::CaptureReader;
use p2mtrack_trace::{Limits, Reader, TraceError, Writer};

const MIB: u64 = 1 << 20;

/// The most memory that the process had.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<u64>().expect("a number") << 10
}

fn meta(pfn_count: u64) -> String {
    format!(
        r#"{{"format":"p2mraw 1","name":"n","width":64,"pfn_count":{pfn_count},"max_mfn":4096,
        "kernel":"k","xen":"x","walk":"linear","load":"","rounds":1}}"#
    )
}

fn header(kind: u32, round: u32, length: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &round.to_le_bytes(), &length.to_le_bytes()].concat()
}

fn block(kind: u32, round: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, round, payload.len() as u64);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// A round of one leaf without frames, whose log has this in every byte.
fn round_with(number: u32, log: u8) -> Vec<u8> {
    let roots = r#"{"max_pfn":512,"fll":0,"p2m_cr3":4096,"p2m_vaddr":0,"generation":4,
        "walk_max_pfn":512,"walk_generation":4}"#;
    let words =
        |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let mut bytes = block(2, number, roots.as_bytes());
    if number > 0 {
        bytes.extend(block(4, number, &[log; 4096]));
    }
    bytes.extend(block(3, number, roots.as_bytes()));
    bytes.extend(block(5, number, &words(&[60])));
    bytes.extend(block(6, number, &words(&[5])));
    bytes.extend(block(7, number, &words(&[4, 1, 11, 3, 2, 12, 2, 3, 13, 1, 4, 14])));
    bytes.extend(block(8, number, &words(&[u64::MAX; 512])));
    bytes.extend(block(9, number, &words(&[u64::MAX; 512])));
    bytes
}

fn round(number: u32) -> Vec<u8> {
    round_with(number, 0)
}

fn begun(pfn_count: u64) -> Vec<u8> {
    [&b"P2MRAW\0\x01"[..], &block(1, 0, meta(pfn_count).as_bytes())].concat()
}

/// Counts the bytes that are read.
struct Counted<R>(R, Rc<Cell<u64>>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(into)?;
        self.1.set(self.1.get() + read as u64);
        Ok(read)
    }
}

/// Reads all rounds. Returns the result, and how many bytes were read.
fn read_all(from: impl Read) -> (Result<u64, TraceError>, u64) {
    let count = Rc::new(Cell::new(0));
    let counted = Counted(from, Rc::clone(&count));
    let read = CaptureReader::new(counted, &Limits::default()).and_then(|mut reader| {
        let mut rounds = 0;
        while reader.next_round()?.is_some() {
            rounds += 1;
        }
        Ok(rounds)
    });
    (read, count.get())
}

/// A separate xz stream.
fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = XzEncoder::new(Vec::new(), 0);
    encoder.write_all(bytes).expect("writes");
    encoder.finish().expect("ends")
}

/// Imports a capture to a file, a round at a time.
fn import_file(from: &Path, to: &Path, limits: &Limits) -> Result<(), ImportError> {
    let mut reader = CaptureReader::open(from, limits).map_err(ImportError::Capture)?;
    let writer = Writer::create(to, &meta_of(reader.meta()));
    let mut writer = writer.map_err(ImportError::Trace)?;
    import(&mut reader, &mut writer)?;
    writer.commit().map_err(ImportError::Trace)
}

/// Both ways to import a file refuse it with these words.
fn refused(file: &Path, words: &str) {
    let limits = Limits::default();
    let out = file.with_extension("out");
    let errors = [import_file(file, &out, &limits).err(), import_in_memory(file, &limits).err()];
    for error in errors {
        let error = error.expect("a bomb");
        let cause = error.source().expect("a cause").to_string();
        assert!(cause.contains(words), "{words}: {error}: {cause}");
    }
    assert!(!out.exists());
}

#[test]
fn a_block_that_is_too_long_is_refused_at_once() {
    let zeros = compressed(&vec![0; 32 * MIB as usize]).repeat(160);
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("bomb.xz");
    let before = peak_bytes();
    endless_blocks();
    streams(&file, &zeros);
    many_rounds(&file);
    a_trace_larger_than_its_capture(&file);
    let grown = peak_bytes() - before;
    assert!(grown < 64 * MIB, "{grown} bytes");
}

/// A capture of a guest of one leaf.
fn with(parts: &[&[u8]]) -> Vec<u8> {
    [&begun(512)[..], &parts.concat()].concat()
}

/// The blocks of a round before one.
fn before(round: &[u8], kind: u32) -> &[u8] {
    let mut at = 0;
    while round[at..at + 4] != kind.to_le_bytes() {
        let length = u64::from_le_bytes(round[at + 8..at + 16].try_into().expect("8 bytes"));
        at += 16 + length.next_multiple_of(8) as usize;
    }
    &round[..at]
}

/// Each block in turn is longer than it can be, and so are the bytes after the last one. The input
/// is endless.
fn endless_blocks() {
    let (first, second) = (round(0), round(1));
    let huge = |kind| header(kind, 1, 6 << 30);
    let cut = |kind| (with(&[&first, before(&second, kind), &huge(kind)]), "of round 1: ");
    let mut cases: Vec<_> = (2..=9).map(cut).collect();
    cases.push(([&begun(512)[..8], &header(1, 0, 6 << 30)].concat(), "META: "));
    cases.push((with(&[&first, &block(10, 1, &[])]), "nothing after the last block"));
    cases.push((with(&[&first, &huge(10)]), "END: "));
    // A large count of pfns allocates nothing before the bytes arrive.
    let believed = [&begun(1 << 60)[..], &header(2, 0, 1 << 16)].concat();
    cases.push((believed, "ROOTS_BEFORE of round 0: "));
    let leaves = [&begun(1 << 60)[..], before(&first, 5), &header(5, 0, 1 << 30)].concat();
    cases.push((leaves, "LEAF_MFNS of round 0: "));
    for (start, place) in &cases {
        let (error, read) = read_all(start.as_slice().chain(io::repeat(0)));
        let error = error.expect_err("too long");
        assert!(error.to_string().contains(place), "{place} {error}");
        assert!(read < start.len() as u64 + (1 << 18), "{place} {read} bytes, {error}");
    }
    let (rounds, _) = read_all(with(&[&first, &second, &header(10, 2, 0)]).as_slice());
    assert_eq!(rounds.expect("whole"), 2);
    // The leaves need more blocks than a capture may have: none of them is read.
    let roots = round(0);
    let leaves = vec![0xff; 8 << 19];
    let start = [&begun(1 << 28)[..], before(&roots, 5), &block(5, 0, &leaves)].concat();
    let (error, read) = read_all(start.as_slice().chain(io::repeat(0xff)));
    let error = error.expect_err("too large");
    assert!(error.to_string().contains("LEAF_MFNS of round 0: "), "{error}");
    let cause = error.source().expect("a cause").to_string();
    assert_eq!(cause, "more than 4294967296 bytes");
    assert!(read < start.len() as u64 + (1 << 18), "{read} bytes");
}

/// 5 GiB of zeros, as xz streams one after another, in and after captures.
fn streams(file: &Path, zeros: &[u8]) {
    let write = |streams: &[&[u8]]| fs::write(file, streams.concat()).expect("writes");
    write(&[&compressed(&[&begun(512)[..8], &header(1, 0, 6 << 30)].concat()), zeros]);
    assert!(file.metadata().expect("size").len() < 2 * MIB);
    refused(file, "META: block length is 6442450944, expected at most 1048576");
    let first = round(0);
    let without_m2p = &first[..first.len() - 16 - 4096];
    write(&[&compressed(&with(&[without_m2p, &header(9, 0, 1 << 30)])), zeros]);
    refused(file, "M2P of round 0: expected an m2p value for each of ENTRIES");
    let sound = compressed(&with(&[&first, &block(10, 1, &[])]));
    write(&[&sound, zeros]);
    refused(file, "expected nothing after the last block");
    let empty = compressed(&[]);
    write(&[&empty, &sound, &empty, &empty]);
    import_in_memory(file, &Limits::default()).expect("whole, among empty streams");
    // A capture that is compressed twice is no capture.
    write(&[&compressed(&sound)]);
    refused(file, "expected the first bytes of a p2mraw 1 file");
    write(&[&lying(&sound)]);
    refused(file, "file can't be read or written");
}

/// Many rounds cost the memory of one.
fn many_rounds(file: &Path) {
    let mut encoder = XzEncoder::new(fs::File::create(file).expect("a file"), 0);
    encoder.write_all(&begun(512)).expect("writes");
    (0..6000).for_each(|number| encoder.write_all(&round(number)).expect("writes"));
    encoder.write_all(&block(10, 6000, &[])).expect("writes");
    encoder.finish().expect("ends");
    let trace = import_in_memory(file, &Limits::default()).expect("whole");
    let reader = Reader::from_vec(trace, Limits::default()).expect("opens");
    assert_eq!(reader.len(), 6000);
}

/// A log with every other bit set makes such a trace: its memory is bounded, too.
fn a_trace_larger_than_its_capture(file: &Path) {
    let many: Vec<u8> = (0..40).flat_map(|number| round_with(number, 0xaa)).collect();
    fs::write(file, with(&[&many, &block(10, 40, &[])])).expect("writes");
    let limits = Limits { capture_bytes: MIB, ..Limits::default() };
    let error = import_in_memory(file, &limits).expect_err("too large");
    let cause = error.source().and_then(Error::source).expect("a cause").to_string();
    assert_eq!(cause, "more than 262144 bytes: import the capture to a file");
    import_file(file, &file.with_extension("out"), &limits).expect("a file takes it");
}

/// The stream with a false uncompressed size in its index, under a sound checksum.
fn lying(stream: &[u8]) -> Vec<u8> {
    let mut bytes = stream.to_vec();
    // The footer's backward size counts the index in units of 4 bytes, less one.
    let footer = bytes.len() - 12;
    let units = u32::from_le_bytes(bytes[footer + 4..footer + 8].try_into().expect("4"));
    let index = footer - 4 * (units as usize + 1);
    // Indicator, number of records, then the two sizes of the first one as varints of 7 bits.
    let mut at = index + 2;
    while bytes[at] & 0x80 != 0 {
        at += 1;
    }
    bytes[at + 1] ^= 1;
    let end = footer - 4;
    let crc = crc32fast::hash(&bytes[index..end]);
    bytes[end..footer].copy_from_slice(&crc.to_le_bytes());
    bytes
}
