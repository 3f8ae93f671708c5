// SPDX-License-Identifier: MIT OR Apache-2.0
//! Saves a PV guest of a real Xen as a libxc stream, live or suspended.
//! Not here: the command line, files and sockets (`p2mtrack-cli`), the engine, the stream.
//! Units: pfns, pages of 4 KiB, time.
//! Threads: one owner; the engine's, and one that writes.
//! Source: `xen-migrate.md` 2; `docs/migrate.md` says what comes in which order.
//!
//! ```text
//! Source (domain, claim) --> Save: head, live rounds (Policy, Estimate), suspend, last round, Tail
//!                              |
//!                              +--> Outcome: numbers, and perhaps a Fault of a Kind
//! ```

#![forbid(unsafe_code)]

pub mod estimate;
pub mod fault;
pub mod kind;
pub mod log;
pub mod options;
pub mod outcome;
pub mod pages;
pub mod plan;
pub mod policy;
pub mod report;
pub mod save;
pub mod signals;
pub mod source;
pub mod tail;
mod times;
pub mod toolstack;
mod watched;
