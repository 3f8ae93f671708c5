// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shapes of huge p2ms by name.
//! Not here: which frame a pfn has in a shape (`pattern`).
//! Units: none.
//! Threads: plain values.
//! Source: `docs/perf.md`, "Runs of real guests". Names are an interface: `simulate --shape`.

use std::fmt;
use std::str::FromStr;

/// How frames are spread over pfns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Runs of 2 MiB, allocated downwards, as Xen builds a guest.
    Superpage,
    /// Runs as a buddy allocator leaves them: powers of two, upwards and downwards.
    Runs,
    /// Runs, with scattered pairs of frames swapped: 2^20 in 4 TiB.
    Ballooned,
    /// Neighbouring pfns have unrelated frames.
    Random,
    /// A captured p2m, repeated.
    Real,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Self; 5] =
        [Self::Superpage, Self::Runs, Self::Ballooned, Self::Random, Self::Real];

    /// The name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Superpage => "superpage",
            Self::Runs => "runs",
            Self::Ballooned => "ballooned",
            Self::Random => "random",
            Self::Real => "real",
        }
    }

    /// What it is, in a few words.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Superpage => "runs of 2 MiB, as Xen builds a guest",
            Self::Runs => "runs as a buddy allocator leaves them, in both directions",
            Self::Ballooned => "those runs with scattered pairs of frames swapped, 2^20 in 4 TiB",
            Self::Random => "neighbouring pfns have unrelated frames",
            Self::Real => "a captured p2m, repeated",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No shape has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownShape;

impl fmt::Display for UnknownShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no shape of a p2m has this name")
    }
}

impl std::error::Error for UnknownShape {}

impl FromStr for Shape {
    type Err = UnknownShape;

    fn from_str(name: &str) -> Result<Self, UnknownShape> {
        Self::ALL.into_iter().find(|shape| shape.name() == name).ok_or(UnknownShape)
    }
}
