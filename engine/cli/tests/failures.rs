// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unusable files and arguments, and outputs that can't be written: one line, and a status.
//! Not here: verdicts (`replay`).
//! Units: exit status as in the program's `failure`.
//! Threads: each run is a process.
//! Source: own.

mod run;

use std::fs;
use std::path::Path;

use run::{ended, limited, path, program, reader_gone, rounds, run, shell, trace, write};

/// The first bytes of a trace, packed with xz.
const XZ_OF_A_TRACE: &[u8] = b"\
    \xfd\x37\x7a\x58\x5a\x00\x00\x01\x69\x22\xde\x36\x02\x00\x21\x01\x16\x00\x00\x00\
    \x74\x2f\xe5\xa3\x01\x00\x07\x89\x70\x32\x6d\x74\x0d\x0a\x1a\x00\x81\x31\x26\x06\
    \x00\x01\x1c\x08\x44\x60\x2a\xc8\x90\x42\x99\x0d\x01\x00\x00\x00\x00\x01\x59\x5a";

/// Both commands that read a recording refuse the file with one line.
fn refused(file: &Path, words: &str) {
    for command in [&["replay", "--json"][..], &["inspect"], &["inspect", "--pfn", "0"]] {
        let ended = run(command, file);
        assert_eq!((ended.status, ended.err.lines().count()), (2, 1), "{}", ended.err);
        let start = format!("p2mtrack: {}: ", file.display());
        assert!(
            ended.err.starts_with(&start) && ended.err.contains(words),
            "{words}: {}",
            ended.err
        );
    }
}

#[test]
fn cut_and_spoilt_files_are_refused_with_their_byte() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    let whole = fs::read(trace("balloon-256")).expect("reads");
    fs::write(&file, &whole[..whole.len() - 1]).expect("writes");
    refused(&file, &format!("byte {}: ", whole.len() - 24));
    fs::write(&file, &whole[..20]).expect("writes");
    refused(&file, "byte 16: block header needs 24 bytes, 4 are left");
    let mut spoilt = whole.clone();
    spoilt[5000] ^= 1;
    fs::write(&file, &spoilt).expect("writes");
    refused(&file, "byte ");
    fs::write(&file, b"").expect("writes");
    refused(&file, "byte 0: ");
    fs::write(&file, b"P2MRAW\0\x01abcd").expect("writes");
    refused(&file, "capture can't be read: byte 8: block header needs 16 bytes, 4 are left");
    fs::write(&file, b"P2MRAW\0\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0").expect("writes");
    refused(&file, "capture can't be read: byte ");
    let capture = fs::read(path("idle-256.p2mraw.xz")).expect("reads");
    fs::write(&file, &capture[..capture.len() / 2]).expect("writes");
    refused(&file, "capture can't be read: byte ");
    refused(&file, " of round 0: file can't be read or written: ");
}

#[test]
fn a_capture_that_contradicts_itself_is_the_one_at_fault() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    fs::write(&file, contradictory()).expect("writes");
    let said = "capture can't be read: byte 592: ENTRIES of round 0: expected only invalid entries where there is no \
                leaf: leaf 0x0 has no frame, and 0x7 in slot 0x9\n";
    refused(&file, said);
    let out = dir.path().join("out");
    let result = ended(program().arg("import").args([&file, &out]).output().expect("runs"));
    assert_eq!((result.status, result.out.as_str(), out.exists()), (2, "", false));
    assert!(result.err.ends_with(said), "{}", result.err);
}

/// A capture of one leaf, which has no frame and an entry.
fn contradictory() -> Vec<u8> {
    let meta = r#"{"format":"p2mraw 1","name":"n","width":64,"pfn_count":512,"max_mfn":4096,
        "kernel":"k","xen":"x","walk":"linear","load":"","rounds":0}"#;
    let roots = r#"{"max_pfn":512,"fll":0,"p2m_cr3":4096,"p2m_vaddr":0,"generation":4,
        "walk_max_pfn":512,"walk_generation":4}"#;
    let mut entries = [u64::MAX; 512];
    entries[9] = 7;
    let words = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
    let blocks: [(u32, Vec<u8>); 9] = [
        (1, meta.into()),
        (2, roots.into()),
        (3, roots.into()),
        (5, words(&[u64::MAX])),
        (6, words(&[u64::MAX])),
        (7, vec![]),
        (8, words(&entries)),
        (9, words(&[u64::MAX; 512])),
        (10, vec![]),
    ];
    let mut bytes = b"P2MRAW\0\x01".to_vec();
    for (kind, payload) in blocks {
        bytes.extend([kind.to_le_bytes(), [0; 4]].concat());
        bytes.extend((payload.len() as u64).to_le_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

#[test]
fn a_path_that_is_not_a_file_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    refused(dir.path(), "not a regular file");
    refused(Path::new("/dev/zero"), "not a regular file");
    refused(&dir.path().join("none"), "No such file");
}

#[test]
fn files_of_other_packers_are_refused_with_a_hint() {
    let dir = tempfile::tempdir().expect("directory");
    let (file, out) = (dir.path().join("file"), dir.path().join("out"));
    let shape = ["simulate", "--guest-size", "64MiB", "--shape", "real", "--capture"];
    for (start, packer, unpack) in [
        (&b"\x1f\x8b\x08\0\0\0\0\0\0\x03"[..], "gzip", "gunzip"),
        (b"\x28\xb5\x2f\xfd\x04\0\0\0", "zstd", "unzstd"),
        (b"BZh91AY&SY", "bzip2", "bunzip2"),
        (b"\x04\x22\x4d\x18\x64\x40\xa7\0", "lz4", "unlz4"),
        (b"PK\x03\x04\x14\0\0\0", "zip", "unzip"),
    ] {
        fs::write(&file, start).expect("writes");
        let words = format!(
            "p2mtrack: {}: compressed with {packer}, which is not supported: unpack it first ({unpack})\n",
            file.display()
        );
        refused(&file, &words[words.find("compressed").expect("there")..]);
        let imported = program().arg("import").args([&file, &out]).output().expect("runs");
        for result in [ended(imported), run(&shape, &file)] {
            assert_eq!((result.status, result.out.as_str(), &result.err), (2, "", &words));
        }
    }
    // A trace in xz is read as a capture, and is not one.
    fs::write(&file, XZ_OF_A_TRACE).expect("writes");
    refused(&file, "; a trace must be unpacked first (unxz)\n");
    let result = ended(program().arg("import").args([&file, &out]).output().expect("runs"));
    assert!(result.status == 2 && result.err.contains("(unxz)"), "{}", result.err);
    assert!(!out.exists());
}

#[test]
fn every_command_reports_an_error_with_all_its_causes() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    let shape = ["simulate", "--guest-size", "64MiB", "--shape", "real", "--capture"];
    let capture = fs::read(path("idle-256.p2mraw.xz")).expect("reads");
    fs::write(&file, &capture[..capture.len() / 2]).expect("writes");
    let result = run(&shape, &file);
    assert_eq!((result.status, result.out.as_str()), (2, ""));
    assert_eq!(result.err, run(&["inspect"], &file).err);
}

#[test]
fn a_failed_engine_has_a_status_of_its_own() {
    let dir = tempfile::tempdir().expect("directory");
    let (meta, mut rounds) = rounds(&trace("idle-256"));
    rounds[0].after.p2m_vaddr += 8;
    let file = write(dir.path(), &meta, &rounds);
    let ended = run(&["replay", "--json"], &file);
    assert_eq!((ended.status, ended.out.as_str()), (3, ""));
    let start = format!("p2mtrack: {}: round 0: p2m roots: ", file.display());
    assert!(ended.err.starts_with(&start), "{}", ended.err);
    assert_eq!(run(&["inspect"], &file).status, 0, "the recording itself is readable");
}

#[test]
fn usage_errors_have_status_2() {
    for words in [
        &[][..],
        &["no-such-command"],
        &["replay"],
        &["import", "one"],
        &["replay", "--kernel", "none", "x"],
        &["replay", "--threads", "0", "x"],
        &["inspect", "--pfn", "12z", "x"],
        &["inspect", "--pfn", "-1", "x"],
    ] {
        let ended = ended(program().args(words).output().expect("runs"));
        assert_eq!((ended.status, ended.out.as_str()), (2, ""), "{words:?}");
        assert!(!ended.err.is_empty());
    }
}

#[test]
fn help_names_every_command_and_option() {
    let help = |words: &[&str]| {
        let ended = ended(program().args(words).arg("--help").output().expect("runs"));
        assert_eq!((ended.status, ended.err.as_str()), (0, ""));
        ended.out
    };
    for command in ["simulate", "import", "replay", "inspect", "bench"] {
        assert!(help(&[]).contains(&format!("\n  {command} ")));
        assert!(help(&[command]).contains("--json"));
    }
    assert!(help(&["replay"]).contains("scalar, wide"));
}

#[test]
fn colours_are_for_terminals_and_never_with_no_color() {
    let replay = |variables: &[(&str, &str)]| {
        let mut program = program();
        program.envs(variables.iter().copied());
        ended(program.args(["replay", "--check"]).arg(trace("balloon-256")).output().expect("runs"))
            .out
    };
    let plain = replay(&[]);
    assert!(!plain.contains('\x1b'), "a pipe is no terminal");
    let coloured = replay(&[("CLICOLOR_FORCE", "1")]);
    assert!(coloured.contains("\x1b["), "treated as a terminal");
    assert_eq!(replay(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]), plain);
}

#[test]
fn control_characters_of_a_recording_are_escaped() {
    let dir = tempfile::tempdir().expect("directory");
    let (mut meta, rounds) = rounds(&trace("idle-256"));
    meta.load = "\x1b[2Jbusy\n".into();
    let file = write(dir.path(), &meta, &rounds);
    let mut program = program();
    program.env("CLICOLOR_FORCE", "1").arg("inspect").arg(file);
    assert!(ended(program.output().expect("runs")).out.contains("\\u{1b}[2Jbusy\\n\n"));
}

#[test]
fn a_closed_pipe_is_no_error() {
    for words in printers() {
        let ended = reader_gone(program().args(&words));
        assert_eq!((ended.status, ended.err.as_str()), (0, ""), "{words:?}");
    }
}

/// Command lines that print something.
fn printers() -> Vec<Vec<String>> {
    let file = trace("idle-256").display().to_string();
    let small = "simulate --scenario quiet --guest-size 8MiB --threads 1";
    let huge = "simulate --shape runs --guest-size 64MiB --rounds 0";
    let lines = [
        "--help",
        "-h",
        "--version",
        "help",
        "help replay",
        "replay --help",
        "simulate -h",
        "doctor --help",
        "simulate --scenario list",
        "simulate --scenario list --json",
        small,
        &format!("{small} --json"),
        &format!("{small} --seeds 1..2"),
        &format!("{small} --seeds 1..2 --json"),
        &format!("{small} --tracker upstream"),
        huge,
        &format!("{huge} --json"),
        "bench diff.raw --size 256MiB --json",
    ];
    let mut all: Vec<Vec<_>> =
        lines.map(|line| line.split(' ').map(str::to_owned).collect()).into();
    for words in [&["replay"][..], &["replay", "--json"], &["inspect"], &["inspect", "--pfn", "1"]]
    {
        let words = words.iter().map(|&word| word.to_owned());
        all.push(words.chain([file.clone()]).collect());
    }
    all
}

#[test]
fn a_full_disk_is_an_error() {
    for words in printers() {
        let full = fs::File::options().write(true).open("/dev/full").expect("a device");
        let ended = ended(program().args(&words).stdout(full).output().expect("runs"));
        let line = "p2mtrack: standard output: No space left on device (os error 28)\n";
        assert_eq!((ended.status, ended.err.as_str()), (2, line), "{words:?}");
    }
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_no_signal() {
    let dir = tempfile::tempdir().expect("directory");
    for words in printers() {
        let out = fs::File::create(dir.path().join("out")).expect("a file");
        let ended = limited("ulimit -f 0", |shell| shell.args(&words).stdout(out));
        let line = "p2mtrack: standard output: File too large (os error 27)\n";
        assert_eq!((ended.status, ended.err.as_str()), (2, line), "{words:?}");
    }
}

#[test]
fn threads_that_find_no_memory_are_reported_once() {
    const WHY: &str = "Resource temporarily unavailable (os error 11)";
    let file = trace("idle-256");
    let file = file.to_str().expect("text");
    let guest = ["simulate", "--scenario", "quiet", "--guest-size", "8MiB", "--threads", "1024"];
    let huge = ["simulate", "--shape", "runs", "--guest-size", "64MiB", "--threads", "1024"];
    let json = ["--json", "--tracker", "p2mtrack"];
    for (words, status) in [
        (&["replay", "--threads", "1024", file][..], 2),
        (&["bench", "diff.raw", "--size", "256MiB", "--threads", "1024"], 2),
        (&guest, 3),
        (&[&guest[..], &json].concat(), 3),
        (&[&huge[..], &json].concat(), 3),
    ] {
        // If a thread starts and there is no memory for its signal stack, the standard library
        // aborts: try another limit.
        let mut ends =
            ["1500000", "1400000", "1300000", "1200000"].into_iter().filter_map(|limit| {
                let output =
                    shell(&format!("ulimit -v {limit}")).args(words).output().expect("runs");
                output.status.code().is_some().then(|| ended(output))
            });
        let result = ends.next().expect("an end without a signal");
        let all = result.out + &result.err;
        assert_eq!((result.status, all.matches(WHY).count()), (status, 1), "{words:?}: {all}");
    }
}

#[test]
fn no_memory_is_an_error_at_any_point() {
    let guest = ["simulate", "--scenario", "quiet", "--threads", "1", "--tracker", "p2mtrack"];
    let mut refused = 0;
    for (size, mebibytes) in [
        ("256GiB", 400),
        ("256GiB", 3000),
        ("64GiB", 200),
        ("64GiB", 400),
        ("64GiB", 600),
        ("16GiB", 100),
        ("16GiB", 150),
        ("16GiB", 200),
        ("16GiB", 250),
    ] {
        let result = limited(&format!("ulimit -v {}", mebibytes * 1024), |shell| {
            shell.args(guest).args(["--guest-size", size])
        });
        if result.status == 0 {
            continue; // enough
        }
        refused += 1;
        assert_eq!(result.status, 2, "{size} in {mebibytes} MiB: {}", result.err);
        let line =
            result.err.starts_with("p2mtrack: no memory: ") && result.err.lines().count() == 1;
        assert!(line, "{size} in {mebibytes} MiB: {}", result.err);
    }
    assert!(refused > 4, "{refused}");
}
