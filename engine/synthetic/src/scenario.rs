// SPDX-License-Identifier: MIT OR Apache-2.0
//! The named scenarios: which behaviours a guest mixes, how much and how fast. Names are an
//! interface.
//! Not here: the behaviours themselves (`behaviour`).
//! Units: steps per round; weights are relative.
//! Threads: plain values.
//! Source: the table of changes in the project's design, section 2.

use std::fmt;
use std::str::FromStr;

use p2mtrack::config::{AliasPolicy, Config, ForeignPtePolicy, Verify};
use p2mtrack::frame::{Claim, Entry, Width};
use p2mtrack::port::LOG_DIRTY_LEAF_PFNS;

use crate::behaviour::Behaviour;
use crate::dice::Dice;
use crate::guest::P2mKind;

/// Purpose of the stream that gaps are drawn from.
const GAP: u64 = 0x6a9;

/// What the guest does while it is migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each variant is described by `Scenario::about`")]
pub enum Scenario {
    Quiet,
    Writes,
    Balloon,
    BalloonSameFrame,
    Exchange,
    GrantMap,
    TransferIn,
    Hotplug,
    Shrink,
    LinearReshape,
    TreeReshape,
    LeafMoved,
    RootSwap,
    FrameSwap,
    P2mFirst,
    M2pFirst,
    PageTables,
    BackendWrites,
    Remus,
    Hostile,
    Mixed,
    SamePfn,
    ForeignPte,
    Untagged,
    Transfers,
    GrantCopy,
    Held,
    TablePieces,
    Alias,
    M2pStale,
    Wide,
    GivenAway,
}

impl Scenario {
    /// All scenarios, in the order of the list on the command line.
    pub const ALL: [Self; 32] = [
        Self::Quiet,
        Self::Writes,
        Self::Balloon,
        Self::BalloonSameFrame,
        Self::Exchange,
        Self::GrantMap,
        Self::TransferIn,
        Self::Hotplug,
        Self::Shrink,
        Self::LinearReshape,
        Self::TreeReshape,
        Self::LeafMoved,
        Self::RootSwap,
        Self::FrameSwap,
        Self::P2mFirst,
        Self::M2pFirst,
        Self::PageTables,
        Self::BackendWrites,
        Self::Remus,
        Self::Hostile,
        Self::Mixed,
        Self::SamePfn,
        Self::ForeignPte,
        Self::Untagged,
        Self::Transfers,
        Self::GrantCopy,
        Self::Held,
        Self::TablePieces,
        Self::Alias,
        Self::M2pStale,
        Self::Wide,
        Self::GivenAway,
    ];

    const fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::Quiet => ("quiet", "an idle guest: next to nothing is written"),
            Self::Writes => ("writes", "the guest writes its pages, nothing else changes"),
            Self::Balloon => ("balloon", "pages are ballooned out and in"),
            Self::BalloonSameFrame => {
                ("balloon-same-frame", "ballooned out, and in again with the very same frame")
            }
            Self::Exchange => {
                ("exchange", "frames are exchanged with Xen (contiguous DMA buffers)")
            }
            Self::GrantMap => {
                ("grant-map", "frames of other domains are mapped at ballooned and at used pfns")
            }
            Self::TransferIn => (
                "transfer-in",
                "frames are given to other domains and got back with their contents",
            ),
            Self::Hotplug => ("hotplug", "the guest grows: new leaves, tables, then frames"),
            Self::Shrink => ("shrink", "the tail is ballooned out and the pfn count lowered"),
            Self::LinearReshape => {
                ("linear-reshape", "leaves and page tables of the linear list move to other frames")
            }
            Self::TreeReshape => (
                "tree-reshape",
                "leaves and mids of the tree move to other frames, without a counter",
            ),
            Self::LeafMoved => {
                ("leaf-moved", "the frame or the pfn of a leaf changes, its slot perhaps not")
            }
            Self::RootSwap => ("root-swap", "a new top frame, or a new cr3 for the linear list"),
            Self::FrameSwap => {
                ("frame-swap", "two frames swap their pfns; page tables keep their entries")
            }
            Self::P2mFirst => ("p2m-first", "frames move, the p2m long before the m2p"),
            Self::M2pFirst => ("m2p-first", "frames move, the m2p long before the p2m"),
            Self::PageTables => {
                ("page-tables", "page tables are made, written, pinned, freed and used as data")
            }
            Self::BackendWrites => {
                ("backend-writes", "backends and daemons write pages that log-dirty never sees")
            }
            Self::Remus => ("remus", "checkpoints: suspend, resume with the generation reset"),
            Self::Hostile => ("hostile", "a guest that lies: named errors are a good answer"),
            Self::Mixed => ("mixed", "all of the honest ones together"),
            Self::SamePfn => {
                ("same-pfn", "frames of other domains are mapped at the pfns that they have there")
            }
            Self::ForeignPte => {
                ("foreign-pte", "page tables that name such frames when the guest is suspended")
            }
            Self::Untagged => {
                ("untagged", "frames change their owner under entries that are equal afterwards")
            }
            Self::Transfers => {
                ("transfers", "frames come by transfer to pfns whose entries name them already")
            }
            Self::GrantCopy => {
                ("grant-copy", "backends copy into pages, which are marked once it is done")
            }
            Self::Held => {
                ("held", "exchanges fail on frames with other references, and are tried again")
            }
            Self::TablePieces => {
                ("table-pieces", "page tables are validated and taken apart in pieces")
            }
            Self::Alias => {
                ("alias", "two pfns name one frame, which is written between checkpoints")
            }
            Self::M2pStale => (
                "m2p-stale",
                "pfns whose frames the m2p gives to others, written between checkpoints",
            ),
            Self::Wide => (
                "wide",
                "all of mixed, over pfns of several leaves of the log, most of them without a frame",
            ),
            Self::GivenAway => (
                "given-away",
                "frames are given away and their entries stay: full verification finds them",
            ),
        }
    }

    /// Checkpoints before the last suspend if no number is configured. `drawn` is from 2 to 5.
    pub(crate) const fn checkpoints(self, drawn: u32) -> u32 {
        match self {
            Self::Remus | Self::Alias | Self::M2pStale => drawn,
            Self::ForeignPte
            | Self::Untagged
            | Self::Transfers
            | Self::TablePieces
            | Self::GivenAway => drawn - 2,
            _ => 0,
        }
    }

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// What the guest does, in one line.
    #[must_use]
    pub const fn about(self) -> &'static str {
        self.row().1
    }

    /// Whether a run may end in a named error without any fault under some policies: the guest
    /// lies, or does what a policy refuses.
    #[must_use]
    pub const fn is_hostile(self) -> bool {
        matches!(self, Self::Hostile | Self::ForeignPte | Self::Alias)
    }

    /// Whether a run with this configuration may end in a named error without any fault: the guest
    /// lies, or a policy refuses what it does.
    #[must_use]
    pub const fn may_be_refused(self, engine: &Config) -> bool {
        match self {
            Self::Hostile => true,
            Self::ForeignPte => matches!(engine.foreign_pte, ForeignPtePolicy::Refuse),
            Self::Alias => matches!(engine.alias, AliasPolicy::Refuse),
            _ => false,
        }
    }

    /// The engine's configuration with the policies under which the scenario is played. Where two
    /// are of interest the seed chooses.
    #[must_use]
    pub fn engine(self, seed: u64, config: Config) -> Config {
        match self {
            // The lower bits of a schedule's number depend on the scenario.
            Self::ForeignPte if seed.count_ones().is_multiple_of(2) => {
                Config { foreign_pte: ForeignPtePolicy::Clear, ..config }
            }
            Self::Alias => Config { alias: AliasPolicy::Copy, ..config },
            Self::GivenAway => Config { verify: Verify::Full, ..config },
            _ => config,
        }
    }

    /// Whether the guest may arrive wrong without an error unless the policies of
    /// [`Scenario::engine`] are set: it breaks the premise that a guest that gives a frame away
    /// writes its entry.
    #[must_use]
    pub const fn needs_policies(self) -> bool {
        matches!(self, Self::GivenAway)
    }

    /// Pfns of a gap between the frames, so that the guest spans several leaves of Xen's log; 0 for
    /// none.
    pub(crate) fn gap(self, seed: u64) -> u64 {
        let mut dice = Dice::new(seed, GAP);
        let pfns = dice.between(LOG_DIRTY_LEAF_PFNS, 3 * LOG_DIRTY_LEAF_PFNS);
        match self {
            Self::Wide => pfns,
            Self::Mixed | Self::Remus if dice.chance(1, 8) => pfns,
            _ => 0,
        }
    }

    /// Whether some suspends are taken back: the round fails, and the guest runs on.
    #[must_use]
    pub const fn takes_back(self) -> bool {
        matches!(
            self,
            Self::Remus
                | Self::ForeignPte
                | Self::Untagged
                | Self::Transfers
                | Self::Alias
                | Self::M2pStale
                | Self::GivenAway
        )
    }

    /// The kind of p2m that the scenario is about, if it is about one.
    #[must_use]
    pub const fn forced_p2m(self) -> Option<P2mKind> {
        match self {
            Self::LinearReshape => Some(P2mKind::Linear),
            Self::TreeReshape => Some(P2mKind::Tree),
            _ => None,
        }
    }

    fn behaviours(self) -> Vec<(Behaviour, u64)> {
        use Behaviour as B;
        match self {
            Self::Quiet | Self::Writes => vec![],
            Self::Balloon => vec![(B::BalloonOut, 4), (B::BalloonIn, 4), (B::Others, 1)],
            Self::BalloonSameFrame => vec![(B::SameFrame, 4), (B::BalloonOut, 1)],
            Self::Exchange => vec![(B::Exchange, 4), (B::Others, 1)],
            Self::GrantMap => {
                vec![
                    (B::GrantMap, 4),
                    (B::Overlay, 3),
                    (B::SelfOverlay, 2),
                    (B::SelfGrant, 2),
                    (B::ForeignPte, 1),
                    (B::BalloonOut, 1),
                ]
            }
            Self::TransferIn => vec![(B::TransferIn, 2), (B::TransferBack, 6), (B::BalloonOut, 1)],
            Self::Hotplug => vec![(B::Grow, 2), (B::BalloonIn, 8)],
            Self::Shrink => vec![(B::Shrink, 6), (B::Grow, 1), (B::BalloonIn, 2)],
            Self::LinearReshape | Self::TreeReshape => {
                vec![
                    (B::ReshapeLeaf, 4),
                    (B::ReshapeTable, 4),
                    (B::BalloonIn, 2),
                    (B::BalloonOut, 2),
                ]
            }
            Self::LeafMoved => {
                vec![
                    (B::LeafExchanged, 4),
                    (B::LeafRenamed, 4),
                    (B::BalloonIn, 1),
                    (B::BalloonOut, 1),
                ]
            }
            Self::RootSwap => vec![(B::RootSwap, 2), (B::BalloonIn, 2), (B::BalloonOut, 2)],
            Self::FrameSwap => vec![(B::FrameSwap, 6), (B::FrameMove, 2)],
            Self::P2mFirst => vec![(B::P2mFirst, 1)],
            Self::M2pFirst => vec![(B::M2pFirst, 1)],
            Self::PageTables => vec![
                (B::TableMade, 3),
                (B::TableWritten, 8),
                (B::TableFreed, 2),
                (B::TablePinned, 3),
                (B::BalloonOut, 2),
                (B::BalloonIn, 2),
            ],
            Self::BackendWrites => vec![(B::Backend, 4), (B::Daemon, 2)],
            Self::Hostile => {
                vec![(B::Hostile, 6), (B::BalloonOut, 1), (B::BalloonIn, 1), (B::FrameSwap, 1)]
            }
            Self::SamePfn => vec![
                (B::SamePfn, 6),
                (B::GrantMap, 1),
                (B::TableWritten, 3),
                (B::BalloonOut, 2),
                (B::BalloonIn, 2),
            ],
            Self::ForeignPte => vec![
                (B::ForeignPteStays, 2),
                (B::SamePfn, 2),
                (B::TableWritten, 3),
                (B::BalloonOut, 1),
                (B::BalloonIn, 1),
            ],
            Self::Untagged => vec![
                (B::Untagged, 2),
                (B::GivenAndMapped, 4),
                (B::FrameComes, 4),
                (B::BalloonOut, 1),
                (B::BalloonIn, 1),
            ],
            Self::Transfers => vec![
                (B::Transfers, 8),
                (B::TransferBack, 1),
                (B::SelfGrant, 1),
                (B::BalloonOut, 1),
                (B::BalloonIn, 1),
            ],
            Self::GrantCopy => vec![(B::GrantCopy, 4), (B::Backend, 1), (B::FrameSwap, 2)],
            Self::Held => vec![
                (B::Held, 4),
                (B::OldLeafExchanged, 2),
                (B::Exchange, 2),
                (B::TransferBack, 1),
                (B::BalloonOut, 1),
            ],
            Self::TablePieces => vec![
                (B::TableInPieces, 4),
                (B::TableWritten, 2),
                (B::FrameSwap, 1),
                (B::BalloonOut, 1),
                (B::BalloonIn, 1),
            ],
            Self::Alias => vec![
                (B::Alias, 4),
                (B::M2pStale, 2),
                (B::FrameSwap, 1),
                (B::BalloonOut, 1),
                (B::BalloonIn, 1),
            ],
            Self::M2pStale => {
                vec![(B::M2pStale, 6), (B::FrameSwap, 1), (B::BalloonOut, 1), (B::BalloonIn, 1)]
            }
            Self::GivenAway => vec![(B::GivenAway, 4), (B::BalloonOut, 1), (B::BalloonIn, 2)],
            Self::Remus | Self::Mixed | Self::Wide => {
                Behaviour::HONEST.iter().map(|&b| (b, 2)).collect()
            }
        }
    }

    /// The scenario's mix for one seed.
    pub(crate) fn mix(self, frames: u64, dice: &mut Dice) -> Mix {
        let most = (frames / 4).clamp(256, 32_768);
        let busy = (dice.magnitude(most / 16) * 16).max(1024.min(most));
        let (steps, plain_writes) = match self {
            Self::Quiet => (8, 16),
            Self::Writes => (busy, 16),
            Self::Mixed | Self::Remus | Self::Wide => {
                (busy.max(2048.min(most)), dice.pick(&[1, 4]))
            }
            _ => (busy, dice.pick(&[1, 4, 10])),
        };
        Mix {
            behaviours: self.behaviours(),
            vcpus: dice.between(1, 8) as usize,
            steps,
            burst: dice.pick(&[2, 8, 32, 128]),
            plain_writes,
            honest: self != Self::Hostile,
            foreign_ptes: self == Self::ForeignPte,
            shared: matches!(self, Self::Alias | Self::M2pStale),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name of no scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownScenario(pub String);

impl fmt::Display for UnknownScenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown scenario '{}'", self.0)
    }
}

impl std::error::Error for UnknownScenario {}

impl FromStr for Scenario {
    type Err = UnknownScenario;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|scenario| scenario.name() == name)
            .ok_or_else(|| UnknownScenario(name.to_owned()))
    }
}

/// What a guest does, how often and how fast.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    behaviours: Vec<(Behaviour, u64)>,
    /// Programs that may run at once.
    pub(crate) vcpus: usize,
    /// Steps in a first round, at most.
    pub(crate) steps: u64,
    /// Steps at one port call, at most.
    pub(crate) burst: u64,
    /// Of 16 steps, those that are plain stores.
    pub(crate) plain_writes: u64,
    /// The guest keeps its own rules.
    pub(crate) honest: bool,
    /// Page tables may name frames of other domains when the guest is suspended.
    pub(crate) foreign_ptes: bool,
    /// Two pfns may name one frame when the guest is suspended, and the m2p of a frame another pfn.
    shared: bool,
}

impl Mix {
    /// Whether an entry that names a frame of another pfn makes it a frame of its own pfn, too.
    pub(crate) fn shares(&self, width: Width, entry: Entry) -> bool {
        self.shared && matches!(entry.claim(width), Claim::Frame(_))
    }

    /// Draws the next behaviour.
    pub(crate) fn draw(&self, dice: &mut Dice) -> Option<Behaviour> {
        let total: u64 = self.behaviours.iter().map(|b| b.1).sum();
        let mut at = dice.below(total);
        self.behaviours
            .iter()
            .find(|(_, weight)| {
                let hit = at < *weight;
                at = at.wrapping_sub(*weight);
                hit
            })
            .map(|b| b.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_differ() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.name().parse(), Ok(scenario));
            assert!(!scenario.about().is_empty());
        }
        assert!("none".parse::<Scenario>().is_err());
    }
}
