// SPDX-License-Identifier: MIT OR Apache-2.0
//! A figure: a number with its goal, and what was measured beside it.
//! Not here: how it is measured, or printed.
//! Units: as [`Unit`] says.
//! Threads: plain values.
//! Source: names are an interface: `p2mtrack bench NAME`, `docs/json.md`.

use p2mtrack::diff::Kernel;

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// How many times as fast as the other side.
    Times,
    /// A fraction; may be above one.
    Share,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Times => "x",
            Self::Share => "share",
            Self::Bytes => "bytes",
        }
    }
}

/// The goal of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Goal {
    /// The number.
    #[must_use]
    pub const fn number(self) -> f64 {
        match self {
            Self::AtLeast(number) | Self::AtMost(number) => number,
        }
    }

    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

/// How fast leaves were compared, for the roofline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Leaves compared in a second.
    pub leaves: f64,
    /// Bytes that must be read for each leaf.
    pub bytes: f64,
    /// Bytes that the same threads read in a second from the same memory.
    pub bandwidth: f64,
}

/// One measured number.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: Unit,
    /// Its goal; `None` if it is only there for comparison.
    pub goal: Option<Goal>,
    /// The physical floor's time over the measured time: at one, nothing can be faster.
    pub floor: Option<f64>,
    /// The least `floor` that is accepted.
    pub floor_goal: Option<f64>,
    /// The kernel, if one compared leaves.
    pub kernel: Option<Kernel>,
    /// Threads of each side.
    pub threads: usize,
    /// How many times as fast as each peer.
    pub peers: Vec<(String, f64)>,
    /// The rate behind it.
    pub rate: Option<Rate>,
    /// What was measured, in words.
    pub detail: String,
}

impl Figure {
    /// A number without goal, floor or peers.
    #[must_use]
    pub fn new(name: impl Into<String>, value: f64, unit: Unit, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            goal: None,
            floor: None,
            floor_goal: None,
            kernel: None,
            threads: 1,
            peers: Vec::new(),
            rate: None,
            detail: detail.into(),
        }
    }

    /// Whether all its goals are met; `None` if it has none.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        let value = self.goal.map(|goal| goal.is_met(self.value));
        let floor = self.floor_goal.map(|least| self.floor.is_some_and(|share| share >= least));
        match (value, floor) {
            (None, None) => None,
            _ => Some(value.unwrap_or(true) && floor.unwrap_or(true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_met_if_all_its_goals_are() {
        let mut figure = Figure::new("a", 2.0, Unit::Times, "");
        assert_eq!(figure.met(), None);
        figure.floor = Some(0.9);
        assert_eq!(figure.met(), None, "a floor without a goal is for comparison");
        figure.goal = Some(Goal::AtLeast(2.0));
        assert_eq!(figure.met(), Some(true));
        figure.floor_goal = Some(0.95);
        assert_eq!(figure.met(), Some(false));
        figure.floor_goal = Some(0.9);
        assert_eq!(figure.met(), Some(true));
        figure.goal = Some(Goal::AtMost(1.9));
        assert_eq!(figure.met(), Some(false));
    }
}
