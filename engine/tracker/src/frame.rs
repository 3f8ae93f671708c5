// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frame numbers and p2m entries: types of the whole engine that can't be mixed.
//! Not here: memory, tables, or what a guest should have written.
//! Units: every number counts 4 KiB frames; a count is one past the last index.
//! Threads: plain values.
//! Source: Xen `xen/include/public/arch-x86/xen.h` (p2m, m2p), Linux `arch/x86/xen/p2m.c` (tag
//! bits).

use std::fmt;

/// Bytes in a frame, a p2m leaf and a page table.
pub const FRAME_BYTES: usize = 4096;

/// A frame of the machine (Xen's mfn).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mfn(pub u64);

/// A frame of the guest's linear view (Xen's pfn).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(pub u64);

/// The position of a leaf in the p2m: pfn divided by the entries of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafIndex(pub u64);

impl fmt::Display for Mfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mfn {:#x}", self.0)
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

/// The guest's word size, and with it the shape of its p2m.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// 32-bit PV guest: 4-byte entries, 1,024 in a leaf.
    W32,
    /// 64-bit PV guest: 8-byte entries, 512 in a leaf.
    W64,
}

impl Width {
    /// Entries in one p2m leaf.
    #[must_use]
    pub const fn entries(self) -> usize {
        match self {
            Self::W32 => 1024,
            Self::W64 => 512,
        }
    }

    /// `log2` of [`Width::entries`].
    #[must_use]
    pub const fn entry_bits(self) -> u32 {
        match self {
            Self::W32 => 10,
            Self::W64 => 9,
        }
    }

    /// The other width.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::W32 => Self::W64,
            Self::W64 => Self::W32,
        }
    }

    /// Bits in a guest word: 32 or 64.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::W32 => 32,
            Self::W64 => 64,
        }
    }

    /// The guest word at byte `at`, little endian.
    ///
    /// # Panics
    /// If `bytes` ends before the word does.
    #[must_use]
    pub fn word(self, bytes: &[u8], at: usize) -> u64 {
        let word = &bytes[at..at + self.bits() as usize / 8];
        word.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
    }

    /// Leaves that cover `pfns` pfns, the last one perhaps in part.
    #[must_use]
    pub const fn leaves(self, pfns: u64) -> u64 {
        pfns.div_ceil(self.entries() as u64)
    }

    /// The leaf that holds the entry of `pfn`.
    #[must_use]
    pub const fn leaf_of(self, pfn: Pfn) -> LeafIndex {
        LeafIndex(pfn.0 >> self.entry_bits())
    }

    /// The slot of `pfn` in its leaf.
    #[must_use]
    pub const fn slot_of(self, pfn: Pfn) -> usize {
        (pfn.0 & (self.entries() as u64 - 1)) as usize
    }

    /// The first pfn of a leaf.
    #[must_use]
    pub const fn first_pfn(self, leaf: LeafIndex) -> Pfn {
        Pfn(leaf.0 << self.entry_bits())
    }
}

/// One word of the p2m, as the guest wrote it, widened to 64 bits.
///
/// `INVALID` of a 32-bit guest (0xffff_ffff) is widened to all ones; every other 32-bit word keeps
/// its value, tag bits (30, 31) included, so that the shadow can hold exactly what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry(pub u64);

/// What an entry claims, unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// No frame here.
    Invalid,
    /// Linux's identity tag: the pfn maps the machine frame of the same number, and has no frame of
    /// its own.
    Identity,
    /// Linux's foreign tag on this frame: a grant mapping.
    Foreign(Mfn),
    /// A frame.
    Frame(Mfn),
}

impl Claim {
    /// The frame that is named, tagged or not.
    #[must_use]
    pub const fn named(self) -> Option<Mfn> {
        match self {
            Self::Frame(mfn) | Self::Foreign(mfn) => Some(mfn),
            Self::Invalid | Self::Identity => None,
        }
    }

    /// Whether `mfn` is named, tagged or not.
    #[must_use]
    pub fn names(self, mfn: Mfn) -> bool {
        self.named() == Some(mfn)
    }

    /// Whether it names no frame of a machine of so many frames, tagged or not.
    #[must_use]
    pub const fn names_nothing(self, machine_frames: u64) -> bool {
        match self.named() {
            None => true,
            Some(mfn) => mfn.0 >= machine_frames,
        }
    }
}

impl Entry {
    /// No frame (Xen `INVALID_P2M_ENTRY`).
    pub const INVALID: Self = Self(u64::MAX);

    /// Widens a word of a 32-bit guest.
    #[must_use]
    #[inline]
    pub const fn widen(word: u32) -> Self {
        if word == u32::MAX { Self::INVALID } else { Self(word as u64) }
    }

    /// Names a frame without tags.
    #[must_use]
    pub const fn frame(mfn: Mfn) -> Self {
        Self(mfn.0)
    }

    /// Names a frame with Linux's foreign tag.
    #[must_use]
    pub const fn foreign(width: Width, mfn: Mfn) -> Self {
        Self(mfn.0 | 1 << (width.bits() - 1))
    }

    /// Linux's identity entry.
    #[must_use]
    pub const fn identity(width: Width, pfn: Pfn) -> Self {
        Self(pfn.0 | 1 << (width.bits() - 2))
    }

    /// What the word claims for a guest of this width. Nothing is checked against the machine.
    #[must_use]
    pub const fn claim(self, width: Width) -> Claim {
        let foreign = 1 << (width.bits() - 1);
        let identity = 1 << (width.bits() - 2);
        if self.0 == u64::MAX {
            Claim::Invalid
        } else if self.0 & foreign != 0 {
            Claim::Foreign(Mfn(self.0 & !(foreign | identity)))
        } else if self.0 & identity != 0 {
            Claim::Identity
        } else {
            Claim::Frame(Mfn(self.0))
        }
    }

    /// Whether the word names a frame of a machine of `frames` frames. This is the counting rule of
    /// captures and reports: a tagged word is never a frame.
    #[must_use]
    #[inline]
    pub const fn names_frame(self, width: Width, frames: u64) -> bool {
        // One comparison, for it is made for each entry that changed: a tagged word, and an invalid
        // one, is not below the lower tag.
        let identity = 1 << (width.bits() - 2);
        self.0 < if frames < identity { frames } else { identity }
    }
}

/// What Xen reports of a frame: its owner and its page type (Xen `XEN_DOMCTL_getpageframeinfo3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameType {
    /// The domain's, an ordinary page (NOTAB).
    Data,
    /// The domain's, a page table of this level (1 to 4).
    Table {
        /// 1 = a table that names data pages.
        level: u8,
        /// Pinned by the guest (LPINTAB).
        pinned: bool,
    },
    /// Not valid, not this domain's, or special (XTAB).
    NotOwned,
    /// A broken page (BROKEN).
    Broken,
}

impl FrameType {
    /// Decodes a word of Xen's answer (`XEN_DOMCTL_PFINFO_*`: four bits from bit 28 on); `None` for
    /// a type that Xen does not define.
    #[must_use]
    pub const fn from_pfinfo(word: u32) -> Option<Self> {
        Some(match word >> 28 {
            0 => Self::Data,
            level @ 1..=4 => Self::Table { level: level as u8, pinned: false },
            pinned @ 9..=0xc => Self::Table { level: (pinned - 8) as u8, pinned: true },
            0xd => Self::Broken,
            // XTAB, and XALLOC (0xe) of old senders.
            0xe | 0xf => Self::NotOwned,
            _ => return None,
        })
    }

    /// The word of Xen for this type.
    #[must_use]
    pub const fn pfinfo(self) -> u32 {
        let bits = match self {
            Self::Data => 0,
            Self::Table { level, pinned: false } => level as u32,
            Self::Table { level, pinned: true } => 8 | level as u32,
            Self::Broken => 0xd,
            Self::NotOwned => 0xf,
        };
        bits << 28
    }

    /// Whether the frame is a page table.
    #[must_use]
    pub const fn is_table(self) -> bool {
        matches!(self, Self::Table { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_both_widths() {
        for width in [Width::W32, Width::W64] {
            let invalid =
                if width == Width::W32 { Entry::widen(u32::MAX) } else { Entry(u64::MAX) };
            assert_eq!(invalid.claim(width), Claim::Invalid);
            assert_eq!(Entry::frame(Mfn(7)).claim(width), Claim::Frame(Mfn(7)));
            assert_eq!(Entry::foreign(width, Mfn(7)).claim(width), Claim::Foreign(Mfn(7)));
            assert_eq!(Entry::identity(width, Pfn(7)).claim(width), Claim::Identity);
            assert!(!Entry::foreign(width, Mfn(7)).names_frame(width, 1 << 40));
            assert!(!Entry::frame(Mfn(8)).names_frame(width, 8));
        }
        assert_eq!(Entry::widen(0x8000_0007).claim(Width::W32), Claim::Foreign(Mfn(7)));
    }

    #[test]
    fn a_word_names_a_frame_if_it_claims_one_of_the_machine() {
        for width in [Width::W32, Width::W64] {
            let (bits, ones) = (width.bits(), u64::MAX >> (64 - width.bits()));
            let near = |word: u64| [word.wrapping_sub(1), word, word.wrapping_add(1)];
            let words = (0..bits).flat_map(|bit| near(1 << bit)).chain(near(ones)).chain([0b11]);
            for word in words.map(|word| word & ones) {
                let entry =
                    if width == Width::W32 { Entry::widen(word as u32) } else { Entry(word) };
                for frames in [0, 1, 1 << 20, 1 << 30, 1 << 31, 1 << 40, 1 << 62, u64::MAX] {
                    let claims = matches!(entry.claim(width), Claim::Frame(Mfn(m)) if m < frames);
                    assert_eq!(
                        entry.names_frame(width, frames),
                        claims,
                        "{word:#x} of {frames:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn words_have_the_guests_length_and_order() {
        let bytes = [0xff, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(Width::W32.word(&bytes, 1), 0x0403_0201);
        assert_eq!(Width::W64.word(&bytes, 1), 0x0807_0605_0403_0201);
        assert_eq!(Width::W32.word(&bytes, 5), 0x0807_0605);
    }

    #[test]
    fn types_are_those_of_xen() {
        assert_eq!(FrameType::from_pfinfo(0), Some(FrameType::Data));
        for level in 1..=4_u8 {
            let table = |pinned| Some(FrameType::Table { level, pinned });
            assert_eq!(FrameType::from_pfinfo(u32::from(level) << 28), table(false));
            assert_eq!(FrameType::from_pfinfo(u32::from(level) << 28 | 1 << 31 | 7), table(true));
        }
        assert_eq!(FrameType::from_pfinfo(0xd << 28), Some(FrameType::Broken));
        assert_eq!(FrameType::from_pfinfo(0xf << 28), Some(FrameType::NotOwned));
        assert_eq!(FrameType::from_pfinfo(0xe << 28), Some(FrameType::NotOwned));
        for unknown in 5..=8 {
            assert_eq!(FrameType::from_pfinfo(unknown << 28), None);
        }
        for bits in (0..16).filter(|&bits| bits != 0xe) {
            let known = FrameType::from_pfinfo(bits << 28);
            assert!(known.is_none_or(|known| known.pfinfo() == bits << 28));
        }
    }

    #[test]
    fn a_claim_names_nothing_if_it_is_none_or_past_the_machine() {
        for (claim, nothing) in [
            (Claim::Invalid, true),
            (Claim::Identity, true),
            (Claim::Frame(Mfn(9)), false),
            (Claim::Frame(Mfn(10)), true),
            (Claim::Foreign(Mfn(9)), false),
            (Claim::Foreign(Mfn(10)), true),
        ] {
            assert_eq!(claim.names_nothing(10), nothing, "{claim:?}");
        }
        assert!(Claim::Invalid.names_nothing(u64::MAX));
    }

    #[test]
    fn leaf_geometry() {
        assert_eq!(Width::W64.leaves(513), 2);
        assert_eq!(Width::W32.leaf_of(Pfn(1024)), LeafIndex(1));
        assert_eq!(Width::W64.slot_of(Pfn(1023)), 511);
        assert_eq!(Width::W32.first_pfn(LeafIndex(2)), Pfn(2048));
    }
}
