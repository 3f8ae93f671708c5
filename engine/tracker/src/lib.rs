// SPDX-License-Identifier: MIT OR Apache-2.0
//! p2mtrack: dirty tracking for the live migration of Xen PV guests that change their p2m while
//! they run.
//!
//! A guest owns its p2m (pfn -> mfn): it balloons, exchanges and maps frames, grows, and reshapes
//! the p2m itself while it is migrated. This crate says which pfns must be sent again, under which
//! entry, and why; it decides what a pfn without a frame means, and when a migration has to end
//! with an error instead. It does no I/O, has no clock and knows no hypervisor: its caller steps it
//! and lends it the [`port`]s.
//!
//! The stages of a round, from top to bottom; `tracker.rs` only calls them in this order:
//!
//! ```text
//! intake/       roots, transfer offers, log-dirty: pfns and p2m frames that were written
//!    |                 |
//!    |          structure/   a walk under the seqlock: leaves that are new or moved       p2m/
//!    |                 |
//!    |          compare/     live leaves against the shadow: entries that differ          diff/
//!    |                 |
//! ledger.rs     what is owed, and why: in the bitmap, in flight, postponed, deferred     resend/
//!    |
//! resolve.rs    p2m, m2p and type of an owed pfn: sent, without a frame, or deferred
//!    |
//! send/         a batch in flight, its page tables, its answers; frames that moved     table.rs
//!    |
//! destination/  what the destination has: the shadow, tables, pfns gone                 shadow/
//!    |
//! settle.rs     what must hold before a suspended round is settled
//! ```
//!
//! A caller steps [`tracker::Tracker`]: `begin`, `scan`, `take` and `answer` as long as there are
//! batches, `end`. [`migration::Migration`] makes the same steps with the log-dirty and transport
//! ports that it is lent: `start`, `round` as often as wanted, `checkpoint` or `finish` once the
//! guest is suspended, `cancel` at any point. [`monitor::Monitor`] sends nothing: it observes what
//! changes.
//!
//! Units: frames of 4 KiB everywhere; pfns and mfns are [`frame::Pfn`] and [`frame::Mfn`] and can't
//! be mixed. Unsafe code is confined to [`guest`] and the vector kernels of [`diff`], which read
//! live guest memory, and to large arrays.

#![deny(unsafe_code)]

pub mod bitmap;
pub mod cause;
pub mod config;
pub mod diff;
pub mod error;
pub mod frame;
pub mod guest;
pub mod leaf;
pub mod migration;
pub mod monitor;
pub mod port;
pub mod report;
pub mod resend;
pub mod shadow;
pub mod shared_info;
pub mod table;
pub mod tracker;
pub mod uncertainty;

pub use cause::{Cause, CauseSet};
pub use config::Config;
pub use error::Error;
pub use frame::{Entry, FrameType, Mfn, Pfn, Width};
pub use migration::Migration;
pub use monitor::Monitor;
pub use port::{Guest, Ports};
pub use report::{RoundReport, Stage};
pub use tracker::Tracker;
pub use uncertainty::Uncertainty;

mod array;
mod compare;
mod destination;
mod form;
mod intake;
mod ledger;
mod log_buffer;
mod log_source;
mod named_pfns;
mod p2m;
mod pfn_set;
mod prefetch;
mod resolve;
mod round;
mod send;
mod settle;
mod shard;
mod structure;
mod sync;
mod uncertain;
