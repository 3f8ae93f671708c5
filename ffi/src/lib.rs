// SPDX-License-Identifier: MIT OR Apache-2.0
//! libp2mtrack: the engine as a C library. What a host sees is `include/p2mtrack.h`; its
//! conventions are `docs/abi.md`.
//!
//! ```text
//! functions --boundary--> Handle { Tracker, HostP2m, ... } --ports--> host --callbacks--> host's C
//! ```
//!
//! [`functions`] has the exported functions, one for each of the header, and nothing else.
//! `boundary` is what all of them go through: pointers, processes, threads, panics, the last error.
//! [`abi`] mirrors the header's structures and numbers; a test compares the two. `host` makes ports
//! of callbacks.
//!
//! Units: those of the header. Unsafe code is confined to `boundary`, [`functions`], `sized`,
//! `host` and `origin`.

#![deny(unsafe_code)]

pub mod abi;
mod answer;
mod boundary;
mod config;
mod convert;
mod error;
pub mod functions;
mod handle;
mod host;
mod origin;
mod quiet;
mod sized;
