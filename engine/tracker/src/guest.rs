// SPDX-License-Identifier: MIT OR Apache-2.0
//! Live guest memory: the one door to words that another domain may write at any moment.
//! Not here: what the words mean. Nothing in this engine holds a `&u64` into guest memory.
//! Units: one frame of 4,096 bytes, 8-byte aligned, little endian.
//! Threads: any number of readers; the writer is outside of the program.
//! Source: rules of rust-vmm `volatile_memory`: no references into shared memory, every access volatile.

use std::marker::PhantomData;
use std::sync::atomic::AtomicU64;

use crate::frame::{Entry, Width};
use crate::leaf::{FRAME_WORDS, Leaf};

/// A mapped frame of live guest memory.
#[derive(Clone, Copy, Debug)]
pub struct GuestLeaf<'map> {
    words: *const u64,
    map: PhantomData<&'map AtomicU64>,
}

impl<'map> GuestLeaf<'map> {
    /// Takes a foreign mapping of one frame.
    ///
    /// # Safety
    /// - `words` is 8-byte aligned and readable for 4,096 bytes during `'map`.
    /// - No Rust reference to these bytes, other than to atomics, exists during `'map`.
    #[must_use]
    pub const unsafe fn from_ptr(words: *const u64) -> Self {
        Self { words, map: PhantomData }
    }

    /// Takes a frame of this program's own memory that stands for a guest's (simulation, replay).
    #[must_use]
    pub const fn from_atomics(words: &'map [AtomicU64; FRAME_WORDS]) -> Self {
        Self { words: words.as_ptr().cast(), map: PhantomData }
    }

    fn word(self, index: usize) -> u64 {
        assert!(index < FRAME_WORDS, "a frame has 512 words");
        // SAFETY: the constructor's contract gives 512 aligned, readable words during 'map, and the
        // index was checked above.
        unsafe { self.words.wrapping_add(index).read_volatile() }
    }

    /// Copies the frame, each word read once.
    pub fn fetch(self, into: &mut Leaf) {
        for (index, word) in into.words.iter_mut().enumerate() {
            *word = self.word(index);
        }
    }

    /// Reads one entry once.
    ///
    /// # Panics
    /// If `slot` is not below [`Width::entries`].
    #[must_use]
    pub fn entry(self, width: Width, slot: usize) -> Entry {
        match width {
            Width::W64 => Entry(self.word(slot)),
            Width::W32 => Entry::widen((self.word(slot / 2) >> (32 * (slot % 2))) as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn reads_what_the_guest_writes() {
        let live: [AtomicU64; FRAME_WORDS] = std::array::from_fn(|i| AtomicU64::new(i as u64));
        let guest = GuestLeaf::from_atomics(&live);
        let mut copy = Leaf::default();
        guest.fetch(&mut copy);
        assert_eq!(copy.words[511], 511);
        live[2].store(0x8000_0001_ffff_ffff, Ordering::Relaxed); // ORDER: one thread
        assert_eq!(guest.entry(Width::W64, 2), Entry(0x8000_0001_ffff_ffff));
        assert_eq!(guest.entry(Width::W32, 4), Entry::INVALID);
        assert_eq!(guest.entry(Width::W32, 5), Entry(0x8000_0001));
        assert_eq!(copy.words[2], 2);
    }
}
