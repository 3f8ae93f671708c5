// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random sequences of calls by a host that makes mistakes, with a guest that lies and callbacks
//! that fail: calls return codes, and never crash, leak or hang. What the calls report of single
//! pages holds: the guest wrote the entry of each page taken, an accepted page is recorded under it
//! (law 5), any other stays owed (law 3).
//! Not here: whether a migration is right (`ffi/examples` over the harness; `owners` for cases that
//! have no simulated guest).
//! Units: a sequence is one handle's life; `P2MTRACK_SEQUENCES` of them, each from its number.
//! Threads: the engine's, one or two.
//! Source: `docs/abi.md`. Natively, and under AddressSanitizer, ThreadSanitizer and memcheck by
//! `ffi/tests/sanitize`.

#[path = "sequences/owners.rs"]
mod owners;

use std::collections::{BTreeMap, HashMap};
use std::ffi::{c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};

use p2mtrack_ffi::abi;
use p2mtrack_ffi::functions as f;

const WORDS: usize = 512;
/// Frames that are not leaves, but may be named.
const FRAMES: usize = 64;
/// Leaves of most guests, and of one that two threads have to share.
const LEAVES: [usize; 2] = [3, 160];
/// First frames: top, mid, leaves.
const TOP: usize = 1;
const MID: usize = 2;
const LEAF: usize = 3;

const CODES: [c_int; 20] = [
    abi::OK,
    abi::E_HOST,
    abi::E_SIZE,
    abi::E_FORKED,
    abi::E_THREADS,
    abi::E_BUSY,
    abi::E_ARGUMENT,
    abi::E_ENVIRONMENT,
    abi::E_UNCERTAIN,
    abi::E_ORDER,
    abi::E_PAGE,
    abi::E_ROOTS,
    abi::E_STRUCTURE,
    abi::E_P2M_SIZE,
    abi::E_TOO_MANY_DEFERRED,
    abi::E_ENTRY,
    abi::E_TABLE,
    abi::E_WIDTH,
    abi::E_UNACCOUNTED,
    abi::E_PANIC,
];

/// A lie: tens of thousands of pfns have one frame, and are deferred.
const TOO_MANY: u64 = 5;
/// A lie: the p2m does not name most of the domain's frames.
const HIDDEN: u64 = 6;
/// Frames that it does not name then.
const HIDDEN_FRAMES: usize = 2000;

/// Random numbers from a seed.
struct Dice(u64);

impl Dice {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.word() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A host, its hypervisor and the guest.
struct Machine {
    dice: Dice,
    leaves: usize,
    /// From the host's configuration; the guest has none.
    width: u32,
    frames: Vec<[AtomicU64; WORDS]>,
    m2p: Vec<AtomicU64>,
    /// The last `pfn_count` that `roots` returned.
    pfn_count: u64,
    /// Addresses that are mapped, and how often.
    mapped: HashMap<usize, u32>,
    /// One call in so many fails; 0: none does.
    faulty: u64,
    /// The guest always publishes roots of this kind; 0: mostly good ones.
    lie: u64,
    /// A handle that callbacks call.
    handle: *mut f::Handle,
    /// What such a call returned.
    inner: Option<c_int>,
}

impl Machine {
    fn new(seed: u64) -> Box<Self> {
        let mut dice = Dice(seed);
        let faulty = [0, 0, 200, 20][dice.below(4) as usize];
        let lie = if dice.one_in(8) { 1 + dice.below(6) } else { 0 };
        let leaves = LEAVES[usize::from(lie == TOO_MANY || dice.one_in(25))];
        let count = FRAMES + leaves;
        let machine_frames = count + if lie == HIDDEN { HIDDEN_FRAMES } else { 0 };
        let frame = |_| std::array::from_fn(|_| AtomicU64::new(u64::MAX));
        let mut machine = Box::new(Self {
            dice,
            leaves,
            width: abi::WIDTH_64,
            frames: (0..count).map(frame).collect(),
            m2p: (0..machine_frames).map(|_| AtomicU64::new(abi::NONE)).collect(),
            pfn_count: 0,
            mapped: HashMap::new(),
            faulty,
            lie,
            handle: null_mut(),
            inner: None,
        });
        machine.put(TOP, 0, MID as u64);
        for leaf in 0..leaves {
            machine.put(MID, leaf, (LEAF + leaf) as u64);
        }
        // The first pfns have the frames of their numbers, and so have the p2m's own.
        for frame in 0..count {
            machine.put(LEAF, frame, frame as u64);
            machine.m2p[frame].store(frame as u64, Ordering::Relaxed);
        }
        if lie == TOO_MANY {
            for leaf in LEAF + 1..LEAF + leaves {
                (0..WORDS).for_each(|word| machine.put(leaf, word, 40));
            }
        }
        machine
    }

    fn pfns(&self) -> u64 {
        (self.leaves * WORDS) as u64
    }

    /// Frames that the domain holds.
    fn held(&self) -> u64 {
        if self.lie == HIDDEN { self.m2p.len() as u64 } else { self.frames.len() as u64 }
    }

    /// Whether some frame has that entry for a pfn: the leaf may have moved since the engine last
    /// read it.
    fn wrote(&self, pfn: u64, entry: u64) -> bool {
        let word = |frame: &[AtomicU64; WORDS], index: usize| frame[index].load(Ordering::Relaxed);
        let (wide, half) = (pfn as usize % WORDS, pfn as usize % (2 * WORDS));
        self.frames.iter().any(|frame| match self.width {
            abi::WIDTH_32 => word(frame, half / 2) >> (half % 2 * 32) & 0xffff_ffff == entry,
            _ => word(frame, wide) == entry,
        })
    }

    fn put(&mut self, frame: usize, word: usize, value: u64) {
        self.frames[frame][word].store(value, Ordering::Relaxed);
    }

    /// What the guest does between two calls.
    fn live(&mut self) {
        for _ in 0..self.dice.below(4) {
            let of = if self.dice.one_in(2) { 6 } else { (LEAF + self.leaves) as u64 };
            let (frame, word) = (self.dice.below(of) as usize, self.dice.below(600) as usize);
            let value = match self.dice.below(6) {
                0 => self.dice.word(),
                1 => abi::NONE,
                _ => self.dice.below(FRAMES as u64 + 3),
            };
            if word < WORDS && (frame >= LEAF || self.dice.one_in(20)) {
                self.put(frame, word, value);
            }
            if self.dice.one_in(4) {
                let frame = self.dice.below(self.m2p.len() as u64) as usize;
                self.m2p[frame].store(value, Ordering::Relaxed);
            }
        }
    }

    /// A callback's answer: mostly 0.
    fn fate(&mut self) -> c_int {
        if !self.handle.is_null() && self.dice.one_in(50) {
            // SAFETY: it lives: one of its calls runs this callback.
            self.inner = Some(unsafe { f::p2mt_verify(self.handle, 0) });
        }
        if self.faulty == 0 || !self.dice.one_in(self.faulty) {
            return 0;
        }
        [-5, -12, -22, abi::NOT_OWNED, 1, c_int::MIN, c_int::MAX, -1][self.dice.below(8) as usize]
    }
}

/// The machine behind `user`, and the arguments of the callback.
///
/// # Safety
/// It is the one that the host was made with, which outlives the handle.
/// The arguments are what the library passed.
unsafe fn at<'a, C>(user: *mut c_void, call: *const C) -> (&'a mut Machine, &'a C) {
    // SAFETY: the caller's contract; callbacks come one at a time, and the test does not use it
    // meanwhile.
    let of = unsafe { &mut *user.cast::<Machine>() };
    // SAFETY: as above.
    (of, unsafe { &*call })
}

unsafe extern "C" fn domain_frames(user: *mut c_void, call: *const abi::DomainFramesCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (machine, call) = unsafe { at(user, call) };
    let frames = if machine.dice.one_in(50) { machine.dice.word() } else { machine.held() };
    // SAFETY: the header: a place for a word.
    unsafe { call.frames.write(frames) };
    machine.fate()
}

unsafe extern "C" fn roots(user: *mut c_void, call: *const abi::RootsCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (machine, call) = unsafe { at(user, call) };
    // SAFETY: the header: a place for them, with a size.
    assert_eq!(unsafe { call.roots.cast::<u32>().read() }, size_of::<abi::Roots>() as u32);
    let pfn_count = machine.pfns();
    let mut roots = abi::Roots { pfn_count, frame_list_list: TOP as u64, ..Default::default() };
    let kind = if machine.lie > 0 { machine.lie - 1 } else { machine.dice.below(60) };
    match kind {
        0 => roots.pfn_count = machine.dice.below(pfn_count + 600),
        1 => roots.frame_list_list = machine.dice.below(FRAMES as u64 + 2),
        2 => roots.p2m_cr3 = machine.dice.word(),
        3 => roots.pfn_count = machine.dice.word(),
        _ => {}
    }
    machine.pfn_count = roots.pfn_count;
    // SAFETY: the header: a place for them.
    unsafe { call.roots.write(roots) };
    machine.fate()
}

unsafe extern "C" fn read(user: *mut c_void, call: *const abi::ReadCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (machine, call) = unsafe { at(user, call) };
    let Some(frame) = machine.frames.get(call.mfn as usize) else { return abi::NOT_OWNED };
    for (index, word) in frame.iter().enumerate() {
        // SAFETY: the header: space for 512 words.
        unsafe { call.words.wrapping_add(index).write(word.load(Ordering::Relaxed)) };
    }
    machine.fate()
}

unsafe extern "C" fn map(user: *mut c_void, call: *const abi::MapCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (machine, call) = unsafe { at(user, call) };
    let fate = machine.fate();
    if fate != 0 {
        return fate;
    }
    // SAFETY: the header: `count` of each.
    let mfns = unsafe { std::slice::from_raw_parts(call.mfns, call.count) };
    // SAFETY: as above.
    let addresses = unsafe { std::slice::from_raw_parts_mut(call.addresses, call.count) };
    // SAFETY: as above.
    let errors = unsafe { std::slice::from_raw_parts_mut(call.errors, call.count) };
    for ((&mfn, address), error) in mfns.iter().zip(addresses).zip(errors) {
        let fate = machine.fate();
        match machine.frames.get(mfn as usize) {
            Some(frame) if fate == 0 => {
                let odd = usize::from(machine.dice.one_in(300)); // an address that is not aligned
                *address = frame.as_ptr().cast::<u8>().wrapping_add(odd).cast();
                *machine.mapped.entry(address.addr()).or_default() += 1;
            }
            Some(_) => *error = fate,
            None => *error = abi::NOT_OWNED,
        }
    }
    0
}

unsafe extern "C" fn unmap(user: *mut c_void, call: *const abi::UnmapCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (machine, call) = unsafe { at(user, call) };
    // SAFETY: the header: `count` of them.
    for address in unsafe { std::slice::from_raw_parts(call.addresses, call.count) } {
        let held = machine.mapped.get_mut(&address.addr()).expect("unmapped what was not mapped");
        *held -= 1;
        if *held == 0 {
            machine.mapped.remove(&address.addr());
        }
    }
    machine.fate()
}

unsafe extern "C" fn types(user: *mut c_void, call: *const abi::TypesCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (machine, call) = unsafe { at(user, call) };
    assert!(call.count <= 1024);
    for index in 0..call.count {
        // SAFETY: the header: `count` of them.
        let mfn = unsafe { call.mfns.wrapping_add(index).read() };
        let kind = match mfn {
            10..14 => (mfn as u32 - 9) << 28 | u32::from(machine.dice.one_in(2)) << 31,
            _ if mfn >= machine.frames.len() as u64 => 0xf << 28,
            _ => [0, 0, 0, 0, 0, 0, 0, 0xf][machine.dice.below(8) as usize] << 28,
        };
        let kind = if machine.dice.one_in(5000) { machine.dice.word() as u32 } else { kind };
        // SAFETY: as above.
        unsafe { call.types.wrapping_add(index).write(kind) };
    }
    machine.fate()
}

unsafe extern "C" fn unlogged(user: *mut c_void, call: *const abi::UnloggedCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (machine, call) = unsafe { at(user, call) };
    let count = [0, 3, 256, 300, 5000][machine.dice.below(5) as usize];
    for index in 0..count.min(call.capacity) {
        let pfn = machine.dice.below(machine.pfns() + 10);
        // SAFETY: the header: space for `capacity`.
        unsafe { call.pfns.wrapping_add(index).write(pfn) };
    }
    // SAFETY: the header: a place for it.
    unsafe { call.count.write(count) };
    machine.fate()
}

unsafe extern "C" fn accepts(user: *mut c_void, call: *const abi::AcceptsTransferCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (machine, call) = unsafe { at(user, call) };
    // SAFETY: the header: a place for it.
    unsafe { call.accepts.write(i32::from(machine.dice.one_in(10))) };
    machine.fate()
}

unsafe extern "C" fn transfers(user: *mut c_void, call: *const abi::TransfersCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (machine, call) = unsafe { at(user, call) };
    let count = [0, 0, 0, 3, 300][machine.dice.below(5) as usize];
    for index in 0..count.min(call.capacity) {
        let name = match machine.dice.below(8) {
            0 => machine.dice.word(),
            1..4 => machine.dice.below(FRAMES as u64) | abi::TRANSFER_CAME,
            _ => machine.dice.below(machine.pfns() + 10),
        };
        // SAFETY: the header: space for `capacity`.
        unsafe { call.names.wrapping_add(index).write(name) };
    }
    // SAFETY: the header: a place for it.
    unsafe { call.count.write(count) };
    machine.fate()
}

unsafe extern "C" fn log(_: *mut c_void, call: *const abi::LogCall) -> c_int {
    // SAFETY: the header: the call's arguments.
    let call = unsafe { &*call };
    // SAFETY: the header: a string.
    let text = unsafe { std::ffi::CStr::from_ptr(call.text) };
    assert!(text.to_str().is_ok_and(|text| !text.is_empty()) && (1..=3).contains(&call.level));
    0
}

/// The host of a machine; sometimes with a mistake.
fn host(machine: &mut Machine) -> abi::Host {
    let user = (&raw mut *machine).cast();
    let mut host = abi::Host {
        size: size_of::<abi::Host>() as u32,
        zero: 0,
        user,
        domain_frames: Some(domain_frames),
        roots: Some(roots),
        read: Some(read),
        map: Some(map),
        unmap: Some(unmap),
        types: Some(types),
        unlogged: Some(unlogged),
        accepts_transfer: Some(accepts),
        log: Some(log),
        m2p: machine.m2p.as_ptr().cast(),
        m2p_frames: machine.m2p.len() as u64,
        compat_m2p_mfn: 60,
        transfers: if machine.dice.one_in(2) { Some(transfers) } else { None },
    };
    match machine.dice.below(100) {
        0 => host.map = None,
        1 => host.size = machine.dice.below(112) as u32,
        2 => host.m2p = null(),
        3 => host.zero = 1,
        4 => host.m2p_frames = 0,
        5 => host.log = None,
        6 => host.compat_m2p_mfn = 0,
        7 => host.size = 112,
        _ => {}
    }
    host
}

fn config(machine: &mut Machine) -> abi::Config {
    let threads = if machine.leaves == LEAVES[0] { 1 } else { 2 };
    let dice = &mut machine.dice;
    let mut config = abi::Config {
        size: size_of::<abi::Config>() as u32,
        width: abi::WIDTH_64,
        mode: dice.below(3) as u32,
        threads,
        kernel: if dice.one_in(4) { dice.below(5) as u32 } else { 0 },
        verify: dice.below(2) as u32,
        alias: dice.below(2) as u32,
        foreign_pte: dice.below(2) as u32,
        uncertain_rounds_max: dice.below(3) as u32,
        unaccounted: dice.below(2) as u32,
    };
    match dice.below(40) {
        0 => config.width = dice.word() as u32,
        1 => config.mode = 7,
        2 => config.size = dice.word() as u32 % 5000,
        3 => config.width = abi::WIDTH_32,
        4 => config.unaccounted = 2,
        _ => {}
    }
    if config.size > size_of::<abi::Config>() as u32 {
        config.size = u32::MAX; // the structure here is not that long
    }
    machine.width = config.width;
    config
}

/// One handle's life.
struct Sequence {
    machine: Box<Machine>,
    handle: *mut f::Handle,
    /// Pages that have no answer yet.
    taken: Vec<abi::Page>,
    /// The page tables among them, and the codes of their normalisation.
    tables: Vec<(usize, c_int)>,
    /// How often each code was returned.
    tally: BTreeMap<c_int, u64>,
    /// Rounds of `round` that ended without an error, by stage.
    ended: [u64; 3],
    /// The last take asked for the frame list, and it was not sent since.
    list_is_due: bool,
    /// Cleared PTEs that were listed.
    cleared: u64,
    /// The expected totals: rounds begun and ended, pages accepted and deferred by answers.
    counts: Counts,
}

/// The host's counts of its own calls.
#[derive(Default)]
struct Counts {
    begun: u64,
    ended: u64,
    accepted: u64,
    deferred: u64,
}

const MARK: usize = 0x5a5a;

impl Sequence {
    /// `None`: no handle, because of a mistake that was planted.
    fn new(seed: u64) -> Option<Self> {
        let mut machine = Machine::new(seed);
        let (config, host) = (config(&mut machine), host(&mut machine));
        let mut error = none();
        let mut handle = null_mut();
        let (config_at, host_at) = match machine.dice.below(60) {
            0 => (null(), &raw const host),
            1 => (&raw const config, null()),
            _ => (&raw const config, &raw const host),
        };
        // SAFETY: all of them live, and the machine outlives the handle.
        let code = unsafe { f::p2mt_create(config_at, host_at, &raw mut error, &raw mut handle) };
        if code != abi::OK {
            assert!(code == error.code && handle.is_null(), "{code}");
            return None;
        }
        machine.handle = handle;
        Some(Self {
            machine,
            handle,
            taken: Vec::new(),
            tables: Vec::new(),
            tally: BTreeMap::new(),
            ended: [0; 3],
            list_is_due: false,
            cleared: 0,
            counts: Counts::default(),
        })
    }

    /// One call, chosen at random, with arguments that are mostly right.
    fn call(&mut self, plausible: bool) {
        self.machine.live();
        let pfns = self.machine.pfns();
        let dice = &mut self.machine.dice;
        let bad = !plausible && dice.one_in(8);
        let which = if plausible && !dice.one_in(10) { 0 } else { 1 + dice.below(15) };
        let (handle, choice) = (self.handle, dice.below(100));
        let code = match which {
            0 => return self.round(),
            1 => self.begin(choice as u32 % if bad { 5 } else { 3 }, bad),
            2 => self.feed(bad),
            3 => self.scan(bad),
            4 => self.take(bad),
            5 => self.normalise(bad),
            6 => self.answer(bad),
            7 => self.frame_list(bad),
            8 => {
                let far = if dice.one_in(4) { dice.word() } else { dice.below(pfns) };
                let lost = [dice.below(pfns), far];
                let at = if bad { null() } else { lost.as_ptr() };
                // SAFETY: two pfns are there, or none.
                unsafe { f::p2mt_return(handle, at, 2) }
            }
            9 => self.gone(bad),
            10 => {
                // SAFETY: a report is not wanted.
                let code = unsafe { f::p2mt_end(handle, null_mut()) };
                self.counts.ended += u64::from(code == abi::OK);
                code
            }
            11 if choice < 10 => {
                // SAFETY: it lives.
                unsafe { f::p2mt_cancel(handle) }
            }
            11 | 12 if bad => {
                // SAFETY: no place is an argument.
                unsafe { f::p2mt_stats(handle, null_mut()) }
            }
            11 | 12 => self.totals(),
            13 => {
                let pfn = if bad { dice.word() } else { dice.below(pfns) };
                self.why(pfn).1
            }
            14 => self.cleared_ptes(bad),
            _ => {
                let verify = if bad { 9 } else { choice as u32 % 2 };
                // SAFETY: it lives.
                unsafe { f::p2mt_verify(handle, verify) }
            }
        };
        self.expect(code);
    }

    /// Expects a known code, never that of a defect, and the handle's last error to have it.
    fn expect(&mut self, code: c_int) {
        assert!(CODES.contains(&code), "{code}");
        *self.tally.entry(code).or_default() += 1;
        let ends = [
            abi::E_HOST,
            abi::E_UNCERTAIN,
            abi::E_PAGE,
            abi::E_ENTRY,
            abi::E_STRUCTURE,
            abi::E_UNACCOUNTED,
        ];
        if ends.contains(&code) {
            assert_eq!(self.under_way(), 0, "{}", self.last_error());
        }
        assert!(code != abi::E_PANIC, "{}", self.last_error());
        if let Some(inner) = self.machine.inner.take() {
            assert_eq!(inner, abi::E_BUSY, "a call from a callback");
        }
        if code != abi::OK {
            let mut error = none();
            // SAFETY: both live.
            assert_eq!(unsafe { f::p2mt_last_error(self.handle, &raw mut error) }, abi::OK);
            assert_eq!(error.code, code);
            assert_ne!(error.text[0], 0, "{code}");
        }
    }

    fn last_error(&self) -> String {
        let mut error = none();
        // SAFETY: both live.
        unsafe { f::p2mt_last_error(self.handle, &raw mut error) };
        error.text.iter().take_while(|&&c| c != 0).map(|&c| c as u8 as char).collect()
    }

    /// A round in the right order, which may be left at any step.
    fn round(&mut self) {
        let stage = self.machine.dice.below(3) as u32;
        for step in 0..60 {
            let code = match step {
                0 => self.begin(stage, false),
                1 => self.feed(false),
                2 => self.scan(false),
                _ if step % 3 == 0 => self.take(false),
                _ if step % 3 == 1 => {
                    for table in 0..self.tables.len() {
                        self.tables[table].1 = self.normalise_page(self.tables[table].0);
                    }
                    self.frame_list(false)
                }
                _ => self.answer(false),
            };
            self.expect(code);
            if code != abi::OK && step % 3 != 2 || self.machine.dice.one_in(40) {
                return;
            }
            if step % 3 == 0 && step > 0 && self.taken.is_empty() {
                break;
            }
        }
        for code in [self.gone(false), self.cleared_ptes(false)] {
            self.expect(code);
        }
        let size = size_of::<abi::Report>() as u32;
        let mut report = abi::Report { size, ..Default::default() };
        // SAFETY: both live.
        let code = unsafe { f::p2mt_end(self.handle, &raw mut report) };
        if code == abi::OK {
            assert_eq!(report.unaccounted_frames == i64::MIN, stage == abi::LIVE, "{report:?}");
        }
        self.ended[stage as usize] += u64::from(code == abi::OK);
        self.counts.ended += u64::from(code == abi::OK);
        self.expect(code);
    }

    fn begin(&mut self, stage: u32, bad: bool) -> c_int {
        let mut buffer = abi::LogBuffer { words: null_mut(), pfns: 1 };
        let at = if bad { null_mut() } else { &raw mut buffer };
        // SAFETY: a place for it, or none.
        let code = unsafe { f::p2mt_begin(self.handle, stage, at) };
        if code == abi::OK {
            self.counts.begun += 1;
            for page in std::mem::take(&mut self.taken) {
                let (state, _) = self.why(page.pfn);
                let is_there = page.pfn < self.machine.pfn_count;
                assert!(state.causes != 0 || !is_there, "{page:?} was forgotten: {state:?}");
            }
        }
        if code == abi::OK && buffer.pfns > 0 {
            assert!(buffer.pfns.is_multiple_of(32_768) && !buffer.words.is_null());
            let word = self.machine.dice.below(buffer.pfns / 64) as usize;
            // SAFETY: the buffer has so many words, and is lent.
            unsafe { buffer.words.wrapping_add(word).write(self.machine.dice.word()) };
        } else {
            assert!(code == abi::OK || buffer.pfns == 1, "written after an error");
        }
        code
    }

    fn feed(&mut self, bad: bool) -> c_int {
        let dice = &mut self.machine.dice;
        let words = [dice.word() & dice.word(), 0, dice.word()];
        let first = if bad { dice.word() } else { 64 * dice.below(600) };
        // SAFETY: three words are there.
        unsafe { f::p2mt_feed(self.handle, first, words.as_ptr(), 192) }
    }

    fn scan(&mut self, bad: bool) -> c_int {
        let dice = &mut self.machine.dice;
        let read = if dice.one_in(5) { dice.below(40_000) } else { u64::MAX };
        let mut report = abi::Report { size: if bad { 7 } else { 360 }, ..Default::default() };
        // SAFETY: both live.
        unsafe { f::p2mt_scan(self.handle, read, &raw mut report) }
    }

    fn take(&mut self, bad: bool) -> c_int {
        let mut pages = [abi::Page::default(); abi::BATCH_MAX];
        let (mut count, mut flags) = (MARK, 0x5a);
        let capacity = if bad { 1000 } else { pages.len() };
        let (to, count_at) = (pages.as_mut_ptr(), &raw mut count);
        let (size, flags_at) = (size_of::<abi::Page>(), &raw mut flags);
        // SAFETY: there is space for all of them.
        let code = unsafe { f::p2mt_take(self.handle, to, size, capacity, count_at, flags_at) };
        if code == abi::OK {
            assert!(count <= pages.len() && flags < 4);
            assert!(pages[..count].is_sorted_by(|a, b| a.pfn < b.pfn));
            self.taken = pages[..count].to_vec();
            self.list_is_due = flags & abi::DO_FRAME_LIST != 0;
            let tags = 3 << (self.machine.width - 2);
            for page in &self.taken {
                let &abi::Page { pfn, mfn, entry, causes, .. } = page;
                assert!(causes != 0 && mfn == entry & !tags, "{page:?}");
                assert!(self.machine.wrote(pfn, entry), "{page:?} was never written");
                let (state, _) = self.why(pfn); // it may have become owed again since
                assert_eq!(state.causes & causes, causes, "{page:?} is on its way: {state:?}");
            }
            let tables = (0..count).filter(|&index| pages[index].kind != 0);
            self.tables = tables.map(|index| (index, abi::E_ORDER)).collect();
        } else {
            assert_eq!((count, flags), (MARK, 0x5a), "written after an error");
        }
        code
    }

    fn cleared_ptes(&mut self, bad: bool) -> c_int {
        let mut ptes = [abi::ClearedPte::default(); 4096];
        let (mut count, capacity) = (0, if bad { 0 } else { ptes.len() });
        let to = ptes.as_mut_ptr();
        // SAFETY: there is space.
        let code = unsafe { f::p2mt_cleared_ptes(self.handle, to, 16, capacity, &raw mut count) };
        if code == abi::OK && !bad {
            assert!(ptes[..count].is_sorted_by_key(|pte| pte.pfn), "{count}");
            self.cleared += count as u64;
        }
        code
    }

    /// Rounds begun that the totals have neither as ended nor as given up.
    fn under_way(&self) -> u64 {
        let (_, totals) = self.stats();
        self.counts.begun - totals.rounds - totals.rounds_given_up
    }

    fn stats(&self) -> (c_int, abi::Totals) {
        let mut totals = abi::Totals { size: 72, ..Default::default() };
        // SAFETY: a place for them.
        let code = unsafe { f::p2mt_stats(self.handle, &raw mut totals) };
        (code, totals)
    }

    /// Compares the totals with the results of the calls.
    fn totals(&self) -> c_int {
        let (code, totals) = self.stats();
        let Counts { begun, ended, accepted, deferred } = self.counts;
        assert_eq!((totals.rounds, totals.pages_accepted), (ended, accepted), "{totals:?}");
        assert!(totals.pages_deferred >= deferred, "{totals:?}");
        assert!(self.under_way() <= 1, "{totals:?}, {begun} begun");
        code
    }

    /// What the library knows of a pfn.
    fn why(&self, pfn: u64) -> (abi::PfnState, c_int) {
        let mut state = abi::PfnState { size: 24, ..Default::default() };
        // SAFETY: a place for it.
        let code = unsafe { f::p2mt_why(self.handle, pfn, &raw mut state) };
        (state, code)
    }

    fn normalise(&mut self, bad: bool) -> c_int {
        let dice = &mut self.machine.dice;
        let index = if bad { dice.word() as usize } else { dice.below(64) as usize };
        self.normalise_page(index)
    }

    fn normalise_page(&mut self, index: usize) -> c_int {
        let dice = &mut self.machine.dice;
        let frame = dice.below(FRAMES as u64 + 200);
        let mut words = [frame << 12 | 1; WORDS];
        let mut fault = abi::TableFault { size: 24, ..Default::default() };
        let at = if dice.one_in(2) { null_mut() } else { &raw mut fault };
        // SAFETY: 512 words, and a place for a fault or none.
        unsafe { f::p2mt_normalise(self.handle, index, words.as_mut_ptr(), at) }
    }

    fn answer(&mut self, bad: bool) -> c_int {
        let dice = &mut self.machine.dice;
        let count = self.taken.len() + usize::from(bad);
        if dice.one_in(2) {
            // SAFETY: it lives.
            let code = unsafe { f::p2mt_accept(self.handle, count) };
            return self.answered(code, &vec![abi::PageAnswer::default(); count]);
        }
        let one = |dice: &mut Dice| match dice.below(if bad { 8 } else { 5 }) {
            0 | 1 => abi::PageAnswer::default(),
            2 => abi::PageAnswer { verdict: 1, reason: abi::DEFER_MAP, errnum: -12, zero: 0 },
            3 => abi::PageAnswer { verdict: 1, reason: abi::DEFER_NO_ANSWER, errnum: 0, zero: 0 },
            4 if dice.one_in(20) => abi::PageAnswer { verdict: 2, reason: 0, errnum: -32, zero: 0 },
            5 => abi::PageAnswer { verdict: dice.word() as u32, ..Default::default() },
            6 => abi::PageAnswer { verdict: 1, reason: 6, errnum: 0, zero: 0 },
            _ => abi::PageAnswer::default(),
        };
        let mut answers: Vec<_> = (0..count).map(|_| one(dice)).collect();
        for &(index, normalised) in self.tables.iter().filter(|(index, _)| *index < count) {
            if normalised == abi::E_TABLE && !bad {
                let reason = abi::DEFER_TABLE;
                answers[index] = abi::PageAnswer { verdict: 1, reason, errnum: 0, zero: 0 };
            }
        }
        // SAFETY: so many are there.
        let code = unsafe { f::p2mt_answer(self.handle, answers.as_ptr(), 16, count) };
        self.answered(code, &answers)
    }

    /// An accepted page is recorded under the entry of its take, any other is owed.
    fn answered(&mut self, code: c_int, answers: &[abi::PageAnswer]) -> c_int {
        if ![abi::OK, abi::E_PAGE, abi::E_TOO_MANY_DEFERRED].contains(&code) {
            return code; // nothing was recorded
        }
        assert!(!self.list_is_due, "pages were answered before the list was sent");
        for (page, answer) in std::mem::take(&mut self.taken).iter().zip(answers) {
            let (state, _) = self.why(page.pfn);
            self.counts.accepted += u64::from(answer.verdict == abi::ACCEPTED);
            self.counts.deferred += u64::from(answer.verdict == abi::DEFERRED);
            if answer.verdict == abi::ACCEPTED {
                assert_eq!(state.entry, page.entry, "{page:?} was accepted: {state:?}");
            } else {
                assert_ne!(state.causes, 0, "{page:?} was forgotten: {state:?}");
            }
        }
        code
    }

    fn frame_list(&mut self, bad: bool) -> c_int {
        let mut leaves = [0; 512];
        let (mut count, mut pfns, mut serial) = (0, 0, 0);
        let capacity = if bad { 1 } else { leaves.len() };
        let (to, count_at) = (leaves.as_mut_ptr(), &raw mut count);
        let (pfns_at, serial_at) = (&raw mut pfns, &raw mut serial);
        // SAFETY: there is space for as many.
        let code =
            unsafe { f::p2mt_frame_list(self.handle, to, capacity, count_at, pfns_at, serial_at) };
        if code != abi::OK || bad || self.machine.dice.one_in(20) {
            return code;
        }
        self.expect(code);
        let other = self.machine.dice.one_in(20);
        // SAFETY: it lives.
        let code = unsafe { f::p2mt_frame_list_sent(self.handle, serial - u64::from(other)) };
        if code == abi::OK {
            assert!(!other, "an older list was accepted as sent");
            self.list_is_due = false;
        }
        code
    }

    fn gone(&mut self, bad: bool) -> c_int {
        let mut pfns = [0; 8];
        let mut count = MARK;
        let from = self.machine.dice.below(self.machine.pfns());
        let capacity = if bad { 0 } else { pfns.len() };
        // SAFETY: there is space for as many.
        unsafe { f::p2mt_gone(self.handle, from, pfns.as_mut_ptr(), capacity, &raw mut count) }
    }

    fn end(mut self) {
        assert_eq!(self.totals(), abi::OK);
        self.machine.handle = null_mut();
        // SAFETY: it lives, and is not used after.
        assert_eq!(unsafe { f::p2mt_destroy(self.handle) }, abi::OK);
        let left = self.machine.mapped.len();
        assert_eq!(left, 0, "frames are still mapped");
    }
}

fn none() -> abi::Error {
    let (size, text) = (size_of::<abi::Error>() as u32, [1; abi::ERROR_TEXT_BYTES]);
    abi::Error { size, code: 99, errnum: 0, level: 0, pfn: 0, mfn: 0, text }
}

#[test]
fn random_sequences_end_in_codes() {
    let asked = std::env::var("P2MTRACK_SEQUENCES").ok().and_then(|count| count.parse().ok());
    let sequences: u64 = asked.unwrap_or(5_000);
    let (mut lives, mut tally, mut ended) = (0_u64, BTreeMap::<c_int, u64>::new(), [0_u64; 3]);
    let (mut cleared, mut narrow) = (0, 0);
    for seed in 0..sequences {
        let Some(mut sequence) = Sequence::new(seed) else { continue };
        lives += 1;
        narrow += u64::from(sequence.machine.width == abi::WIDTH_32);
        let plausible = sequence.machine.dice.one_in(2);
        for _ in 0..1 + sequence.machine.dice.below(if plausible { 6 } else { 40 }) {
            sequence.call(plausible);
        }
        sequence.tally.iter().for_each(|(code, times)| *tally.entry(*code).or_default() += times);
        (0..3).for_each(|stage| ended[stage] += sequence.ended[stage]);
        cleared += sequence.cleared;
        sequence.end();
    }
    println!("{sequences} sequences, {lives} of them with a handle");
    println!("rounds ended: {ended:?} (live, checkpoint, final); codes: {tally:?}");
    assert!(lives > sequences / 2);
    if sequences >= 5_000 {
        let met = [abi::OK, abi::E_HOST, abi::E_SIZE, abi::E_ARGUMENT, abi::E_ORDER, abi::E_PAGE];
        let found = [
            abi::E_STRUCTURE,
            abi::E_ROOTS,
            abi::E_TOO_MANY_DEFERRED,
            abi::E_ENTRY,
            abi::E_TABLE,
            abi::E_UNACCOUNTED,
        ];
        let lacking = met.iter().chain(&found).find(|code| !tally.contains_key(code));
        assert_eq!(lacking, None, "a code that no sequence met");
        assert!(ended.iter().all(|&times| times > 0) && cleared > 0, "{ended:?}, {cleared}");
        assert!(narrow > sequences / 100, "{narrow} guests of 32 bits");
    }
}
