// SPDX-License-Identifier: MIT OR Apache-2.0
//! p2mtrack-bench: the figures of `p2mtrack bench`, their scenarios, peers and floors.
//!
//! A figure is a ratio of jobs that ran in turn in one process on the same data ([`ab_run`]), with
//! the physical floor beside it: the bytes that must be read, over the read bandwidth that was
//! measured in the same A/B run. No figure is a time. Each figure is a file of [`figures`] with one
//! function `run`; [`catalog`] lists them. A timed job returns what it found, and each run is
//! checked: a scenario with a wrong result panics.
//!
//! Not here: output (the command line's `bench`), criterion (`benches/` at the top wraps the same
//! scenarios).
//! Units: leaves of 4 KiB; seconds only inside of ratios.
//! Threads: a pool of the requested size; each thread has the same leaves in every pass.
//! Source: `docs/decisions/0009`.

#![deny(unsafe_code)]

pub mod ab_run;
pub mod catalog;
pub mod diff;
pub mod eviction;
pub mod figure;
pub mod figures;
pub mod frames;
pub mod harness;
pub mod machine;
pub mod memory;
pub mod p2m;
pub mod peer;
pub mod plain;
pub mod plot;
pub mod pool;
pub mod read;
pub mod setup;
