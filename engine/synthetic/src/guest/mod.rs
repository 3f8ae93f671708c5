// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest: its state at the start, and what its kernel keeps while it runs.
//! Not here: what its programs do (`behaviour`), or how a step is carried out (`exec`).
//! Units: pfn and mfn as plain numbers; positions of leaves count from 0.
//! Threads: one owner.
//! Source: see the files.

mod blocks;
mod build;
mod claims;
mod kernel;
mod layout;
mod tables;

pub(crate) use build::{Shape, build};
pub(crate) use claims::Claimed;
pub(crate) use kernel::Guest;
pub use layout::P2mKind;
pub(crate) use layout::{Empty, Layout, NONE, cr3_of, mfn_of_cr3};
