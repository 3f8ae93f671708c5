// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gate catches a kernel that became slower, and lets one pass that did not.
//! Not here: the record's own rules (`record`).
//! Units: per cent of work.
//! Threads: one.
//! Source: a planted slowness is more turns than were asked for.

use std::path::Path;
use std::process::{Command, Output};

/// What is counted here.
const ONLY: [&str; 2] = ["--only", "leaf.unchanged.affine"];

fn perf(command: &str, record: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_p2mtrack-perf"))
        .args([command, "--record"])
        .arg(record)
        .args(ONLY)
        .args(arguments)
        .output()
        .expect("the gate")
}

/// The record is made here and now: one of another compiler has only ceilings to say.
#[test]
#[ignore = "needs valgrind; tests/run has it"]
fn three_per_cent_more_work_is_caught() {
    let record = Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted.json");
    let recorded = perf("record", &record, &[]);
    assert!(recorded.status.success(), "{recorded:?}");
    let honest = perf("gate", &record, &[]);
    assert!(honest.status.success(), "{honest:?}");
    let planted = perf("gate", &record, &["--plant", "3"]);
    let told = String::from_utf8_lossy(&planted.stdout);
    assert_eq!(planted.status.code(), Some(1), "{planted:?}");
    let caught =
        told.lines().filter(|line| line.contains("FAILED: +3.0") || line.contains("FAILED: +2.9"));
    assert_eq!(caught.count(), told.lines().count(), "with every kernel:\n{told}");
}
