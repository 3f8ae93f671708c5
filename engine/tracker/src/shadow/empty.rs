// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leaves of the shadow that name no frame of the machine, found with one look for all positions
//! that share a copy.
//! Not here: live leaves (`compare`), what is done about a leaf.
//! Units: leaves; entries looked at.
//! Threads: one owner.
//! Source: `docs/decisions/0001`: a leaf that names no frame may stand at any number of positions.

use std::collections::HashSet;

use crate::form::{Base, Likeness};
use crate::frame::Width;

/// Those that were found.
pub(crate) struct EmptyLeaves {
    machine_frames: u64,
    known: HashSet<Likeness>,
    /// Entries looked at.
    looks: u64,
}

impl EmptyLeaves {
    /// None yet, on a machine of so many frames.
    pub(crate) fn new(machine_frames: u64) -> Self {
        Self { machine_frames, known: HashSet::from([Likeness::Hole]), looks: 0 }
    }

    /// Whether a leaf names no frame. As long as nobody writes the shadow.
    pub(crate) fn has(&mut self, base: &Base<'_>, width: Width) -> bool {
        let likeness = base.likeness();
        if likeness.is_some_and(|likeness| self.known.contains(&likeness)) {
            return true;
        }
        let names = |slot| !base.entry(width, slot).claim(width).names_nothing(self.machine_frames);
        let first = (0..width.entries()).position(names);
        self.looks += first.map_or(width.entries(), |slot| slot + 1) as u64;
        if first.is_none() {
            self.known.extend(likeness);
        }
        first.is_none()
    }

    /// Entries looked at.
    pub(crate) const fn looks(&self) -> u64 {
        self.looks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Entry, Mfn, Pfn};
    use crate::leaf::Leaf;

    #[test]
    fn a_copy_that_positions_share_is_looked_at_once() {
        let mut leaf = Leaf::HOLE;
        (0..512)
            .for_each(|slot| leaf.set_entry(Width::W64, slot, Entry::identity(Width::W64, Pfn(9))));
        let mut empty = EmptyLeaves::new(100);
        for _ in 0..1000 {
            assert!(empty.has(&Base::Raw(&leaf), Width::W64) && empty.has(&Base::Hole, Width::W64));
        }
        assert_eq!(empty.looks(), 512);
        let mut other = leaf.clone();
        other.set_entry(Width::W64, 7, Entry(100)); // no frame of this machine
        assert!(empty.has(&Base::Raw(&other), Width::W64));
        for entry in [Entry(99), Entry::foreign(Width::W64, Mfn(99))] {
            let mut named = leaf.clone();
            named.set_entry(Width::W64, 7, entry);
            assert!(!empty.has(&Base::Raw(&named), Width::W64));
        }
        assert_eq!(empty.looks(), 512 + 512 + 8 + 8);
    }
}
