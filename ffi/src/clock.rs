// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time spent in the phases of rounds, for a handle's totals.
//! Not here: the host's own time between the calls.
//! Units: nanoseconds; a phase inside of another one is not counted twice.
//! Threads: one owner.
//! Source: `p2mtrack::port::Observer`: the core has no clock.

use std::time::Instant;

use p2mtrack::port::{Observer, Phase};

/// The clock.
#[derive(Debug)]
pub(crate) struct Clock {
    spent: [u64; 6],
    under_way: Vec<Phase>,
    since: Instant,
}

const fn index(phase: Phase) -> usize {
    match phase {
        Phase::Roots => 0,
        Phase::Clean => 1,
        Phase::Walk => 2,
        Phase::Diff => 3,
        Phase::Send => 4,
        Phase::Settle => 5,
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self { spent: [0; 6], under_way: Vec::new(), since: Instant::now() }
    }
}

impl Clock {
    /// Time spent in a phase.
    pub(crate) const fn spent(&self, phase: Phase) -> u64 {
        self.spent[index(phase)]
    }

    fn lap(&mut self) {
        let now = Instant::now();
        if let Some(&phase) = self.under_way.last() {
            self.spent[index(phase)] += (now - self.since).as_nanos() as u64;
        }
        self.since = now;
    }
}

impl Observer for Clock {
    fn begin(&mut self, phase: Phase) {
        self.lap();
        self.under_way.push(phase);
    }

    fn end(&mut self, _: Phase) {
        self.lap();
        self.under_way.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_inner_phase_is_not_the_outer_ones_time() {
        let mut clock = Clock::default();
        clock.begin(Phase::Send);
        clock.begin(Phase::Walk);
        std::thread::sleep(Duration::from_millis(20));
        clock.end(Phase::Walk);
        clock.end(Phase::Send);
        assert!(clock.spent(Phase::Walk) >= 20_000_000);
        assert!(clock.spent(Phase::Send) < clock.spent(Phase::Walk));
        assert_eq!(clock.spent(Phase::Diff), 0);
    }
}
