// SPDX-License-Identifier: MIT OR Apache-2.0
//! The five captures of a real guest: imported, replayed, and compared with what another program
//! found in them.
//! Not here: made-up recordings (`format`, `replay`).
//! Units: as in the crate.
//! Threads: one a test.
//! Source: `tests/traces/README.md`.

mod life;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

use life::walker::replay_totals;
use p2mtrack::frame::Mfn;
use p2mtrack::port::conformance;
use p2mtrack_trace::import::{ImportError, import, meta_of};
use p2mtrack_trace::naive::{Totals, expected, expected_of_capture};
use p2mtrack_trace::raw::{Capture, CaptureReader};
use p2mtrack_trace::{Limits, NONE, Reader, Replay, TraceFault, Writer};

const NAMES: [&str; 5] =
    ["idle-256", "balloon-256", "growth-192", "tree-balloon-256", "growth-burst"];

/// Recorded by `p2mtrack track --record` itself.
const LIVE: [&str; 3] = ["live-balloon", "live-growth", "live-tree"];

/// Recorded of a simulated guest.
const SIMULATED: &str = "shared-identity-leaf";

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/traces").join(file)
}

fn capture(name: &str) -> Capture {
    Capture::open(&path(&format!("{name}.p2mraw.xz")), &Limits::default()).expect("a capture")
}

/// The trace that is checked in. One of the tests compares it with the capture.
fn trace(name: &str) -> Reader<'static> {
    Reader::open(&path(&format!("{name}.p2mtrace"))).expect("opens")
}

fn imported<R: Read>(mut reader: CaptureReader<R>) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &meta_of(reader.meta())).expect("begins");
    import(&mut reader, &mut writer).expect("imports");
    writer.finish().expect("ends")
}

fn imported_file(name: &str) -> Vec<u8> {
    let file = path(&format!("{name}.p2mraw.xz"));
    imported(CaptureReader::open(&file, &Limits::default()).expect("a capture"))
}

fn found_elsewhere(name: &str) -> Totals {
    let text = fs::read_to_string(path(&format!("{name}.json"))).expect("totals");
    serde_json::from_str(&text).expect("totals")
}

#[test]
#[ignore = "writes the traces that are checked in"]
fn make_the_traces() {
    for name in NAMES {
        fs::write(path(&format!("{name}.p2mtrace")), imported_file(name)).expect("writes");
    }
}

#[test]
fn the_oracle_finds_what_another_program_found() {
    for name in NAMES {
        let capture = capture(name);
        let totals = found_elsewhere(name);
        assert_eq!(expected_of_capture(&capture), totals, "{name} raw");
        assert_eq!(expected(&trace(name)).expect("decodes"), totals, "{name} imported");
    }
}

#[test]
fn the_oracle_finds_the_noted_sums_of_recordings() {
    for name in LIVE {
        let (found, noted) = (expected(&trace(name)).expect("decodes"), found_elsewhere(name));
        assert_eq!(found, noted, "{name}");
        assert!(found.entries_changed > 0 && found.beyond_log_dirty > 0, "{name}");
    }
    assert_eq!(expected(&trace(SIMULATED)).expect("decodes"), found_elsewhere(SIMULATED));
}

#[test]
fn checked_in_traces_are_imports_of_the_captures() {
    for name in NAMES {
        let bytes = fs::read(path(&format!("{name}.p2mtrace"))).expect("a trace");
        assert!(bytes.len() < 100 << 10, "{name}: {} bytes", bytes.len());
        assert!(imported_file(name) == bytes, "{name} differs: make the traces again");
    }
    let all = fs::read_dir(path("")).expect("lists");
    let sum: u64 = all.map(|file| file.expect("a file").metadata().expect("size").len()).sum();
    assert!(sum < 1 << 20, "{sum} bytes in all");
}

#[test]
fn nothing_of_a_capture_is_lost() {
    for name in NAMES {
        let (capture, reader) = (capture(name), trace(name));
        let mut rounds = reader.rounds();
        for number in 0..capture.rounds() {
            assert!(rounds.advance().expect("decodes"));
            let (recorded, round) = (capture.round(number), rounds.round());
            assert!(round.entries == recorded.entries, "{name} round {number}");
            assert_eq!(round.leaf_mfns, recorded.leaf_mfns);
            assert_eq!(round.leaf_pfns, recorded.leaf_pfns);
            let upper = round.upper.iter();
            let upper: Vec<_> = upper
                .map(|f| [u64::from(f.level), f.mfn.0, f.pfn.map_or(NONE, |pfn| pfn.0)])
                .collect();
            assert_eq!(upper, recorded.upper);
            let bits = round.log_dirty.as_ref().map(|bitmap| {
                bitmap.words().iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>()
            });
            assert!(bits.as_deref() == recorded.log_dirty, "{name} round {number}");
            assert_eq!(round.before.generation, recorded.before.generation);
            assert_eq!(round.after.generation, recorded.after.walk_generation);
            assert_eq!(round.after.pfn_count, 512 * recorded.leaf_mfns.len() as u64);
            assert_eq!(round.after.p2m_cr3, recorded.after.roots.p2m_cr3, "names the listed root");
            assert_eq!(round.after.frame_list_list, recorded.after.roots.fll);
            assert!(round.exceptions.is_empty(), "m2p and p2m agree in every capture");
        }
        assert!(!rounds.advance().expect("the end"));
    }
}

/// A recording has leaves and upper frames. For a frame's owner and type, a replay gives the
/// simplest answer.
#[test]
fn replayed_ports_conform_as_far_as_a_recording_allows() {
    for name in NAMES.into_iter().chain(LIVE) {
        let reader = trace(name);
        let mut replay = Replay::new(&reader).expect("round 0");
        let mut ports = replay.ports();
        loop {
            let leaves = replay.round().leaf_mfns.iter().copied().filter(|&mfn| mfn != NONE);
            let leaves: BTreeSet<_> = leaves.map(Mfn).collect();
            let leaves: Vec<_> = leaves.into_iter().collect();
            conformance::m2p(&ports.m2p).expect("the m2p");
            conformance::p2m(&mut ports.p2m, &ports.m2p, &leaves).expect("the p2m");
            conformance::unlogged(&mut ports.unlogged).expect("the unlogged writers");
            if !replay.advance().expect("decodes") {
                break;
            }
        }
    }
}

#[test]
fn a_tracker_behind_the_ports_finds_the_same() {
    for name in NAMES {
        assert_eq!(replay_totals(&trace(name)), found_elsewhere(name), "{name}");
    }
}

/// The bytes of a plain capture of one round: META, roots, and the payloads of blocks 5 to 9.
fn plain(width: u32, walk: &str, roots: &str, payloads: [&[u64]; 5]) -> Vec<u8> {
    let mut bytes = b"P2MRAW\0\x01".to_vec();
    let mut put = |kind: u32, payload: &[u8]| {
        bytes.extend(kind.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend((payload.len() as u64).to_le_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    };
    let meta = format!(
        r#"{{"format":"p2mraw 1","name":"n","domid":1,"width":{width},"pfn_count":1024,"max_mfn":4096,
        "kernel":"k","xen":"x","flavour":"default","walk":"{walk}","load":"","sleep_ms":1,"rounds":0}}"#
    );
    put(1, meta.as_bytes());
    put(2, format!("{{{roots}}}").as_bytes());
    put(3, format!(r#"{{{roots},"walk_max_pfn":1024,"walk_generation":6,"ns":1}}"#).as_bytes());
    for (kind, words) in (5..).zip(payloads) {
        put(kind, &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
    }
    put(10, &[]);
    bytes
}

const ROOTS: &str =
    r#""max_pfn":900,"fll":77,"p2m_cr3":4096,"p2m_vaddr":4110417920,"generation":4"#;

fn one_round(bytes: &[u8]) -> p2mtrack_trace::Round {
    let reader = CaptureReader::new(bytes, &Limits::default()).expect("begins");
    let trace = imported(reader);
    let reader = Reader::new(&trace, Limits::default()).expect("opens");
    let mut rounds = reader.rounds();
    rounds.advance().expect("decodes");
    rounds.round().clone()
}

#[test]
fn a_32_bit_capture_is_widened_and_its_roots_fold() {
    let mut entries = vec![0xffff_ffff; 1024];
    let mut m2p = vec![NONE; 1024];
    (entries[0], m2p[0]) = (50, 0); // agrees
    (entries[1], m2p[1]) = (51, 9); // another pfn
    (entries[2], m2p[2]) = (52, NONE); // none
    (entries[3], m2p[3]) = (60, 8); // a leaf's frame: LEAF_PFNS decides
    let upper = [3, 2, 11, 2, 3, 12, 1, 4, NONE];
    let round = one_round(&plain(32, "linear", ROOTS, [&[60], &[3], &upper, &entries, &m2p]));
    assert_eq!(round.entries[4], NONE);
    assert_eq!(round.exceptions.into_iter().collect::<Vec<_>>(), [(51, Some(9)), (52, None)]);
    // cr3 named frame 1, the walk began at frame 2; the count was raised after the roots were read.
    assert_eq!((round.before.p2m_cr3, round.after.p2m_cr3), (2 << 12, 2 << 12));
    assert_eq!((round.before.pfn_count, round.after.pfn_count), (900, 1024));
    assert_eq!((round.before.generation, round.after.generation), (4, 6));
    // 0xf500_0000: slot 3 of level 3, 424 of level 2, 0 of level 1.
    let slots = [(0, 3, 3), (1, 424, 4), (2, 0, 60)];
    for (frame, slot, mfn) in slots {
        assert_eq!(round.upper[frame].content.words[slot], mfn << 12 | 0x67);
        assert_eq!(round.upper[frame].content.words.iter().filter(|&&word| word != 0).count(), 1);
    }
}

#[test]
fn a_tree_capture_presents_its_top_and_no_page_tables() {
    let upper = [3, 2, 11, 2, 3, 12];
    let (entries, m2p) = ([NONE; 1024], [NONE; 1024]);
    let leaves: [&[u64]; 2] = [&[60, NONE], &[3, NONE]];
    let payloads = [leaves[0], leaves[1], &upper, &entries, &m2p];
    let round = one_round(&plain(64, "tree", ROOTS, payloads));
    for roots in [round.before, round.after] {
        assert_eq!((roots.frame_list_list, roots.p2m_cr3), (2, 0));
    }
    assert_eq!(round.upper[0].content.words[..2], [3, NONE]);
    assert_eq!(round.upper[1].content.words[..2], [60, NONE]);
}

#[test]
fn captures_that_make_no_trace_are_errors_with_a_reason() {
    let upper = [2, 3, 12, 1, 4, 1];
    let (mut entries, mut m2p) = (vec![NONE; 1024], vec![NONE; 1024]);
    let fails = |upper: &[u64], leaves: [&[u64]; 2], entries: &[u64], m2p: &[u64]| {
        let bytes = plain(64, "linear", ROOTS, [leaves[0], leaves[1], upper, entries, m2p]);
        let reader = CaptureReader::new(bytes.as_slice(), &Limits::default());
        let mut reader = reader.expect("begins");
        let mut writer = Writer::new(Vec::new(), &meta_of(reader.meta())).expect("begins");
        match import(&mut reader, &mut writer).expect_err("no trace") {
            ImportError::Capture(error) => error.to_string(),
            error @ ImportError::Trace(_) => panic!("{error}"),
        }
    };
    let error = fails(&upper, [&[60, 61], &[3, 4]], &entries, &m2p);
    assert!(error.ends_with("level 3 needs 1 frames, 0 are listed"), "{error}");
    m2p[7] = 1;
    let whole = [4, 1, 1, 3, 2, 2, 2, 3, 3, 1, 4, 4];
    let error = fails(&whole, [&[60, 61], &[3, 4]], &entries, &m2p);
    assert!(error.ends_with("0x1 for pfn 0x7, whose entry is 0xffffffffffffffff"), "{error}");
    m2p[7] = NONE;
    (entries[600], m2p[600]) = (50, 600);
    let error = fails(&whole, [&[60, 60], &[3, 3]], &entries, &m2p);
    assert!(error.contains("ENTRIES of round 0: expected the same entries"), "{error}");
}

#[test]
fn damaged_captures_are_errors_with_their_offset() {
    let (entries, m2p) = ([NONE; 512], [NONE; 512]);
    let upper = [4, 1, 1];
    let sound = plain(64, "linear", ROOTS, [&[60], &[3], &upper, &entries, &m2p]);
    let check = |bytes| Capture::parse(bytes).map(drop);
    check(sound.clone()).expect("sound");
    for length in 0..sound.len() {
        let error = check(sound[..length].to_vec()).expect_err("cut short");
        assert!(matches!(error.fault, TraceFault::Short { .. }), "{length}: {error}");
    }
    let mut trailing = sound.clone();
    trailing.extend([0; 8]);
    assert!(check(trailing).expect_err("trailing").to_string().contains("after the last block"));
    // Each bit of magic and headers: an error or, in JSON, perhaps another capture; never a panic.
    for bit in 0..8 * 700 {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let result = check(bytes);
        assert!(bit >= 8 * 24 || result.is_err(), "bit {bit}");
    }
    let short = plain(64, "linear", ROOTS, [&[60], &[3, 4], &upper, &entries, &m2p]);
    assert!(check(short).expect_err("2 pfns").to_string().contains("number of words is 0x2"));
    let uneven = plain(64, "linear", ROOTS, [&[60], &[3], &upper[..2], &entries, &m2p]);
    assert!(check(uneven).expect_err("a pair").to_string().contains("triples"));
}

#[test]
fn compressed_captures_are_bounded_and_checked() {
    let limits = Limits { capture_bytes: 1 << 20, ..Limits::default() };
    let error = Capture::open(&path("idle-256.p2mraw.xz"), &limits).expect_err("13 MiB");
    assert!(
        matches!(error.fault, TraceFault::Io(cause) if cause.to_string() == "more than 1048576 bytes")
    );
    let whole = fs::read(path("growth-burst.p2mraw.xz")).expect("reads");
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("cut.xz");
    for length in [0, 3, 6, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..length]).expect("writes");
        assert!(Capture::open(&file, &Limits::default()).is_err(), "{length}");
    }
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&file, &flipped).expect("writes");
    assert!(Capture::open(&file, &Limits::default()).is_err());
    for end in [&whole[..whole.len() - 1], &[&whole[..], b"garbage"].concat()] {
        fs::write(&file, end).expect("writes");
        let error = Capture::open(&file, &Limits::default()).expect_err("no end");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        let words = "the compressed file is cut short, or something else follows it";
        assert_eq!(cause, words);
    }
}
