// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ports that a back end implements: real Xen, a simulated one, a trace, a host's callbacks.
//! Not here: any implementation. The engine has no other access to the outside: no I/O, no clock.
//! Units: frames of 4 KiB; bitmaps as in `bitmap`.
//! Threads: all shards call `M2p`, and `live`, `is_run` and `entries` of `P2mSource` at once; the
//! caller's thread calls everything else.
//! Source: the operations exist in Xen's public headers (`domctl.h` shadow_op and
//! getpageframeinfo3, `memory.h`).

#[cfg(feature = "conformance")]
pub mod conformance;

use std::fmt;

use crate::frame::{Entry, FrameType, Mfn, Pfn, Width};
use crate::guest::GuestLeaf;
use crate::leaf::Leaf;
pub use crate::log_buffer::LogBuffer;
use crate::table::{TableFault, TableView};

/// A back end's error, kept as the `source` of the engine's error.
pub type PortError = Box<dyn std::error::Error + Send + Sync>;

/// The most frames that one `FrameTypes::query` may name (Xen returns E2BIG for more).
pub const QUERY_FRAMES_MAX: usize = 1024;

/// Pfns that one leaf of Xen's log-dirty tree covers. CLEAN clears whole leaves, so every request
/// is rounded up to it (`xen/arch/x86/mm/paging.c`).
pub const LOG_DIRTY_LEAF_PFNS: u64 = 32_768;

/// Xen's write log. A write to a frame marks the pfn that the m2p has for that frame at the moment
/// of the write. An update of the m2p (`MMU_MACHPHYS_UPDATE`) marks the frame's new pfn.
pub trait LogDirty {
    /// Switches log-dirty on, with an empty log.
    ///
    /// # Errors
    /// Xen refuses (no shadow paging, an assigned device, already switched on by another process).
    fn enable(&mut self) -> Result<(), PortError>;

    /// Switches log-dirty off; the guest is as it was before `enable`.
    ///
    /// # Errors
    /// The hypervisor's error.
    fn disable(&mut self) -> Result<(), PortError>;

    /// Reads and clears the log for the pfns `0..into.pfns()`, a multiple of
    /// [`LOG_DIRTY_LEAF_PFNS`]. `into` is empty at first, and bits can only be set.
    ///
    /// Returns how many pfns from 0 on were really read; the rest is unknown to the caller.
    ///
    /// # Errors
    /// The hypervisor's error, or the log is off. Bits written to `into` before the error count as
    /// read.
    fn clean(&mut self, into: LogBuffer<'_>) -> Result<u64, PortError>;
}

/// The fields of `shared_info.arch` that say where the p2m is, as read at one moment. Untrusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// `max_pfn`: a *count* of pfns, despite its name.
    pub pfn_count: u64,
    /// `pfn_to_mfn_frame_list_list`: mfn of the tree's top frame; 0 not set up, all ones invalid.
    /// Top and mid frames hold one mfn per slot, in guest words: 512 in a 64-bit guest, 1,024 in a
    /// 32-bit one. A slot of 0 or all ones is empty.
    pub frame_list_list: u64,
    /// `p2m_cr3`: root of the page tables of the linear list; 0 = no linear list. If there is one,
    /// the tree is not read.
    /// As the guest wrote it: a 32-bit guest folds the frame number.
    pub p2m_cr3: u64,
    /// `p2m_vaddr`: where the linear list begins in the guest's address space.
    pub p2m_vaddr: u64,
    /// `p2m_generation`: a seqlock over the list's mapping; odd while it is being changed.
    pub generation: u64,
}

impl Roots {
    /// Whether the p2m is a linear list.
    #[must_use]
    pub(crate) const fn is_linear(&self) -> bool {
        self.p2m_cr3 != 0
    }

    /// Whether the p2m begins at another place than under `then`.
    #[must_use]
    pub(crate) fn moved_from(&self, then: &Self) -> bool {
        if self.is_linear() {
            (self.p2m_cr3, self.p2m_vaddr) != (then.p2m_cr3, then.p2m_vaddr)
        } else {
            self.frame_list_list != then.frame_list_list || then.is_linear()
        }
    }
}

/// Why a frame could not be read or mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapFault {
    /// It is not a frame of this domain now.
    NotOwned,
    /// Another reason, as a positive errno; messages have it negative, as the C header.
    Errno(i32),
}

impl fmt::Display for MapFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOwned => write!(f, "frame is not the domain's"),
            Self::Errno(errno) => {
                write!(f, "frame can't be mapped (errno {})", errno.wrapping_neg())
            }
        }
    }
}

/// A held mapping of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MapSlot(pub u32);

/// The guest's p2m: its roots and its frames.
pub trait P2mSource: Sync {
    /// The guest's width, fixed for its life.
    fn width(&self) -> Width;

    /// Frames that the domain holds now (Xen `tot_pages`). It bounds the engine's memory, and a
    /// suspended round compares it with the frames that were sent: `Config::unaccounted` says what
    /// a difference of more than 1,024 frames does.
    ///
    /// # Errors
    /// The hypervisor's error.
    fn domain_frames(&mut self) -> Result<u64, PortError>;

    /// Whether the guest is still suspended, and there. Asked in a suspended round after the log
    /// was read, and again when everything is settled. The default, for a caller that can't ask or
    /// whose guest can't be resumed by anybody else, is that it is.
    ///
    /// # Errors
    /// It runs again, is dying or gone; or that can't be found out.
    fn still_suspended(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    /// Reads the roots again.
    ///
    /// # Errors
    /// shared_info can't be read.
    fn roots(&mut self) -> Result<Roots, PortError>;

    /// Copies one frame of the domain (page table, top or mid frame), each word read once.
    ///
    /// # Errors
    /// [`MapFault`] if the frame is not the domain's or can't be mapped now.
    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault>;

    /// Maps frames of the domain for reading and holds them; appends one answer for each frame, in
    /// order. A held mapping keeps the old frame alive if the guest gives it away.
    fn map(&mut self, frames: &[Mfn], answers: &mut Vec<Result<MapSlot, MapFault>>);

    /// Removes mappings. The engine does not use their slots afterwards.
    fn unmap(&mut self, slots: &[MapSlot]);

    /// The live memory of a held mapping. Many threads call it at once.
    fn live(&self, slot: MapSlot) -> GuestLeaf<'_>;

    /// Whether the `count` entries of a held leaf from `position` on name the frames from `first`
    /// on, in order and without tags. Each is read once. Many threads call it at once. All of them
    /// are in the leaf.
    fn is_run(&self, slot: MapSlot, position: u32, first: Mfn, count: u64) -> bool {
        let (width, leaf) = (self.width(), self.live(slot));
        (0..count).all(|at| {
            leaf.entry(width, position as usize + at as usize) == Entry::frame(Mfn(first.0 + at))
        })
    }

    /// Reads entries of held leaves, each once: for each slot and position in its leaf the entry.
    /// Many threads call it at once.
    fn entries(&self, places: &[(MapSlot, u32)], into: &mut [Entry]) {
        let (width, mut last) = (self.width(), None);
        for (&(slot, position), entry) in places.iter().zip(into) {
            let leaf = match last {
                Some((known, leaf)) if known == slot => leaf,
                _ => self.live(slot),
            };
            last = Some((slot, leaf));
            *entry = leaf.entry(width, position as usize);
        }
    }
}

/// Xen's mfn to pfn table.
pub trait M2p: Sync {
    /// Frames of the machine: one past the last mfn. The same at every call of one migration.
    fn frames(&self) -> u64;

    /// The pfn that Xen holds for a frame; `None` if there is none or `mfn` is past the end.
    fn pfn(&self, mfn: Mfn) -> Option<Pfn>;

    /// The same for many frames.
    fn pfns(&self, frames: &[Mfn], into: &mut [Option<Pfn>]) {
        for (&mfn, pfn) in frames.iter().zip(into) {
            *pfn = self.pfn(mfn);
        }
    }

    /// Whether the `count` frames from `first` on have the pfns from `pfn` on, in order.
    fn is_run(&self, first: Mfn, pfn: Pfn, count: u64) -> bool {
        (0..count).all(|at| self.pfn(Mfn(first.0 + at)) == Some(Pfn(pfn.0 + at)))
    }

    /// First frame of the compat m2p, which a 32-bit guest's last level 2 table maps; `None`
    /// without one.
    fn compat_frame(&self) -> Option<Mfn> {
        None
    }
}

/// Owner and type of frames.
pub trait FrameTypes {
    /// Fills `types` (same length as `frames`, at most [`QUERY_FRAMES_MAX`]).
    ///
    /// # Errors
    /// The whole query failed; `types` is meaningless.
    fn query(&mut self, frames: &[Mfn], types: &mut [FrameType]) -> Result<(), PortError>;
}

/// Writes and transfers that log-dirty does not show.
pub trait Unlogged {
    /// Appends the pfns whose frames are written without a log-dirty mark: writable grants that are
    /// still mapped, the store and console rings, and, if the caller knows them, registered
    /// vcpu_info, runstate and time areas, and pages of FIFO event channels (Xen does not report
    /// them: `docs/decisions/0016`). Called after suspend.
    ///
    /// # Errors
    /// The pfns can't be listed.
    fn pfns(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError>;

    /// Whether the guest's grant table offers to take a frame by transfer (`GTF_accept_transfer`),
    /// now or at any time since the last call. A port that can only read the table reports its
    /// present state: it misses offers that are made, used and withdrawn between two calls.
    ///
    /// # Errors
    /// The grant table can't be read.
    fn accepts_transfer(&mut self) -> Result<bool, PortError>;

    /// Appends what each transfer entry of the grant table names: offered, committed or completed.
    /// Called after [`Unlogged::accepts_transfer`]. Returns whether the entries are known. If not
    /// (the default), every frame that may have come by transfer is owed: in a suspended round, as
    /// long as there are offers, these are all frames. The same holds if the port reports an offer
    /// and names no entry.
    ///
    /// # Errors
    /// The grant table can't be read.
    fn transfers(&mut self, into: &mut Vec<Transfer>) -> Result<bool, PortError> {
        let _ = into;
        Ok(false)
    }
}

/// What a transfer entry of the grant table names. The guest writes the entry, and may lie.
///
/// Source: Xen `gnttab_transfer`: the frame field is the pfn that the frame is to have; once the
/// frame has come (`GTF_transfer_completed`), its mfn. In between (`GTF_transfer_committed`) it may
/// be either: name both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// The pfn that a frame is to have, or had when it came.
    Into(Pfn),
    /// The frame that came.
    Came(Mfn),
}

/// A page to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The pfn to send it under.
    pub pfn: Pfn,
    /// The frame to read.
    pub mfn: Mfn,
    /// The p2m entry that named it, which the shadow will remember.
    pub entry: Entry,
    /// `Data` or `Table`; [`FrameType::pfinfo`] gives Xen's word, with the pin bit.
    pub kind: FrameType,
}

/// Why a pfn has to wait for the next round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deferral {
    /// p2m and m2p disagree.
    M2pMismatch,
    /// The entry names a frame that is not the domain's.
    NotOwned,
    /// The leaf that holds the entry is not mapped.
    LeafUnmapped,
    /// The type query failed.
    QueryFailed,
    /// The transport could not map the frame.
    MapFailed(MapFault),
    /// A page table that can't be normalised now.
    Table(TableFault),
    /// The transport keeps it for a later round.
    Later,
    /// The transport has no answer from the other side.
    Unacknowledged,
}

/// The transport's answer for one page.
#[derive(Debug)]
#[non_exhaustive]
pub enum Answer {
    /// The transport has it.
    Accepted,
    /// The transport has it, from a private copy of its bytes: the digest is that of the bytes
    /// sent, not of another read. It is kept until the pfn is deferred, returned, gone, or accepted
    /// again ([`Tracker::digest`](crate::tracker::Tracker::digest)).
    AcceptedCopy {
        /// Digest of the page as read: of a page table before it was normalised.
        digest: u64,
    },
    /// The page can't be sent now.
    Deferred(Deferral),
    /// The page can't be sent: the migration ends with an error that names the pfn.
    Failed(PortError),
}

/// Where the p2m's own leaves are: the receiver fills these leaves in at the end.
#[derive(Clone, Copy, Debug)]
pub struct FrameList<'a> {
    /// Entry width.
    pub width: Width,
    /// Pfns that the p2m covers.
    pub pfn_count: u64,
    /// For each leaf in order, the pfn of its frame; `None` where the p2m has no leaf, and, while
    /// the guest runs, where the frame has no pfn at the moment.
    pub leaves: &'a [Option<Pfn>],
}

/// The transport to the destination.
pub trait Transport {
    /// Sends pages, at most [`QUERY_FRAMES_MAX`]: reads each frame's bytes, normalises page tables
    /// (`view.normalise_all`, or `table::normalise`), appends one answer per page in order. A page
    /// whose frame can't be mapped is [`Deferral::MapFailed`], a page table that `normalise`
    /// refuses [`Deferral::Table`].
    ///
    /// # Errors
    /// The transport failed as a whole; nothing of this batch counts as accepted.
    fn send(
        &mut self,
        pages: &[Page],
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError>;

    /// The frame list changed. Always comes before the first page of a grown p2m.
    ///
    /// # Errors
    /// The transport failed.
    fn frame_list(&mut self, list: FrameList<'_>) -> Result<(), PortError>;

    /// These pfns have no frame at the source: the receiver must free what it holds for them. Each
    /// is named once. Only called at a consistent point, after every page table.
    ///
    /// # Errors
    /// The transport failed.
    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError>;

    /// These pfns of a running guest had frames and have none now, each named once: a note, which a
    /// receiver may use to free frames early. They may soon have frames again, and are then sent.
    /// [`Transport::gone`] reports the pfns that are gone for good, whether they were noted or not.
    /// Ignored by default.
    ///
    /// # Errors
    /// The transport failed.
    fn note_gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        let _ = pfns;
        Ok(())
    }

    /// Appends pfns that were accepted and then lost on the way; they are owed again. Called before
    /// each round, and after each sweep of a suspended guest.
    ///
    /// # Errors
    /// The transport failed.
    fn returned(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError>;

    /// The guest is suspended and every pfn is settled: what else names frames, such as registers,
    /// can be read now, and `view` knows their pfns. `gone` and [`Transport::consistent`] follow.
    ///
    /// # Errors
    /// It can't be read, or names a frame that no pfn has.
    fn settled(&mut self, view: &dyn TableView) -> Result<(), PortError> {
        let _ = view;
        Ok(())
    }

    /// Everything sent so far is one consistent state of the guest (final round, Remus checkpoint).
    ///
    /// # Errors
    /// The transport failed, or the other side did not confirm.
    fn consistent(&mut self) -> Result<(), PortError>;
}

/// Phases of a round, for an observer that measures time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Reading roots and unlogged writers.
    Roots,
    /// Taking the log-dirty bitmap.
    Clean,
    /// Walking the p2m's structure.
    Walk,
    /// Comparing leaves with the shadow.
    Diff,
    /// Checking and sending what is owed.
    Send,
    /// The consistent point: gone pfns, and the transport's confirmation.
    Settle,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 6] =
        [Self::Roots, Self::Clean, Self::Walk, Self::Diff, Self::Send, Self::Settle];

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Roots => "roots",
            Self::Clean => "clean",
            Self::Walk => "walk",
            Self::Diff => "diff",
            Self::Send => "send",
            Self::Settle => "settle",
        }
    }
}

/// Is called when phases begin and end. The engine has no clock; the caller has one.
pub trait Observer {
    /// A phase begins.
    fn begin(&mut self, phase: Phase);
    /// The phase ends, also after an error.
    fn end(&mut self, phase: Phase);
}

/// Ignores all phases.
impl Observer for () {
    fn begin(&mut self, _: Phase) {}
    fn end(&mut self, _: Phase) {}
}

/// The guest's ports, which the caller lends to a tracker for one call, and an observer of its
/// phases. Each port is a value of its own: a back end with state that several ports need has
/// several handles on that state (an `Arc`, say), not one type with all of the traits.
#[expect(missing_debug_implementations, reason = "ports are trait objects of the back end")]
pub struct Guest<'a> {
    /// Its p2m.
    pub p2m: &'a mut dyn P2mSource,
    /// Xen's mfn to pfn table.
    pub m2p: &'a dyn M2p,
    /// Owner and type of frames.
    pub types: &'a mut dyn FrameTypes,
    /// Unlogged writers.
    pub unlogged: &'a mut dyn Unlogged,
    /// The observer of phases.
    pub observer: &'a mut dyn Observer,
}

impl Guest<'_> {
    /// Runs a phase and reports it to the observer, also if it fails.
    pub(crate) fn phase<T>(&mut self, phase: Phase, run: impl FnOnce(&mut Self) -> T) -> T {
        self.observer.begin(phase);
        let result = run(self);
        self.observer.end(phase);
        result
    }
}

/// All ports of one migration, lent for one call.
#[expect(missing_debug_implementations, reason = "ports are trait objects of the back end")]
pub struct Ports<'a> {
    /// The guest.
    pub guest: Guest<'a>,
    /// Xen's write log.
    pub log_dirty: &'a mut dyn LogDirty,
    /// The transport to the destination.
    pub transport: &'a mut dyn Transport,
}

impl Ports<'_> {
    /// The same as [`Guest::phase`], for a phase that needs more than the guest.
    pub(crate) fn phase<T>(&mut self, phase: Phase, run: impl FnOnce(&mut Self) -> T) -> T {
        self.guest.observer.begin(phase);
        let result = run(self);
        self.guest.observer.end(phase);
        result
    }
}
