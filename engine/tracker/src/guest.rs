// SPDX-License-Identifier: MIT OR Apache-2.0
//! Live guest memory: the only access to words that another domain may write at any time.
//! Not here: what the words mean. Nothing in this engine holds a `&u64` into guest memory.
//! Units: one frame of 4,096 bytes, 8-byte aligned, little endian.
//! Threads: any number of readers; the writer is outside the program, or a thread that stores
//! atomically.
//! Source: `core::sync::atomic`, "Atomic accesses to read-only memory"; `docs/decisions/0008`.

#![expect(unsafe_code, reason = "foreign mappings are raw pointers; docs/safety.md")]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("live words of 64 bits must be read in one access: hosts of 64 bits only");

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::frame::{Entry, Width};
use crate::leaf::{FRAME_WORDS, Leaf};
use crate::prefetch::prefetch;

/// A mapped frame of live guest memory.
#[derive(Clone, Copy, Debug)]
pub struct GuestLeaf<'map> {
    words: *const AtomicU64,
    map: PhantomData<&'map AtomicU64>,
}

impl<'map> GuestLeaf<'map> {
    /// Takes a foreign mapping of one frame.
    ///
    /// # Safety
    /// - `words` is 8-byte aligned and readable for 4,096 bytes during `'map`.
    /// - No Rust reference to these bytes, other than to atomics, exists during `'map`, and this
    ///   program writes them only by atomics of 64 bits, if at all. Another domain may write them
    ///   in any way.
    #[must_use]
    pub const unsafe fn from_ptr(words: *const u64) -> Self {
        Self { words: words.cast(), map: PhantomData }
    }

    /// Takes a frame of this program's own memory that stands for a guest's (simulation, replay).
    #[must_use]
    pub const fn from_atomics(words: &'map [AtomicU64; FRAME_WORDS]) -> Self {
        Self { words: words.as_ptr(), map: PhantomData }
    }

    /// The frame's address: readable for 4,096 bytes during `'map`, never through a reference.
    #[must_use]
    pub const fn as_ptr(self) -> *const u8 {
        self.words.cast()
    }

    #[inline]
    fn word(self, index: usize) -> u64 {
        assert!(index < FRAME_WORDS, "a frame has 512 words");
        // SAFETY: the constructor's contract gives 512 aligned, readable words during 'map, and the
        // index was checked above. Others may write an atomic while it is borrowed.
        let word = unsafe { &*self.words.wrapping_add(index) };
        // ORDER: Relaxed: each word is used by itself, and the engine does not rely on what the
        // guest wrote before it; the port's call orders the clearing of the log before this read
        // (law 1). It is one load that is neither split nor repeated, and the one order that
        // read-only memory allows.
        word.load(Ordering::Relaxed)
    }

    /// Prefetches the frame's first lines of 64 bytes.
    pub(crate) fn prefetch(self, lines: usize) {
        (0..lines).for_each(|line| prefetch(self.words.wrapping_add(8 * line)));
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
    #[inline]
    pub fn entry(self, width: Width, slot: usize) -> Entry {
        match width {
            Width::W64 => Entry(self.word(slot)),
            Width::W32 => Entry::widen((self.word(slot / 2) >> (32 * (slot % 2))) as u32),
        }
    }
}

/// What is prefetched while a leaf is compared. A line is prefetched early enough only if the page
/// tables of its leaf were walked before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead<'map> {
    /// The leaf after the next one: all of its lines are prefetched.
    pub lines: Option<GuestLeaf<'map>>,
    /// The leaf after that: one line is prefetched, so that its page tables are walked.
    pub page: Option<GuestLeaf<'map>>,
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

    #[test]
    #[should_panic(expected = "a frame has 512 words")]
    fn a_word_past_the_frame_is_not_read() {
        let live: [AtomicU64; FRAME_WORDS] = std::array::from_fn(|_| AtomicU64::new(0));
        let _ = GuestLeaf::from_atomics(&live).entry(Width::W32, 1024);
    }

    /// A word is written while it is read: the reader finds the writer's values, in their order.
    /// Miri and ThreadSanitizer report a read that is not atomic as a data race.
    #[test]
    fn reads_beside_a_writer() {
        const TURNS: u64 = if cfg!(miri) { 20 } else { 20_000 };
        let live: [AtomicU64; FRAME_WORDS] = std::array::from_fn(|_| AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 1..=TURNS {
                    live[7].store(turn << 32 | turn, Ordering::Relaxed); // ORDER: a word by itself
                }
            });
            let (guest, mut last, mut copy) = (GuestLeaf::from_atomics(&live), 0, Leaf::default());
            for _ in 0..TURNS {
                guest.fetch(&mut copy);
                let seen = copy.words[7];
                assert!(seen >> 32 == seen & 0xffff_ffff && seen >= last, "{seen:#x} is torn");
                last = seen;
            }
        });
    }
}
