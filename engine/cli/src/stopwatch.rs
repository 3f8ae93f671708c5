// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long each phase of a round took.
//! Not here: what is done in it (the engine), the output.
//! Units: the wall clock.
//! Threads: one owner.
//! Source: names are keys of `phase_us`: `docs/json.md`.

use std::time::{Duration, Instant};

use p2mtrack::port::{Observer, Phase};

impl Observer for Stopwatch {
    fn begin(&mut self, _: Phase) {
        Self::begin(self);
    }

    fn end(&mut self, phase: Phase) {
        Self::end(self, phase);
    }
}

/// The times of one round's phases. Phases don't nest.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    begun: Instant,
    times: [Duration; Phase::ALL.len()],
}

impl Stopwatch {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), times: Default::default() }
    }

    /// A phase begins.
    pub(crate) fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// It ends.
    pub(crate) fn end(&mut self, phase: Phase) {
        let slot = Phase::ALL.iter().position(|known| *known == phase);
        self.times[slot.unwrap_or(0)] += self.begun.elapsed();
    }

    /// Names and times.
    pub(crate) fn phases(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        Phase::ALL.iter().map(|phase| phase.name()).zip(self.times)
    }

    /// A new round.
    pub(crate) fn clear(&mut self) {
        self.times = Default::default();
    }
}
