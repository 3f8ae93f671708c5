// SPDX-License-Identifier: MIT OR Apache-2.0
//! The helper as libxl starts it, on a machine without Xen: what is handed over, and how; what is
//! refused; what an observer sees.
//! Not here: saves of guests (`tests/xen-host`).
//! Units: one process a case.
//! Threads: one.
//! Source: `xen-migrate.md` 1. A shell script is the stock helper.
#![cfg(not(miri))] // starts processes

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const HELPER: &str = env!("CARGO_BIN_EXE_p2mtrack-save-helper");
const SAVE: &str = "--save-domain 9 0 7 1 136 0";
const RESTORE: &str = "--restore-domain 11 20 2 1 0 2 0 768 0";

/// A directory with a stock helper that runs these lines of a shell script.
fn stock(lines: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("stock");
    // Not dash, which lets all blocked signals through.
    fs::write(&path, format!("#!/bin/bash\n{lines}\n")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    (directory, path)
}

/// The helper with this command line; replies are what `replies` has.
fn helper(line: &str, stock: Option<&Path>, options: &str) -> Command {
    let mut command = Command::new(HELPER);
    command.args(line.split_whitespace()).env("P2MTRACK_HELPER_OPTIONS", options);
    match stock {
        Some(path) => command.env("P2MTRACK_STOCK_HELPER", path),
        None => command.env_remove("P2MTRACK_STOCK_HELPER"),
    };
    command
}

fn answered(mut command: Command, replies: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("started");
    let _ = child.stdin.take().expect("piped").write_all(replies); // one that reads none is done
    child.wait_with_output().expect("ended")
}

/// Messages by their numbers and the rest of their bodies.
fn messages(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut found = Vec::new();
    let word = |bytes: &mut &[u8]| {
        let mut word = [0; 2];
        bytes.read_exact(&mut word).map(|()| u16::from_ne_bytes(word))
    };
    while let Ok(length) = word(&mut bytes) {
        let number = word(&mut bytes).expect("a number");
        let (body, rest) = bytes.split_at(usize::from(length) - 2);
        found.push((number, body.to_vec()));
        bytes = rest;
    }
    found
}

/// Blocks a signal, or lets it through.
fn block(signal: i32, blocks: bool) {
    // SAFETY: all zeros is a valid `sigset_t`.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes to `set`.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    let how = if blocks { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: reads `set`.
    unsafe { libc::sigprocmask(how, &raw const set, std::ptr::null_mut()) };
}

/// What the last message says, if it is `complete`.
fn complete(messages: &[(u16, Vec<u8>)]) -> (i32, i32) {
    let (number, body) = messages.last().expect("a message");
    assert_eq!((*number, body.len()), (10, 8));
    let word = |at: usize| i32::from_ne_bytes(body[at..at + 4].try_into().expect("four bytes"));
    (word(0), word(4))
}

fn logged(messages: &[(u16, Vec<u8>)]) -> String {
    let logs = messages.iter().filter(|(number, _)| *number == 1);
    logs.map(|(_, body)| String::from_utf8_lossy(&body[8..]).into_owned()).collect()
}

#[test]
fn what_is_handed_over_comes_as_it_came() {
    let (directory, path) = stock(
        "here=$(dirname $0)\n\
         printf '%s\\n' \"$0\" \"$@\" >$here/words\n\
         env >$here/environment\n\
         grep -E 'Sig(Ign|Blk)' /proc/$$/status >$here/signals\n\
         ls -l /proc/$$/fd >$here/descriptors\n\
         cat >$here/replies; echo heard; exit 7",
    );
    let file = |name: &str| fs::read_to_string(directory.path().join(name)).expect("written");
    for (line, options) in [
        (RESTORE, "--no-such-option"), // options are not even looked at
        ("--save-domain 9 0 7 1 136 2", "--take-over"),
        ("--something new", ""),
        ("", ""),
    ] {
        for ignored in [false, true] {
            let mut command = helper(line, Some(&path), options);
            let (stream, _kept) = std::io::pipe().expect("a pipe");
            let stream = OwnedFd::from(stream);
            let number = stream.as_raw_fd();
            let prepare = move || {
                let disposition = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
                for signal in [libc::SIGPIPE, libc::SIGHUP] {
                    // SAFETY: sets a disposition to one that runs no code.
                    unsafe { libc::signal(signal, disposition) };
                }
                block(libc::SIGTERM, ignored);
                // SAFETY: sets a flag of a descriptor that is open.
                unsafe { libc::fcntl(number, libc::F_SETFD, 0) };
                // SAFETY: nothing uses standard error after this.
                unsafe { libc::close(2) };
                Ok(())
            };
            // SAFETY: it only makes calls that are allowed between fork and exec.
            unsafe { command.pre_exec(prepare) };
            let output = answered(command, b"reply");
            assert_eq!(output.status.code(), Some(7), "{line}");
            assert_eq!(output.stdout, b"heard\n");
            assert_eq!(file("replies"), "reply");
            let words = file("words");
            assert!(words.lines().skip(1).eq(line.split_whitespace()), "{words}");
            let signals = file("signals");
            let has = |key: &str, signal: i32| {
                let mask = signals.lines().find_map(|line| line.strip_prefix(key));
                let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
                mask.expect("a mask") >> (signal - 1) & 1 == 1
            };
            assert_eq!(has("SigIgn:", libc::SIGPIPE), ignored, "{signals}");
            assert_eq!(has("SigIgn:", libc::SIGHUP), ignored, "{signals}");
            assert_eq!(has("SigBlk:", libc::SIGTERM), ignored, "{signals}");
            let open = file("descriptors");
            assert!(open.contains(&format!(" {number} -> pipe:")), "{open}");
            assert!(!open.contains(" 2 -> /dev/null"), "{open}"); // bash itself may use the number
            let environment = file("environment");
            assert!(environment.contains(&format!("P2MTRACK_HELPER_OPTIONS={options}\n")));
        }
    }
}

#[test]
fn a_stock_helper_that_is_missing_or_this_program_is_told_to_libxl() {
    for path in [Path::new("/no/such/program"), Path::new(HELPER)] {
        let output = answered(helper(RESTORE, Some(path), ""), &[0; 4]);
        assert!(output.status.success());
        let messages = messages(&output.stdout);
        assert_eq!(complete(&messages), (-1, libc::ENOENT));
        let words = logged(&messages);
        assert!(words.contains("P2MTRACK_STOCK_HELPER="), "{words}");
    }
}

#[test]
fn wrong_options_are_a_log_line_and_einval() {
    let (directory, path) = stock("touch $(dirname $0)/started");
    for options in ["--live", "--out x", "--downtime soon", "7", "'"] {
        let output = answered(helper(SAVE, Some(&path), options), &[0; 4]);
        assert!(output.status.success());
        let messages = messages(&output.stdout);
        assert_eq!(messages.len(), 2, "one line, and the end");
        assert_eq!(complete(&messages), (-1, libc::EINVAL));
        let words = logged(&messages);
        assert!(words.contains("P2MTRACK_HELPER_OPTIONS"), "{words}");
    }
    assert!(!directory.path().join("started").exists());
}

#[test]
fn a_save_that_can_not_begin_is_told_to_libxl() {
    // Without Xen, without the stream's descriptor, with a report that can't be written.
    for options in ["", "--report /no/such/directory/file"] {
        let output = answered(helper(SAVE, None, options), &[0; 4]);
        assert!(output.status.success());
        let messages = messages(&output.stdout);
        let (value, errno) = complete(&messages);
        assert!(value == -1 && errno > 0, "{errno}");
        assert_eq!(messages.iter().filter(|(number, _)| *number == 1).count(), 1);
    }
    // libxl is gone: there is nobody to tell, and nothing to do.
    let output = answered(helper(SAVE, None, ""), &[]);
    assert!(!output.stderr.is_empty());
}

#[test]
fn a_save_without_a_xen_is_refused_by_kind() {
    let directory = tempfile::tempdir().expect("a directory");
    let (stream, report) = (directory.path().join("stream"), directory.path().join("report"));
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec {HELPER} {SAVE} 9>{}", stream.display()));
    command.env("P2MTRACK_HELPER_OPTIONS", format!("--report '{}'", report.display()));
    let output = answered(command, &[0; 4]);
    let messages = messages(&output.stdout);
    assert_eq!(complete(&messages).0, -1);
    let line = fs::read_to_string(report).expect("a report");
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&line["event"], &line["domid"]), (&"saved".into(), &7.into()));
    assert_eq!(line["error"]["kind"], "hypercall");
    assert!(logged(&messages).contains("hypercall: "));
    assert_eq!(fs::metadata(stream).expect("made").len(), 0, "nothing was written");
}

#[test]
fn an_observer_passes_everything_on_and_times_it() {
    // Asks for a suspend, reads the reply, writes a stream of 100 bytes, completes.
    let (directory, path) = stock(
        "here=$(dirname $0); env >$here/environment; echo \"$@\" >$here/words\n\
         printf '\\002\\000\\003\\000'; head -c 4 >$here/suspended\n\
         head -c 100 /dev/zero >$here/stream\n\
         printf '\\012\\000\\012\\000\\000\\000\\000\\000\\000\\000\\000\\000'; head -c 4 >$here/last",
    );
    let file = |name: &str| fs::read(directory.path().join(name)).expect("written");
    let report = directory.path().join("report");
    let options = format!("--observe --report '{}'", report.display());
    for (line, side) in [(SAVE, "save"), (RESTORE, "restore")] {
        let mut command = helper(line, Some(&path), &options);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
        let (mut stdin, mut stdout) = (child.stdin.take(), child.stdout.take().expect("piped"));
        let mut reply = |bytes: &[u8]| stdin.as_mut().expect("piped").write_all(bytes);
        let mut asks = [0; 4];
        stdout.read_exact(&mut asks).expect("a message");
        assert_eq!(&asks, b"\x02\0\x03\0");
        reply(&[1, 0, 0, 0]).expect("it listens");
        let mut ends = [0; 12];
        stdout.read_exact(&mut ends).expect("a message");
        assert_eq!(&ends, b"\x0a\0\x0a\0\0\0\0\0\0\0\0\0");
        reply(&[9; 4]).expect("it listens");
        assert!(child.wait().expect("ended").success());
        assert_eq!(stdout.read(&mut [0]).expect("the end"), 0, "not a byte more");
        assert_eq!((file("suspended"), file("last")), (vec![1, 0, 0, 0], vec![9; 4]));
        assert_eq!(String::from_utf8_lossy(&file("words")).trim(), line);
        let environment = String::from_utf8(file("environment")).expect("text");
        for ours in ["P2MTRACK_HELPER_OPTIONS=", "P2MTRACK_STOCK_HELPER="] {
            assert!(!environment.contains(ours), "else a helper of ours would observe, too");
        }
        let last = String::from_utf8(file("report")).expect("text");
        let last: serde_json::Value =
            serde_json::from_str(last.lines().last().expect("a line")).expect("JSON");
        assert_eq!((&last["event"], &last["side"]), (&"observed".into(), &side.into()));
        assert_eq!((&last["retval"], &last["errno"]), (&0.into(), &0.into()));
        assert_eq!(last["downtime_us"].is_null(), side == "restore");
        assert!(last["total_us"].as_u64().expect("a number") >= 1);
        assert!(last["cpu_us"].as_u64().expect("a number") >= 1);
        assert!(last["bytes"].as_u64().expect("a number") >= 100);
    }
}

#[test]
fn an_observed_helper_that_is_killed_or_fails_ends_as_it_would_alone() {
    use std::os::unix::process::ExitStatusExt;
    for (lines, code, signal) in [("exit 3", Some(3), None), ("kill -KILL $$", None, Some(9))] {
        let (_directory, path) = stock(lines);
        let output = answered(helper(SAVE, Some(&path), "--observe"), &[]);
        assert_eq!((output.status.code(), output.status.signal()), (code, signal));
    }
    // TERM, by which libxl ends a save, reaches it.
    let (_directory, path) =
        stock("trap 'echo ended; exit 4' TERM; echo begun; while :; do sleep 0.1; done");
    let mut command = helper(SAVE, Some(&path), "--observe");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
    let mut stdout = child.stdout.take().expect("piped");
    let mut line = [0; 6];
    stdout.read_exact(&mut line).expect("begun");
    // SAFETY: signals a child that was not waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    assert_eq!((rest.as_str(), child.wait().expect("ended").code()), ("ended\n", Some(4)));
}

#[test]
fn a_human_gets_help() {
    let output = answered(helper("--help", None, ""), &[]);
    let text = String::from_utf8(output.stdout).expect("text");
    for word in ["LIBXL_SAVE_HELPER", "P2MTRACK_STOCK_HELPER", "--observe", "--downtime"] {
        assert!(text.contains(word), "{text}");
    }
    assert!(!text.contains("--take-over") && output.status.success());
}
