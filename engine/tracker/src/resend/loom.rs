// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocol of the resend bitmap in every interleaving and every allowed order of memory.
//! Not here: sizes; two words are enough for each race.
//! Units: as in `resend`.
//! Threads: two markers beside one taker.
//! Source: run with `RUSTFLAGS="--cfg loom" cargo test -p p2mtrack --release --lib resend::loom`.

use super::*;
use ::loom::sync::Arc;
use ::loom::{model, thread};

/// Two words under one summary word.
const LENGTH: u64 = 128;

struct Scene {
    bitmap: ResendBitmap,
    content: [AtomicU64; 2],
}

impl Scene {
    /// Content first, then the mark; `slot` is the marker's own content.
    fn write(&self, slot: usize, pfn: u64, cause: Cause) {
        self.content[slot].store(1, Ordering::Relaxed); // ORDER: published by the mark
        self.bitmap.mark(Pfn(pfn), cause);
    }

    fn read(&self, slot: usize) -> u64 {
        self.content[slot].load(Ordering::Relaxed) // ORDER: found by who takes the mark
    }
}

/// Two marks, a take, and a second take of the rest.
struct Race {
    /// What is marked.
    pfns: [u64; 2],
    /// Marks that are done before the take; the others are threads beside it.
    before: usize,
    /// Pages that the first take may have.
    limit: usize,
    /// Whether the first take is paid.
    paid: bool,
}

/// What the destination holds in the end.
#[derive(Default)]
struct Received {
    content: [u64; 2],
    causes: [CauseSet; 2],
}

impl Race {
    fn pay_all(&self, scene: &Scene, mut taken: Taken<'_>, received: &mut Received) {
        for index in 0..taken.pages().len() {
            let owed = taken.pages()[index];
            taken.pay(index);
            for slot in (0..2).filter(|&slot| self.pfns[slot] == owed.pfn.0) {
                received.content[slot] = scene.read(slot);
                received.causes[slot] = received.causes[slot].union(owed.causes);
            }
        }
    }

    /// What was read when a page was last paid must be what its marker wrote, and its cause was told.
    fn run(&self) {
        let content = [AtomicU64::new(0), AtomicU64::new(0)];
        let scene = Arc::new(Scene { bitmap: ResendBitmap::new(LENGTH), content });
        let (pfns, causes) = (self.pfns, [Cause::Entry, Cause::Table]);
        (0..self.before).for_each(|slot| scene.write(slot, pfns[slot], causes[slot]));
        let spawn = |slot: usize| {
            let scene = Arc::clone(&scene);
            thread::spawn(move || scene.write(slot, pfns[slot], causes[slot]))
        };
        let markers: Vec<_> = (self.before..2).map(spawn).collect();
        let mut received = Received::default();
        let taken = scene.bitmap.take(self.limit, 0);
        if self.paid {
            self.pay_all(&scene, taken, &mut received);
        } else {
            drop(taken);
        }
        markers.into_iter().for_each(|marker| marker.join().expect("markers do not panic"));
        self.pay_all(&scene, scene.bitmap.take(9, 0), &mut received);
        assert!(scene.bitmap.is_empty());
        assert_eq!(received.content, [1, 1], "a page was not taken after its mark");
        for (told, cause) in received.causes.into_iter().zip(causes) {
            assert!(told.contains(cause), "a cause was not told");
        }
    }
}

#[test]
fn two_marks_of_one_pfn_beside_a_take() {
    model(|| Race { pfns: [5, 5], before: 0, limit: 9, paid: true }.run());
}

#[test]
fn marks_of_one_word_beside_a_take_that_ends_in_it() {
    model(|| Race { pfns: [5, 6], before: 0, limit: 1, paid: true }.run());
}

/// The summary is up when the second marker comes, and the taker is about to clear it.
#[test]
fn a_mark_beside_the_take_of_an_earlier_one() {
    for pfns in [[5, 5], [5, 6], [5, 70]] {
        model(move || Race { pfns, before: 1, limit: 9, paid: true }.run());
    }
}

#[test]
fn marks_of_two_words_beside_a_debt_that_returns() {
    for before in [0, 1] {
        model(move || Race { pfns: [5, 70], before, limit: 9, paid: false }.run());
    }
}
