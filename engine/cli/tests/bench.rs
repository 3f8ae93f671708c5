// SPDX-License-Identifier: MIT OR Apache-2.0
//! `bench` as a user runs it, on a guest whose p2m is small.
//! Not here: the values of figures.
//! Units: figures.
//! Threads: each run is a process.
//! Source: own.

mod run;

use std::fs;

use run::{Ended, ended, program};
use serde_json::Value;

fn bench(words: &[&str]) -> Ended {
    ended(program().args(["bench", "--size", "256MiB"]).args(words).output().expect("runs"))
}

#[test]
fn json_is_the_machine_and_a_figure_a_line() {
    let ended = bench(&["diff.affine", "--json", "--threads", "3", "--kernel", "wide"]);
    assert_eq!((ended.status, ended.err.as_str()), (0, ""));
    let lines: Vec<Value> =
        ended.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&lines[0]["event"], &lines[0]["kernel"]), (&"machine".into(), &"wide".into()));
    let names: Vec<_> = lines[1..].iter().map(|line| &line["name"]).collect();
    assert_eq!(names, ["diff.affine", "diff.affine.superpage", "diff.affine.segments"]);
    let figure = &lines[1];
    assert_eq!((&figure["unit"], &figure["goal"]), (&"x".into(), &1.9.into()));
    assert_eq!((&figure["threads"], &figure["kernel"]), (&3.into(), &"wide".into()));
    assert!(figure["value"].is_f64() && figure["met"].is_boolean() && figure["floor"].is_f64());
    assert!(figure["peers"]["memcmp"].is_f64() && figure["peers"]["wide"].is_null());
}

#[test]
fn a_missed_goal_is_an_error_with_strict() {
    let ended = bench(&["diff.density", "--json", "--strict"]);
    let figures: Vec<Value> =
        ended.out.lines().skip(1).map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names = figures.iter().map(|figure| figure["name"].as_str().expect("a name"));
    assert!(names.clone().all(|name| name.starts_with("diff.density")) && names.count() == 5);
    let missed = figures.iter().any(|figure| figure["met"] == false);
    assert_eq!((ended.status, ended.err.as_str()), (i32::from(missed), ""));
}

#[test]
fn figures_are_drawn_into_the_directory() {
    let dir = tempfile::tempdir().expect("directory");
    let (inner, full) = (dir.path().join("a/b"), dir.path().join("file"));
    let ended = bench(&["diff.raw", "--json", "--plot", inner.to_str().expect("text")]);
    assert_eq!((ended.status, ended.err.as_str()), (0, ""));
    let last: Value = serde_json::from_str(ended.out.lines().last().expect("lines")).expect("JSON");
    assert_eq!((&last["event"], &last["threads"]), (&"scaling".into(), &2.into()));
    for name in ["roofline.svg", "scaling.svg"] {
        let svg = fs::read_to_string(inner.join(name)).expect("a drawing");
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    }
    fs::write(&full, "").expect("writes");
    let ended = bench(&["diff.raw", "--plot", full.to_str().expect("text")]);
    assert_eq!((ended.status, ended.out.as_str()), (2, ""));
}

#[test]
fn only_what_was_asked_for_is_printed_and_a_table_is_for_people() {
    let ended = bench(&["bitmap.take.dense.full"]);
    assert_eq!((ended.status, ended.err.as_str()), (0, ""));
    let figures = ended.out.lines().filter(|line| line.starts_with("bitmap."));
    assert_eq!(figures.count(), 1);
    assert!(ended.out.ends_with("0 goals reached, 0 missed.\n"));
}

#[test]
fn unusable_names_and_sizes_are_refused() {
    for (words, says) in [
        (&["diff.none"][..], "no figure is called \"diff.none\""),
        (&["--threads", "0"], "0 is not in 1..=1024"),
        (&["--size", "1MiB"], "from 256MiB to 4TiB"),
    ] {
        let ended = ended(program().arg("bench").args(words).output().expect("runs"));
        assert_eq!((ended.status, ended.out.as_str()), (2, ""), "{words:?}");
        assert!(ended.err.contains(says), "{}", ended.err);
    }
}
