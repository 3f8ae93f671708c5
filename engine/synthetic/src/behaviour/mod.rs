// SPDX-License-Identifier: MIT OR Apache-2.0
//! What guests do: each behaviour plans a program, choosing at random among the legal orders of its steps.
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
mod reshape;
mod shared;
mod swap;
mod table;
mod transfer;

use crate::dice::Dice;
use crate::guest::NONE;
use crate::machine::Machine;
use crate::program::{Program, REGISTERS, Step, Val};
use crate::world::World;

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

/// Plans a program; `None` if the guest has not what it takes at the moment.
pub(crate) fn plan(world: &mut World, behaviour: Behaviour) -> Option<Program> {
    let program = Program { registers: vec![NONE; REGISTERS], ..Program::default() };
    let mut plan = Plan { world, program, registers: 0 };
    let ready = plan.make(behaviour);
    let Plan { world, mut program, .. } = plan;
    if ready.is_some() && !program.steps.is_empty() {
        return Some(program);
    }
    world.guest.release(&world.xen.machine, std::mem::take(&mut program.claimed));
    None
}

/// Whether a program with this step left has to stay as it is over a suspend.
pub(crate) const fn outlives_suspend(step: Step) -> bool {
    matches!(step, Step::AwaitLooks(_))
}

/// A program in the making.
pub(crate) struct Plan<'w> {
    world: &'w mut World,
    program: Program,
    registers: usize,
}

impl Plan<'_> {
    fn make(&mut self, behaviour: Behaviour) -> Option<()> {
        match behaviour {
            Behaviour::BalloonOut => self.balloon_out(),
            Behaviour::BalloonIn => self.balloon_in(),
            Behaviour::SameFrame => self.same_frame(),
            Behaviour::Exchange => self.exchange(),
            Behaviour::GrantMap => self.grant_map(),
            Behaviour::Overlay => self.overlay(),
            Behaviour::SelfOverlay => self.self_overlay(),
            Behaviour::SelfGrant => self.self_grant(),
            Behaviour::ForeignPte => self.foreign_pte(),
            Behaviour::TransferIn => self.transfer_in(),
            Behaviour::TransferBack => self.transfer_back(),
            Behaviour::Grow => self.grow(),
            Behaviour::Shrink => self.shrink(),
            Behaviour::ReshapeLeaf => self.reshape_leaf(),
            Behaviour::ReshapeTable => self.reshape_table(),
            Behaviour::LeafExchanged => self.leaf_exchanged(),
            Behaviour::LeafRenamed => self.leaf_renamed(),
            Behaviour::RootSwap => self.root_swap(),
            Behaviour::FrameSwap => self.frame_swap(),
            Behaviour::FrameMove => self.frame_move(),
            Behaviour::P2mFirst => self.slow_move(swap::Order::P2mFirst),
            Behaviour::M2pFirst => self.slow_move(swap::Order::M2pFirst),
            Behaviour::TableMade => self.table_made(),
            Behaviour::TableWritten => self.table_written(),
            Behaviour::TableFreed => self.table_freed(),
            Behaviour::TablePinned => self.table_pinned(),
            Behaviour::Backend => self.backend(),
            Behaviour::Daemon => self.daemon(),
            Behaviour::Others => self.others(),
            Behaviour::Hostile => self.hostile(),
            Behaviour::SamePfn => self.same_pfn(grant::Pte::Brief),
            Behaviour::ForeignPteStays if self.chance(1, 2) => self.given_and_mapped(true),
            Behaviour::ForeignPteStays => self.same_pfn(grant::Pte::Stays),
            Behaviour::Untagged => self.untagged(),
            Behaviour::GivenAndMapped => self.given_and_mapped(false),
            Behaviour::FrameComes => self.frame_comes(),
            Behaviour::Transfers => self.transfers(),
            Behaviour::GrantCopy => self.grant_copy(),
            Behaviour::Held => match self.dice().below(3) {
                0 => self.out_while_mapped(),
                _ => self.held(),
            },
            Behaviour::OldLeafExchanged => self.old_leaf_exchanged(),
            Behaviour::TableInPieces => self.table_in_pieces(),
            Behaviour::Alias => self.shared_alias(),
            Behaviour::M2pStale => self.stale_m2p(),
            Behaviour::GivenAway => self.given_away(),
        }
    }

    fn machine(&self) -> &Machine {
        &self.world.xen.machine
    }

    const fn dice(&mut self) -> &mut Dice {
        &mut self.world.dice
    }

    /// True `part` times of `whole`.
    fn chance(&mut self, part: u64, whole: u64) -> bool {
        self.world.dice.chance(part, whole)
    }

    fn push(&mut self, step: Step) {
        self.program.steps.push_back(step);
    }

    fn extend(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.program.steps.extend(steps);
    }

    /// Steps during which the guest would not suspend.
    fn section(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.push(Step::Open);
        self.extend(steps);
        self.push(Step::Close);
    }

    /// A register.
    fn register(&mut self) -> Option<usize> {
        self.registers += 1;
        (self.registers <= REGISTERS).then(|| self.registers - 1)
    }

    /// Takes a pfn.
    fn claim(&mut self, pfn: u64) -> Option<()> {
        let guest = &mut self.world.guest;
        guest.claims.take_pfn(guest.width, pfn, &mut self.program.claimed).then_some(())
    }

    /// Takes a pfn with an ordinary data page.
    fn data(&mut self) -> Option<(u64, u64)> {
        let World { guest, xen, dice, .. } = &mut *self.world;
        let pfn = guest.pick_data(&xen.machine, dice)?;
        let mfn = guest.frame(&xen.machine, pfn)?;
        self.claim(pfn)?;
        Some((pfn, mfn))
    }

    /// Takes a pfn with a data page that no page table names.
    fn unmapped_data(&mut self) -> Option<(u64, u64)> {
        let World { guest, xen, dice, .. } = &mut *self.world;
        let found = (0..8).find_map(|_| {
            let pfn = guest.pick_data(&xen.machine, dice)?;
            let mfn = guest.frame(&xen.machine, pfn)?;
            (xen.machine.refs(mfn) == 0).then_some((pfn, mfn))
        })?;
        self.claim(found.0)?;
        Some(found)
    }

    /// Takes a pfn without a frame.
    fn hole(&mut self) -> Option<u64> {
        let World { guest, xen, dice, .. } = &mut *self.world;
        let pfn = guest.take_hole(&xen.machine, dice)?;
        self.claim(pfn)?;
        Some(pfn)
    }

    /// A frame of another domain, referenced from now on so that it stays theirs.
    fn foreign(&mut self) -> Option<u64> {
        let World { others, dice, xen, .. } = &mut *self.world;
        let mfn = (!others.is_empty()).then(|| dice.pick(others))?;
        xen.map_foreign(mfn);
        Some(mfn)
    }

    /// Steps that clear every PTE that names a frame; the tables are taken too.
    fn clear_ptes(&mut self, mfn: u64) -> Option<Vec<Step>> {
        let ptes: Vec<(u64, u16)> = self.machine().ptes_to(mfn).collect();
        for &(table, _) in &ptes {
            let pfn = self.machine().m2p.pfn(table)?;
            if !self.program.claimed.has_pfn(pfn) {
                self.claim(pfn)?;
            }
        }
        Some(ptes.into_iter().map(|(table, slot)| Step::Pte { table, slot, to: None }).collect())
    }

    /// Steps that write the PTEs of [`Plan::clear_ptes`] again, for another frame.
    fn restore_ptes(cleared: &[Step], to: Val) -> Vec<Step> {
        let restored = cleared.iter().filter_map(|step| match *step {
            Step::Pte { table, slot, .. } => Some(Step::Pte { table, slot, to: Some(to) }),
            _ => None,
        });
        restored.collect()
    }

    /// Whether Xen has frames enough that no program runs out.
    fn has_free_frames(&self) -> Option<()> {
        (self.machine().free.len() > 1024).then_some(())
    }

    /// Whether the guest has frames enough to give some away.
    fn has_frames_to_spare(&self) -> Option<()> {
        (self.machine().guest_frames() > self.world.guest.frames_at_start() / 2).then_some(())
    }

    /// A short wait for rounds to pass, or none.
    fn maybe_wait(&mut self) -> Vec<Step> {
        match self.dice().below(4) {
            0 => vec![Step::AwaitRounds(1)],
            1 => vec![Step::AwaitRounds(self.dice().between(1, 3))],
            _ => vec![],
        }
    }
}
