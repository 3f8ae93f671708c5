// SPDX-License-Identifier: MIT OR Apache-2.0
//! Public names use the words of `docs/glossary.md`, and none that it rules out.
//! Not here: prose.
//! Units: words of a name, cut at capitals and underscores.
//! Threads: one.
//! Source: the last table of the glossary; names in the sources, the header and `docs/json.md`.
#![cfg(not(miri))] // reads the disk

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Field, Ident, ImplItemFn, Item, TraitItemFn, Variant, Visibility};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).expect(path)
}

/// The words of the first column of the glossary's last table.
fn ruled_out() -> BTreeSet<String> {
    let glossary = read("docs/glossary.md");
    let (_, table) = glossary.split_once("| not | but |").expect("the last table");
    let cells =
        table.lines().skip(2).filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    cells.flat_map(|cell| cell.split(", ")).map(str::to_owned).collect()
}

/// The words of a name: `P2mSize` has two, and so has `p2m_size`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in name.chars() {
        if letter == '_' || letter.is_uppercase() && !words.last().is_some_and(String::is_empty) {
            words.push(String::new());
        }
        if letter != '_' {
            words.last_mut().expect("one").extend(letter.to_lowercase());
        }
    }
    words
}

/// Names that a user of a crate sees.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn add(&mut self, name: &Ident) {
        self.0.insert(name.to_string());
    }
}

const fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Fn(item) if is_public(&item.vis) => self.add(&item.sig.ident),
            Item::Struct(item) if is_public(&item.vis) => self.add(&item.ident),
            Item::Const(item) if is_public(&item.vis) => self.add(&item.ident),
            Item::Type(item) if is_public(&item.vis) => self.add(&item.ident),
            Item::Mod(item) if is_public(&item.vis) => self.add(&item.ident),
            Item::Trait(item) if is_public(&item.vis) => self.add(&item.ident),
            Item::Enum(item) if is_public(&item.vis) => self.add(&item.ident),
            Item::Enum(_) | Item::Trait(_) => return, // what is in it is not public either
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if is_public(&function.vis) {
            self.add(&function.sig.ident);
        }
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        self.add(&function.sig.ident);
    }

    fn visit_variant(&mut self, variant: &'ast Variant) {
        self.add(&variant.ident);
        visit::visit_variant(self, variant);
    }

    fn visit_field(&mut self, field: &'ast Field) {
        if is_public(&field.vis) {
            field.ident.iter().for_each(|name| self.add(name));
        }
    }
}

fn of_rust(directory: &Path, names: &mut Names) {
    for path in fs::read_dir(directory).expect("sources").map(|entry| entry.expect("one").path()) {
        if path.is_dir() {
            of_rust(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            names.visit_file(&syn::parse_file(&text).expect("Rust"));
        }
    }
}

/// Identifiers of the header; its comments are prose.
fn of_c() -> BTreeSet<String> {
    let mut header = read("ffi/include/p2mtrack.h");
    while let Some(begin) = header.find("/*") {
        let end = header[begin..].find("*/").expect("comments end") + begin + 2;
        header.replace_range(begin..end, " ");
    }
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    header.split(|letter| !is_part(letter)).map(str::to_lowercase).collect()
}

/// Keys of JSON: the words between backticks in `docs/json.md`.
fn of_json() -> BTreeSet<String> {
    let text = read("docs/json.md");
    let keys = text.split('`').skip(1).step_by(2);
    let is_key =
        |key: &&str| key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    keys.filter(is_key).map(str::to_owned).collect()
}

#[test]
fn names_use_the_glossary_s_words() {
    let ruled_out = ruled_out();
    assert!(ruled_out.len() > 20 && ruled_out.contains("doubt"), "{ruled_out:?}");
    let mut rust = Names::default();
    of_rust(&Path::new(ROOT).join("engine/tracker/src"), &mut rust);
    let all = [("Rust", rust.0), ("C", of_c()), ("JSON", of_json())];
    let mut wrong = Vec::new();
    for (language, names) in &all {
        assert!(names.len() > 50, "{language}: only {} names found", names.len());
        let bad =
            names.iter().filter(|name| words(name).iter().any(|word| ruled_out.contains(word)));
        wrong.extend(bad.map(|name| format!("{language}: {name}")));
    }
    assert!(wrong.is_empty(), "names with words that are ruled out: {wrong:?}");
}
