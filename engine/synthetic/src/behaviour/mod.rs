// SPDX-License-Identifier: MIT OR Apache-2.0
//! What guests do: each behaviour plans a program, choosing at random among the legal orders of its
//! steps.
//! Not here: which guest does which (`scenario`), or when (`world`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: `xen-save-path.md` 4.2 and 4.3; the table of changes in the project's design, section 2.

mod backend;
mod balloon;
mod grant;
mod growth;
mod held;
mod hostile;
mod leaf;
mod owner;
mod plan;
mod reshape;
mod shared;
mod swap;
mod table;
mod transfer;

use plan::Plan;

use crate::dice::Dice;
use crate::guest::{Guest, NONE};
use crate::program::{Program, REGISTERS, Step};
use crate::xen::Xen;

/// One thing that a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    BalloonOut,
    BalloonIn,
    SameFrame,
    Exchange,
    GrantMap,
    Overlay,
    SelfOverlay,
    SelfGrant,
    ForeignPte,
    TransferIn,
    TransferBack,
    Grow,
    Shrink,
    ReshapeLeaf,
    ReshapeTable,
    LeafExchanged,
    LeafRenamed,
    RootSwap,
    FrameSwap,
    FrameMove,
    P2mFirst,
    M2pFirst,
    TableMade,
    TableWritten,
    TableFreed,
    TablePinned,
    Backend,
    Daemon,
    Others,
    Hostile,
    SamePfn,
    ForeignPteStays,
    Untagged,
    GivenAndMapped,
    FrameComes,
    Transfers,
    GrantCopy,
    Held,
    OldLeafExchanged,
    TableInPieces,
    Alias,
    M2pStale,
    GivenAway,
}

impl Behaviour {
    /// All that an honest guest does, if no policy is needed for it.
    pub(crate) const HONEST: [Self; 38] = [
        Self::BalloonOut,
        Self::BalloonIn,
        Self::SameFrame,
        Self::Exchange,
        Self::GrantMap,
        Self::Overlay,
        Self::SelfOverlay,
        Self::SelfGrant,
        Self::ForeignPte,
        Self::TransferIn,
        Self::TransferBack,
        Self::Grow,
        Self::Shrink,
        Self::ReshapeLeaf,
        Self::ReshapeTable,
        Self::LeafExchanged,
        Self::LeafRenamed,
        Self::RootSwap,
        Self::FrameSwap,
        Self::FrameMove,
        Self::P2mFirst,
        Self::M2pFirst,
        Self::TableMade,
        Self::TableWritten,
        Self::TableFreed,
        Self::TablePinned,
        Self::Backend,
        Self::Daemon,
        Self::Others,
        Self::SamePfn,
        Self::Untagged,
        Self::GivenAndMapped,
        Self::FrameComes,
        Self::Transfers,
        Self::GrantCopy,
        Self::Held,
        Self::OldLeafExchanged,
        Self::TableInPieces,
    ];

    /// The name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BalloonOut => "balloon-out",
            Self::BalloonIn => "balloon-in",
            Self::SameFrame => "same-frame",
            Self::Exchange => "exchange",
            Self::GrantMap => "grant-map",
            Self::Overlay => "overlay",
            Self::SelfOverlay => "self-overlay",
            Self::SelfGrant => "self-grant",
            Self::ForeignPte => "foreign-pte",
            Self::TransferIn => "transfer-in",
            Self::TransferBack => "transfer-back",
            Self::Grow => "grow",
            Self::Shrink => "shrink",
            Self::ReshapeLeaf => "reshape-leaf",
            Self::ReshapeTable => "reshape-table",
            Self::LeafExchanged => "leaf-exchanged",
            Self::LeafRenamed => "leaf-renamed",
            Self::RootSwap => "root-swap",
            Self::FrameSwap => "frame-swap",
            Self::FrameMove => "frame-move",
            Self::P2mFirst => "p2m-first",
            Self::M2pFirst => "m2p-first",
            Self::TableMade => "table-made",
            Self::TableWritten => "table-written",
            Self::TableFreed => "table-freed",
            Self::TablePinned => "table-pinned",
            Self::Backend => "backend",
            Self::Daemon => "daemon",
            Self::Others => "others",
            Self::Hostile => "hostile",
            Self::SamePfn => "same-pfn",
            Self::ForeignPteStays => "foreign-pte-stays",
            Self::Untagged => "untagged",
            Self::GivenAndMapped => "given-and-mapped",
            Self::FrameComes => "frame-comes",
            Self::Transfers => "transfers",
            Self::GrantCopy => "grant-copy",
            Self::Held => "held",
            Self::OldLeafExchanged => "old-leaf-exchanged",
            Self::TableInPieces => "table-in-pieces",
            Self::Alias => "alias",
            Self::M2pStale => "m2p-stale",
            Self::GivenAway => "given-away",
        }
    }
}

/// Plans a program; `None` if the guest lacks what it needs at the moment.
pub(crate) fn plan(
    behaviour: Behaviour,
    guest: &mut Guest,
    xen: &mut Xen,
    others: &mut Vec<u64>,
    dice: &mut Dice,
) -> Option<Program> {
    let program = Program { registers: vec![NONE; REGISTERS], ..Program::default() };
    let mut plan = Plan { guest, xen, others, dice, program, registers: 0 };
    let ready = make(&mut plan, behaviour);
    let Plan { guest, xen, mut program, .. } = plan;
    if ready.is_some() && !program.steps.is_empty() {
        return Some(program);
    }
    guest.release(&xen.machine, std::mem::take(&mut program.claimed));
    None
}

fn make(plan: &mut Plan<'_>, behaviour: Behaviour) -> Option<()> {
    match behaviour {
        Behaviour::BalloonOut => balloon::balloon_out(plan),
        Behaviour::BalloonIn => balloon::balloon_in(plan),
        Behaviour::SameFrame => balloon::same_frame(plan),
        Behaviour::Exchange => balloon::exchange(plan),
        Behaviour::GrantMap => grant::grant_map(plan),
        Behaviour::Overlay => grant::overlay(plan),
        Behaviour::SelfOverlay => grant::self_overlay(plan),
        Behaviour::SelfGrant => grant::self_grant(plan),
        Behaviour::ForeignPte => grant::foreign_pte(plan),
        Behaviour::TransferIn => transfer::transfer_in(plan),
        Behaviour::TransferBack => transfer::transfer_back(plan),
        Behaviour::Grow => growth::grow(plan),
        Behaviour::Shrink => growth::shrink(plan),
        Behaviour::ReshapeLeaf => reshape::reshape_leaf(plan),
        Behaviour::ReshapeTable => reshape::reshape_table(plan),
        Behaviour::LeafExchanged => leaf::leaf_exchanged(plan),
        Behaviour::LeafRenamed => leaf::leaf_renamed(plan),
        Behaviour::RootSwap => reshape::root_swap(plan),
        Behaviour::FrameSwap => swap::frame_swap(plan),
        Behaviour::FrameMove => swap::frame_move(plan),
        Behaviour::P2mFirst => swap::slow_move(plan, swap::Order::P2mFirst),
        Behaviour::M2pFirst => swap::slow_move(plan, swap::Order::M2pFirst),
        Behaviour::TableMade => table::table_made(plan),
        Behaviour::TableWritten => table::table_written(plan),
        Behaviour::TableFreed => table::table_freed(plan),
        Behaviour::TablePinned => table::table_pinned(plan),
        Behaviour::Backend => backend::backend(plan),
        Behaviour::Daemon => backend::daemon(plan),
        Behaviour::Others => backend::others(plan),
        Behaviour::Hostile => hostile::hostile(plan),
        Behaviour::SamePfn => grant::same_pfn(plan, grant::Pte::Brief),
        Behaviour::ForeignPteStays if plan.chance(1, 2) => owner::given_and_mapped(plan, true),
        Behaviour::ForeignPteStays => grant::same_pfn(plan, grant::Pte::Stays),
        Behaviour::Untagged => owner::untagged(plan),
        Behaviour::GivenAndMapped => owner::given_and_mapped(plan, false),
        Behaviour::FrameComes => owner::frame_comes(plan),
        Behaviour::Transfers => transfer::transfers(plan),
        Behaviour::GrantCopy => backend::grant_copy(plan),
        Behaviour::Held => match plan.dice.below(3) {
            0 => held::out_while_mapped(plan),
            _ => held::held(plan),
        },
        Behaviour::OldLeafExchanged => held::old_leaf_exchanged(plan),
        Behaviour::TableInPieces => table::table_in_pieces(plan),
        Behaviour::Alias => shared::shared_alias(plan),
        Behaviour::M2pStale => shared::stale_m2p(plan),
        Behaviour::GivenAway => transfer::given_away(plan),
    }
}

/// Whether a program with this step left must not be finished by a suspend.
pub(crate) const fn outlives_suspend(step: Step) -> bool {
    matches!(step, Step::AwaitGrantQueries(_))
}
