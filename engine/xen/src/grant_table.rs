// SPDX-License-Identifier: MIT OR Apache-2.0
//! A domain's grant table: which of its frames other domains write now, and whether it accepts
//! frames by transfer.
//! Not here: mapping a grant.
//! Units: entries of 8 bytes (version 1) or 16 (version 2, whose states are in separate frames).
//! Threads: one owner. The guest and Xen write while it is read.
//! Source: facts of Xen `public/grant_table.h`. Mapping a frame that the table does not have would
//! make it grow.

#![expect(unsafe_code, reason = "hypercalls; docs/safety.md")]

use bytemuck::{Pod, Zeroable};
use p2mtrack::frame::{Mfn, Pfn};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::Transfer;

use crate::call::{Caller, Op};
use crate::error::{XenError, failed};
use crate::mapping::Mapping;
use crate::version::Xen;

const QUERY_SIZE: u32 = 6;
const GET_VERSION: u32 = 10;
/// `XENMEM_resource_grant_table` with its two kinds of frames.
const ENTRIES: (u32, u32) = (1, 0);
const STATES: (u32, u32) = (1, 1);

/// Frames of a resource in one call: Xen before 4.15 takes no more.
const FRAMES_AT_ONCE: u32 = 32;

/// `GTF_type_mask`.
const TYPE: u64 = 3;
const PERMIT_ACCESS: u64 = 1;
const ACCEPT_TRANSFER: u64 = 2;
/// `GTF_transfer_committed`, `GTF_transfer_completed`.
const COMMITTED: u64 = 1 << 2;
const COMPLETED: u64 = 1 << 3;
/// `GTF_writing`: mapped, and not for reading only.
const WRITING: u64 = 1 << 4;

/// `struct gnttab_query_size`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct QuerySize {
    domid: u16,
    pad: u16,
    frames: u32,
    frames_max: u32,
    status: i16,
    tail: u16,
}

/// `struct gnttab_get_version`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct GetVersion {
    domid: u16,
    pad: u16,
    version: u32,
}

/// The table's size and form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Form {
    frames: u32,
    version: u32,
}

/// A grant table, mapped.
#[derive(Debug)]
pub(crate) struct GrantTable {
    caller: Caller,
    domid: u16,
    form: Form,
    entries: Vec<Mapping>,
}

/// The contents of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grant {
    kind: u64,
    writing: bool,
    committed: bool,
    completed: bool,
    /// A pfn as long as a transfer is not completed.
    mfn: u64,
}

impl Grant {
    /// What a transfer entry names. Xen replaces the pfn by the mfn before it sets `completed`.
    fn transfers(self) -> impl Iterator<Item = Transfer> {
        let takes = self.kind == ACCEPT_TRANSFER;
        let came = takes && (self.committed || self.completed);
        let into = (takes && !self.completed).then_some(Transfer::Into(Pfn(self.mfn)));
        into.into_iter().chain(came.then_some(Transfer::Came(Mfn(self.mfn))))
    }
}

impl GrantTable {
    pub(crate) fn new(xen: &Xen, domid: u16) -> Result<Self, XenError> {
        let caller = Caller::new(&xen.privcmd)?;
        Ok(Self { caller, domid, form: Form::default(), entries: Vec::new() })
    }

    /// Frames that another domain has mapped for writing.
    pub(crate) fn written(&mut self) -> Result<Vec<Mfn>, XenError> {
        let mut written = Vec::new();
        self.each(|grant| {
            if grant.writing && grant.kind == PERMIT_ACCESS {
                written.push(Mfn(grant.mfn));
            }
        })?;
        Ok(written)
    }

    /// What transfer entries name now; their earlier contents can't be known.
    pub(crate) fn transfers(&mut self) -> Result<Vec<Transfer>, XenError> {
        let mut transfers = Vec::new();
        self.each(|grant| transfers.extend(grant.transfers()))?;
        Ok(transfers)
    }

    fn each(&mut self, mut grant: impl FnMut(Grant)) -> Result<(), XenError> {
        // The guest may change the form meanwhile: retry, but only once.
        let states = self.map().or_else(|_| self.map())?;
        let (mut entry_page, mut state_page) = (Leaf::default(), Leaf::default());
        let pages = self.entries.iter().flat_map(Mapping::lives);
        for (index, live) in pages.enumerate() {
            live.fetch(&mut entry_page);
            if self.form.version == 1 {
                entry_page.words.iter().for_each(|&word| grant(version_1(word)));
                continue;
            }
            // One frame has the states of eight frames of entries.
            let at_once = FRAMES_AT_ONCE as usize;
            let states =
                states.get(index / 8 / at_once).and_then(|map| map.live(index / 8 % at_once));
            states.inspect(|states| states.fetch(&mut state_page));
            for (number, entry) in entry_page.words.as_chunks::<2>().0.iter().enumerate() {
                let at = index % 8 * 256 + number;
                let state = state_page.words[at / 4] >> (at % 4 * 16);
                grant(version_2(*entry, state));
            }
        }
        Ok(())
    }

    /// Maps the table again if its form changed. Returns the states of version 2, which do not stay
    /// mapped: a guest whose states are mapped can't go back to version 1.
    fn map(&mut self) -> Result<Vec<Mapping>, XenError> {
        let form = self.form()?;
        let (privcmd, domid) = (self.caller.privcmd(), self.domid);
        let all = |resource, frames: u32| {
            let starts = (0..frames).step_by(FRAMES_AT_ONCE as usize);
            let map = |first| {
                let num = FRAMES_AT_ONCE.min(frames - first);
                Mapping::resource(privcmd, domid, resource, first, num)
            };
            starts.map(map).collect::<Result<Vec<_>, _>>()
        };
        if form != self.form {
            (self.form, self.entries) = (Form::default(), Vec::new());
            (self.entries, self.form) = (all(ENTRIES, form.frames)?, form);
        }
        if form.version == 2 { all(STATES, form.frames.div_ceil(8)) } else { Ok(Vec::new()) }
    }

    fn form(&mut self) -> Result<Form, XenError> {
        let mut size = QuerySize { domid: self.domid, ..QuerySize::zeroed() };
        // SAFETY: the command takes this structure, in which there is no address.
        let asked = unsafe { self.caller.call(Op::GrantTable(QUERY_SIZE), &mut size) };
        let error = |error: XenError| error.of(self.domid);
        asked.map_err(failed("ask for the size of the grant table")).map_err(error)?;
        if size.status != 0 {
            return Err(error(XenError::new("ask for the size of the grant table", libc::ESRCH)));
        }
        let mut version = GetVersion { domid: self.domid, ..GetVersion::zeroed() };
        // SAFETY: as above.
        let asked = unsafe { self.caller.call(Op::GrantTable(GET_VERSION), &mut version) };
        asked.map_err(failed("ask for the form of the grant table")).map_err(error)?;
        // 0: the guest has not chosen yet, and has granted nothing.
        Ok(Form {
            frames: if version.version == 0 { 0 } else { size.frames },
            version: version.version,
        })
    }
}

/// flags u16, domid u16, frame u32.
const fn version_1(word: u64) -> Grant {
    grant(word, word, word >> 32)
}

/// flags u16, domid u16, 4 bytes, frame u64; the state is a word of 16 bits elsewhere.
const fn version_2([head, frame]: [u64; 2], state: u64) -> Grant {
    grant(head, state, frame)
}

/// By the flags of the entry, and the state that Xen keeps.
const fn grant(flags: u64, state: u64, mfn: u64) -> Grant {
    Grant {
        kind: flags & TYPE,
        writing: state & WRITING != 0,
        committed: flags & COMMITTED != 0,
        completed: flags & COMPLETED != 0,
        mfn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_names_a_pfn_until_it_is_completed() {
        let (into, came) = (Transfer::Into(Pfn(7)), Transfer::Came(Mfn(7)));
        for (flags, names) in [
            (ACCEPT_TRANSFER, vec![into]),
            (ACCEPT_TRANSFER | COMMITTED, vec![into, came]),
            (ACCEPT_TRANSFER | COMMITTED | COMPLETED, vec![came]),
            (COMMITTED | COMPLETED, vec![]),
        ] {
            assert_eq!(version_1(7 << 32 | flags).transfers().collect::<Vec<_>>(), names);
            assert_eq!(version_2([flags, 7], 0).transfers().collect::<Vec<_>>(), names);
        }
    }

    #[test]
    fn entries_of_both_versions() {
        // permit_access, reading and writing, to domain 0
        let says = |grant: Grant| (grant.kind, grant.writing, grant.mfn);
        assert_eq!(says(version_1(0x1234_0000_0019)), (PERMIT_ACCESS, true, 0x1234));
        assert_eq!(says(version_2([0x1, 0x1234], 0x18)), (PERMIT_ACCESS, true, 0x1234));
        assert_eq!(version_1(0x1234_0000_0019).transfers().count(), 0);
        // The state of version 2 is not in its entry, that of version 1 is nowhere else.
        assert!(!version_2([0x19, 0x1234], 0x8).writing);
        assert!(!version_1(0x1234_0000_0009).writing);
        assert_eq!(version_1(2).kind, ACCEPT_TRANSFER);
        assert_eq!(size_of::<QuerySize>(), 16);
    }
}
