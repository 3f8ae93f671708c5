// SPDX-License-Identifier: MIT OR Apache-2.0
//! `docs/safety.md` names every file with unsafe code, and no other.
//! Not here: the arguments themselves, which a reader checks.
//! Units: files and lines.
//! Threads: one.
//! Source: the sources of this workspace on disk.
#![cfg(not(miri))] // reads the disk

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Where Rust sources are.
const SOURCES: [&str; 5] = ["engine", "ffi", "benches", "perf", "tests"];
/// What makes a line a site; attributes and comments about unsafe code are none.
const SITES: [&str; 5] =
    ["unsafe {", "unsafe fn ", "unsafe impl ", "unsafe extern ", "unsafe trait "];

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).expect("a directory of the workspace");
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Lines of code with a site; comments are left out.
fn sites(source: &str) -> usize {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or(line));
    code.filter(|line| SITES.iter().any(|site| line.contains(site))).count()
}

fn unsafe_files() -> BTreeMap<String, usize> {
    let mut files = Vec::new();
    SOURCES.iter().for_each(|source| rust_files(&Path::new(ROOT).join(source), &mut files));
    assert!(files.len() > 50, "the sources are not where they were");
    let count = |path: PathBuf| {
        let source = fs::read_to_string(&path).expect("a source");
        let name = path.strip_prefix(ROOT).expect("below the root").to_string_lossy().into_owned();
        (sites(&source) > 0).then_some((name, sites(&source)))
    };
    let here = Path::new(file!()).file_name(); // its strings are no sites
    files.into_iter().filter(|path| path.file_name() != here).filter_map(count).collect()
}

/// The rows of the first table: file and number of sites.
fn listed() -> BTreeMap<String, usize> {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/safety.md")).expect("docs/safety.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let row = |row: &str| {
        let (file, rest) = row.split_once("` | ")?;
        let (sites, _) = rest.split_once(" | ")?;
        Some((file.to_owned(), sites.parse().ok()?))
    };
    rows.filter_map(row).collect()
}

#[test]
fn every_unsafe_site_is_listed() {
    assert_eq!(listed(), unsafe_files(), "left: docs/safety.md, right: the sources");
}

/// Crates without unsafe code forbid it; the others deny it except in the files that are listed.
#[test]
fn no_crate_may_grow_unsafe_code_unseen() {
    let files: BTreeSet<_> = unsafe_files().into_keys().collect();
    for root in ["tracker", "synthetic", "trace", "bench", "cli"] {
        let (directory, main) = (format!("engine/{root}/src/"), root == "cli");
        let lib = format!("{directory}{}.rs", if main { "main" } else { "lib" });
        let source = fs::read_to_string(Path::new(ROOT).join(&lib)).expect("a crate");
        let none = files.iter().all(|file| !file.starts_with(&directory));
        let attribute = if none { "#![forbid(unsafe_code)]" } else { "#![deny(unsafe_code)]" };
        assert!(source.lines().any(|line| line == attribute), "{lib} has no {attribute}");
    }
}
