// SPDX-License-Identifier: MIT OR Apache-2.0
//! All figures by name, and which of them a name selects.
//! Not here: how they are measured (`figures`).
//! Units: none.
//! Threads: the caller's.
//! Source: names are an interface.

use crate::figure::Figure;
use crate::figures::{affine, density, huge, random, scattered, shadow_bytes, stream, table, take};
use crate::setup::Setup;

/// Figures that are measured together.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The prefixes of their names.
    pub names: &'static [&'static str],
    /// Measures them.
    pub run: fn(&Setup) -> Vec<Figure>,
}

/// All entries, in the order in which they are measured. The one that needs most memory (two
/// mappings of the p2m in huge pages) is first, before the allocator keeps memory of others.
pub const ENTRIES: [Entry; 10] = [
    Entry { names: &["diff.scattered"], run: scattered::run },
    Entry { names: &["snapshot.first", "round", "intake", "memory.peak"], run: huge::run },
    Entry { names: &["diff.affine"], run: affine::run },
    Entry { names: &["diff.packed"], run: random::packed },
    Entry { names: &["diff.raw"], run: random::raw },
    Entry { names: &["diff.density"], run: density::run },
    Entry { names: &["bitmap.take"], run: take::run },
    Entry { names: &["shadow.bytes"], run: shadow_bytes::run },
    Entry { names: &["stream.write", "stream.check"], run: stream::run },
    Entry { names: &["table.normalise"], run: table::run },
];

/// Whether `name` is `prefix`, or begins with it and a dot.
fn is_within(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether one of two names is within the other.
fn is_related(a: &str, b: &str) -> bool {
    is_within(a, b) || is_within(b, a)
}

/// Selected figures.
#[derive(Clone, Debug)]
pub struct Selection(Vec<String>);

/// A name that no figure can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFigure(pub String);

impl std::fmt::Display for UnknownFigure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = ENTRIES.map(|entry| entry.names.join(", ")).join(", ");
        write!(f, "no figure is called {:?} (known: {known}, and what they begin with)", self.0)
    }
}

impl std::error::Error for UnknownFigure {}

impl Selection {
    /// Figures of these names, and all whose names begin with one of them and a dot; all figures if
    /// `names` is empty.
    ///
    /// # Errors
    /// A name matches no entry.
    pub fn new(names: &[String]) -> Result<Self, UnknownFigure> {
        let known =
            |name: &str| ENTRIES.iter().flat_map(|entry| entry.names).any(|n| is_related(n, name));
        match names.iter().find(|name| !known(name)) {
            Some(unknown) => Err(UnknownFigure(unknown.clone())),
            None => Ok(Self(names.to_vec())),
        }
    }

    /// The entries that must be measured.
    pub fn entries(&self) -> impl Iterator<Item = &'static Entry> + '_ {
        let wanted = |name: &str| self.0.is_empty() || self.0.iter().any(|n| is_related(n, name));
        ENTRIES.iter().filter(move |entry| entry.names.iter().any(|name| wanted(name)))
    }

    /// Whether a measured figure was asked for, and not only measured together with one that was.
    #[must_use]
    pub fn has(&self, figure: &Figure) -> bool {
        self.0.is_empty() || self.0.iter().any(|name| is_within(&figure.name, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;

    fn select(names: &[&str]) -> Result<Selection, UnknownFigure> {
        Selection::new(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn entries(names: &[&str]) -> Vec<&'static str> {
        select(names).expect("known").entries().flat_map(|entry| entry.names).copied().collect()
    }

    #[test]
    fn a_name_selects_the_names_that_begin_with_it() {
        assert_eq!(
            entries(&[]).len(),
            ENTRIES.iter().map(|entry| entry.names.len()).sum::<usize>()
        );
        assert_eq!(entries(&["diff.raw", "diff.affine"]), ["diff.affine", "diff.raw"]);
        assert!(entries(&["diff"]).iter().all(|name| name.starts_with("diff.")));
        assert_eq!(entries(&["diff.affine.superpage"]), ["diff.affine"]);
        for unknown in ["diff.a", "", "diff.affine2", "x"] {
            assert_eq!(select(&[unknown]).expect_err("no such figure").0, unknown);
        }
    }

    #[test]
    fn only_figures_that_were_asked_for_are_selected() {
        let figure = |name| Figure::new(name, 1.0, Unit::Times, "");
        let chosen = select(&["diff.affine.superpage"]).expect("known");
        assert!(!chosen.has(&figure("diff.affine")));
        assert!(chosen.has(&figure("diff.affine.superpage")));
        let chosen = select(&["diff.affine"]).expect("known");
        assert!(chosen.has(&figure("diff.affine")) && chosen.has(&figure("diff.affine.superpage")));
        assert!(select(&[]).expect("all").has(&figure("diff.affine")));
    }
}
