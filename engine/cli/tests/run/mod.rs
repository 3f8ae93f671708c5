// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the program as a user would, and makes recordings for it to run over.
//! Not here: the expected output.
//! Units: as in the trace crate.
//! Threads: each run is a process.
//! Source: own.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use p2mtrack_trace::{Meta, Reader, Round, Writer};
use serde_json::Value;

/// The recordings of a real guest.
pub(crate) const NAMES: [&str; 5] =
    ["idle-256", "balloon-256", "growth-192", "tree-balloon-256", "growth-burst"];

/// The two files of each.
pub(crate) const ENDS: [&str; 2] = ["p2mtrace", "p2mraw.xz"];

/// A file that is checked in.
pub(crate) fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/traces").join(file)
}

/// A trace that is checked in.
pub(crate) fn trace(name: &str) -> PathBuf {
    path(&format!("{name}.p2mtrace"))
}

/// The program, without environment variables that control colours.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2mtrack"));
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM", "CI"] {
        command.env_remove(name);
    }
    command
}

/// How a run ended: status, stdout, stderr.
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the program with words and one file.
pub(crate) fn run(words: &[&str], file: &Path) -> Ended {
    ended(program().args(words).arg(file).output().expect("runs"))
}

/// How a run ended.
pub(crate) fn ended(output: Output) -> Ended {
    Ended {
        status: output.status.code().expect("no signal"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// A shell that runs `first`, and then the program in its place.
pub(crate) fn shell(first: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{first} && exec \"$0\" \"$@\"")]);
    shell.arg(env!("CARGO_BIN_EXE_p2mtrack"));
    shell
}

/// Runs the program with limits.
pub(crate) fn limited(limits: &str, words: impl FnOnce(&mut Command) -> &mut Command) -> Ended {
    ended(words(&mut shell(limits)).output().expect("runs"))
}

/// Runs a program whose standard output is a closed pipe.
pub(crate) fn reader_gone(program: &mut Command) -> Ended {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    ended(program.stdout(writer).output().expect("runs"))
}

/// The lines of a successful run, as JSON.
pub(crate) fn objects(words: &[&str], file: &Path) -> Vec<Value> {
    let ended = run(words, file);
    assert_eq!((ended.status, ended.err.as_str()), (0, ""), "{words:?} {}", file.display());
    ended.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// META and all rounds of a trace.
pub(crate) fn rounds(file: &Path) -> (Meta, Vec<Round>) {
    let reader = Reader::open(file).expect("opens");
    let mut cursor = reader.rounds();
    let next = || cursor.advance().expect("decodes").then(|| cursor.round().clone());
    (reader.meta().clone(), std::iter::from_fn(next).collect())
}

/// A trace of these rounds.
pub(crate) fn write(dir: &Path, meta: &Meta, rounds: &[Round]) -> PathBuf {
    let file = dir.join("made.p2mtrace");
    let mut writer = Writer::create(&file, meta).expect("begins");
    for round in rounds {
        writer.round(round).expect("obeys the rules");
    }
    writer.commit().expect("ends");
    file
}
