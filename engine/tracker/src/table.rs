// SPDX-License-Identifier: MIT OR Apache-2.0
//! Normalisation of a page table: replaces mfns by pfns, implemented once for all transports.
//! Not here: which frames are page tables (`FrameTypes`), or when a failure is fatal (`migration`).
//! Units: a page table is 512 little-endian PTEs of 8 bytes in both guest widths (PAE); frame =
//! bits 12..51.
//! Threads: pure.
//! Source: AMD64 manual vol. 2, 5.3; Xen's own slots: `xen/include/asm-x86/config.h`,
//! `xen-save-path.md` 1.6.

use std::fmt;

use crate::frame::{Mfn, Pfn, Width};
use crate::leaf::Leaf;
use crate::named_pfns::NamedPfns;

/// PTE bit 0: the entry is used.
pub const PTE_PRESENT: u64 = 1;
/// PTE bit 7 in levels 2 and up: a superpage.
pub const PTE_SUPERPAGE: u64 = 1 << 7;
/// Bits 12..51: the frame number, not shifted.
pub const PTE_FRAME: u64 = 0x000f_ffff_ffff_f000;

/// The frame that a PTE names.
#[must_use]
pub const fn pte_mfn(pte: u64) -> Mfn {
    Mfn((pte & PTE_FRAME) >> 12)
}

/// What the engine knows of the frame in a PTE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// This pfn has the frame, by p2m and m2p.
    Pfn(Pfn),
    /// By policy, the PTE becomes not present.
    Clear,
    /// The frame is another domain's.
    Foreign,
    /// No pfn has the frame.
    Unresolved,
}

/// A copy of a page table, to be normalised in place.
#[derive(Clone, Debug)]
pub struct TableCopy {
    /// The table's pfn.
    pub pfn: Pfn,
    /// 1 to 4.
    pub level: u8,
    /// Its words.
    pub words: Leaf,
    /// Why it can't be normalised; its words mean nothing then.
    pub fault: Option<TableFault>,
    /// What the engine's view found that it names; means nothing otherwise.
    pub(crate) named: NamedPfns,
}

impl TableCopy {
    /// A copy of the table of `pfn`, as the guest has it. `level`: 1 to 4.
    #[must_use]
    pub const fn new(pfn: Pfn, level: u8, words: Leaf) -> Self {
        Self { pfn, level, words, fault: None, named: NamedPfns::ALL }
    }
}

/// The engine's view of p2m and m2p, passed to the transport.
pub trait TableView {
    /// The guest's width.
    fn width(&self) -> Width;
    /// The normalisation of `table` (a pfn) begins, perhaps once more.
    fn begin(&self, _table: Pfn) {}
    /// The pfn of the frame that a PTE in `table` (a pfn) names.
    fn resolve(&self, table: Pfn, mfn: Mfn) -> Resolved;
    /// Whether `mfn` is the first frame of Xen's compat m2p: tells the 32-bit level 2 table that
    /// has Xen's slots.
    fn is_compat_m2p(&self, mfn: Mfn) -> bool;
    /// `table` (a pfn) is normalised: its words name pfns now.
    fn normalised(&self, _table: Pfn, _words: &Leaf) {}
    /// Normalises all of these tables as [`normalise`] does; the engine's view does it faster than
    /// that, on all of its threads.
    fn normalise_all(&self, tables: &mut [TableCopy]) {
        for table in tables {
            table.fault = normalise(table.pfn, table.level, &mut table.words, self).err();
        }
    }
}

/// Why a page table can't be normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableCause {
    /// A PTE names a frame of another domain.
    Foreign,
    /// A PTE names a frame that no pfn has.
    Unresolved,
    /// A PTE of level 2 or up is a superpage.
    Superpage,
    /// The sender normalises tables itself and gave no details: slot and frame are meaningless.
    Unsaid,
}

/// The PTE that stopped a normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFault {
    /// The table's level, 1 to 4.
    pub level: u8,
    /// The PTE's slot, below 512.
    pub slot: u16,
    /// The frame that it names.
    pub mfn: Mfn,
    /// What is wrong with it.
    pub cause: TableCause,
}

impl fmt::Display for TableFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self.cause {
            TableCause::Foreign => "a frame of another domain",
            TableCause::Unresolved => "a frame that no pfn has",
            TableCause::Superpage => "a superpage",
            TableCause::Unsaid => {
                return write!(f, "level {}: the sender can't normalise it", self.level);
            }
        };
        write!(f, "level {} slot {} names {cause}, {}", self.level, self.slot, self.mfn)
    }
}

/// Whether a slot belongs to Xen and is not migrated.
pub(crate) fn is_xen_slot(width: Width, level: u8, slot: usize, compat: bool) -> bool {
    match (width, level) {
        (Width::W64, 4) => (256..=271).contains(&slot),
        (Width::W32, 3) => slot >= 4,
        // 0xf580_0000 >> 21 & 511: the compat m2p and what follows it in the last level 2 table.
        (Width::W32, 2) => compat && slot >= XEN_COMPAT_SLOT,
        _ => false,
    }
}

/// First level 2 slot of Xen's hole in a 32-bit guest's last gigabyte (HYPERVISOR_VIRT_START).
const XEN_COMPAT_SLOT: usize = (0xf580_0000_u64 >> 21 & 511) as usize;

/// Replaces each present PTE's frame by its pfn, in place. Xen's own slots become zero.
///
/// # Errors
/// The first PTE that resolves to no pfn, or is a superpage; `table` is then partly normalised and
/// must not be sent.
pub fn normalise<V: TableView + ?Sized>(
    pfn: Pfn,
    level: u8,
    table: &mut Leaf,
    view: &V,
) -> Result<(), TableFault> {
    view.begin(pfn);
    let width = view.width();
    let first_xen = table.words[XEN_COMPAT_SLOT];
    let compat = level == 2
        && width == Width::W32
        && first_xen & PTE_PRESENT != 0
        && view.is_compat_m2p(pte_mfn(first_xen));
    for (slot, pte) in table.words.iter_mut().enumerate() {
        if is_xen_slot(width, level, slot, compat) {
            *pte = 0;
            continue;
        }
        if *pte & PTE_PRESENT == 0 {
            continue;
        }
        let mfn = pte_mfn(*pte);
        let fault = |cause| TableFault { level, slot: slot as u16, mfn, cause };
        if level > 1 && *pte & PTE_SUPERPAGE != 0 {
            return Err(fault(TableCause::Superpage));
        }
        *pte = match view.resolve(pfn, mfn) {
            Resolved::Pfn(target) => *pte & !PTE_FRAME | target.0 << 12 & PTE_FRAME,
            Resolved::Clear => 0,
            Resolved::Foreign => return Err(fault(TableCause::Foreign)),
            Resolved::Unresolved => return Err(fault(TableCause::Unresolved)),
        };
    }
    view.normalised(pfn, table);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct View(Width);

    impl TableView for View {
        fn width(&self) -> Width {
            self.0
        }
        fn resolve(&self, _: Pfn, mfn: Mfn) -> Resolved {
            match mfn.0 {
                0x100..0x200 => Resolved::Pfn(Pfn(mfn.0 - 0x100)),
                0x200 => Resolved::Clear,
                0x300 => Resolved::Foreign,
                _ => Resolved::Unresolved,
            }
        }
        fn is_compat_m2p(&self, mfn: Mfn) -> bool {
            mfn.0 == 0x777
        }
    }

    fn pte(mfn: u64, flags: u64) -> u64 {
        mfn << 12 | flags
    }

    #[test]
    fn frames_become_pfns_and_flags_stay() {
        let mut table = Leaf::default();
        table.words[0] = pte(0x105, 0x8000_0000_0000_0067);
        table.words[1] = pte(0x300, 0x66); // not present: never resolved
        table.words[2] = pte(0x200, 0x67);
        normalise(Pfn(1), 1, &mut table, &View(Width::W64)).expect("all resolve");
        assert_eq!(table.words[0], pte(5, 0x8000_0000_0000_0067));
        assert_eq!(table.words[1], pte(0x300, 0x66));
        assert_eq!(table.words[2], 0);
    }

    #[test]
    fn each_fault_names_its_slot_and_frame() {
        for (mfn, flags, level, cause) in [
            (0x300, 0x67, 1, TableCause::Foreign),
            (0x900, 0x67, 2, TableCause::Unresolved),
            (0x101, 0xe7, 2, TableCause::Superpage),
        ] {
            let mut table = Leaf::default();
            table.words[9] = pte(mfn, flags);
            let fault = normalise(Pfn(1), level, &mut table, &View(Width::W64)).expect_err("fault");
            assert_eq!(fault, TableFault { level, slot: 9, mfn: Mfn(mfn), cause });
        }
        // Bit 7 of a level 1 PTE is PAT, not a superpage.
        let mut table = Leaf::default();
        table.words[9] = pte(0x101, 0xe7);
        normalise(Pfn(1), 1, &mut table, &View(Width::W64)).expect("PAT bit");
    }

    #[test]
    fn xen_slots_are_zeroed() {
        let full = || Leaf { words: [pte(0x105, 0x67); 512] };
        let mut table = full();
        normalise(Pfn(1), 4, &mut table, &View(Width::W64)).expect("resolves");
        let zero = |t: &Leaf| {
            t.words.iter().enumerate().filter(|w| *w.1 == 0).map(|w| w.0).collect::<Vec<_>>()
        };
        assert_eq!(zero(&table), (256..272).collect::<Vec<_>>());
        let mut table = full();
        normalise(Pfn(1), 3, &mut table, &View(Width::W32)).expect("resolves");
        assert_eq!(zero(&table), (4..512).collect::<Vec<_>>());
        let mut table = full();
        normalise(Pfn(1), 2, &mut table, &View(Width::W32)).expect("resolves");
        assert!(zero(&table).is_empty());
        table = full();
        table.words[428] = pte(0x777, 0x67);
        normalise(Pfn(1), 2, &mut table, &View(Width::W32)).expect("resolves");
        assert_eq!(zero(&table), (428..512).collect::<Vec<_>>());
        // A PTE that is not present names nothing, whatever its frame number.
        table = full();
        table.words[428] = pte(0x777, 0x66);
        normalise(Pfn(1), 2, &mut table, &View(Width::W32)).expect("resolves");
        assert!(zero(&table).is_empty());
    }
}
