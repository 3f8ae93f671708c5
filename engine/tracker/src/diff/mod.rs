// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which slots of a leaf differ: several kernels, which must agree.
//! Not here: pfns, or what a difference means.
//! Units: bit i of the mask is slot i; 512 or 1,024 slots. Equal means equal as [`Entry`].
//! Threads: pure.
//! Source: `scalar` is the oracle; every other kernel is tested against it and against a naive
//! count.
//!
//! [`Entry`]: crate::frame::Entry

#![cfg_attr(
    any(miri, not(target_arch = "x86_64")),
    allow(unused, reason = "not every processor has vector kernels")
)]

mod lines;
mod scalar;
mod scratch;
mod vectors;
mod wide;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::OnceLock;

use lines::Frames;
use vectors::Vectors;

use crate::form::Base;
use crate::frame::Width;
use crate::guest::{Ahead, GuestLeaf};
use crate::leaf::{Leaf, LeafMask};

/// The environment variable that forces a kernel where no option does.
pub const KERNEL_VARIABLE: &str = "P2MTRACK_KERNEL";

/// A way to compare leaves that this processor supports. The field is private, so that a caller
/// can't make a kernel that the processor lacks.
#[derive(Clone, Copy)]
pub struct Kernel(&'static Built);

// By name: another crate's constant may refer to its own copy of the static.
impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Kernel {}

impl Hash for Kernel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

/// A kernel of this build, which the processor may lack.
struct Built {
    name: &'static str,
    code: Code,
}

enum Code {
    /// For any processor. It compares private copies; a live frame is copied first.
    Portable(fn(Width, &Leaf, &Base<'_>) -> LeafMask),
    /// For processors that have the instructions.
    Vectors(Vectors),
}

/// Makes the modules, the names, and the kernels of this build, the best one last.
macro_rules! kernels {
    ($($name:ident on $processor:literal,)*) => {
        $(
            #[cfg(all(target_arch = $processor, not(miri)))]
            mod $name;
        )*

        impl Kernel {
            /// The names of all kernels, those of other processors too.
            pub const NAMES: [&str; 2 + [$(stringify!($name)),*].len()] =
                ["scalar", "wide", $(stringify!($name)),*];
        }

        static BUILT: &[Built] = &[
            Built { name: "scalar", code: Code::Portable(scalar::diff) },
            Built { name: "wide", code: Code::Portable(wide::diff) },
            $(
                #[cfg(all(target_arch = $processor, not(miri)))]
                Built { name: stringify!($name), code: Code::Vectors($name::VECTORS) },
            )*
        ];
    };
}

// The vector kernels: the file, which has the kernel's name and calls `vectors!`, and the processor
// that it is built for. Nothing else names a vector kernel. Miri has no such instructions.
kernels! {
    avx2 on "x86_64",
    avx512 on "x86_64",
}

impl Kernel {
    /// One entry at a time; the oracle.
    pub const SCALAR: Self = Self(&BUILT[0]);
    /// Portable vectors, in whatever registers the target was built for.
    pub const WIDE: Self = Self(&BUILT[1]);

    /// Every kernel that this build and this processor can run, the best one last.
    #[must_use]
    pub fn available() -> &'static [Self] {
        static AVAILABLE: OnceLock<Vec<Kernel>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            let has = |built: &Built| match &built.code {
                Code::Portable(_) => true,
                Code::Vectors(vectors) => (vectors.is_available)(),
            };
            BUILT.iter().filter(|built| has(built)).map(Self).collect()
        })
    }

    /// The name in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// The default kernel on this machine.
    #[must_use]
    pub fn detect() -> Self {
        Self::available().last().copied().unwrap_or(Self::SCALAR)
    }

    /// The kernel that [`KERNEL_VARIABLE`] forces, or else the default. The variable is read once
    /// per process.
    ///
    /// # Errors
    /// The variable names an unknown kernel, or one that this processor lacks.
    pub fn choose() -> Result<Self, UnknownKernel> {
        static CHOSEN: OnceLock<Result<Kernel, UnknownKernel>> = OnceLock::new();
        let chosen = CHOSEN.get_or_init(|| match std::env::var(KERNEL_VARIABLE) {
            Ok(name) if !name.is_empty() => name.parse(),
            _ => Ok(Self::detect()),
        });
        chosen.clone()
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The name of an unknown kernel, or of one that this processor lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKernel(pub String);

impl fmt::Display for UnknownKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Kernel::available().iter().map(|kernel| kernel.name()).collect();
        let (name, known) = (&self.0, names.join(", "));
        if Kernel::NAMES.contains(&name.as_str()) {
            write!(f, "this processor or build can't run the diff kernel {name} (it can: {known})")
        } else {
            write!(f, "no diff kernel is called {name:?} (known: {known})")
        }
    }
}

impl std::error::Error for UnknownKernel {}

impl FromStr for Kernel {
    type Err = UnknownKernel;

    fn from_str(name: &str) -> Result<Self, UnknownKernel> {
        let known = Self::available().iter().find(|kernel| kernel.name() == name);
        known.copied().ok_or_else(|| UnknownKernel(name.to_owned()))
    }
}

/// The slots of a private copy whose entries differ from what a form predicts.
#[expect(unsafe_code, reason = "a call of code with target features; docs/safety.md")]
pub(crate) fn diff(kernel: Kernel, width: Width, copy: &Leaf, base: &Base<'_>) -> LeafMask {
    match &kernel.0.code {
        Code::Portable(diff) => diff(width, copy, base),
        // SAFETY: the kernel exists, so the processor has its features.
        Code::Vectors(vectors) => unsafe { (vectors.diff)(width, Frames::own(copy), base) },
    }
}

/// The slots of a live frame whose entries differ from what a form predicts; `ahead` is prefetched
/// meanwhile. A kernel may read a word more than once. A word that changes meanwhile is found equal
/// or different, as of one of these reads.
#[expect(unsafe_code, reason = "a call of code with target features; docs/safety.md")]
pub(crate) fn diff_live(
    kernel: Kernel,
    width: Width,
    live: GuestLeaf<'_>,
    base: &Base<'_>,
    ahead: Ahead<'_>,
) -> LeafMask {
    match &kernel.0.code {
        Code::Portable(diff) => {
            let mut copy = Leaf::default();
            live.fetch(&mut copy);
            diff(width, &copy, base)
        }
        // SAFETY: the kernel exists, so the processor has its features.
        Code::Vectors(vectors) => unsafe { (vectors.diff)(width, Frames::live(live, ahead), base) },
    }
}

/// Copies a live frame, each word read once.
#[expect(unsafe_code, reason = "a call of code with target features; docs/safety.md")]
pub(crate) fn fetch(kernel: Kernel, live: GuestLeaf<'_>, into: &mut Leaf) {
    match &kernel.0.code {
        Code::Portable(_) => live.fetch(into),
        // SAFETY: the kernel exists, so the processor has its features.
        Code::Vectors(vectors) => unsafe { (vectors.fetch)(live, into) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::{Segment, Step, wrap};
    use crate::leaf::FRAME_WORDS;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicU64;

    const WIDTHS: [Width; 2] = [Width::W32, Width::W64];

    /// The bits that a test flips in a slot: each flip must be found, in any half of the word.
    const FLIPS: [u64; 6] = [1, 1 << 15, 1 << 31, 1 << 32, 1 << 63, u64::MAX];

    /// Slots whose bytes differ: shares no code with any kernel, nor with `Leaf::entry`.
    fn naive(width: Width, live: &Leaf, base: &Leaf) -> Vec<usize> {
        let bytes = |leaf: &Leaf| leaf.words.map(u64::to_le_bytes).concat();
        let (live, base, len) = (bytes(live), bytes(base), width.bits() as usize / 8);
        let slots = live.chunks(len).zip(base.chunks(len)).enumerate();
        slots.filter(|(_, (live, base))| live != base).map(|(slot, _)| slot).collect()
    }

    fn check(width: Width, live: &Leaf, base: &Leaf, expected: &[usize]) {
        let frame = live.words.map(AtomicU64::new);
        let frame = GuestLeaf::from_atomics(&frame);
        for &kernel in Kernel::available() {
            for (form, leaf) in [(Base::Raw(base), base), (Base::Hole, &Leaf::HOLE)] {
                let mask = diff(kernel, width, live, &form);
                assert_eq!(
                    mask,
                    diff(Kernel::SCALAR, width, live, &Base::Raw(leaf)),
                    "{kernel} {width:?}"
                );
                assert_eq!(
                    mask,
                    diff_live(kernel, width, frame, &form, Ahead::default()),
                    "{kernel} {width:?}"
                );
            }
            let mask = diff(kernel, width, live, &Base::Raw(base));
            assert_eq!(mask.slots().collect::<Vec<_>>(), expected, "{kernel} {width:?}");
        }
    }

    /// A base of each compressed form, made from a few numbers; and the leaf that it stands for.
    fn with_compressed(
        width: Width,
        words: &[u64],
        cuts: &[usize],
        mut each: impl FnMut(&Base<'_>, &Leaf),
    ) {
        let steps = [Step::Up, Step::Down, Step::Zero];
        let write = |index: usize, slot: usize| {
            let word = wrap(width, words[index % words.len()] >> 14);
            Segment::new(width, slot, steps[index % 3], word).expect("fifty bits").0
        };
        let mut slots: Vec<_> = cuts.iter().map(|cut| cut % width.entries()).collect();
        slots.push(0);
        slots.sort_unstable();
        slots.dedup();
        let segments: Vec<_> = slots.iter().enumerate().map(|(i, &slot)| write(i, slot)).collect();
        let patches: Vec<_> =
            slots.iter().skip(1).step_by(2).map(|&slot| write(slot, slot)).collect();
        let high = words[0] as u32;
        let low = std::array::from_fn(|i| {
            let word = words[i % words.len()] as u32;
            if i % 7 == 0 { u32::MAX } else { word }
        });
        let mut bases = vec![
            Base::Affine(Segment(write(cuts.len(), 0))),
            Base::Segments { segments: &segments[..1], patches: &patches },
            Base::Segments { segments: &segments, patches: &[] },
            Base::Segments { segments: &segments, patches: &patches },
        ];
        if width == Width::W64 {
            bases.push(Base::Packed { high, low: &low });
        }
        for base in &bases {
            let mut leaf = Leaf::default();
            base.decode(width, &mut leaf);
            each(base, &leaf);
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

    /// Miri needs a second per comparison by all kernels: it tests every 211th slot or 31st bit.
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

    proptest! {
        #[test]
        fn every_form_is_compared_as_the_leaf_that_it_stands_for(
            words in prop::collection::vec(any::<u64>(), 1..64),
            cuts in prop::collection::vec(0_usize..1024, 0..30),
            flips in prop::collection::vec((0_usize..1024, 0_usize..6), 0..60),
        ) {
            for width in WIDTHS {
                with_compressed(width, &words, &cuts, |base, leaf| {
                    let mut live = leaf.clone();
                    for (turn, &(slot, by)) in flips.iter().enumerate() {
                        // Half of the flips are where segments meet: at a cut.
                        let cut = cuts.get(slot % (cuts.len() + 1)).filter(|_| turn % 2 == 0);
                        flip(width, &mut live, cut.unwrap_or(&slot) % width.entries(), FLIPS[by]);
                    }
                    let expected = diff(Kernel::SCALAR, width, &live, &Base::Raw(leaf));
                    let frame = live.words.map(AtomicU64::new);
                    for &kernel in Kernel::available() {
                        let mask = diff(kernel, width, &live, base);
                        assert_eq!(mask, expected, "{kernel} {width:?} {base:?}");
                        let frame = GuestLeaf::from_atomics(&frame);
                        let mask = diff_live(kernel, width, frame, base, Ahead { lines: Some(frame), page: Some(frame) });
                        assert_eq!(mask, expected, "{kernel} {width:?} {base:?}");
                    }
                });
            }
        }
    }

    #[test]
    fn each_single_slot_of_a_compressed_leaf_is_found() {
        for width in WIDTHS {
            with_compressed(
                width,
                &[0x1234_5678_9abc],
                &[100, 164, 511, 600, 900],
                |base, leaf| {
                    for slot in (0..width.entries()).step_by(SLOT_STEP) {
                        let mut live = leaf.clone();
                        flip(width, &mut live, slot, FLIPS[slot % FLIPS.len()]);
                        for &kernel in Kernel::available() {
                            let mask = diff(kernel, width, &live, base);
                            assert_eq!(
                                mask.slots().collect::<Vec<_>>(),
                                [slot],
                                "{kernel} {base:?}"
                            );
                        }
                    }
                },
            );
        }
    }

    #[test]
    fn a_fetched_frame_is_the_frame() {
        let frame: [AtomicU64; FRAME_WORDS] =
            std::array::from_fn(|i| AtomicU64::new(i as u64 * 977));
        for &kernel in Kernel::available() {
            let mut copy = Leaf::HOLE;
            fetch(kernel, GuestLeaf::from_atomics(&frame), &mut copy);
            assert!(
                copy.words.iter().enumerate().all(|(i, &word)| word == i as u64 * 977),
                "{kernel}"
            );
        }
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn a_kernel_is_available_if_the_processor_has_its_features() {
        let has = |name: &str| Kernel::available().iter().any(|kernel| kernel.name() == name);
        assert_eq!(has("avx2"), is_x86_feature_detected!("avx2"));
        assert_eq!(has("avx512"), is_x86_feature_detected!("avx512f"));
    }

    #[test]
    fn kernels_are_found_by_name() {
        assert_eq!([Kernel::SCALAR, Kernel::WIDE].map(Kernel::name), ["scalar", "wide"]);
        for &kernel in Kernel::available() {
            assert!(Kernel::NAMES.contains(&kernel.name()));
            assert_eq!(kernel.to_string().parse(), Ok(kernel));
        }
        assert!(Kernel::available().contains(&Kernel::detect()));
        let unknown = "avx9".parse::<Kernel>().expect_err("no such kernel").to_string();
        assert!(unknown.starts_with("no diff kernel is called \"avx9\" (known: scalar, wide"));
        let lacking = UnknownKernel("avx512".to_owned()).to_string();
        assert!(lacking.starts_with("this processor or build can't run the diff kernel avx512"));
    }
}
