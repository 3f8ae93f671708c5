// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds a short schedule that still fails: a plainer configuration, then fewer steps, programs and
//! stores.
//! Not here: what counts as the same failure; the caller decides.
//! Units: a try is one run; their number is bounded.
//! Threads: the caller's; the same tries in the same order for the same answers.
//! Source: delta debugging (Zeller and Hildebrandt, 2002), greedily: what can be left out stays
//! out.

use p2mtrack::frame::Width;

use crate::fault::FaultSet;
use crate::limits::Numbers;
use crate::simulation::{Activity, SimConfig};

/// Passes over all changes: leaving one thing out may allow another.
const PASSES_MAX: u32 = 4;
/// The smallest guest that is tried.
const GUEST_BYTES_MIN: u64 = 8 << 20;

/// The shortest schedule found.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The schedule.
    pub config: SimConfig,
    /// What the guest did in it.
    pub activity: Activity,
    /// Runs that it took to find.
    pub tries: u64,
}

/// Shortens a schedule. `fails` runs one, and returns what the guest did if it failed in the same
/// way.
///
/// `None` if the given schedule does not fail.
pub fn shrink(
    config: &SimConfig,
    tries_max: u64,
    fails: &mut dyn FnMut(&SimConfig) -> Option<Activity>,
) -> Option<Shrunk> {
    let activity = fails(config)?;
    let best = Shrunk { config: config.clone(), activity, tries: 1 };
    let mut search = Search { best, tries_max, fails };
    for _ in 0..PASSES_MAX {
        let before = search.best.config.clone();
        search.plainer();
        search.fewer_steps();
        search.fewer_programs();
        search.try_with(|config| config.limits.no_writes = true);
        if search.best.config == before {
            break;
        }
    }
    Some(search.best)
}

struct Search<'a> {
    best: Shrunk,
    tries_max: u64,
    fails: &'a mut dyn FnMut(&SimConfig) -> Option<Activity>,
}

impl Search<'_> {
    /// Keeps a change if the schedule still fails with it.
    fn try_with(&mut self, change: impl FnOnce(&mut SimConfig)) -> bool {
        let mut config = self.best.config.clone();
        change(&mut config);
        if config == self.best.config || self.best.tries >= self.tries_max {
            return false;
        }
        self.best.tries += 1;
        let Some(activity) = (self.fails)(&config) else { return false };
        self.best = Shrunk { config, activity, tries: self.best.tries };
        true
    }

    /// Simplifies the configuration.
    fn plainer(&mut self) {
        self.try_with(|config| config.threads = 1);
        self.try_with(|config| config.faults = FaultSet::default());
        for fault in self.best.config.faults.0.clone() {
            self.try_with(|config| config.faults.0.retain(|&kept| kept != fault));
        }
        for checkpoints in [0, 1] {
            self.try_with(|config| config.checkpoints = config.checkpoints.min(checkpoints));
        }
        // Another size, width or kind is another guest: often it does not fail, at times it does.
        let mut bytes = GUEST_BYTES_MIN;
        while bytes < self.best.config.guest_bytes
            && !self.try_with(|config| config.guest_bytes = bytes)
        {
            bytes *= 2;
        }
        self.try_with(|config| config.width = Width::W64);
        self.try_with(|config| config.p2m = None);
    }

    /// The shortest prefix, by halving.
    fn fewer_steps(&mut self) {
        let (mut passes, mut fails) = (0, self.best.activity.steps);
        while passes < fails {
            let middle = passes + (fails - passes) / 2;
            if self.try_with(|config| config.limits.steps = Some(middle)) {
                fails = middle;
            } else {
                passes = middle + 1;
            }
        }
    }

    /// The fewest programs: halves are left out, then quarters, at last one at a time until none
    /// can go.
    fn fewer_programs(&mut self) {
        if self.without(|_| true) {
            return;
        }
        let mut size = self.begun().len().div_ceil(2);
        while size > 0 {
            let mut left_out = false;
            let mut end = self.begun().len();
            while end > 0 {
                let begin = end.saturating_sub(size);
                let numbers = self.begun();
                let Some(chunk) = numbers.get(begin..end) else { break };
                left_out |= self.without(|number| chunk.contains(&number));
                end = begin.min(self.begun().len());
            }
            if size == 1 && !left_out {
                return;
            }
            size = if size == 1 { 1 } else { size / 2 };
        }
    }

    /// Programs that the guest began in the shortest schedule so far.
    fn begun(&self) -> Vec<u64> {
        self.best.activity.begun.iter().map(|begun| begun.number).collect()
    }

    fn without(&mut self, out: impl Fn(u64) -> bool) -> bool {
        let kept: Numbers = self.begun().into_iter().filter(|&number| !out(number)).collect();
        self.try_with(|config| config.limits.programs = Some(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::attempt;
    use crate::{Begun, Fault, Limits, Scenario};
    use p2mtrack::config::Config;

    fn config() -> SimConfig {
        SimConfig {
            width: Width::W32,
            faults: FaultSet(Fault::ALL.to_vec()),
            checkpoints: 3,
            threads: 2,
            ..SimConfig::plain(Scenario::Mixed, 4, 32 << 20)
        }
    }

    /// A guest of one program every fourth step, and a failure that needs exactly these conditions.
    fn planted(config: &SimConfig) -> Option<Activity> {
        let steps = config.limits.steps.unwrap_or(1000).min(1000);
        let begun = (1..=steps / 4).filter(|&number| config.limits.runs(number));
        let begun: Vec<_> = begun
            .map(|number| Begun { number, step: 4 * number, behaviour: "balloon-out" })
            .collect();
        let has = |wanted| begun.iter().any(|begun| begun.number == wanted);
        let fails = config.faults.0.contains(&Fault::Returned)
            && config.checkpoints >= 1
            && config.width == Width::W32
            && has(17)
            && has(60)
            && steps >= 300;
        fails.then(|| Activity { steps, begun, ..Activity::default() })
    }

    #[test]
    fn what_a_failure_needs_stays_and_all_else_goes() {
        let mut tries = 0;
        let shrunk = shrink(&config(), 200, &mut |config| {
            tries += 1;
            planted(config)
        });
        let shrunk = shrunk.expect("fails");
        let wanted = SimConfig {
            guest_bytes: 8 << 20,
            faults: FaultSet(vec![Fault::Returned]),
            checkpoints: 1,
            threads: 1,
            limits: Limits { steps: Some(300), programs: "17,60".parse().ok(), no_writes: true },
            ..config()
        };
        assert_eq!(shrunk.config, wanted);
        assert_eq!(shrunk.tries, tries);
        assert!(tries <= 120, "{tries}");
    }

    #[test]
    fn tries_are_bounded_and_what_does_not_fail_is_not_shrunk() {
        let shrunk = shrink(&config(), 9, &mut planted).expect("fails");
        assert_eq!(shrunk.tries, 9);
        assert!(planted(&shrunk.config).is_some());
        assert!(shrink(&config(), 9, &mut |_| None).is_none());
    }

    /// Real runs of the real engine: two programs are all that is left of hundreds.
    #[test]
    fn a_real_schedule_shrinks_to_the_two_programs_that_are_asked_for() {
        let whole = SimConfig { seed: 7, guest_bytes: 16 << 20, threads: 1, ..config() };
        let mut most = 0;
        let mut both = |config: &SimConfig| {
            let run = attempt(config, Config::default()).run;
            most = most.max(run.activity.begun.len());
            let has = |name| run.activity.begun.iter().any(|begun| begun.behaviour == name);
            (has("frame-swap") && has("leaf-renamed")).then_some(run.activity)
        };
        let shrunk = shrink(&whole, 300, &mut both).expect("a mixed guest does both");
        let mut names: Vec<_> = shrunk.activity.begun.iter().map(|begun| begun.behaviour).collect();
        names.sort_unstable();
        assert_eq!(names, ["frame-swap", "leaf-renamed"], "{:?}", shrunk.config);
        assert_eq!(shrunk.config.faults, FaultSet::default());
        assert_eq!(shrunk.config.guest_bytes, 8 << 20);
        assert!(most > 20, "{most}");
    }
}
