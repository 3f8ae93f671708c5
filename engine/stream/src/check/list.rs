// SPDX-License-Identifier: MIT OR Apache-2.0
//! X86_PV_P2M_FRAMES: the arithmetic of a list, and how it follows the one before.
//! Not here: whether the leaves are data in the end (`point`).
//! Units: pfns; `end` is the last one.
//! Threads: one.
//! Source: libxc `xg_sr_restore_x86_pv.c`, `handle_x86_pv_p2m_frames`, `expand_p2m`.

use crate::check::arrived::Arrived;
use crate::check::rule::{Findings, Rule};
use crate::header::little;

/// Takes the body of a record that begins at byte `offset`.
pub(crate) fn take(arrived: &mut Arrived, findings: &mut Findings<'_>, offset: u64, body: &[u8]) {
    let Some((range, leaves)) = body.split_at_checked(8) else {
        let words = format_args!("X86_PV_P2M_FRAMES has {} bytes, not 8 or more", body.len());
        return findings.add(offset, Rule::BodyLength, words);
    };
    let (start, end) = (little(&range[..4]), little(&range[4..]));
    let words = format_args!("the list goes from pfn {start:#x} to {end:#x}");
    if !findings.expect(start <= end, offset, Rule::ListRange, words) {
        return;
    }
    let entries = arrived.width.entries() as u64;
    let (first, last) = (start / entries, end / entries);
    let count = last - first + 1;
    arrived.list.is_lost = true; // until it is understood
    let words = format_args!(
        "pfns {start:#x} to {end:#x} are in {count} leaves, the list has {} bytes of them",
        leaves.len()
    );
    if !findings.expect(leaves.len() as u64 == 8 * count, offset, Rule::ListRange, words) {
        return;
    }
    let list = &mut arrived.list;
    let known = list.leaves.len() as u64;
    let words = format_args!("the list begins in leaf {first}, {known} leaves were listed");
    if !findings.expect(first <= known, offset, Rule::ListGap, words) {
        return;
    }
    let words = format_args!(
        "the list ends at pfn {end:#x}, one ended at {:#x}",
        list.pfns.saturating_sub(1)
    );
    findings.expect(first > 0 || end + 1 >= list.pfns, offset, Rule::ListShrinks, words);
    let leaves = leaves.chunks_exact(8).map(little).zip((offset + 16..).step_by(8));
    for (at, (leaf, offset)) in (first as usize..).zip(leaves) {
        if at == list.leaves.len() {
            list.leaves.push(leaf);
            list.offsets.push(offset);
        }
        (list.leaves[at], list.offsets[at]) = (leaf, offset);
    }
    list.pfns = list.pfns.max(end + 1);
    list.is_lost = false;
    arrived.is_list_changed = true;
}
