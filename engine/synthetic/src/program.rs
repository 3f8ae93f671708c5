// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a vCPU does: a list of micro-steps, each one store or one hypercall, with registers for
//! run-time frames.
//! Not here: how a step is carried out (`exec`), or which lists are legal (`behaviour`).
//! Units: pfn and mfn as plain numbers.
//! Threads: plain values.
//! Source: the orders of Linux, mini-os and NetBSD, `xen-save-path.md` 4.

use std::collections::VecDeque;

use crate::grant::Offer;
use crate::guest::Claimed;

/// A frame that is known when planned, or one that a register has at run time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Val {
    Is(u64),
    Reg(usize),
}

/// What is written into a p2m entry.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Name {
    Nothing,
    Frame(Val),
    Foreign(Val),
    /// Any word: hostile guests.
    Word(u64),
}

/// One store or one hypercall.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// From here the guest would not suspend: a premise may be broken.
    Open,
    /// The guest is consistent again.
    Close,
    /// Does nothing until log-dirty was taken this many times more (a suspend ends the wait).
    AwaitRounds(u64),
    /// Does nothing until the grant table was queried this many times more.
    AwaitGrantQueries(u64),
    /// Stores into a data page.
    Write(Val),
    /// A daemon or Xen stores into a page: no mark.
    WriteUnlogged(u64),
    /// Writes an entry of the p2m.
    Entry { pfn: u64, name: Name },
    /// `MMU_MACHPHYS_UPDATE`.
    Machphys { mfn: Val, pfn: u64 },
    /// `XENMEM_decrease_reservation`.
    Decrease(Val),
    /// `XENMEM_populate_physmap`.
    Populate { pfn: u64, reg: usize, prefer: Option<u64> },
    /// `XENMEM_exchange`; Xen may refuse, and the register has the old frame then. Nothing if it
    /// was exchanged before.
    Exchange { old: u64, pfn: u64, reg: usize },
    /// Writes a PTE.
    Pte { table: u64, slot: u16, to: Option<Val> },
    /// Fills a page with one word.
    Fill { mfn: u64, word: u64 },
    /// Stores a word into a page that is not a table yet.
    Word { mfn: u64, index: usize, word: u64 },
    /// Stores an entry into any page: hostile guests.
    Slot { mfn: u64, slot: usize, word: u64 },
    /// Copies a page.
    Copy { from: u64, to: Val },
    /// Re-points a slot of the p2m's structure; level 0 names a leaf.
    Hang { level: u8, key: u64, mfn: Val },
    /// The kernel records what a slot, written before, already names.
    Adopt { level: u8, key: u64, mfn: u64 },
    /// Moves the generation, if the kernel does that.
    Bump,
    /// Sets the generation.
    Generation(u64),
    /// Sets the count of pfns.
    Count(u64),
    /// New root: top frame or cr3.
    Root(u64),
    /// Any roots: hostile guests.
    Roots { frame_list_list: u64, p2m_cr3: u64 },
    /// `MMUEXT_PIN_Ln_TABLE`.
    Pin { mfn: u64, level: u8 },
    /// `MMUEXT_UNPIN_TABLE`.
    Unpin(u64),
    /// A piece of a pin that Xen interrupts after so many slots.
    PinPiece { mfn: u64, level: u8, slots: usize },
    /// A piece of an unpin.
    UnpinPiece { mfn: u64, slots: usize },
    /// The kernel lists a table of a process, or forgets it.
    ListTable { mfn: u64, level: u8, listed: bool },
    /// Unmaps a frame of another domain, mapped when the program was planned or by
    /// [`Step::TheyTake`].
    UnmapForeign(Val),
    /// A backend maps a frame of the guest for writing.
    BackendMaps(u64),
    /// The backend unmaps it.
    BackendUnmaps(u64),
    /// A backend's grant copy begins: writes a page.
    CopyBegins(u64),
    /// The copy ends: marks the page.
    CopyEnds(u64),
    /// Gives a frame to another domain; if Xen refuses, an entry that was touched is written again,
    /// and the program ends.
    TransferOut { mfn: u64, pfn: u64, there: u64, touched: bool },
    /// Another domain gives a frame by the program's transfer entry.
    TransferIn { mfn: u64, pfn: u64 },
    /// The guest adds a transfer entry to the grant table.
    Accept(u64),
    /// Xen writes the transfer entry.
    Offer(Offer),
    /// The guest removes the transfer entry.
    Withdraw,
    /// Another domain gives one of its frames this pfn of its own.
    TheirPfn { mfn: u64, pfn: u64 },
    /// Another domain takes a free frame, `prefer` if it is free, has it at this pfn of its own and
    /// writes it; the guest maps it.
    TheyTake { pfn: u64, reg: usize, prefer: Option<u64> },
    /// Another domain frees a frame of its own that nobody maps.
    TheyFree(Val),
    /// Writes the pfn's entry for the frame that came, unless it names the frame already.
    Settle { pfn: u64, reg: usize },
    /// Another domain takes a free frame and writes it.
    OtherTakes,
    /// Another domain frees one of its frames.
    OtherFrees,
}

/// Registers of a program.
pub(crate) const REGISTERS: usize = 32;

/// A running program.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) steps: VecDeque<Step>,
    pub(crate) registers: Vec<u64>,
    pub(crate) claimed: Claimed,
    /// Sections between [`Step::Open`] and [`Step::Close`] that it is in.
    pub(crate) open: u32,
    /// Log-dirty takes before it goes on.
    pub(crate) after_round: u64,
    /// Queries of the grant table before it goes on.
    pub(crate) after_grant_query: u64,
    /// Its transfer entry in the grant table.
    pub(crate) offer: Option<u64>,
    /// Left out of the schedule: it takes its time and keeps its claims, but does nothing.
    pub(crate) idle: bool,
    /// Pfns that become usable when it ends.
    pub(crate) adds: std::ops::Range<u64>,
}

impl Program {
    /// The frame of a value.
    pub(crate) fn value(&self, val: Val) -> u64 {
        match val {
            Val::Is(mfn) => mfn,
            Val::Reg(reg) => self.registers[reg],
        }
    }

    /// Whether it waits for a round or a query of the grant table.
    pub(crate) fn is_waiting(&self, rounds: u64, grant_queries: u64) -> bool {
        self.after_round > rounds || self.after_grant_query > grant_queries
    }
}
