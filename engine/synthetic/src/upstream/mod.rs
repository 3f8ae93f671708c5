// SPDX-License-Identifier: MIT OR Apache-2.0
//! Upstream's algorithm on the same guests: the p2m mapped once and trusted, a moved generation
//! aborts, nothing is compared.
//! Not here: whether the result is right (`oracle`).
//! Units: passes over the pfns; the first one sends them all.
//! Threads: the caller's.
//! Source: libxc `xg_sr_save.c` and `xg_sr_save_x86_pv.c` as described in the project's notes; see
//! `docs/comparison.md`.

mod abort;
mod batch;
mod p2m;
mod passes;
mod passive;

pub use p2m::SendersP2m;
pub use passes::{migrate, migrate_in_full_rounds, migrate_with};
pub use passive::{Changes, migrate_passive};
