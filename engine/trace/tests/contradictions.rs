// SPDX-License-Identifier: MIT OR Apache-2.0
//! Captures that contradict themselves: the error names what was read, where, and what contradicts
//! it.
//! Not here: sound captures (`captures`), the cost of large ones (`bombs`).
//! Units: offsets in bytes; blocks by their place in the file, META first.
//! Threads: one.
//! Source: the format's table in `tests/traces/README.md`.

use std::error::Error;

use p2mtrack_trace::import::{ImportError, import, meta_of};
use p2mtrack_trace::raw::{Capture, CaptureReader};
use p2mtrack_trace::{Limits, NONE, TraceError, Writer};
use proptest::prelude::*;

/// A block: type, round, and a payload.
type Block = (u32, u32, Vec<u8>);

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn roots(more: &str) -> Vec<u8> {
    let roots = r#""max_pfn":1024,"fll":77,"p2m_cr3":4096,"p2m_vaddr":0,"generation":4"#;
    format!("{{{roots}{more}}}").into_bytes()
}

/// Two rounds of a guest of two leaves.
fn sound(width: u32) -> Vec<Block> {
    let entries = if width == 64 { 1024 } else { 2048 };
    let meta = format!(
        r#"{{"format":"p2mraw 1","name":"n","width":{width},"pfn_count":1024,"max_mfn":4096,
        "kernel":"k","xen":"x","walk":"linear","load":"","rounds":1}}"#
    );
    let mut blocks = vec![(1, 0, meta.into_bytes())];
    for round in 0..2 {
        let count = if width == 64 { 1024 } else { 2048 };
        let walk = format!(r#","walk_max_pfn":{count},"walk_generation":6"#);
        let upper = [4, 1, 11, 3, 2, 12, 2, 3, 13, 1, 4, 14];
        blocks.push((2, round, roots("")));
        if round > 0 {
            blocks.push((4, round, vec![0; 4096]));
        }
        blocks.push((3, round, roots(&walk)));
        blocks.push((5, round, words(&[60, 61])));
        blocks.push((6, round, words(&[5, 6])));
        blocks.push((7, round, words(&upper[if width == 64 { 0 } else { 3 }..])));
        blocks.push((
            8,
            round,
            words(&vec![if width == 64 { NONE } else { 0xffff_ffff }; entries]),
        ));
        blocks.push((9, round, words(&vec![NONE; entries])));
    }
    blocks.push((10, 2, Vec::new()));
    blocks
}

/// The file, and where each block begins.
fn file(blocks: &[Block]) -> (Vec<u8>, Vec<u64>) {
    let mut bytes = b"P2MRAW\0\x01".to_vec();
    let starts = blocks.iter().map(|(kind, round, payload)| {
        let start = bytes.len() as u64;
        bytes.extend(kind.to_le_bytes());
        bytes.extend(round.to_le_bytes());
        bytes.extend((payload.len() as u64).to_le_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        start
    });
    let starts = starts.collect();
    (bytes, starts)
}

/// Imports a whole file.
fn imported(bytes: &[u8]) -> Result<(), ImportError> {
    let reader = CaptureReader::new(bytes, &Limits::default());
    let mut reader = reader.map_err(ImportError::Capture)?;
    let writer = Writer::new(Vec::new(), &meta_of(reader.meta()));
    import(&mut reader, &mut writer.map_err(ImportError::Trace)?)
}

/// Why a file makes no trace: an error of the capture.
fn fault(bytes: &[u8]) -> TraceError {
    match imported(bytes).expect_err("no trace") {
        ImportError::Capture(error) => error,
        error @ ImportError::Trace(_) => panic!("{error}"),
    }
}

/// The block of a round by its type.
fn at(blocks: &mut [Block], kind: u32, round: u32) -> (usize, &mut Vec<u8>) {
    let index = blocks.iter().position(|block| (block.0, block.1) == (kind, round));
    let index = index.expect("a block");
    (index, &mut blocks[index].2)
}

fn set(payload: &mut [u8], word: usize, value: u64) {
    payload[8 * word..8 * word + 8].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn each_error_names_what_was_read_and_where_and_what_contradicts_it() {
    type Break = fn(&mut Vec<u8>);
    /// Offsets: of the length in the header, of the first byte of the payload.
    const LENGTH: u64 = 8;
    const PAYLOAD: u64 = 16;
    let cases: [(u32, u32, u64, Break, &str); 24] = [
        (
            2,
            1,
            PAYLOAD,
            |p| *p = b"[1]".to_vec(),
            "ROOTS_BEFORE of round 1: expected a JSON object with the fields of this block",
        ),
        (
            3,
            0,
            PAYLOAD,
            |p| p.truncate(30),
            "ROOTS_AFTER of round 0: expected a JSON object with the fields of this block",
        ),
        (
            3,
            1,
            LENGTH,
            |p| p.resize(70_000, b' '),
            "ROOTS_AFTER of round 1: block length is 70000, expected at most 65536",
        ),
        (
            4,
            1,
            LENGTH,
            |p| p.resize(8200, 0),
            "LOGDIRTY of round 1: expected a log-dirty bitmap of the guest's pfns: 0x2008 bytes of log for a count of 0x400 pfns",
        ),
        (
            5,
            0,
            LENGTH,
            |p| p.extend(words(&[62])),
            "LEAF_MFNS of round 0: expected no more than the pfns can have: 0x3 leaves, where 0x400 pfns, the largest count so far, can have 0x2",
        ),
        (5, 1, LENGTH, |p| p.truncate(13), "LEAF_MFNS of round 1: expected 64-bit words"),
        (
            5,
            1,
            PAYLOAD,
            |p| set(p, 0, 4096),
            "LEAF_MFNS of round 1: expected a machine frame below the count of META: mfn 0x1000, where META has 0x1000 frames",
        ),
        (
            5,
            0,
            PAYLOAD,
            |p| set(p, 0, 1),
            "LEAF_PFNS of round 0: expected one pfn for a frame in all its places: mfn 0x1 has 0x5 here and 0xb before",
        ),
        (
            6,
            0,
            LENGTH,
            |p| p.truncate(8),
            "LEAF_PFNS of round 0: expected a pfn for each leaf of LEAF_MFNS: number of words is 0x1, 0x2 leaves need 0x2",
        ),
        (7, 0, LENGTH, |p| p.truncate(16), "UPPER of round 0: expected triples of words"),
        (
            7,
            1,
            LENGTH,
            |p| p.resize(24 * 67, 0),
            "UPPER of round 1: expected no more than the pfns can have: 0x43 upper frames, where 0x400 pfns, the largest count so far, can have 0x42",
        ),
        (
            7,
            0,
            PAYLOAD,
            |p| p.truncate(48),
            "UPPER of round 0: expected frames that lead to the leaves of LEAF_MFNS: level 1 needs 1 frames, 0 are listed",
        ),
        (
            7,
            0,
            PAYLOAD + 96,
            |p| p.extend(words(&[9, 8, 8])),
            "UPPER of round 0: expected a level of page tables (1 to 4) or of the tree (2, 3): mfn 0x8 is of level 9",
        ),
        (
            7,
            0,
            PAYLOAD + 96,
            |p| p.extend(words(&[2, 3, 13])),
            "UPPER of round 0: expected each upper frame once: mfn 0x3 is there before",
        ),
        (
            8,
            1,
            LENGTH,
            |p| p.extend(words(&[7])),
            "ENTRIES of round 1: expected whole leaves, as many as LEAF_MFNS: number of words is 0x401, 0x2 leaves need 0x400",
        ),
        (
            9,
            0,
            LENGTH,
            |p| p.truncate(8),
            "M2P of round 0: expected an m2p value for each of ENTRIES: number of words is 0x1, 0x2 leaves need 0x400",
        ),
        (
            9,
            1,
            PAYLOAD + 56,
            |p| set(p, 7, 9),
            "M2P of round 1: expected no m2p value where ENTRIES has no frame: 0x9 for pfn 0x7, whose entry is 0xffffffffffffffff",
        ),
        (10, 2, LENGTH, |p| p.push(0), "END: bytes of the last block is 0x1, expected 0x0"),
        (
            1,
            0,
            PAYLOAD,
            |p| p.truncate(20),
            "META: expected a JSON object with the fields of this block",
        ),
        (1, 0, PAYLOAD, |p| p[18] = b'2', "META: expected format p2mraw 1"),
        (
            1,
            0,
            LENGTH,
            |p| p.resize((1 << 20) + 1, b' '),
            "META: block length is 1048577, expected at most 1048576",
        ),
        (
            5,
            1,
            PAYLOAD,
            |p| set(p, 1, 60),
            "LEAF_PFNS of round 1: expected one pfn for a frame in all its places: mfn 0x3c has 0x6 here and 0x5 before",
        ),
        (
            5,
            0,
            PAYLOAD,
            |p| set(p, 0, NONE),
            "LEAF_PFNS of round 0: expected no pfn where there is no leaf: leaf 0x0 has no frame, and pfn 0x5",
        ),
        (6, 1, PAYLOAD, |p| set(p, 0, 5), ""),
    ];
    for (kind, round, offset, breaks, text) in cases {
        let mut blocks = sound(64);
        let (index, payload) = at(&mut blocks, kind, round);
        breaks(payload);
        let (bytes, starts) = file(&blocks);
        if text.is_empty() {
            imported(&bytes).expect("nothing was changed");
            continue;
        }
        let error = fault(&bytes);
        let said = error.to_string();
        assert!(said.starts_with(&format!("byte {}: {text}", error.offset)), "{said}\n{text}");
        // A change of LEAF_MFNS may be a fault of LEAF_PFNS: its offset is in the later block.
        if !(kind == 5 && text.starts_with("LEAF_PFNS")) {
            assert_eq!(error.offset, starts[index] + offset, "{said}");
        }
    }
}

#[test]
fn entries_of_a_shared_leaf_and_of_none_are_named_to_the_word() {
    let mut blocks = sound(64);
    *at(&mut blocks, 5, 1).1 = words(&[60, 60]);
    *at(&mut blocks, 6, 1).1 = words(&[5, 5]);
    let (index, entries) = at(&mut blocks, 8, 1);
    set(entries, 600, 50);
    set(at(&mut blocks, 9, 1).1, 600, 600);
    let (bytes, starts) = file(&blocks);
    let error = fault(&bytes);
    let said = "ENTRIES of round 1: expected the same entries wherever one frame is a leaf: leaves 0x0 and 0x1 are \
                mfn 0x3c, with 0xffffffffffffffff and 0x32 in slot 0x58";
    assert_eq!(error.to_string(), format!("byte {}: {said}", starts[index] + 16 + 8 * 600));
    *at(&mut blocks, 5, 1).1 = words(&[60, NONE]);
    *at(&mut blocks, 6, 1).1 = words(&[5, NONE]);
    let error = fault(&file(&blocks).0);
    let said = "ENTRIES of round 1: expected only invalid entries where there is no leaf: leaf 0x1 has no frame, \
                and 0x32 in slot 0x58";
    assert_eq!(error.to_string(), format!("byte {}: {said}", starts[index] + 16 + 8 * 600));
    let mut blocks = sound(32);
    imported(&file(&blocks).0).expect("sound");
    let (index, entries) = at(&mut blocks, 8, 0);
    set(entries, 3, 1 << 32);
    let (bytes, starts) = file(&blocks);
    let said = "ENTRIES of round 0: expected entries of 32 bits, as META has the guest's width: 0x100000000 for pfn 0x3";
    assert_eq!(fault(&bytes).to_string(), format!("byte {}: {said}", starts[index] + 40));
}

#[test]
fn blocks_that_are_missing_or_in_a_wrong_place_are_named() {
    let next = |change: fn(&mut Vec<Block>), index: usize, said: &str| {
        let mut blocks = sound(64);
        change(&mut blocks);
        let (bytes, starts) = file(&blocks);
        let error = fault(&bytes);
        assert_eq!(error.to_string(), format!("byte {}: {said}", starts[index]));
    };
    next(
        |b| b.swap(3, 4),
        3,
        "LEAF_MFNS of round 0: expected this block next: a block LEAF_PFNS of round 0",
    );
    next(
        |b| drop(b.remove(9)),
        9,
        "LOGDIRTY of round 1: expected this block next: a block ROOTS_AFTER of round 1",
    );
    next(
        |b| b[11].1 = 3,
        11,
        "LEAF_MFNS of round 1: expected this block next: a block LEAF_MFNS of round 3",
    );
    next(
        |b| b[8].1 = 2,
        8,
        "ROOTS_BEFORE of round 1: expected this block next: a block ROOTS_BEFORE of round 2",
    );
    next(
        |b| b[5].0 = 77,
        5,
        "UPPER of round 0: expected this block next: a block type 0x4d of round 0",
    );
    next(
        |b| drop(b.drain(1..16)),
        1,
        "ROOTS_BEFORE of round 0: expected this block next: a block END of round 2",
    );
    let (whole, starts) = file(&sound(64));
    let cut = fault(&whole[..starts[6] as usize + 20]).to_string();
    assert_eq!(
        cut,
        format!(
            "byte {}: ENTRIES of round 0: block payload needs 8192 bytes, 4 are left",
            starts[6] + 16
        )
    );
    let cut = fault(&whole[..starts[16] as usize]).to_string();
    assert_eq!(
        cut,
        format!(
            "byte {}: ROOTS_BEFORE of round 2: block header needs 16 bytes, 0 are left",
            whole.len() - 16
        )
    );
    let more = fault(&[&whole[..], &[0]].concat()).to_string();
    assert_eq!(more, format!("byte {}: expected nothing after the last block", whole.len()));
}

/// Something done to a block, by its number.
#[derive(Clone, Debug)]
enum Change {
    Word { block: usize, word: usize, value: u64 },
    Length { block: usize, length: usize },
    Drop { block: usize },
    Double { block: usize },
    Swap { block: usize, other: usize },
    Kind { block: usize, kind: u32 },
    Round { block: usize, round: u32 },
    Byte { block: usize, at: usize, byte: u8 },
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let block = || 0_usize..17;
    let value = prop_oneof![0_u64..70, Just(4096), Just(NONE), Just(NONE - 1), any::<u64>()];
    let change = prop_oneof![
        6 => (block(), 0_usize..2100, value).prop_map(|(block, word, value)| Change::Word { block, word, value }),
        2 => (block(), 0_usize..9000).prop_map(|(block, length)| Change::Length { block, length }),
        1 => block().prop_map(|block| Change::Drop { block }),
        1 => block().prop_map(|block| Change::Double { block }),
        1 => (block(), block()).prop_map(|(block, other)| Change::Swap { block, other }),
        1 => (block(), 0_u32..12).prop_map(|(block, kind)| Change::Kind { block, kind }),
        1 => (block(), 0_u32..4).prop_map(|(block, round)| Change::Round { block, round }),
        2 => (block(), 0_usize..200, any::<u8>()).prop_map(|(block, at, byte)| Change::Byte { block, at, byte }),
    ];
    prop::collection::vec(change, 1..4)
}

fn apply(blocks: &mut Vec<Block>, change: &Change) {
    let count = blocks.len();
    match *change {
        Change::Word { block, word, value } => {
            let payload = &mut blocks[block % count].2;
            let words = payload.len() / 8;
            if words > 0 {
                set(payload, word % words, value);
            }
        }
        Change::Length { block, length } => blocks[block % count].2.resize(length, 0),
        Change::Drop { block } => drop(blocks.remove(block % count)),
        Change::Double { block } => {
            let copy = blocks[block % count].clone();
            blocks.insert(block % count, copy);
        }
        Change::Swap { block, other } => blocks.swap(block % count, other % count),
        Change::Kind { block, kind } => blocks[block % count].0 = kind,
        Change::Round { block, round } => blocks[block % count].1 = round,
        Change::Byte { block, at, byte } => {
            let payload = &mut blocks[block % count].2;
            let length = payload.len().max(1);
            if let Some(there) = payload.get_mut(at % length) {
                *there = byte;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 256 } else { 4096 }))]

    /// Any changed capture gives a trace, or a fault of the capture in one of its blocks. Reading
    /// it round by round gives the same error as reading it at once.
    #[test]
    fn an_error_of_a_broken_capture_names_the_block(wide: bool, changes in changes()) {
        let mut blocks = sound(if wide { 64 } else { 32 });
        changes.iter().for_each(|change| apply(&mut blocks, change));
        let (bytes, starts) = file(&blocks);
        let result = imported(&bytes);
        if let Err(error) = &result {
            let ImportError::Capture(error) = error else { panic!("{error}") };
            let said = error.to_string();
            prop_assert!(error.offset <= bytes.len() as u64, "{}", said);
            let named = error.place.is_some() || said.ends_with("nothing after the last block");
            prop_assert!(named, "{}", said);
            let within = starts.iter().rposition(|&start| start <= error.offset);
            prop_assert!(within.is_some() || blocks.is_empty(), "{}", said);
        }
        let mut reader = CaptureReader::new(bytes.as_slice(), &Limits::default());
        let streamed = reader.as_mut().map_or_else(|error| Some(error.to_string()), |reader| loop {
            match reader.next_round() {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(error.to_string()),
            }
        });
        let parsed = Capture::parse(bytes).err().map(|error| error.to_string());
        prop_assert_eq!(streamed, parsed);
    }
}

#[test]
fn causes_are_kept_too() {
    let mut blocks = sound(64);
    *at(&mut blocks, 2, 1).1 = b"{\"max_pfn\":-1}".to_vec();
    let error = fault(&file(&blocks).0);
    assert!(error.source().expect("a cause").to_string().contains("invalid value: integer `-1`"));
}
