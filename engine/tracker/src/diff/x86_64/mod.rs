// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernels of x86-64 processors, and the calls of them: a [`Kernel`] is the proof that the processor has one.
//! Not here: portable kernels.
//! Units: as in `diff`.
//! Threads: pure.
//! Source: `Kernel` can only be made by `Kernel::available`, which asks [`available`].

#![expect(unsafe_code, reason = "calls of functions with target features; docs/safety.md")]

mod avx2;
mod avx512;
mod lines;
mod scratch;

use self::lines::Frames;
use super::{Kernel, Kind};
use crate::form::Base;
use crate::frame::Width;
use crate::guest::GuestLeaf;
use crate::leaf::{Leaf, LeafMask};

/// Kernels that this processor has, the best one last.
pub(super) fn available() -> impl Iterator<Item = Kernel> {
    let avx2 = avx2::is_available().then_some(Kernel(Kind::Avx2));
    let avx512 = avx512::is_available().then_some(Kernel(Kind::Avx512));
    avx2.into_iter().chain(avx512)
}

/// Compares a private copy.
pub(super) fn diff(kernel: Kernel, width: Width, copy: &Leaf, base: &Base<'_>) -> LeafMask {
    compare(kernel, width, Frames::own(copy), base)
}

/// Compares live memory.
pub(super) fn diff_live(
    kernel: Kernel,
    width: Width,
    live: GuestLeaf<'_>,
    base: &Base<'_>,
    ahead: Option<GuestLeaf<'_>>,
) -> LeafMask {
    compare(kernel, width, Frames::live(live, ahead), base)
}

fn compare(kernel: Kernel, width: Width, frames: Frames<'_>, base: &Base<'_>) -> LeafMask {
    match kernel.0 {
        // SAFETY: the kernel exists, so the processor has its features.
        Kind::Avx2 => unsafe { avx2::diff(width, frames, base) },
        // SAFETY: as above.
        Kind::Avx512 => unsafe { avx512::diff(width, frames, base) },
        Kind::Scalar | Kind::Wide => unreachable!("a portable kernel needs no call like this"),
    }
}

/// Copies live memory.
pub(super) fn fetch(kernel: Kernel, live: GuestLeaf<'_>, into: &mut Leaf) {
    match kernel.0 {
        // SAFETY: the kernel exists, so the processor has its features.
        Kind::Avx2 => unsafe { avx2::fetch(live, into) },
        // SAFETY: as above.
        Kind::Avx512 => unsafe { avx512::fetch(live, into) },
        Kind::Scalar | Kind::Wide => live.fetch(into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_there_if_the_processor_has_what_it_needs() {
        let names: Vec<_> = available().map(Kernel::name).collect();
        assert_eq!(names.contains(&"avx2"), is_x86_feature_detected!("avx2"));
        assert_eq!(names.contains(&"avx512"), is_x86_feature_detected!("avx512f"));
    }
}
