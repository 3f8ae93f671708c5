// SPDX-License-Identifier: MIT OR Apache-2.0
//! The runner of schedules as a user runs it: interrupted and resumed, its totals, its refusals.
//! Not here: what a schedule is, or how a failure is reported (unit tests beside them).
//! Units: schedules.
//! Threads: each run is a process.
//! Source: `docs/verification.md`, "A million schedules"; keys: `docs/json.md`.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// Long enough to save the state more than twice, so that a run can be interrupted between.
const COUNT: u64 = 700;

fn schedules(state: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_schedules"));
    command.arg("--state").arg(state).args(args);
    command
}

fn done(state: &Path, args: &[&str]) -> Output {
    schedules(state, args).output().expect("runs")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// The JSON lines without the time.
fn totals(output: &Output) -> Vec<Value> {
    let text = text(output);
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let mut totals: Vec<Value> = lines.map(|line| line.parse().expect("JSON")).collect();
    for line in &mut totals {
        line.as_object_mut().expect("an object").remove("seconds");
    }
    totals
}

/// The next schedule of a state.
fn next(state: &Path) -> u64 {
    let text = std::fs::read_to_string(state).expect("a state");
    text.parse::<Value>().expect("JSON")["next"].as_u64().expect("a number")
}

#[test]
fn an_interrupted_run_ends_with_the_totals_of_a_whole_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let count = COUNT.to_string();
    let whole = done(&folder.path().join("whole"), &["--count", &count]);
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
    let state = folder.path().join("cut");
    let args = ["--count", &count];
    let mut child =
        schedules(&state, &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
    while !state.exists() {
        std::thread::sleep(Duration::from_millis(2));
        assert!(child.try_wait().expect("a child").is_none(), "done before it saved its state");
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    let before = next(&state);
    assert!((2..=COUNT).contains(&before), "killed within the range: {before}");
    // Other threads, and the range divided in another way.
    let rest = done(&state, &["--count", &count, "--threads", "1"]);
    assert_eq!(rest.status.code(), Some(0));
    assert!(text(&rest).starts_with(&format!("going on after {} schedules\n", before - 1)));
    assert_eq!(totals(&rest), totals(&whole));
    let last = totals(&whole).pop().expect("totals");
    assert_eq!((&last["event"], &last["runs"]), (&"schedules".into(), &COUNT.into()));
    assert_eq!((&last["silent"], &last["from"]), (&0.into(), &1.into()));
    assert_eq!(totals(&whole).len(), 33, "each scenario, and all");
    assert_eq!(next(&state), COUNT + 1);
    // Completed schedules are not run again, and a longer range goes on from there.
    let again = done(&state, &["--count", &count]);
    assert_eq!(totals(&again), totals(&whole));
    let longer = done(&state, &["--count", &(COUNT + 3).to_string()]);
    assert_eq!(totals(&longer).pop().expect("totals")["runs"], COUNT + 3);
}

#[test]
fn another_range_is_another_checksum() {
    let folder = tempfile::tempdir().expect("a folder");
    let checksum = |name: &str, from: &str| {
        let output = done(&folder.path().join(name), &["--count", "3", "--from", from]);
        totals(&output).pop().expect("totals")["checksum"].clone()
    };
    assert_ne!(checksum("one", "1"), checksum("two", "2"));
    assert_eq!(checksum("three", "1"), checksum("four", "1"));
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    assert_eq!(done(&state, &["--count", "3"]).status.code(), Some(0));
    let refused = |args: &[&str], why: &str| {
        let output = done(&state, args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(why), "{message}");
    };
    refused(&["--count", "3", "--from", "2"], "begins at 1");
    refused(&["--count", "2"], "is past");
    refused(&["--count", "18446744073709551615", "--from", "1"], "past the last number");
    let whole = std::fs::read_to_string(&state).expect("a state");
    let mut other: Value = whole.parse().expect("JSON");
    other["program"] = "another".into();
    std::fs::write(&state, other.to_string()).expect("written");
    refused(&["--count", "3"], "another build");
    std::fs::write(&state, &whole[..whole.len() / 2]).expect("written");
    refused(&["--count", "3"], "EOF");
}

#[test]
fn all_output_goes_into_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let args = ["--count", "5", "--log", log.to_str().expect("a path")];
    let output = done(&folder.path().join("state"), &args);
    let logged = std::fs::read_to_string(&log).expect("a log");
    assert_eq!(logged, text(&output));
    assert!(logged.contains("5 schedules from 1 on: silent: 0; "), "{logged}");
}
