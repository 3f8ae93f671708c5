// SPDX-License-Identifier: MIT OR Apache-2.0
//! Comments and documents have at most 100 columns, those of the C header 80: two files fit side by
//! side on a screen.
//! Not here: code, which rustfmt breaks; strings.
//! Units: columns are characters.
//! Threads: one.
//! Source: the files of this workspace on disk. Tables, links and fenced blocks of a document have
//! no limit.
#![cfg(not(miri))] // reads the disk

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const COLUMNS_MAX: usize = 100;

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for path in
        fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("one").path())
    {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && name != ".git" {
            files(&path, found);
        } else if name.ends_with(".rs") || name.ends_with(".md") {
            found.push(path);
        }
    }
}

fn is_comment(line: &str) -> bool {
    let text = line.trim_start();
    if let Some(comment) = text.strip_prefix("//") {
        return !comment.trim_start_matches(['/', '!']).trim_start().starts_with('|');
    }
    // After code; a string may have slashes, too.
    text.rsplit_once(" // ").is_some_and(|(code, _)| code.matches('"').count() % 2 == 0)
}

/// Lines of a file that are too long.
fn too_long(path: &Path, text: &str) -> Vec<String> {
    let is_document = path.extension().is_some_and(|extension| extension == "md");
    let mut fenced = false;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        fenced ^= is_document && line.trim_start().starts_with("```");
        let limited = if is_document {
            !fenced && !line.trim_start().starts_with('|') && line.contains(' ')
        } else {
            is_comment(line)
        };
        let is_link = line.contains("](") || line.contains("://");
        if limited && !is_link && line.chars().count() > COLUMNS_MAX {
            found.push(format!("{}:{}", path.display(), number + 1));
        }
    }
    found
}

#[test]
fn comments_of_the_header_have_at_most_80_columns() {
    let header = fs::read_to_string(Path::new(ROOT).join("ffi/include/p2mtrack.h")).expect("text");
    let is_comment = |line: &&str| line.contains("/*") || line.trim_start().starts_with('*');
    let long = header.lines().filter(is_comment).filter(|line| line.chars().count() > 80);
    assert_eq!(long.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn comments_and_documents_have_at_most_100_columns() {
    let mut all = Vec::new();
    files(Path::new(ROOT), &mut all);
    assert!(all.len() > 100, "the files are not where they were");
    let found =
        all.iter().flat_map(|path| too_long(path, &fs::read_to_string(path).expect("text")));
    let found: Vec<_> = found.collect();
    assert!(found.is_empty(), "longer:\n{}", found.join("\n"));
}
