// SPDX-License-Identifier: MIT OR Apache-2.0
//! The configuration of a run, and the options of `p2mtrack simulate` that repeat it.
//! Not here: how they are parsed (the command line), or the run (`simulation`).
//! Units: sizes in bytes, written with binary suffixes.
//! Threads: pure.
//! Source: options are an interface: `p2mtrack simulate --help`.

use p2mtrack::frame::Width;

use crate::fault::FaultSet;
use crate::guest::P2mKind;
use crate::limits::Limits;
use crate::scenario::Scenario;

/// Suffixes of sizes and the bits that they stand for, largest first (IEC 80000-13).
pub const SIZE_SUFFIXES: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// Writes a size in the largest unit that keeps it whole, such as `64 GiB`.
#[must_use]
pub fn size_in_words(bytes: u64) -> String {
    SIZE_SUFFIXES
        .iter()
        .find(|(_, bits)| bytes >= 1 << bits && bytes.is_multiple_of(1 << bits))
        .map_or_else(|| format!("{bytes}"), |(suffix, bits)| format!("{} {suffix}", bytes >> bits))
}

/// What pages go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransportKind {
    /// Straight into the receiver.
    #[default]
    Direct,
    /// The bytes of a libxc stream, which a receiver reads as libxc's does.
    Stream,
}

/// The configuration of a run. Equal configurations give equal runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimConfig {
    /// The seed of everything.
    pub seed: u64,
    /// The guest's memory, rounded up to whole leaves.
    pub guest_bytes: u64,
    /// The guest's width.
    pub width: Width,
    /// How it keeps its p2m; if `None`, the scenario's kind or the seed's choice.
    pub p2m: Option<P2mKind>,
    /// What it does.
    pub scenario: Scenario,
    /// What may go wrong.
    pub faults: FaultSet,
    /// Checkpoints before the last suspend; 0 for the scenario's own number.
    pub checkpoints: u32,
    /// Threads of the tracker. With more than one the guest only runs between parallel sections.
    pub threads: usize,
    /// What is left out of the guest's schedule.
    pub limits: Limits,
    /// What pages go through.
    pub transport: TransportKind,
}

impl SimConfig {
    /// A 64-bit guest of a scenario, its whole schedule, one thread, and nothing that goes wrong.
    #[must_use]
    pub fn plain(scenario: Scenario, seed: u64, guest_bytes: u64) -> Self {
        Self {
            seed,
            guest_bytes,
            width: Width::W64,
            p2m: None,
            scenario,
            faults: FaultSet::default(),
            checkpoints: 0,
            threads: 1,
            limits: Limits::default(),
            transport: TransportKind::Direct,
        }
    }

    /// The options that repeat this run.
    #[must_use]
    pub fn options(&self) -> String {
        let size = size_in_words(self.guest_bytes).replace(' ', "");
        let mut options =
            format!("--scenario {} --seed {} --guest-size {size}", self.scenario, self.seed);
        let mut add = |wanted: bool, option: String| {
            if wanted {
                options.push(' ');
                options.push_str(&option);
            }
        };
        add(self.width == Width::W32, "--width 32".to_owned());
        match self.p2m {
            None => {}
            Some(P2mKind::Linear) => add(true, "--p2m linear".to_owned()),
            Some(P2mKind::Tree) => add(true, "--p2m tree".to_owned()),
        }
        add(self.checkpoints > 0, format!("--checkpoints {}", self.checkpoints));
        add(!self.faults.0.is_empty(), format!("--faults {}", self.faults));
        if let Some(steps) = self.limits.steps {
            add(true, format!("--steps {steps}"));
        }
        if let Some(programs) = &self.limits.programs {
            add(true, format!("--programs {programs}"));
        }
        add(self.limits.no_writes, "--no-plain-writes".to_owned());
        add(self.transport == TransportKind::Stream, "--transport stream".to_owned());
        add(true, format!("--threads {}", self.threads));
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    #[test]
    fn defaults_are_left_out() {
        let mut config = SimConfig::plain(Scenario::Remus, 7, 8 << 20);
        assert_eq!(config.options(), "--scenario remus --seed 7 --guest-size 8MiB --threads 1");
        (config.width, config.p2m) = (Width::W32, Some(P2mKind::Tree));
        config.faults = FaultSet(vec![Fault::LostAck, Fault::Cancel]);
        config.limits = Limits {
            steps: Some(12),
            programs: Some([4, 5, 9].into_iter().collect()),
            no_writes: true,
        };
        assert_eq!(
            config.options(),
            "--scenario remus --seed 7 --guest-size 8MiB --width 32 --p2m tree \
             --faults lost-ack,cancel --steps 12 --programs 4-5,9 --no-plain-writes --threads 1"
        );
    }
}
