// SPDX-License-Identifier: MIT OR Apache-2.0
//! A consistent point: what END and each CHECKPOINT demand of everything that has arrived.
//! Not here: the order of records (`order`).
//! Units: pfns.
//! Threads: one.
//! Source: libxc `xg_sr_restore_x86_pv.c`, `x86_pv_stream_complete` and what it calls: the p2m is
//! written into the listed leaves, tables are pinned, registers loaded.

use std::collections::HashMap;

use p2mtrack::frame::Pfn;

use crate::check::arrived::{Arrived, Table};
use crate::check::pages::name;
use crate::check::rule::{Findings, Rule};
use crate::check::vcpus::Vcpus;
use crate::vcpu::{Converted, GDT_ENTRIES_MAX};
use crate::word::WordKind;

/// Points at which all tables, or the whole list, are looked at again although the last look found
/// a breach: a stream that is broken in many places must not take the square of its length.
const LOOKS_MAX: u32 = 64;

/// Looks that found breaches.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    list: u32,
    tables: u32,
}

/// Checks what has arrived, as far as it may have changed since the last point.
pub(crate) fn check(
    arrived: &mut Arrived,
    vcpus: &Vcpus,
    looks: &mut Looks,
    findings: &mut Findings<'_>,
) {
    if arrived.list.is_lost {
        return; // pfns past the end of a list that was not understood are not known
    }
    let before = findings.broken;
    if arrived.is_list_changed && looks.list < LOOKS_MAX {
        let is_shared = check_list(arrived, findings);
        arrived.mark_listed(is_shared);
        looks.list += u32::from(findings.broken > before);
    }
    let before = findings.broken;
    let mut fresh = std::mem::take(&mut arrived.fresh);
    fresh.sort_unstable();
    fresh.dedup();
    if arrived.is_frame_lost && looks.tables < LOOKS_MAX {
        arrived.tables.iter().for_each(|(&pfn, table)| check_table(arrived, pfn, table, findings));
        arrived.is_frame_lost = false;
        arrived.mark_named();
        looks.tables += u32::from(findings.broken > before);
    } else {
        for pfn in fresh {
            if let Some(table) = arrived.tables.get(&pfn) {
                check_table(arrived, pfn, table, findings);
            }
        }
    }
    for (&id, seen) in &vcpus.seen {
        if let Some(basic) = &seen.basic {
            check_vcpu(arrived, findings, seen.offset, id, basic);
        }
    }
    for (id, offset) in vcpus.without_basic() {
        let found = format_args!("vCPU {id} has records, but no X86_PV_VCPU_BASIC");
        findings.add(offset, Rule::VcpuBasic, found);
    }
}

/// Says whether a leaf is listed twice.
fn check_list(arrived: &Arrived, findings: &mut Findings<'_>) -> bool {
    let mut seen = HashMap::new();
    let mut is_shared = false;
    let has_frames = |at: u64, leaf: u64, findings: &mut Findings<'_>| {
        let found = format_args!("pfn {leaf:#x} is listed twice or more, and leaf {at} has frames");
        let holds = !arrived.any_frame_in(at);
        findings.expect(holds, arrived.list.offsets[at as usize], Rule::ListTwice, found);
    };
    for (at, &leaf) in (0..).zip(&arrived.list.leaves) {
        let kind = arrived.kinds.get(Pfn(leaf));
        if kind != Some(WordKind::Data) {
            let found =
                format_args!("leaf {at} is listed at pfn {leaf:#x}, which is {}", name(kind));
            findings.add(arrived.list.offsets[at as usize], Rule::ListPfn, found);
        }
        match seen.insert(leaf, None) {
            None => {
                seen.insert(leaf, Some(at));
            }
            Some(first) => {
                is_shared = true;
                if let Some(first) = first {
                    has_frames(first, leaf, findings);
                }
                has_frames(at, leaf, findings);
            }
        }
    }
    is_shared
}

/// One line for a table, however many of its PTEs are wrong.
fn check_table(arrived: &Arrived, pfn: Pfn, table: &Table, findings: &mut Findings<'_>) {
    let named = table.slots.iter().zip(&table.named);
    let mut wrong = named.filter(|named| !arrived.kinds.has_frame(Pfn((*named.1).into())));
    let Some((&slot, &target)) = wrong.next() else { return };
    let found = format_args!(
        "the level {} table at pfn {:#x} names pfn {target:#x} in slot {slot}, which is {}; {} such slots",
        table.level,
        pfn.0,
        name(arrived.kinds.get(Pfn(target.into()))),
        1 + wrong.count()
    );
    findings.add(table.offset + 8 * u64::from(slot), Rule::PteFrame, found);
}

fn check_vcpu(
    arrived: &Arrived,
    findings: &mut Findings<'_>,
    offset: u64,
    id: u32,
    basic: &Converted,
) {
    let is_data = |pfn: Pfn| arrived.kinds.get(pfn) == Some(WordKind::Data);
    let called = |pfn: Pfn| name(arrived.kinds.get(pfn));
    let root = Converted::root_level(arrived.width);
    let is_root = |pfn: Pfn| matches!(arrived.kinds.get(pfn), Some(WordKind::Table { level, .. }) if level == root);
    if id == 0 {
        let found =
            format_args!("start_info is pfn {:#x}, which is {}", basic.edx.0, called(basic.edx));
        findings.expect(is_data(basic.edx), offset, Rule::VcpuStartInfo, found);
    }
    let found = format_args!("vCPU {id} has a GDT of {} entries", basic.gdt_entries);
    findings.expect(basic.gdt_entries <= GDT_ENTRIES_MAX, offset, Rule::VcpuGdt, found);
    for &pfn in &basic.gdt_frames {
        let found =
            format_args!("vCPU {id} has a GDT in pfn {:#x}, which is {}", pfn.0, called(pfn));
        findings.expect(is_data(pfn), offset, Rule::VcpuGdt, found);
    }
    let (cr3, cr1) = (basic.cr3, basic.cr1);
    let found = format_args!("vCPU {id} has cr3 in pfn {:#x}, which is {}", cr3.0, called(cr3));
    findings.expect(is_root(cr3), offset, Rule::VcpuCr3, found);
    let user = Pfn(cr1 >> 12);
    let is_good = cr1 == 0 || cr1 & 0xfff == 1 && is_root(user);
    let found =
        format_args!("vCPU {id} has {cr1:#x} in control register 1; its pfn is {}", called(user));
    findings.expect(is_good, offset, Rule::VcpuCr1, found);
}
