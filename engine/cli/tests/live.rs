// SPDX-License-Identifier: MIT OR Apache-2.0
//! `track`, `save` and `doctor` without Xen: a clear message, no panic, nothing left behind.
//! Not here: a real Xen (`tests/xen-host`).
//! Units: exit status as in `docs/json.md`.
//! Threads: each run is a process.
//! Source: own.

mod run;

use std::path::Path;

use run::{ended, program, shell};
use serde_json::Value;

/// On a real control domain these tests would act on a guest.
fn is_no_xen() -> bool {
    !Path::new("/dev/xen/privcmd").exists()
}

#[test]
fn without_xen_track_says_what_is_missing() {
    if !is_no_xen() {
        return;
    }
    for words in [&["track", "1"][..], &["track", "1", "--json", "--check", "--rounds", "3"]] {
        let output = program().args(words).output().expect("runs");
        let errors = String::from_utf8(output.stderr).expect("text");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{errors}");
        assert!(
            errors.starts_with("p2mtrack: domain 1: open /dev/xen/privcmd: No such file"),
            "{errors}"
        );
        assert!(errors.contains("no Xen, not its control domain"), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn domain_ids_that_no_guest_has_are_refused() {
    for domid in ["0", "32752", "65535", "-1", "x", ""] {
        let output = program().args(["track", "--", domid]).output().expect("runs");
        assert_eq!(output.status.code(), Some(2), "{domid}");
    }
}

#[test]
fn a_save_without_xen_ends_in_its_last_line_and_leaves_no_file() {
    if !is_no_xen() {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let (out, report) = (dir.path().join("guest.xl"), dir.path().join("report"));
    let save = |words: &[&str]| {
        let mut program = program();
        program.args(["save", "1", "--live", "--out"]).arg(&out).arg("--report").arg(&report);
        ended(program.args(words).output().expect("runs"))
    };
    let json = save(&["--json"]);
    assert_eq!((json.status, json.out.lines().count(), json.err.lines().count()), (2, 1, 1));
    let line: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!((&line["event"], &line["verdict"]), (&"saved".into(), &Value::Null));
    assert_eq!(line["error"]["kind"], "hypercall");
    let words = line["error"]["words"].as_str().expect("words");
    assert!(words.starts_with("open /dev/xen/privcmd"), "{words}");
    assert!(json.err.starts_with("p2mtrack: domain 1: hypercall: open /dev/xen/privcmd"));
    let text = save(&[]);
    assert_eq!((text.status, text.out.as_str()), (2, ""), "{}", text.err);
    // The report has both, and there is no stream.
    let reported = std::fs::read_to_string(&report).expect("a report");
    let lines: Vec<&str> = reported.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, json.out.trim_end()));
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 1);
}

#[test]
fn what_a_save_can_not_do_is_refused_before_a_guest_is_looked_at() {
    let refused = |words: &[&str], why: &str| {
        let text = ended(program().args(["save", "1"]).args(words).output().expect("runs"));
        assert!(text.status == 2 && text.err.contains(why), "{words:?}: {}", text.err);
        assert_eq!(text.out, "");
    };
    refused(&[], "--out");
    refused(&["--out", "-", "--json"], "both are standard output");
    refused(&["--out", "fd:2"], "fd:N");
    refused(&["--out", "fd:77"], "fd:77");
    refused(&["--out", "/"], "/");
    refused(&["--out", "/no/such/directory/x"], "No such file");
    refused(&["--out", "-", "--rate", "0"], "nothing is ever sent");
    refused(&["--out", "-", "--max-rounds", "0"], "max-rounds");
    refused(&["--out", "-", "--downtime", "soon"], "is not a time");
    refused(&["--out", "-", "--format", "libxc", "--config", "x"], "only --format xl");
    refused(&["--out", "-", "--receiver", "own"], "receiver");
    // A descriptor that can only be read.
    let mut shell = shell("exec 7</dev/null");
    let text = ended(shell.args(["save", "1", "--out", "fd:7"]).output().expect("runs"));
    assert!(text.status == 2 && text.err.contains("it can only be read"), "{}", text.err);
}

#[test]
fn the_help_of_save_has_every_default() {
    let help = ended(program().args(["save", "--help"]).output().expect("runs")).out;
    for (option, default) in [
        ("--format", "xl"),
        ("--after", "resume"),
        ("--max-rounds", "30"),
        ("--dirty-pages", "50"),
        ("--downtime", "300ms"),
        ("--unconverged", "suspend"),
        ("--suspend-timeout", "60s"),
        ("--foreign-pte", "refuse"),
        ("--alias", "refuse"),
        ("--unaccounted", "refuse"),
        ("--receiver", "stock"),
        ("--threads", "1"),
    ] {
        let at = help.find(&format!("      {option} ")).expect(option);
        let text = help[at..].split("\n      --").next().expect("a text");
        assert!(text.contains(&format!("[default: {default}]")), "{option}: {text}");
    }
}

#[test]
fn the_doctor_has_advice_for_what_is_bad() {
    let output =
        program().args(["doctor", "--json", "--guest-size", "1GiB"]).output().expect("runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (last, findings) = lines.split_last().expect("lines");
    for finding in findings {
        assert_eq!(finding["event"], "finding");
        assert!(finding["state"] == "good" || finding["advice"].is_string(), "{finding}");
    }
    let state = |name: &str| {
        findings.iter().find(|finding| finding["name"] == name).expect(name)["state"].clone()
    };
    assert_eq!((last["event"].clone(), state("memory")), ("doctor".into(), "good".into()));
    if is_no_xen() {
        assert_eq!((output.status.code(), state("privcmd")), (Some(1), "bad".into()));
        assert_eq!(last["bad"], 1);
    }
    // More memory than any machine has.
    let output = program().args(["doctor", "--guest-size", "8192TiB"]).output().expect("runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.code() == Some(1) && text.contains("dom0_mem"), "{text}");
}
