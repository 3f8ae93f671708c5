// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which slots of a leaf differ: one question, answered by several kernels that must agree.
//! Not here: pfns, live memory, or what a difference means.
//! Units: bit i of the mask is slot i; 512 or 1,024 slots. Equal means equal as [`Entry`].
//! Threads: pure.
//! Source: `scalar` is the oracle; every other kernel is tested against it and against a naive count.
//!
//! [`Entry`]: crate::frame::Entry

mod scalar;
mod wide;

use std::fmt;
use std::str::FromStr;

use crate::frame::Width;
use crate::leaf::{Leaf, LeafMask};

/// A way to compare two leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// One entry after the other; the oracle.
    Scalar,
    /// Portable vectors of 512 bits, in whatever registers the target has.
    Wide,
}

impl Kernel {
    /// Every kernel that this build and this CPU can run.
    pub const ALL: [Self; 2] = [Self::Scalar, Self::Wide];

    /// The name in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Wide => "wide",
        }
    }

    /// The kernel of choice on this machine.
    #[must_use]
    pub const fn detect() -> Self {
        Self::Wide
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKernel(pub String);

impl fmt::Display for UnknownKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Kernel::ALL.map(Kernel::name).join(", ");
        write!(f, "no diff kernel is called {:?} (known: {known})", self.0)
    }
}

impl std::error::Error for UnknownKernel {}

impl FromStr for Kernel {
    type Err = UnknownKernel;

    fn from_str(name: &str) -> Result<Self, UnknownKernel> {
        let known = Self::ALL.into_iter().find(|kernel| kernel.name() == name);
        known.ok_or_else(|| UnknownKernel(name.to_owned()))
    }
}

/// The slots whose entries differ between two private leaves.
#[must_use]
pub fn diff(kernel: Kernel, width: Width, live: &Leaf, base: &Leaf) -> LeafMask {
    match kernel {
        Kernel::Scalar => scalar::diff(width, live, base),
        Kernel::Wide => wide::diff(width, live, base),
    }
}

/// The slots whose entries are not invalid: the difference from [`Leaf::HOLE`], without reading it.
#[must_use]
pub fn diff_hole(kernel: Kernel, width: Width, live: &Leaf) -> LeafMask {
    match kernel {
        Kernel::Scalar => scalar::diff_hole(width, live),
        Kernel::Wide => wide::diff_hole(width, live),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf::FRAME_WORDS;
    use proptest::prelude::*;

    const WIDTHS: [Width; 2] = [Width::W32, Width::W64];

    /// What a slot may be changed by: each must be seen, whatever half or bit of the word it is in.
    const FLIPS: [u64; 6] = [1, 1 << 15, 1 << 31, 1 << 32, 1 << 63, u64::MAX];

    /// Slots whose bytes differ: shares no code with any kernel, nor with `Leaf::entry`.
    fn naive(width: Width, live: &Leaf, base: &Leaf) -> Vec<usize> {
        let bytes = |leaf: &Leaf| leaf.words.map(u64::to_le_bytes).concat();
        let (live, base, len) = (bytes(live), bytes(base), width.bits() as usize / 8);
        let slots = live.chunks(len).zip(base.chunks(len)).enumerate();
        slots.filter(|(_, (live, base))| live != base).map(|(slot, _)| slot).collect()
    }

    fn check(width: Width, live: &Leaf, base: &Leaf, expected: &[usize]) {
        for kernel in Kernel::ALL {
            let mask = diff(kernel, width, live, base);
            assert_eq!(mask.slots().collect::<Vec<_>>(), expected, "{kernel} {width:?}");
            assert_eq!(mask, diff(Kernel::Scalar, width, live, base), "{kernel} {width:?}");
            let valid = diff_hole(kernel, width, live);
            assert_eq!(valid, diff(Kernel::Scalar, width, live, &Leaf::HOLE), "{kernel} {width:?}");
        }
    }

    fn flip(width: Width, leaf: &mut Leaf, slot: usize, flip: u64) {
        match width {
            Width::W64 => leaf.words[slot] ^= flip,
            Width::W32 => {
                leaf.words[slot / 2] ^= ((flip | flip >> 32) & 0xffff_ffff) << (32 * (slot % 2));
            }
        }
    }

    /// Miri needs a second for a comparison by all kernels: it gets every 211th slot or 31st bit.
    const SLOT_STEP: usize = if cfg!(miri) { 211 } else { 1 };
    const BIT_STEP: usize = if cfg!(miri) { 31 } else { 1 };

    fn bases() -> [Leaf; 3] {
        let run = Leaf { words: std::array::from_fn(|i| 0x1234_5678_0000_0000 + i as u64) };
        [Leaf::HOLE, Leaf::default(), run]
    }

    #[test]
    fn equal_leaves_differ_nowhere() {
        for (width, base) in WIDTHS.into_iter().flat_map(|w| bases().map(|base| (w, base))) {
            check(width, &base, &base, &[]);
        }
    }

    #[test]
    fn each_single_slot_is_found() {
        for (width, base) in WIDTHS.into_iter().flat_map(|w| bases().map(|base| (w, base))) {
            for slot in (0..width.entries()).step_by(SLOT_STEP) {
                let mut live = base.clone();
                flip(width, &mut live, slot, FLIPS[slot % FLIPS.len()]);
                check(width, &live, &base, &[slot]);
            }
        }
    }

    #[test]
    fn each_bit_of_an_entry_counts() {
        for width in WIDTHS {
            for bit in (0..width.bits()).step_by(BIT_STEP) {
                let mut live = Leaf::HOLE;
                flip(width, &mut live, 77, 1 << bit);
                check(width, &live, &Leaf::HOLE, &[77]);
            }
        }
    }

    #[test]
    fn pairs_of_slots_are_found() {
        for width in WIDTHS {
            let slots = (0..width.entries()).step_by(SLOT_STEP);
            for (first, gap) in slots.flat_map(|f| [1, 2, 7, 63, 64].map(|g| (f, g))) {
                if first + gap < width.entries() {
                    let mut live = Leaf::HOLE;
                    flip(width, &mut live, first, 1 << 31);
                    flip(width, &mut live, first + gap, 1);
                    check(width, &live, &Leaf::HOLE, &[first, first + gap]);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_count_at_any_density(
            words in prop::collection::vec(any::<u64>(), FRAME_WORDS),
            flips in prop::collection::vec((0_usize..1024, 0_usize..6), 0..1500),
        ) {
            let base = Leaf { words: std::array::from_fn(|i| words[i]) };
            for width in WIDTHS {
                let mut live = base.clone();
                for &(slot, by) in &flips {
                    flip(width, &mut live, slot % width.entries(), FLIPS[by]);
                }
                check(width, &live, &base, &naive(width, &live, &base));
                check(width, &live, &Leaf::HOLE, &naive(width, &live, &Leaf::HOLE));
            }
        }
    }

    #[test]
    fn kernels_are_found_by_name() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.to_string().parse(), Ok(kernel));
        }
        assert!(Kernel::ALL.contains(&Kernel::detect()));
        let unknown = "avx9".parse::<Kernel>().expect_err("no such kernel");
        assert_eq!(unknown.to_string(), "no diff kernel is called \"avx9\" (known: scalar, wide)");
    }
}
