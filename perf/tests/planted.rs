// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gate catches a kernel that became slower, and passes one that did not.
//! Not here: the rules of records and floors (`record`, `floors`).
//! Units: per cent of work.
//! Threads: one.
//! Source: a planted slowdown is more turns than were asked for.

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

/// Makes its own record: of another compiler's record only the ceilings apply.
#[test]
#[ignore = "needs valgrind; tests/run has it"]
fn three_per_cent_more_work_is_caught() {
    let record = Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted.json");
    let recorded = perf("record", &record, &[]);
    assert!(recorded.status.success(), "{recorded:?}");
    let honest = perf("gate", &record, &[]);
    assert!(honest.status.success(), "{honest:?}");
    let planted = perf("gate", &record, &["--plant", "3"]);
    let output = String::from_utf8_lossy(&planted.stdout);
    assert_eq!(planted.status.code(), Some(1), "{planted:?}");
    let caught = output
        .lines()
        .filter(|line| line.contains("FAILED: +3.0") || line.contains("FAILED: +2.9"));
    assert_eq!(caught.count(), output.lines().count(), "with every kernel:\n{output}");
}

/// The slowest kernel in the place of the fastest.
#[test]
#[ignore = "takes seconds, and memory of 1 GiB"]
fn a_slow_kernel_is_below_its_floor() {
    let floors = Command::new(env!("CARGO_BIN_EXE_p2mtrack-perf"))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .env("P2MTRACK_KERNEL", "scalar")
        .args(["floors", "--only", "diff.affine"])
        .output()
        .expect("the floors");
    let output = String::from_utf8_lossy(&floors.stdout);
    assert_eq!(floors.status.code(), Some(1), "{floors:?}");
    assert!(output.contains("FAILED: twice below its floor"), "{output}");
}
