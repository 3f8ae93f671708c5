// SPDX-License-Identifier: MIT OR Apache-2.0
//! The header's structures and numbers, as Rust has them.
//! Not here: what they mean; `include/p2mtrack.h` documents each field.
//! Units: those of the header.
//! Threads: plain values; a host's pointers are used only in its calls.
//! Source: `include/p2mtrack.h`; `tests/header.rs` compiles it and compares sizes, offsets and
//! numbers.

#![expect(missing_docs, reason = "the header documents it, in one place")]

use std::ffi::{c_char, c_int, c_void};

pub const VERSION: u32 = 1 << 8;

pub const OK: c_int = 0;
pub const E_HOST: c_int = -5;
pub const E_SIZE: c_int = -7;
pub const E_FORKED: c_int = -10;
pub const E_THREADS: c_int = -11;
pub const E_BUSY: c_int = -16;
pub const E_ARGUMENT: c_int = -22;
pub const E_ENVIRONMENT: c_int = -38;
pub const E_UNCERTAIN: c_int = -62;
pub const E_ORDER: c_int = -71;
pub const E_PAGE: c_int = -72;
pub const E_ROOTS: c_int = -73;
pub const E_STRUCTURE: c_int = -74;
pub const E_P2M_SIZE: c_int = -75;
pub const E_TOO_MANY_DEFERRED: c_int = -76;
pub const E_ENTRY: c_int = -77;
pub const E_TABLE: c_int = -78;
pub const E_WIDTH: c_int = -79;
pub const E_UNACCOUNTED: c_int = -80;
pub const E_PANIC: c_int = -131;

pub const NOT_OWNED: c_int = -4096;
pub const NONE: u64 = u64::MAX;

pub const WIDTH_32: u32 = 32;
pub const WIDTH_64: u32 = 64;

pub const KERNEL_AUTO: u32 = 0;
pub const KERNEL_SCALAR: u32 = 1;
pub const KERNEL_WIDE: u32 = 2;
pub const KERNEL_AVX2: u32 = 3;
pub const KERNEL_AVX512: u32 = 4;

pub const VERIFY_DIRTY: u32 = 0;
pub const VERIFY_FULL: u32 = 1;
pub const ALIAS_REFUSE: u32 = 0;
pub const ALIAS_COPY: u32 = 1;
pub const FOREIGN_PTE_REFUSE: u32 = 0;
pub const FOREIGN_PTE_CLEAR: u32 = 1;
pub const UNACCOUNTED_REFUSE: u32 = 0;
pub const UNACCOUNTED_REPORT: u32 = 1;

pub const FULL: u32 = 0;
pub const PASSIVE: u32 = 1;
pub const HOST_READS_P2M: u32 = 2;

pub const LIVE: u32 = 0;
pub const CHECKPOINT: u32 = 1;
pub const FINAL: u32 = 2;

pub const ACCEPTED: u32 = 0;
pub const DEFERRED: u32 = 1;
pub const FAILED: u32 = 2;

pub const DEFER_M2P: u32 = 1;
pub const DEFER_NOT_OWNED: u32 = 2;
pub const DEFER_LEAF: u32 = 3;
pub const DEFER_QUERY: u32 = 4;
pub const DEFER_MAP: u32 = 5;
pub const DEFER_TABLE: u32 = 6;
pub const DEFER_NO_ANSWER: u32 = 7;

pub const PTE_FOREIGN: u32 = 1;
pub const PTE_UNRESOLVED: u32 = 2;
pub const PTE_SUPERPAGE: u32 = 3;

pub const BATCH_MAX: usize = 1024;
pub const DO_REMAP: u32 = 1 << 0;
pub const DO_FRAME_LIST: u32 = 1 << 1;

pub const TRANSFER_CAME: u64 = 1 << 63;

pub const LOG_ERROR: u32 = 1;
pub const LOG_WARNING: u32 = 2;
pub const LOG_INFO: u32 = 3;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Roots {
    pub size: u32,
    pub zero: u32,
    pub pfn_count: u64,
    pub frame_list_list: u64,
    pub p2m_cr3: u64,
    pub p2m_vaddr: u64,
    pub generation: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DomainFramesCall {
    pub frames: *mut u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RootsCall {
    pub roots: *mut Roots,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ReadCall {
    pub mfn: u64,
    pub words: *mut u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MapCall {
    pub mfns: *const u64,
    pub count: usize,
    pub addresses: *mut *const c_void,
    pub errors: *mut i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UnmapCall {
    pub addresses: *const *const c_void,
    pub count: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TypesCall {
    pub mfns: *const u64,
    pub count: usize,
    pub types: *mut u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UnloggedCall {
    pub pfns: *mut u64,
    pub capacity: usize,
    pub count: *mut usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AcceptsTransferCall {
    pub accepts: *mut i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TransfersCall {
    pub names: *mut u64,
    pub capacity: usize,
    pub count: *mut usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LogCall {
    pub level: u32,
    pub text: *const c_char,
}

pub type Callback<C> = Option<unsafe extern "C" fn(user: *mut c_void, call: *const C) -> c_int>;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub size: u32,
    pub zero: u32,
    pub user: *mut c_void,
    pub domain_frames: Callback<DomainFramesCall>,
    pub roots: Callback<RootsCall>,
    pub read: Callback<ReadCall>,
    pub map: Callback<MapCall>,
    pub unmap: Callback<UnmapCall>,
    pub types: Callback<TypesCall>,
    pub unlogged: Callback<UnloggedCall>,
    pub accepts_transfer: Callback<AcceptsTransferCall>,
    pub log: Callback<LogCall>,
    pub m2p: *const u64,
    pub m2p_frames: u64,
    pub compat_m2p_mfn: u64,
    pub transfers: Callback<TransfersCall>,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    pub size: u32,
    pub width: u32,
    pub mode: u32,
    pub threads: u32,
    pub kernel: u32,
    pub verify: u32,
    pub alias: u32,
    pub foreign_pte: u32,
    pub uncertain_rounds_max: u32,
    pub unaccounted: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LogBuffer {
    pub words: *mut u64,
    pub pfns: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub pfn: u64,
    pub mfn: u64,
    pub entry: u64,
    pub kind: u32,
    pub causes: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PageAnswer {
    pub verdict: u32,
    pub reason: u32,
    pub errnum: i32,
    pub zero: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableFault {
    pub size: u32,
    pub cause: u32,
    pub mfn: u64,
    pub level: u32,
    pub slot: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClearedPte {
    pub pfn: u64,
    pub mfn: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub size: u32,
    pub stage: u32,
    pub round: u64,
    pub pfn_count: u64,
    pub threads: u32,
    pub kernel: u32,
    pub log_dirty_pfns: u64,
    pub leaves_tracked: u64,
    pub leaves_distinct: u64,
    pub leaves_dirty: u64,
    pub leaves_fresh: u64,
    pub leaves_dropped: u64,
    pub leaves_compared: u64,
    pub leaves_unchanged: u64,
    pub entries_mapped: u64,
    pub entries_unmapped: u64,
    pub entries_remapped: u64,
    pub entries_other: u64,
    pub entries_beyond_log_dirty: u64,
    pub structure_generation: u64,
    pub structure_roots: u64,
    pub structure_pfn_count: u64,
    pub structure_dirty: u64,
    pub structure_entries: u64,
    pub structure_moved: u64,
    pub structure_walks: u64,
    pub structure_retries: u64,
    pub pages_owed: u64,
    pub pages_accepted: u64,
    pub pages_tables: u64,
    pub pages_unpopulated: u64,
    pub pages_deferred_m2p: u64,
    pub pages_deferred_frame: u64,
    pub pages_deferred_table: u64,
    pub pages_deferred_uncertain: u64,
    pub pages_moved: u64,
    pub pages_returned: u64,
    pub pages_left: u64,
    pub settled_gone: u64,
    pub settled_foreign: u64,
    pub settled_m2p_stale: u64,
    pub settled_aliases: u64,
    pub settled_cleared_ptes: u64,
    pub settled_unlogged: u64,
    pub uncertain: u64,
    pub p2m_unreadable: i32,
    pub shrinking: i32,
    pub dirty_rate: f64,
    pub unaccounted_frames: i64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub size: u32,
    pub zero: u32,
    pub rounds: u64,
    pub rounds_given_up: u64,
    pub pages_accepted: u64,
    pub pages_deferred: u64,
    pub entries_changed: u64,
    pub entries_beyond_log_dirty: u64,
    pub owed: u64,
    pub shadow_bytes: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PfnState {
    pub size: u32,
    pub causes: u32,
    pub defer: u32,
    pub zero: u32,
    pub entry: u64,
}

pub const ERROR_TEXT_BYTES: usize = 488;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Error {
    pub size: u32,
    pub code: i32,
    pub errnum: i32,
    pub level: i32,
    pub pfn: u64,
    pub mfn: u64,
    pub text: [c_char; ERROR_TEXT_BYTES],
}
