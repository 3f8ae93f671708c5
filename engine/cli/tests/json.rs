// SPDX-License-Identifier: MIT OR Apache-2.0
//! The schema in `docs/json.md` against what the program prints.
//! Not here: values.
//! Units: events and their keys.
//! Threads: each run is a process.
//! Source: own.

mod run;

use std::fs;
use std::path::Path;

use run::{objects, path, program, run, trace};
use serde_json::Value;

/// The chapter of a command; some commands have events of the same name.
fn chapter<'d>(docs: &'d str, command: &str) -> &'d str {
    let head = format!("\n## {command}\n");
    let start = docs.find(&head).unwrap_or_else(|| panic!("no chapter of {command}"));
    let rest = &docs[start + 1..];
    rest.find("\n## ").map_or(rest, |end| &rest[..end])
}

/// The section of an event.
fn section<'d>(docs: &'d str, event: &str) -> &'d str {
    let head = format!("\n### `{event}`");
    let start = docs.find(&head).unwrap_or_else(|| panic!("no section of {event}"));
    let rest = &docs[start + 1..];
    rest.find("\n#").map_or(rest, |end| &rest[..end])
}

fn check(docs: &str, event: &str, object: &Value) {
    for (key, value) in object.as_object().expect("an object") {
        assert!(section(docs, event).contains(&format!("`{key}`")), "{event}: no {key}");
        match (key.as_str(), value) {
            (
                "leaves" | "entries" | "structure" | "pages" | "settled" | "uncertain" | "phase_us",
                value,
            ) if value.is_object() => {
                check(docs, event, value);
            }
            (key, value) if key.starts_with("forms") => check(docs, "forms", value),
            _ => {}
        }
    }
}

#[test]
fn every_key_of_every_event_is_in_the_docs() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json.md");
    let docs = fs::read_to_string(file).expect("docs");
    let dir = tempfile::tempdir().expect("directory");
    let out = dir.path().join("out");
    let raw = path("idle-256.p2mraw.xz");
    let growth = trace("growth-192");
    let record = ["simulate", "--json", "--guest-size", "16MiB", "--record"];
    let words = ["bench", "diff.raw", "--json", "--size", "256MiB", "--plot"];
    let bench = program().args(words).arg(dir.path()).output();
    let bench = String::from_utf8(bench.expect("runs").stdout).expect("text");
    let bench = bench.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let doctor = program().args(["doctor", "--json"]).output().expect("runs").stdout;
    let doctor = String::from_utf8(doctor).expect("text");
    let doctor = doctor.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let made = dir.path().join("stream");
    let mut writer = p2mtrack_stream::writer::Writer::new(Vec::new());
    writer.headers((4, 17)).expect("memory takes it");
    writer.mark(p2mtrack_stream::record::RecordKind::End).expect("memory takes it");
    fs::write(&made, writer.into_sink()).expect("a file");
    let stream = run(&["stream", "check", "--json", "--rules"], &made).out;
    let stream = stream.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let tiled = ["simulate", "--json", "--guest-size", "64MiB", "--shape", "real", "--capture"];
    for (command, lines) in [
        ("simulate", objects(&record, &dir.path().join("run"))),
        ("simulate", objects(&tiled, &raw)),
        ("import", objects(&["import", "--json", raw.to_str().expect("text")], &out)),
        ("replay", objects(&["replay", "--json", "--check"], &growth)),
        ("inspect", objects(&["inspect", "--json"], &growth)),
        ("bench", bench),
        ("doctor", doctor),
        ("stream check", stream),
        ("inspect --pfn", objects(&["inspect", "--json", "--pfn", "5"], &growth)),
    ] {
        for line in &lines {
            check(chapter(&docs, command), line["event"].as_str().expect("an event"), line);
        }
    }
}
