// SPDX-License-Identifier: MIT OR Apache-2.0
//! The geometry of a p2m: a radix tree of frames whose last level names the leaves, in four
//! variants.
//! Not here: reading any of these frames (`walk`).
//! Units: a position is a leaf's index; a page index is a position plus the list's first page;
//! levels from 1 up.
//! Threads: plain values.
//! Source: Xen `public/arch-x86/xen.h` (p2m_cr3, p2m_vaddr, frame list list), `xen-save-path.md`
//! 2.2 and 2.3.

use crate::error::{Error, RootsFault};
use crate::frame::{Mfn, Width};
use crate::leaf::Leaf;
use crate::port::Roots;
use crate::table::{PTE_PRESENT, PTE_SUPERPAGE, pte_mfn};

/// How the guest publishes its p2m.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A list in the guest's address space, found through its page tables.
    Linear,
    /// A tree of three levels: top, mid and leaf.
    Tree,
}

/// Where a p2m begins and how its levels are indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// List or tree.
    pub(crate) kind: Kind,
    /// Entry width.
    pub(crate) width: Width,
    /// The uppermost frame.
    pub(crate) root: Mfn,
    /// Page index of position 0.
    pub(crate) base: u64,
    /// Levels above the leaves.
    pub(crate) levels: u8,
}

/// What a slot of an upper frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Nothing below.
    Empty,
    /// A frame of the next level, or a leaf.
    Frame(Mfn),
    /// A superpage: no leaf can be found below it.
    Superpage,
}

/// Pages that the lower half of a 64-bit address space holds (bit 47 is copied upwards).
const HALF_PAGES: u64 = 1 << 35;
/// Page index of Xen's own range in a 64-bit guest (level 4 slots 256 to 271).
const XEN_PAGES: std::ops::Range<u64> = 256 << 27..272 << 27;
/// First page of Xen's range in a 32-bit guest (`__HYPERVISOR_VIRT_START_PAE`).
const XEN_PAGE_32: u64 = 0xf580_0000 >> 12;

impl Shape {
    /// Reads the shape out of the roots. A list is preferred to a tree, as the toolstack does.
    ///
    /// # Errors
    /// [`Error::Roots`] if nothing is published or the roots can't be followed.
    pub(crate) fn new(width: Width, roots: &Roots, machine_frames: u64) -> Result<Self, Error> {
        let fault = |fault, value| Err(Error::Roots { fault, value });
        if roots.pfn_count == 0 {
            return fault(RootsFault::Absent, 0);
        }
        let shape = if roots.p2m_cr3 == 0 {
            Self::tree(width, roots)?
        } else {
            Self::linear(width, roots)?
        };
        if shape.root.0 >= machine_frames {
            return fault(RootsFault::RootFrame, shape.root.0);
        }
        Ok(shape)
    }

    fn tree(width: Width, roots: &Roots) -> Result<Self, Error> {
        let root = roots.frame_list_list;
        let invalid = if width == Width::W32 { u64::from(u32::MAX) } else { u64::MAX };
        if root == 0 || root == invalid || root == u64::MAX {
            return Err(Error::Roots { fault: RootsFault::Absent, value: root });
        }
        if roots.pfn_count > 1 << (3 * width.entry_bits()) {
            return Err(Error::Roots { fault: RootsFault::TreeTooSmall, value: roots.pfn_count });
        }
        Ok(Self { kind: Kind::Tree, width, root: Mfn(root), base: 0, levels: 2 })
    }

    fn linear(width: Width, roots: &Roots) -> Result<Self, Error> {
        let vaddr = roots.p2m_vaddr;
        let fault = |fault| Err(Error::Roots { fault, value: vaddr });
        if !vaddr.is_multiple_of(4096) {
            return fault(RootsFault::Misaligned);
        }
        let leaves = width.leaves(roots.pfn_count);
        let page = vaddr >> 12;
        let (root, base, levels, fits) = match width {
            Width::W64 => {
                let canonical = vaddr >> 47 == 0 || vaddr >> 47 == (1 << 17) - 1;
                let base = page & (2 * HALF_PAGES - 1);
                let end = (base & (HALF_PAGES - 1)).saturating_add(leaves);
                let clear = !XEN_PAGES.contains(&base)
                    && (base >= XEN_PAGES.end || base.saturating_add(leaves) <= XEN_PAGES.start);
                (pte_mfn(roots.p2m_cr3), base, 4, canonical && clear && end <= HALF_PAGES)
            }
            Width::W32 => {
                // A 32-bit cr3 is folded: the frame's upper bits are in bits 0..11.
                let cr3 = roots.p2m_cr3 as u32;
                let fits = page.saturating_add(leaves) <= XEN_PAGE_32;
                (Mfn(u64::from(cr3.rotate_right(12))), page, 3, fits)
            }
        };
        if !fits {
            return fault(RootsFault::AddressSpace);
        }
        Ok(Self { kind: Kind::Linear, width, root, base, levels })
    }

    /// Whether a walk between these two reads of the roots lies within one even generation and one
    /// set of roots.
    pub(crate) fn is_stable(&self, before: &Roots, after: &Roots) -> bool {
        match self.kind {
            Kind::Linear => {
                before.generation.is_multiple_of(2)
                    && before.generation == after.generation
                    && (before.p2m_cr3, before.p2m_vaddr) == (after.p2m_cr3, after.p2m_vaddr)
            }
            Kind::Tree => {
                after.p2m_cr3 == before.p2m_cr3 && before.frame_list_list == after.frame_list_list
            }
        }
    }

    /// `log2` of the slots of an upper frame.
    #[must_use]
    pub(crate) const fn slot_bits(&self) -> u32 {
        match (self.kind, self.width) {
            (Kind::Tree, Width::W32) => 10,
            _ => 9,
        }
    }

    /// Slots of an upper frame.
    #[must_use]
    pub(crate) const fn slots(&self) -> usize {
        1 << self.slot_bits()
    }

    /// Leaves below one slot of a frame of `level`.
    #[must_use]
    pub(crate) const fn leaves_below(&self, level: u8) -> u64 {
        1 << (self.slot_bits() * (level as u32 - 1))
    }

    /// What `slot` of an upper frame says.
    #[must_use]
    pub(crate) fn slot(&self, level: u8, frame: &Leaf, slot: usize) -> Slot {
        match (self.kind, self.width) {
            (Kind::Linear, _) => match frame.words[slot] {
                pte if pte & PTE_PRESENT == 0 => Slot::Empty,
                pte if level > 1 && pte & PTE_SUPERPAGE != 0 => Slot::Superpage,
                pte => Slot::Frame(pte_mfn(pte)),
            },
            (Kind::Tree, Width::W64) => Self::tree_slot(frame.words[slot], u64::MAX),
            (Kind::Tree, Width::W32) => {
                Self::tree_slot(u64::from(frame.word32(slot)), u64::from(u32::MAX))
            }
        }
    }

    const fn tree_slot(word: u64, invalid: u64) -> Slot {
        // Linux fills unused slots with a shared frame, mini-os with all ones, a fresh frame has 0.
        if word == 0 || word == invalid { Slot::Empty } else { Slot::Frame(Mfn(word)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(count: u64, cr3: u64, vaddr: u64, fll: u64) -> Roots {
        Roots {
            pfn_count: count,
            frame_list_list: fll,
            p2m_cr3: cr3,
            p2m_vaddr: vaddr,
            generation: 0,
        }
    }

    fn fault(width: Width, roots: &Roots) -> RootsFault {
        match Shape::new(width, roots, 1 << 30) {
            Err(Error::Roots { fault, .. }) => fault,
            other => panic!("expected a roots fault, got {other:?}"),
        }
    }

    #[test]
    fn a_list_at_an_odd_page_is_followed() {
        let at = 0xffff_c900_0020_3000;
        let shape = Shape::new(Width::W64, &roots(1 << 20, 0x5000, at, 0), 1 << 30).expect("shape");
        assert_eq!((shape.root, shape.levels), (Mfn(5), 4));
        assert_eq!(shape.base, (at >> 12) & ((1 << 36) - 1));
        let shape = Shape::new(Width::W32, &roots(1 << 20, 0x5000_0003, 0xf000_1000, 0), 1 << 50);
        let shape = shape.expect("shape");
        assert_eq!((shape.root, shape.base, shape.levels), (Mfn(0x0035_0000), 0xf_0001, 3));
    }

    #[test]
    fn roots_that_lead_nowhere_are_named() {
        let at = 0xffff_c900_0000_0000;
        let (w64, w32) = (Width::W64, Width::W32);
        assert_eq!(fault(w64, &roots(0, 0x1000, at, 0)), RootsFault::Absent);
        assert_eq!(fault(w64, &roots(5, 0, at, u64::MAX)), RootsFault::Absent);
        assert_eq!(fault(w32, &roots(5, 0, at, u64::from(u32::MAX))), RootsFault::Absent);
        assert_eq!(fault(w64, &roots(5, 1 << 42, at, 0)), RootsFault::RootFrame);
        assert_eq!(fault(w64, &roots(5, 0x1000, at + 8, 0)), RootsFault::Misaligned);
        assert_eq!(fault(w64, &roots(5, 0x1000, 1 << 50, 0)), RootsFault::AddressSpace);
        assert_eq!(fault(w64, &roots(1 << 63, 0x1000, at, 0)), RootsFault::AddressSpace);
        assert_eq!(
            fault(w64, &roots(5, 0x1000, 0xffff_8000_0000_0000, 0)),
            RootsFault::AddressSpace
        );
        assert_eq!(fault(w32, &roots(1 << 25, 0x1000, 0xf500_0000, 0)), RootsFault::AddressSpace);
        assert_eq!(fault(w64, &roots((1 << 27) + 1, 0, 0, 7)), RootsFault::TreeTooSmall);
        assert_eq!(fault(w32, &roots((1 << 30) + 1, 0, 0, 7)), RootsFault::TreeTooSmall);
    }

    #[test]
    fn a_list_ends_with_its_half_of_the_address_space_and_before_xen() {
        let fits = |width: Width, vaddr: u64, leaves: u64| {
            let pfns = leaves * width.entries() as u64;
            match Shape::new(width, &roots(pfns, 0x1000, vaddr, 0), 1 << 30) {
                Ok(shape) => Some(shape.base),
                Err(Error::Roots { fault: RootsFault::AddressSpace, .. }) => None,
                Err(other) => panic!("{other}"),
            }
        };
        for (width, vaddr, leaves) in [
            (Width::W64, (1 << 47) - 0x5000, 5),
            (Width::W64, 0xffff_8800_0000_0000, 9),
            (Width::W64, 0xffff_ffff_ffff_f000, 1),
            (Width::W32, 0xf580_0000 - 0x5000, 5),
        ] {
            let page = (vaddr >> 12) & ((1 << 36) - 1);
            assert_eq!(fits(width, vaddr, leaves), Some(page), "{vaddr:#x}");
        }
        for (width, vaddr, leaves) in [
            (Width::W64, (1 << 47) - 0x5000, 6),
            (Width::W64, 1 << 47, 1),
            (Width::W64, 0xffff_87ff_ffff_f000, 1),
            (Width::W64, 0xffff_ffff_ffff_f000, 2),
            (Width::W32, 0xf580_0000 - 0x5000, 6),
            (Width::W32, 0xf580_0000, 1),
        ] {
            assert_eq!(fits(width, vaddr, leaves), None, "{vaddr:#x}");
        }
    }

    #[test]
    fn a_tree_holds_what_three_levels_hold() {
        assert_eq!(fault(Width::W64, &roots(5, 0, 0, 0)), RootsFault::Absent);
        for (width, pfns) in [(Width::W64, 1 << 27), (Width::W32, 1 << 30)] {
            let shape = Shape::new(width, &roots(pfns, 0, 0, 7), 8).expect("shape");
            assert_eq!((shape.kind, shape.root, shape.levels), (Kind::Tree, Mfn(7), 2));
        }
    }

    #[test]
    fn slots_of_each_variant() {
        let mut frame = Leaf::default();
        frame.words[0] = 0x7067;
        frame.words[1] = 0x70e7;
        frame.words[2] = 0x7066;
        frame.words[3] = u64::MAX;
        let list = Shape::new(Width::W64, &roots(5, 0x1000, 0x1000, 0), 1 << 30).expect("shape");
        assert_eq!(list.slot(1, &frame, 0), Slot::Frame(Mfn(7)));
        assert_eq!(list.slot(1, &frame, 1), Slot::Frame(Mfn(7)));
        assert_eq!(list.slot(2, &frame, 1), Slot::Superpage);
        assert_eq!(list.slot(1, &frame, 2), Slot::Empty);
        let tree = Shape::new(Width::W64, &roots(5, 0, 0, 1), 1 << 30).expect("shape");
        assert_eq!(tree.slot(1, &frame, 0), Slot::Frame(Mfn(0x7067)));
        assert_eq!(tree.slot(1, &frame, 3), Slot::Empty);
        assert_eq!(tree.slot(2, &frame, 4), Slot::Empty);
        let tree = Shape::new(Width::W32, &roots(5, 0, 0, 1), 1 << 30).expect("shape");
        assert_eq!((tree.slots(), tree.leaves_below(2)), (1024, 1024));
        assert_eq!(tree.slot(1, &frame, 6), Slot::Empty);
        assert_eq!(tree.slot(1, &frame, 1), Slot::Empty);
    }
}
