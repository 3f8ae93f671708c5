// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's callbacks as the engine's ports.
//! Not here: what the engine does with them; log-dirty and the transport, which the host has.
//! Units: those of the header.
//! Threads: callbacks are called on the calling thread only; all threads of the engine read mapped
//! frames and the m2p.
//! Source: `include/p2mtrack.h`, `struct p2mt_host`; `p2mtrack::port`.

#![expect(unsafe_code, reason = "a host's callbacks and memory; docs/safety.md")]

use std::ffi::{CString, c_int, c_void};
use std::fmt;
use std::ptr::null;
#[cfg(test)]
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

use p2mtrack::frame::{FrameType, Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{
    FrameTypes, Guest, M2p, MapFault, MapSlot, P2mSource, PortError, QUERY_FRAMES_MAX, Roots,
    Transfer, Unlogged,
};

use crate::abi;
use crate::answer::errno;
use crate::error::{CallbackError, EINVAL, Fault, Nonsense};

/// How often the host is asked for a list that grows each time.
const LIST_TRIES: u32 = 8;
/// The first capacity for a list, in elements.
const LIST_CAPACITY: usize = 256;

/// The callbacks.
#[derive(Clone, Copy, Debug)]
struct Callbacks(abi::Host);

// SAFETY: the host's `user` and its functions are used on the thread of the call that needs them,
// and by the header's contract a handle may be called on any thread.
unsafe impl Send for Callbacks {}
// SAFETY: nothing is called through a shared reference but `log`, on the calling thread.
unsafe impl Sync for Callbacks {}

/// Calls a callback; `Err` is what it returned.
macro_rules! call {
    ($callbacks:expr, $name:ident, $call:expr) => {{
        let (Callbacks(host), call) = (&$callbacks, $call);
        // SAFETY: the header's contract: the callback takes `user` and a pointer to this structure,
        // whose pointers lead to as many values as it says. All are valid until it returns.
        match host.$name.map(|callback| unsafe { callback(host.user, &raw const call) }) {
            Some(0) => Ok(()),
            Some(word) => Err(word),
            None => Err(abi::E_ARGUMENT), // all of them were there when the handle was created
        }
    }};
}

/// A callback's error.
fn failed(callback: &'static str) -> impl Fn(c_int) -> PortError {
    move |word| Box::new(CallbackError { callback, word })
}

fn map_fault(word: i32) -> MapFault {
    match errno(word) {
        Some(errno) => MapFault::Errno(errno),
        None if word == abi::NOT_OWNED => MapFault::NotOwned,
        None => MapFault::Errno(EINVAL),
    }
}

/// The last failure in a round of a callback whose failures are no errors of the call: an errno and
/// a text.
type Known = Option<(i32, String)>;

/// All ports of a handle.
#[derive(Debug)]
pub(crate) struct Host {
    p2m: HostP2m,
    m2p: HostM2p,
    types: HostTypes,
    unlogged: HostUnlogged,
    /// Observes nothing: the host has its own clock.
    observer: (),
}

impl Host {
    /// Checks the host's structure.
    pub(crate) fn new(host: abi::Host, width: Width) -> Result<Self, Fault> {
        let missing = [
            ("domain_frames", host.domain_frames.is_none()),
            ("roots", host.roots.is_none()),
            ("read", host.read.is_none()),
            ("map", host.map.is_none()),
            ("unmap", host.unmap.is_none()),
            ("types", host.types.is_none()),
            ("unlogged", host.unlogged.is_none()),
            ("accepts_transfer", host.accepts_transfer.is_none()),
            ("m2p", host.m2p.is_null()),
        ];
        if let Some((name, _)) = missing.iter().find(|(_, missing)| *missing) {
            return Err(Fault::argument(format!("p2mt_host.{name} is NULL")));
        }
        if !host.m2p.is_aligned() || host.m2p_frames == 0 || host.m2p_frames > 1 << 52 {
            return Err(Fault::argument(
                "p2mt_host.m2p is not aligned, or has no or too many frames",
            ));
        }
        if host.zero != 0 {
            return Err(Fault::argument("p2mt_host.zero is not 0"));
        }
        if width == Width::W32 && compat_m2p(&host).is_none() {
            return Err(Fault::argument("p2mt_host.compat_m2p_mfn is missing for a 32-bit guest"));
        }
        let callbacks = Callbacks(host);
        Ok(Self {
            p2m: HostP2m::new(callbacks, width),
            m2p: HostM2p(callbacks),
            types: HostTypes { callbacks, failed: None },
            unlogged: HostUnlogged { callbacks, buffer: vec![0; LIST_CAPACITY] },
            observer: (),
        })
    }

    /// Lends the guest for one call of the engine.
    pub(crate) fn lend(&mut self) -> Guest<'_> {
        Guest {
            p2m: &mut self.p2m,
            m2p: &self.m2p,
            types: &mut self.types,
            unlogged: &mut self.unlogged,
            observer: &mut self.observer,
        }
    }

    /// Before a round: failures are reported again.
    pub(crate) fn begin_round(&mut self) {
        let HostP2m { read_failed, map_failed, unmap_failed, .. } = &mut self.p2m;
        for known in [read_failed, map_failed, unmap_failed, &mut self.types.failed] {
            *known = None;
        }
    }

    /// The last failure of a type query in this round: the engine then defers the pages and does
    /// not keep the error.
    pub(crate) const fn failed_query(&self) -> Option<&(i32, String)> {
        self.types.failed.as_ref()
    }

    /// Unmaps whatever is mapped.
    pub(crate) fn unmap_all(&mut self) {
        let slots = (0..).zip(&self.p2m.slots).filter(|(_, address)| !address.is_null());
        let slots: Vec<_> = slots.map(|(slot, _)| MapSlot(slot)).collect();
        self.p2m.unmap(&slots);
    }

    /// Writes to the host's log, if it has one.
    pub(crate) fn say(&self, level: u32, text: fmt::Arguments<'_>) {
        self.types.callbacks.say(level, text);
    }
}

impl Callbacks {
    fn say(self, level: u32, text: fmt::Arguments<'_>) {
        if self.0.log.is_none() {
            return;
        }
        let text = CString::new(text.to_string().replace('\0', " ")).unwrap_or_default();
        // A message that the log refuses is lost.
        let _ = call!(self, log, abi::LogCall { level, text: text.as_ptr() });
    }

    /// Logs the failure of a callback whose failures are no errors of the call, if it is new.
    fn warn_of(self, errnum: i32, text: impl FnOnce() -> String, known: &mut Known) {
        if known.as_ref().is_some_and(|(last, _)| *last == errnum) {
            return;
        }
        let text = text();
        self.say(abi::LOG_WARNING, format_args!("{text}"));
        *known = Some((errnum, text));
    }

    /// The same, for a callback that returned this word.
    fn warn_of_word(self, callback: &'static str, word: c_int, known: &mut Known) {
        let error = CallbackError { callback, word };
        self.warn_of(error.errnum(), || error.to_string(), known);
    }
}

/// The guest's p2m.
#[derive(Debug)]
struct HostP2m {
    callbacks: Callbacks,
    width: Width,
    /// Where each slot is mapped; null if it is unused.
    slots: Vec<*const c_void>,
    unused: Vec<u32>,
    read_failed: Known,
    map_failed: Known,
    unmap_failed: Known,
}

// SAFETY: the addresses are the host's mappings, which belong to no thread.
unsafe impl Send for HostP2m {}
// SAFETY: through a shared reference the addresses are only read; `live` makes only references for
// reading from them.
unsafe impl Sync for HostP2m {}

impl HostP2m {
    const fn new(callbacks: Callbacks, width: Width) -> Self {
        Self {
            callbacks,
            width,
            slots: Vec::new(),
            unused: Vec::new(),
            read_failed: None,
            map_failed: None,
            unmap_failed: None,
        }
    }

    fn insert(&mut self, address: *const c_void) -> MapSlot {
        let slot = self.unused.pop().unwrap_or(self.slots.len() as u32);
        if slot as usize == self.slots.len() {
            self.slots.push(address);
        } else {
            self.slots[slot as usize] = address;
        }
        MapSlot(slot)
    }

    /// The answer of `map` for one frame.
    fn mapped(&mut self, address: *const c_void, error: i32) -> Result<MapSlot, MapFault> {
        if address.is_null() {
            return Err(map_fault(error));
        }
        if !address.cast::<u64>().is_aligned() {
            self.unmap_addresses(&[address]);
            return Err(MapFault::Errno(EINVAL));
        }
        Ok(self.insert(address))
    }

    fn unmap_addresses(&mut self, addresses: &[*const c_void]) {
        if addresses.is_empty() {
            return;
        }
        let call = abi::UnmapCall { addresses: addresses.as_ptr(), count: addresses.len() };
        if let Err(word) = call!(self.callbacks, unmap, call) {
            // It can only be logged.
            self.callbacks.warn_of_word("unmap", word, &mut self.unmap_failed);
        }
    }
}

impl P2mSource for HostP2m {
    fn width(&self) -> Width {
        self.width
    }

    fn domain_frames(&mut self) -> Result<u64, PortError> {
        let mut frames = 0;
        let call = abi::DomainFramesCall { frames: &raw mut frames };
        call!(self.callbacks, domain_frames, call).map_err(failed("domain_frames"))?;
        Ok(frames)
    }

    fn roots(&mut self) -> Result<Roots, PortError> {
        let size = size_of::<abi::Roots>() as u32;
        let mut roots = abi::Roots { size, ..Default::default() };
        let call = abi::RootsCall { roots: &raw mut roots };
        call!(self.callbacks, roots, call).map_err(failed("roots"))?;
        let abi::Roots { pfn_count, frame_list_list, p2m_cr3, p2m_vaddr, generation, .. } = roots;
        Ok(Roots { pfn_count, frame_list_list, p2m_cr3, p2m_vaddr, generation })
    }

    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault> {
        let call = abi::ReadCall { mfn: mfn.0, words: into.words.as_mut_ptr() };
        call!(self.callbacks, read, call).map_err(|word| {
            let fault = map_fault(word);
            if fault != MapFault::NotOwned {
                self.callbacks.warn_of_word("read", word, &mut self.read_failed);
            }
            fault
        })
    }

    fn map(&mut self, frames: &[Mfn], answers: &mut Vec<Result<MapSlot, MapFault>>) {
        if frames.is_empty() {
            return;
        }
        let mfns: Vec<u64> = frames.iter().map(|mfn| mfn.0).collect();
        let mut addresses = vec![null(); frames.len()];
        let mut errors = vec![-EINVAL; frames.len()];
        let call = abi::MapCall {
            mfns: mfns.as_ptr(),
            count: mfns.len(),
            addresses: addresses.as_mut_ptr(),
            errors: errors.as_mut_ptr(),
        };
        if let Err(word) = call!(self.callbacks, map, call) {
            addresses.retain(|address| !address.is_null());
            self.unmap_addresses(&addresses); // what it mapped before it failed
            if word != abi::NOT_OWNED {
                self.callbacks.warn_of_word("map", word, &mut self.map_failed);
            }
            answers.extend(frames.iter().map(|_| Err(map_fault(word))));
            return;
        }
        for ((&address, &error), mfn) in addresses.iter().zip(&errors).zip(frames) {
            let answer = self.mapped(address, error);
            if let Err(MapFault::Errno(errno)) = answer {
                let text = || {
                    if address.is_null() {
                        format!("the host's callback map said {error} of {mfn}")
                    } else {
                        format!("the host's callback map put {mfn} at an address not aligned to 8")
                    }
                };
                self.callbacks.warn_of(-errno, text, &mut self.map_failed);
            }
            answers.push(answer);
        }
    }

    fn unmap(&mut self, slots: &[MapSlot]) {
        let mut addresses = Vec::with_capacity(slots.len());
        for &MapSlot(slot) in slots {
            if let Some(address) = self.slots.get_mut(slot as usize).filter(|held| !held.is_null())
            {
                addresses.push(std::mem::replace(address, null()));
                self.unused.push(slot);
            }
        }
        self.unmap_addresses(&addresses);
    }

    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        let address = self.slots.get(slot.0 as usize).copied().unwrap_or(null());
        assert!(!address.is_null(), "live: slot {} is not mapped", slot.0);
        // SAFETY: the host mapped a frame there for reading, aligned as was checked, and keeps it
        // until `unmap` is called, before which the address is removed from `slots`. Only the guest
        // writes it.
        unsafe { GuestLeaf::from_ptr(address.cast()) }
    }
}

/// Xen's mfn to pfn table.
#[derive(Debug)]
struct HostM2p(Callbacks);

impl M2p for HostM2p {
    fn frames(&self) -> u64 {
        self.0.0.m2p_frames
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        if mfn.0 >= self.frames() {
            return None;
        }
        let at = self.0.0.m2p.cast::<AtomicU64>().wrapping_add(mfn.0 as usize);
        // SAFETY: the header's contract: `m2p_frames` aligned words, readable for the life of the
        // handle. Xen writes them at any time, which an atomic allows.
        let word = unsafe { &*at };
        // ORDER: Relaxed: each word is used by itself; the only order that read-only memory allows.
        let pfn = word.load(Ordering::Relaxed);
        (pfn != abi::NONE).then_some(Pfn(pfn))
    }

    fn compat_frame(&self) -> Option<Mfn> {
        compat_m2p(&self.0.0)
    }
}

/// The first frame of the compat m2p. It is never frame 0: a host that leaves the field 0 has none.
fn compat_m2p(host: &abi::Host) -> Option<Mfn> {
    Some(host.compat_m2p_mfn).filter(|mfn| ![0, abi::NONE].contains(mfn)).map(Mfn)
}

/// Owner and type of frames.
#[derive(Debug)]
struct HostTypes {
    callbacks: Callbacks,
    failed: Known,
}

impl FrameTypes for HostTypes {
    fn query(&mut self, frames: &[Mfn], types: &mut [FrameType]) -> Result<(), PortError> {
        let mut mfns = [0; QUERY_FRAMES_MAX];
        // A word that the callback does not write is no valid type.
        let mut words = [8 << 28; QUERY_FRAMES_MAX];
        for (to, mfn) in mfns.iter_mut().zip(frames) {
            *to = mfn.0;
        }
        let count = frames.len().min(QUERY_FRAMES_MAX);
        let call = abi::TypesCall { mfns: mfns.as_ptr(), count, types: words.as_mut_ptr() };
        if let Err(word) = call!(self.callbacks, types, call) {
            self.callbacks.warn_of_word("types", word, &mut self.failed);
            return Err(failed("types")(word));
        }
        for ((kind, &word), mfn) in types.iter_mut().zip(&words).zip(frames) {
            let Some(known) = FrameType::from_pfinfo(word) else {
                let text = format!("the host's callback types said {word:#x} of {mfn}");
                self.callbacks.warn_of(-EINVAL, || text.clone(), &mut self.failed);
                return Err(Nonsense(text).into());
            };
            *kind = known;
        }
        Ok(())
    }
}

/// Writes that log-dirty does not show.
#[derive(Debug)]
struct HostUnlogged {
    callbacks: Callbacks,
    /// For lists, which are read in every round.
    buffer: Vec<u64>,
}

impl Unlogged for HostUnlogged {
    fn pfns(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        let pfns = list_of("unlogged pfns", &mut self.buffer, |pfns, capacity, count| {
            let call = abi::UnloggedCall { pfns, capacity, count };
            call!(self.callbacks, unlogged, call).map_err(failed("unlogged"))
        })?;
        into.extend(pfns.iter().map(|&pfn| Pfn(pfn)));
        Ok(())
    }

    fn accepts_transfer(&mut self) -> Result<bool, PortError> {
        let mut accepts = 0;
        let call = abi::AcceptsTransferCall { accepts: &raw mut accepts };
        call!(self.callbacks, accepts_transfer, call).map_err(failed("accepts_transfer"))?;
        Ok(accepts != 0)
    }

    fn transfers(&mut self, into: &mut Vec<Transfer>) -> Result<bool, PortError> {
        if self.callbacks.0.transfers.is_none() {
            return Ok(false);
        }
        let names = list_of("transfer entries", &mut self.buffer, |names, capacity, count| {
            let call = abi::TransfersCall { names, capacity, count };
            call!(self.callbacks, transfers, call).map_err(failed("transfers"))
        })?;
        into.extend(names.iter().map(|&name| transfer(name)));
        Ok(true)
    }
}

const fn transfer(name: u64) -> Transfer {
    if name & abi::TRANSFER_CAME == 0 {
        Transfer::Into(Pfn(name))
    } else {
        Transfer::Came(Mfn(name & !abi::TRANSFER_CAME))
    }
}

/// Fetches a list, and retries with a larger buffer while it does not fit. `ask` takes a place for
/// the elements, its capacity, and a place for their number.
fn list_of<'b>(
    what: &str,
    buffer: &'b mut Vec<u64>,
    ask: impl Fn(*mut u64, usize, *mut usize) -> Result<(), PortError>,
) -> Result<&'b [u64], PortError> {
    for _ in 0..LIST_TRIES {
        let (capacity, mut count) = (buffer.len(), 0);
        ask(buffer.as_mut_ptr(), capacity, &raw mut count)?;
        if count <= capacity {
            return Ok(&buffer[..count]);
        }
        let more = buffer.try_reserve_exact(count - capacity);
        more.map_err(|_| Nonsense(format!("there is no memory for {count} {what}")))?;
        buffer.resize(count, 0);
    }
    Err(Box::new(Nonsense(format!("the list of {what} grows each time that it is read"))))
}

/// A host whose callbacks all fail, for tests that do not use them.
#[cfg(test)]
pub(crate) fn refusing() -> abi::Host {
    unsafe extern "C" fn refuse<C>(_: *mut c_void, _: *const C) -> c_int {
        -EINVAL
    }
    static M2P: [u64; 1] = [abi::NONE];
    abi::Host {
        size: size_of::<abi::Host>() as u32,
        zero: 0,
        user: null_mut(),
        domain_frames: Some(refuse),
        roots: Some(refuse),
        read: Some(refuse),
        map: Some(refuse),
        unmap: Some(refuse),
        types: Some(refuse),
        unlogged: Some(refuse),
        accepts_transfer: Some(refuse),
        log: None,
        m2p: M2P.as_ptr(),
        m2p_frames: 1,
        compat_m2p_mfn: abi::NONE,
        transfers: None,
    }
}

#[cfg(test)]
mod tests;
