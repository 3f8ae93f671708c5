// SPDX-License-Identifier: MIT OR Apache-2.0
//! A word of a PAGE_DATA record: a pfn and the type of its frame.
//! Not here: which types a pfn may have when (`check`).
//! Units: bits 0..51 are the pfn, 60..63 the type; bits 52..59 are zero.
//! Threads: plain values.
//! Source: Xen `docs/specs/libxc-migration-stream.pandoc`, "PAGE_DATA"; types as in Xen
//! `public/domctl.h`, `XEN_DOMCTL_PFINFO_*`.

use bytemuck::{Pod, Zeroable};
use p2mtrack::frame::{FrameType, Pfn};

/// Bits of the pfn.
const PFN: u64 = (1 << 52) - 1;
/// The type begins at this bit.
const TYPE_SHIFT: u32 = 60;

/// A pfn and the type of its frame, as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Zeroable, Pod)]
#[repr(transparent)]
pub struct Word(pub u64);

/// What a word says of its pfn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordKind {
    /// A page of data, which follows.
    Data,
    /// A page table, which follows; its PTEs name pfns.
    Table {
        /// 1 to 4.
        level: u8,
        /// Xen holds it as a root.
        pinned: bool,
    },
    /// The frame is broken; no page follows.
    Broken,
    /// `XALLOC`: a frame without contents; no page follows.
    Allocated,
    /// `XTAB`: no frame; no page follows.
    Absent,
}

impl WordKind {
    /// Its four bits.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Table { level, pinned } => level | (pinned as u8) << 3,
            Self::Broken => 0xd,
            Self::Allocated => 0xe,
            Self::Absent => 0xf,
        }
    }

    /// The type with these four bits; `None` for 5 to 8, which mean nothing.
    pub(crate) const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Data),
            1..=4 | 9..=12 => Some(Self::Table { level: number & 7, pinned: number > 8 }),
            0xd => Some(Self::Broken),
            0xe => Some(Self::Allocated),
            0xf => Some(Self::Absent),
            _ => None,
        }
    }

    /// Whether the pfn's page follows in the record.
    #[must_use]
    pub const fn has_page(self) -> bool {
        matches!(self, Self::Data | Self::Table { .. })
    }

    /// Whether the pfn has a frame at the destination after this word.
    #[must_use]
    pub const fn has_frame(self) -> bool {
        self.has_page() || matches!(self, Self::Allocated)
    }
}

impl From<FrameType> for WordKind {
    fn from(kind: FrameType) -> Self {
        match kind {
            FrameType::Data => Self::Data,
            FrameType::Table { level, pinned } => Self::Table { level, pinned },
            FrameType::NotOwned => Self::Absent,
            FrameType::Broken => Self::Broken,
        }
    }
}

impl Word {
    /// The word of a pfn, which is below 2^52.
    #[must_use]
    pub const fn new(pfn: Pfn, kind: WordKind) -> Self {
        Self(pfn.0 & PFN | (kind.number() as u64) << TYPE_SHIFT)
    }

    /// Its pfn.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 & PFN)
    }

    /// Its type; `None` for the numbers 5 to 8, which mean nothing.
    #[must_use]
    pub const fn kind(self) -> Option<WordKind> {
        WordKind::of((self.0 >> TYPE_SHIFT) as u8)
    }

    /// Bits 52..59, which are to be zero.
    #[must_use]
    pub const fn reserved(self) -> u64 {
        self.0 & !PFN & ((1 << TYPE_SHIFT) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        let tables =
            (1..=4).flat_map(|level| [false, true].map(|pinned| WordKind::Table { level, pinned }));
        let others = [WordKind::Data, WordKind::Broken, WordKind::Allocated, WordKind::Absent];
        let mut numbers = Vec::new();
        for kind in tables.chain(others) {
            let word = Word::new(Pfn(0xf_0000_0000_1234), kind);
            assert_eq!((word.pfn(), word.kind()), (Pfn(0xf_0000_0000_1234), Some(kind)));
            assert_eq!(word.reserved(), 0);
            numbers.push(word.0 >> 60);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14, 15]);
        for number in 5..=8 {
            assert_eq!(Word(number << 60).kind(), None);
        }
        assert_eq!(Word(1 << 52 | 1 << 59 | 3).reserved(), 1 << 52 | 1 << 59);
    }

    #[test]
    fn types_are_those_of_xens_query() {
        for word in [0, 1, 4, 9, 12, 13, 15_u32] {
            let kind = FrameType::from_pfinfo(word << 28).expect("a type of Xen's");
            assert_eq!(Word::new(Pfn(7), kind.into()).0 >> 60, u64::from(word));
        }
    }
}
