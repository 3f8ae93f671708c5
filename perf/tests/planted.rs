// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gate catches a kernel that became slower, and lets one pass that did not.
//! Not here: the record's own rules (`record`).
//! Units: per cent of work.
//! Threads: one.
//! Source: a planted slowness is more turns than were asked for.

use std::process::{Command, Output};

fn gate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_p2mtrack-perf"))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .arg("gate")
        .args(arguments)
        .output()
        .expect("the gate")
}

#[test]
#[ignore = "needs valgrind; tests/run has it"]
fn three_per_cent_more_work_is_caught() {
    let only = ["--only", "leaf.unchanged.affine"];
    let honest = gate(&only);
    assert!(honest.status.success(), "{honest:?}");
    let planted = gate(&[only[0], only[1], "--plant", "3"]);
    let told = String::from_utf8_lossy(&planted.stdout);
    assert_eq!(planted.status.code(), Some(1), "{planted:?}");
    assert!(told.contains("FAILED: +3.00 %") || told.contains("FAILED: +2.9"), "{told}");
}
