// SPDX-License-Identifier: MIT OR Apache-2.0
//! The record of counts, and the verdict on new ones.
//! Not here: the counting.
//! Units: as the counts; margins as fractions of the recorded count.
//! Threads: plain values.
//! Source: `perf/record.json`; written by `p2mtrack-perf record`, which only lowers ceilings: they
//! are raised by hand.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// How much a count may grow, with the compiler of the record.
const MARGIN: f64 = 0.02;
/// How far above its first count a ceiling is set.
const CEILING: f64 = 1.25;

/// The cost of one unit of a scenario's work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) instructions: f64,
    pub(crate) allocations: f64,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:10.2} instructions {:6.3} allocations", self.instructions, self.allocations)
    }
}

/// A recorded count.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held {
    instructions: f64,
    /// Must not be passed, even if the record is raised, and with any compiler.
    ceiling: f64,
}

/// The record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    compiler: String,
    counts: BTreeMap<String, Held>,
    /// This run has another compiler: only the ceilings apply.
    #[serde(skip)]
    foreign: bool,
}

/// The verdict on a count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Within the margin, or less.
    Holds { change: f64 },
    /// More than the margin allows.
    Grew { change: f64 },
    /// Past the ceiling.
    PastCeiling { ceiling: f64 },
    /// The steady state allocates more often than it may.
    Allocates,
    /// There is no such count in the record.
    Unknown,
}

impl Verdict {
    pub(crate) const fn holds(self) -> bool {
        matches!(self, Self::Holds { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds { change } => write!(f, "ok ({:+.2} %)", change * 100.0),
            Self::Grew { change } => {
                write!(f, "FAILED: {:+.2} %, at most {:+.0} %", change * 100.0, MARGIN * 100.0)
            }
            Self::PastCeiling { ceiling } => write!(f, "FAILED: past the ceiling of {ceiling:.2}"),
            Self::Allocates => f.write_str("FAILED: the steady state allocates"),
            Self::Unknown => f.write_str("FAILED: not in the record"),
        }
    }
}

impl Record {
    /// Nothing recorded yet.
    pub(crate) const fn new(compiler: String) -> Self {
        Self { compiler, counts: BTreeMap::new(), foreign: false }
    }

    /// Reads a record, and compares its compiler with this one.
    pub(crate) fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut record: Self =
            serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let compiler = crate::instructions::compiler()?;
        record.foreign = compiler != record.compiler;
        if record.foreign {
            println!(
                "The record is of {}, this is {compiler}: only ceilings apply.",
                record.compiler
            );
        }
        Ok(record)
    }

    /// Adds a count, and its ceiling.
    pub(crate) fn add(&mut self, name: String, count: Count) {
        let ceiling = (count.instructions * CEILING * 100.0).ceil() / 100.0;
        let instructions = (count.instructions * 100.0).round() / 100.0;
        self.counts.insert(name, Held { instructions, ceiling });
    }

    /// Writes the record. No ceiling is above that of the record which it replaces.
    pub(crate) fn write(&mut self, path: &Path) -> Result<(), Box<dyn Error>> {
        if let Ok(text) = fs::read_to_string(path) {
            let before: Self = serde_json::from_str(&text)?;
            for (name, held) in before.counts {
                if let Some(count) = self.counts.get_mut(&name) {
                    count.ceiling = count.ceiling.min(held.ceiling);
                }
            }
        }
        Ok(fs::write(path, serde_json::to_string_pretty(self)? + "\n")?)
    }

    /// Compares a count with the record, and its allocations with the allowed number.
    pub(crate) fn judge(&self, name: &str, count: &Count, allocations_max: f64) -> Verdict {
        let Some(held) = self.counts.get(name) else { return Verdict::Unknown };
        let change = count.instructions / held.instructions - 1.0;
        if count.allocations > allocations_max {
            Verdict::Allocates
        } else if count.instructions > held.ceiling {
            Verdict::PastCeiling { ceiling: held.ceiling }
        } else if change > MARGIN && !self.foreign {
            Verdict::Grew { change }
        } else {
            Verdict::Holds { change }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_holds_until_it_grows_allocates_or_passes_its_ceiling() {
        let mut record = Record::new(String::new());
        let of = |instructions| Count { instructions, allocations: 0.0 };
        let judge = |record: &Record, instructions| record.judge("x", &of(instructions), 0.0);
        record.add("x".to_owned(), of(100.0));
        assert!(judge(&record, 50.0).holds() && judge(&record, 101.9).holds());
        assert!(matches!(judge(&record, 102.1), Verdict::Grew { .. }));
        assert!(matches!(judge(&record, 125.1), Verdict::PastCeiling { .. }));
        let allocates = Count { instructions: 100.0, allocations: 0.001 };
        assert_eq!(record.judge("x", &allocates, 0.0), Verdict::Allocates);
        assert_eq!(record.judge("x", &allocates, 0.0009), Verdict::Allocates);
        assert!(record.judge("x", &allocates, 0.001).holds());
        assert_eq!(record.judge("y", &of(1.0), 0.0), Verdict::Unknown);
        record.foreign = true;
        assert!(judge(&record, 110.0).holds());
        assert!(!judge(&record, 130.0).holds());
    }

    #[test]
    fn a_ceiling_falls_with_its_count_and_does_not_rise() {
        let path = std::env::temp_dir().join(format!("p2mtrack-record-{}", std::process::id()));
        let ceiling = |instructions| {
            let mut record = Record::new(String::new());
            record.add("x".to_owned(), Count { instructions, allocations: 0.0 });
            record.write(&path).expect("a record");
            record.counts["x"].ceiling
        };
        assert_eq!([100.0, 80.0, 90.0].map(ceiling), [125.0, 100.0, 100.0]);
        fs::remove_file(&path).expect("written");
    }
}
