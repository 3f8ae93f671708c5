// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated Xen with one guest, and a receiver with an oracle, as C functions: what the tests of
//! libp2mtrack migrate.
//! Not here: libp2mtrack. A host reads the guest only through these calls, which use no tracker.
//! Units: those of `harness.h`.
//! Threads: one, except for the m2p and mapped frames, which any thread may read.
//! Source: `p2mtrack_synthetic`; `harness.h` is the contract of every function here.

#![expect(unsafe_code, reason = "pointers of a test that is written in C; docs/safety.md")]
#![expect(clippy::missing_safety_doc, reason = "the contract is harness.h")]
#![expect(missing_docs, reason = "harness.h says it")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::slice;
use std::sync::OnceLock;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::leaf::{FRAME_WORDS, Leaf};
use p2mtrack::port::{
    FrameList, FrameTypes, LogBuffer, LogDirty, MapFault, MapSlot, P2mSource, Page, PortError,
    Transfer, Transport, Unlogged,
};
use p2mtrack_synthetic::transport::Bytes;
use p2mtrack_synthetic::upstream::SendersP2m;
use p2mtrack_synthetic::words::Content;
use p2mtrack_synthetic::{Scenario, SimConfig, SimError, SimPorts, Simulation, Verdict};

const EIO: c_int = 5;
/// `HARNESS_NOT_OWNED`.
const NOT_OWNED: c_int = -4096;
const EINVAL: c_int = 22;
/// Bit of a transfer entry's name: it is the mfn of the frame that arrived.
const CAME: u64 = 1 << 63;

/// `struct harness`.
#[expect(missing_debug_implementations, reason = "it has nothing worth printing")]
pub struct Harness {
    simulation: Simulation,
    ports: SimPorts,
    /// A frame may be mapped more than once.
    mapped: HashMap<usize, Vec<MapSlot>>,
    p2m: Option<SendersP2m>,
    harm: Option<CString>,
}

/// The harness behind a pointer.
///
/// # Safety
/// It came from `harness_new` and was not freed; nothing else uses it during the call.
unsafe fn at<'a>(harness: *mut Harness) -> &'a mut Harness {
    // SAFETY: the caller's contract.
    unsafe { &mut *harness }
}

/// The same, for reading only.
///
/// # Safety
/// As of [`at`].
unsafe fn at_const<'a>(harness: *const Harness) -> &'a Harness {
    // SAFETY: the caller's contract.
    unsafe { &*harness }
}

fn errno(error: &PortError) -> c_int {
    -error.downcast_ref::<SimError>().map_or(EIO, |error| error.errno)
}

const fn map_errno(fault: MapFault) -> c_int {
    match fault {
        MapFault::NotOwned => NOT_OWNED,
        MapFault::Errno(errno) => -errno,
    }
}

fn code(result: Result<(), PortError>) -> c_int {
    result.map_or_else(|error| errno(&error), |()| 0)
}

fn named(name: *const c_char) -> Option<Scenario> {
    // SAFETY: harness.h: a string.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_str().ok()?.parse().ok()
}

fn page(pfn: u64, mfn: u64, kind: u32) -> Option<Page> {
    let kind = FrameType::from_pfinfo(kind)?;
    Some(Page { pfn: Pfn(pfn), mfn: Mfn(mfn), entry: Entry(mfn), kind })
}

#[unsafe(no_mangle)]
pub extern "C" fn harness_scenario(index: usize) -> *const c_char {
    static NAMES: OnceLock<Vec<CString>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        // The harness does not use the engine's policies.
        let scenarios = Scenario::ALL.into_iter().filter(|scenario| !scenario.needs_policies());
        let names = scenarios.map(|scenario| CString::new(scenario.name()));
        names.map(Result::unwrap_or_default).collect()
    });
    names.get(index).map_or(null(), |name| name.as_ptr())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_is_hostile(scenario: *const c_char) -> c_int {
    c_int::from(named(scenario).is_some_and(Scenario::is_hostile))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_new(
    scenario: *const c_char,
    seed: u64,
    guest_bytes: u64,
    threads: u32,
    width: u32,
) -> *mut Harness {
    let Some(scenario) = named(scenario) else { return null_mut() };
    let width = match width {
        32 => Width::W32,
        64 => Width::W64,
        _ => return null_mut(),
    };
    let threads = threads as usize;
    let config = SimConfig { threads, width, ..SimConfig::plain(scenario, seed, guest_bytes) };
    let simulation = Simulation::new(&config);
    let ports = simulation.ports();
    let mapped = HashMap::new();
    Box::into_raw(Box::new(Harness { simulation, ports, mapped, p2m: None, harm: None }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_free(harness: *mut Harness) {
    if !harness.is_null() {
        // SAFETY: harness.h: it came from `harness_new`, and is not used after.
        drop(unsafe { Box::from_raw(harness) });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_checkpoints(harness: *const Harness) -> u32 {
    // SAFETY: harness.h.
    unsafe { at_const(harness) }.simulation.checkpoints()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_wants_suspend(harness: *const Harness) -> c_int {
    // SAFETY: harness.h.
    c_int::from(unsafe { at_const(harness) }.simulation.wants_suspend())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_suspend(harness: *mut Harness) {
    // SAFETY: harness.h.
    unsafe { at(harness) }.simulation.suspend();
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_resume(harness: *mut Harness) {
    // SAFETY: harness.h.
    unsafe { at(harness) }.simulation.resume();
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_compat_m2p(harness: *const Harness) -> u64 {
    // SAFETY: harness.h.
    unsafe { at_const(harness) }.ports.m2p.words().len() as u64
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_m2p_frames(harness: *const Harness) -> u64 {
    // SAFETY: harness.h.
    unsafe { at_const(harness) }.ports.m2p.words().len() as u64
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_m2p(harness: *const Harness) -> *const u64 {
    // SAFETY: harness.h.
    unsafe { at_const(harness) }.ports.m2p.words().as_ptr().cast()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_domain_frames(harness: *mut Harness, frames: *mut u64) -> c_int {
    // SAFETY: harness.h.
    let found = unsafe { at(harness) }.ports.p2m.domain_frames();
    // SAFETY: harness.h: a place for a word.
    code(found.map(|found| unsafe { frames.write(found) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_roots(harness: *mut Harness, roots: *mut u64) -> c_int {
    // SAFETY: harness.h.
    let found = unsafe { at(harness) }.ports.p2m.roots();
    // SAFETY: harness.h: five words.
    let to = unsafe { slice::from_raw_parts_mut(roots, 5) };
    code(found.map(|r| {
        let words = [r.pfn_count, r.frame_list_list, r.p2m_cr3, r.p2m_vaddr, r.generation];
        to.copy_from_slice(&words);
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_read(harness: *mut Harness, mfn: u64, words: *mut u64) -> c_int {
    let mut leaf = Leaf::default();
    // SAFETY: harness.h.
    let read = unsafe { at(harness) }.ports.p2m.read(Mfn(mfn), &mut leaf);
    // SAFETY: harness.h: 512 words.
    unsafe { slice::from_raw_parts_mut(words, FRAME_WORDS) }.copy_from_slice(&leaf.words);
    read.map_or_else(map_errno, |()| 0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_map(
    harness: *mut Harness,
    mfns: *const u64,
    count: usize,
    addresses: *mut *const c_void,
    errors: *mut i32,
) -> c_int {
    // SAFETY: harness.h.
    let harness = unsafe { at(harness) };
    // SAFETY: harness.h: `count` of each.
    let mfns = unsafe { slice::from_raw_parts(mfns, count) };
    // SAFETY: as above.
    let addresses = unsafe { slice::from_raw_parts_mut(addresses, count) };
    // SAFETY: as above.
    let errors = unsafe { slice::from_raw_parts_mut(errors, count) };
    let frames: Vec<Mfn> = mfns.iter().map(|&mfn| Mfn(mfn)).collect();
    let mut answers = Vec::new();
    harness.ports.p2m.map(&frames, &mut answers);
    for ((address, error), answer) in addresses.iter_mut().zip(errors).zip(answers) {
        match answer {
            Ok(slot) => {
                *address = harness.ports.p2m.live(slot).as_ptr().cast();
                harness.mapped.entry(address.addr()).or_default().push(slot);
            }
            Err(fault) => (*address, *error) = (null(), map_errno(fault)),
        }
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_unmap(
    harness: *mut Harness,
    addresses: *const *const c_void,
    count: usize,
) -> c_int {
    // SAFETY: harness.h.
    let harness = unsafe { at(harness) };
    // SAFETY: harness.h: `count` of them.
    for address in unsafe { slice::from_raw_parts(addresses, count) } {
        let Some(slot) = harness.mapped.get_mut(&address.addr()).and_then(Vec::pop) else {
            return -EINVAL;
        };
        harness.ports.p2m.unmap(&[slot]);
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_types(
    harness: *mut Harness,
    mfns: *const u64,
    count: usize,
    types: *mut u32,
) -> c_int {
    // SAFETY: harness.h: `count` of each.
    let mfns = unsafe { slice::from_raw_parts(mfns, count) };
    // SAFETY: as above.
    let types = unsafe { slice::from_raw_parts_mut(types, count) };
    let frames: Vec<Mfn> = mfns.iter().map(|&mfn| Mfn(mfn)).collect();
    let mut kinds = vec![FrameType::NotOwned; count];
    // SAFETY: harness.h.
    let asked = unsafe { at(harness) }.ports.types.query(&frames, &mut kinds);
    for (to, kind) in types.iter_mut().zip(kinds) {
        *to = kind.pfinfo();
    }
    code(asked)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_unlogged(
    harness: *mut Harness,
    pfns: *mut u64,
    capacity: usize,
    count: *mut usize,
) -> c_int {
    let mut found = Vec::new();
    // SAFETY: harness.h.
    let asked = unsafe { at(harness) }.ports.unlogged.pfns(&mut found);
    // SAFETY: harness.h: space for `capacity`, and a place for a word.
    unsafe { write_list(found.iter().map(|pfn| pfn.0), pfns, capacity, count) };
    code(asked)
}

/// Writes as much of a list as fits, and its length.
///
/// # Safety
/// `to` has space for `capacity` words, and `count` is a place for one.
unsafe fn write_list(
    list: impl ExactSizeIterator<Item = u64>,
    to: *mut u64,
    capacity: usize,
    count: *mut usize,
) {
    // SAFETY: the caller's contract.
    unsafe { count.write(list.len()) };
    // SAFETY: as above.
    let to = unsafe { slice::from_raw_parts_mut(to, capacity) };
    to.iter_mut().zip(list).for_each(|(to, word)| *to = word);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_accepts_transfer(
    harness: *mut Harness,
    accepts: *mut i32,
) -> c_int {
    // SAFETY: harness.h.
    let asked = unsafe { at(harness) }.ports.unlogged.accepts_transfer();
    // SAFETY: harness.h: a place for a word.
    code(asked.map(|offers| unsafe { accepts.write(i32::from(offers)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_transfers(
    harness: *mut Harness,
    names: *mut u64,
    capacity: usize,
    count: *mut usize,
) -> c_int {
    let mut found = Vec::new();
    // SAFETY: harness.h.
    let asked = unsafe { at(harness) }.ports.unlogged.transfers(&mut found);
    let name = |entry: &Transfer| match *entry {
        Transfer::Into(Pfn(pfn)) => pfn,
        Transfer::Came(Mfn(mfn)) => mfn | CAME,
    };
    // SAFETY: harness.h: space for `capacity`, and a place for a word.
    unsafe { write_list(found.iter().map(name), names, capacity, count) };
    code(asked.map(drop))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_log_on(harness: *mut Harness) -> c_int {
    // SAFETY: harness.h.
    code(unsafe { at(harness) }.ports.log_dirty.enable())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_log_off(harness: *mut Harness) -> c_int {
    // SAFETY: harness.h.
    code(unsafe { at(harness) }.ports.log_dirty.disable())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_clean(
    harness: *mut Harness,
    words: *mut u64,
    pfns: u64,
    read: *mut u64,
) -> c_int {
    let mut bits = PfnBitmap::new(pfns);
    // SAFETY: harness.h.
    let cleaned = unsafe { at(harness) }.ports.log_dirty.clean(LogBuffer::over(&mut bits));
    // SAFETY: harness.h: space for that many bits.
    let to = unsafe { slice::from_raw_parts_mut(words, bits.words().len()) };
    to.copy_from_slice(bits.words());
    // SAFETY: harness.h: a place for a word.
    code(cleaned.map(|until| unsafe { read.write(until) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_read_page(
    harness: *mut Harness,
    mfn: u64,
    kind: u32,
    content: *mut u64,
    words: *mut u64,
) -> c_int {
    let Some(page) = page(0, mfn, kind) else { return -EINVAL };
    // SAFETY: harness.h.
    match unsafe { at(harness) }.ports.transport.read(&page) {
        Err(fault) => return map_errno(fault),
        // SAFETY: harness.h: a place for a word.
        Ok(Bytes::Content(Content(version))) => unsafe { content.write(version) },
        Ok(Bytes::Table(table)) => {
            // SAFETY: harness.h: space for 512 words.
            unsafe { slice::from_raw_parts_mut(words, FRAME_WORDS) }.copy_from_slice(&table.words);
        }
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_send_page(
    harness: *mut Harness,
    pfn: u64,
    kind: u32,
    content: u64,
    words: *const u64,
) -> c_int {
    let Some(page) = page(pfn, 0, kind) else { return -EINVAL };
    let bytes = if page.kind.is_table() {
        let mut table = Box::new(Leaf::default());
        // SAFETY: harness.h: 512 words.
        table.words.copy_from_slice(unsafe { slice::from_raw_parts(words, FRAME_WORDS) });
        Bytes::Table(table)
    } else {
        Bytes::Content(Content(content))
    };
    // SAFETY: harness.h.
    code(unsafe { at(harness) }.ports.transport.deliver(&page, bytes))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_send_frame_list(
    harness: *mut Harness,
    leaves: *const u64,
    count: usize,
    pfn_count: u64,
) -> c_int {
    // SAFETY: harness.h: `count` of them.
    let leaves = unsafe { slice::from_raw_parts(leaves, count) };
    let leaves: Vec<_> = leaves.iter().map(|&pfn| (pfn != u64::MAX).then_some(Pfn(pfn))).collect();
    let list = FrameList { width: Width::W64, pfn_count, leaves: &leaves };
    // SAFETY: harness.h.
    code(unsafe { at(harness) }.ports.transport.frame_list(list))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_send_gone(
    harness: *mut Harness,
    pfns: *const u64,
    count: usize,
) -> c_int {
    // SAFETY: harness.h: `count` of them.
    let pfns = unsafe { slice::from_raw_parts(pfns, count) };
    let pfns: Vec<Pfn> = pfns.iter().map(|&pfn| Pfn(pfn)).collect();
    // SAFETY: harness.h.
    code(unsafe { at(harness) }.ports.transport.gone(&pfns))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_confirm(harness: *mut Harness) -> c_int {
    // SAFETY: harness.h.
    code(unsafe { at(harness) }.ports.transport.consistent())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_p2m_map(harness: *mut Harness) -> c_int {
    // SAFETY: harness.h.
    let harness = unsafe { at(harness) };
    harness.drop_p2m();
    harness.p2m = SendersP2m::map(&harness.simulation, &mut harness.ports).ok();
    if harness.p2m.is_some() { 0 } else { -EIO }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_p2m_unmap(harness: *mut Harness) {
    // SAFETY: harness.h.
    unsafe { at(harness) }.drop_p2m();
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_p2m_frame(harness: *const Harness, pfn: u64) -> u64 {
    // SAFETY: harness.h.
    let Harness { p2m, ports, .. } = unsafe { at_const(harness) };
    let frame = p2m.as_ref().and_then(|p2m| p2m.frame(&ports.p2m, Pfn(pfn)));
    frame.map_or(u64::MAX, |mfn| mfn.0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_judge(harness: *const Harness) -> c_int {
    // SAFETY: harness.h.
    match unsafe { at_const(harness) }.simulation.judge().verdict {
        Verdict::Identical => 0,
        Verdict::Corrupt => 1,
        Verdict::Leaked => 2,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_explain(harness: *const Harness) {
    // SAFETY: harness.h.
    for difference in unsafe { at_const(harness) }.simulation.judge().differences {
        eprintln!("{difference}");
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn harness_harm(harness: *mut Harness) -> *const c_char {
    // SAFETY: harness.h.
    let harness = unsafe { at(harness) };
    harness.drop_p2m();
    harness.harm = harness.simulation.harm().and_then(|harm| CString::new(harm).ok());
    harness.harm.as_ref().map_or(null(), |harm| harm.as_ptr())
}

impl Harness {
    fn drop_p2m(&mut self) {
        if let Some(p2m) = self.p2m.take() {
            p2m.unmap(&mut self.ports.p2m);
        }
    }
}
