// SPDX-License-Identifier: MIT OR Apache-2.0
//! `inspect`: recordings as a whole, and single pfns.
//! Not here: what a replay finds (`replay`).
//! Units: sums as in the captures' own table.
//! Threads: each run is a process.
//! Source: `tests/traces/README.md`; sums by the recorder's own script, in another language.

mod run;

use p2mtrack::frame::Pfn;
use p2mtrack_trace::{NONE, Round};
use run::{NAMES, objects, path, rounds, run, trace, write};
use serde_json::{Value, json};

/// Leaves at first and at last, new, dirty, upper dirty, rounds with a changed generation, the last
/// generation, pfns dirty.
const SUMS: [[u64; 8]; 5] = [
    [128, 128, 0, 0, 0, 0, 0, 4625],
    [128, 128, 0, 263, 0, 0, 0, 41921],
    [96, 256, 160, 227, 2, 2, 256, 17237],
    [128, 128, 0, 245, 0, 0, 0, 44734],
    [96, 448, 352, 321, 2, 2, 640, 986],
];

#[test]
fn sums_are_those_of_the_recorders_script() {
    for (name, sums) in NAMES.into_iter().zip(SUMS) {
        let lines = objects(&["inspect", "--json"], &trace(name));
        let (meta, end) = (&lines[0], &lines[lines.len() - 1]);
        assert_eq!((&meta["event"], &meta["name"]), (&json!("meta"), &json!(name)));
        assert_eq!((&meta["kind"], &meta["width"]), (&json!("trace"), &json!(64)));
        let keys = [
            "leaves_first",
            "leaves_last",
            "leaves_new",
            "leaves_dirty",
            "upper_dirty",
            "rounds_with_generation_change",
            "generation_last",
            "log_dirty_pfns",
        ];
        for (key, sum) in keys.into_iter().zip(sums) {
            assert_eq!(end[key], json!(sum), "{name} {key}");
        }
        assert_eq!(lines.len() as u64, end["rounds"].as_u64().expect("rounds") + 3);
    }
}

#[test]
fn a_capture_shows_what_its_trace_shows() {
    let of = |file: &str| {
        let mut lines = objects(&["inspect", "--json"], &path(file));
        lines[0]["kind"] = Value::Null;
        lines
    };
    assert_eq!(of("growth-192.p2mraw.xz"), of("growth-192.p2mtrace"));
}

#[test]
fn every_leaf_has_one_form() {
    for name in NAMES {
        for line in &objects(&["inspect", "--json"], &trace(name))[1..] {
            let Some(forms) = line.get("forms").and_then(Value::as_object) else { continue };
            let sum: u64 = forms.values().map(|count| count.as_u64().expect("a count")).sum();
            assert_eq!(json!(sum), line["leaves"]);
        }
    }
    // A guest that never ballooned: one run in every leaf.
    let first = &objects(&["inspect", "--json"], &trace("growth-192"))[1];
    assert_eq!((&first["forms"]["affine"], &first["leaves"]), (&json!(96), &json!(96)));
}

#[test]
fn text_is_for_people() {
    let out = run(&["inspect"], &trace("growth-192")).out;
    for words in
        ["growth-192: a trace\n", "linear list, 49152 pfns", "Xen 4.17.5", "96 to 256 leaves"]
    {
        assert!(out.contains(words), "{words}\n{out}");
    }
}

/// What the history of a pfn must have for a round.
fn of_round(round: &Round, number: usize, pfn: usize) -> [Value; 5] {
    let entry = round.entries.get(pfn).copied();
    let claim = match entry {
        None => "none",
        Some(NONE) => "invalid",
        Some(_) => "frame",
    };
    let mfn = entry.filter(|&entry| entry != NONE);
    let bit = |pfn: u64| round.log_dirty.as_ref().map(|log| log.get(Pfn(pfn)));
    let leaf = round.leaf_pfns.get(pfn / 512).and_then(|&leaf| bit(leaf));
    [json!(number), json!(claim), json!(mfn), json!(bit(pfn as u64)), json!(leaf)]
}

#[test]
fn the_life_of_a_pfn_is_what_was_recorded() {
    for (name, pfn) in [("balloon-256", 0x9000), ("balloon-256", 3), ("growth-192", 50_000)] {
        let (_, rounds) = rounds(&trace(name));
        let lines = objects(&["inspect", "--json", "--pfn", &pfn.to_string()], &trace(name));
        assert_eq!(lines.len(), rounds.len() + 1);
        for (number, (line, round)) in lines.iter().zip(&rounds).enumerate() {
            let keys = ["round", "claim", "mfn", "log_dirty", "leaf_log_dirty"];
            assert_eq!(keys.map(|key| line[key].clone()), of_round(round, number, pfn), "{name}");
            // In every capture the m2p agrees with the p2m.
            let m2p = if line["mfn"].is_null() { Value::Null } else { json!(pfn) };
            assert_eq!((&line["event"], &line["m2p"]), (&json!("pfn"), &m2p));
        }
    }
}

#[test]
fn a_life_says_why_a_pfn_was_owed() {
    let lines = objects(&["inspect", "--json", "--pfn", "0x9000"], &trace("balloon-256"));
    let owed = |round: usize| lines[round]["owed"].clone();
    assert_eq!(owed(0), json!([]), "no frame at first");
    assert_eq!(owed(1), json!(["entry"]), "mapped, and not written");
    assert_eq!(owed(7), json!(["log-dirty", "entry"]), "another frame, and written");
    assert_eq!(owed(8), json!([]));
    let end = json!({"event": "life", "pfn": 0x9000, "rounds": 14, "rounds_owed": 2,
        "rounds_owed_beyond_log_dirty": 1});
    assert_eq!(lines.last(), Some(&end));
    assert_eq!(
        objects(&["inspect", "--json", "--pfn", "7"], &trace("idle-256"))[0]["owed"],
        json!(["first"])
    );
    let out = run(&["inspect", "--pfn", "36864"], &trace("balloon-256")).out;
    assert!(out.starts_with("pfn 0x9000\n") && out.contains("log-dirty, entry\n"), "{out}");
    assert!(out.ends_with(
        "Owed in 2 of 14 rounds after the first copy; in 1 of them log-dirty did not name it.\n"
    ));
}

#[test]
fn a_life_shows_tags_and_an_m2p_that_disagrees() {
    let dir = tempfile::tempdir().expect("directory");
    let (meta, mut rounds) = rounds(&trace("idle-256"));
    let [foreign, identity] = [1 << 63 | 77, 1 << 62 | 5];
    let at = 5 * 512;
    for round in &mut rounds {
        (round.entries[at], round.entries[at + 1]) = (foreign, identity);
        round.exceptions.insert(round.entries[at + 2], Some(9));
    }
    let file = write(dir.path(), &meta, &rounds);
    let first = |pfn: usize| {
        let line = &objects(&["inspect", "--json", "--pfn", &pfn.to_string()], &file)[0];
        (line["claim"].clone(), line["mfn"].clone(), line["m2p"].clone())
    };
    assert_eq!((first(at).0, first(at).1), (json!("foreign"), json!(77)));
    assert_eq!(first(at + 1), (json!("identity"), Value::Null, Value::Null));
    assert_eq!(first(at + 2), (json!("frame"), json!(rounds[0].entries[at + 2]), json!(9)));
}

#[test]
fn a_pfn_that_never_was_is_an_error() {
    for (name, pfn, covered) in [("idle-256", "65536", 65_536), ("growth-192", "0x20000", 131_072)]
    {
        let ended = run(&["inspect", "--pfn", pfn], &trace(name));
        let file = trace(name);
        assert_eq!((ended.status, ended.out.as_str()), (2, ""));
        let number = if covered == 65_536 { "0x10000" } else { "0x20000" };
        let words = format!("it covers {covered} pfns, pfn {number} is not one of them");
        assert_eq!(ended.err, format!("p2mtrack: {}: {words}\n", file.display()));
    }
}
