// SPDX-License-Identifier: MIT OR Apache-2.0
//! Allocations of a scenario in its steady state.
//! Not here: bytes.
//! Units: calls of the allocator for one unit of work.
//! Threads: only this thread's are counted.
//! Source: `allocation-counter`, this program's allocator.

use p2mtrack::diff::Kernel;

use crate::scenario::Scenario;

/// Turns that are counted.
const TURNS: u32 = 200;

/// Counts allocations for one unit of work.
pub(crate) fn of(scenario: Scenario, kernel: Kernel) -> f64 {
    let mut stage = scenario.prepare(kernel);
    stage.work(TURNS, 0); // buffers that grow have grown
    let counted = allocation_counter::measure(|| stage.work(TURNS, 0));
    counted.count_total as f64 / (u64::from(TURNS) * scenario.units()) as f64
}
