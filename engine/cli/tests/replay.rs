// SPDX-License-Identifier: MIT OR Apache-2.0
//! `replay` over real and doctored recordings.
//! Not here: unusable files (`failures`).
//! Units: sums as in `NAME.json`, which another program made.
//! Threads: each run is a process.
//! Source: `tests/traces/README.md`.

mod run;

use std::fs;
use std::path::{Path, PathBuf};

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::Pfn;
use p2mtrack_trace::{NONE, Round};
use run::{ENDS, NAMES, objects, path, rounds, run, trace, write};
use serde_json::{Value, json};

/// `NAME.json` with the spacing of this program.
fn expected(name: &str) -> String {
    fs::read_to_string(path(&format!("{name}.json"))).expect("sums").trim_end().replace(' ', "")
}

#[test]
fn replay_check_json_equals_what_another_program_found() {
    for name in NAMES {
        for end in ENDS {
            let ended = run(&["replay", "--check", "--json"], &path(&format!("{name}.{end}")));
            assert_eq!((ended.status, ended.err.as_str()), (0, ""), "{name}.{end}");
            assert_eq!(ended.out.lines().last(), Some(expected(name).as_str()), "{name}.{end}");
        }
    }
}

#[test]
fn replay_finds_in_live_recordings_what_the_oracle_does() {
    for name in ["live-balloon", "live-growth", "live-tree", "shared-identity-leaf"] {
        let ended = run(&["replay", "--check", "--json"], &trace(name));
        assert_eq!((ended.status, ended.err.as_str()), (0, ""), "{name}");
        assert_eq!(ended.out.lines().last(), Some(expected(name).as_str()), "{name}");
    }
}

#[test]
fn without_a_check_missed_and_pending_are_unknown() {
    for name in NAMES {
        let mut sums: Value = serde_json::from_str(&expected(name)).expect("sums");
        (sums["missed"], sums["pending"]) = (Value::Null, Value::Null);
        assert_eq!(objects(&["replay", "--json"], &trace(name)).last(), Some(&sums));
    }
}

#[test]
fn rounds_add_up_to_the_end() {
    for name in NAMES {
        let lines = objects(&["replay", "--json"], &trace(name));
        let (first, end) = (&lines[0], &lines[lines.len() - 1]);
        let rounds = &lines[1..lines.len() - 1];
        assert_eq!((&first["event"], &end["event"]), (&json!("first_copy"), &json!("replay")));
        assert_eq!(json!(rounds.len()), end["rounds"]);
        for (number, round) in (1..).zip(rounds) {
            assert_eq!((&round["event"], &round["round"]), (&json!("round"), &json!(number)));
        }
        let sum =
            |key: &str| rounds.iter().map(|round| round[key].as_u64().expect(key)).sum::<u64>();
        for key in ["leaves_dirty", "leaves_new", "entries_changed", "mapped", "unmapped"] {
            assert_eq!(json!(sum(key)), end[key], "{name} {key}");
        }
        for key in ["remapped", "other", "beyond_log_dirty"] {
            assert_eq!(json!(sum(key)), end[key], "{name} {key}");
        }
    }
}

#[test]
fn kernels_and_threads_find_the_same() {
    let plain = run(&["replay", "--json"], &trace("balloon-256")).out;
    let later = |out: &str| out.split_once('\n').expect("lines").1.to_owned();
    for kernel in ["scalar", "wide"] {
        for threads in ["1", "4"] {
            let words = ["replay", "--json", "--kernel", kernel, "--threads", threads];
            let out = run(&words, &trace("balloon-256")).out;
            assert_eq!(later(&out), later(&plain));
            let first: Value =
                serde_json::from_str(out.lines().next().expect("a line")).expect("JSON");
            assert_eq!(first["kernel"], json!(kernel));
            assert_eq!(first["threads"].to_string(), threads);
        }
    }
}

#[test]
fn text_ends_with_the_verdict() {
    let out = run(&["replay", "--check"], &trace("balloon-256")).out;
    for sentence in [
        "60344 p2m entries changed in 14 rounds.",
        "31470 of them are beyond log-dirty",
        "nothing was missed.",
        "185 changes came after the last reading of log-dirty",
    ] {
        assert!(out.contains(sentence), "{sentence}\n{out}");
    }
    let out = run(&["replay"], &trace("idle-256")).out;
    assert!(out.ends_with("No p2m entry changed in 12 rounds.\n"), "{out}");
}

/// A pfn of an idle guest, and the pfn of its leaf.
const PFN: usize = 5 * 512 + 7;

/// An idle guest in which one pfn changes: its entry in each of the first rounds, and the rounds
/// whose log names its leaf.
fn one_change(dir: &Path, lives: &[Option<u64>], dirty: &[usize]) -> PathBuf {
    let (meta, mut rounds) = rounds(&trace("idle-256"));
    let was = rounds[0].entries[PFN];
    assert!(was < meta.max_mfn, "a frame");
    for (number, round) in rounds.iter_mut().enumerate() {
        let now = lives[number.min(lives.len() - 1)];
        round.entries[PFN] = now.map_or(was, |entry| entry);
        let leaf = Pfn(round.leaf_pfns[PFN / 512]);
        if let Some(log) = &mut round.log_dirty {
            mark(log, leaf, dirty.contains(&number));
            mark(log, Pfn(PFN as u64), false);
        }
    }
    write(dir, &meta, &rounds)
}

fn mark(log: &mut PfnBitmap, pfn: Pfn, dirty: bool) {
    if dirty {
        log.set(pfn)
    } else {
        log.clear(pfn)
    };
}

/// Status, missed and pending of a checked replay.
fn checked(file: &Path) -> (i32, Value, Value) {
    let ended = run(&["replay", "--check", "--json"], file);
    assert_eq!(ended.err, "");
    let end: Value = serde_json::from_str(ended.out.lines().last().expect("a line")).expect("JSON");
    (ended.status, end["missed"].clone(), end["pending"].clone())
}

#[test]
fn missed_is_what_neither_its_round_nor_the_next_owed() {
    let dir = tempfile::tempdir().expect("directory");
    let gone = [None, None, None, Some(NONE)]; // from round 3 on
    let found = |dirty: &[usize]| checked(&one_change(dir.path(), &gone, dirty));
    assert_eq!(found(&[3]), (0, json!(0), json!(0)));
    assert_eq!(found(&[4]), (0, json!(0), json!(0)), "written after round 3's CLEAN");
    assert_eq!(found(&[5]), (1, json!(1), json!(0)), "found, but too late");
    assert_eq!(found(&[]), (1, json!(1), json!(0)), "counted once");
    let ended = run(&["replay", "--check"], &one_change(dir.path(), &gone, &[]));
    assert!(ended.out.contains("MISSED: 1 change was found neither"), "{}", ended.out);
    assert_eq!(run(&["replay"], &one_change(dir.path(), &gone, &[])).status, 0, "without --check");
}

#[test]
fn a_change_and_its_reverse_within_two_rounds_is_no_miss() {
    let dir = tempfile::tempdir().expect("directory");
    let back = [None, None, Some(NONE), None];
    assert_eq!(checked(&one_change(dir.path(), &back, &[3])), (0, json!(0), json!(0)));
    let twice = [None, None, Some(NONE), Some(NONE), None, None, Some(NONE)];
    assert_eq!(checked(&one_change(dir.path(), &twice, &[])), (1, json!(2), json!(0)));
}

#[test]
fn pending_is_what_came_after_the_last_clean() {
    let dir = tempfile::tempdir().expect("directory");
    let mut late = vec![None; 12];
    late.push(Some(NONE));
    assert_eq!(checked(&one_change(dir.path(), &late, &[])), (0, json!(0), json!(1)));
    let mut before = vec![None; 11];
    before.push(Some(NONE));
    assert_eq!(checked(&one_change(dir.path(), &before, &[])), (1, json!(1), json!(0)));
}

#[test]
fn a_pfn_that_log_dirty_names_is_owed_even_if_its_leaf_is_not_dirty() {
    let dir = tempfile::tempdir().expect("directory");
    let file = one_change(dir.path(), &[None, None, None, Some(NONE)], &[]);
    let (meta, mut rounds) = rounds(&file);
    let log = |round: &mut Round| _ = round.log_dirty.as_mut().map(|log| log.set(Pfn(PFN as u64)));
    log(&mut rounds[4]);
    assert_eq!(checked(&write(dir.path(), &meta, &rounds)).0, 0);
}

#[test]
fn entries_of_a_shared_leaf_without_frames_are_not_owed() {
    let first = &objects(&["replay", "--json"], &trace("shared-identity-leaf"))[0];
    assert_eq!((&first["pfns"], &first["pfns_owed"]), (&json!(5120), &json!(4096)));
    let out = run(&["replay", "--check"], &trace("shared-identity-leaf")).out;
    assert!(out.starts_with("First copy: 5120 pfns in 10 leaves, 4096 owed.\n"), "{out}");
    assert!(out.ends_with("every entry of every round: nothing was missed.\n"), "{out}");
}

/// Inserts rounds without a p2m.
fn hide(rounds: &mut Vec<Round>, at: usize, count: usize) {
    let mut hidden = Round { log_dirty: rounds[at].log_dirty.clone(), ..Round::default() };
    (hidden.before, hidden.after) = (rounds[at].before, rounds[at].after);
    (hidden.before.pfn_count, hidden.after.pfn_count) = (0, 0);
    rounds.splice(at..at, std::iter::repeat_n(hidden, count));
}

#[test]
fn a_p2m_that_was_hidden_for_a_round_is_known_as_before() {
    let dir = tempfile::tempdir().expect("directory");
    let hidden = |name: &str, at: usize| {
        let (meta, mut rounds) = rounds(&trace(name));
        hide(&mut rounds, at, 1);
        write(dir.path(), &meta, &rounds)
    };
    for name in NAMES {
        let sums: Value = serde_json::from_str(&expected(name)).expect("sums");
        for at in [2, 5, 8] {
            let found = checked(&hidden(name, at));
            assert_eq!(found, (0, json!(0), sums["pending"].clone()), "{name} round {at}");
        }
    }
    let out = run(&["replay", "--check"], &hidden("idle-256", 4)).out;
    assert!(out.contains("every entry of 13 of 14 rounds: nothing was missed there."), "{out}");
    let unreadable = |line: &Value| line["p2m_unreadable"] == json!(true);
    let lines = objects(&["replay", "--json"], &hidden("idle-256", 4));
    let rounds = lines.iter().filter(|line| unreadable(line)).map(|line| &line["round"]);
    assert_eq!(rounds.collect::<Vec<_>>(), [&json!(4)]);
}

#[test]
fn a_miss_is_found_though_the_p2m_is_hidden_in_between() {
    let dir = tempfile::tempdir().expect("directory");
    let gone = [None, None, None, Some(NONE)]; // from round 3 on
    let (meta, mut rounds) = rounds(&one_change(dir.path(), &gone, &[]));
    let backing_pfns = |round: &Round| {
        let leaves =
            round.leaf_mfns.iter().zip(&round.leaf_pfns).map(|(&mfn, &pfn)| (mfn, Some(pfn)));
        let upper = round.upper.iter().map(|frame| (frame.mfn.0, frame.pfn.map(|pfn| pfn.0)));
        leaves.chain(upper).collect()
    };
    hide(&mut rounds, 4, 1);
    rounds[4].exceptions = backing_pfns(&rounds[3]);
    assert_eq!(checked(&write(dir.path(), &meta, &rounds)), (1, json!(1), json!(0)));
    // Hidden from then on: the difference was found by one check only.
    rounds.truncate(5);
    assert_eq!(checked(&write(dir.path(), &meta, &rounds)), (0, json!(0), json!(1)));
    // Only the first copy could be checked.
    rounds.drain(1..4);
    let ended = run(&["replay", "--check", "--json"], &write(dir.path(), &meta, &rounds));
    assert_eq!((ended.status, ended.err.as_str()), (1, ""), "a check that was not made");
}

#[test]
fn a_check_that_could_not_find_anything_is_not_passed() {
    let dir = tempfile::tempdir().expect("directory");
    let (meta, mut rounds) = rounds(&trace("balloon-256"));
    rounds.truncate(2);
    let two = run(&["replay", "--check"], &write(dir.path(), &meta, &rounds));
    let passed = "Checked against every entry of every round: nothing was missed.";
    assert!(two.status == 0 && two.out.contains(passed), "{}", two.out);
    rounds.truncate(1);
    let one = write(dir.path(), &meta, &rounds);
    let ended = run(&["replay", "--check"], &one);
    let words = "NOT CHECKED: 1 round with the first copy, at least 2 are needed.";
    assert!(ended.status == 1 && ended.out.contains(words), "{}", ended.out);
    assert!(!ended.out.contains("nothing was missed"), "{}", ended.out);
    assert_eq!(checked(&one), (1, json!(0), json!(0)));
    assert_eq!(run(&["replay"], &one).status, 0, "without --check");
}
