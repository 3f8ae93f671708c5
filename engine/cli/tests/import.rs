// SPDX-License-Identifier: MIT OR Apache-2.0
//! `import`: complete traces or none.
//! Not here: what an import keeps (`p2mtrack_trace`).
//! Units: bytes of files.
//! Threads: each run is a process.
//! Source: `tests/traces/README.md`.

mod run;

use std::fs;
use std::path::Path;

use run::{Ended, NAMES, ended, path, program, trace};
use serde_json::{Value, json};

fn import(words: &[&str], raw: &Path, out: &Path) -> Ended {
    ended(program().arg("import").args(words).args([raw, out]).output().expect("runs"))
}

#[test]
fn a_capture_becomes_the_trace_that_is_checked_in() {
    let dir = tempfile::tempdir().expect("directory");
    let out = dir.path().join("out");
    for name in NAMES {
        let raw = path(&format!("{name}.p2mraw.xz"));
        let result = import(&["--json"], &raw, &out);
        assert_eq!((result.status, result.err.as_str()), (0, ""), "{name}");
        let bytes = fs::read(&out).expect("a trace");
        assert!(bytes == fs::read(trace(name)).expect("a trace"), "{name}");
        let result: Value = serde_json::from_str(&result.out).expect("one line");
        let (_, rounds) = run::rounds(&out);
        let pfns = rounds.last().expect("rounds").entries.len();
        let expected = json!({"event": "import", "name": name, "rounds": rounds.len() - 1,
            "pfns": pfns, "bytes": bytes.len()});
        assert_eq!(result, expected);
    }
    let result = import(&[], &path("growth-192.p2mraw.xz"), &out);
    let words = ": 16 rounds after the first copy, 131072 pfns, 17424 bytes\n";
    assert_eq!(result.out, format!("{}{words}", out.display()));
    assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1, "nothing is left over");
}

#[test]
fn a_failed_import_leaves_the_target_alone() {
    let dir = tempfile::tempdir().expect("directory");
    let (raw, out) = (dir.path().join("raw"), dir.path().join("out"));
    let whole = fs::read(path("growth-burst.p2mraw.xz")).expect("reads");
    fs::write(&raw, &whole[..whole.len() / 2]).expect("writes");
    fs::write(&out, "before").expect("writes");
    let result = import(&[], &raw, &out);
    assert_eq!((result.status, result.out.as_str()), (2, ""));
    assert!(result.err.contains("capture can't be read: byte "), "{}", result.err);
    assert_eq!(fs::read(&out).expect("reads"), b"before");
    assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 2);
}

#[test]
fn a_target_that_a_rename_would_destroy_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    let raw = dir.path().join("raw");
    fs::copy(path("idle-256.p2mraw.xz"), &raw).expect("copies");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/dev/null", &link).expect("links");
    let dotted = dir.path().join("./raw");
    for (out, why) in [
        (&raw, "is the capture itself"),
        (&dotted, "is the capture itself"),
        (&link, "exists, and is not a regular file"),
        (&dir.path().to_path_buf(), "exists, and is not a regular file"),
    ] {
        let result = import(&[], &raw, out);
        assert_eq!(result.status, 2);
        assert_eq!(result.err, format!("p2mtrack: {}: {why}\n", out.display()));
    }
    assert!(link.is_symlink());
    let result = import(&[], &raw, &dir.path().join("no/such/place"));
    assert_eq!(result.status, 2);
    assert!(result.err.contains("trace can't be written"), "{}", result.err);
}

/// META with a name of this length.
fn meta(name: usize) -> String {
    let name = "n".repeat(name);
    format!(r#"{{"format":"p2mraw 1","name":"{name}","width":64,"pfn_count":512,"max_mfn":4096,"#)
        + r#""kernel":"k","xen":"x","walk":"linear","load":"","rounds":0}"#
}

/// A capture of one leaf without frames.
fn capture(meta: String) -> Vec<u8> {
    let roots = r#"{"max_pfn":512,"fll":0,"p2m_cr3":4096,"p2m_vaddr":0,"generation":4,
        "walk_max_pfn":512,"walk_generation":4}"#;
    let words =
        |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let mut bytes = b"P2MRAW\0\x01".to_vec();
    for (kind, payload) in [
        (1, meta.into_bytes()),
        (2, roots.as_bytes().to_vec()),
        (3, roots.as_bytes().to_vec()),
        (5, words(&[60])),
        (6, words(&[5])),
        (7, words(&[4, 1, 11, 3, 2, 12, 2, 3, 13, 1, 4, 14])),
        (8, words(&[u64::MAX; 512])),
        (9, words(&[u64::MAX; 512])),
        (10, Vec::new()),
    ] {
        bytes.extend([u64::from(kind as u32), payload.len() as u64].map(u64::to_le_bytes).concat());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

/// META of a trace holds more than that of a capture, with the same limit.
#[test]
fn a_name_that_is_too_long_for_a_trace_replaces_nothing() {
    let dir = tempfile::tempdir().expect("directory");
    let (raw, out) = (dir.path().join("raw"), dir.path().join("out"));
    fs::write(&raw, capture(meta(8))).expect("writes");
    let result = import(&[], &raw, &out);
    assert_eq!((result.status, result.err.as_str()), (0, ""));
    let before = fs::read(&out).expect("a trace");
    fs::write(&raw, capture(meta((1 << 20) - meta(0).len()))).expect("writes");
    let result = import(&[], &raw, &out);
    let why = "trace can't be written: byte 16: META: block length is 1048";
    assert!(result.status == 2 && result.err.contains(why), "{}", result.err);
    assert!(fs::read(&out).expect("a trace") == before);
    assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 2);
}
