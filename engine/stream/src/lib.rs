// SPDX-License-Identifier: MIT OR Apache-2.0
//! The libxc migration stream of a PV guest: read, checked and written, in every container that it
//! comes in.
//! Not here: hypercalls, or what is owed (`p2mtrack`).
//! Units: bytes of the stream; pfns and PTEs as in `p2mtrack::frame`.
//! Threads: see each file.
//! Source: Xen `docs/specs/libxc-migration-stream.pandoc`, `libxl-migration-stream.pandoc`.

#![deny(unsafe_code)]

pub mod cancel;
pub mod check;
pub mod container;
pub mod fd;
pub mod frame_list;
pub mod header;
mod line;
pub mod paced;
mod page_record;
pub mod pages;
pub mod populated;
pub mod reader;
pub mod record;
pub mod sink;
pub mod transport;
pub mod vcpu;
mod verify;
pub mod word;
pub mod writer;
