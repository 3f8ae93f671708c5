// SPDX-License-Identifier: MIT OR Apache-2.0
//! The oracle: the shortest loop that is plainly right. Never tuned.
//! Not here: speed.
//! Units: as in `diff`.
//! Threads: pure.
//! Source: the definition of [`crate::frame::Entry`].

use crate::form::Base;
use crate::frame::Width;
use crate::leaf::{Leaf, LeafMask};

// Not inlined: it would run short of registers, and its instruction count would change with its
// callers.
#[inline(never)]
pub(super) fn diff(width: Width, live: &Leaf, base: &Base<'_>) -> LeafMask {
    let mut mask = LeafMask::NONE;
    for slot in 0..width.entries() {
        if live.entry(width, slot) != base.entry(width, slot) {
            mask.set(slot);
        }
    }
    mask
}
