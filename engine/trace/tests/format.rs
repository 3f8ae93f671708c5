// SPDX-License-Identifier: MIT OR Apache-2.0
//! The format with random recordings and hostile files: what was written is read, and nothing else.
//! Not here: captures (`captures`), memory (`hostile`).
//! Units: as in the crate.
//! Threads: one a test.
//! Source: own.

mod life;

use life::{life, meta, write};
use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Mfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack_trace::format::{
    BLOCK_HEADER_BYTES, BlockHeader, BlockKind, Digest, FILE_HEADER_BYTES, padding_bytes,
};
use p2mtrack_trace::{
    Limits, NONE, Reader, Replay, Round, Structure, TraceError, TraceFault, UpperFrame, Writer,
};
use proptest::prelude::*;

fn read_all(bytes: &[u8]) -> Result<Vec<Round>, TraceError> {
    let reader = Reader::new(bytes, Limits::default())?;
    let mut rounds = reader.rounds();
    let mut all = Vec::new();
    while rounds.advance()? {
        all.push(rounds.round().clone());
    }
    Ok(all)
}

/// A small recording with something in every block.
fn small() -> Vec<Round> {
    let mut round = Round { leaf_mfns: vec![3, 4], leaf_pfns: vec![30, NONE], ..Round::default() };
    round.entries = (100..1124).collect();
    round.upper.push(UpperFrame {
        structure: Structure::Table,
        level: 1,
        mfn: Mfn(5),
        pfn: None,
        content: Leaf::HOLE.into(),
    });
    round.exceptions.insert(9, Some(1));
    let mut next = round.clone();
    next.entries[5] = NONE;
    next.exceptions.insert(9, None);
    next.log_dirty = Some(PfnBitmap::new(64));
    vec![round, next]
}

/// Blocks of a trace: header fields and payload.
fn blocks(bytes: &[u8]) -> Vec<(BlockHeader, Vec<u8>)> {
    let mut at = FILE_HEADER_BYTES;
    let mut found = Vec::new();
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    while at < bytes.len() {
        let (kind, round, length) = (word(at) as u32, word(at + 8), word(at + 16));
        at += BLOCK_HEADER_BYTES;
        found.push((BlockHeader { kind, round, length }, bytes[at..at + length as usize].to_vec()));
        at += (length + padding_bytes(length)) as usize;
    }
    found
}

/// A trace of these blocks with sound checksums and digest, even if the payloads are not.
fn seal(header: &[u8], blocks: &[(BlockHeader, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = header.to_vec();
    let mut digest = Digest::new();
    digest.update(header);
    for (count, (block, payload)) in blocks.iter().enumerate() {
        let mut payload = payload.clone();
        if block.kind == BlockKind::End as u32 && payload.len() == 24 {
            payload[8..16].copy_from_slice(&(count as u64).to_le_bytes());
            payload[16..].copy_from_slice(&digest.value().to_le_bytes());
        }
        let block = BlockHeader { length: payload.len() as u64, ..*block };
        let header = block.encode(block.crc(&payload));
        digest.update(&header);
        bytes.extend(header);
        bytes.extend(&payload);
        bytes.resize(bytes.len() + padding_bytes(block.length) as usize, 0);
    }
    bytes
}

fn tight() -> Limits {
    Limits {
        entries: 1 << 13,
        log_dirty_pfns: 1 << 16,
        upper_frames: 64,
        machine_frames: 1 << 16,
        work: 1 << 18,
        ..Limits::default()
    }
}

/// Opens, decodes and replays, without a panic or an endless loop.
fn endure(bytes: &[u8]) {
    let Ok(reader) = Reader::new(bytes, tight()) else { return };
    let verified = reader.verify();
    let Ok(mut replay) = Replay::new(&reader) else { return };
    let replayed = loop {
        match replay.advance() {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    assert_eq!(verified.is_ok(), replayed.is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_written_is_read((width, rounds) in life()) {
        let bytes = write(width, &rounds);
        prop_assert_eq!(read_all(&bytes).expect("reads"), rounds);
        let reader = Reader::new(&bytes, Limits::default()).expect("opens");
        prop_assert_eq!(reader.meta(), &meta(width));
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), keep in 0_usize..200) {
        let whole = write(Width::W64, &small());
        prop_assert!(read_all(&bytes).is_err());
        let mut mixed = whole[..keep.min(whole.len())].to_vec();
        mixed.extend(bytes);
        prop_assert!(read_all(&mixed).is_err());
    }

    #[test]
    fn sound_checksums_over_hostile_payloads_never_panic(
        (width, rounds) in life(),
        victims in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        extra in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let bytes = write(width, &rounds);
        let mut all = blocks(&bytes);
        for (block, at, value) in &victims {
            let block = block.index(all.len());
            let payload = &mut all[block].1;
            if payload.is_empty() {
                continue;
            }
            let at = at.index(payload.len());
            payload[at] = *value;
        }
        endure(&seal(&bytes[..FILE_HEADER_BYTES], &all));
        let victim = cut.index(all.len());
        let payload = &mut all[victim].1;
        payload.truncate(cut.index(payload.len() + 1));
        payload.extend(extra);
        endure(&seal(&bytes[..FILE_HEADER_BYTES], &all));
    }

    #[test]
    fn random_payloads_never_panic(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 11..12)) {
        let bytes = write(Width::W32, &small_32());
        let mut all = blocks(&bytes);
        for (block, payload) in all.iter_mut().skip(1).zip(payloads) {
            if block.0.kind != BlockKind::End as u32 && block.0.kind != BlockKind::Roots as u32 {
                block.1 = payload;
            }
        }
        endure(&seal(&bytes[..FILE_HEADER_BYTES], &all));
    }
}

/// A 32-bit recording of two rounds.
fn small_32() -> Vec<Round> {
    let mut rounds = small();
    for round in &mut rounds {
        round.leaf_mfns.truncate(1);
        round.leaf_pfns.truncate(1);
    }
    rounds
}

#[test]
fn sealing_changes_nothing_in_a_sound_trace() {
    let bytes = write(Width::W64, &small());
    assert_eq!(seal(&bytes[..FILE_HEADER_BYTES], &blocks(&bytes)), bytes);
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = write(Width::W64, &small());
    for length in 0..bytes.len() {
        let error = read_all(&bytes[..length]).expect_err("cut short");
        assert!(matches!(error.fault, TraceFault::Short { .. }), "{length}: {error}");
        assert!(error.offset <= length as u64, "{length}: {error}");
    }
}

#[test]
fn every_flipped_bit_is_an_error() {
    let mut bytes = write(Width::W64, &small());
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read_all(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(read_all(&bytes).is_ok());
}

#[test]
fn faults_are_named_where_they_are() {
    let bytes = write(Width::W64, &small());
    let message = |bytes: &[u8]| read_all(bytes).expect_err("a fault").to_string();
    let mut trailing = bytes.clone();
    trailing.push(0);
    let end = bytes.len();
    assert_eq!(
        message(&trailing),
        format!("byte {end}: bytes after the last block is 0x1, expected 0x0")
    );
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert_eq!(message(&newer), "byte 8: version is 0x2, expected 0x1");
    assert_eq!(
        message(b"GIF89a, not a trace"),
        "byte 0: expected the first bytes of a p2mtrace file"
    );
    let mut crc = bytes.clone();
    crc[16 + BLOCK_HEADER_BYTES] ^= 1;
    assert!(message(&crc).starts_with("byte 20: block checksum is"), "{}", message(&crc));
}

#[test]
fn blocks_out_of_order_missing_or_doubled_are_errors() {
    let bytes = write(Width::W64, &small());
    let (header, all) = (&bytes[..FILE_HEADER_BYTES], blocks(&bytes));
    for at in 0..all.len() {
        let mut missing = all.clone();
        missing.remove(at);
        assert!(read_all(&seal(header, &missing)).is_err(), "block {at} missing");
        let mut doubled = all.clone();
        doubled.insert(at, all[at].clone());
        assert!(read_all(&seal(header, &doubled)).is_err(), "block {at} doubled");
        if at > 0 {
            let mut swapped = all.clone();
            swapped.swap(at - 1, at);
            assert!(read_all(&seal(header, &swapped)).is_err(), "block {at} swapped");
        }
    }
}

#[test]
fn a_block_of_another_file_is_found_by_the_digest() {
    let mut other = small();
    other[0].entries[0] = 77;
    let (bytes, other) = (write(Width::W64, &small()), write(Width::W64, &other));
    let (mut all, donor) = (blocks(&bytes), blocks(&other));
    all[4] = donor[4].clone();
    let mut forged = seal(&bytes[..FILE_HEADER_BYTES], &all);
    // The digest of the first file: every checksum is right, the whole is not.
    let end = forged.len() - 24;
    forged[end..].copy_from_slice(&bytes[bytes.len() - 24..]);
    let header = BlockHeader { kind: BlockKind::End as u32, round: 2, length: 24 };
    let crc = header.crc(&forged[end..]).to_le_bytes();
    forged[end - 20..end - 16].copy_from_slice(&crc);
    let error = read_all(&forged).expect_err("forged");
    assert!(matches!(error.fault, TraceFault::Mismatch { what: "digest", .. }), "{error}");
}

#[test]
fn rounds_that_contradict_themselves_are_not_written() {
    type Break = (&'static str, fn(&mut Round));
    let broken: [Break; 11] = [
        ("same entries wherever", |r| (r.leaf_mfns[1], r.leaf_pfns[1]) = (3, 30)),
        ("machine frame below", |r| r.leaf_mfns[1] = life::MAX_MFN),
        ("no pfn where there is no leaf", |r| (r.leaf_mfns[0], r.leaf_pfns[0]) = (NONE, 1)),
        ("only invalid entries", |r| (r.leaf_mfns[0], r.leaf_pfns[0]) = (NONE, NONE)),
        ("one pfn for a frame", |r| r.upper[0].mfn = Mfn(3)),
        ("each upper frame once", |r| r.upper.push(r.upper[0].clone())),
        ("level of page tables", |r| r.upper[0].level = 0),
        ("no m2p exception for a leaf", |r| _ = r.exceptions.insert(3, None)),
        ("no m2p exception for an upper", |r| _ = r.exceptions.insert(5, None)),
        ("number of entries", |r| r.entries.truncate(1023)),
        ("number of log-dirty bitmaps", |r| r.log_dirty = Some(PfnBitmap::new(1))),
    ];
    for (text, breaks) in broken {
        let mut round = small()[0].clone();
        breaks(&mut round);
        let mut writer = Writer::new(Vec::new(), &meta(Width::W64)).expect("begins");
        let error = writer.round(&round).expect_err(text).to_string();
        assert!(error.contains(text), "{error}");
        writer.round(&small()[0]).expect("the writer is unchanged");
    }
    let mut writer = Writer::new(Vec::new(), &meta(Width::W32)).expect("begins");
    let mut round = small_32()[0].clone();
    round.entries[0] = u64::from(u32::MAX);
    assert!(writer.round(&round).expect_err("not widened").to_string().contains("width"));
    let empty = Writer::new(Vec::new(), &meta(Width::W32)).expect("begins").finish();
    assert!(empty.expect_err("no round").to_string().contains("a first copy"));
}

#[test]
fn a_reader_finds_contradictions_behind_sound_checksums() {
    // Position 1 also gets frame 3, but not its entries: LEAVES of round 0 with another run.
    let bytes = write(Width::W64, &small());
    let mut all = blocks(&bytes);
    assert_eq!(all[3].0.kind, BlockKind::Leaves as u32);
    all[3].1 = vec![2, 1, 0, 1 << 2, 6, 1, 0, 1 << 2, 60];
    let error = read_all(&seal(&bytes[..FILE_HEADER_BYTES], &all)).expect_err("aliased");
    assert!(error.to_string().contains("the same entries wherever"), "{error}");
    // Round 1 writes an entry of a shared frame at one of its two positions only, the first or the
    // second.
    let mut rounds = small();
    for round in &mut rounds {
        (round.leaf_mfns, round.leaf_pfns) = (vec![3, 3], vec![30, 30]);
        round.entries = vec![NONE; 1024];
    }
    let bytes = write(Width::W64, &rounds);
    for written in [vec![1, 0, 0, 2], vec![1, 0xff, 7, 0, 2]] {
        let mut all = blocks(&bytes);
        assert_eq!((all[10].0.kind, all[10].0.round), (BlockKind::Entries as u32, 1));
        all[10].1 = written; // one run after 0 or 1,023 positions
        let error = read_all(&seal(&bytes[..FILE_HEADER_BYTES], &all)).expect_err("one side");
        assert!(error.to_string().contains("the same entries wherever"), "{error}");
    }
}

#[test]
fn a_cursor_that_has_failed_fails_again() {
    let bytes = write(Width::W64, &small());
    let reader = Reader::new(&bytes, Limits { entries: 512, ..Limits::default() }).expect("opens");
    let mut rounds = reader.rounds();
    let error = rounds.advance().expect_err("too many leaves").to_string();
    assert!(error.contains("leaf positions is 2, expected at most 1"), "{error}");
    assert!(rounds.advance().is_err());
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("life.p2mtrace");
    let names = || std::fs::read_dir(dir.path()).expect("lists").count();
    let mut writer = Writer::create(&path, &meta(Width::W64)).expect("begins");
    writer.round(&small()[0]).expect("writes");
    assert!(!path.exists() && names() == 0);
    drop(writer);
    assert_eq!(names(), 0, "an abandoned file leaves nothing");
    for _ in 0..2 {
        let mut writer = Writer::create(&path, &meta(Width::W64)).expect("begins");
        for round in small() {
            writer.round(&round).expect("writes");
        }
        writer.commit().expect("commits");
        assert_eq!(names(), 1);
        let reader = Reader::open(&path).expect("opens");
        assert_eq!((reader.len(), reader.is_empty()), (2, false));
        reader.verify().expect("decodes");
    }
    let missing = Reader::open(&dir.path().join("none")).expect_err("no file");
    assert!(matches!(missing.fault, TraceFault::Io(_)));
    assert!(Writer::create(&dir.path().join("no/dir/x"), &meta(Width::W64)).is_err());
}

#[test]
fn a_failed_write_ends_a_writer() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::other("full"));
            }
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            Ok(taken)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let whole = write(Width::W64, &small()).len();
    for space in 0..whole {
        let written = (|| {
            let mut writer = Writer::new(Full(space), &meta(Width::W64))?;
            for round in small() {
                if let Err(error) = writer.round(&round) {
                    assert!(writer.round(&round).is_err());
                    return Err(error);
                }
            }
            writer.finish().map(drop)
        })();
        assert!(matches!(written.expect_err("full").fault, TraceFault::Io(_)), "{space}");
    }
}
