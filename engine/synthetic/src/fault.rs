// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults that a run may meet, sampled from its seed: which, when, how often; and the record of
//! those that struck.
//! Not here: what each one does (`ports`, `transport`, `log_dirty`).
//! Units: an opportunity is one call, page or mark that the fault could hit.
//! Threads: under the world's lock.
//! Source: swarm sampling as in TigerBeetle's simulator: in each run some faults are off entirely.

use std::fmt;
use std::str::FromStr;

use crate::dice::Dice;

/// Something that goes wrong outside of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A frame can't be mapped or read.
    MapFailure,
    /// CLEAN reads less of the bitmap than was asked for.
    ShortBitmap,
    /// The transport does not know whether a page arrived.
    LostAck,
    /// The user cancels.
    Cancel,
    /// A log-dirty mark finds no memory: sticky until log-dirty is switched off.
    AllocationFailure,
    /// A call of the transport fails as a whole.
    TransportFailure,
    /// The type query fails.
    QueryFailure,
    /// Accepted pages are lost on the way and returned later.
    Returned,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 8] = [
        Self::MapFailure,
        Self::ShortBitmap,
        Self::LostAck,
        Self::Cancel,
        Self::AllocationFailure,
        Self::TransportFailure,
        Self::QueryFailure,
        Self::Returned,
    ];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MapFailure => "map-failure",
            Self::ShortBitmap => "short-bitmap",
            Self::LostAck => "lost-ack",
            Self::Cancel => "cancel",
            Self::AllocationFailure => "allocation-failure",
            Self::TransportFailure => "transport-failure",
            Self::QueryFailure => "query-failure",
            Self::Returned => "returned",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a string is no list of faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFaults {
    /// An empty name.
    Empty,
    /// A name of no fault.
    Unknown(String),
    /// A fault that is listed twice: it would be drawn twice.
    Twice(Fault),
    /// `all` beside other names, which it includes.
    AllAndMore,
}

impl fmt::Display for NotFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a name is empty: leave the option out for no faults"),
            Self::Unknown(name) => {
                let names: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
                write!(f, "unknown fault '{name}' (known: {}; or all)", names.join(", "))
            }
            Self::Twice(fault) => write!(f, "{fault} is listed twice: once is enough"),
            Self::AllAndMore => {
                f.write_str("'all' stands alone: leave it out, or leave out the others")
            }
        }
    }
}

impl std::error::Error for NotFaults {}

/// The faults that a run may meet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultSet(pub Vec<Fault>);

impl fmt::Display for FaultSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|fault| fault.name()).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for FaultSet {
    type Err = NotFaults;

    /// A comma-separated list of names, or `all`.
    fn from_str(list: &str) -> Result<Self, Self::Err> {
        if list == "all" {
            return Ok(Self(Fault::ALL.to_vec()));
        }
        let mut set = Self::default();
        for name in list.split(',').map(str::trim) {
            let named = Fault::ALL.into_iter().find(|fault| fault.name() == name);
            match named {
                Some(fault) if set.0.contains(&fault) => return Err(NotFaults::Twice(fault)),
                Some(fault) => set.0.push(fault),
                None if name.is_empty() => return Err(NotFaults::Empty),
                None if name == "all" => return Err(NotFaults::AllAndMore),
                None => return Err(NotFaults::Unknown(name.to_owned())),
            }
        }
        Ok(set)
    }
}

/// When one fault strikes.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// Opportunities before the next strike.
    skip: u64,
    /// Strikes left.
    left: u64,
    /// The longest pause between strikes.
    pause: u64,
}

/// The faults of a run. Each has its own random stream: leaving one out does not shift another.
#[derive(Debug)]
pub(crate) struct Faults {
    active: [Option<Timing>; Fault::ALL.len()],
    struck: [u64; Fault::ALL.len()],
    dice: [Dice; Fault::ALL.len()],
}

impl Faults {
    /// Samples which faults are active and when they strike. `pages` is the guest's size.
    pub(crate) fn sample(set: &FaultSet, pages: u64, seed: u64) -> Self {
        let mut streams = Fault::ALL.map(|fault| Dice::new(seed, 0xfa00 | fault as u64));
        let mut active = [None; Fault::ALL.len()];
        for &fault in &set.0 {
            let dice = &mut streams[fault as usize];
            // Faults that end a run are drawn less often, so that most runs survive to meet the
            // rest.
            let fatal = matches!(fault, Fault::Cancel | Fault::TransportFailure);
            let on = dice.chance(1, if fatal { 5 } else { 3 }) || set.0.len() == 1;
            let pause = match fault {
                Fault::MapFailure | Fault::LostAck | Fault::Returned | Fault::Cancel => 2 * pages,
                Fault::ShortBitmap => 4,
                Fault::AllocationFailure => 8192,
                Fault::TransportFailure | Fault::QueryFailure => pages / 256 + 16,
            };
            let left = match fault {
                Fault::Cancel => 1,
                Fault::TransportFailure => dice.between(1, 2),
                Fault::QueryFailure | Fault::MapFailure if dice.chance(1, 10) => u64::MAX,
                Fault::LostAck | Fault::Returned | Fault::MapFailure => dice.magnitude(64),
                _ => dice.between(1, 4),
            };
            let skip = dice.magnitude(pause) - 1;
            // A permanent fault strikes at every opportunity from its first on.
            let pause = if left == u64::MAX { 1 } else { pause };
            if on {
                active[fault as usize] = Some(Timing { skip, left, pause });
            }
        }
        Self { active, struck: [0; Fault::ALL.len()], dice: streams }
    }

    /// One opportunity: whether the fault strikes.
    pub(crate) fn strikes(&mut self, fault: Fault) -> bool {
        let Some(timing) = &mut self.active[fault as usize] else { return false };
        if timing.skip > 0 {
            timing.skip -= 1;
            return false;
        }
        timing.skip = self.dice[fault as usize].magnitude(timing.pause) - 1;
        timing.left -= 1;
        if timing.left == 0 {
            self.active[fault as usize] = None;
        }
        self.note(fault);
        true
    }

    /// The next mark that finds no memory, if there is to be one.
    pub(crate) fn next_failing_mark(&mut self) -> Option<u64> {
        let at = Fault::AllocationFailure as usize;
        let timing = self.active[at].as_mut()?;
        timing.left -= 1;
        let pause = timing.pause;
        if timing.left == 0 {
            self.active[at] = None;
        }
        Some(self.dice[at].magnitude(pause))
    }

    /// Notes a strike that was decided elsewhere.
    pub(crate) fn note(&mut self, fault: Fault) {
        self.struck[fault as usize] += 1;
    }

    /// What struck, and how often.
    pub(crate) fn struck(&self) -> Vec<(Fault, u64)> {
        Fault::ALL.into_iter().zip(self.struck).filter(|&(_, times)| times > 0).collect()
    }

    /// The random stream of a fault.
    pub(crate) const fn dice(&mut self, fault: Fault) -> &mut Dice {
        &mut self.dice[fault as usize]
    }
}

/// An error of the simulated environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimError {
    /// The call that failed.
    pub call: &'static str,
    /// Its errno, as Xen would give it.
    pub errno: i32,
    /// The fault behind it, if one was injected.
    pub injected: Option<Fault>,
}

impl fmt::Display for SimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed (errno {})", self.call, self.errno)?;
        match self.injected {
            Some(fault) => write!(f, ", injected fault {fault}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SimError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_parse() {
        assert_eq!("all".parse::<FaultSet>().expect("all").0, Fault::ALL);
        let two: FaultSet = "lost-ack, cancel".parse().expect("names");
        assert_eq!(two.0, [Fault::LostAck, Fault::Cancel]);
        assert!("lost".parse::<FaultSet>().is_err());
        for list in ["", " ", ",", "cancel,", ",cancel", "cancel,,lost-ack"] {
            assert_eq!(list.parse::<FaultSet>(), Err(NotFaults::Empty), "'{list}'");
        }
        for (list, error) in [
            ("all,cancel", NotFaults::AllAndMore),
            ("cancel,all", NotFaults::AllAndMore),
            ("all,all", NotFaults::AllAndMore),
            ("cancel,lost-ack, cancel", NotFaults::Twice(Fault::Cancel)),
            ("cancel,lost", NotFaults::Unknown("lost".to_owned())),
        ] {
            assert_eq!(list.parse::<FaultSet>(), Err(error), "{list}");
        }
    }

    #[test]
    fn strikes_are_bounded_and_recorded() {
        let set = FaultSet(vec![Fault::LostAck]);
        for seed in 0..50 {
            let mut faults = Faults::sample(&set, 1000, seed);
            let hits = (0..2_000_000).filter(|_| faults.strikes(Fault::LostAck)).count() as u64;
            assert!((1..=128).contains(&hits), "{hits}");
            assert_eq!(faults.struck(), [(Fault::LostAck, hits)]);
            assert!(!faults.strikes(Fault::Cancel));
        }
    }
}
