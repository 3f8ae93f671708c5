// SPDX-License-Identifier: MIT OR Apache-2.0
//! The forms of the leaves that a shadow holds, and the memory that they take.
//! Not here: the forms themselves (`encode`).
//! Units: positions; bytes.
//! Threads: plain values.
//! Source: `docs/decisions/0012-forms-of-the-shadow.md`.

/// Counts of a shadow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowBytes {
    /// Positions; the sum of all fields below but `bytes`.
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
    /// All allocated memory: the index, blocks used or free, and each shared copy once.
    pub bytes: u64,
}
