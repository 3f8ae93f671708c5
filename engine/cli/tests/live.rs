// SPDX-License-Identifier: MIT OR Apache-2.0
//! `track` and `doctor` without Xen: a clear message, no panic, nothing left behind.
//! Not here: a real Xen (`tests/xen-host`).
//! Units: exit status as in `docs/json.md`.
//! Threads: each run is a process.
//! Source: own.

mod run;

use std::path::Path;

use run::program;
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
