// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several ways to do one job, run in turn: A B B A, five blocks, medians of ratios.
//! Not here: what the jobs are, or which ratio is a figure.
//! Units: seconds; only ratios leave this module, except for rates in plots.
//! Threads: the caller's; a side may use a pool.
//! Source: ABBA cancels a drift of the machine that is linear over a block; a median drops
//! disturbed blocks.

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Blocks of an A/B run.
pub const BLOCKS: usize = 5;

/// A source of time. Tests have one that they advance themselves.
pub trait Clock {
    /// Time since some moment.
    fn now(&self) -> Duration;
}

/// The machine's clock.
#[derive(Debug)]
pub struct WallClock(Instant);

impl Default for WallClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for WallClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// One way to do the job.
pub struct Side<'a> {
    name: String,
    expected: u64,
    prepare: RefCell<Box<dyn FnMut() + 'a>>,
    work: RefCell<Box<dyn FnMut() -> u64 + 'a>>,
}

impl Side<'_> {
    /// Its name among the sides.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Prepares the job and does it once.
    ///
    /// # Panics
    /// If its result is not the expected one: then its time means nothing.
    pub fn run(&self) {
        self.prepare();
        self.work();
    }

    /// Preparation, which is not timed.
    fn prepare(&self) {
        (self.prepare.borrow_mut())();
    }

    fn work(&self) {
        let found = (self.work.borrow_mut())();
        assert_eq!(found, self.expected, "{} found another number than is there", self.name);
    }
}

/// All ways to do one job on the same data.
#[derive(Default)]
pub struct AbRun<'a> {
    sides: Vec<Side<'a>>,
}

impl<'a> AbRun<'a> {
    /// Adds a side, whose result must be `expected` each time.
    #[must_use]
    pub fn side(
        self,
        name: impl Into<String>,
        expected: u64,
        work: impl FnMut() -> u64 + 'a,
    ) -> Self {
        self.prepared(name, expected, || (), work)
    }

    /// Adds a side whose job is prepared each time; the preparation is not timed.
    #[must_use]
    pub fn prepared(
        mut self,
        name: impl Into<String>,
        expected: u64,
        prepare: impl FnMut() + 'a,
        work: impl FnMut() -> u64 + 'a,
    ) -> Self {
        let (prepare, work) =
            (RefCell::new(Box::new(prepare) as Box<_>), RefCell::new(Box::new(work) as Box<_>));
        self.sides.push(Side { name: name.into(), expected, prepare, work });
        self
    }

    /// Keeps only the sides with these names.
    #[must_use]
    pub fn only(mut self, names: &[&str]) -> Self {
        self.sides.retain(|side| names.contains(&side.name()));
        self
    }

    /// The sides, in the order in which they were added.
    #[must_use]
    pub fn sides(&self) -> &[Side<'a>] {
        &self.sides
    }

    /// Runs all sides in turn: once to warm up, then in blocks, each first to last and back again.
    #[must_use]
    pub fn run(&self, clock: &dyn Clock) -> Times {
        self.sides.iter().for_each(Side::run);
        let names = self.sides.iter().map(|side| side.name.clone()).collect();
        let blocks = (0..BLOCKS).map(|_| self.block(clock)).collect();
        Times { names, blocks }
    }

    fn block(&self, clock: &dyn Clock) -> Vec<f64> {
        let mut seconds = vec![0.0; self.sides.len()];
        for index in (0..self.sides.len()).chain((0..self.sides.len()).rev()) {
            self.sides[index].prepare();
            let begin = clock.now();
            self.sides[index].work();
            seconds[index] += (clock.now() - begin).as_secs_f64() / 2.0;
        }
        seconds
    }
}

/// How long an A/B run took.
#[derive(Clone, Debug)]
pub struct Times {
    names: Vec<String>,
    /// Seconds of one pass of each side, block by block.
    blocks: Vec<Vec<f64>>,
}

impl Times {
    /// # Panics
    /// If no side has the name.
    fn index(&self, name: &str) -> usize {
        let found = self.names.iter().position(|known| known == name);
        found.unwrap_or_else(|| panic!("no side is called {name}"))
    }

    fn median_of(&self, each: impl Fn(&[f64]) -> f64) -> f64 {
        median(self.blocks.iter().map(|block| each(block)).collect())
    }

    /// The speed of a side relative to `other`.
    ///
    /// # Panics
    /// If no side has one of the names.
    #[must_use]
    pub fn speed(&self, name: &str, other: &str) -> f64 {
        let (side, other) = (self.index(name), self.index(other));
        self.median_of(|block| block[other] / block[side])
    }

    /// Seconds of one pass.
    ///
    /// # Panics
    /// If no side has the name.
    #[must_use]
    pub fn seconds(&self, name: &str) -> f64 {
        let side = self.index(name);
        self.median_of(|block| block[side])
    }

    /// The fastest of these sides.
    ///
    /// # Panics
    /// If no side has one of the names, or there are none.
    #[must_use]
    pub fn fastest<'n>(&self, names: &[&'n str]) -> &'n str {
        let fastest = names.iter().min_by(|a, b| self.seconds(a).total_cmp(&self.seconds(b)));
        fastest.expect("a side")
    }

    /// The speed of a side relative to each of the others.
    ///
    /// # Panics
    /// If no side has the name.
    #[must_use]
    pub fn against_all(&self, name: &str) -> Vec<(String, f64)> {
        let others = self.names.iter().filter(|other| *other != name);
        others.map(|other| (other.clone(), self.speed(name, other))).collect()
    }
}

/// The median of some numbers; of an even count the mean of the two in the middle.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn median(mut numbers: Vec<f64>) -> f64 {
    assert!(!numbers.is_empty(), "the median of nothing");
    numbers.sort_by(f64::total_cmp);
    let (low, high) = ((numbers.len() - 1) / 2, numbers.len() / 2);
    f64::midpoint(numbers[low], numbers[high])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A clock that the sides advance.
    #[derive(Default)]
    struct FakeClock(Cell<Duration>);

    impl FakeClock {
        fn spend(&self, milliseconds: u64) -> u64 {
            self.0.set(self.0.get() + Duration::from_millis(milliseconds));
            7
        }
    }

    impl Clock for FakeClock {
        fn now(&self) -> Duration {
            self.0.get()
        }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert!(near(median(vec![3.0, 1.0, 2.0]), 2.0));
        assert!(near(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5));
    }

    #[test]
    fn sides_run_first_to_last_and_back() {
        let (clock, order) = (FakeClock::default(), RefCell::new(String::new()));
        let note = |name: char| {
            order.borrow_mut().push(name);
            0
        };
        let ab_run = AbRun::default().side("a", 0, || note('a')).side("b", 0, || note('b')).side(
            "c",
            0,
            || note('c'),
        );
        let _ = ab_run.run(&clock);
        assert_eq!(*order.borrow(), format!("abc{}", "abccba".repeat(BLOCKS)));
    }

    #[test]
    fn a_machine_that_slows_down_steadily_changes_no_ratio() {
        let (clock, turn) = (FakeClock::default(), Cell::new(0));
        // Each run takes its own time plus a drift that grows from run to run.
        let drift = |own: u64| {
            turn.set(turn.get() + 1);
            clock.spend(own + turn.get())
        };
        let ab_run = AbRun::default().side("a", 7, || drift(1000)).side("b", 7, || drift(1000));
        assert!(near(ab_run.run(&clock).speed("a", "b"), 1.0));
    }

    #[test]
    fn blocks_that_were_disturbed_do_not_count() {
        let (clock, turn) = (FakeClock::default(), Cell::new(0));
        // Two of five blocks: in each, both runs of this side take ten times as long.
        let disturbed = || {
            turn.set(turn.get() + 1);
            clock.spend(if (4..8).contains(&turn.get()) { 1000 } else { 100 })
        };
        let ab_run = AbRun::default().side("a", 7, disturbed).side("b", 7, || clock.spend(300));
        let times = ab_run.run(&clock);
        assert!(near(times.speed("a", "b"), 3.0) && near(times.speed("b", "a"), 1.0 / 3.0));
        assert!(near(times.seconds("a"), 0.1));
        assert_eq!(times.fastest(&["b", "a"]), "a");
        let against = times.against_all("a");
        assert!(against.len() == 1 && against[0].0 == "b" && near(against[0].1, 3.0));
    }

    #[test]
    fn preparation_is_not_timed() {
        let clock = FakeClock::default();
        let prepare = || {
            clock.spend(5000);
        };
        let ab_run =
            AbRun::default()
                .prepared("a", 7, prepare, || clock.spend(100))
                .side("b", 7, || clock.spend(300));
        assert!(near(ab_run.run(&clock).speed("a", "b"), 3.0));
    }

    #[test]
    #[should_panic(expected = "b found another number than is there")]
    fn a_side_with_a_wrong_result_panics() {
        let clock = FakeClock::default();
        let ab_run =
            AbRun::default().side("a", 7, || clock.spend(1)).side("b", 8, || clock.spend(1));
        let _ = ab_run.run(&clock);
    }
}
