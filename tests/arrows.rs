// SPDX-License-Identifier: MIT OR Apache-2.0
//! Dependencies go one way: the files of a crate have no cycle, and a type has its methods where it
//! is defined.
//! Not here: which dependencies there are (`docs/design.md`, "Shape").
//! Units: files; an arrow is a path in one file that names an item of another one.
//! Threads: one.
//! Source: the sources of this workspace as they lie on disk;
//! `docs/decisions/0023-one-downward-path.md`.
#![cfg(not(miri))] // reads the disk

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemUse, UseTree, Visibility};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The crates whose files are checked.
const CRATES: [&str; 7] = ["tracker", "cli", "helper", "trace", "stream", "migrate", "synthetic"];

/// A module's path below its crate; the root's is empty.
type Module = Vec<String>;
/// Names of a path, in order.
type Names = Vec<String>;

/// The files of a crate, tests left out.
struct Crate {
    files: BTreeMap<Module, syn::File>,
    /// What each file re-exports: the name here, and the path of the item there.
    given_on: BTreeMap<Module, BTreeMap<String, Names>>,
}

/// All arrows from one file.
struct Paths {
    found: Vec<Names>,
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let list = attribute.meta.require_list().ok().filter(|list| list.path.is_ident("cfg"));
        list.is_some_and(|list| {
            let text = list.tokens.to_string();
            text == "test" || text.starts_with("all (test") || text.starts_with("all(test")
        })
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        _ => &[],
    }
}

/// The paths that a `use` names.
fn leaves(tree: &UseTree, before: &[String], into: &mut Vec<(String, Names)>) {
    let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
    match tree {
        UseTree::Path(path) => leaves(&path.tree, &with(&path.ident), into),
        UseTree::Name(name) => into.push((name.ident.to_string(), with(&name.ident))),
        UseTree::Rename(name) => into.push((name.rename.to_string(), with(&name.ident))),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, before, into)),
        UseTree::Glob(_) => into.push(("*".to_owned(), before.to_vec())),
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        // A re-export is no arrow.
        if matches!(item.vis, Visibility::Inherited) {
            let mut found = Vec::new();
            leaves(&item.tree, &[], &mut found);
            self.found.extend(found.into_iter().map(|(_, path)| path));
        }
    }

    fn visit_visibility(&mut self, _: &'ast Visibility) {} // `pub(in path)` is no arrow

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.found.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

impl Crate {
    fn read(name: &str) -> Self {
        let mut files = BTreeMap::new();
        let source = Path::new(ROOT).join("engine").join(name).join("src");
        read_files(&source, &source, &mut files);
        assert!(files.len() > 10, "the sources of {name} are not where they were");
        let given_on = files.iter().map(|(module, file): (&Module, &syn::File)| {
            let uses = file.items.iter().filter_map(|item| match item {
                Item::Use(item) if !matches!(item.vis, Visibility::Inherited) => Some(item),
                _ => None,
            });
            let mut found = Vec::new();
            uses.for_each(|item| leaves(&item.tree, &[], &mut found));
            (module.clone(), found.into_iter().collect())
        });
        Self { given_on: given_on.collect(), files }
    }

    /// A path of a file, from the crate's root; `None` if it leads out of the crate, or is a name
    /// of the file itself.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Names> {
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([module, &path[1..]].concat()),
            "super" => {
                let ups = path.iter().take_while(|name| *name == "super").count();
                Some([&module[..module.len().checked_sub(ups)?], &path[ups..]].concat())
            }
            first => {
                if let Some(given) =
                    self.given_on[module].get(first).filter(|path| path[0] != first)
                {
                    return self.absolute(module, &[given, &path[1..]].concat());
                }
                let child = [module, &[first.to_owned()]].concat();
                self.files.contains_key(&child).then(|| [module, path].concat())
            }
        }
    }

    /// The file that defines what a path names.
    fn defines(&self, path: &[String], depth: usize) -> Option<Module> {
        let length = (0..=path.len()).rev().find(|&n| self.files.contains_key(&path[..n]))?;
        let (module, rest) = path.split_at(length);
        let given_on = rest.first().and_then(|name| self.given_on[module].get(name));
        let further = given_on.filter(|_| depth < 8).and_then(|path| {
            let path = self.absolute(module, path)?;
            self.defines(&[path, rest[1..].to_vec()].concat(), depth + 1)
        });
        Some(further.unwrap_or_else(|| module.to_vec()))
    }

    /// The files that each file names something of.
    fn arrows(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let arrows = self.files.iter().map(|(module, file)| {
            let mut paths = Paths { found: Vec::new() };
            paths.visit_file(file);
            let named = paths.found.iter().filter_map(|path| self.absolute(module, path));
            let others = named.filter_map(|path| self.defines(&path, 0));
            (module, others.filter(|other| other != module).collect())
        });
        arrows.collect()
    }
}

fn read_files(source: &Path, directory: &Path, into: &mut BTreeMap<Module, syn::File>) {
    for path in fs::read_dir(directory).expect("sources").map(|entry| entry.expect("one").path()) {
        if path.is_dir() {
            read_files(source, &path, into);
            continue;
        }
        let below = path.strip_prefix(source).expect("below it").with_extension("");
        let mut module: Module =
            below.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        match module.last().map(String::as_str) {
            Some("tests" | "loom") => continue,
            Some("mod" | "lib" | "main") => _ = module.pop(),
            _ => {}
        }
        let text = fs::read_to_string(&path).expect("a source");
        into.insert(module, syn::parse_file(&text).expect("Rust"));
    }
}

/// All that can be reached from a file.
fn reached<'a>(
    from: &'a Module,
    arrows: &'a BTreeMap<&Module, BTreeSet<Module>>,
) -> BTreeSet<&'a Module> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        open.extend(arrows[module].iter().filter(|next| reached.insert(*next)));
    }
    reached
}

#[test]
fn files_of_a_crate_make_no_cycle() {
    let mut cycles = Vec::new();
    for name in CRATES {
        let files = Crate::read(name);
        let arrows = files.arrows();
        let count: usize = arrows.values().map(BTreeSet::len).sum();
        assert!(count > arrows.len(), "{name}: only {count} arrows found");
        for (&from, others) in &arrows {
            let back = others.iter().filter(|other| reached(other, &arrows).contains(from));
            cycles
                .extend(back.map(|to| format!("{name}: {} -> {}", from.join("::"), to.join("::"))));
        }
    }
    assert!(cycles.is_empty(), "arrows of cycles:\n{}", cycles.join("\n"));
}

#[test]
fn a_type_has_its_methods_where_it_is_defined() {
    let mut elsewhere = Vec::new();
    for name in CRATES {
        for (module, file) in Crate::read(name).files {
            let defined: BTreeSet<_> = file.items.iter().filter_map(defined_name).collect();
            let here = |item: &Item| {
                let Item::Impl(block) = item else { return None };
                let syn::Type::Path(path) = &*block.self_ty else { return None };
                let own = block.trait_.is_none() && !is_test(&block.attrs);
                let name = path.path.segments.last()?.ident.to_string();
                (own && !defined.contains(&name)).then_some(name)
            };
            let found = file.items.iter().filter_map(here);
            elsewhere
                .extend(found.map(|found| format!("{name}: {found} in {}", module.join("::"))));
        }
    }
    assert!(
        elsewhere.is_empty(),
        "methods in another file than their type:\n{}",
        elsewhere.join("\n")
    );
}

fn defined_name(item: &Item) -> Option<String> {
    match item {
        Item::Struct(item) => Some(item.ident.to_string()),
        Item::Enum(item) => Some(item.ident.to_string()),
        _ => None,
    }
}
