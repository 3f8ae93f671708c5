// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds leaves of the shadow that name no frame of the machine; reads a copy once for all
//! positions that share it.
//! Not here: live leaves (`compare`), what is done about a leaf.
//! Units: leaves; entries read.
//! Threads: one owner.
//! Source: `docs/decisions/0001`: a leaf that names no frame may be at any number of positions.

use std::collections::HashSet;

use crate::form::{Base, Likeness};
use crate::frame::Width;

/// The leaves that were found.
pub(crate) struct EmptyLeaves {
    machine_frames: u64,
    known: HashSet<Likeness>,
    /// Entries read.
    reads: u64,
}

impl EmptyLeaves {
    /// Nothing found yet, on a machine of so many frames.
    pub(crate) fn new(machine_frames: u64) -> Self {
        Self { machine_frames, known: HashSet::from([Likeness::Hole]), reads: 0 }
    }

    /// Whether a leaf names no frame. Valid only while the shadow is not written.
    pub(crate) fn has(&mut self, base: &Base<'_>, width: Width) -> bool {
        let likeness = base.likeness();
        if likeness.is_some_and(|likeness| self.known.contains(&likeness)) {
            return true;
        }
        let names = |slot| !base.entry(width, slot).claim(width).names_nothing(self.machine_frames);
        let first = (0..width.entries()).position(names);
        self.reads += first.map_or(width.entries(), |slot| slot + 1) as u64;
        if first.is_none() {
            self.known.extend(likeness);
        }
        first.is_none()
    }

    /// Entries read.
    pub(crate) const fn reads(&self) -> u64 {
        self.reads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Entry, Mfn, Pfn};
    use crate::leaf::Leaf;

    #[test]
    fn a_copy_that_positions_share_is_read_once() {
        let mut leaf = Leaf::HOLE;
        (0..512)
            .for_each(|slot| leaf.set_entry(Width::W64, slot, Entry::identity(Width::W64, Pfn(9))));
        let mut empty = EmptyLeaves::new(100);
        for _ in 0..1000 {
            assert!(empty.has(&Base::Raw(&leaf), Width::W64) && empty.has(&Base::Hole, Width::W64));
        }
        assert_eq!(empty.reads(), 512);
        let mut other = leaf.clone();
        other.set_entry(Width::W64, 7, Entry(100)); // no frame of this machine
        assert!(empty.has(&Base::Raw(&other), Width::W64));
        for entry in [Entry(99), Entry::foreign(Width::W64, Mfn(99))] {
            let mut named = leaf.clone();
            named.set_entry(Width::W64, 7, entry);
            assert!(!empty.has(&Base::Raw(&named), Width::W64));
        }
        assert_eq!(empty.reads(), 512 + 512 + 8 + 8);
    }
}
