// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands in for `x86_64` on other processors, and under Miri, which has no such instructions: nothing.
//! Not here: portable kernels.
//! Units: as in `diff`.
//! Threads: pure.
//! Source: the functions of `x86_64`; no kernel exists to call them with.

use super::Kernel;
use crate::form::Base;
use crate::frame::Width;
use crate::guest::GuestLeaf;
use crate::leaf::{Leaf, LeafMask};

pub(super) fn available() -> impl Iterator<Item = Kernel> {
    std::iter::empty()
}

pub(super) fn diff(kernel: Kernel, _: Width, _: &Leaf, _: &Base<'_>) -> LeafMask {
    unreachable!("{kernel} is not available")
}

pub(super) fn diff_live(
    kernel: Kernel,
    _: Width,
    live: GuestLeaf<'_>,
    _: &Base<'_>,
    _: Option<GuestLeaf<'_>>,
) -> LeafMask {
    unreachable!("{kernel} is not available at {:p}", live.as_ptr())
}

pub(super) fn fetch(kernel: Kernel, _: GuestLeaf<'_>, _: &mut Leaf) {
    unreachable!("{kernel} is not available")
}
