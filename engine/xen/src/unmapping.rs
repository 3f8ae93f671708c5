// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lets go of foreign frames without a trap for each of them.
//! Not here: mappings (`mapping`); their address range, which is given back after this (`privcmd`).
//! Units: pages; a call for each, up to 1,024 of them in one multicall.
//! Threads: any, one at a time.
//! Source: Xen `public/xen.h` (`multicall_entry`, `update_va_mapping`, `UVMF_*`);
//! `docs/decisions/0029`. In a PV control domain `munmap` writes each PTE, and Xen has to trap and
//! emulate each write. Here Xen is asked to clear the PTEs; the kernel then finds none to write.

#![expect(unsafe_code, reason = "addresses of our own page tables; docs/safety.md")]

use std::sync::{Mutex, PoisonError};

use crate::buffer::Buffer;
use crate::privcmd::Privcmd;

/// `__HYPERVISOR_multicall`, `__HYPERVISOR_update_va_mapping` and `__HYPERVISOR_mmuext_op`.
const MULTICALL: u64 = 13;
const UPDATE_VA_MAPPING: u64 = 14;
const MMUEXT_OP: u64 = 26;
/// `MMUEXT_TLB_FLUSH_ALL`, and `DOMID_SELF`.
const TLB_FLUSH_ALL: u64 = 10;
const SELF: u64 = 0x7ff0;
/// `UVMF_TLB_FLUSH | UVMF_ALL`: no CPU of this domain uses the old PTEs any more.
const FLUSH_ALL: u64 = 1 | 1 << 2;
/// Words of `struct multicall_entry`: the call, its result, six arguments.
const ENTRY_WORDS: usize = 8;
/// The place of the result, and of the call's third argument, which stands behind address and PTE.
const RESULT: usize = 1;
const FLAGS: usize = 4;
/// A result that Xen has not written.
const NO_RESULT: u64 = u64::MAX;
const NO_SUCH_CALL: u64 = -(libc::ENOSYS as i64) as u64;
/// Entries of a multicall.
const ENTRIES_MAX: usize = 1024;
/// A range of fewer pages is left to `munmap`.
const PAGES_MIN: usize = 4;

/// How foreign frames are let go of.
#[derive(Debug, Default)]
pub(crate) struct Unmapping(Mutex<Way>);

/// What is known of Xen's calls.
#[derive(Debug, Default)]
enum Way {
    /// Nothing yet.
    #[default]
    Untried,
    /// They work.
    Calls(Buffer),
    /// They don't, as this is no PV control domain; or what they cleared could not be flushed.
    Kernel,
}

/// What became of the PTEs of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cleared {
    /// No CPU uses those that were cleared; those that were not are left to `munmap`.
    Unmap,
    /// A CPU may use some that were cleared: the range must not be used again.
    Keep,
}

impl Unmapping {
    /// Clears the PTEs of a mapping, where that can be done.
    ///
    /// # Safety
    /// `base` comes from [`Privcmd::reserve`] for `pages` pages, which are not used any more.
    pub(crate) unsafe fn clear(&self, privcmd: &Privcmd, base: *mut u64, pages: usize) -> Cleared {
        if pages < PAGES_MIN {
            return Cleared::Unmap;
        }
        let mut way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Way::Untried = *way {
            let bytes = ENTRIES_MAX * ENTRY_WORDS * 8;
            *way = Buffer::new(privcmd, bytes).map_or(Way::Kernel, Way::Calls);
        }
        let Way::Calls(buffer) = &mut *way else { return Cleared::Unmap };
        match clear(&mut XenCalls { privcmd, buffer }, base as u64, pages) {
            Done::All | Done::Some { flushed: true } => Cleared::Unmap,
            Done::Some { flushed: false } => {
                *way = Way::Kernel; // one range is lost; there must not be many
                Cleared::Keep
            }
            Done::NoSuchCall => {
                *way = Way::Kernel;
                Cleared::Unmap
            }
        }
    }

    /// Whether Xen's calls are used, as far as they work; `None` if nothing was unmapped yet.
    pub(crate) fn is_by_calls(&self) -> Option<bool> {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Way::Untried => None,
            Way::Calls(_) => Some(true),
            Way::Kernel => Some(false),
        }
    }
}

/// The calls, and the entries of one of them.
trait Calls {
    fn words(&mut self) -> &mut [u64];
    /// Makes the calls of the first `count` entries. Xen goes on behind one that fails, but not
    /// behind one whose result it can't write (EFAULT).
    fn multicall(&mut self, count: usize) -> Result<(), i32>;
    /// Flushes on all CPUs of this domain. Returns whether it did.
    fn flush(&mut self) -> bool;
}

/// Xen's. The range whose pages it is told to clear is not used any more, and nobody else writes
/// its PTEs: the kernel moves no page of such a range.
struct XenCalls<'a> {
    privcmd: &'a Privcmd,
    buffer: &'a mut Buffer,
}

impl Calls for XenCalls<'_> {
    fn words(&mut self) -> &mut [u64] {
        self.buffer.words_mut()
    }

    fn multicall(&mut self, count: usize) -> Result<(), i32> {
        let arguments = [self.buffer.address(), count as u64, 0, 0, 0];
        // SAFETY: the buffer has so many entries; what they change is of our range.
        unsafe { self.privcmd.hypercall(MULTICALL, arguments) }.map(|_| ())
    }

    fn flush(&mut self) -> bool {
        self.words()[..3].copy_from_slice(&[TLB_FLUSH_ALL, 0, 0]); // a `struct mmuext_op`
        let arguments = [self.buffer.address(), 1, 0, SELF, 0];
        // SAFETY: the buffer has the one operation.
        unsafe { self.privcmd.hypercall(MMUEXT_OP, arguments) }.is_ok()
    }
}

/// What the calls have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// All PTEs are cleared, and flushed.
    All,
    /// Some may be.
    Some { flushed: bool },
    /// Nothing.
    NoSuchCall,
}

/// Clears the PTEs of pages from `base` on.
fn clear(calls: &mut impl Calls, base: u64, pages: usize) -> Done {
    for first in (0..pages).step_by(ENTRIES_MAX) {
        let count = ENTRIES_MAX.min(pages - first);
        fill(calls.words(), base + first as u64 * 4096, count, first + count == pages);
        let made = calls.multicall(count);
        let mut all = |result| results(calls.words(), count).all(|each| each == result);
        if made.is_ok() && all(0) {
            continue;
        }
        let is_refused = made.is_err_and(|errno| errno != libc::EFAULT) && all(NO_RESULT);
        if first == 0 && (is_refused || all(NO_SUCH_CALL)) {
            return Done::NoSuchCall; // this is no PV domain
        }
        // What the kernel finds cleared it does not flush.
        return Done::Some { flushed: calls.flush() };
    }
    Done::All // the last entry has flushed
}

/// Writes the entries of `count` pages from `first` on. A result that Xen does not write is an
/// error.
fn fill(words: &mut [u64], first: u64, count: usize, is_last: bool) {
    let entries = &mut words.as_chunks_mut::<ENTRY_WORDS>().0[..count];
    for (page, entry) in (first..).step_by(4096).zip(&mut *entries) {
        *entry = [UPDATE_VA_MAPPING, NO_RESULT, page, 0, 0, 0, 0, 0];
    }
    if let Some(entry) = entries.last_mut().filter(|_| is_last) {
        entry[FLAGS] = FLUSH_ALL;
    }
}

/// The results of the first `count` entries.
fn results(words: &[u64], count: usize) -> impl Iterator<Item = u64> {
    words.as_chunks::<ENTRY_WORDS>().0[..count].iter().map(|entry| entry[RESULT])
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x10_0000;

    /// A Xen of which one call, of all that it makes, fails.
    #[derive(Default)]
    struct Fake {
        words: Vec<u64>,
        fails: Option<Fails>,
        cannot_flush: bool,
        made: usize,
        cleared: Vec<u64>,
        /// After how many pages it flushed.
        flushed: Vec<usize>,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Fails {
        /// Each multicall.
        Multicall(i32),
        /// Each call in it.
        Each(i64),
        /// The call of this number.
        One(usize),
        /// The result of the call of this number can't be written.
        Result(usize),
    }

    impl Calls for Fake {
        fn words(&mut self) -> &mut [u64] {
            self.words.resize(8 * 1024, 0);
            &mut self.words
        }

        fn multicall(&mut self, count: usize) -> Result<(), i32> {
            assert!(count <= 1024);
            if let Some(Fails::Multicall(errno)) = self.fails {
                return Err(errno);
            }
            for entry in &mut self.words.as_chunks_mut::<8>().0[..count] {
                let [op, _, page, pte, flags, rest @ ..] = *entry; // `struct multicall_entry`
                assert_eq!((op, pte, rest), (14, 0, [0; 3]), "update_va_mapping");
                let number = self.made;
                self.made += 1;
                match self.fails {
                    Some(Fails::Each(error)) => entry[1] = error as u64,
                    Some(Fails::One(fails)) if fails == number => entry[1] = -22_i64 as u64,
                    fails => {
                        self.cleared.push(page);
                        if flags == 5 {
                            self.flushed.push(self.cleared.len());
                        }
                        if fails == Some(Fails::Result(number)) {
                            return Err(libc::EFAULT);
                        }
                        entry[1] = 0;
                    }
                }
            }
            Ok(())
        }

        fn flush(&mut self) -> bool {
            self.flushed.push(self.cleared.len());
            !self.cannot_flush
        }
    }

    #[test]
    fn each_page_is_cleared_once_and_the_last_one_flushes() {
        for pages in [1, 4, 1023, 1024, 1025, 3000] {
            let mut xen = Fake::default();
            assert_eq!(clear(&mut xen, BASE, pages), Done::All);
            let all: Vec<_> = (0..pages as u64).map(|page| BASE + page * 4096).collect();
            assert_eq!((xen.cleared, xen.flushed), (all, vec![pages]));
        }
    }

    #[test]
    fn a_control_domain_that_is_not_pv_leaves_all_to_the_kernel() {
        for fails in
            [Fails::Multicall(libc::ENOSYS), Fails::Multicall(libc::EPERM), Fails::Each(-38)]
        {
            let mut xen = Fake { fails: Some(fails), ..Fake::default() };
            assert_eq!(clear(&mut xen, BASE, 3000), Done::NoSuchCall);
            assert!(xen.cleared.is_empty() && xen.flushed.is_empty());
        }
    }

    #[test]
    fn what_was_cleared_beside_an_error_is_flushed_or_not_used_again() {
        // Calls that were made by then: Xen goes on to the end of a multicall.
        for (fails, cleared) in [
            (Fails::One(0), 1023),
            (Fails::One(1023), 1023),
            (Fails::One(1024), 2047),
            (Fails::One(2999), 2999),
            (Fails::Result(0), 1),
            (Fails::Result(1500), 1501),
            (Fails::Multicall(libc::EFAULT), 0),
            (Fails::Each(-22), 0),
        ] {
            for cannot_flush in [false, true] {
                let mut xen = Fake { fails: Some(fails), cannot_flush, ..Fake::default() };
                let done = clear(&mut xen, BASE, 3000);
                assert_eq!(done, Done::Some { flushed: !cannot_flush });
                assert_eq!((xen.cleared.len(), xen.flushed.last()), (cleared, Some(&cleared)));
            }
        }
    }
}
