// SPDX-License-Identifier: MIT OR Apache-2.0
//! Huge guests: up to 2^31 pfns, with a p2m that is really in memory and pages that are only numbers.
//! Not here: guests with contents, scenarios and faults (the rest of this crate).
//! Units: pfns and mfns as plain numbers, 64-bit guests only.
//! Threads: built and judged on rayon's pool.
//! Source: own; `docs/perf.md` has what they are modelled on.

pub mod pattern;
mod permutation;
mod runs;
pub mod shape;
mod superpage;
mod swaps;
mod tile;

pub use pattern::Pattern;
pub use shape::Shape;
pub use tile::TileFault;
