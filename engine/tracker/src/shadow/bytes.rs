// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a shadow holds, and what that costs.
//! Not here: the forms themselves (`encode`).
//! Units: positions; bytes.
//! Threads: plain values.
//! Source: `docs/decisions/0012-forms-of-the-shadow.md`.

/// What a shadow holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowBytes {
    /// Positions; the sum of all that follow but `bytes`.
    pub leaves: u64,
    /// Positions without any valid entry.
    pub hole: u64,
    /// Positions that are one run.
    pub affine: u64,
    /// Positions that are one run with patches.
    pub patched: u64,
    /// Positions that are several runs, with patches or without.
    pub segments: u64,
    /// Positions held in half their size.
    pub packed: u64,
    /// Positions held as read.
    pub raw: u64,
    /// Positions held as read in a copy that others share.
    pub shared: u64,
    /// All that the allocator gave: index, blocks used or not, and each shared copy once.
    pub bytes: u64,
}
