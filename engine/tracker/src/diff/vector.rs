// SPDX-License-Identifier: MIT OR Apache-2.0
//! The calls of kernels that need a processor's features: a [`Kernel`] is the proof that it has them.
//! Not here: the kernels.
//! Units: as in `diff`.
//! Threads: pure.
//! Source: `Kernel` can only be made by `Kernel::available`, which asks the processor.

#![expect(unsafe_code, reason = "calls of functions with target features; docs/safety.md")]

use super::lines::Frames;
use super::{Kernel, Kind, avx2, avx512};
use crate::form::Base;
use crate::frame::Width;
use crate::guest::GuestLeaf;
use crate::leaf::{Leaf, LeafMask};

pub(super) fn diff(kernel: Kernel, width: Width, frames: Frames<'_>, base: &Base<'_>) -> LeafMask {
    match kernel.0 {
        // SAFETY: the kernel exists, so the processor has its features.
        Kind::Avx2 => unsafe { avx2::diff(width, frames, base) },
        // SAFETY: as above.
        Kind::Avx512 => unsafe { avx512::diff(width, frames, base) },
        Kind::Scalar | Kind::Wide => unreachable!("a portable kernel needs no call like this"),
    }
}

pub(super) fn fetch(kernel: Kernel, live: GuestLeaf<'_>, into: &mut Leaf) {
    match kernel.0 {
        // SAFETY: the kernel exists, so the processor has its features.
        Kind::Avx2 => unsafe { avx2::fetch(live, into) },
        // SAFETY: as above.
        Kind::Avx512 => unsafe { avx512::fetch(live, into) },
        Kind::Scalar | Kind::Wide => live.fetch(into),
    }
}
