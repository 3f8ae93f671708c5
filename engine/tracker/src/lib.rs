// SPDX-License-Identifier: MIT OR Apache-2.0
//! p2mtrack: dirty tracking for the live migration of Xen PV guests that change their p2m while they run.
//!
//! A guest's p2m (pfn -> mfn) is its own: it balloons, exchanges and maps frames, grows, and reshapes the p2m itself
//! while it is migrated. This crate says which pfns must be sent again, under which entry, and why; it decides what a
//! pfn without a frame means, and when a migration has to end with an error instead. It does no I/O, keeps no clock
//! and knows no hypervisor: its caller steps it and lends it the [`port`]s.
//!
//! ```text
//! log-dirty --take--> bitmap --+--> dirty pfns --------------------------------------> resend bitmap
//!                              +--> leaves --shards--> live leaf against shadow -----> resend bitmap (mask OR)
//!                              +--> upper frames --> walk --> re-pointed leaves --> shards
//! resend bitmap --take (debt)--> batches --> p2m, m2p, type --+--> transport --accepted--> shadow, debt paid
//!                                                             +--> deferred --> next round
//! ```
//!
//! A migration is a [`migration::Migration`]: `start`, `round` as often as wanted, `checkpoint` or `finish` once the
//! guest is suspended, `cancel` at any point. Who keeps the loop takes the same rounds in steps: `attach`, then
//! `begin`, `scan`, `take` and `answer` as long as there are batches, `end`. Who only wants to know what changes takes a
//! [`tracker::Tracker`] and calls `observe`.
//!
//! Units: frames of 4 KiB everywhere; pfns and mfns are [`frame::Pfn`] and [`frame::Mfn`] and can't be mixed.
//! Unsafe code is confined to [`guest`] and to the vector kernels of [`diff`], which read live guest memory.

#![deny(unsafe_code)]

pub mod bitmap;
pub mod cause;
pub mod config;
pub mod diff;
pub mod doubt;
pub mod error;
pub mod frame;
pub mod guest;
pub mod leaf;
pub mod migration;
mod offers;
mod pfn_set;
pub mod port;
mod prefetch;
pub mod report;
pub mod resend;
pub mod shadow;
pub mod shared_info;
pub mod sync;
pub mod table;
pub mod tracker;

mod balance;
mod batch;
mod compare;
mod evidence;
mod form;
#[cfg(debug_assertions)]
mod invariant;
mod layout;
mod log;
mod log_room;
mod owners;
mod resolve;
mod round;
mod sent;
mod shard;
mod sweep;
mod view;
