// SPDX-License-Identifier: MIT OR Apache-2.0
//! The functions of `p2mtrack.h`, one for each, in its order.
//! Not here: what they do (`handle`). Each checks its pointers, crosses the boundary, and writes
//! its output.
//! Units: those of the header.
//! Threads: as the header says.
//! Source: `include/p2mtrack.h`, which is their documentation and their contract. A pointer that is
//! neither null nor misaligned is trusted.

#![expect(unsafe_code, reason = "a host's pointers; docs/safety.md")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the contract of each is that of the header: pointers are what it says"
)]

use std::ffi::{c_char, c_int};

use p2mtrack::leaf::{FRAME_WORDS, Leaf};

use crate::abi;
pub use crate::boundary::Handle;
use crate::boundary::{self, array, array_mut, enter, place};
use crate::convert;
use crate::error::{Fault, meaning};
use crate::handle::{LogBuffer, Session};
use crate::sized::{Rows, check, read, write};

/// `p2mt_version`.
#[unsafe(no_mangle)]
pub const extern "C" fn p2mt_version() -> u32 {
    abi::VERSION
}

/// `p2mt_strerror`.
#[unsafe(no_mangle)]
pub const extern "C" fn p2mt_strerror(code: c_int) -> *const c_char {
    meaning(code).as_ptr()
}

/// `p2mt_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_create(
    config: *const abi::Config,
    host: *const abi::Host,
    error: *mut abi::Error,
    handle: *mut *mut Handle,
) -> c_int {
    let create = || {
        if !error.is_null() {
            // SAFETY: the header's contract.
            unsafe { check(error) }?;
        }
        // SAFETY: as above.
        let to = unsafe { place(handle, "handle") }?;
        // SAFETY: as above.
        let config = unsafe { read(config) }?;
        // SAFETY: as above.
        let host = unsafe { read(host) }?;
        to.write(boundary::create(|| Session::new(&config, host))?);
        Ok(())
    };
    let fault: Fault = match create() {
        Ok(()) => return abi::OK,
        Err(fault) => fault,
    };
    if !error.is_null() {
        // SAFETY: the header's contract. If the size of `error` is wrong, the error can't be
        // reported.
        let _ = unsafe { write(error, fault.to_abi()) };
    }
    fault.code()
}

/// `p2mt_destroy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_destroy(handle: *mut Handle) -> c_int {
    // SAFETY: the header's contract.
    unsafe { boundary::destroy(handle) }
}

/// `p2mt_last_error`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_last_error(handle: *const Handle, error: *mut abi::Error) -> c_int {
    // SAFETY: the header's contract.
    match unsafe { boundary::last_error(handle) } {
        Err(code) => code,
        // SAFETY: as above.
        Ok(last) => unsafe { write(error, last) }.map_or_else(|fault| fault.code(), |()| abi::OK),
    }
}

/// `p2mt_begin`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_begin(
    handle: *mut Handle,
    stage: u32,
    buffer: *mut abi::LogBuffer,
) -> c_int {
    let call = |session: &mut Session| {
        // SAFETY: the header's contract.
        let to = unsafe { place(buffer, "buffer") }?;
        let LogBuffer { words, pfns } = session.begin(stage)?;
        to.write(abi::LogBuffer { words, pfns });
        Ok(())
    };
    // SAFETY: as above.
    unsafe { enter(handle, call) }
}

/// `p2mt_feed`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_feed(
    handle: *mut Handle,
    first: u64,
    words: *const u64,
    pfns: u64,
) -> c_int {
    let call = |session: &mut Session| {
        if !first.is_multiple_of(64) || !pfns.is_multiple_of(64) {
            let text = format!("{pfns} pfns from {first} on are not whole 64-bit words");
            return Err(Fault::argument(text));
        }
        // SAFETY: the header's contract.
        let words = unsafe { array(words, (pfns / 64) as usize, "words") }?;
        let buffer = session.buffer()?;
        let left = buffer.pfns.saturating_sub(first) / 64;
        for (index, &word) in words.iter().take(left as usize).enumerate() {
            let to = buffer.words.wrapping_add((first / 64) as usize + index);
            // SAFETY: the buffer is the engine's, `pfns` bits long, until the log is scanned, and
            // this one is below.
            let to = unsafe { &mut *to };
            *to |= word;
        }
        Ok(())
    };
    // SAFETY: as above.
    unsafe { enter(handle, call) }
}

/// `p2mt_scan`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_scan(
    handle: *mut Handle,
    until: u64,
    report: *mut abi::Report,
) -> c_int {
    // SAFETY: the header's contract.
    unsafe { reporting(handle, report, |session| session.scan(until)) }
}

/// A call that ends with a report, if the caller has a place for it.
///
/// # Safety
/// The header's contract for both pointers.
unsafe fn reporting(
    handle: *mut Handle,
    report: *mut abi::Report,
    call: impl FnOnce(&mut Session) -> Result<(), Fault>,
) -> c_int {
    let call = |session: &mut Session| {
        if report.is_null() {
            return call(session);
        }
        // SAFETY: the caller's contract.
        unsafe { check(report) }?;
        call(session)?;
        // SAFETY: as above.
        unsafe { write(report, session.report()) }
    };
    // SAFETY: as above.
    unsafe { enter(handle, call) }
}

/// `p2mt_take`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_take(
    handle: *mut Handle,
    pages: *mut abi::Page,
    page_size: usize,
    capacity: usize,
    count: *mut usize,
    flags: *mut u32,
) -> c_int {
    let call = |session: &mut Session| {
        if capacity < abi::BATCH_MAX {
            let text = format!("capacity {capacity} is below P2MT_BATCH_MAX, {}", abi::BATCH_MAX);
            return Err(Fault::argument(text));
        }
        let mut to = Rows::new(pages, page_size, capacity)?;
        // SAFETY: the header's contract.
        let count = unsafe { place(count, "count") }?;
        // SAFETY: as above.
        let flags = unsafe { place(flags, "flags") }?;
        let (taken, todo) = session.take()?;
        // SAFETY: as above: `capacity` of them, of `page_size` bytes.
        count.write(unsafe { to.fill(taken) });
        flags.write(todo);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { enter(handle, call) }
}

/// `p2mt_normalise`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_normalise(
    handle: *mut Handle,
    index: usize,
    words: *mut u64,
    fault: *mut abi::TableFault,
) -> c_int {
    let call = |session: &mut Session| {
        // SAFETY: the header's contract.
        let there = unsafe { array(words.cast_const(), FRAME_WORDS, "words") }?;
        let mut table = Leaf::default();
        table.words.copy_from_slice(there);
        if !fault.is_null() {
            // SAFETY: as above.
            unsafe { check(fault) }?;
        }
        let refused = session.normalise(index, &mut table)?;
        // SAFETY: as above; the reading is over.
        let there = unsafe { array_mut(words, FRAME_WORDS, "words") }?;
        for (there, &word) in there.iter_mut().zip(&table.words) {
            there.write(word);
        }
        match refused {
            None => Ok(()),
            Some((pfn, found)) => {
                if !fault.is_null() {
                    // SAFETY: as above.
                    unsafe { write(fault, convert::table_fault(&found)) }?;
                }
                Err(Fault::table(pfn, &found).expected())
            }
        }
    };
    // SAFETY: as above.
    unsafe { enter(handle, call) }
}

/// `p2mt_answer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_answer(
    handle: *mut Handle,
    answers: *const abi::PageAnswer,
    answer_size: usize,
    count: usize,
) -> c_int {
    let call = |session: &mut Session| {
        let rows = Rows::new(answers.cast_mut(), answer_size, count)?;
        // SAFETY: the header's contract: `count` of them, of `answer_size` bytes.
        session.answer(count, (0..count).map(|index| unsafe { rows.get(index) }))
    };
    // SAFETY: as above.
    unsafe { enter(handle, call) }
}

/// `p2mt_accept`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_accept(handle: *mut Handle, count: usize) -> c_int {
    // SAFETY: the header's contract.
    unsafe { enter(handle, |session| session.accept(count)) }
}

/// `p2mt_frame_list`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_frame_list(
    handle: *mut Handle,
    leaves: *mut u64,
    capacity: usize,
    count: *mut usize,
    pfn_count: *mut u64,
    serial: *mut u64,
) -> c_int {
    let call = |session: &mut Session| {
        // SAFETY: the header's contract.
        let to = unsafe { array_mut(leaves, capacity, "leaves") }?;
        // SAFETY: as above.
        let count = unsafe { place(count, "count") }?;
        // SAFETY: as above.
        let covered = unsafe { place(pfn_count, "pfn_count") }?;
        // SAFETY: as above.
        let number = unsafe { place(serial, "serial") }?;
        let (list, pfns) = session.frame_list()?;
        count.write(list.len());
        if list.len() <= capacity {
            for (to, pfn) in to.iter_mut().zip(&list) {
                to.write(pfn.map_or(abi::NONE, |pfn| pfn.0));
            }
            covered.write(pfns);
            number.write(session.frame_list_was_read());
        }
        Ok(())
    };
    // SAFETY: as above.
    unsafe { enter(handle, call) }
}

/// `p2mt_frame_list_sent`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_frame_list_sent(handle: *mut Handle, serial: u64) -> c_int {
    // SAFETY: the header's contract.
    unsafe { enter(handle, |session| session.frame_list_sent(serial)) }
}

/// `p2mt_return`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_return(handle: *mut Handle, pfns: *const u64, count: usize) -> c_int {
    let call = |session: &mut Session| {
        // SAFETY: the header's contract.
        session.return_pfns(unsafe { array(pfns, count, "pfns") }?)
    };
    // SAFETY: as above.
    unsafe { enter(handle, call) }
}

/// `p2mt_gone`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_gone(
    handle: *mut Handle,
    from: u64,
    pfns: *mut u64,
    capacity: usize,
    count: *mut usize,
) -> c_int {
    let call = |session: &mut Session| {
        // SAFETY: the header's contract.
        let to = unsafe { array_mut(pfns, capacity, "pfns") }?;
        // SAFETY: as above.
        let count = unsafe { place(count, "count") }?;
        if capacity == 0 {
            return Err(Fault::argument("capacity is 0"));
        }
        let gone = session.gone(from)?;
        count.write(gone.len().min(capacity));
        for (to, pfn) in to.iter_mut().zip(gone) {
            to.write(pfn.0);
        }
        Ok(())
    };
    // SAFETY: as above.
    unsafe { enter(handle, call) }
}

/// `p2mt_cleared_ptes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_cleared_ptes(
    handle: *mut Handle,
    ptes: *mut abi::ClearedPte,
    pte_size: usize,
    capacity: usize,
    count: *mut usize,
) -> c_int {
    let call = |session: &mut Session| {
        let mut to = Rows::new(ptes, pte_size, capacity)?;
        // SAFETY: the header's contract.
        let count = unsafe { place(count, "count") }?;
        let cleared = session.cleared_ptes();
        count.write(cleared.len());
        if cleared.len() <= capacity {
            // SAFETY: as above: `capacity` of them, of `pte_size` bytes.
            unsafe { to.fill(cleared.into_iter()) };
        }
        Ok(())
    };
    // SAFETY: as above.
    unsafe { enter(handle, call) }
}

/// `p2mt_end`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_end(handle: *mut Handle, report: *mut abi::Report) -> c_int {
    // SAFETY: the header's contract.
    unsafe { reporting(handle, report, Session::end) }
}

/// `p2mt_cancel`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_cancel(handle: *mut Handle) -> c_int {
    let call = |session: &mut Session| {
        session.cancel();
        Ok(())
    };
    // SAFETY: the header's contract.
    unsafe { enter(handle, call) }
}

/// `p2mt_verify`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_verify(handle: *mut Handle, verify: u32) -> c_int {
    // SAFETY: the header's contract.
    unsafe { enter(handle, |session| session.verify(verify)) }
}

/// `p2mt_stats`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_stats(handle: *mut Handle, totals: *mut abi::Totals) -> c_int {
    let call = |session: &mut Session| {
        // SAFETY: the header's contract.
        unsafe { write(totals, session.totals()) }
    };
    // SAFETY: as above.
    unsafe { enter(handle, call) }
}

/// `p2mt_why`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2mt_why(
    handle: *mut Handle,
    pfn: u64,
    state: *mut abi::PfnState,
) -> c_int {
    let call = |session: &mut Session| {
        // SAFETY: the header's contract.
        unsafe { write(state, session.why(pfn)) }
    };
    // SAFETY: as above.
    unsafe { enter(handle, call) }
}
