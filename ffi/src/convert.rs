// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine's values as the header's.
//! Not here: the other direction (`config`, `answer`).
//! Units: those of the header.
//! Threads: plain values.
//! Source: `include/p2mtrack.h`.

use p2mtrack::cause::CauseSet;
use p2mtrack::port::{Deferral, Page};
use p2mtrack::report::{RoundReport, Stage};
use p2mtrack::table::{TableCause, TableFault};

use crate::abi;

/// Kernels by number and name.
pub(crate) const KERNELS: [(u32, &str); 4] = [
    (abi::KERNEL_SCALAR, "scalar"),
    (abi::KERNEL_WIDE, "wide"),
    (abi::KERNEL_AVX2, "avx2"),
    (abi::KERNEL_AVX512, "avx512"),
];

pub(crate) fn page(page: &Page, causes: CauseSet) -> abi::Page {
    abi::Page {
        pfn: page.pfn.0,
        mfn: page.mfn.0,
        entry: page.entry.0,
        kind: page.kind.pfinfo(),
        causes: u32::from(causes.bits()),
    }
}

pub(crate) const fn deferral(reason: Deferral) -> u32 {
    match reason {
        Deferral::M2pMismatch => abi::DEFER_M2P,
        Deferral::NotOwned => abi::DEFER_NOT_OWNED,
        Deferral::LeafUnmapped => abi::DEFER_LEAF,
        Deferral::QueryFailed => abi::DEFER_QUERY,
        Deferral::MapFailed(_) => abi::DEFER_MAP,
        Deferral::Table(_) => abi::DEFER_TABLE,
        // A later kind, too, is reported as no answer: the host can't act on it.
        Deferral::Unacknowledged | _ => abi::DEFER_NO_ANSWER,
    }
}

pub(crate) fn table_fault(fault: &TableFault) -> abi::TableFault {
    let cause = match fault.cause {
        TableCause::Foreign => abi::PTE_FOREIGN,
        TableCause::Superpage => abi::PTE_SUPERPAGE,
        TableCause::Unresolved | TableCause::Unsaid | _ => abi::PTE_UNRESOLVED,
    };
    let (level, slot) = (u32::from(fault.level), u32::from(fault.slot));
    let size = size_of::<abi::TableFault>() as u32;
    abi::TableFault { size, cause, mfn: fault.mfn.0, level, slot }
}

const fn stage(stage: Stage) -> u32 {
    match stage {
        Stage::Live => abi::LIVE,
        Stage::Checkpoint => abi::CHECKPOINT,
        Stage::Final => abi::FINAL,
    }
}

pub(crate) fn report(report: &RoundReport) -> abi::Report {
    let RoundReport { leaves, entries, structure, pages, settled, .. } = report;
    let kernel = KERNELS.iter().find(|(_, name)| *name == report.kernel);
    abi::Report {
        size: size_of::<abi::Report>() as u32,
        stage: stage(report.stage),
        round: report.round,
        pfn_count: report.pfn_count,
        threads: report.threads as u32,
        kernel: kernel.map_or(abi::KERNEL_AUTO, |(number, _)| *number),
        log_dirty_pfns: report.log_dirty_pfns,
        leaves_tracked: leaves.tracked,
        leaves_distinct: leaves.distinct,
        leaves_dirty: leaves.dirty,
        leaves_fresh: leaves.fresh,
        leaves_dropped: leaves.dropped,
        leaves_compared: leaves.compared,
        leaves_unchanged: leaves.unchanged,
        entries_mapped: entries.mapped,
        entries_unmapped: entries.unmapped,
        entries_remapped: entries.remapped,
        entries_other: entries.other,
        entries_beyond_log_dirty: entries.beyond_log_dirty,
        structure_generation: structure.generation,
        structure_roots: structure.roots,
        structure_pfn_count: structure.pfn_count,
        structure_dirty: structure.dirty,
        structure_entries: structure.entries,
        structure_moved: structure.moved,
        structure_walks: structure.walks,
        structure_retries: structure.retries,
        pages_owed: pages.owed,
        pages_accepted: pages.accepted,
        pages_tables: pages.tables,
        pages_unpopulated: pages.unpopulated,
        pages_deferred_m2p: pages.deferred_m2p,
        pages_deferred_frame: pages.deferred_frame,
        pages_deferred_table: pages.deferred_table,
        pages_deferred_uncertain: pages.deferred_uncertain,
        pages_moved: pages.moved,
        pages_returned: pages.returned,
        pages_left: pages.left,
        settled_gone: settled.gone,
        settled_foreign: settled.foreign,
        settled_m2p_stale: settled.m2p_stale,
        settled_aliases: settled.aliases,
        settled_cleared_ptes: settled.cleared_ptes,
        settled_unlogged: settled.unlogged,
        uncertain: report.uncertain.iter().sum(),
        p2m_unreadable: i32::from(report.p2m_unreadable),
        shrinking: report.shrinking.map_or(-1, i32::from),
        dirty_rate: report.dirty_rate.unwrap_or(f64::NAN),
        unaccounted_frames: report.unaccounted_frames.unwrap_or(i64::MIN),
    }
}
