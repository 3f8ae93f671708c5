// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where `shared_info` keeps the p2m's roots, for both guest widths.
//! Not here: reading the page (`P2mSource`), or validating its values (`p2m::Shape`).
//! Units: byte offsets from the start of the page, little-endian guest words.
//! Threads: pure.
//! Source: Xen `public/arch-x86/xen.h`; 64-bit offsets are checked against `xen-sys` at compile
//! time, the 32-bit ones against the table in `xen-save-path.md` 2.1, which a compiler made from
//! Xen's headers.

use crate::frame::{FRAME_BYTES, Width};
use crate::port::Roots;

/// Offsets of the fields that the engine reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `arch.max_pfn`.
    pub pfn_count: usize,
    /// `arch.pfn_to_mfn_frame_list_list`.
    pub frame_list_list: usize,
    /// `arch.p2m_cr3`.
    pub p2m_cr3: usize,
    /// `arch.p2m_vaddr`.
    pub p2m_vaddr: usize,
    /// `arch.p2m_generation`.
    pub generation: usize,
}

/// A 64-bit guest's page.
pub(crate) const OFFSETS_64: Offsets = Offsets {
    pfn_count: 0xc10,
    frame_list_list: 0xc18,
    p2m_cr3: 0xc28,
    p2m_vaddr: 0xc30,
    generation: 0xc38,
};

/// A 32-bit guest's page.
pub(crate) const OFFSETS_32: Offsets = Offsets {
    pfn_count: 0x90c,
    frame_list_list: 0x910,
    p2m_cr3: 0x918,
    p2m_vaddr: 0x91c,
    generation: 0x920,
};

/// Reads the roots out of a private copy of the page.
#[must_use]
pub fn roots(width: Width, page: &[u8; FRAME_BYTES]) -> Roots {
    let offsets = match width {
        Width::W32 => OFFSETS_32,
        Width::W64 => OFFSETS_64,
    };
    let word = |at| width.word(page, at);
    Roots {
        pfn_count: word(offsets.pfn_count),
        frame_list_list: word(offsets.frame_list_list),
        p2m_cr3: word(offsets.p2m_cr3),
        p2m_vaddr: word(offsets.p2m_vaddr),
        generation: word(offsets.generation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    mod against_xen_sys {
        use super::super::OFFSETS_64;
        use std::mem::offset_of;
        use xen_sys::{arch_shared_info, shared_info};

        const fn arch(field: usize) -> usize {
            offset_of!(shared_info, arch) + field
        }

        const _: () = assert!(OFFSETS_64.pfn_count == arch(offset_of!(arch_shared_info, max_pfn)));
        const _: () = assert!(
            OFFSETS_64.frame_list_list
                == arch(offset_of!(arch_shared_info, pfn_to_mfn_frame_list_list))
        );
        const _: () = assert!(OFFSETS_64.p2m_cr3 == arch(offset_of!(arch_shared_info, p2m_cr3)));
        const _: () =
            assert!(OFFSETS_64.p2m_vaddr == arch(offset_of!(arch_shared_info, p2m_vaddr)));
        const _: () =
            assert!(OFFSETS_64.generation == arch(offset_of!(arch_shared_info, p2m_generation)));
    }

    #[test]
    fn each_field_is_read_in_the_guests_width() {
        let mut page = [0xee_u8; FRAME_BYTES];
        for (at, value) in [(0x90c, 1_u32), (0x910, 2), (0x918, 3), (0x91c, 4), (0x920, 5)] {
            page[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        for (at, value) in [(0xc10, 1_u64 << 40), (0xc18, 2), (0xc28, 3), (0xc30, 4), (0xc38, 5)] {
            page[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let expect = |pfn_count| Roots {
            pfn_count,
            frame_list_list: 2,
            p2m_cr3: 3,
            p2m_vaddr: 4,
            generation: 5,
        };
        assert_eq!(roots(Width::W32, &page), expect(1));
        assert_eq!(roots(Width::W64, &page), expect(1 << 40));
    }
}
