// SPDX-License-Identifier: MIT OR Apache-2.0
//! Criterion over the scenarios of `p2mtrack-bench`: `cargo bench -p p2mtrack-benches`.
//! Not here: the scenarios, and the figures with goals (`p2mtrack bench`): those are ratios,
//! criterion's are times.
//! Units: criterion's.
//! Threads: one.
//! Source: `docs/decisions/0009`.
