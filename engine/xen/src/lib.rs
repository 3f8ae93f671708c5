// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracker's ports on a real Xen: a PV guest of the host in whose control domain this program
//! runs.
//!
//! No library of Xen's is linked or loaded: hypercalls and foreign mappings go through Linux's
//! `/dev/xen/privcmd`, so that one binary runs beside any toolstack (`docs/decisions/0015`). The
//! hypervisor accepts one version of the tools' interface (domctl) only, which is found by trying
//! ([`Xen::open`]).
//!
//! ```text
//! Xen::open --> Domain::open --> XenGuest::open: log-dirty, p2m, m2p, types, unlogged writers
//!                  |
//!                  +--> XenPages: pages to be sent, a batch at a time
//!                  +--> XenState: what a guest is besides its memory
//!                  +--> Claim: Lock (one tracker a domain), Guard (ends what a dead tracker began)
//!                  +--> Suspender: suspend and resume through xenstore
//! ```
//!
//! Units: frames of 4 KiB. Runs on hosts of 64 bits with a control domain under Linux; guests of
//! both widths. Unsafe code is confined to the files that talk to the kernel (`privcmd`, `buffer`,
//! `mapping`, `unmapping`) and to those that make hypercalls (`call`, `domctl`, `memory`,
//! `grant_table`, `host`): `docs/safety.md`.

#![deny(unsafe_code)]

mod blocks;
mod buffer;
mod call;
mod claim;
mod domain;
mod domctl;
mod error;
mod frame_types;
mod grant_table;
mod guard;
mod guest;
mod host;
mod lock;
mod log_dirty;
mod m2p;
mod mapping;
mod memory;
mod p2m_source;
mod pages;
mod privcmd;
mod start_info;
mod state;
mod store;
mod suspend;
mod unlogged;
mod unmapping;
mod vcpu;
mod version;
mod xenstore;

pub use claim::{Claim, ClaimError, Replaced};
pub use domain::{Domain, DomainInfo, Uuid};
pub use error::XenError;
pub use frame_types::XenFrameTypes;
pub use guard::{Dismissed, Guard, GuardError, Inherited, guard_command, stand_guard};
pub use guest::XenGuest;
pub use host::{Host, PhysicalInfo};
pub use lock::{Left, Lock, LockError};
pub use log_dirty::{ENABLE, IfOn, XenLogDirty};
pub use m2p::XenM2p;
pub use p2m_source::{CHECK, XenP2m};
pub use pages::{PageBatch, XenPages};
pub use state::{CpuPolicy, TscInfo, VcpuState, XenState};
pub use store::DomainStore;
pub use suspend::{LATE, SuspendError, Suspender};
pub use unlogged::XenUnlogged;
pub use version::{DomctlVersion, KNOWN_DOMCTLS, Unknown, Xen};
