// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stream check`: lines, JSON and exit status.
//! Not here: which fault breaks which rule (`tests/stream_rules.rs`).
//! Units: offsets in bytes.
//! Threads: each run is a process.
//! Source: own.

mod run;

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use p2mtrack::frame::Width;
use p2mtrack_stream::check::Rule;
use p2mtrack_stream::record::RecordKind;
use p2mtrack_stream::writer::Writer;
use run::{ended, program, reader_gone, run};
use serde_json::{Value, json};

/// A stream without pages. It breaks rules.
fn bare() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.headers((4, 17)).expect("memory");
    writer.pv_info(Width::W64).expect("memory");
    writer.static_data_end().expect("memory");
    writer.mark(RecordKind::End).expect("memory");
    writer.into_sink()
}

fn file(dir: &tempfile::TempDir, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join("stream");
    fs::write(&path, bytes).expect("a file");
    path
}

#[test]
fn each_breach_is_a_line_of_offset_rule_and_words() {
    let dir = tempfile::tempdir().expect("directory");
    let path = file(&dir, &bare());
    let text = run(&["stream", "check"], &path);
    let lines: Vec<_> = text.out.lines().collect();
    assert_eq!((text.status, text.err.as_str(), lines.len()), (1, "", 4));
    assert_eq!(lines[0], "64 state-missing no X86_TSC_INFO came before END");
    assert!(lines[3].starts_with("libxc, version 3: 3 records, "), "{}", lines[3]);
    let out = run(&["stream", "check", "--json"], &path);
    let objects: Vec<Value> =
        out.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        objects[0],
        json!({"event": "broken", "offset": 64, "rule": "state-missing",
            "words": "no X86_TSC_INFO came before END"})
    );
    assert_eq!(
        objects[3],
        json!({"event": "checked", "format": "libxc", "version": 3, "records": 3, "pages": 0,
            "pfns": 0, "tables": 0, "checkpoints": 0, "broken": 3})
    );
}

#[test]
fn standard_input_is_a_stream_too() {
    let mut child = program()
        .args(["stream", "check", "-", "--format", "libxc"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    child.stdin.take().expect("a pipe").write_all(&bare()).expect("takes it");
    let ended = ended(child.wait_with_output().expect("ends"));
    assert_eq!((ended.status, ended.out.lines().count()), (1, 4));
}

#[test]
fn what_is_no_stream_is_unreadable() {
    let dir = tempfile::tempdir().expect("directory");
    for bytes in [&b""[..], b"P2MTRACE0000000000"] {
        let out = run(&["stream", "check"], &file(&dir, bytes));
        assert_eq!((out.status, out.out.as_str()), (2, ""));
        assert!(out.err.contains("no migration stream"), "{}", out.err);
    }
    for path in [dir.path().join("nothing"), dir.path().to_owned()] {
        let out = run(&["stream", "check"], &path);
        assert_eq!(out.status, 2);
        assert!(out.err.contains("the stream can't be read: "), "{}", out.err);
    }
    // With a format, the first bytes are held against that.
    let out = run(&["stream", "check", "--format", "libxl"], &file(&dir, &bare()));
    assert!(out.status == 1 && out.out.starts_with("0 libxl-ident "), "{}", out.out);
}

#[test]
fn rules_are_listed() {
    let out = ended(program().args(["stream", "check", "--rules"]).output().expect("runs"));
    assert_eq!((out.status, out.out.lines().count()), (0, Rule::ALL.len()));
    for rule in Rule::ALL {
        assert!(out.out.contains(rule.text()), "{rule}");
    }
    let nothing = ended(program().args(["stream", "check"]).output().expect("runs"));
    assert_eq!(nothing.status, 2);
}

#[test]
fn the_verdict_holds_if_the_reader_goes_away() {
    let dir = tempfile::tempdir().expect("directory");
    let path = file(&dir, &bare());
    let out = reader_gone(program().args(["stream", "check"]).arg(path));
    assert_eq!((out.status, out.err.as_str()), (1, ""));
}
