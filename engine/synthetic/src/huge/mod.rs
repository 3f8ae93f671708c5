// SPDX-License-Identifier: MIT OR Apache-2.0
//! Huge guests: up to 2^31 pfns, with a real p2m in memory and pages that are only numbers.
//! Not here: guests with contents, scenarios and faults (the rest of this crate).
//! Units: pfns and mfns as plain numbers, 64-bit guests only.
//! Threads: built and judged on rayon's pool.
//! Source: own; `docs/perf.md` has what they are modelled on.

mod deviations;
pub mod guest;
pub mod life;
mod log;
mod machine;
pub mod mapping;
pub mod oracle;
pub mod pattern;
mod permutation;
pub mod ports;
mod receiver;
pub mod run;
mod runs;
pub mod shape;
mod superpage;
mod swaps;
mod tile;
mod zone;

pub use guest::{BuildFault, Guest};
pub use life::{Deeds, Life};
pub use pattern::{PFNS_MAX, Pattern};
pub use receiver::Stamped;
pub use shape::Shape;
pub use tile::TileFault;
