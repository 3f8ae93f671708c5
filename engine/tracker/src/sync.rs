// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only source of atomics that several threads modify: std's, or loom's under `cfg(loom)`.
//! Not here: any protocol; each user states its own, with an `ORDER:` comment at every `Ordering`.
//! Units: words of 64 bits.
//! Threads: any number may share the words.
//! Source: loom's own advice: the code that ships is the code that the model checker explores.

#[cfg(loom)]
pub(crate) mod late;

#[cfg(loom)]
pub(crate) use late::AtomicU64;
#[cfg(loom)]
pub(crate) use late::{add_bits, clear_bits, keep_bits, set_bits};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::Ordering;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

/// Sets bits. Does not return the old value, so that the models may let it happen late.
#[cfg(not(loom))]
pub(crate) fn set_bits(word: &AtomicU64, bits: u64, order: Ordering) {
    word.fetch_or(bits, order);
}

/// Clears bits, as [`set_bits`].
#[cfg(not(loom))]
pub(crate) fn clear_bits(word: &AtomicU64, bits: u64, order: Ordering) {
    word.fetch_and(!bits, order);
}

/// Sets bits of a word that no other thread sees.
#[cfg(not(loom))]
pub(crate) fn add_bits(word: &mut AtomicU64, bits: u64) {
    *word.get_mut() |= bits;
}

/// Clears all other bits of a word that no other thread sees.
#[cfg(not(loom))]
pub(crate) fn keep_bits(word: &mut AtomicU64, bits: u64) {
    *word.get_mut() &= bits;
}
