// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures, a file each: `run` measures; the other public items are the scenario, for
//! benchmarks that measure by other means.
//! Not here: which of them were asked for (`catalog`).
//! Units: as each figure says.
//! Threads: the setup's pool, unless a figure says that it has one thread.
//! Source: names and goals are those of the project's issue on speed; `docs/json.md`.

pub mod affine;
pub mod density;
pub mod huge;
pub mod random;
pub mod scattered;
pub mod shadow_bytes;
pub mod stream;
pub mod table;
pub mod take;
