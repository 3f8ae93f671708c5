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

/// `__HYPERVISOR_multicall` and `__HYPERVISOR_update_va_mapping`.
const MULTICALL: u64 = 13;
const UPDATE_VA_MAPPING: u64 = 14;
/// `UVMF_TLB_FLUSH | UVMF_ALL`: no CPU of this domain uses the old PTEs any more.
const FLUSH_ALL: u64 = 1 | 1 << 2;
/// Words of `struct multicall_entry`: the call, its result, six arguments.
const ENTRY_WORDS: usize = 8;
const RESULT: usize = 1;
/// The third argument of the call, after address and PTE.
const FLAGS: usize = 4;
/// Entries of a multicall.
const ENTRIES_MAX: usize = 1024;
/// Fewer pages are not worth a call.
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
    /// They don't: this is no PV control domain.
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
        let (cleared, then) = clear(&mut XenCalls { privcmd, buffer }, base as u64, pages);
        if cleared < pages {
            *way = Way::Kernel;
        }
        then
    }
}

/// The calls, and the entries of one of them.
trait Calls {
    fn words(&mut self) -> &mut [u64];
    /// Makes the calls of the first `count` entries.
    fn multicall(&mut self, count: usize);
    /// Clears the PTE of a page, and flushes. Returns whether it did.
    fn flush(&mut self, page: u64) -> bool;
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

    fn multicall(&mut self, count: usize) {
        let arguments = [self.buffer.address(), count as u64, 0, 0, 0];
        // SAFETY: the buffer has so many entries; what they change is of our range.
        let _ = unsafe { self.privcmd.hypercall(MULTICALL, arguments) }; // the entries say it all
    }

    fn flush(&mut self, page: u64) -> bool {
        // SAFETY: changes a PTE of our range.
        unsafe { self.privcmd.hypercall(UPDATE_VA_MAPPING, [page, 0, FLUSH_ALL, 0, 0]) }.is_ok()
    }
}

/// Clears the PTEs of pages from `base` on. Returns how many were cleared, from the first on.
fn clear(calls: &mut impl Calls, base: u64, pages: usize) -> (usize, Cleared) {
    let mut cleared = 0;
    while cleared < pages {
        let count = ENTRIES_MAX.min(pages - cleared);
        let is_last = cleared + count == pages;
        fill(calls.words(), base + cleared as u64 * 4096, count, is_last);
        calls.multicall(count);
        let done = done(calls.words(), count);
        cleared += done;
        if done < count {
            break;
        }
    }
    // The last entry of all flushes. What the kernel finds cleared it does not flush.
    let is_flushed = cleared == 0 || cleared == pages || calls.flush(base);
    (cleared, if is_flushed { Cleared::Unmap } else { Cleared::Keep })
}

/// Writes the entries of `count` pages from `first` on. A result that Xen does not write is an
/// error.
fn fill(words: &mut [u64], first: u64, count: usize, is_last: bool) {
    let entries = &mut words.as_chunks_mut::<ENTRY_WORDS>().0[..count];
    for (page, entry) in (first..).step_by(4096).zip(&mut *entries) {
        *entry = [UPDATE_VA_MAPPING, u64::MAX, page, 0, 0, 0, 0, 0];
    }
    if let Some(entry) = entries.last_mut().filter(|_| is_last) {
        entry[FLAGS] = FLUSH_ALL;
    }
}

/// How many entries are good, from the first on.
fn done(words: &[u64], count: usize) -> usize {
    let entries = &words.as_chunks::<ENTRY_WORDS>().0[..count];
    entries.iter().take_while(|entry| entry[RESULT] == 0).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x10_0000;

    /// A Xen that makes so many calls, and ends there: with an error of the entry, or of them all.
    struct Fake {
        words: Vec<u64>,
        left: usize,
        has_answer: bool,
        can_flush: bool,
        cleared: Vec<u64>,
        /// After how many pages it flushed.
        flushed: Vec<usize>,
    }

    impl Fake {
        fn new(left: usize) -> Self {
            let words = vec![0; ENTRIES_MAX * ENTRY_WORDS];
            let (cleared, flushed) = (Vec::new(), Vec::new());
            Self { words, left, has_answer: true, can_flush: true, cleared, flushed }
        }
    }

    impl Calls for Fake {
        fn words(&mut self) -> &mut [u64] {
            &mut self.words
        }

        fn multicall(&mut self, count: usize) {
            for entry in &mut self.words.as_chunks_mut::<ENTRY_WORDS>().0[..count] {
                let [op, _, page, pte, flags, rest @ ..] = *entry;
                assert_eq!((op, pte, rest), (UPDATE_VA_MAPPING, 0, [0; 3]));
                if self.left == 0 {
                    entry[RESULT] = if self.has_answer { -22_i64 as u64 } else { entry[RESULT] };
                    return;
                }
                self.left -= 1;
                self.cleared.push(page);
                if flags == FLUSH_ALL {
                    self.flushed.push(self.cleared.len());
                }
                entry[RESULT] = 0;
            }
        }

        fn flush(&mut self, page: u64) -> bool {
            assert_eq!(page, BASE);
            self.flushed.push(self.cleared.len());
            self.can_flush
        }
    }

    #[test]
    fn each_page_is_cleared_once_and_the_last_one_flushes() {
        for pages in [1, 4, 1023, 1024, 1025, 3000] {
            let mut xen = Fake::new(usize::MAX);
            assert_eq!(clear(&mut xen, BASE, pages), (pages, Cleared::Unmap));
            let all: Vec<_> = (0..pages as u64).map(|page| BASE + page * 4096).collect();
            assert_eq!(xen.cleared, all);
            assert_eq!(xen.flushed, [pages]);
        }
    }

    #[test]
    fn a_control_domain_that_is_not_pv_leaves_all_to_the_kernel() {
        for has_answer in [true, false] {
            let mut xen = Fake { has_answer, ..Fake::new(0) };
            assert_eq!(clear(&mut xen, BASE, 3000), (0, Cleared::Unmap));
            assert!(xen.cleared.is_empty() && xen.flushed.is_empty());
        }
    }

    #[test]
    fn what_was_cleared_before_an_error_is_flushed_or_not_used_again() {
        for (good, has_answer, can_flush) in
            [(1, true, true), (1024, false, true), (1500, true, false), (2999, false, false)]
        {
            let mut xen = Fake { has_answer, can_flush, ..Fake::new(good) };
            let then = if can_flush { Cleared::Unmap } else { Cleared::Keep };
            assert_eq!(clear(&mut xen, BASE, 3000), (good, then));
            assert_eq!((xen.cleared.len(), xen.flushed), (good, vec![good]));
        }
    }
}
