// SPDX-License-Identifier: MIT OR Apache-2.0
//! The oracle: the shortest loop that can be read to be right. Never tuned.
//! Not here: speed.
//! Units: as in `diff`.
//! Threads: pure.
//! Source: the definition of [`Entry`].

use crate::frame::{Entry, Width};
use crate::leaf::{Leaf, LeafMask};

pub(super) fn diff(width: Width, live: &Leaf, base: &Leaf) -> LeafMask {
    slots_where(width, |slot| live.entry(width, slot) != base.entry(width, slot))
}

pub(super) fn diff_hole(width: Width, live: &Leaf) -> LeafMask {
    slots_where(width, |slot| live.entry(width, slot) != Entry::INVALID)
}

fn slots_where(width: Width, holds: impl Fn(usize) -> bool) -> LeafMask {
    let mut mask = LeafMask::NONE;
    for slot in 0..width.entries() {
        if holds(slot) {
            mask.set(slot);
        }
    }
    mask
}
