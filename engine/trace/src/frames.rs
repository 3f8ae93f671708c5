// SPDX-License-Identifier: MIT OR Apache-2.0
//! Live leaf frames of a replay: they stand for the guest's memory, and are rewritten in place.
//! Not here: when they are written (`replay`).
//! Units: one frame of 4 KiB, guest words.
//! Threads: one writer between rounds; readers may hold a frame for any time.
//! Source: own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use p2mtrack::frame::Width;
use p2mtrack::leaf::FRAME_WORDS;

use crate::round::{NONE, Round};

/// A frame of memory. Aligned for any kernel.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Frame {
    pub(crate) words: [AtomicU64; FRAME_WORDS],
}

impl Frame {
    fn new() -> Self {
        Self { words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    fn write(&self, width: Width, entries: &[u64]) {
        let store = |word: &AtomicU64, value| {
            word.store(value, Ordering::Relaxed); // ORDER: a guest's stores promise no more
        };
        match width {
            Width::W64 => {
                for (word, &entry) in self.words.iter().zip(entries) {
                    store(word, entry);
                }
            }
            Width::W32 => {
                for (word, pair) in self.words.iter().zip(entries.as_chunks::<2>().0) {
                    store(word, pair[0] & 0xffff_ffff | pair[1] << 32);
                }
            }
        }
    }
}

/// The frames of this round's leaves, and those that are still mapped.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    frames: HashMap<u64, Arc<Frame>>,
    listed: HashSet<u64>,
}

impl Frames {
    /// A leaf's frame of this round.
    pub(crate) fn leaf(&self, mfn: u64) -> Option<&Arc<Frame>> {
        self.listed.get(&mfn).and_then(|mfn| self.frames.get(mfn))
    }

    /// Writes this round's leaves where `touched` says that they can differ. Memory is bounded by
    /// the leaves of this round and the mapped frames: a frame that left the list is kept only
    /// while it is mapped, so that it is the same memory if it comes back.
    pub(crate) fn publish(&mut self, width: Width, round: &Round, touched: &[bool]) {
        self.listed.clear();
        self.listed.extend(round.leaf_mfns.iter().copied().filter(|&mfn| mfn != NONE));
        let listed = &self.listed;
        self.frames.retain(|mfn, frame| listed.contains(mfn) || Arc::strong_count(frame) > 1);
        for (position, &mfn) in round.leaf_mfns.iter().enumerate() {
            if mfn == NONE || !touched[position] {
                continue;
            }
            let frame = self.frames.entry(mfn).or_insert_with(|| Arc::new(Frame::new()));
            frame.write(width, round.leaf_entries(width, position));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(mfns: &[u64], entry: u64, width: Width) -> Round {
        let entries = vec![entry; mfns.len() * width.entries()];
        Round { leaf_mfns: mfns.to_vec(), entries, ..Round::default() }
    }

    #[test]
    fn a_mapped_frame_is_the_same_memory_when_it_comes_back() {
        let mut frames = Frames::default();
        let word = |frame: &Frame| frame.words[511].load(Ordering::Relaxed); // ORDER: one thread
        frames.publish(Width::W64, &round(&[7, 8], 1, Width::W64), &[true; 2]);
        let held = Arc::clone(frames.leaf(7).expect("a leaf"));
        frames.publish(Width::W64, &round(&[9, 9], 2, Width::W64), &[true; 2]);
        assert!(frames.leaf(7).is_none() && frames.leaf(8).is_none());
        assert_eq!((word(&held), frames.frames.len()), (1, 2));
        frames.publish(Width::W64, &round(&[7, NONE], 3, Width::W64), &[true; 2]);
        assert_eq!(word(&held), 3);
    }

    #[test]
    fn entries_of_a_32_bit_guest_are_packed() {
        let mut frames = Frames::default();
        let mut one = round(&[7], 0x0102_0304, Width::W32);
        one.entries[1] = NONE;
        frames.publish(Width::W32, &one, &[true]);
        let words = &frames.leaf(7).expect("a leaf").words;
        assert_eq!(words[0].load(Ordering::Relaxed), 0xffff_ffff_0102_0304); // ORDER: one thread
        assert_eq!(words[1].load(Ordering::Relaxed), 0x0102_0304_0102_0304); // ORDER: one thread
    }
}
