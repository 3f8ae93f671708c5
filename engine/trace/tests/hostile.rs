// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lengths that exceed what a file holds cost an error, and no memory.
//! Not here: other faults (`format`). One test, alone in its process, as it measures the process's
//! memory.
//! Units: bytes.
//! Threads: one.
//! Source: own; `VmPeak` of proc(5).

use p2mtrack_trace::format::{BlockHeader, BlockKind, Digest, file_header, padding_bytes};
use p2mtrack_trace::{Limits, Reader, TraceFault};

/// Largest size that the process's address space had.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).expect("VmPeak");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<u64>().expect("a number") << 10
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A sound container around one round with these payloads for UPPER, LEAVES, ENTRIES and M2P.
fn trace(meta: &str, payloads: [&[u8]; 4]) -> Vec<u8> {
    let mut bytes = file_header().to_vec();
    let mut digest = Digest::new();
    digest.update(&bytes);
    let mut put = |kind: BlockKind, round: u64, payload: &[u8], digest: &mut Digest| {
        let header = BlockHeader { kind: kind as u32, round, length: payload.len() as u64 };
        let head = header.encode(header.crc(payload));
        digest.update(&head);
        bytes.extend(head);
        bytes.extend(payload);
        bytes.resize(bytes.len() + padding_bytes(header.length) as usize, 0);
    };
    put(BlockKind::Meta, 0, meta.as_bytes(), &mut digest);
    put(BlockKind::Roots, 0, &[0; 80], &mut digest);
    let kinds = [BlockKind::Upper, BlockKind::Leaves, BlockKind::Entries, BlockKind::M2p];
    for (kind, payload) in kinds.into_iter().zip(payloads) {
        put(kind, 0, payload, &mut digest);
    }
    let end: Vec<u8> = [1, 6, digest.value()].iter().flat_map(|word| word.to_le_bytes()).collect();
    put(BlockKind::End, 1, &end, &mut digest);
    bytes
}

const META: &str =
    r#"{"name":"h","width":64,"pfn_count":1,"max_mfn":18446744073709551615,"flavour":"both"}"#;

#[test]
fn hostile_lengths_cost_an_error_and_no_memory() {
    let before = peak_bytes();
    let huge = varint(u64::MAX);
    let upper = [&varint(1 << 40)[..], &[0, 0, 0, 0]].concat();
    let nothing: [&[u8]; 4] = [&[0, 0, 0, 0, 0], &[0, 0, 0], &[0], &[0]];
    Reader::new(&trace(META, nothing), Limits::default()).expect("opens").verify().expect("empty");
    for (payload, at) in [(&huge, 0), (&upper, 0), (&huge, 1), (&huge, 2), (&huge, 3)] {
        let mut payloads = nothing;
        payloads[at] = payload;
        let bytes = trace(META, payloads);
        let reader = Reader::new(&bytes, Limits::default()).expect("opens");
        let error = reader.verify().expect_err("hostile");
        assert!(error.offset < bytes.len() as u64, "{error}");
    }
    // A run over more entries than the list has, and a frame with an endless run.
    for (payload, at) in [
        (&[&[1, 0][..], &varint(u64::MAX), &[0]].concat(), 2),
        (&[&[1, 1, 0, 0, 2, 1, 0, 0, 2, 0, 1, 0, 1, 0][..], &varint(1 << 40), &[0]].concat(), 0),
    ] {
        let mut payloads = nothing;
        payloads[at] = payload;
        let bytes = trace(META, payloads);
        let error = Reader::new(&bytes, Limits::default()).expect("opens").verify();
        let error = error.expect_err("hostile");
        assert!(matches!(error.fault, TraceFault::Limit { .. }), "{error}");
    }
    // Block lengths: each of the 64 bits of the first one.
    let sound = trace(META, nothing);
    for bit in 0..64 {
        let mut bytes = sound.clone();
        bytes[32 + bit / 8] ^= 1 << (bit % 8);
        assert!(Reader::new(&bytes, Limits::default()).is_err());
    }
    // A machine of too many frames is refused by a replay, not by a reader.
    let reader = Reader::new(&sound, Limits::default()).expect("opens");
    let error = p2mtrack_trace::Replay::new(&reader).expect_err("2^64 frames");
    assert!(matches!(error.fault, TraceFault::Limit { what: "frames of the machine", .. }));
    // A small payload that expands far exceeds the budget.
    let limits = Limits { work: 1 << 16, ..Limits::default() };
    let leaves = [&varint(1 << 10)[..], &[0, 0]].concat();
    let run = [&[1, 0][..], &varint(((1 << 19) - 1) << 2), &[2]].concat();
    let bytes = trace(META, [nothing[0], &leaves, &run, nothing[3]]);
    let error = Reader::new(&bytes, limits).expect("opens").verify().expect_err("work");
    assert!(matches!(error.fault, TraceFault::Limit { what: "work to decode", .. }), "{error}");
    let grown = peak_bytes() - before;
    assert!(grown < 64 << 20, "{grown} bytes");
}
