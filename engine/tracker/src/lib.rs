// SPDX-License-Identifier: MIT OR Apache-2.0
//! p2mtrack: dirty tracking for the live migration of Xen PV guests that change their p2m while they run.

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
pub mod port;
pub mod report;
pub mod resend;
pub mod shadow;
pub mod shared_info;
pub mod sync;
pub mod table;
pub mod tracker;

mod batch;
mod compare;
mod evidence;
#[cfg(debug_assertions)]
mod invariant;
mod layout;
mod resolve;
mod sent;
mod shard;
mod view;
