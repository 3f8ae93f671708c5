// SPDX-License-Identifier: MIT OR Apache-2.0
//! Law 5, checked in debug builds after each round: every pfn is owed, or its shadow entry is the one
//! under which it was last accepted. Not here: anything that a release build does.
//! Units: one word per pfn, kept apart from the shadow.
//! Threads: one owner.
//! Source: `docs/design.md`, law 5.

use crate::frame::{Entry, Pfn};
use crate::migration::Migration;

/// The entry under which each pfn was last accepted, written down a second time.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    entries: Vec<Entry>,
    machine_frames: u64,
}

impl Accepted {
    /// Tells the machine's size: beyond it an entry names nothing.
    pub(crate) const fn on_a_machine_of(&mut self, frames: u64) {
        self.machine_frames = frames;
    }

    pub(crate) fn note(&mut self, pfn: Pfn, entry: Entry) {
        let index = pfn.0 as usize;
        if index >= self.entries.len() {
            self.entries.resize(index + 1, Entry::INVALID);
        }
        self.entries[index] = entry;
    }

    fn of(&self, pfn: Pfn) -> Entry {
        self.entries.get(pfn.0 as usize).copied().unwrap_or(Entry::INVALID)
    }
}

impl Migration {
    /// Checks law 5, and what law 9 counts with.
    ///
    /// # Panics
    /// If it does not hold: a bug of this engine, never of a guest.
    pub(crate) fn check_invariant(&mut self) {
        let layout = &self.tracker.layout;
        let width = layout.width();
        let machine_frames = self.accepted.machine_frames;
        self.accepted.entries.truncate(layout.pfns() as usize); // what fell away starts anew
        let mut populated = 0;
        for pfn in (0..layout.pfns()).map(Pfn) {
            let (shadow, accepted) = (self.tracker.shadow.entry(pfn), self.accepted.of(pfn));
            let named = shadow.claim(width).named().is_some_and(|mfn| mfn.0 < machine_frames);
            populated += u64::from(named && !self.tracker.sent.is_foreign(pfn));
            if shadow == accepted || self.is_owed(pfn) {
                continue;
            }
            // A leaf that names nothing and is listed often is remembered whole.
            let nothing = |entry: Entry| entry.claim(width).names_nothing(machine_frames);
            let whole = nothing(shadow) && nothing(accepted);
            assert!(whole, "law 5: {pfn} is not owed, shadow {shadow:?}, accepted {accepted:?}");
        }
        assert_eq!(self.tracker.sent.populated(), populated, "law 9: pfns settled with a frame");
    }
}
