// SPDX-License-Identifier: MIT OR Apache-2.0
//! `simulate` as a user runs it: options, JSON, exit status, plain text, recording.
//! Not here: whether the engine is right (`tests/simulation.rs`).
//! Units: guests of 16 to 64 MiB.
//! Threads: each run is a process.
//! Source: options, keys and status are an interface: `docs/json.md`.

use std::process::{Command, Output};

use serde_json::Value;

fn simulate(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2mtrack"));
    command.arg("simulate").args(args).env_remove("NO_COLOR").output().expect("runs")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn lines(output: &Output) -> Vec<Value> {
    text(output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn every_run_ends_with_its_result() {
    let output =
        simulate(&["--scenario", "balloon", "--seed", "4", "--guest-size", "32MiB", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let lines = lines(&output);
    let [other, rounds @ .., last] = lines.as_slice() else { panic!("lines") };
    assert_eq!((&other["event"], &other["tracker"]), (&"result".into(), &"upstream".into()));
    assert!(rounds.len() >= 2 && rounds.iter().all(|line| line["event"] == "round"));
    let keys: Vec<_> = last.as_object().expect("an object").keys().map(String::as_str).collect();
    let interface = "event scenario seed tracker verdict mismatched_pfns leaked_pfns error";
    assert_eq!(keys[..8], interface.split(' ').collect::<Vec<_>>());
    assert_eq!((&last["event"], &last["scenario"]), (&"result".into(), &"balloon".into()));
    assert_eq!((&last["seed"], &last["tracker"]), (&4.into(), &"p2mtrack".into()));
    assert_eq!((&last["verdict"], &last["error"]), (&"identical".into(), &Value::Null));
}

#[test]
fn seeds_include_both_ends_and_scenarios_come_in_order() {
    let args = ["--scenario", "all", "--seeds", "3..4", "--guest-size", "16MiB", "--json"];
    let output = simulate(&args);
    let lines = lines(&output);
    assert_eq!(lines.len(), 128);
    let head = [("upstream", 3), ("p2mtrack", 3), ("upstream", 4), ("p2mtrack", 4)];
    for (line, (tracker, seed)) in lines.iter().zip(head) {
        assert_eq!((&line["scenario"], &line["seed"]), (&"quiet".into(), &seed.into()));
        assert_eq!(line["tracker"], tracker);
    }
    let bad: Vec<_> = lines
        .iter()
        .filter(|line| line["tracker"] == "p2mtrack" && line["verdict"] != "identical")
        .collect();
    // The first one's p2m is false, the second is refused by the policy for foreign PTEs.
    let refused = [Value::from("hostile"), "foreign-pte".into()];
    assert!(
        bad.iter().all(|line| refused.contains(&line["scenario"]) && line["verdict"] == "aborted")
    );
    assert_eq!(output.status.code(), Some(if bad.is_empty() { 0 } else { 3 }));
}

#[test]
fn the_same_seed_prints_the_same_but_for_times() {
    let args = ["--scenario", "mixed", "--seed", "9", "--guest-size", "64MiB", "--json"];
    let timeless = || {
        let mut lines = lines(&simulate(&args));
        for line in &mut lines {
            line.as_object_mut().expect("an object").remove("phase_us");
        }
        lines
    };
    assert_eq!(timeless(), timeless());
}

#[test]
fn a_fault_that_ends_a_run_is_named_and_has_its_status() {
    let args =
        ["--scenario", "writes", "--seeds", "1..6", "--guest-size", "16MiB", "--faults", "cancel"];
    let output = simulate(&[&args[..], &["--json", "--tracker", "p2mtrack"]].concat());
    assert_eq!(output.status.code(), Some(3));
    let lines = lines(&output);
    let aborted: Vec<_> = lines.iter().filter(|line| line["verdict"] == "aborted").collect();
    assert!(!aborted.is_empty());
    for line in aborted {
        assert_eq!((&line["fault"], &line["error"]), (&"cancel".into(), &"cancelled".into()));
        assert_eq!(line["source_unharmed"], true);
    }
}

#[test]
fn text_is_plain_without_a_terminal_and_ends_with_a_verdict() {
    let output = simulate(&["--scenario", "remus", "--seed", "2", "--guest-size", "16MiB"]);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    assert!(!text.contains('\x1b'), "{text}");
    assert!(text.contains("Identical. Every page, page table and frame"), "{text}");
    assert!(text.contains("simulate --scenario remus --seed 2"), "{text}");
    assert!(output.stderr.is_empty());
}

#[test]
fn a_table_sums_up_many_runs() {
    let output = simulate(&["--scenario", "balloon", "--seeds", "1..5", "--guest-size", "16MiB"]);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    assert!(text.contains("p2mtrack: 5 runs, none corrupt, none leaked; 5 identical"), "{text}");
    assert!(text.contains("upstream: ") && text.contains(" of 5 runs went wrong"), "{text}");
}

#[test]
fn one_tracker_or_both_and_the_status_is_the_engines() {
    let args = ["--scenario", "tree-reshape", "--seeds", "1..4", "--guest-size", "64MiB"];
    for (tracker, names) in [
        ("p2mtrack", &["p2mtrack"][..]),
        ("upstream", &["upstream"]),
        ("both", &["upstream", "p2mtrack"]),
    ] {
        let output = simulate(&[&args[..], &["--tracker", tracker, "--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{tracker}");
        let lines = lines(&output);
        assert_eq!(lines.len(), 4 * names.len());
        let expected = names.iter().cycle();
        assert!(lines.iter().zip(expected).all(|(line, name)| line["tracker"] == *name));
        let identical = |name| {
            lines.iter().filter(|l| l["tracker"] == name && l["verdict"] == "identical").count()
        };
        assert_eq!(identical("p2mtrack"), if names.contains(&"p2mtrack") { 4 } else { 0 });
        assert_eq!(identical("upstream"), 0);
    }
}

/// The command that a run prints is complete: run again, it prints itself.
#[test]
fn the_printed_command_is_the_whole_command() {
    let args = "--scenario mixed --seed 5 --guest-size 8MiB --width 32 --p2m tree --checkpoints 1 \
                --faults lost-ack,cancel --steps 200 --programs 1-9,12 --no-plain-writes --threads 1 \
                --kernel wide";
    let args: Vec<_> = args.split_whitespace().collect();
    let text = text(&simulate(&args));
    let wanted = format!("Again with: p2mtrack simulate {}\n", args.join(" "));
    assert!(text.contains(&wanted), "{text}");
}

#[test]
fn a_story_lists_the_programs_that_are_left() {
    let args = ["--scenario", "mixed", "--seed", "5", "--guest-size", "16MiB", "--story", "--json"];
    let programs = |limits: &[&str]| {
        let mut lines = lines(&simulate(&[&args[..], limits].concat()));
        assert_eq!(lines.pop().expect("a result")["event"], "result");
        lines.retain(|line| line["event"] == "program");
        lines
    };
    let all = programs(&[]);
    assert!(all.len() > 10, "{}", all.len());
    let two = &all[3..5];
    let list = format!("{},{}", two[0]["number"], two[1]["number"]);
    assert_eq!(programs(&["--programs", &list]), two);
    let steps = two[1]["step"].to_string();
    assert_eq!(programs(&["--steps", &steps]), all[..5]);
    assert!(programs(&["--programs", "none"]).is_empty());
    let text = text(&simulate(&[&args[..7], &["--programs", &list]].concat()));
    assert_eq!(text.lines().filter(|line| line.starts_with("program ")).count(), 2, "{text}");
}

#[test]
fn a_program_that_does_not_exist_is_refused() {
    for (scenario, seed) in [("balloon", "5"), ("mixed", "7"), ("grant-map", "2")] {
        let guest = ["--guest-size", "16MiB", "--scenario", scenario, "--seed", seed];
        let run = |programs: &str, words: &[&str]| {
            let output = simulate(&[&guest[..], words, &["--programs", programs]].concat());
            if output.status.code() == Some(2) {
                assert_eq!(output.stdout, b"", "before the run");
            }
            (output.status.code(), String::from_utf8(output.stderr).expect("text"))
        };
        let (status, words) = run("1-99999", &[]);
        let start = "p2mtrack: simulate: --programs names 99999, and the guest has ";
        assert!(status == Some(2) && words.starts_with(start), "{words}");
        assert!(words.ends_with(" programs: see --story\n"), "{words}");
        // The last program alone: the guest may begin fewer, and the number is accepted.
        let last = words[start.len()..].split(' ').next().expect("a number");
        for words in [&[][..], &["--json"], &["--tracker", "p2mtrack"]] {
            assert_eq!(run(last, words), (Some(0), String::new()), "{scenario} {words:?}");
        }
        assert_eq!(run("none", &[]), (Some(0), String::new()));
        // Also if upstream's migration aborts.
        assert_eq!(run("99999", &["--tracker", "upstream"]).0, Some(2), "{scenario}");
    }
}

#[test]
fn a_program_that_one_of_many_guests_has_is_enough() {
    let guests = ["--scenario", "balloon", "--guest-size", "16MiB", "--seeds", "3..5"];
    let many = |words: &[&str]| {
        let output = simulate(&[&guests[..], words].concat());
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    // Seed 3 has six, seed 5 has more than a hundred.
    assert_eq!(many(&["--programs", "100"]), (Some(0), String::new()));
    for tracker in ["p2mtrack", "upstream", "both"] {
        let (status, words) = many(&["--programs", "99999", "--tracker", tracker]);
        assert!(status == Some(2) && words.contains("names 99999"), "{tracker}: {words}");
    }
    // For an aborted migration the programs up to the abort count.
    let (status, _) = many(&["--programs", "99999", "--faults", "cancel"]);
    assert_eq!(status, Some(2));
}

#[test]
fn scenarios_are_explained() {
    let output = simulate(&["--scenario", "list"]);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    let names: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let interface = "quiet writes balloon balloon-same-frame exchange grant-map transfer-in hotplug \
                     shrink linear-reshape tree-reshape leaf-moved root-swap frame-swap p2m-first \
                     m2p-first page-tables backend-writes remus hostile mixed same-pfn foreign-pte \
                     untagged transfers grant-copy held table-pieces alias m2p-stale wide given-away";
    assert_eq!(names, interface.split_whitespace().collect::<Vec<_>>());
    assert!(text.lines().all(|line| line.split_whitespace().count() > 3));
}

#[test]
fn upstream_alone_is_not_recorded() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("x.p2mtrace");
    let file = file.to_str().expect("text");
    let args = ["--scenario", "quiet", "--guest-size", "16MiB", "--tracker", "upstream"];
    let output = simulate(&[&args[..], &["--record", file]].concat());
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn unusable_arguments_are_status_2() {
    for args in [
        &["--scenario", "nope"][..],
        &["--seeds", "5..3"],
        &["--seeds", "5"],
        &["--seeds", "0..18446744073709551615"],
        &["--seed", "1", "--seeds", "1..2"],
        &["--guest-size", "1KiB"],
        &["--guest-size", "9TiB"],
        &["--guest-size", "64GB"],
        &["--width", "16"],
        &["--p2m", "list"],
        &["--threads", "0"],
        &["--faults", "gremlins"],
        &["--faults", ""],
        &["--faults", ","],
        &["--faults", "cancel,"],
        &["--faults", "all,cancel"],
        &["--faults", "cancel,all"],
        &["--faults", "cancel,lost-ack,cancel"],
        &["--kernel", "fastest"],
        &["--programs", "7-3"],
        &["--programs", ""],
        &["--programs", "0"],
        &["--programs", "3,0-2"],
        &["--steps", "-1"],
        &["--story", "--seeds", "1..2"],
        &["--scenario", "all", "--record", "x"],
        &["--record", "/nonexistent/x.p2mtrace", "--guest-size", "16MiB"],
    ] {
        let output = simulate(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn recording_does_not_change_a_run_and_replays_without_a_miss() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("run.p2mtrace");
    let path = file.to_str().expect("a path");
    for (width, p2m) in [("64", "linear"), ("64", "tree"), ("32", "linear"), ("32", "tree")] {
        let args = ["--scenario", "mixed", "--guest-size", "64MiB", "--json", "--width", width];
        let args = [&args[..], &["--p2m", p2m]].concat();
        let (plain, recorded) =
            (simulate(&args), simulate(&[&args[..], &["--record", path]].concat()));
        assert_eq!(lines(&plain).last(), lines(&recorded).last());
        let replay = Command::new(env!("CARGO_BIN_EXE_p2mtrack"))
            .args(["replay", "--check", "--json", path])
            .output()
            .expect("runs");
        assert_eq!(replay.status.code(), Some(0));
        let lines = lines(&replay);
        let last = lines.last().expect("a result");
        assert_eq!(last["missed"], 0);
        assert!(last["entries_changed"].as_u64() > Some(0));
    }
}
