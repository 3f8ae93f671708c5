// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated Xen with one guest, and a receiver with an oracle, as C functions: what the tests of
//! libp2mtrack migrate.
//! Not here: libp2mtrack. What a host knows of the guest it knows through these calls, and they
//! know no tracker.
//! Units: those of `theatre.h`.
//! Threads: one, the m2p and mapped frames apart, which anybody may read.
//! Source: `p2mtrack_synthetic`; `theatre.h` is the contract of every function here.

#![expect(unsafe_code, reason = "pointers of a test that is written in C; docs/safety.md")]
#![expect(clippy::missing_safety_doc, reason = "the contract is theatre.h")]
#![expect(missing_docs, reason = "theatre.h says it")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::slice;
use std::sync::OnceLock;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::leaf::{FRAME_WORDS, Leaf};
use p2mtrack::port::{
    FrameList, FrameTypes, LogDirty, LogRoom, MapFault, MapSlot, P2mSource, Page, PortError,
    Transfer, Transport, Unlogged,
};
use p2mtrack_synthetic::transport::Bytes;
use p2mtrack_synthetic::upstream::SaversP2m;
use p2mtrack_synthetic::words::Content;
use p2mtrack_synthetic::{Scenario, SimConfig, SimError, SimPorts, Simulation, Verdict};

const EIO: c_int = 5;
/// `THEATRE_NOT_OWNED`.
const NOT_OWNED: c_int = -4096;
const EINVAL: c_int = 22;
/// What a transfer entry names is the frame that came.
const CAME: u64 = 1 << 63;

/// `struct theatre`.
#[expect(missing_debug_implementations, reason = "nothing of it says anything")]
pub struct Theatre {
    simulation: Simulation,
    ports: SimPorts,
    /// A frame may be mapped more than once.
    mapped: HashMap<usize, Vec<MapSlot>>,
    p2m: Option<SaversP2m>,
    harm: Option<CString>,
}

/// The theatre behind a pointer.
///
/// # Safety
/// It came from `theatre_new` and was not freed; nobody else uses it during the call.
unsafe fn at<'a>(theatre: *mut Theatre) -> &'a mut Theatre {
    // SAFETY: the caller's contract.
    unsafe { &mut *theatre }
}

/// The same for who only looks.
///
/// # Safety
/// As of [`at`].
unsafe fn look<'a>(theatre: *const Theatre) -> &'a Theatre {
    // SAFETY: the caller's contract.
    unsafe { &*theatre }
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
    // SAFETY: theatre.h: a string.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_str().ok()?.parse().ok()
}

fn page(pfn: u64, mfn: u64, kind: u32) -> Option<Page> {
    let kind = FrameType::from_pfinfo(kind)?;
    Some(Page { pfn: Pfn(pfn), mfn: Mfn(mfn), entry: Entry(mfn), kind })
}

#[unsafe(no_mangle)]
pub extern "C" fn theatre_scenario(index: usize) -> *const c_char {
    static NAMES: OnceLock<Vec<CString>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        // Of the engine's policies the theatre knows nothing.
        let scenarios = Scenario::ALL.into_iter().filter(|scenario| !scenario.needs_policies());
        let names = scenarios.map(|scenario| CString::new(scenario.name()));
        names.map(Result::unwrap_or_default).collect()
    });
    names.get(index).map_or(null(), |name| name.as_ptr())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_is_hostile(scenario: *const c_char) -> c_int {
    c_int::from(named(scenario).is_some_and(Scenario::is_hostile))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_new(
    scenario: *const c_char,
    seed: u64,
    guest_bytes: u64,
    threads: u32,
    width: u32,
) -> *mut Theatre {
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
    Box::into_raw(Box::new(Theatre { simulation, ports, mapped, p2m: None, harm: None }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_free(theatre: *mut Theatre) {
    if !theatre.is_null() {
        // SAFETY: theatre.h: it came from `theatre_new`, and is not used after.
        drop(unsafe { Box::from_raw(theatre) });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_checkpoints(theatre: *const Theatre) -> u32 {
    // SAFETY: theatre.h.
    unsafe { look(theatre) }.simulation.checkpoints()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_wants_suspend(theatre: *const Theatre) -> c_int {
    // SAFETY: theatre.h.
    c_int::from(unsafe { look(theatre) }.simulation.wants_suspend())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_suspend(theatre: *mut Theatre) {
    // SAFETY: theatre.h.
    unsafe { at(theatre) }.simulation.suspend();
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_resume(theatre: *mut Theatre) {
    // SAFETY: theatre.h.
    unsafe { at(theatre) }.simulation.resume();
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_compat_m2p(theatre: *const Theatre) -> u64 {
    // SAFETY: theatre.h.
    unsafe { look(theatre) }.ports.m2p.words().len() as u64
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_m2p_frames(theatre: *const Theatre) -> u64 {
    // SAFETY: theatre.h.
    unsafe { look(theatre) }.ports.m2p.words().len() as u64
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_m2p(theatre: *const Theatre) -> *const u64 {
    // SAFETY: theatre.h.
    unsafe { look(theatre) }.ports.m2p.words().as_ptr().cast()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_domain_frames(theatre: *mut Theatre, frames: *mut u64) -> c_int {
    // SAFETY: theatre.h.
    let found = unsafe { at(theatre) }.ports.p2m.domain_frames();
    // SAFETY: theatre.h: a place for a word.
    code(found.map(|found| unsafe { frames.write(found) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_roots(theatre: *mut Theatre, roots: *mut u64) -> c_int {
    // SAFETY: theatre.h.
    let found = unsafe { at(theatre) }.ports.p2m.roots();
    // SAFETY: theatre.h: five words.
    let to = unsafe { slice::from_raw_parts_mut(roots, 5) };
    code(found.map(|r| {
        let words = [r.pfn_count, r.frame_list_list, r.p2m_cr3, r.p2m_vaddr, r.generation];
        to.copy_from_slice(&words);
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_read(theatre: *mut Theatre, mfn: u64, words: *mut u64) -> c_int {
    let mut leaf = Leaf::default();
    // SAFETY: theatre.h.
    let read = unsafe { at(theatre) }.ports.p2m.read(Mfn(mfn), &mut leaf);
    // SAFETY: theatre.h: 512 words.
    unsafe { slice::from_raw_parts_mut(words, FRAME_WORDS) }.copy_from_slice(&leaf.words);
    read.map_or_else(map_errno, |()| 0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_map(
    theatre: *mut Theatre,
    mfns: *const u64,
    count: usize,
    addresses: *mut *const c_void,
    errors: *mut i32,
) -> c_int {
    // SAFETY: theatre.h.
    let theatre = unsafe { at(theatre) };
    // SAFETY: theatre.h: `count` of each.
    let mfns = unsafe { slice::from_raw_parts(mfns, count) };
    // SAFETY: as above.
    let addresses = unsafe { slice::from_raw_parts_mut(addresses, count) };
    // SAFETY: as above.
    let errors = unsafe { slice::from_raw_parts_mut(errors, count) };
    let frames: Vec<Mfn> = mfns.iter().map(|&mfn| Mfn(mfn)).collect();
    let mut answers = Vec::new();
    theatre.ports.p2m.map(&frames, &mut answers);
    for ((address, error), answer) in addresses.iter_mut().zip(errors).zip(answers) {
        match answer {
            Ok(slot) => {
                *address = theatre.ports.p2m.live(slot).as_ptr().cast();
                theatre.mapped.entry(address.addr()).or_default().push(slot);
            }
            Err(fault) => (*address, *error) = (null(), map_errno(fault)),
        }
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_unmap(
    theatre: *mut Theatre,
    addresses: *const *const c_void,
    count: usize,
) -> c_int {
    // SAFETY: theatre.h.
    let theatre = unsafe { at(theatre) };
    // SAFETY: theatre.h: `count` of them.
    for address in unsafe { slice::from_raw_parts(addresses, count) } {
        let Some(slot) = theatre.mapped.get_mut(&address.addr()).and_then(Vec::pop) else {
            return -EINVAL;
        };
        theatre.ports.p2m.unmap(&[slot]);
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_types(
    theatre: *mut Theatre,
    mfns: *const u64,
    count: usize,
    types: *mut u32,
) -> c_int {
    // SAFETY: theatre.h: `count` of each.
    let mfns = unsafe { slice::from_raw_parts(mfns, count) };
    // SAFETY: as above.
    let types = unsafe { slice::from_raw_parts_mut(types, count) };
    let frames: Vec<Mfn> = mfns.iter().map(|&mfn| Mfn(mfn)).collect();
    let mut kinds = vec![FrameType::NotOwned; count];
    // SAFETY: theatre.h.
    let asked = unsafe { at(theatre) }.ports.types.query(&frames, &mut kinds);
    for (to, kind) in types.iter_mut().zip(kinds) {
        *to = kind.pfinfo();
    }
    code(asked)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_unlogged(
    theatre: *mut Theatre,
    pfns: *mut u64,
    capacity: usize,
    count: *mut usize,
) -> c_int {
    let mut found = Vec::new();
    // SAFETY: theatre.h.
    let asked = unsafe { at(theatre) }.ports.unlogged.pfns(&mut found);
    // SAFETY: theatre.h: room for `capacity`, and a place for a word.
    unsafe { write_list(found.iter().map(|pfn| pfn.0), pfns, capacity, count) };
    code(asked)
}

/// Writes a list as far as there is room, and how long it is.
///
/// # Safety
/// `to` has room for `capacity` words, and `count` is a place for one.
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
pub unsafe extern "C" fn theatre_accepts_transfer(
    theatre: *mut Theatre,
    accepts: *mut i32,
) -> c_int {
    // SAFETY: theatre.h.
    let asked = unsafe { at(theatre) }.ports.unlogged.accepts_transfer();
    // SAFETY: theatre.h: a place for a word.
    code(asked.map(|offers| unsafe { accepts.write(i32::from(offers)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_transfers(
    theatre: *mut Theatre,
    names: *mut u64,
    capacity: usize,
    count: *mut usize,
) -> c_int {
    let mut found = Vec::new();
    // SAFETY: theatre.h.
    let asked = unsafe { at(theatre) }.ports.unlogged.transfers(&mut found);
    let name = |entry: &Transfer| match *entry {
        Transfer::Into(Pfn(pfn)) => pfn,
        Transfer::Came(Mfn(mfn)) => mfn | CAME,
    };
    // SAFETY: theatre.h: room for `capacity`, and a place for a word.
    unsafe { write_list(found.iter().map(name), names, capacity, count) };
    code(asked.map(drop))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_log_on(theatre: *mut Theatre) -> c_int {
    // SAFETY: theatre.h.
    code(unsafe { at(theatre) }.ports.log_dirty.enable())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_log_off(theatre: *mut Theatre) -> c_int {
    // SAFETY: theatre.h.
    code(unsafe { at(theatre) }.ports.log_dirty.disable())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_clean(
    theatre: *mut Theatre,
    words: *mut u64,
    pfns: u64,
    read: *mut u64,
) -> c_int {
    let mut bits = PfnBitmap::new(pfns);
    // SAFETY: theatre.h.
    let cleaned = unsafe { at(theatre) }.ports.log_dirty.clean(LogRoom::over(&mut bits));
    // SAFETY: theatre.h: room for that many bits.
    let to = unsafe { slice::from_raw_parts_mut(words, bits.words().len()) };
    to.copy_from_slice(bits.words());
    // SAFETY: theatre.h: a place for a word.
    code(cleaned.map(|until| unsafe { read.write(until) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_read_page(
    theatre: *mut Theatre,
    mfn: u64,
    kind: u32,
    content: *mut u64,
    words: *mut u64,
) -> c_int {
    let Some(page) = page(0, mfn, kind) else { return -EINVAL };
    // SAFETY: theatre.h.
    match unsafe { at(theatre) }.ports.transport.read(&page) {
        Err(fault) => return map_errno(fault),
        // SAFETY: theatre.h: a place for a word.
        Ok(Bytes::Content(Content(version))) => unsafe { content.write(version) },
        Ok(Bytes::Table(table)) => {
            // SAFETY: theatre.h: room for 512 words.
            unsafe { slice::from_raw_parts_mut(words, FRAME_WORDS) }.copy_from_slice(&table.words);
        }
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_send_page(
    theatre: *mut Theatre,
    pfn: u64,
    kind: u32,
    content: u64,
    words: *const u64,
) -> c_int {
    let Some(page) = page(pfn, 0, kind) else { return -EINVAL };
    let bytes = if page.kind.is_table() {
        let mut table = Box::new(Leaf::default());
        // SAFETY: theatre.h: 512 words.
        table.words.copy_from_slice(unsafe { slice::from_raw_parts(words, FRAME_WORDS) });
        Bytes::Table(table)
    } else {
        Bytes::Content(Content(content))
    };
    // SAFETY: theatre.h.
    code(unsafe { at(theatre) }.ports.transport.deliver(&page, bytes))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_send_frame_list(
    theatre: *mut Theatre,
    leaves: *const u64,
    count: usize,
    pfn_count: u64,
) -> c_int {
    // SAFETY: theatre.h: `count` of them.
    let leaves = unsafe { slice::from_raw_parts(leaves, count) };
    let leaves: Vec<_> = leaves.iter().map(|&pfn| (pfn != u64::MAX).then_some(Pfn(pfn))).collect();
    let list = FrameList { width: Width::W64, pfn_count, leaves: &leaves };
    // SAFETY: theatre.h.
    code(unsafe { at(theatre) }.ports.transport.frame_list(list))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_send_gone(
    theatre: *mut Theatre,
    pfns: *const u64,
    count: usize,
) -> c_int {
    // SAFETY: theatre.h: `count` of them.
    let pfns = unsafe { slice::from_raw_parts(pfns, count) };
    let pfns: Vec<Pfn> = pfns.iter().map(|&pfn| Pfn(pfn)).collect();
    // SAFETY: theatre.h.
    code(unsafe { at(theatre) }.ports.transport.gone(&pfns))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_confirm(theatre: *mut Theatre) -> c_int {
    // SAFETY: theatre.h.
    code(unsafe { at(theatre) }.ports.transport.consistent())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_p2m_map(theatre: *mut Theatre) -> c_int {
    // SAFETY: theatre.h.
    let theatre = unsafe { at(theatre) };
    theatre.drop_p2m();
    theatre.p2m = SaversP2m::map(&theatre.simulation, &mut theatre.ports).ok();
    if theatre.p2m.is_some() { 0 } else { -EIO }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_p2m_unmap(theatre: *mut Theatre) {
    // SAFETY: theatre.h.
    unsafe { at(theatre) }.drop_p2m();
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_p2m_frame(theatre: *const Theatre, pfn: u64) -> u64 {
    // SAFETY: theatre.h.
    let Theatre { p2m, ports, .. } = unsafe { look(theatre) };
    let frame = p2m.as_ref().and_then(|p2m| p2m.frame(&ports.p2m, Pfn(pfn)));
    frame.map_or(u64::MAX, |mfn| mfn.0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_judge(theatre: *const Theatre) -> c_int {
    // SAFETY: theatre.h.
    match unsafe { look(theatre) }.simulation.judge().verdict {
        Verdict::Identical => 0,
        Verdict::Corrupt => 1,
        Verdict::Leaked => 2,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_explain(theatre: *const Theatre) {
    // SAFETY: theatre.h.
    for difference in unsafe { look(theatre) }.simulation.judge().differences {
        eprintln!("{difference}");
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn theatre_harm(theatre: *mut Theatre) -> *const c_char {
    // SAFETY: theatre.h.
    let theatre = unsafe { at(theatre) };
    theatre.drop_p2m();
    theatre.harm = theatre.simulation.harm().and_then(|harm| CString::new(harm).ok());
    theatre.harm.as_ref().map_or(null(), |harm| harm.as_ptr())
}

impl Theatre {
    fn drop_p2m(&mut self) {
        if let Some(p2m) = self.p2m.take() {
            p2m.unmap(&mut self.ports.p2m);
        }
    }
}
