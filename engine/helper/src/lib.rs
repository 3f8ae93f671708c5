// SPDX-License-Identifier: MIT OR Apache-2.0
//! The save helper that libxl starts in place of its own.
//! Not here: the save (`p2mtrack_migrate`), the stream (`p2mtrack_stream`).
//! Units: one call of libxl's.
//! Threads: see each file.
//! Source: `xen-migrate.md` 1; `docs/migrate.md`.
//!
//! ```text
//! Call --> hand_over: for the stock helper? --> stock, process: becomes it
//!   |                                      \--> observe: runs it as a child
//!   +--> save: Source, Save --> Libxl (toolstack), Progress --> Line: messages to libxl
//! ```

#![deny(unsafe_code)]

pub mod call;
pub mod guard;
pub mod hand_over;
pub mod libxl;
pub mod line;
pub mod message;
pub mod note;
pub mod observe;
pub mod options;
pub mod process;
pub mod progress;
pub mod save;
pub mod signals;
pub mod stock;
