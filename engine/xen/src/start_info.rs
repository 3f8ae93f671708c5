// SPDX-License-Identifier: MIT OR Apache-2.0
//! start_info, the page of a suspended guest that names its xenstore and console rings.
//! Not here: what is in the rings.
//! Units: pfns: a guest turns the two mfns into pfns before it suspends.
//! Threads: pure.
//! Source: `xen-save-path.md` 2.1; Xen `public/xen.h`.

use p2mtrack::frame::{Pfn, Width};
use p2mtrack::leaf::Leaf;

/// The two rings, untrusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rings {
    pub(crate) store: Pfn,
    pub(crate) console: Pfn,
}

/// Reads them from a private copy of the page; `None` if it is not start_info.
pub(crate) fn rings(width: Width, page: &Leaf) -> Option<Rings> {
    let bytes: &[u8] = bytemuck::cast_slice(&page.words);
    if !bytes.starts_with(b"xen-") {
        return None;
    }
    let (store, console) = match width {
        Width::W32 => (44, 52),
        Width::W64 => (56, 72),
    };
    let pfn = |at| Pfn(width.word(bytes, at));
    Some(Rings { store: pfn(store), console: pfn(console) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_of_both_widths_and_of_what_is_no_start_info() {
        let mut page = Leaf::default();
        assert_eq!(rings(Width::W64, &page), None);
        page.words[0] = u64::from_le_bytes(*b"xen-3.0-");
        (page.words[7], page.words[9]) = (0x11, 0x22);
        let found = Rings { store: Pfn(0x11), console: Pfn(0x22) };
        assert_eq!(rings(Width::W64, &page), Some(found));
        (page.words[5], page.words[6]) = (0x11 << 32, 0x22 << 32);
        assert_eq!(rings(Width::W32, &page), Some(found));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn offsets_are_those_of_xens_header() {
        use std::mem::offset_of;
        assert_eq!(offset_of!(xen_sys::start_info, store_mfn), 56);
        assert_eq!(offset_of!(xen_sys::start_info, console), 72); // its mfn is the first word
    }
}
