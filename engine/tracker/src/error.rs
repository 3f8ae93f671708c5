// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors that end a migration, each with the numbers that identify its cause.
//! Not here: uncertainties and deferrals, which don't end it (`uncertainty`, `port::Deferral`).
//! Units: frame numbers in hex; levels 1 to 4, 1 next to the leaves.
//! Threads: plain values.
//! Source: `docs/design.md`, the promise and the outcome table.

use std::fmt;

use crate::frame::{Mfn, Pfn, Width};
use crate::port::{Deferral, MapFault, PortError};
use crate::table::TableFault;
use crate::uncertainty::Uncertainty;

/// Why the roots of a p2m can't be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RootsFault {
    /// The guest publishes no p2m (no list, no tree, or no pfns).
    Absent,
    /// The root frame is past the machine's last frame.
    RootFrame,
    /// `p2m_vaddr` is not the address of a page.
    Misaligned,
    /// The list leaves the guest's address space or runs into Xen's.
    AddressSpace,
    /// There are more pfns than a 3-level tree can hold.
    TreeTooSmall,
}

impl fmt::Display for RootsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "the guest publishes no p2m",
            Self::RootFrame => "the root frame is outside the machine",
            Self::Misaligned => "p2m_vaddr is not the address of a page",
            Self::AddressSpace => "the list leaves the guest's address space",
            Self::TreeTooSmall => "more pfns than a 3-level tree can hold",
        })
    }
}

/// What shows that a guest has the other width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WidthCause {
    /// The port that reads its p2m reports that width.
    Port,
    /// A root that no guest of the given width can write.
    Root(u64),
    /// In the other width, entries of the p2m name frames whose m2p entry names their pfn; in the
    /// given width none does.
    Entries {
        /// The first of them.
        pfn: Pfn,
        /// Its frame.
        mfn: Mfn,
    },
}

impl fmt::Display for WidthCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port => f.write_str("the p2m source says so"),
            Self::Root(root) => write!(f, "a root of its p2m is {root:#x}"),
            Self::Entries { pfn, mfn } => write!(
                f,
                "its entries match the m2p only in the guest's own width, {pfn} {mfn} and others"
            ),
        }
    }
}

/// What is wrong with one pfn in the final round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryCause {
    /// Another pfn's entry names the same frame, and the m2p has that pfn for it.
    Alias(Pfn),
    /// The frame is broken (a machine check hit it).
    Broken,
    /// Still deferred when the final round ended.
    Deferred(Deferral),
    /// Owed again after every sweep of the final round.
    Restless,
}

impl fmt::Display for EntryCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias(other) => write!(f, "the frame is also that of {other}"),
            Self::Broken => f.write_str("the frame is broken"),
            Self::Deferred(deferral) => write!(f, "still deferred: {deferral}"),
            Self::Restless => f.write_str("owed again after every sweep of the final round"),
        }
    }
}

impl fmt::Display for Deferral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::M2pMismatch => f.write_str("p2m and m2p disagree"),
            Self::NotOwned => f.write_str("the frame is not the domain's"),
            Self::LeafUnmapped => f.write_str("the p2m leaf is not mapped"),
            Self::QueryFailed => f.write_str("the type query failed"),
            Self::MapFailed(fault) => fault.fmt(f),
            Self::Table(fault) => write!(f, "page table: {fault}"),
            Self::Later => f.write_str("the transport keeps it for a later round"),
            Self::Unacknowledged => f.write_str("the transport has no answer from the other side"),
        }
    }
}

/// An error that ends a migration. The source guest continues unharmed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A port failed.
    Port {
        /// Which one.
        port: &'static str,
        /// Its own error.
        source: PortError,
    },
    /// The transport failed for one page.
    Page {
        /// The page's pfn.
        pfn: Pfn,
        /// Its frame.
        mfn: Mfn,
        /// The transport's error.
        source: PortError,
    },
    /// The roots of the p2m can't be followed.
    Roots {
        /// Why.
        fault: RootsFault,
        /// The word that shows it.
        value: u64,
    },
    /// The guest does not have the width that it was attached with.
    Width {
        /// The width that was given.
        given: Width,
        /// What shows it.
        cause: WidthCause,
    },
    /// A frame of the p2m's structure can't be used.
    Structure {
        /// 0 for a leaf, 1 and up for upper frames.
        level: u8,
        /// The frame.
        mfn: Mfn,
        /// The first pfn whose entry it leads to.
        pfn: Pfn,
        /// What is wrong.
        cause: StructureCause,
    },
    /// The p2m is longer than the frames that the domain holds can justify.
    P2mSize {
        /// A pfn with an entry.
        pfn: Pfn,
        /// The p2m size limit: the first pfn past it.
        limit: u64,
        /// Frames that the domain holds.
        domain_frames: u64,
    },
    /// More pfns wait to be sent, or were sent against the m2p, than the domain holds frames: the
    /// p2m names frames repeatedly.
    TooManyDeferred {
        /// One of them.
        pfn: Pfn,
        /// How many there are.
        waiting: u64,
        /// Frames that the domain holds.
        domain_frames: u64,
    },
    /// The domain holds frames that no pfn has, or fewer frames than its pfns have: its p2m does
    /// not account for them.
    Unaccounted {
        /// Frames held that are not accounted for; negative if more are accounted for than held.
        unaccounted_frames: i64,
        /// Frames that the domain holds.
        domain_frames: u64,
        /// How many may be unaccounted for.
        limit: u64,
    },
    /// An uncertainty of one kind lasted for too many rounds.
    Uncertain {
        /// The kind.
        uncertainty: Uncertainty,
        /// Rounds in a row.
        rounds: u32,
        /// The port's error, if there was one.
        source: Option<PortError>,
    },
    /// A pfn that the final round can't settle.
    Entry {
        /// The pfn.
        pfn: Pfn,
        /// The frame that its entry names, if it names one.
        mfn: Option<Mfn>,
        /// Why.
        cause: EntryCause,
    },
    /// A page table that the final round can't normalise.
    Table {
        /// The table's pfn.
        pfn: Pfn,
        /// The PTE.
        fault: TableFault,
    },
    /// An environment variable names a kernel or form that is not available.
    Environment {
        /// What is wrong with it.
        source: PortError,
    },
    /// The engine's threads can't be started.
    Threads {
        /// The operating system's error.
        source: PortError,
    },
    /// A call that is not allowed now.
    Order {
        /// The call.
        call: &'static str,
        /// The state that forbids it.
        state: &'static str,
    },
}

/// What is wrong with a frame of the p2m's structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StructureCause {
    /// It can't be read or mapped.
    Unreadable(MapFault),
    /// A page table of the list maps a superpage.
    Superpage,
    /// No pfn names it, so that the frame list can't say where the leaf is.
    Unnamed,
    /// A leaf that names frames is listed at this many positions.
    Aliased(u64),
    /// It changed during every walk of the final round.
    Unstable,
}

impl fmt::Display for StructureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(fault) => fault.fmt(f),
            Self::Superpage => f.write_str("the list is mapped by a superpage"),
            Self::Unnamed => f.write_str("no pfn's entry names the leaf's frame"),
            Self::Aliased(positions) => {
                write!(f, "the leaf names frames and is listed at {positions} positions")
            }
            Self::Unstable => f.write_str("the structure keeps changing"),
        }
    }
}

impl Error {
    /// The kind of error, as a word for reports.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Port { .. } => "port",
            Self::Page { .. } => "page",
            Self::Roots { .. } => "roots",
            Self::Structure { .. } => "structure",
            Self::P2mSize { .. } => "p2m-size",
            Self::TooManyDeferred { .. } => "too-many-deferred",
            Self::Unaccounted { .. } => "unaccounted",
            Self::Width { .. } => "width",
            Self::Uncertain { .. } => "uncertain",
            Self::Entry { .. } => "entry",
            Self::Table { .. } => "table",
            Self::Environment { .. } => "environment",
            Self::Threads { .. } => "threads",
            Self::Order { .. } => "order",
        }
    }

    /// Frames that a suspended round does not account for, if that is the error.
    #[must_use]
    pub const fn unaccounted_frames(&self) -> Option<i64> {
        match self {
            Self::Unaccounted { unaccounted_frames, .. } => Some(*unaccounted_frames),
            _ => None,
        }
    }

    /// For `map_err`: an error of the port with this name.
    pub(crate) fn port(port: &'static str) -> impl FnOnce(PortError) -> Self {
        move |source| Self::Port { port, source }
    }

    /// For `map_err`: an environment variable with an invalid value.
    pub(crate) fn environment(source: impl Into<PortError>) -> Self {
        Self::Environment { source: source.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { port, .. } => write!(f, "{port} failed"),
            Self::Page { pfn, mfn, .. } => write!(f, "the transport failed for {pfn}, {mfn}"),
            Self::Roots { fault, value } => write!(f, "p2m roots: {fault} ({value:#x})"),
            Self::Width { given, cause } => {
                let [given, found] = [*given, given.other()].map(Width::bits);
                write!(f, "a {found}-bit guest, attached as one of {given} bits: {cause}")
            }
            Self::Structure { level, mfn, pfn, cause } => {
                write!(f, "p2m structure: level {level}, {mfn}, from {pfn} on: {cause}")
            }
            Self::P2mSize { pfn, limit, domain_frames } => write!(
                f,
                "the p2m reaches {pfn}, past {limit:#x}, but the domain holds {domain_frames} frames"
            ),
            Self::TooManyDeferred { pfn, waiting, domain_frames } => write!(
                f,
                "{waiting} pfns, {pfn} among them, wait or were sent against the m2p, but the domain holds \
                 {domain_frames} frames"
            ),
            Self::Unaccounted { unaccounted_frames, domain_frames, limit } => {
                let count = unaccounted_frames.unsigned_abs();
                let what = if *unaccounted_frames < 0 {
                    "more frames have pfns than it holds"
                } else {
                    "of them have no pfn in its p2m"
                };
                write!(
                    f,
                    "the domain holds {domain_frames} frames, and {count} {what} (at most {limit} may; \
                     the policy unaccounted=report goes on)"
                )
            }
            Self::Uncertain { uncertainty, rounds, .. } => {
                write!(f, "uncertainty of kind {uncertainty} in {rounds} rounds in a row")
            }
            Self::Entry { pfn, mfn: Some(mfn), cause } => write!(f, "{pfn}, {mfn}: {cause}"),
            Self::Entry { pfn, mfn: None, cause } => write!(f, "{pfn}: {cause}"),
            Self::Table { pfn, fault } => write!(f, "page table at {pfn}: {fault}"),
            Self::Environment { .. } => f.write_str("an environment variable has an invalid value"),
            Self::Threads { .. } => f.write_str("the engine's threads can't be started"),
            Self::Order { call, state } => write!(f, "{call} called while {state}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Port { source, .. }
            | Self::Page { source, .. }
            | Self::Environment { source }
            | Self::Threads { source } => Some(&**source),
            Self::Uncertain { source: Some(source), .. } => Some(&**source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn the_error_of_a_port_is_the_source_of_the_engines_error() {
        let source = |error: &Error| error.source().map(ToString::to_string);
        let port = Error::port("log-dirty")("no memory".into());
        assert_eq!(source(&port).as_deref(), Some("no memory"));
        let uncertainty =
            |source| Error::Uncertain { uncertainty: Uncertainty::LogLost, rounds: 6, source };
        assert_eq!(source(&uncertainty(Some("no memory".into()))).as_deref(), Some("no memory"));
        assert_eq!(source(&uncertainty(None)), None);
    }
}
