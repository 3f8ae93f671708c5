// SPDX-License-Identifier: MIT OR Apache-2.0
//! p2mtrack: dirty tracking for the live migration of Xen PV guests that change their p2m while they run.

pub mod bitmap;
pub mod cause;
pub mod diff;
pub mod frame;
pub mod guest;
pub mod leaf;
pub mod port;
pub mod resend;
pub mod shadow;
pub mod sync;
pub mod table;
