// SPDX-License-Identifier: MIT OR Apache-2.0
//! `simulate` with huge guests as a user runs it: shapes, JSON, what it refuses, text.
//! Not here: whether shapes and oracle are right (unit tests of `p2mtrack_synthetic::huge`).
//! Units: guests of 64 MiB to 1 GiB, whose pages are only numbers.
//! Threads: each run is a process.
//! Source: options, keys and status are an interface: `docs/json.md`.

mod run;

use std::process::Output;

use run::{path, program};
use serde_json::Value;

fn simulate(args: &[&str]) -> Output {
    program().arg("simulate").args(args).output().expect("runs")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn lines(output: &Output) -> Vec<Value> {
    text(output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_huge_guest_is_migrated_and_judged() {
    let args = ["--shape", "runs", "--guest-size", "1GiB", "--rounds", "2", "--json"];
    let output = simulate(&args);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = lines(&output);
    let [rounds @ .., last] = lines.as_slice() else { panic!("lines") };
    let stages: Vec<_> =
        rounds.iter().map(|line| line["stage"].as_str().expect("a name")).collect();
    assert_eq!(stages, ["live", "live", "live", "final"]);
    assert_eq!(rounds[0]["pages"]["accepted"], 1 << 18);
    assert!(rounds[1..].iter().all(|round| round["entries"]["beyond_log_dirty"] != 0));
    for (key, value) in [
        ("event", "result"),
        ("scenario", "huge"),
        ("tracker", "p2mtrack"),
        ("verdict", "identical"),
        ("shape", "runs"),
    ] {
        assert_eq!(last[key], value, "{key}");
    }
    assert_eq!((&last["rounds"], &last["guest_bytes"]), (&4.into(), &(1_u64 << 30).into()));
    assert_eq!((&last["first_difference"], &last["error"]), (&Value::Null, &Value::Null));
    assert!(last["gone"].as_u64() > Some(0) && last["frames"].as_u64() < Some(1 << 18));
    assert!(last["peak_bytes"].as_u64().is_none_or(|peak| peak < 512 << 20), "{last}");
}

#[test]
fn every_shape_arrives_and_a_seed_decides() {
    let capture = path("balloon-256.p2mraw.xz");
    let real = ["real", "--capture", capture.to_str().expect("text")];
    for shape in [&["superpage"][..], &["ballooned"], &["random"], &real] {
        let run = |seed| {
            let args = ["--guest-size", "64MiB", "--json", "--seed", seed, "--shape"];
            let output = simulate(&[&args[..], shape].concat());
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let mut last = lines(&output).pop().expect("a result");
            assert_eq!(last["shape"], shape[0]);
            for key in ["build_ms", "migrate_ms", "judge_ms", "peak_bytes"] {
                last.as_object_mut().expect("an object").remove(key);
            }
            last
        };
        assert_eq!(run("7"), run("7"));
        assert_ne!(run("7"), run("8"));
    }
}

#[test]
fn the_text_has_rounds_a_verdict_and_the_command() {
    let command = "simulate --guest-size 64MiB --shape ballooned --seed 3 --rounds 1 --threads 1 \
                   --kernel wide";
    let output = program().args(command.split_whitespace()).output().expect("runs");
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    assert!(text.contains(&format!("Again with: p2mtrack {command}\n")), "{text}");
    assert!(text.contains("\nIdentical. Each of the "), "{text}");
    assert!(text.contains("\nPeak memory ") && text.contains("1 threads, kernel wide"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("live ")).count(), 1);
    assert!(output.stderr.is_empty() && !text.contains('\x1b'));
}

#[test]
fn options_that_a_huge_guest_does_not_support_are_refused_by_name() {
    for (args, named) in [
        (&["--shape", "runs", "--scenario", "balloon"][..], "--scenario"),
        (&["--guest-size", "4TiB", "--width", "32"], "--width 32"),
        (&["--shape", "runs", "--tracker", "both"], "--tracker upstream"),
        (&["--shape", "runs", "--faults", "all"], "--faults"),
        (&["--shape", "runs", "--p2m", "tree"], "--p2m tree"),
        (&["--shape", "runs", "--seeds", "1..2"], "--seeds"),
        (&["--shape", "runs", "--checkpoints", "1"], "--checkpoints"),
        (&["--shape", "runs", "--story"], "--story"),
        (&["--shape", "runs", "--record", "x"], "--record"),
        (&["--shape", "runs", "--capture", "x"], "--shape real"),
        (&["--shape", "real"], "--capture FILE"),
        (&["--shape", "real", "--capture", "/nonexistent"], "/nonexistent"),
        (&["--shape", "flat"], "superpage"),
        (&["--shape", "runs", "--guest-size", "9TiB"], "8TiB"),
        (&["--shape", "runs", "--guest-size", "1MiB"], "8MiB"),
        (&["--rounds", "2", "--guest-size", "16MiB"], "--rounds"),
        (&["--capture", "x", "--guest-size", "16MiB"], "--capture"),
    ] {
        let output = simulate(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.stdout.is_empty() && message.contains(named), "{args:?}: {message}");
    }
}
