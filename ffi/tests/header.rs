// SPDX-License-Identifier: MIT OR Apache-2.0
//! Header and code agree: sizes, offsets and numbers as a C compiler sees them, and the types of
//! each function.
//! Not here: what is exported, and under which version (`ffi/tests/package`).
//! Units: bytes.
//! Threads: one.
//! Source: `include/p2mtrack.h` against `src/abi.rs` and `src/functions.rs`. Needs a C compiler.
#![cfg(not(miri))] // runs one

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::mem::offset_of;
use std::process::Command;

use p2mtrack_ffi::abi;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn header() -> String {
    fs::read_to_string(format!("{ROOT}/include/p2mtrack.h")).expect("the header")
}

/// A structure: its name in C, its size, and each field's name, offset and size.
type Layout = (&'static str, usize, Vec<(&'static str, usize, usize)>);

const fn size_of_field<S, T>(_: fn(&S) -> &T) -> usize {
    size_of::<T>()
}

macro_rules! layout {
    ($name:literal, $type:ty { $($field:ident $(as $c:literal)?),* $(,)? }) => {(
        $name,
        size_of::<$type>(),
        vec![$((
            [$($c,)? stringify!($field)][0],
            offset_of!($type, $field),
            size_of_field(|value: &$type| &value.$field),
        )),*],
    )};
}

fn layouts() -> Vec<Layout> {
    vec![
        layout!(
            "p2mt_roots",
            abi::Roots { size, zero, pfn_count, frame_list_list, p2m_cr3, p2m_vaddr, generation }
        ),
        layout!("p2mt_domain_frames_call", abi::DomainFramesCall { frames }),
        layout!("p2mt_roots_call", abi::RootsCall { roots }),
        layout!("p2mt_read_call", abi::ReadCall { mfn, words }),
        layout!("p2mt_map_call", abi::MapCall { mfns, count, addresses, errors }),
        layout!("p2mt_unmap_call", abi::UnmapCall { addresses, count }),
        layout!("p2mt_types_call", abi::TypesCall { mfns, count, types }),
        layout!("p2mt_unlogged_call", abi::UnloggedCall { pfns, capacity, count }),
        layout!("p2mt_accepts_transfer_call", abi::AcceptsTransferCall { accepts }),
        layout!("p2mt_transfers_call", abi::TransfersCall { names, capacity, count }),
        layout!("p2mt_log_call", abi::LogCall { level, text }),
        layout!(
            "p2mt_host",
            abi::Host {
                size,
                zero,
                user,
                domain_frames,
                roots,
                read,
                map,
                unmap,
                types,
                unlogged,
                accepts_transfer,
                log,
                m2p,
                m2p_frames,
                compat_m2p_mfn,
                transfers,
            }
        ),
        layout!(
            "p2mt_config",
            abi::Config {
                size,
                width,
                mode,
                threads,
                kernel,
                verify,
                alias,
                foreign_pte,
                uncertain_rounds_max,
                unaccounted,
            }
        ),
        layout!("p2mt_log_buffer", abi::LogBuffer { words, pfns }),
        layout!("p2mt_page", abi::Page { pfn, mfn, entry, kind as "type", causes }),
        layout!("p2mt_page_answer", abi::PageAnswer { verdict, reason, errnum, zero }),
        layout!("p2mt_table_fault", abi::TableFault { size, cause, mfn, level, slot }),
        layout!("p2mt_cleared_pte", abi::ClearedPte { pfn, mfn }),
        layout!(
            "p2mt_report",
            abi::Report {
                size,
                stage,
                round,
                pfn_count,
                threads,
                kernel,
                log_dirty_pfns,
                leaves_tracked,
                leaves_distinct,
                leaves_dirty,
                leaves_fresh,
                leaves_dropped,
                leaves_compared,
                leaves_unchanged,
                entries_mapped,
                entries_unmapped,
                entries_remapped,
                entries_other,
                entries_beyond_log_dirty,
                structure_generation,
                structure_roots,
                structure_pfn_count,
                structure_dirty,
                structure_entries,
                structure_moved,
                structure_walks,
                structure_retries,
                pages_owed,
                pages_accepted,
                pages_tables,
                pages_unpopulated,
                pages_deferred_m2p,
                pages_deferred_frame,
                pages_deferred_table,
                pages_deferred_uncertain,
                pages_moved,
                pages_returned,
                pages_left,
                settled_gone,
                settled_foreign,
                settled_m2p_stale,
                settled_aliases,
                settled_cleared_ptes,
                settled_unlogged,
                uncertain,
                p2m_unreadable,
                shrinking,
                dirty_rate,
                unaccounted_frames,
            }
        ),
        layout!(
            "p2mt_totals",
            abi::Totals {
                size,
                zero,
                rounds,
                rounds_given_up,
                pages_accepted,
                pages_deferred,
                entries_changed,
                entries_beyond_log_dirty,
                owed,
                shadow_bytes,
            }
        ),
        layout!("p2mt_pfn_state", abi::PfnState { size, causes, defer, zero, entry }),
        layout!("p2mt_error", abi::Error { size, code, errnum, level, pfn, mfn, text }),
    ]
}

/// Constants of the Rust code, by their names in C without the prefix.
fn numbers() -> BTreeMap<String, i128> {
    let source = fs::read_to_string(format!("{ROOT}/src/abi.rs")).expect("abi.rs");
    let consts = source.lines().filter_map(|line| line.strip_prefix("pub const "));
    let number = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let value = rest.split_once(" = ")?.1.trim_end_matches(';');
        let value = match value.split_once(" << ") {
            Some((one, by)) => one.parse::<i128>().ok()? << by.parse::<u32>().ok()?,
            None if value == "u64::MAX" => i128::from(u64::MAX),
            None => value.parse().ok()?,
        };
        Some((name.to_owned(), value))
    };
    consts.filter_map(number).collect()
}

/// The names that the header defines.
fn defined() -> BTreeSet<String> {
    let header = header();
    let lines = header.lines().filter_map(|line| line.strip_prefix("#define P2MT_"));
    lines.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

/// The output of a C program that includes the header.
fn output_in_c(body: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, program) = (folder.path().join("layout.c"), folder.path().join("layout"));
    let text = format!(
        "#include <stdio.h>\n#include \"p2mtrack.h\"\n#define F(s, f) (sizeof(((struct s *)0)->f))\nint main(void) {{\n{body}return 0;\n}}\n"
    );
    fs::write(&source, text).expect("written");
    let compiled = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(format!("{ROOT}/include"))
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .status();
    assert!(compiled.expect("a C compiler").success());
    let output = Command::new(&program).output().expect("runs");
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn structures_are_laid_out_alike() {
    let (mut body, mut expected) = (String::new(), Vec::new());
    for (name, size, fields) in layouts() {
        writeln!(body, "printf(\"{name} %zu\\n\", sizeof(struct {name}));").expect("text");
        expected.push(format!("{name} {size}"));
        for (field, offset, bytes) in &fields {
            writeln!(
                body,
                "printf(\"{name}.{field} %zu %zu\\n\", offsetof(struct {name}, {field}), F({name}, {field}));"
            )
            .expect("text");
            expected.push(format!("{name}.{field} {offset} {bytes}"));
        }
        let sum: usize = fields.iter().map(|(_, _, bytes)| bytes).sum();
        // the only one with padding; this library never reads it
        let padded = matches!(name, "p2mt_log_call");
        assert!(sum == size || padded, "struct {name} has padding, or a field that is not listed");
    }
    assert_eq!(output_in_c(&body), expected);
    let header = header();
    let structures =
        header.lines().filter_map(|line| line.strip_prefix("struct ")?.strip_suffix(" {"));
    let listed: BTreeSet<_> = layouts().iter().map(|layout| layout.0).collect();
    assert_eq!(structures.collect::<BTreeSet<_>>(), listed);
}

#[test]
fn callbacks_take_a_pointer_to_their_arguments() {
    let callbacks = pieces(&header(), "int (*", ";");
    assert_eq!(callbacks.len(), 10);
    for callback in callbacks {
        let (name, arguments) = callback.split_once(')').expect("a name");
        let expected = format!("(void *user, const struct p2mt_{name}_call *call)");
        assert_eq!(arguments, expected, "{name}: of abi::Callback");
    }
}

#[test]
fn numbers_are_alike() {
    let ours = numbers();
    assert!(ours.len() > 50, "abi.rs is not read right: {}", ours.len());
    let theirs = defined();
    let elsewhere = ["VERSION_MAJOR", "VERSION_MINOR", "VERSION_PATCH"];
    let of_causes = |name: &&String| name.starts_with("CAUSE_");
    let (mut body, mut expected) = (String::new(), Vec::new());
    for name in theirs.iter().filter(|name| !of_causes(name) && !elsewhere.contains(&name.as_str()))
    {
        let value = ours.get(name).unwrap_or_else(|| panic!("P2MT_{name} is not in abi.rs"));
        let (format, kind) = if *value > i64::MAX.into() {
            ("llu", "unsigned long long")
        } else {
            ("lld", "long long")
        };
        writeln!(body, "printf(\"{name} %{format}\\n\", ({kind})(P2MT_{name}));").expect("text");
        expected.push(format!("{name} {value}"));
    }
    assert_eq!(output_in_c(&body), expected);
    for name in ours.keys().filter(|name| *name != "ERROR_TEXT_BYTES") {
        assert!(theirs.contains(name), "abi::{name} is not in the header");
    }
}

#[test]
fn causes_are_those_of_the_engine() {
    let mut body = String::new();
    let mut expected = Vec::new();
    for (bit, cause) in p2mtrack::cause::Cause::ALL.into_iter().enumerate() {
        let name = cause.name().to_uppercase().replace('-', "_");
        writeln!(body, "printf(\"{name} %u\\n\", P2MT_CAUSE_{name});").expect("text");
        expected.push(format!("{name} {}", 1 << bit));
    }
    assert_eq!(output_in_c(&body), expected);
    assert_eq!(defined().iter().filter(|name| name.starts_with("CAUSE_")).count(), expected.len());
}

/// The text from each `begin` to an `end`, without line breaks.
fn pieces(text: &str, begin: &str, end: &str) -> Vec<String> {
    let rest = text.split(begin).skip(1);
    let piece = |rest: &str| {
        rest.split(end).next().map(|piece| piece.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    rest.filter_map(piece).collect()
}

/// A C type as written in Rust.
fn in_rust(c: &str) -> String {
    let c = c.trim();
    if let Some(pointee) = c.strip_suffix('*') {
        let pointee = pointee.trim();
        return match pointee.strip_prefix("const ") {
            Some(pointee) => format!("*const {}", in_rust(pointee)),
            None => format!("*mut {}", in_rust(pointee)),
        };
    }
    match c {
        "int" => "c_int",
        "char" => "c_char",
        "size_t" => "usize",
        "uint32_t" => "u32",
        "uint64_t" => "u64",
        "struct p2mt" => "Handle",
        other => {
            let name = other.strip_prefix("struct p2mt_").unwrap_or_else(|| panic!("type {other}"));
            let words = name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]);
            return format!("abi::{}", words.collect::<String>());
        }
    }
    .to_owned()
}

/// The type of a C parameter, as written in Rust.
fn parameter(c: &str) -> String {
    let at = c.rfind(|character: char| !(character.is_alphanumeric() || character == '_'));
    in_rust(&c[..=at.expect("a type and a name")])
}

#[test]
fn functions_have_the_types_of_their_prototypes() {
    let mut header = header();
    while let (Some(begin), Some(end)) = (header.find("/*"), header.find("*/")) {
        header.replace_range(begin..end + 2, "");
    }
    let functions = header.split("struct p2mt;").nth(1).expect("the functions come last");
    let prototype = |piece: &str| {
        let (head, parameters) = piece.rsplit_once('(')?;
        let (result, name) = head.rsplit_once("p2mt_")?;
        let parameters = parameters.strip_suffix(')')?;
        let parameters: Vec<_> = match parameters {
            "void" => vec![],
            all => all.split(',').map(|one| parameter(one.trim())).collect(),
        };
        Some((name.to_owned(), (parameters, in_rust(result))))
    };
    let joined = functions.split_whitespace().collect::<Vec<_>>().join(" ");
    let in_c: BTreeMap<_, _> = joined
        .split(';')
        .filter_map(|piece| {
            let piece = piece.trim().trim_start_matches(|c: char| !c.is_alphabetic());
            let begin = ["int p2mt_", "uint32_t p2mt_", "const char *p2mt_"]
                .iter()
                .find_map(|b| piece.find(b))?;
            prototype(&piece[begin..])
        })
        .collect();
    let source = fs::read_to_string(format!("{ROOT}/src/functions.rs")).expect("functions.rs");
    let in_rust: BTreeMap<_, _> = pieces(&source, "extern \"C\" fn p2mt_", "{")
        .iter()
        .filter_map(|piece| {
            let (name, rest) = piece.split_once('(')?;
            let (parameters, result) = rest.rsplit_once(") -> ")?;
            let types = parameters
                .split(',')
                .filter_map(|one| one.split_once(": ").map(|one| one.1.trim().to_owned()));
            Some((name.to_owned(), (types.collect::<Vec<_>>(), result.trim().to_owned())))
        })
        .collect();
    assert!(in_rust.len() >= 22, "functions.rs is not read right");
    assert_eq!(in_c, in_rust);
}
