// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that the program writes: complete or absent, and nothing else is touched.
//! Not here: what is in them (`import`, `simulate`, `bench`), files that are read (`failures`).
//! Units: exit status as in the program's `failure`.
//! Threads: each run is a process.
//! Source: own.

mod run;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use run::{Ended, ended, limited, path, program, reader_gone, shell};
use serde_json::Value;

/// A guest that is migrated quickly.
const SMALL: [&str; 7] =
    ["simulate", "--scenario", "quiet", "--guest-size", "8MiB", "--threads", "1"];

/// Every command that writes a file, with the file as its last word.
fn writers() -> Vec<Vec<String>> {
    let capture = path("idle-256.p2mraw.xz").display().to_string();
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    vec![
        words(&[&SMALL[..], &["--record"]].concat()),
        words(&[&SMALL[..], &["--json", "--record"]].concat()),
        words(&["track", "1", "--record"]),
        words(&["track", "1", "--json", "--prom"]),
        words(&["import", &capture]),
    ]
}

fn write(words: &[String], file: &Path) -> Ended {
    ended(program().args(words).arg(file).output().expect("runs"))
}

/// The names in a directory, and what they are.
fn listed(dir: &Path) -> Vec<(PathBuf, fs::FileType)> {
    let entries = fs::read_dir(dir).expect("lists").map(|entry| entry.expect("an entry"));
    let mut all: Vec<_> =
        entries.map(|entry| (entry.path(), entry.file_type().expect("a type"))).collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

/// Everything but a regular file that a rename would destroy.
fn no_files(dir: &Path) -> Vec<PathBuf> {
    let at = |name: &str| dir.join(name);
    fs::write(at("file"), "before").expect("writes");
    fs::create_dir(at("directory")).expect("makes");
    symlink("nowhere", at("dangling")).expect("links");
    symlink("file", at("link")).expect("links");
    symlink("/dev/null", at("link-to-device")).expect("links");
    symlink("directory", at("link-to-directory")).expect("links");
    let mut all =
        ["directory", "dangling", "link", "link-to-device", "link-to-directory", "socket"]
            .map(at)
            .to_vec();
    drop(UnixListener::bind(at("socket")).expect("binds")); // its name stays
    for (name, words) in [("fifo", &["p"][..]), ("device", &["c", "1", "3"])] {
        // Only root can make devices. The real ones are not used.
        let made = Command::new("mknod").arg(at(name)).args(words).stderr(Stdio::null()).status();
        if made.expect("mknod runs").success() {
            all.push(at(name));
        }
    }
    assert!(all.iter().any(|path| path.ends_with("fifo")));
    all
}

#[test]
fn a_target_that_is_no_regular_file_is_refused_before_the_run() {
    let dir = tempfile::tempdir().expect("directory");
    let targets = no_files(dir.path());
    let before = listed(dir.path());
    for words in writers() {
        for target in &targets {
            let result = write(&words, target);
            let line =
                format!("p2mtrack: {}: exists, and is not a regular file\n", target.display());
            assert_eq!(
                (result.status, result.out.as_str(), result.err),
                (2, "", line),
                "{words:?}"
            );
            assert_eq!(listed(dir.path()), before, "{words:?}");
        }
    }
    assert_eq!(fs::read(dir.path().join("file")).expect("reads"), b"before");
}

#[test]
fn drawings_are_refused_like_any_other_file() {
    for name in ["roofline.svg", "scaling.svg"] {
        let dir = tempfile::tempdir().expect("directory");
        for target in no_files(dir.path()) {
            let plots = dir.path().join("plots");
            fs::create_dir(&plots).expect("makes");
            fs::rename(&target, plots.join(name)).expect("moves");
            let words = ["bench", "--size", "256MiB", "diff.raw", "--plot"];
            let result = ended(program().args(words).arg(&plots).output().expect("runs"));
            let name = plots.join(name);
            let line = format!("p2mtrack: {}: exists, and is not a regular file\n", name.display());
            assert_eq!((result.status, result.out.as_str(), result.err), (2, "", line));
            assert_eq!(fs::read_dir(&plots).expect("lists").count(), 1);
            fs::rename(&name, &target).expect("moves back");
            fs::remove_dir(&plots).expect("removes");
        }
    }
}

#[test]
fn names_that_no_file_can_have_are_refused_before_the_run() {
    let dir = tempfile::tempdir().expect("directory");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "before").expect("writes");
    let long = "n".repeat(256);
    for words in writers() {
        for (name, why) in [
            ("new/", "not a name that a file can have"),
            ("new/.", "not a name that a file can have"),
            (".", "exists, and is not a regular file"),
            ("..", "exists, and is not a regular file"),
            ("none/new", "No such file or directory"),
            ("none/../new", "No such file or directory"),
            ("file/new", "Not a directory"),
            (&long, "File name too long"),
        ] {
            let result = write(&words, &at(name));
            assert_eq!(
                (result.status, result.out.as_str()),
                (2, ""),
                "{words:?} {name}: {}",
                result.err
            );
            let start = format!("p2mtrack: {}: ", at(name).display());
            assert!(result.err.starts_with(&start), "{words:?} {name}: {}", result.err);
            assert_eq!(result.err.matches(why).count(), 1, "{words:?} {name}: {}", result.err);
            assert_eq!(result.err.lines().count(), 1, "{}", result.err);
        }
        assert_eq!(listed(dir.path()).len(), 1, "{words:?}");
    }
    // Names in the current directory, the root, and an empty name.
    for name in [".", "..", "/", ""] {
        let result = write(&writers()[0], Path::new(name));
        assert_eq!((result.status, result.out.as_str()), (2, ""), "'{name}': {}", result.err);
    }
}

#[test]
fn one_name_for_two_files_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    let dotted = dir.path().join("./file");
    let result = ended(
        program()
            .args(["track", "1", "--record"])
            .arg(&file)
            .arg("--prom")
            .arg(&dotted)
            .output()
            .expect("runs"),
    );
    assert_eq!((result.status, result.out.as_str()), (2, ""));
    assert!(result.err.contains("--record and --prom"), "{}", result.err);
}

#[test]
fn a_new_file_has_the_usual_mode_and_an_existing_file_is_replaced_whole() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    let mode = || fs::metadata(&file).expect("a file").permissions().mode() & 0o777;
    for words in writers().iter().filter(|words| words[0] != "track") {
        let masked = |mask: &str| {
            let result = limited(&format!("umask {mask}"), |shell| shell.args(words).arg(&file));
            assert_eq!((result.status, result.err.as_str()), (0, ""), "{words:?}");
        };
        masked("027");
        assert_eq!(mode(), 0o640);
        // Another name of the replaced file keeps its contents; the new file keeps the mode.
        let other = dir.path().join("other");
        fs::hard_link(&file, &other).expect("links");
        fs::write(&other, "before").expect("writes");
        masked("022");
        assert_eq!((mode(), fs::read(&other).expect("reads")), (0o640, b"before".to_vec()));
        assert_eq!(ended(program().arg("inspect").arg(&file).output().expect("runs")).status, 0);
        assert_eq!(listed(dir.path()).len(), 2, "nothing else");
        fs::remove_file(&file).expect("removes");
        fs::remove_file(&other).expect("removes");
    }
}

/// Runs the program as a user who is not root and owns no file here; none if this process may not
/// change its user.
fn nobody(words: &[String], file: &Path) -> Option<Ended> {
    let other = || {
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        other.arg(program().get_program());
        other
    };
    let tried = other().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let may = tried.is_ok_and(|status| status.success());
    may.then(|| ended(other().args(words).arg(file).output().expect("runs")))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}

#[test]
fn a_target_that_only_its_owner_may_replace_is_refused_before_the_run() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    fs::write(&file, "before").expect("writes");
    set_mode(&file, 0o666);
    set_mode(dir.path(), 0o1777);
    for words in writers().iter().filter(|words| words[0] != "import") {
        let Some(result) = nobody(words, &file) else { return };
        let why =
            "exists, and is another user's, in a directory where only its owner may replace it";
        let line = format!("p2mtrack: {}: {why}\n", file.display());
        assert_eq!((result.status, result.out.as_str(), result.err), (2, "", line), "{words:?}");
    }
    assert_eq!(fs::read(&file).expect("reads"), b"before");
    assert_eq!(listed(dir.path()).len(), 1);
    // Without the bit it is replaced. So is the user's own file, and any file by root.
    set_mode(dir.path(), 0o777);
    let result = nobody(&writers()[0], &file).expect("it went before");
    assert_eq!((result.status, result.err.as_str()), (0, ""));
    set_mode(dir.path(), 0o1777);
    chown(&file, Some(65534), Some(65534)).expect("root");
    assert_eq!(nobody(&writers()[0], &file).expect("it went before").status, 0);
    assert_eq!(write(&writers()[0], &file).status, 0);
}

#[test]
fn a_directory_that_can_be_written_and_not_read_suffices() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    set_mode(dir.path(), 0o333);
    for _ in 0..2 {
        let Some(result) = nobody(&writers()[0], &file) else { return };
        assert_eq!((result.status, result.err.as_str()), (0, ""));
        assert!(file.is_file());
    }
}

#[test]
fn a_new_file_gets_the_mode_and_the_owner_of_the_replaced_one() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    for words in writers().iter().filter(|words| words[0] != "track") {
        fs::write(&file, "before").expect("writes");
        set_mode(&file, 0o600);
        let given = chown(&file, Some(65534), Some(65534)).is_ok(); // by root
        let result = write(words, &file);
        assert_eq!((result.status, result.err.as_str()), (0, ""), "{words:?}");
        let now = fs::metadata(&file).expect("a file");
        assert!(now.len() > 6 && now.permissions().mode() & 0o7777 == 0o600, "{words:?}");
        assert_eq!((now.uid() == 65534, now.gid() == 65534), (given, given), "{words:?}");
        fs::remove_file(&file).expect("removes");
    }
}

#[test]
fn a_recording_outlives_the_reader_of_the_output() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    for words in [&[][..], &["--json"], &["--story"], &["--json", "--tracker", "p2mtrack"]] {
        let mut program = program();
        program.args(SMALL).args(words).arg("--record").arg(&file);
        let result = reader_gone(&mut program);
        assert_eq!((result.status, result.err.as_str()), (0, ""), "{words:?}");
        let inspected = ended(run::program().arg("inspect").arg(&file).output().expect("runs"));
        assert_eq!((inspected.status, inspected.err.as_str()), (0, ""), "{words:?}");
        assert!(inspected.out.contains("\n    1 "), "more than a first copy: {}", inspected.out);
        fs::remove_file(&file).expect("removes");
    }
}

#[test]
fn a_recording_outlives_a_full_output_which_is_an_error() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    for words in [&[][..], &["--json"]] {
        let full = fs::File::options().write(true).open("/dev/full").expect("a device");
        let mut program = program();
        program.args(SMALL).args(words).arg("--record").arg(&file).stdout(full);
        let result = ended(program.output().expect("runs"));
        let line = "p2mtrack: standard output: No space left on device (os error 28)\n";
        assert_eq!((result.status, result.err.as_str()), (2, line), "{words:?}");
        fs::remove_file(&file).expect("was written");
    }
}

#[test]
fn drawings_outlive_the_reader_of_the_output() {
    let dir = tempfile::tempdir().expect("directory");
    let mut program = program();
    program.args(["bench", "--size", "256MiB", "diff.raw", "--plot"]).arg(dir.path());
    let result = reader_gone(&mut program);
    assert_eq!((result.status, result.err.as_str()), (0, ""));
    let names = listed(dir.path());
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_full_disk_is_reported_once_and_changes_no_file() {
    const WHY: &str = "File too large (os error 27)";
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    let capture = path("balloon-256.p2mraw.xz").display().to_string();
    let guest =
        ["simulate", "--scenario", "balloon", "--guest-size", "64MiB", "--tracker", "p2mtrack"];
    let json = [&guest[..], &["--json", "--record"]].concat();
    let text = [&guest[..], &["--record"]].concat();
    // Full at once, and in the middle of the rounds. Blocks are of 512 or 1,024 bytes.
    for blocks in [0, 1, 4, 8] {
        for words in [&json[..], &text, &["import", &capture]] {
            for there in [false, true] {
                if there {
                    fs::write(&file, "before").expect("writes");
                }
                let result =
                    limited(&format!("ulimit -f {blocks}"), |shell| shell.args(words).arg(&file));
                assert_eq!(result.status, 2, "{words:?}: {}", result.err);
                assert_eq!(result.err.matches(WHY).count(), 1, "{words:?}: {}", result.err);
                assert_eq!(result.err.matches("File too large").count(), 1, "{}", result.err);
                let start = format!("p2mtrack: {}: trace can't be written: ", file.display());
                assert!(result.err.starts_with(&start), "{words:?}: {}", result.err);
                assert_eq!(result.err.lines().count(), 1, "{}", result.err);
                if words.contains(&"--json") && !result.out.is_empty() {
                    let last = result.out.lines().last().expect("a line");
                    let last: Value = serde_json::from_str(last).expect("JSON");
                    let error = last["error"].as_str().expect("an error");
                    assert_eq!(error.matches(WHY).count(), 1, "{error}");
                    assert_eq!(last["verdict"], "aborted");
                    assert_eq!(last["record_error"], error);
                }
                let left = fs::read_dir(dir.path()).expect("lists").count();
                assert_eq!(left, usize::from(there), "{words:?}");
                if there {
                    assert_eq!(fs::read(&file).expect("reads"), b"before");
                    fs::remove_file(&file).expect("removes");
                }
            }
        }
    }
}

/// A small recording is written only at its end.
#[test]
fn a_recording_that_fails_at_its_end_is_reported_in_json_too() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    for words in [&["--json"][..], &[]] {
        let result = limited("ulimit -f 0", |shell| {
            shell.args(SMALL).args(words).arg("--record").arg(&file)
        });
        const WHY: &str = "File too large (os error 27)";
        assert_eq!((result.status, result.err.matches(WHY).count()), (2, 1), "{}", result.err);
        assert_eq!(result.err.lines().count(), 1, "{}", result.err);
        assert_eq!(listed(dir.path()), []);
        if let [_] = words {
            let last: Value =
                serde_json::from_str(result.out.lines().last().expect("lines")).expect("JSON");
            assert_eq!((&last["verdict"], &last["error"]), (&"identical".into(), &Value::Null));
            let error = last["record_error"].as_str().expect("text");
            assert_eq!(result.err, format!("p2mtrack: {}: {error}\n", file.display()));
        }
    }
}

#[test]
fn a_migration_that_ends_before_its_first_copy_has_its_own_status() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    let ends = ["--faults", "cancel", "--tracker", "p2mtrack", "--json"];
    let mut early = 0;
    for seed in 1..=12 {
        let seed = seed.to_string();
        let words = [&SMALL[..], &ends, &["--seed", &seed]].concat();
        let plain = ended(program().args(&words).output().expect("runs"));
        let result =
            ended(program().args(&words).arg("--record").arg(&file).output().expect("runs"));
        assert_eq!(result.status, plain.status, "{seed}: {}", result.err);
        let last: Value =
            serde_json::from_str(plain.out.lines().last().expect("lines")).expect("J");
        if last["rounds"] == 0 {
            early += 1;
            assert_eq!((result.status, file.exists()), (3, false));
            let line = format!("p2mtrack: {}: ", file.display());
            assert!(
                result.err.starts_with(&line) && result.err.contains("first copy"),
                "{}",
                result.err
            );
        } else {
            assert_eq!(result.err, "");
            fs::remove_file(&file).expect("was written");
        }
        assert_eq!(listed(dir.path()).len(), 0);
    }
    assert!(early > 0, "no seed ends before the first copy");
}

/// Begins a long recording in a shell that runs `first` before it; the run has begun when this
/// returns.
fn long(first: &str, dir: &Path) -> Child {
    let guest = ["simulate", "--guest-size", "4GiB", "--tracker", "p2mtrack", "--record"];
    let mut shell = shell(first);
    shell.args(guest).arg(dir.join("file")).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = shell.spawn().expect("runs");
    let mut lines = BufReader::new(child.stdout.as_mut().expect("a pipe")).lines();
    lines.next().expect("a line").expect("text");
    child
}

fn send(signal: &str, child: &Child) {
    let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
}

#[test]
fn no_file_stays_if_a_signal_ends_the_program() {
    let dir = tempfile::tempdir().expect("directory");
    for (name, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("KILL", 9), ("USR1", 10)] {
        let mut child = long("true", dir.path());
        send(name, &child);
        assert_eq!(child.wait().expect("ends").signal(), Some(number), "{name}");
        assert_eq!(listed(dir.path()), [], "{name}");
    }
}

#[test]
fn signals_that_were_ignored_at_the_start_do_not_end_the_program() {
    let dir = tempfile::tempdir().expect("directory");
    let mut child = long("trap '' HUP INT PIPE", dir.path());
    for signal in ["HUP", "INT", "PIPE", "TERM"] {
        send(signal, &child);
    }
    assert_eq!(child.wait().expect("ends").signal(), Some(15));
    assert_eq!(listed(dir.path()), []);
}

#[test]
fn a_file_is_the_old_or_the_new_one_whenever_the_program_ends() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    let mut program = program();
    program.args(SMALL).args(["--tracker", "p2mtrack", "--record"]).arg(&file);
    assert_eq!(ended(program.output().expect("runs")).status, 0);
    let whole = fs::read(&file).expect("reads");
    fs::write(&file, "before").expect("writes");
    let begun = Instant::now();
    assert_eq!(ended(program.output().expect("runs")).status, 0);
    let time = begun.elapsed();
    for part in 0..40 {
        fs::write(&file, "before").expect("writes");
        let mut child = program.stdout(Stdio::null()).spawn().expect("runs");
        std::thread::sleep(time * part / 40);
        send("TERM", &child);
        let status = child.wait().expect("ends");
        assert!(status.success() || status.signal() == Some(15), "{status}");
        let there = fs::read(&file).expect("reads");
        assert!(there == whole || there == b"before" && !status.success(), "{status}");
        assert_eq!(listed(dir.path()).len(), 1);
    }
}
