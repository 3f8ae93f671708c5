// SPDX-License-Identifier: MIT OR Apache-2.0
//! Schedule number n: everything about one run is computed from its number, so that the number is
//! enough to repeat it.
//! Not here: running it (`main`), or counting its outcome (`tally`).
//! Units: schedules are counted from 1; guest sizes in bytes.
//! Threads: pure.
//! Source: swarm testing: each run has a random part of the features switched off.

use p2mtrack::config::Config;
use p2mtrack::diff::Kernel;
use p2mtrack::frame::Width;
use p2mtrack::shadow::Forms;
use p2mtrack_synthetic::{Fault, FaultSet, Limits, P2mKind, Scenario, SimConfig, TransportKind};

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) number: u64,
    pub(crate) config: SimConfig,
    /// The best one for the machine, if none is named.
    /// A kernel by its name; none is the best one.
    kernel: Option<&'static str>,
    /// Forms of the shadow; none is the smallest ones.
    shadow: Option<Forms>,
}

/// The digits of a number, each with its own base.
struct Digits(u64);

impl Digits {
    /// Bits without any pattern of the number (SplitMix64).
    const fn new(number: u64) -> Self {
        let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(word ^ word >> 31)
    }

    const fn next(&mut self, base: u64) -> u64 {
        let digit = self.0 % base;
        self.0 /= base;
        digit
    }
}

impl Schedule {
    /// The schedule of a number. Scenarios come in turn, everything else is pseudo-random.
    pub(crate) fn nth(number: u64) -> Self {
        let mut digits = Digits::new(number);
        let faults = match digits.next(20) {
            0..7 => vec![],
            7..12 => Fault::ALL.to_vec(),
            _ => vec![Fault::ALL[digits.next(Fault::ALL.len() as u64) as usize]],
        };
        let threads = if digits.next(64) == 0 { 2 } else { 1 };
        let mebibytes = match digits.next(16) {
            // Two threads share a comparison only if there are enough leaves for both.
            0 if threads > 1 => 512,
            0 => 64,
            1 | 2 => 32,
            3..8 => 16,
            _ => 8,
        };
        let config = SimConfig {
            seed: number,
            guest_bytes: mebibytes << 20,
            width: if digits.next(3) == 0 { Width::W32 } else { Width::W64 },
            p2m: [None, None, Some(P2mKind::Linear), Some(P2mKind::Tree)][digits.next(4) as usize],
            scenario: Scenario::ALL[(number % Scenario::ALL.len() as u64) as usize],
            faults: FaultSet(faults),
            checkpoints: [0, 0, 0, 0, 0, 1, 2, 3][digits.next(8) as usize],
            threads,
            limits: Limits::default(),
            transport: TransportKind::Direct,
        };
        let kernel = Kernel::NAMES.get(digits.next(5) as usize).copied();
        let shadow = Forms::ALL.get(digits.next(5) as usize).copied();
        Self { number, config, kernel, shadow }
    }

    /// The engine for this schedule, or a shorter one of it.
    pub(crate) fn engine(&self, config: &SimConfig) -> Config {
        // If the processor lacks it, another kernel must give the same result.
        let kernel = self.kernel.and_then(|name| name.parse().ok());
        let engine =
            Config { threads: config.threads, kernel, shadow: self.shadow, ..Config::default() };
        config.scenario.engine(config.seed, engine)
    }

    /// The command that repeats this schedule, or a shorter one of it.
    pub(crate) fn command(&self, config: &SimConfig) -> String {
        let kernel = self.kernel.map(|name| format!(" --kernel {name}")).unwrap_or_default();
        let shadow = self.shadow.map(|forms| format!(" --shadow {forms}")).unwrap_or_default();
        format!("p2mtrack simulate {}{kernel}{shadow}", config.options())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Within a small range every scenario has every set of faults, width, kind and kernel.
    #[test]
    fn everything_meets_everything() {
        let mut pairs = BTreeSet::new();
        let mut sizes = BTreeSet::new();
        for number in 1..=100_000 {
            let Schedule { config, kernel, shadow, .. } = Schedule::nth(number);
            let (kernel, shadow) = (kernel.unwrap_or("best"), shadow.map_or("best", Forms::name));
            let kind = config.p2m.map(|kind| kind == P2mKind::Tree);
            pairs.insert((config.scenario, config.faults.to_string()));
            pairs.insert((config.scenario, format!("{:?} {kind:?} {kernel}", config.width)));
            pairs.insert((config.scenario, format!("{kernel} {shadow}")));
            pairs.insert((config.scenario, format!("{} {}", config.threads, config.checkpoints)));
            sizes.insert((config.guest_bytes >> 20, config.threads));
        }
        assert_eq!(pairs.len(), Scenario::ALL.len() * (10 + 2 * 3 * 5 + 5 * 5 + 2 * 4));
        let wanted = [8, 16, 32, 64].map(|size| [(size, 1), (size, 2)]).concat();
        let wanted: BTreeSet<_> = wanted.into_iter().filter(|&pair| pair != (64, 2)).collect();
        assert_eq!(sizes, &wanted | &BTreeSet::from([(512, 2)]));
    }

    #[test]
    fn a_number_is_one_schedule_and_its_command_says_all_of_it() {
        let [one, again] = [Schedule::nth(123_456), Schedule::nth(123_456)];
        assert_eq!(one.config, again.config);
        let command = one.command(&one.config);
        assert!(command.starts_with("p2mtrack simulate --scenario "), "{command}");
        assert!(command.contains(" --seed 123456 "), "{command}");
    }
}
