// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a round sends, and what it takes besides.
//! Not here: pauses that `--rate` makes (`p2mtrack_stream::paced`).
//! Units: the wall clock.
//! Threads: one owner.
//! Source: the engine's phases.

use std::time::{Duration, Instant};

use p2mtrack::port::{Observer, Phase};

/// Measures a round.
#[derive(Debug)]
pub(crate) struct Times {
    begun: Instant,
    sending_since: Instant,
    sending: Duration,
}

impl Times {
    /// A round begins.
    pub(crate) fn begin() -> Self {
        let now = Instant::now();
        Self { begun: now, sending_since: now, sending: Duration::ZERO }
    }

    /// The round has ended: what sending took, and the rest.
    pub(crate) fn end(self) -> (Duration, Duration) {
        (self.sending, self.begun.elapsed().saturating_sub(self.sending))
    }
}

impl Observer for Times {
    fn begin(&mut self, phase: Phase) {
        if phase == Phase::Send {
            self.sending_since = Instant::now();
        }
    }

    fn end(&mut self, phase: Phase) {
        if phase == Phase::Send {
            self.sending += self.sending_since.elapsed();
        }
    }
}
