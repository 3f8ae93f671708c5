// SPDX-License-Identifier: MIT OR Apache-2.0
//! `import`: whole traces or none.
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
        let told = import(&["--json"], &raw, &out);
        assert_eq!((told.status, told.err.as_str()), (0, ""), "{name}");
        let bytes = fs::read(&out).expect("a trace");
        assert!(bytes == fs::read(trace(name)).expect("a trace"), "{name}");
        let told: Value = serde_json::from_str(&told.out).expect("one line");
        let (_, rounds) = run::rounds(&out);
        let pfns = rounds.last().expect("rounds").entries.len();
        let expected = json!({"event": "import", "name": name, "rounds": rounds.len() - 1,
            "pfns": pfns, "bytes": bytes.len()});
        assert_eq!(told, expected);
    }
    let told = import(&[], &path("growth-192.p2mraw.xz"), &out);
    let words = ": 16 rounds after the first copy, 131072 pfns, 17424 bytes\n";
    assert_eq!(told.out, format!("{}{words}", out.display()));
    assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1, "nothing is left over");
}

#[test]
fn a_failed_import_leaves_the_target_alone() {
    let dir = tempfile::tempdir().expect("directory");
    let (raw, out) = (dir.path().join("raw"), dir.path().join("out"));
    let whole = fs::read(path("growth-burst.p2mraw.xz")).expect("reads");
    fs::write(&raw, &whole[..whole.len() / 2]).expect("writes");
    fs::write(&out, "before").expect("writes");
    let told = import(&[], &raw, &out);
    assert_eq!((told.status, told.out.as_str()), (2, ""));
    assert!(told.err.contains("capture can't be read: byte "), "{}", told.err);
    assert_eq!(fs::read(&out).expect("reads"), b"before");
    assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 2);
}

#[test]
fn what_a_rename_would_destroy_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    let raw = dir.path().join("raw");
    fs::copy(path("idle-256.p2mraw.xz"), &raw).expect("copies");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/dev/null", &link).expect("links");
    let dotted = dir.path().join("./raw");
    for (out, why) in [
        (&raw, "is the capture itself"),
        (&dotted, "is the capture itself"),
        (&link, "there, and not a regular file"),
        (&dir.path().to_path_buf(), "there, and not a regular file"),
    ] {
        let told = import(&[], &raw, out);
        assert_eq!(told.status, 2);
        assert_eq!(told.err, format!("p2mtrack: {}: {why}\n", out.display()));
    }
    assert!(link.is_symlink());
    let told = import(&[], &raw, &dir.path().join("no/such/place"));
    assert_eq!(told.status, 2);
    assert!(told.err.contains("trace can't be written"), "{}", told.err);
}
