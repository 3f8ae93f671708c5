// SPDX-License-Identifier: MIT OR Apache-2.0
//! When the last round comes: what is asked for, and what each live round says about it.
//! Not here: how long the downtime would be (`estimate`).
//! Units: rounds while the guest runs, the first copy included; pages; time.
//! Threads: plain values; the caller has the clock.
//! Source: own. Stock libxc: at most 5 rounds, or at most 50 pages.

use std::time::Duration;

/// Rounds without a smaller rest than ever before, after which no more of them are made.
const STALLED_ROUNDS: u32 = 3;

/// What ends the live rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most live rounds.
    pub rounds: u64,
    /// So few pages are sent at once.
    pub dirty_pages: u64,
    /// How long the guest may stand still.
    pub downtime: Duration,
    /// No round begins later than this.
    pub time: Option<Duration>,
}

/// Why the last round came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What is left can be sent within the downtime.
    Fits,
    /// Few pages are left.
    Few,
    /// As many live rounds were made as are allowed.
    Rounds,
    /// The time for live rounds is over.
    Time,
    /// What is left does not shrink.
    Unconverged,
    /// There are no live rounds.
    NotLive,
}

impl Verdict {
    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Few => "few",
            Self::Rounds => "rounds",
            Self::Time => "time",
            Self::Unconverged => "unconverged",
            Self::NotLive => "not-live",
        }
    }

    /// Whether what is left is small enough.
    #[must_use]
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Fits | Self::Few | Self::NotLive)
    }
}

/// Judges live rounds.
#[derive(Clone, Debug)]
pub struct Policy {
    limits: Limits,
    rounds: u64,
    /// The least that was ever left.
    least: u64,
    /// Rounds since then.
    stalled: u32,
}

impl Policy {
    /// No round was made yet.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, rounds: 0, least: u64::MAX, stalled: 0 }
    }

    /// A live round has ended: so many pages are `left`, for which the guest would stand still for
    /// `downtime`, and the rounds took so long. Says whether the last one comes, and why.
    pub fn judge(&mut self, left: u64, downtime: Duration, elapsed: Duration) -> Option<Verdict> {
        self.rounds += 1;
        self.stalled = if left < self.least { 0 } else { self.stalled + 1 };
        self.least = self.least.min(left);
        let Limits { rounds, dirty_pages, downtime: most, time } = self.limits;
        if downtime <= most {
            Some(Verdict::Fits)
        } else if left <= dirty_pages {
            Some(Verdict::Few)
        } else if self.rounds >= rounds {
            Some(Verdict::Rounds)
        } else if time.is_some_and(|time| elapsed >= time) {
            Some(Verdict::Time)
        } else if self.stalled >= STALLED_ROUNDS {
            Some(Verdict::Unconverged)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        rounds: 30,
        dirty_pages: 50,
        downtime: Duration::from_millis(300),
        time: Some(Duration::from_secs(100)),
    };
    const LONG: Duration = Duration::from_secs(9);

    /// What is said after each of these rests, at an estimate that never fits.
    fn verdicts(limits: Limits, left: &[u64]) -> Vec<Option<Verdict>> {
        let mut policy = Policy::new(limits);
        left.iter().map(|&left| policy.judge(left, LONG, Duration::ZERO)).collect()
    }

    #[test]
    fn the_last_round_comes_when_what_is_left_is_small() {
        let mut policy = Policy::new(LIMITS);
        let at_most = LIMITS.downtime;
        let more = at_most + Duration::from_micros(1);
        assert_eq!(policy.judge(5000, more, Duration::ZERO), None);
        assert_eq!(policy.judge(5000, at_most, Duration::ZERO), Some(Verdict::Fits));
        assert_eq!(verdicts(LIMITS, &[51, 50]), [None, Some(Verdict::Few)]);
        assert_eq!(verdicts(LIMITS, &[0]), [Some(Verdict::Few)]);
    }

    #[test]
    fn the_last_round_comes_when_rounds_or_time_are_over() {
        let limits = Limits { rounds: 3, ..LIMITS };
        assert_eq!(verdicts(limits, &[900, 800, 700]), [None, None, Some(Verdict::Rounds)]);
        let mut policy = Policy::new(LIMITS);
        let at = |seconds| Duration::from_secs(seconds);
        assert_eq!(policy.judge(900, LONG, at(99)), None);
        assert_eq!(policy.judge(800, LONG, at(100)), Some(Verdict::Time));
        assert_eq!(verdicts(Limits { time: None, ..LIMITS }, &[900; 3]), [None; 3]);
    }

    #[test]
    fn three_rounds_without_a_smaller_rest_do_not_converge() {
        let stalled = [None, None, None, Some(Verdict::Unconverged)];
        assert_eq!(verdicts(LIMITS, &[900, 900, 950, 901]), stalled);
        // Each new least begins anew.
        assert_eq!(verdicts(LIMITS, &[900, 950, 950, 899, 950, 950, 898]), [None; 7]);
    }

    #[test]
    fn only_a_small_rest_is_good() {
        let bad = [Verdict::Rounds, Verdict::Time, Verdict::Unconverged];
        assert!(bad.iter().all(|verdict| !verdict.is_good()));
        assert!([Verdict::Fits, Verdict::Few, Verdict::NotLive].iter().all(|v| v.is_good()));
    }
}
