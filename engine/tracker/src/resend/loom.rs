// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocol of the resend bitmap in every interleaving and every allowed memory order; each
//! model prints how many interleavings it ran.
//! Not here: large bitmaps; a few words are enough for each race.
//! Units: as in `resend`, but for lines of two words and groups of 64 lines.
//! Threads: at most two markers beside one taker, or a taker beside the thread that drops its debt.
//! Source: run with
//! `RUSTFLAGS="--cfg loom" cargo test -p p2mtrack --release --lib resend::loom -- --nocapture`.
//!
//! The bitmap is all that shards share and change: each owns its lines, and sets summary bits
//! beside the others by the marker's own code. What they read (layout, shadow, log) does not change
//! between the fork and the join of `Shards::fold_mut`, results are returned through the join, and
//! live words are read once each, whatever the guest does. So there is nothing else to model.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::sync::late::{Machine, choose, settle};
use crate::sync::{AtomicU64, Ordering};
use ::loom::model::Builder;
use ::loom::sync::Arc;
use ::loom::thread::{self, JoinHandle};

/// Explores a model on some machines, without a bound on preemptions, and prints the number of
/// runs.
fn explore(name: &str, machines: &[Machine], model: impl Fn() + Clone + Send + Sync + 'static) {
    explore_within(None, name, machines, model);
}

/// Explores one of the models that have hundreds of thousands of interleavings: with as many
/// preemptions as `LOOM_MAX_PREEMPTIONS` says, or without a bound.
fn explore_large(name: &str, model: impl Fn() + Clone + Send + Sync + 'static) {
    explore_within(Builder::new().preemption_bound, name, &LOOMS_OWN, model);
}

fn explore_within(
    preemptions: Option<usize>,
    name: &str,
    machines: &[Machine],
    model: impl Fn() + Clone + Send + Sync + 'static,
) {
    let within = preemptions.map_or(String::new(), |most| format!(", {most} preemptions at most"));
    for &machine in machines {
        let runs = std::sync::Arc::new(AtomicUsize::new(0));
        let (counted, model) = (std::sync::Arc::clone(&runs), model.clone());
        let mut builder = Builder::new();
        builder.preemption_bound = preemptions;
        choose(machine);
        builder.check(move || {
            counted.fetch_add(1, Ordering::Relaxed); // ORDER: one thread
            model();
            settle();
        });
        let runs = runs.load(Ordering::Relaxed); // ORDER: one thread
        println!("loom: {name}, {machine:?}{within}: {runs} interleavings");
    }
}

const LOOMS_OWN: [Machine; 1] = [Machine::InOrder];
const ALL: [Machine; 3] = [Machine::InOrder, Machine::Late, Machine::Overtaken];

struct Scene {
    bitmap: ResendBitmap,
    content: [AtomicU64; 2],
}

impl Scene {
    fn new(pfns: u64) -> Arc<Self> {
        let content = [AtomicU64::new(0), AtomicU64::new(0)];
        Arc::new(Self { bitmap: ResendBitmap::new(pfns), content })
    }

    /// Content first, then the mark; `slot` is the marker's own content.
    fn write(&self, slot: usize, mark: impl FnOnce(&ResendBitmap)) {
        self.content[slot].store(1, Ordering::Relaxed); // ORDER: published by the mark
        mark(&self.bitmap);
    }

    fn read(&self, slot: usize) -> u64 {
        self.content[slot].load(Ordering::Relaxed) // ORDER: acquired by the take of the mark
    }
}

/// Runs one more thread of a scene.
fn beside(scene: &Arc<Scene>, run: impl FnOnce(&Scene) + 'static) -> JoinHandle<()> {
    settle();
    let scene = Arc::clone(scene);
    thread::spawn(move || {
        run(&scene);
        settle();
    })
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("no thread panics"));
}

/// The pfn and cause of each marker, and what the destination has received of it.
struct Received {
    pfns: [u64; 2],
    causes: [Cause; 2],
    content: [u64; 2],
    reported: [CauseSet; 2],
}

impl Received {
    fn new(pfns: [u64; 2], causes: [Cause; 2]) -> Self {
        Self { pfns, causes, content: [0; 2], reported: [CauseSet::default(); 2] }
    }

    fn pay_all(&mut self, scene: &Scene, mut taken: Taken<'_>) {
        for index in 0..taken.pfns().len() {
            let (pfn, causes) = (taken.pfns()[index], taken.causes()[index]);
            taken.pay(index);
            assert!(!causes.is_empty());
            for slot in (0..2).filter(|&slot| self.pfns[slot] == pfn.0) {
                self.content[slot] = scene.read(slot);
                self.reported[slot] = self.reported[slot].union(causes);
            }
        }
    }

    /// What was read when a page was last paid must be what its marker wrote, and its cause must be
    /// reported.
    fn finish(mut self, scene: &Scene) {
        self.pay_all(scene, scene.bitmap.take(9, 0));
        assert!(scene.bitmap.is_empty());
        assert_eq!(self.content, [1, 1], "a page was not taken after its mark");
        for (reported, cause) in self.reported.into_iter().zip(self.causes) {
            assert!(reported.contains(cause), "a cause was not reported");
        }
    }
}

/// Only marks in the same bitmap race.
const SAME: [Cause; 2] = [Cause::Entry; 2];
const APART: [Cause; 2] = [Cause::Entry, Cause::Table];

/// Two marks, a take, and a second take of the rest.
#[derive(Clone, Copy)]
struct Race {
    /// What is marked, and why.
    pfns: [u64; 2],
    causes: [Cause; 2],
    /// Marks that are done before the take; the others are made by threads beside it.
    before: usize,
    /// The most pages that the first take may have, and its first pfn.
    limit: usize,
    from: u64,
    /// Whether the first take is paid.
    paid: bool,
}

impl Race {
    fn run(&self) {
        let &Self { pfns, causes, .. } = self;
        let scene = Scene::new(pfns[0].max(pfns[1]) + 1);
        let mut received = Received::new(pfns, causes);
        let mark = move |slot: usize| {
            move |bitmap: &ResendBitmap| known(bitmap.mark(Pfn(pfns[slot]), causes[slot]))
        };
        (0..self.before).for_each(|slot| scene.write(slot, mark(slot)));
        let rest = self.before..2;
        let markers: Vec<_> =
            rest.map(|slot| beside(&scene, move |scene| scene.write(slot, mark(slot)))).collect();
        let taken = scene.bitmap.take(self.limit, self.from);
        if self.paid {
            received.pay_all(&scene, taken);
        } else {
            drop(taken);
        }
        settle();
        join(markers);
        received.finish(&scene);
    }
}

/// The first pfn under the second word of the lower summary, which is the second bit of the upper
/// one.
const BORDER: u64 = 64 * LINE_PFNS;

/// All pfns of the models are below the length.
fn known(below: bool) {
    assert!(below);
}

#[test]
fn two_marks_of_one_pfn_beside_a_take() {
    for causes in [SAME, APART] {
        let race = Race { pfns: [5, 5], causes, before: 0, limit: 99, from: 0, paid: true };
        let name = format!("two marks of one pfn for {causes:?} beside a take");
        explore_large(&name, move || race.run());
    }
}

#[test]
fn marks_of_one_word_beside_a_take_that_ends_in_it() {
    let race = Race { pfns: [5, 6], causes: SAME, before: 0, limit: 1, from: 0, paid: true };
    explore_large("marks of one word beside a take that ends in it", move || race.run());
}

/// The taker clears the summary bits of a line whose lower pfns stay.
#[test]
fn a_mark_beside_a_take_that_begins_in_its_line() {
    for pfns in [[6, 5], [70, 5]] {
        let race = Race { pfns, causes: SAME, before: 1, limit: 9, from: pfns[0], paid: true };
        let name = format!("a mark of pfn 5 beside a take from {} on", pfns[0]);
        explore(&name, &ALL, move || race.run());
    }
}

/// The limit decides how a word is taken, and so does a second cause. In each way, a mark of the
/// same pfn comes between the read of the word and the clearing of its bits.
#[test]
fn a_mark_of_a_pfn_that_is_being_taken_in_each_way() {
    for (causes, limit) in [(SAME, 1), (SAME, 99), (APART, 1), (APART, 99)] {
        let three = move || {
            let scene = Scene::new(128);
            let mut received = Received::new([5, 5], SAME);
            for cause in causes {
                known(scene.bitmap.mark(Pfn(5), cause));
            }
            scene.write(0, |_| ());
            let mark = |bitmap: &ResendBitmap| known(bitmap.mark(Pfn(5), SAME[1]));
            let marker = beside(&scene, move |scene| scene.write(1, mark));
            received.pay_all(&scene, scene.bitmap.take(limit, 0));
            settle();
            join([marker]);
            received.finish(&scene);
        };
        explore(&format!("a mark beside a take of {limit}, after {causes:?}"), &ALL, three);
    }
}

/// The summary bits are set when the second marker comes, and the taker is about to clear them.
#[test]
fn a_mark_beside_the_take_of_an_earlier_one() {
    for pfns in [[5, 5], [5, 6], [5, 70], [5, LINE_PFNS], [5, BORDER]] {
        let race = Race { pfns, causes: SAME, before: 1, limit: 99, from: 0, paid: true };
        let name = format!("a mark of {pfns:?} beside the take of the first");
        explore(&name, &ALL, move || race.run());
    }
}

#[test]
fn a_mark_beside_a_debt_that_returns() {
    for pfns in [[5, 70], [5, 5]] {
        let race = Race { pfns, causes: SAME, before: 1, limit: 9, from: 0, paid: false };
        let name = format!("a mark of {pfns:?} beside a debt that returns");
        explore(&name, &LOOMS_OWN, move || race.run());
    }
}

/// Another thread drops the debt, as a transport's thread may, during the next take.
#[test]
fn a_debt_that_returns_beside_the_next_take() {
    let model = || {
        let scene = Scene::new(128);
        let mut received = Received::new([5, 5], APART);
        let causes = received.causes;
        for slot in 0..2 {
            scene.write(slot, |bitmap| known(bitmap.mark(Pfn(5), causes[slot])));
        }
        let pages = scene.bitmap.take(9, 0).forget();
        let dropper = beside(&scene, move |scene| {
            drop(Taken::of(&scene.bitmap.by_cause, &scene.bitmap.spare, pages))
        });
        received.pay_all(&scene, scene.bitmap.take(9, 0));
        settle();
        join([dropper]);
        received.finish(&scene);
    };
    explore("a debt that returns beside the next take", &ALL, model);
}

/// Two leaves of 512 pfns are two lines of the bitmap under one word of the summary.
fn mark_line(bitmap: &ResendBitmap, leaf: u64, slots: &[usize], cause: Cause) {
    let mut mask = LeafMask::NONE;
    slots.iter().for_each(|&slot| mask.set(slot));
    bitmap.mark_leaf(Width::W64, LeafIndex(leaf), &mask, cause);
}

/// Two threads set bits of one word of the summary; a take after the join finds exactly what they
/// marked.
#[test]
fn two_markers_on_neighbouring_lines_joined_before_a_take() {
    let model = || {
        let scene = Scene::new(1024);
        let received = Received::new([0, 512 + 511], SAME);
        let causes = received.causes;
        let markers = [0, 1].map(|slot| {
            beside(&scene, move |scene| {
                let slots: [&[usize]; 2] = [&[0, 64], &[511]];
                let mark = |bitmap: &ResendBitmap| {
                    mark_line(bitmap, slot as u64, slots[slot], causes[slot]);
                };
                scene.write(slot, mark);
            })
        });
        join(markers);
        assert_eq!(scene.bitmap.count(), 3);
        assert_eq!(scene.bitmap.why(Pfn(64)), CauseSet::from_iter([Cause::Entry]));
        received.finish(&scene);
    };
    explore("two markers on neighbouring lines, joined before a take", &ALL, model);
}

/// A taker beside two markers: the public contract allows it, though the engine's own taker waits
/// for the join.
#[test]
fn two_markers_on_neighbouring_lines_beside_a_take() {
    let model = || {
        let scene = Scene::new(1024);
        let mut received = Received::new([0, 512], SAME);
        let causes = received.causes;
        let markers = [0, 1].map(|slot| {
            beside(&scene, move |scene| {
                scene.write(slot, |bitmap| mark_line(bitmap, slot as u64, &[0], causes[slot]));
            })
        });
        received.pay_all(&scene, scene.bitmap.take(9, 0));
        settle();
        join(markers);
        received.finish(&scene);
    };
    explore("two markers on neighbouring lines beside a take", &LOOMS_OWN, model);
}

/// A mask sets the summary bits once, after all of its words: a take may find the first word before
/// that. The first bit of the mask is new, or already set.
#[test]
fn a_mask_of_two_words_beside_the_take_of_an_earlier_mark() {
    for (slot, pfns) in [(6, [5, 511]), (5, [5, 5])] {
        let model = move || {
            let scene = Scene::new(512);
            let mut received = Received::new(pfns, SAME);
            let causes = received.causes;
            scene.write(0, |bitmap| known(bitmap.mark(Pfn(5), causes[0])));
            let marker = beside(&scene, move |scene| {
                scene.write(1, |bitmap| mark_line(bitmap, 0, &[slot, 511], causes[1]));
            });
            received.pay_all(&scene, scene.bitmap.take(9, 0));
            settle();
            join([marker]);
            received.finish(&scene);
        };
        let name = format!("a mask of {slot} and 511 beside the take of a mark of 5");
        explore(&name, &ALL, model);
    }
}

/// Words on both sides of a border of both summaries.
#[test]
fn words_under_two_words_of_the_summary_beside_a_take() {
    let model = || {
        let scene = Scene::new(BORDER + 64);
        let mut received = Received::new([BORDER - 1, BORDER], SAME);
        let cause = SAME[0];
        let marker = beside(&scene, move |scene| {
            scene.content[1].store(1, Ordering::Relaxed); // ORDER: published by the mark
            scene.write(0, |bitmap| {
                bitmap.mark_words((BORDER / 64 - 1) as usize, &[1 << 63, 1], cause)
            });
        });
        received.pay_all(&scene, scene.bitmap.take(9, 0));
        settle();
        join([marker]);
        received.finish(&scene);
    };
    explore("words under two words of the summary beside a take", &ALL, model);
}

/// A comparison asks why a pfn is owed while it is being marked.
#[test]
fn a_reader_that_sees_a_pfn_owed_finds_its_causes_and_its_content() {
    let model = || {
        let scene = Scene::new(64);
        let marker = beside(&scene, |scene| {
            scene.write(0, |bitmap| known(bitmap.mark(Pfn(5), Cause::Deferred)));
        });
        if scene.bitmap.is_owed(Pfn(5)) {
            assert!(scene.bitmap.why(Pfn(5)).contains(Cause::Deferred));
            assert_eq!(scene.read(0), 1);
        }
        settle();
        join([marker]);
        assert_eq!(scene.bitmap.count(), 1);
    };
    explore("a reader that sees a pfn owed finds its causes and its content", &ALL, model);
}
