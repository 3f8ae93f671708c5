// SPDX-License-Identifier: MIT OR Apache-2.0
//! A memory model weaker than loom's: updates whose old value is not used take effect late, as far
//! as their order allows.
//! Not here: builds without `cfg(loom)`.
//! Units: words of 64 bits.
//! Threads: loom's, which all run on one thread of the system; each has its own waiting updates.
//! Source: C++20 [intro.races]: an update that does not acquire may be seen after what follows it,
//! if that does not release.
//!
//! Loom runs each thread in program order, and its read-modify-writes always see the newest value.
//! So it can't tell a relaxed update that publishes nothing from a releasing one, unless a plain
//! load reads what was published. Here such an update waits until its thread updates something with
//! Release, accesses the same word, or ends ([`settle`]). Nothing happens that the memory model
//! of C++ forbids, but not everything that it allows.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use loom::sync::atomic::{AtomicU64 as Word, Ordering};

/// Which updates wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// None, as in loom.
    InOrder,
    /// All that do not acquire.
    Late,
    /// Those that release and do not acquire; relaxed ones overtake them.
    Overtaken,
}

/// A word whose updates may wait.
pub struct AtomicU64(Arc<Word>);

impl Default for AtomicU64 {
    fn default() -> Self {
        Self::new(0)
    }
}

#[derive(Clone, Copy)]
enum Step {
    Set(u64),
    Clear(u64),
}

struct Update {
    word: Arc<Word>,
    step: Step,
    order: Ordering,
}

std::thread_local! {
    static MACHINE: Cell<Machine> = const { Cell::new(Machine::InOrder) };
}

loom::thread_local! {
    static WAITING: RefCell<Vec<Update>> = RefCell::new(Vec::new());
}

/// Chooses the machine for the models that this thread of the system runs.
#[cfg(test)]
pub(crate) fn choose(machine: Machine) {
    MACHINE.set(machine);
}

/// Lets all waiting updates take effect. A thread calls it before it ends, or starts another.
pub(crate) fn settle() {
    let waiting = WAITING.with(|waiting| waiting.take());
    waiting.into_iter().for_each(Update::run);
}

fn settle_before(word: &Arc<Word>, order: Ordering) {
    let releases = matches!(order, Ordering::Release | Ordering::AcqRel | Ordering::SeqCst);
    let waits = |update: &Update| Arc::ptr_eq(&update.word, word);
    if releases || WAITING.with(|waiting| waiting.borrow().iter().any(waits)) {
        settle();
    }
}

impl Update {
    fn run(self) {
        match self.step {
            Step::Set(bits) => self.word.fetch_or(bits, self.order),
            Step::Clear(bits) => self.word.fetch_and(!bits, self.order),
        };
    }

    fn waits(&self) -> bool {
        match (MACHINE.get(), self.order) {
            (Machine::Late, Ordering::Relaxed | Ordering::Release) => true,
            (Machine::Overtaken, Ordering::Release) => true,
            _ => false,
        }
    }
}

impl AtomicU64 {
    pub(crate) fn new(value: u64) -> Self {
        Self(Arc::new(Word::new(value)))
    }

    pub(crate) fn load(&self, order: Ordering) -> u64 {
        // no load releases: updates of other words may wait on
        settle_before(&self.0, Ordering::Acquire);
        if order == Ordering::SeqCst {
            // Loom lets such a load return an old value. An update that changes nothing can't, and
            // this one publishes nothing either, like a load: what a marker wrote is published by
            // the bits that it sets.
            return self.0.fetch_or(0, Ordering::Acquire);
        }
        self.0.load(order)
    }

    #[cfg(test)]
    pub(crate) fn store(&self, value: u64, order: Ordering) {
        settle_before(&self.0, order);
        self.0.store(value, order);
    }

    pub(crate) fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        settle_before(&self.0, order);
        self.0.fetch_and(bits, order)
    }

    pub(crate) fn swap(&self, value: u64, order: Ordering) -> u64 {
        settle_before(&self.0, order);
        self.0.swap(value, order)
    }

    fn update(&self, step: Step, order: Ordering) {
        settle_before(&self.0, order);
        let update = Update { word: Arc::clone(&self.0), step, order };
        if update.waits() {
            WAITING.with(|waiting| waiting.borrow_mut().push(update));
        } else {
            update.run();
        }
    }
}

pub(crate) fn set_bits(word: &AtomicU64, bits: u64, order: Ordering) {
    word.update(Step::Set(bits), order);
}

pub(crate) fn clear_bits(word: &AtomicU64, bits: u64, order: Ordering) {
    word.update(Step::Clear(bits), order);
}

pub(crate) fn add_bits(word: &mut AtomicU64, bits: u64) {
    word.update(Step::Set(bits), Ordering::Relaxed); // ORDER: no other thread sees the word
}

pub(crate) fn keep_bits(word: &mut AtomicU64, bits: u64) {
    word.update(Step::Clear(!bits), Ordering::Relaxed); // ORDER: no other thread sees the word
}
