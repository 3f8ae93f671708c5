// SPDX-License-Identifier: MIT OR Apache-2.0
//! Allocations of a scenario in its steady state.
//! Not here: bytes.
//! Units: calls of the allocator for one unit of work.
//! Threads: this one's are counted.
//! Source: `allocation-counter`, which is this program's allocator.

use p2mtrack::diff::Kernel;

use crate::scenario::Scenario;

/// Turns that are counted.
const TURNS: u32 = 200;

/// Counts.
pub(crate) fn of(scenario: Scenario, kernel: Kernel) -> f64 {
    let mut stage = scenario.prepare(kernel);
    stage.work(TURNS, 0); // whatever grows has grown
    let counted = allocation_counter::measure(|| stage.work(TURNS, 0));
    counted.count_total as f64 / (u64::from(TURNS) * scenario.units()) as f64
}
