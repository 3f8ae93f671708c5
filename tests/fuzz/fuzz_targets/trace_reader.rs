// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files from anywhere: traces, read, written again and replayed through a tracker; captures, read
//! and imported.
//! Not here: decompression (liblzma's), mapped files (`Reader::open`).
//! Units: the first byte of an input selects what the rest is; limits are small, so that an input
//! is fast.
//! Threads: one.
//! Source: rules of `p2mtrack_trace::format` and `raw`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2mtrack::config::{Config, Rewalk};
use p2mtrack::monitor::Monitor;
use p2mtrack_trace::format::{
    BLOCK_HEADER_BYTES, BlockHeader, BlockKind, Digest, FILE_HEADER_BYTES, file_header,
    padding_bytes,
};
use p2mtrack_trace::raw::{Capture, CaptureReader};
use p2mtrack_trace::{Limits, Reader, Replay, TraceError, Writer, import, naive};

const LIMITS: Limits = Limits {
    entries: 1 << 13,
    log_dirty_pfns: 1 << 16,
    upper_frames: 64,
    machine_frames: 1 << 14,
    work: 1 << 17,
    capture_bytes: 1 << 20,
};

fuzz_target!(|bytes: &[u8]| {
    let Some((&what, rest)) = bytes.split_first() else { return };
    match what % 4 {
        0 => trace(rest),
        1 => capture(rest),
        _ => trace(&sealed(rest)),
    }
});

/// The same file with correct checksums, so that an input gets past their check.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() < FILE_HEADER_BYTES {
        return bytes;
    }
    bytes[..FILE_HEADER_BYTES].copy_from_slice(&file_header());
    let mut digest = Digest::new();
    digest.update(&bytes[..FILE_HEADER_BYTES]);
    let (mut at, mut blocks) = (FILE_HEADER_BYTES, 0_u64);
    while let Some(head) = bytes.get(at..at + BLOCK_HEADER_BYTES) {
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let (kind, round, length) = (word(0) as u32, word(8), word(16));
        let start = at + BLOCK_HEADER_BYTES;
        let left = (bytes.len() - start) as u64;
        if length > left {
            break;
        }
        let end = start + length as usize;
        if kind == BlockKind::End as u32 && length == 24 {
            bytes[start..start + 8].copy_from_slice(&round.to_le_bytes());
            bytes[start + 8..start + 16].copy_from_slice(&blocks.to_le_bytes());
            bytes[start + 16..end].copy_from_slice(&digest.value().to_le_bytes());
        }
        let header = BlockHeader { kind, round, length };
        let head = header.encode(header.crc(&bytes[start..end]));
        bytes[at..start].copy_from_slice(&head);
        digest.update(&head);
        blocks += 1;
        at = end.saturating_add(padding_bytes(length) as usize);
    }
    bytes
}

fn trace(bytes: &[u8]) {
    let reader = match Reader::new(bytes, LIMITS) {
        Ok(reader) => reader,
        Err(error) => return expect_named(&error, bytes.len()),
    };
    if let Err(error) = reader.verify() {
        return expect_named(&error, bytes.len());
    }
    write_again(&reader);
    if let Err(error) = replay(&reader) {
        expect_named(&error, bytes.len());
    }
    if let Err(error) = naive::expected(&reader) {
        expect_named(&error, bytes.len());
    }
}

fn expect_named(error: &TraceError, length: usize) {
    assert!(!error.to_string().is_empty());
    assert!(error.offset <= length as u64, "{error}: past the end of {length} bytes");
}

/// A file that can be read can be written again, and then reads the same.
fn write_again(reader: &Reader<'_>) {
    let mut writer = Writer::new(Vec::new(), reader.meta()).expect("a META that was read");
    let mut rounds = reader.rounds();
    while rounds.advance().expect("verified") {
        writer.round(rounds.round()).expect("a round that was read");
    }
    let bytes = writer.finish().expect("memory takes it");
    let again = Reader::new(&bytes, LIMITS).expect("what was written can be read");
    let (mut rounds, mut copies) = (reader.rounds(), again.rounds());
    while rounds.advance().expect("verified") {
        if copies.advance().is_err() {
            return; // another encoding of the same data may exceed the limit
        }
        assert_eq!(rounds.round(), copies.round());
    }
}

/// As `p2mtrack replay` does.
fn replay(reader: &Reader<'_>) -> Result<(), TraceError> {
    let mut replay = Replay::new(reader)?;
    let mut ports = replay.ports();
    let config = Config { rewalk: Rewalk::EveryRound, ..Config::default() };
    let mut monitor = Monitor::new(config, replay.meta().width).expect("no threads to start");
    loop {
        let mut nobody = ();
        let (mut guest, log_dirty) = ports.lend(&mut nobody);
        if let Err(error) = monitor.observe(&mut guest, log_dirty, |_, _| ()) {
            assert!(!error.to_string().is_empty());
        }
        if !replay.advance()? {
            return Ok(());
        }
    }
}

fn capture(bytes: &[u8]) {
    if let Err(error) = Capture::parse(bytes.to_vec()) {
        return expect_named(&error, bytes.len());
    }
    let mut reader = CaptureReader::new(bytes, &LIMITS).expect("begins: it was read");
    let meta = import::meta_of(reader.meta());
    let mut writer = Writer::new(Vec::new(), &meta).expect("a META that was read");
    match import::import(&mut reader, &mut writer) {
        Ok(()) => trace(&writer.finish().expect("memory takes it")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
