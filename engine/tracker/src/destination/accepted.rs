// SPDX-License-Identifier: MIT OR Apache-2.0
//! The entry under which each pfn was last accepted, recorded a second time: debug builds compare
//! the shadow with it.
//! Not here: anything that a release build does.
//! Units: one word per pfn, kept apart from the shadow.
//! Threads: one owner.
//! Source: `docs/design.md`, law 5.

use crate::frame::{Entry, Pfn};

/// The entries.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    entries: Vec<Entry>,
}

impl Accepted {
    pub(super) fn note(&mut self, pfn: Pfn, entry: Entry) {
        let index = pfn.0 as usize;
        if index >= self.entries.len() {
            self.entries.resize(index + 1, Entry::INVALID);
        }
        self.entries[index] = entry;
    }

    /// Forgets removed pfns.
    pub(super) fn cut(&mut self, pfns: u64) {
        self.entries.truncate(pfns as usize);
    }

    pub(super) fn of(&self, pfn: Pfn) -> Entry {
        self.entries.get(pfn.0 as usize).copied().unwrap_or(Entry::INVALID)
    }
}
