// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of the engine's large bitmaps, as results have it.
//! Not here: where they are (`Tracker::mapped_at`), how the system is asked (`p2mtrack_bench`).
//! Units: bytes.
//! Threads: plain values.
//! Source: keys are an interface: see `docs/json.md`.

use std::ops::Range;

use p2mtrack_bench::memory::resident_of;
use serde::Serialize;

/// What the bitmaps take; `None` if there are none.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Bitmaps {
    pub(crate) array_bytes: Option<u64>,
    pub(crate) array_resident_bytes: Option<u64>,
}

impl Bitmaps {
    /// Of the bitmaps at these addresses.
    pub(crate) fn at(addresses: &[Range<usize>]) -> Self {
        let bytes = addresses.iter().map(|at| at.len() as u64).sum();
        Self { array_bytes: Some(bytes), array_resident_bytes: resident_of(addresses) }
    }
}
