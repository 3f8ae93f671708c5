// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the ports that are made of a host's callbacks: they keep the rules of every back end,
//! and pass the host's answers to the engine unchanged.
//! Not here: mistakes of a host in calls of the library (`ffi/tests/misuse.rs`).
//! Units: a guest of five frames on a machine of eight; frame `n` is `Machine::frames[n]`.
//! Threads: the caller's, and two that read a mapping.
//! Source: `include/p2mtrack.h`, `struct p2mt_host`; `p2mtrack::port::conformance`.

use p2mtrack::port::conformance;

use super::*;

const TOP: u64 = 1;
const MID: u64 = 2;
const LEAF: u64 = 3;
const PFNS: u64 = 5;

/// A frame of the machine, as a page lies in memory.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Frame([u64; 512]);

/// A machine with one guest that does not change: its pfns 0 to 4 have the frames 1 to 5, of which
/// three are its p2m.
struct Machine {
    frames: [Frame; 8],
    m2p: [u64; 8],
    /// The callback that breaks its rule.
    wrong: &'static str,
    /// Times that the roots were read.
    roots_read: u64,
}

impl Machine {
    fn new(wrong: &'static str) -> Box<Self> {
        let mut frames: [Frame; 8] = std::array::from_fn(|mfn| Frame([mfn as u64; 512]));
        for (table, entry) in [(TOP, MID), (MID, LEAF)] {
            frames[table as usize].0.fill(abi::NONE);
            frames[table as usize].0[0] = entry;
        }
        let mut m2p = [abi::NONE; 8];
        frames[LEAF as usize].0.fill(abi::NONE);
        for pfn in 0..PFNS {
            frames[LEAF as usize].0[pfn as usize] = pfn + 1;
            m2p[pfn as usize + 1] = pfn;
        }
        Box::new(Self { frames, m2p, wrong, roots_read: 0 })
    }

    fn owned(&self, mfn: u64) -> Option<&Frame> {
        let owned = self.m2p.get(mfn as usize).is_some_and(|&pfn| pfn != abi::NONE);
        owned.then(|| &self.frames[mfn as usize])
    }

    fn host(&mut self) -> Host {
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
            accepts_transfer: Some(accepts_transfer),
            log: None,
            m2p: self.m2p.as_ptr(),
            m2p_frames: self.m2p.len() as u64,
            compat_m2p_mfn: abi::NONE,
            transfers: None,
        };
        Host::new(host, Width::W64).expect("has all that is required")
    }
}

/// A callback: gets the machine behind `user`, and whether this callback has to break its rule.
macro_rules! callback {
    ($name:ident, $call:ty, |$machine:ident, $of:ident, $wrong:ident| $body:expr) => {
        unsafe extern "C" fn $name(user: *mut c_void, call: *const $call) -> c_int {
            // SAFETY: `user` is the machine of the test, which outlives the host; the header: the
            // call's arguments.
            let $machine = unsafe { &mut *user.cast::<Machine>() };
            // SAFETY: as above.
            let $of = unsafe { &*call };
            let $wrong = $machine.wrong == stringify!($name);
            // SAFETY: the header: what the call points to has the places that it says.
            unsafe { $body }
        }
    };
}

callback!(domain_frames, abi::DomainFramesCall, |machine, call, wrong| {
    call.frames.write(if wrong { machine.m2p.len() as u64 + 1 } else { PFNS });
    0
});
callback!(roots, abi::RootsCall, |machine, call, wrong| {
    machine.roots_read += 1;
    let generation = if wrong { machine.roots_read } else { 0 };
    let known = abi::Roots { pfn_count: PFNS, frame_list_list: TOP, ..*call.roots };
    call.roots.write(abi::Roots { generation, ..known });
    0
});
callback!(read, abi::ReadCall, |machine, call, wrong| {
    let Some(frame) = machine.owned(call.mfn) else {
        return if wrong { 0 } else { abi::NOT_OWNED };
    };
    call.words.copy_from(frame.0.as_ptr(), 512);
    0
});
callback!(map, abi::MapCall, |machine, call, wrong| {
    for index in 0..call.count {
        // What is wrong: the frames in the opposite order.
        let place = if wrong { call.count - 1 - index } else { index };
        let frame = machine.owned(call.mfns.add(index).read());
        call.addresses.add(place).write(frame.map_or(null(), |frame| frame.0.as_ptr().cast()));
        call.errors.add(place).write(if frame.is_some() { 0 } else { abi::NOT_OWNED });
    }
    0
});
callback!(unmap, abi::UnmapCall, |_machine, call, _wrong| {
    assert!(call.count > 0 && !call.addresses.read().is_null());
    0
});
callback!(types, abi::TypesCall, |machine, call, wrong| {
    for index in 0..call.count {
        let owned = machine.owned(call.mfns.add(index).read()).is_some();
        let kind = if owned || wrong { 0 } else { 0xf << 28 };
        call.types.add(index).write(kind);
    }
    0
});
callback!(unlogged, abi::UnloggedCall, |_machine, call, wrong| {
    call.count.write(if wrong { usize::MAX } else { 0 });
    0
});
callback!(accepts_transfer, abi::AcceptsTransferCall, |_machine, call, wrong| {
    call.accepts.write(0);
    if wrong { -EINVAL } else { 0 }
});

fn conforms(wrong: &'static str) -> conformance::Outcome {
    let mut machine = Machine::new(wrong);
    let mut host = machine.host();
    let outcome = conformance::guest(&mut host.lend());
    host.unmap_all();
    outcome
}

#[test]
fn callbacks_of_a_host_are_a_back_end_that_conforms() {
    conforms("").unwrap_or_else(|broken| panic!("{broken}"));
}

#[test]
fn a_callback_that_breaks_a_rule_is_named_by_its_port() {
    for (callback, port) in [
        ("domain_frames", "P2mSource"),
        ("roots", "P2mSource"),
        ("read", "P2mSource"),
        ("map", "P2mSource"),
        ("types", "FrameTypes"),
        ("unlogged", "Unlogged"),
        ("accepts_transfer", "Unlogged"),
    ] {
        let broken = conforms(callback).expect_err(callback);
        assert_eq!(broken.port, port, "{callback}: {broken}");
    }
}

#[test]
fn the_compat_m2p_is_a_frame_or_none() {
    for (said, expected) in [(0, None), (abi::NONE, None), (7, Some(Mfn(7)))] {
        let m2p = HostM2p(Callbacks(abi::Host { compat_m2p_mfn: said, ..refusing() }));
        assert_eq!(m2p.compat_frame(), expected);
    }
}

#[test]
fn a_transfer_entry_names_a_frame_that_came_or_a_pfn() {
    assert_eq!(transfer(7), Transfer::Into(Pfn(7)));
    assert_eq!(transfer(abi::TRANSFER_CAME | 7), Transfer::Came(Mfn(7)));
    assert_eq!(transfer(abi::NONE), Transfer::Came(Mfn(abi::NONE >> 1)));
}

#[test]
fn a_frame_that_is_not_owned_is_no_errno() {
    assert_eq!(map_fault(abi::NOT_OWNED), MapFault::NotOwned);
    assert_eq!(map_fault(-6), MapFault::Errno(6)); // ENXIO
    for nonsense in [0, 1, -4097, c_int::MIN, c_int::MAX] {
        assert_eq!(map_fault(nonsense), MapFault::Errno(EINVAL));
    }
}
