// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long the guest would stand still if the last round came now.
//! Not here: what follows from that (`policy`).
//! Units: pages and time. Pauses that `--rate` makes are no part of it: the last round has none.
//! Threads: plain values; the caller has the clock.
//! Source: own: pages left over pages a second, and what does not depend on them: reading the log,
//! comparing, the records behind the pages, and letting go of the p2m, which costs no more a leaf
//! than sending a page.

use std::time::Duration;

/// A round with fewer pages says little about the pace.
const TELLING_PAGES: u64 = 4096;

/// What is known so far.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// What the records behind the pages take.
    tail: Duration,
    /// What a round takes besides sending.
    rest: Duration,
    /// Pages and the time that they took: of the last round that had enough of them, or of all.
    pages: u64,
    time: Duration,
    /// Leaves of the p2m that are mapped.
    leaves: u64,
}

impl Estimate {
    /// Nothing was sent yet; the records behind the pages take so long.
    #[must_use]
    pub const fn new(tail: Duration) -> Self {
        Self { tail, rest: Duration::ZERO, pages: 0, time: Duration::ZERO, leaves: 0 }
    }

    /// A round sent so many pages in `sending`, pauses apart, and took `rest` besides. The first
    /// copy compares nothing, so that its `rest` counts only until the next round.
    pub fn add(&mut self, pages: u64, sending: Duration, rest: Duration) {
        self.rest = rest;
        if pages == 0 {
            return;
        }
        if pages >= TELLING_PAGES || self.pages == 0 {
            (self.pages, self.time) = (pages, sending);
        } else if self.pages < TELLING_PAGES {
            (self.pages, self.time) = (self.pages + pages, self.time + sending);
        }
    }

    /// So many leaves of the p2m are mapped.
    pub const fn set_leaves(&mut self, leaves: u64) {
        self.leaves = leaves;
    }

    /// How many pages are sent in so much time; none before the pace is known.
    #[must_use]
    pub fn pages_within(&self, time: Duration) -> u64 {
        let seconds = self.time.as_secs_f64();
        if seconds > 0.0 { (self.pages as f64 / seconds * time.as_secs_f64()) as u64 } else { 0 }
    }

    /// How long it would stand still for so many pages. Without a pace that is not known, and as
    /// long as can be.
    #[must_use]
    pub fn downtime(&self, left: u64) -> Duration {
        if self.pages == 0 && left > 0 {
            return Duration::MAX;
        }
        let pages = left.saturating_add(self.leaves) as f64;
        let seconds = self.time.as_secs_f64() / self.pages.max(1) as f64 * pages;
        let sending = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        sending.saturating_add(self.rest).saturating_add(self.tail)
    }
}

/// An estimate for people.
#[must_use]
pub fn in_words(estimate: Duration) -> String {
    match estimate {
        Duration::MAX => "a time that is not known".to_owned(),
        time => format!("{:.0} ms", time.as_secs_f64() * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn it_is_what_is_left_at_the_last_pace_and_what_does_not_depend_on_it() {
        let mut estimate = Estimate::new(millis(7));
        assert_eq!((estimate.downtime(0), estimate.downtime(1)), (millis(7), Duration::MAX));
        // A round that could send nothing says nothing about the pace.
        estimate.add(0, Duration::from_nanos(1), millis(1));
        assert_eq!((estimate.downtime(1000), estimate.pages_within(millis(9))), (Duration::MAX, 0));
        estimate.add(100_000, millis(1000), millis(50));
        assert_eq!(estimate.downtime(1000), millis(10 + 50 + 7));
        assert_eq!(estimate.pages_within(millis(150)), 15_000);
        estimate.set_leaves(300);
        assert_eq!(estimate.downtime(1000), millis(10 + 3 + 50 + 7));
        estimate.set_leaves(0);
        // Half the pace, and less to compare.
        estimate.add(50_000, millis(1000), millis(5));
        assert_eq!(estimate.downtime(1000), millis(20 + 5 + 7));
    }

    #[test]
    fn a_small_round_does_not_change_the_pace() {
        let mut estimate = Estimate::new(Duration::ZERO);
        estimate.add(100_000, millis(1000), millis(1));
        estimate.add(10, millis(1000), millis(2));
        assert_eq!(estimate.downtime(1000), millis(10 + 2));
        // A small guest has none but small rounds: all of them count.
        let mut estimate = Estimate::new(Duration::ZERO);
        estimate.add(1000, millis(10), Duration::ZERO);
        estimate.add(1000, millis(30), Duration::ZERO);
        assert_eq!(estimate.downtime(1000), millis(20));
    }

    #[test]
    fn an_unknown_time_is_no_number() {
        assert_eq!(in_words(Duration::MAX), "a time that is not known");
        assert_eq!(in_words(millis(1500)), "1500 ms");
    }

    #[test]
    fn nothing_overflows() {
        let mut estimate = Estimate::new(Duration::MAX);
        estimate.add(1, Duration::MAX, Duration::MAX);
        assert_eq!(estimate.downtime(u64::MAX), Duration::MAX);
    }
}
