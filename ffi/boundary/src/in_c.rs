// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same round through the exported functions: structures, callbacks, codes.
//! Not here: the guest (`fixture`).
//! Units: pages.
//! Threads: the caller's.
//! Source: `ffi/include/p2mtrack.h`.

#![expect(unsafe_code, reason = "calls as C makes them; docs/safety.md")]

use std::ffi::{c_int, c_void};
use std::ptr::{null, null_mut};

use p2mtrack::frame::Mfn;
use p2mtrack::leaf::{FRAME_WORDS, Leaf};
use p2mtrack::port::Ports;
use p2mtrack_ffi::abi;
use p2mtrack_ffi::functions as f;
use p2mtrack_synthetic::huge::ports::GuestPorts;

use crate::fixture::Fixture;
use crate::{Round, Side};

/// What the callbacks work on.
struct Host<'s> {
    fixture: &'s Fixture,
    ports: GuestPorts<'static>,
}

impl Host<'_> {
    fn with<T>(&mut self, call: impl FnOnce(&mut Ports<'_>) -> T) -> T {
        call(&mut self.ports.lend(&mut ()))
    }
}

/// The side.
pub(crate) struct InC<'s> {
    host: Box<Host<'s>>,
    handle: *mut f::Handle,
    pages: Vec<abi::Page>,
    second: bool,
}

/// The host behind `user`, and the arguments of the callback.
///
/// # Safety
/// It is that of the handle, and lives.
/// The arguments are what the library passed.
unsafe fn at<'a, C>(user: *mut c_void, call: *const C) -> (&'a mut Host<'a>, &'a C) {
    // SAFETY: the caller's contract.
    let of = unsafe { &mut *user.cast::<Host<'a>>() };
    // SAFETY: as above.
    (of, unsafe { &*call })
}

unsafe extern "C" fn domain_frames(user: *mut c_void, call: *const abi::DomainFramesCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (host, call) = unsafe { at(user, call) };
    let frames = host.with(|ports| ports.guest.p2m.domain_frames());
    // SAFETY: the header: a place for it.
    unsafe { call.frames.write(frames.unwrap_or(0)) };
    0
}

unsafe extern "C" fn roots(user: *mut c_void, call: *const abi::RootsCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (host, call) = unsafe { at(user, call) };
    let roots = host.with(|ports| ports.guest.p2m.roots());
    let Ok(r) = roots else { return -5 };
    let roots = abi::Roots {
        size: size_of::<abi::Roots>() as u32,
        zero: 0,
        pfn_count: r.pfn_count,
        frame_list_list: r.frame_list_list,
        p2m_cr3: r.p2m_cr3,
        p2m_vaddr: r.p2m_vaddr,
        generation: r.generation,
    };
    // SAFETY: the header: a place for them.
    unsafe { call.roots.write(roots) };
    0
}

unsafe extern "C" fn read(user: *mut c_void, call: *const abi::ReadCall) -> c_int {
    let mut leaf = Leaf::default();
    // SAFETY: as promised to the host; the header: the arguments.
    let (host, call) = unsafe { at(user, call) };
    let read = host.with(|ports| ports.guest.p2m.read(Mfn(call.mfn), &mut leaf));
    // SAFETY: the header: space for 512 words.
    unsafe { std::slice::from_raw_parts_mut(call.words, FRAME_WORDS) }.copy_from_slice(&leaf.words);
    read.map_or(abi::NOT_OWNED, |()| 0)
}

unsafe extern "C" fn map(user: *mut c_void, call: *const abi::MapCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (host, call) = unsafe { at(user, call) };
    // SAFETY: the header: `count` of each.
    let mfns = unsafe { std::slice::from_raw_parts(call.mfns, call.count) };
    // SAFETY: as above.
    let addresses = unsafe { std::slice::from_raw_parts_mut(call.addresses, call.count) };
    let frames: Vec<_> = mfns.iter().map(|&mfn| Mfn(mfn)).collect();
    let mut slots = Vec::new();
    host.with(|ports| {
        ports.guest.p2m.map(&frames, &mut slots);
        for (address, slot) in addresses.iter_mut().zip(&slots) {
            *address = slot.map_or(null(), |slot| ports.guest.p2m.live(slot).as_ptr().cast());
        }
    });
    0
}

const unsafe extern "C" fn unmap(_: *mut c_void, _: *const abi::UnmapCall) -> c_int {
    0 // the guest stays mapped for as long as the program runs
}

unsafe extern "C" fn types(user: *mut c_void, call: *const abi::TypesCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (host, call) = unsafe { at(user, call) };
    // SAFETY: the header: `count` of each.
    let mfns = unsafe { std::slice::from_raw_parts(call.mfns, call.count) };
    // SAFETY: as above.
    let types = unsafe { std::slice::from_raw_parts_mut(call.types, call.count) };
    host.fixture.type_words(mfns, types);
    0
}

unsafe extern "C" fn unlogged(user: *mut c_void, call: *const abi::UnloggedCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (_, call) = unsafe { at(user, call) };
    // SAFETY: the header: a place for it.
    unsafe { call.count.write(0) };
    0
}

unsafe extern "C" fn accepts(user: *mut c_void, call: *const abi::AcceptsTransferCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (_, call) = unsafe { at(user, call) };
    // SAFETY: the header: a place for it.
    unsafe { call.accepts.write(0) };
    0
}

unsafe extern "C" fn transfers(user: *mut c_void, call: *const abi::TransfersCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (_, call) = unsafe { at(user, call) };
    // SAFETY: the header: a place for it.
    unsafe { call.count.write(0) };
    0
}

impl<'s> InC<'s> {
    /// Makes the side, and the first copy.
    pub(crate) fn new(fixture: &'s Fixture) -> Self {
        let mut host = Box::new(Host { fixture, ports: fixture.ports() });
        let theirs = abi::Host {
            size: size_of::<abi::Host>() as u32,
            zero: 0,
            user: (&raw mut *host).cast(),
            domain_frames: Some(domain_frames),
            roots: Some(roots),
            read: Some(read),
            map: Some(map),
            unmap: Some(unmap),
            types: Some(types),
            unlogged: Some(unlogged),
            accepts_transfer: Some(accepts),
            log: None,
            m2p: fixture.m2p().as_ptr().cast(),
            m2p_frames: fixture.m2p().len() as u64,
            compat_m2p_mfn: abi::NONE,
            transfers: Some(transfers),
        };
        let size = size_of::<abi::Config>() as u32;
        let config = abi::Config { size, width: 64, ..Default::default() };
        let mut handle = null_mut();
        // SAFETY: all of them live; the host outlives the handle.
        let code = unsafe {
            f::p2mt_create(&raw const config, &raw const theirs, null_mut(), &raw mut handle)
        };
        assert_eq!(code, abi::OK);
        let pages = vec![abi::Page::default(); abi::BATCH_MAX];
        let mut side = Self { host, handle, pages, second: false };
        fixture.change(false);
        fixture.clean(&mut []);
        side.round();
        side
    }

    /// The page tables of the first copy; there are none later.
    fn normalise_tables(&mut self, count: usize) {
        for index in 0..count {
            let page = self.pages[index];
            if page.kind == 0 {
                continue;
            }
            let mut table = Leaf::default();
            let read = self.host.with(|ports| ports.guest.p2m.read(Mfn(page.mfn), &mut table));
            assert_eq!(read, Ok(()));
            let words = table.words.as_mut_ptr();
            // SAFETY: it lives, and 512 words do.
            let code = unsafe { f::p2mt_normalise(self.handle, index, words, null_mut()) };
            assert_eq!(code, abi::OK);
        }
    }

    fn send_frame_list(&self) {
        let (mut count, mut pfns, mut serial) = (0, 0, 0);
        let (pfns, number) = (&raw mut pfns, &raw mut serial);
        // SAFETY: places for all three; no space for a list.
        let code =
            unsafe { f::p2mt_frame_list(self.handle, null_mut(), 0, &raw mut count, pfns, number) };
        assert_eq!(code, abi::OK);
        let mut leaves = vec![0; count];
        let to = leaves.as_mut_ptr();
        // SAFETY: as above, with space for the list.
        let code =
            unsafe { f::p2mt_frame_list(self.handle, to, count, &raw mut count, pfns, number) };
        assert_eq!(code, abi::OK);
        std::hint::black_box(leaves);
        // SAFETY: as above.
        assert_eq!(unsafe { f::p2mt_frame_list_sent(self.handle, serial) }, abi::OK);
    }
}

impl Side for InC<'_> {
    fn prepare(&mut self, round: Round) {
        match round {
            Round::Quiet => {}
            Round::Written => self.host.fixture.write(),
            Round::Busy => {
                self.second = !self.second;
                self.host.fixture.change(self.second);
            }
        }
    }

    fn round(&mut self) -> u64 {
        let mut buffer = abi::LogBuffer { words: null_mut(), pfns: 0 };
        // SAFETY: both live.
        assert_eq!(unsafe { f::p2mt_begin(self.handle, abi::LIVE, &raw mut buffer) }, abi::OK);
        if buffer.pfns > 0 {
            // SAFETY: the buffer is lent, and has so many words.
            let words = unsafe {
                std::slice::from_raw_parts_mut(buffer.words, (buffer.pfns / 64) as usize)
            };
            self.host.fixture.clean(words);
        }
        // SAFETY: it lives; no report is wanted.
        assert_eq!(unsafe { f::p2mt_scan(self.handle, buffer.pfns, null_mut()) }, abi::OK);
        let mut taken = 0;
        loop {
            let (mut count, mut flags) = (0, 0);
            let (to, capacity) = (self.pages.as_mut_ptr(), self.pages.len());
            let size = size_of::<abi::Page>();
            let (count_at, flags_at) = (&raw mut count, &raw mut flags);
            // SAFETY: the array has that capacity.
            let code = unsafe { f::p2mt_take(self.handle, to, size, capacity, count_at, flags_at) };
            assert_eq!(code, abi::OK);
            if flags & abi::DO_FRAME_LIST != 0 {
                self.send_frame_list();
            }
            if count == 0 {
                break;
            }
            taken += count as u64;
            self.normalise_tables(count);
            // SAFETY: it lives.
            assert_eq!(unsafe { f::p2mt_accept(self.handle, count) }, abi::OK);
        }
        let mut report =
            abi::Report { size: size_of::<abi::Report>() as u32, ..Default::default() };
        // SAFETY: both live.
        assert_eq!(unsafe { f::p2mt_end(self.handle, &raw mut report) }, abi::OK);
        taken
    }
}

impl Drop for InC<'_> {
    fn drop(&mut self) {
        // SAFETY: it lives, and is not used after.
        unsafe { f::p2mt_destroy(self.handle) };
    }
}
