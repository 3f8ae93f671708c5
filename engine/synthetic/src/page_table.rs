// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hypervisor's page tables: validation, pins, PTE writes; each marks the table that it
//! touches.
//! Not here: normalisation, which is the engine's.
//! Units: 512 PTEs of 8 bytes in both guest widths; levels 1 to 4.
//! Threads: one owner.
//! Source: `xen/arch/x86/mm.c`: `alloc_page_type`, `free_page_type` (both mark first, and again
//! when they go on after an interruption), `do_mmu_update`, `MMUEXT_PIN_*`; marks in `mm/shadow`.
//! CLEAN pauses the guest: it falls between pieces.

use p2mtrack::frame::Width;
use p2mtrack::leaf::FRAME_WORDS;
use p2mtrack::table::{PTE_PRESENT, pte_mfn};

use crate::xen::Xen;

/// Flags of a PTE that the guest writes: present, writable, user, accessed, dirty.
const FLAGS: u64 = 0x67;

/// A present PTE.
pub(crate) const fn pte(mfn: u64) -> u64 {
    mfn << 12 | FLAGS
}

/// Whether a slot of a table belongs to Xen.
pub(crate) fn is_xen_slot(width: Width, level: u8, slot: usize) -> bool {
    match (width, level) {
        (Width::W64, 4) => (256..=271).contains(&slot),
        (Width::W32, 3) => slot >= 4,
        _ => false,
    }
}

/// The present PTEs of a table that are the guest's own, as (slot, frame).
pub(crate) fn guest_ptes(xen: &Xen, table: u64, level: u8) -> Vec<(u16, u64)> {
    (0..FRAME_WORDS)
        .filter(|&slot| !is_xen_slot(xen.width, level, slot))
        .map(|slot| (slot as u16, xen.machine.word(table, slot)))
        .filter(|&(_, word)| word & PTE_PRESENT != 0)
        .map(|(slot, word)| (slot, pte_mfn(word).0))
        .collect()
}

/// Makes a page a page table of this level, and the pages that it names the tables below.
fn validate(xen: &mut Xen, table: u64, level: u8) {
    if xen.machine.level(table) != 0 {
        return;
    }
    xen.machine.words_to_write(table);
    xen.machine.set_level(table, level);
    for (slot, mfn) in guest_ptes(xen, table, level) {
        take_pte(xen, table, slot, mfn, level);
    }
    xen.mark(table);
}

/// A piece of a validation that Xen interrupts: marks the table, then takes the PTEs of some more
/// slots. Returns whether it was the last one.
pub(crate) fn promote_piece(xen: &mut Xen, table: u64, level: u8, slots: usize) -> bool {
    if xen.machine.level(table) == 0 {
        xen.machine.words_to_write(table);
        xen.machine.set_level(table, level);
        xen.partial.insert(table, 0);
    }
    let Some(&first) = xen.partial.get(&table) else { return true };
    xen.mark(table);
    let end = (first + slots).min(FRAME_WORDS);
    for (slot, mfn) in guest_ptes(xen, table, level) {
        if (first..end).contains(&slot.into()) {
            take_pte(xen, table, slot, mfn, level);
        }
    }
    xen.partial.insert(table, end);
    if end == FRAME_WORDS {
        xen.partial.remove(&table);
    }
    end == FRAME_WORDS
}

/// A piece of an invalidation; after the last one the table is data again.
pub(crate) fn demote_piece(xen: &mut Xen, table: u64, slots: usize) {
    let level = xen.machine.level(table);
    if level == 0 {
        return;
    }
    let end = xen.partial.remove(&table).unwrap_or(FRAME_WORDS);
    xen.mark(table);
    let first = end.saturating_sub(slots);
    for (slot, mfn) in guest_ptes(xen, table, level) {
        if (first..end).contains(&slot.into()) {
            drop_pte(xen, table, slot, mfn, level);
        }
    }
    if first == 0 {
        xen.machine.set_level(table, 0);
    } else {
        xen.partial.insert(table, first);
    }
}

fn invalidate(xen: &mut Xen, table: u64) {
    let level = xen.machine.level(table);
    for (slot, mfn) in guest_ptes(xen, table, level) {
        drop_pte(xen, table, slot, mfn, level);
    }
    xen.mark(table);
    xen.machine.set_level(table, 0);
}

fn take_pte(xen: &mut Xen, table: u64, slot: u16, mfn: u64, level: u8) {
    xen.machine.note_pte(mfn, table, slot, true);
    if level > 1 {
        validate(xen, mfn, level - 1);
    }
}

fn drop_pte(xen: &mut Xen, table: u64, slot: u16, mfn: u64, level: u8) {
    // The reference is dropped last: the table below must still exist while it is taken apart.
    if level > 1 {
        let held = xen
            .machine
            .ptes_to(mfn)
            .any(|other| other != (table, slot) && xen.machine.level(other.0) == level);
        if !held && !xen.machine.is_pinned(mfn) && xen.machine.level(mfn) == level - 1 {
            invalidate(xen, mfn);
        }
    }
    xen.machine.note_pte(mfn, table, slot, false);
}

/// `MMU_NORMAL_PT_UPDATE`, or a trapped write: marks the table's pfn.
pub(crate) fn write_pte(xen: &mut Xen, table: u64, slot: u16, to: Option<u64>) {
    let level = xen.machine.level(table);
    let old = xen.machine.word(table, usize::from(slot));
    if let Some(mfn) = to.filter(|_| level > 1) {
        validate(xen, mfn, level - 1);
    }
    xen.machine.words_to_write(table).store(usize::from(slot), to.map_or(0, pte));
    let replaced = (old & PTE_PRESENT != 0).then(|| pte_mfn(old).0);
    if level > 0 && replaced != to {
        if let Some(mfn) = to {
            take_pte(xen, table, slot, mfn, level);
        }
        if let Some(mfn) = replaced {
            drop_pte(xen, table, slot, mfn, level);
        }
    }
    xen.mark(table);
}

/// `MMUEXT_PIN_Ln_TABLE`.
pub(crate) fn pin(xen: &mut Xen, table: u64, level: u8) {
    validate(xen, table, level);
    xen.machine.set_pinned(table, true);
    xen.mark(table);
}

/// A piece of `MMUEXT_PIN_Ln_TABLE`; once the whole table is validated the pin is set, which marks
/// it again.
pub(crate) fn pin_piece(xen: &mut Xen, table: u64, level: u8, slots: usize) {
    if !xen.machine.is_pinned(table) && promote_piece(xen, table, level, slots) {
        xen.machine.set_pinned(table, true);
        xen.mark(table);
    }
}

/// A piece of `MMUEXT_UNPIN_TABLE` of a table without other references; the pin is dropped first.
pub(crate) fn unpin_piece(xen: &mut Xen, table: u64, slots: usize) {
    if xen.machine.is_pinned(table) {
        xen.machine.set_pinned(table, false);
        xen.mark(table);
    }
    demote_piece(xen, table, slots);
}

/// `MMUEXT_UNPIN_TABLE`: without another table that names it, the page is data again.
pub(crate) fn unpin(xen: &mut Xen, table: u64) {
    xen.machine.set_pinned(table, false);
    xen.mark(table);
    let level = xen.machine.level(table);
    let held = xen.machine.ptes_to(table).any(|(parent, _)| xen.machine.level(parent) == level + 1);
    if level > 0 && !held {
        invalidate(xen, table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::tests::{marks, xen};
    use p2mtrack::frame::FrameType;

    #[test]
    fn promotion_pin_unpin_and_demotion_mark_the_table() {
        let mut xen = xen();
        xen.guest_fills(1, 0);
        xen.guest_stores_word(1, 3, pte(2));
        clear(&mut xen);
        pin(&mut xen, 1, 1);
        assert_eq!(marks(&xen), [11]);
        assert_eq!(xen.machine.refs(2), 1);
        assert_eq!(xen.machine.frame_type(1), FrameType::Table { level: 1, pinned: true });
        clear(&mut xen);
        unpin(&mut xen, 1);
        assert_eq!(marks(&xen), [11]);
        assert_eq!(xen.machine.frame_type(1), FrameType::Data);
        assert_eq!(xen.machine.refs(2), 0);
    }

    #[test]
    fn a_table_is_validated_and_taken_apart_in_pieces_each_of_which_marks_it() {
        let mut xen = xen();
        xen.guest_fills(1, 0);
        xen.guest_fills(2, 0);
        xen.guest_fills(3, 0);
        xen.guest_stores_word(1, 7, pte(2));
        xen.guest_stores_word(1, 500, pte(3));
        type Piece = fn(&mut Xen);
        let table = |pinned| FrameType::Table { level: 2, pinned };
        let steps: [(Piece, [u8; 2], FrameType); 4] = [
            (|xen| pin_piece(xen, 1, 2, 256), [1, 0], table(false)),
            (|xen| pin_piece(xen, 1, 2, 256), [1, 1], table(true)),
            (|xen| unpin_piece(xen, 1, 400), [1, 0], table(false)),
            (|xen| unpin_piece(xen, 1, 400), [0, 0], FrameType::Data),
        ];
        for (step, levels, kind) in steps {
            clear(&mut xen);
            step(&mut xen);
            assert!(marks(&xen).contains(&11));
            assert_eq!([xen.machine.level(2), xen.machine.level(3)], levels);
            assert_eq!(xen.machine.frame_type(1), kind);
        }
        assert_eq!((xen.machine.level(1), xen.machine.refs(2), xen.machine.refs(3)), (0, 0, 0));
        assert!(xen.partial.is_empty());
    }

    #[test]
    fn a_pte_write_marks_the_table_and_not_the_target() {
        let mut xen = xen();
        xen.guest_fills(1, 0);
        pin(&mut xen, 1, 1);
        clear(&mut xen);
        write_pte(&mut xen, 1, 4, Some(2));
        assert_eq!(marks(&xen), [11]);
        assert_eq!(xen.machine.ptes_to(2).collect::<Vec<_>>(), [(1, 4)]);
        write_pte(&mut xen, 1, 4, None);
        assert_eq!(xen.machine.refs(2), 0);
    }

    #[test]
    fn an_upper_table_promotes_and_demotes_what_it_names() {
        let mut xen = xen();
        xen.guest_fills(1, 0);
        xen.guest_fills(2, 0);
        xen.guest_stores_word(2, 0, pte(3));
        pin(&mut xen, 1, 2);
        clear(&mut xen);
        write_pte(&mut xen, 1, 0, Some(2));
        assert_eq!(marks(&xen), [11, 12]);
        assert_eq!(xen.machine.level(2), 1);
        assert_eq!(xen.machine.refs(3), 1);
        clear(&mut xen);
        write_pte(&mut xen, 1, 0, None);
        assert_eq!(marks(&xen), [11, 12]);
        assert_eq!((xen.machine.level(2), xen.machine.refs(3), xen.machine.refs(2)), (0, 0, 0));
    }

    fn clear(xen: &mut Xen) {
        xen.log.disable();
        xen.log.enable().expect("was off");
    }
}
