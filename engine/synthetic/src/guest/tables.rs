// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page tables of the guest's processes at the start.
//! Not here: how they change (`behaviour`).
//! Units: mfns; slots below 512.
//! Threads: one owner.
//! Source: Linux: level 1 tables, pinned or hung below a pinned level 2 table.

use p2mtrack::leaf::FRAME_WORDS;

use crate::dice::Dice;
use crate::guest::kernel::Guest;
use crate::page_table::{pin, pte};
use crate::xen::Xen;

/// Tables of the guest's processes: level 1 tables over data, half of them under a level 2 table.
pub(crate) fn make_tables(xen: &mut Xen, guest: &mut Guest, pages: &[u64], dice: &mut Dice) {
    for &mfn in pages {
        xen.guest_fills(mfn, 0);
    }
    let (upper, lower) = pages.split_at(2);
    for &table in lower {
        for _ in 0..24 {
            let slot = dice.index(FRAME_WORDS);
            if let Some(pfn) = guest.pick_data(&xen.machine, dice) {
                let target = guest.frame(&xen.machine, pfn).expect("plain data has a frame");
                xen.guest_stores_word(table, slot, pte(target));
            }
        }
        guest.tables.push((table, 1));
    }
    for (index, &table) in lower.iter().enumerate() {
        if index % 2 == 0 {
            pin(xen, table, 1);
        } else {
            xen.guest_stores_word(upper[index / 2 % 2], 3 * index, pte(table));
        }
    }
    for &table in upper {
        pin(xen, table, 2);
        guest.tables.push((table, 2));
    }
}
