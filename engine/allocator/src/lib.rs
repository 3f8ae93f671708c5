// SPDX-License-Identifier: MIT OR Apache-2.0
//! p2mtrack-allocator: an allocator for a program, not for a library, that ends the program with a
//! message when there is no memory.
//! Not here: allocation itself, which another allocator does.
//! Units: bytes.
//! Threads: as the other allocator.
//! Source: without it the standard library aborts, and no stable hook runs before that:
//! `docs/decisions/0010`.

#![deny(unsafe_code)]
#![expect(unsafe_code, reason = "an allocator is an unsafe trait; docs/safety.md")]

use std::alloc::{GlobalAlloc, Layout};
use std::io::Write;

/// The exit status for want of memory: the same as for an argument that asks for too much.
pub const STATUS: i32 = 2;

/// An allocator that never returns null: it writes a message to standard error and ends the
/// program instead.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrEnd<A>(pub A);

// SAFETY: every call is passed to the other allocator, and its result returned unless it is null.
unsafe impl<A: GlobalAlloc> GlobalAlloc for OrEnd<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        or_end(unsafe { self.0.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        or_end(unsafe { self.0.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        or_end(unsafe { self.0.realloc(block, layout, bytes) }, bytes)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(block, layout) }
    }
}

fn or_end(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() {
        end(bytes);
    }
    block
}

/// This function must not allocate, nor wait for a lock that this thread may hold.
#[cold]
fn end(bytes: usize) -> ! {
    let mut line = [0; 128];
    let length = write(&mut line, bytes);
    // SAFETY: so many bytes of `line` were written. There is nothing to do about an error.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), length) };
    // SAFETY: it only ends the process.
    unsafe { libc::_exit(STATUS) }
}

/// Writes the message into a buffer that fits any; returns its length.
fn write(line: &mut [u8], bytes: usize) -> usize {
    let capacity = line.len();
    let mut rest = line;
    let _ = writeln!(
        rest,
        "p2mtrack: no memory: {bytes} bytes more can't be allocated; ask for less, or allow more"
    );
    capacity - rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::System;

    #[test]
    fn the_line_is_whole_whatever_the_number() {
        for bytes in [0, 4096, usize::MAX] {
            let mut line = [0; 128];
            let length = write(&mut line, bytes);
            let text = std::str::from_utf8(&line[..length]).expect("text");
            let wanted = format!("p2mtrack: no memory: {bytes} bytes more");
            assert!(text.starts_with(&wanted) && text.ends_with("allow more\n"), "{text}");
        }
    }

    #[global_allocator]
    static ALLOCATOR: OrEnd<System> = OrEnd(System);

    #[test]
    fn memory_comes_from_the_other_allocator() {
        let mut words = vec![0_u64; 1000];
        assert!(words.iter().all(|&word| word == 0));
        words.extend(0..100_000);
        assert_eq!((words.len(), words[100_999]), (101_000, 99_999));
        assert!(Vec::<u64>::new().try_reserve(usize::MAX).is_err(), "no call of an allocator");
    }
}
