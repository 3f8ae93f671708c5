// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames whose owner p2m and m2p do not show, through the calls: two pfns with one frame, another
//! domain's frame that matches, frames that leave the domain or come back while their entry stays,
//! a p2m without usable leaves.
//! Not here: each outcome by itself (`tests/owners.rs`, `tests/books.rs`); hosts that make mistakes
//! (`sequences.rs`).
//! Units: a guest of 1,500 pages and its migration, for each width, with `transfers` and without,
//! and some orders of rounds.
//! Threads: one.
//! Source: `docs/design.md`, "Completeness". After each suspended round the destination has what
//! the source has.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

use p2mtrack_ffi::abi;
use p2mtrack_ffi::functions as f;

use super::{Dice, WORDS};

/// Orders of rounds of each case.
const ORDERS: u64 = 4;
/// Pfns with a frame; the frame of pfn `p` at the start is `BASE + p`.
const PFNS: u64 = 1500;
const PFN_COUNT: u64 = 2048;
const BASE: u64 = 0x100;
const MACHINE: usize = 4096;
/// The first frames are the p2m's: leaves, and what leads to them.
const MID: u64 = BASE + 4;
const TOP: u64 = BASE + 5;
const PRESENT: u64 = 0x67;
const NOT_OURS: u32 = 0xf << 28;
const TABLE: u32 = 1 << 28;

type Words = [AtomicU64; WORDS];

/// What the destination has for a pfn.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Content(u64),
    /// The words that are not 0, by slot.
    Table(Vec<(usize, u64)>),
}

impl Got {
    fn table(words: impl Iterator<Item = u64>) -> Self {
        Self::Table(words.enumerate().filter(|(_, word)| *word != 0).collect())
    }
}

/// A guest, its hypervisor and the host of its migration.
struct Guest {
    width: u32,
    dice: Dice,
    /// The words of p2m frames and page tables.
    words: BTreeMap<u64, Box<Words>>,
    content: Vec<u64>,
    m2p: Vec<AtomicU64>,
    owned: Vec<bool>,
    log: BTreeSet<u64>,
    frame_list_list: u64,
    accepts: bool,
    transfers: Vec<u64>,
    /// Whether the host has the callback `transfers`.
    names_transfers: bool,
    /// Xen reports each frame as another domain's.
    disowned: bool,
    handle: *mut f::Handle,
    received: BTreeMap<u64, Got>,
    /// The last PTE that stopped a normalisation.
    fault: abi::TableFault,
}

impl Guest {
    fn new(width: u32, names_transfers: bool, order: u64) -> Box<Self> {
        let mut guest = Box::new(Self {
            width,
            dice: Dice(order),
            words: BTreeMap::new(),
            content: (0..MACHINE as u64).collect(),
            m2p: (0..MACHINE).map(|_| AtomicU64::new(abi::NONE)).collect(),
            owned: vec![false; MACHINE],
            log: BTreeSet::new(),
            frame_list_list: TOP,
            accepts: false,
            transfers: vec![],
            names_transfers,
            disowned: false,
            handle: null_mut(),
            received: BTreeMap::new(),
            fault: abi::TableFault::default(),
        });
        for part in BASE..=TOP {
            guest.give_words(part, abi::NONE);
        }
        guest.put(TOP, 0, MID);
        let leaves = PFN_COUNT / guest.entries_of_a_leaf();
        (0..leaves).for_each(|leaf| guest.put(MID, leaf, BASE + leaf));
        for pfn in 0..PFNS {
            guest.bring_in(BASE + pfn, pfn, pfn);
            guest.set_entry(pfn, BASE + pfn);
        }
        guest.log.clear();
        guest
    }

    // --- what the guest and Xen do

    fn give_words(&mut self, frame: u64, word: u64) {
        self.words.insert(frame, Box::new(std::array::from_fn(|_| AtomicU64::new(word))));
    }

    /// Marks the pfn that the m2p has for a frame of the domain in log-dirty.
    fn mark(&mut self, frame: u64) {
        let pfn = self.m2p[frame as usize].load(Ordering::Relaxed);
        if self.owned[frame as usize] && pfn != abi::NONE {
            self.log.insert(pfn);
        }
    }

    /// Writes a word of the guest's width.
    fn put(&mut self, frame: u64, index: u64, value: u64) {
        let (shift, mask) = self.place(index);
        let word = &self.words[&frame][(index * u64::from(self.width) / 64) as usize];
        let others = word.load(Ordering::Relaxed) & !(mask << shift);
        word.store(others | (value & mask) << shift, Ordering::Relaxed);
        self.mark(frame);
    }

    /// Shift and mask of a word of the guest's width in its 64 bits.
    const fn place(&self, index: u64) -> (u32, u64) {
        if self.width == abi::WIDTH_64 {
            (0, u64::MAX)
        } else {
            (index as u32 % 2 * 32, 0xffff_ffff)
        }
    }

    const fn entries_of_a_leaf(&self) -> u64 {
        (WORDS * 64) as u64 / self.width as u64
    }

    fn set_entry(&mut self, pfn: u64, entry: u64) {
        let entries = self.entries_of_a_leaf();
        self.put(BASE + pfn / entries, pfn % entries, entry);
    }

    fn entry(&self, pfn: u64) -> u64 {
        let entries = self.entries_of_a_leaf();
        let (leaf, index) = (BASE + pfn / entries, pfn % entries);
        let (shift, mask) = self.place(index);
        let word = &self.words[&leaf][(index * u64::from(self.width) / 64) as usize];
        word.load(Ordering::Relaxed) >> shift & mask
    }

    /// Linux's tag of a frame that is another domain's.
    const fn foreign(&self, frame: u64) -> u64 {
        frame | 1 << (self.width - 1)
    }

    fn set_m2p(&mut self, frame: u64, pfn: u64) {
        self.m2p[frame as usize].store(pfn, Ordering::Relaxed);
    }

    fn write(&mut self, frame: u64) {
        self.content[frame as usize] = self.dice.word();
        self.mark(frame);
    }

    /// A frame goes to another domain, which writes it, and has it at a pfn of its own. The entry
    /// is not written.
    fn give_away(&mut self, frame: u64, their_pfn: u64) {
        self.owned[frame as usize] = false;
        self.set_m2p(frame, their_pfn);
        self.content[frame as usize] = self.dice.word();
    }

    /// A pfn gets a frame with its contents; nothing is marked, and the entry is not written.
    fn bring_in(&mut self, frame: u64, pfn: u64, content: u64) {
        self.owned[frame as usize] = true;
        self.set_m2p(frame, pfn);
        self.content[frame as usize] = content;
    }

    fn balloon_out(&mut self, pfn: u64) {
        let frame = self.entry(pfn);
        self.set_entry(pfn, abi::NONE);
        self.give_away(frame, abi::NONE);
    }

    fn held(&self) -> u64 {
        self.owned.iter().filter(|owned| **owned).count() as u64
    }

    /// A pfn whose frame no test uses otherwise.
    fn some_pfn(&mut self) -> u64 {
        16 + self.dice.below(PFNS - 16)
    }

    fn some_hole(&mut self) -> u64 {
        PFNS + self.dice.below(PFN_COUNT - PFNS)
    }

    // --- the oracle

    fn frame_of(&self, pfn: u64) -> Option<u64> {
        let entry = self.entry(pfn);
        let frame = entry & !(3 << (self.width - 2));
        let owned = self.owned.get(frame as usize).is_some_and(|owned| *owned);
        let named = owned.then(|| self.m2p[frame as usize].load(Ordering::Relaxed));
        named.filter(|&named| entry == frame || named == pfn).map(|_| frame)
    }

    /// What the destination must have for a frame: for a page table pfns, and 0 for PTEs to other
    /// domains' frames.
    fn expected(&self, frame: u64) -> Got {
        if self.kind(frame) != TABLE {
            return Got::Content(self.content[frame as usize]);
        }
        let pte = |word: &AtomicU64| match word.load(Ordering::Relaxed) {
            pte if pte & 1 == 0 => pte,
            pte if !self.owned[(pte >> 12) as usize] => 0,
            pte => self.m2p[(pte >> 12) as usize].load(Ordering::Relaxed) << 12 | pte & 0xfff,
        };
        Got::table(self.words[&frame].iter().map(pte))
    }

    fn kind(&self, frame: u64) -> u32 {
        match self.owned.get(frame as usize) {
            Some(true) if self.disowned => NOT_OURS,
            Some(true) if frame > TOP && self.words.contains_key(&frame) => TABLE,
            Some(true) => 0,
            _ => NOT_OURS,
        }
    }

    fn assert_identical(&self) {
        for pfn in 0..PFN_COUNT {
            let source = self.frame_of(pfn).map(|frame| self.expected(frame));
            assert_eq!(self.received.get(&pfn), source.as_ref(), "pfn {pfn:#x}");
        }
    }
}

// --- the host

/// The guest behind `user`, and the arguments of the callback.
///
/// # Safety
/// It is the one that the handle was made with, and lives.
/// The arguments are what the library passed.
unsafe fn at<'a, C>(user: *mut c_void, call: *const C) -> (&'a mut Guest, &'a C) {
    // SAFETY: the caller's contract.
    let of = unsafe { &mut *user.cast::<Guest>() };
    // SAFETY: as above.
    (of, unsafe { &*call })
}

/// Writes an output of a callback.
macro_rules! say {
    ($to:expr, $value:expr) => {
        // SAFETY: the header: a place for it.
        unsafe { $to.write($value) }
    };
}

macro_rules! callback {
    ($name:ident, $call:ty, |$guest:ident, $of:ident| $body:block) => {
        unsafe extern "C" fn $name(user: *mut c_void, call: *const $call) -> c_int {
            // SAFETY: as promised to the host; the header: the call's arguments.
            let ($guest, $of) = unsafe { at(user, call) };
            $body;
            0
        }
    };
}

callback!(domain_frames, abi::DomainFramesCall, |guest, call| { say!(call.frames, guest.held()) });
callback!(roots, abi::RootsCall, |guest, call| {
    let frame_list_list = guest.frame_list_list;
    say!(call.roots, abi::Roots { pfn_count: PFN_COUNT, frame_list_list, ..Default::default() });
});
callback!(read, abi::ReadCall, |guest, call| {
    let Some(frame) = guest.words.get(&call.mfn) else { return abi::NOT_OWNED };
    for (index, word) in frame.iter().enumerate() {
        say!(call.words.wrapping_add(index), word.load(Ordering::Relaxed));
    }
});
callback!(map, abi::MapCall, |guest, call| {
    for index in 0..call.count {
        // SAFETY: the header: `count` of them.
        let mfn = unsafe { call.mfns.wrapping_add(index).read() };
        match guest.words.get(&mfn) {
            Some(frame) => say!(call.addresses.wrapping_add(index), frame.as_ptr().cast()),
            None => say!(call.errors.wrapping_add(index), abi::NOT_OWNED),
        }
    }
});
callback!(unmap, abi::UnmapCall, |_guest, _call| {});
callback!(types, abi::TypesCall, |guest, call| {
    for index in 0..call.count {
        // SAFETY: the header: `count` of them.
        let mfn = unsafe { call.mfns.wrapping_add(index).read() };
        say!(call.types.wrapping_add(index), guest.kind(mfn));
    }
});
callback!(unlogged, abi::UnloggedCall, |_guest, call| { say!(call.count, 0) });
callback!(accepts, abi::AcceptsTransferCall, |guest, call| {
    say!(call.accepts, i32::from(guest.accepts));
});
callback!(transfers, abi::TransfersCall, |guest, call| {
    for (index, &name) in guest.transfers.iter().enumerate().take(call.capacity) {
        say!(call.names.wrapping_add(index), name);
    }
    say!(call.count, guest.transfers.len());
});

impl Guest {
    fn attach(&mut self, config: abi::Config) {
        let host = abi::Host {
            size: size_of::<abi::Host>() as u32,
            zero: 0,
            user: (&raw mut *self).cast(),
            domain_frames: Some(domain_frames),
            roots: Some(roots),
            read: Some(read),
            map: Some(map),
            unmap: Some(unmap),
            types: Some(types),
            unlogged: Some(unlogged),
            accepts_transfer: Some(accepts),
            log: None,
            m2p: self.m2p.as_ptr().cast(),
            m2p_frames: MACHINE as u64,
            compat_m2p_mfn: MACHINE as u64,
            transfers: self.names_transfers.then_some(transfers),
        };
        let config = abi::Config { size: 40, width: self.width, ..config };
        let at = &raw mut self.handle;
        // SAFETY: all of them live, and the guest outlives the handle.
        let code = unsafe { f::p2mt_create(&raw const config, &raw const host, null_mut(), at) };
        assert_eq!(code, abi::OK);
    }

    /// The result of a call, with the handle's last error.
    fn result(&self, code: c_int) -> Result<(), Box<abi::Error>> {
        if code == abi::OK {
            return Ok(());
        }
        let mut error = Box::new(super::none());
        // SAFETY: both live.
        assert_eq!(unsafe { f::p2mt_last_error(self.handle, &raw mut *error) }, abi::OK);
        Err(error)
    }

    /// A round up to the point where everything is sent, and the destination knows the pfns gone.
    fn settle(&mut self, stage: u32) -> Result<(), Box<abi::Error>> {
        let mut buffer = abi::LogBuffer { words: null_mut(), pfns: 0 };
        // SAFETY: both live.
        self.result(unsafe { f::p2mt_begin(self.handle, stage, &raw mut buffer) })?;
        for pfn in std::mem::take(&mut self.log).into_iter().filter(|&pfn| pfn < buffer.pfns) {
            let word = buffer.words.wrapping_add(pfn as usize / 64);
            // SAFETY: the buffer has a bit for each of its pfns.
            unsafe { *word |= 1 << (pfn % 64) };
        }
        // SAFETY: it lives.
        self.result(unsafe { f::p2mt_scan(self.handle, buffer.pfns, null_mut()) })?;
        while self.send_some()? {}
        if stage != abi::LIVE {
            self.take_back()?;
        }
        Ok(())
    }

    /// Takes pages, sends and answers them. Returns whether there were any.
    fn send_some(&mut self) -> Result<bool, Box<abi::Error>> {
        let mut pages = vec![abi::Page::default(); abi::BATCH_MAX];
        let (mut count, mut flags, to) = (0, 0, pages.as_mut_ptr());
        let (size, capacity) = (size_of::<abi::Page>(), pages.len());
        let (count_at, flags_at) = (&raw mut count, &raw mut flags);
        // SAFETY: there is space.
        self.result(unsafe { f::p2mt_take(self.handle, to, size, capacity, count_at, flags_at) })?;
        if flags & abi::DO_FRAME_LIST != 0 {
            self.send_frame_list();
        }
        let pages = pages[..count].iter().enumerate();
        let answers: Vec<_> = pages.map(|(index, page)| self.send(index, page)).collect();
        if count > 0 {
            let size = size_of::<abi::PageAnswer>();
            // SAFETY: so many are there.
            let code = unsafe { f::p2mt_answer(self.handle, answers.as_ptr(), size, count) };
            self.result(code)?;
        }
        Ok(count > 0)
    }

    fn send(&mut self, index: usize, page: &abi::Page) -> abi::PageAnswer {
        let defer = |reason, errnum| abi::PageAnswer { verdict: 1, reason, errnum, zero: 0 };
        let frame = page.mfn;
        if !self.owned[frame as usize] {
            return defer(abi::DEFER_MAP, abi::NOT_OWNED);
        }
        if page.kind == 0 {
            self.received.insert(page.pfn, Got::Content(self.content[frame as usize]));
            return abi::PageAnswer::default();
        }
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let mut words: Vec<_> = self.words[&frame].iter().map(load).collect();
        self.fault.size = size_of::<abi::TableFault>() as u32;
        let (to, fault) = (words.as_mut_ptr(), &raw mut self.fault);
        // SAFETY: 512 words, and a place for a fault.
        match unsafe { f::p2mt_normalise(self.handle, index, to, fault) } {
            abi::OK => _ = self.received.insert(page.pfn, Got::table(words.into_iter())),
            code => {
                assert_eq!(code, abi::E_TABLE);
                return defer(abi::DEFER_TABLE, 0);
            }
        }
        abi::PageAnswer::default()
    }

    fn send_frame_list(&self) {
        let mut leaves = [0; 16];
        let (mut count, mut pfns, mut serial) = (0, 0, 0);
        let (to, count_at, pfns_at) = (leaves.as_mut_ptr(), &raw mut count, &raw mut pfns);
        let serial_at = &raw mut serial;
        // SAFETY: there is space.
        let code = unsafe { f::p2mt_frame_list(self.handle, to, 16, count_at, pfns_at, serial_at) };
        // SAFETY: it lives.
        let sent = unsafe { f::p2mt_frame_list_sent(self.handle, serial) };
        assert_eq!((code, sent), (abi::OK, abi::OK));
    }

    /// The destination drops the frames of pfns that have none at the source.
    fn take_back(&mut self) -> Result<(), Box<abi::Error>> {
        let mut gone = vec![0; PFN_COUNT as usize];
        let (to, capacity, mut count) = (gone.as_mut_ptr(), gone.len(), 0);
        // SAFETY: there is space.
        self.result(unsafe { f::p2mt_gone(self.handle, 0, to, capacity, &raw mut count) })?;
        gone[..count].iter().for_each(|pfn| _ = self.received.remove(pfn));
        Ok(())
    }

    fn try_round(&mut self, stage: u32) -> Result<abi::Report, Box<abi::Error>> {
        self.settle(stage)?;
        let size = size_of::<abi::Report>() as u32;
        let mut report = abi::Report { size, ..Default::default() };
        // SAFETY: both live.
        self.result(unsafe { f::p2mt_end(self.handle, &raw mut report) })?;
        Ok(report)
    }

    /// A round that ends without an error; if the guest is suspended, the destination is identical.
    fn round(&mut self, stage: u32) -> abi::Report {
        let report = self.try_round(stage);
        let report = report.unwrap_or_else(|error| panic!("{}", text_of(&error)));
        if stage != abi::LIVE {
            self.assert_identical();
        }
        report
    }

    /// Zero to two live rounds.
    fn live(&mut self) {
        for _ in 0..self.dice.below(3) {
            let frame = BASE + self.some_pfn();
            if self.owned[frame as usize] {
                self.write(frame);
            }
            self.round(abi::LIVE);
        }
    }

    /// A checkpoint, and live rounds.
    fn suspend(&mut self) -> abi::Report {
        let report = self.round(abi::CHECKPOINT);
        self.live();
        report
    }

    fn cleared_ptes(&self) -> Vec<(u64, u64)> {
        let mut ptes = [abi::ClearedPte::default(); 8];
        let (to, mut count) = (ptes.as_mut_ptr(), 0);
        let size = size_of::<abi::ClearedPte>();
        // SAFETY: there is space.
        let code = unsafe { f::p2mt_cleared_ptes(self.handle, to, size, 8, &raw mut count) };
        assert_eq!(code, abi::OK);
        ptes[..count].iter().map(|pte| (pte.pfn, pte.mfn)).collect()
    }
}

fn text_of(error: &abi::Error) -> String {
    let text = error.text.iter().take_while(|&&c| c != 0);
    text.map(|&c| c as u8 as char).collect()
}

/// Runs a case for all guests, hosts and orders, after the first copy.
fn play(config: abi::Config, case: impl Fn(&mut Guest)) {
    for width in [abi::WIDTH_64, abi::WIDTH_32] {
        for names_transfers in [true, false] {
            for order in 0..ORDERS {
                let mut guest = Guest::new(width, names_transfers, order);
                guest.attach(config);
                guest.round(abi::LIVE);
                case(&mut guest);
                let handle = std::mem::replace(&mut guest.handle, null_mut());
                // SAFETY: it lives, and is not used after.
                assert_eq!(unsafe { f::p2mt_destroy(handle) }, abi::OK);
            }
        }
    }
}

fn plain() -> abi::Config {
    abi::Config::default()
}

fn aliases() -> abi::Config {
    abi::Config { alias: abi::ALIAS_COPY, ..plain() }
}

#[test]
fn two_pfns_with_one_frame_are_sent_after_each_write() {
    play(aliases(), |guest| {
        let (pfn, hole) = (guest.some_pfn(), guest.some_hole());
        guest.set_entry(hole, BASE + pfn);
        guest.live();
        for _ in 0..3 {
            guest.write(BASE + pfn);
            assert_eq!(guest.suspend().settled_aliases, 1);
        }
        guest.write(BASE + pfn);
        guest.round(abi::FINAL);
    });
}

#[test]
fn a_frame_whose_m2p_names_another_pfn_is_sent_after_each_write() {
    play(plain(), |guest| {
        let (pfn, hole) = (guest.some_pfn(), guest.some_hole());
        let named = [abi::NONE, hole, PFN_COUNT, 1 << 40][guest.dice.below(4) as usize];
        guest.set_m2p(BASE + pfn, named);
        guest.set_entry(pfn, BASE + pfn); // its leaf is dirty once
        for _ in 0..3 {
            guest.write(BASE + pfn);
            assert_eq!(guest.suspend().settled_m2p_stale, 1, "{named:#x}");
        }
        guest.write(BASE + pfn);
        guest.round(abi::FINAL);
    });
}

#[test]
fn what_a_suspend_that_was_taken_back_settled_is_sent_again() {
    play(aliases(), |guest| {
        let (pfn, hole, stale) = (guest.some_pfn(), guest.some_hole(), 15);
        guest.set_entry(hole, BASE + pfn);
        guest.live();
        guest.set_m2p(BASE + stale, abi::NONE);
        guest.set_entry(stale, BASE + stale); // its leaf is dirty once
        guest.settle(abi::FINAL).unwrap_or_else(|error| panic!("{}", text_of(&error)));
        guest.round(abi::LIVE);
        [pfn, stale].into_iter().for_each(|pfn| guest.write(BASE + pfn));
        guest.live();
        guest.round(abi::FINAL);
    });
}

/// A page table names a frame of another domain, which has the frame at the same pfn as the guest.
/// Returns the pfn of the table, and the frame.
fn map_a_frame_that_matches(guest: &mut Guest) -> (u64, u64) {
    let (table, pfn) = (guest.some_pfn(), 14);
    let (other, frame) = (guest.entry(15), MACHINE as u64 - 1);
    guest.balloon_out(pfn);
    guest.give_away(frame, pfn);
    let entry = if guest.dice.one_in(2) { frame } else { guest.foreign(frame) };
    guest.set_entry(pfn, entry);
    guest.give_words(BASE + table, 0);
    for (slot, named) in [(3, frame), (4, other)] {
        guest.words[&(BASE + table)][slot].store(named << 12 | PRESENT, Ordering::Relaxed);
    }
    guest.mark(BASE + table);
    guest.live();
    (table, frame)
}

#[test]
fn a_pte_to_a_foreign_frame_that_matches_is_refused() {
    play(plain(), |guest| {
        let (table, frame) = map_a_frame_that_matches(guest);
        let error = guest.try_round(abi::FINAL).expect_err("refused");
        let (abi::Error { code, pfn, mfn, .. }, abi::TableFault { cause, slot, .. }) =
            (&*error, guest.fault);
        assert_eq!((*code, *pfn, *mfn, cause, slot), (abi::E_TABLE, table, frame, 1, 3));
    });
}

#[test]
fn a_pte_to_a_foreign_frame_that_matches_is_cleared_and_listed() {
    play(abi::Config { foreign_pte: abi::FOREIGN_PTE_CLEAR, ..plain() }, |guest| {
        let (table, frame) = map_a_frame_that_matches(guest);
        let report = guest.suspend();
        assert_eq!((report.settled_cleared_ptes, report.settled_foreign), (1, 1));
        guest.round(abi::FINAL);
        assert_eq!(guest.cleared_ptes(), [(table, frame)]);
    });
}

#[test]
fn a_frame_that_comes_back_under_an_entry_that_stayed_is_sent() {
    play(plain(), |guest| {
        let pfn = guest.some_pfn();
        let frame = BASE + pfn;
        guest.give_away(frame, 77);
        let entry = if guest.dice.one_in(2) { frame } else { guest.foreign(frame) };
        guest.set_entry(pfn, entry);
        guest.live();
        assert_eq!(guest.suspend().settled_foreign, 1);
        let content = guest.dice.word();
        guest.bring_in(frame, pfn, content);
        guest.live();
        assert_eq!(guest.suspend().settled_foreign, 0);
        guest.round(abi::FINAL);
    });
}

/// A host with `transfers` sends only that pfn again, one without sends everything.
#[test]
fn a_frame_that_was_given_out_and_came_back_by_transfer_is_sent() {
    play(plain(), |guest| {
        let pfn = guest.some_pfn();
        let frame = BASE + pfn;
        guest.live();
        (guest.accepts, guest.transfers) = (true, vec![pfn]);
        guest.live();
        let content = guest.dice.word();
        guest.bring_in(frame, pfn, content);
        if guest.dice.one_in(2) {
            (guest.accepts, guest.transfers) = (false, vec![frame | abi::TRANSFER_CAME]);
        }
        if !guest.names_transfers {
            guest.accepts = true; // it can report no more
        }
        let sent = guest.suspend().pages_accepted;
        assert_eq!(sent < 10, guest.names_transfers, "{sent}");
        (guest.accepts, guest.transfers) = (false, vec![]);
        guest.round(abi::LIVE);
        let sent = guest.round(abi::CHECKPOINT).pages_accepted;
        assert!(sent < 10 || !guest.names_transfers, "{sent}");
        let sent = guest.round(abi::FINAL).pages_accepted;
        assert!(sent < 10, "{sent}");
    });
}

#[test]
fn full_verification_finds_frames_that_were_given_away_without_a_write() {
    play(abi::Config { verify: abi::VERIFY_FULL, ..plain() }, |guest| {
        let pfn = guest.some_pfn();
        guest.live();
        guest.give_away(BASE + pfn, pfn);
        guest.live();
        assert_eq!(guest.suspend().settled_foreign, 1);
        guest.round(abi::FINAL);
    });
}

/// The tree has no leaves, or its top is all zeroes; or Xen reports all frames as another domain's.
fn hide(guest: &mut Guest, way: u64) {
    match way {
        0 => guest.put(TOP, 0, abi::NONE),
        1 => {
            let frame = BASE + guest.some_pfn();
            guest.give_words(frame, 0);
            guest.frame_list_list = frame;
        }
        _ => guest.disowned = true,
    }
}

#[test]
fn a_p2m_that_leads_nowhere_ends_by_name() {
    for way in 0..3 {
        let full = abi::Config { verify: abi::VERIFY_FULL, ..plain() };
        play(full, |guest| {
            guest.suspend();
            hide(guest, way);
            let there = guest.received.len();
            let error = guest.try_round(abi::FINAL).expect_err("nothing is there");
            assert_eq!(error.code, abi::E_UNACCOUNTED, "{way}: {}", text_of(&error));
            assert_eq!(guest.received.len(), there, "nothing was reported as gone");
        });
        play(abi::Config { unaccounted: abi::UNACCOUNTED_REPORT, ..full }, |guest| {
            guest.suspend();
            hide(guest, way);
            let report = guest.try_round(abi::FINAL);
            let report = report.unwrap_or_else(|error| panic!("{way}: {}", text_of(&error)));
            assert_eq!(report.unaccounted_frames, guest.held() as i64);
        });
    }
}
