// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests to valgrind's callgrind from the program that it runs: what to count, and under which
//! name.
//! Not here: starting it, and reading its output (`main`). Without valgrind nothing happens.
//! Units: instructions of the calling thread.
//! Threads: any.
//! Source: valgrind's manual, "The Client Request mechanism"; `valgrind.h` and `callgrind.h`, of
//! which these are three lines.

#![expect(unsafe_code, reason = "instructions that only valgrind understands; docs/safety.md")]

use std::arch::asm;
use std::ffi::CString;

/// Requests of the tool whose letters are C and T.
const TOOL: u64 = (b'C' as u64) << 24 | (b'T' as u64) << 16;
const DUMP_STATS_AT: u64 = TOOL + 3;
const START_INSTRUMENTATION: u64 = TOOL + 4;
const STOP_INSTRUMENTATION: u64 = TOOL + 5;

/// Counts the instructions of the work, and nothing else.
pub(crate) fn counted<T>(work: impl FnOnce() -> T) -> T {
    request(START_INSTRUMENTATION, 0);
    let done = work();
    request(STOP_INSTRUMENTATION, 0);
    done
}

/// Writes the counts since the last call to callgrind's output.
pub(crate) fn write_down(name: &str) {
    let name = CString::new(name).unwrap_or_default();
    request(DUMP_STATS_AT, name.as_ptr().addr() as u64);
}

#[cfg(target_arch = "x86_64")]
fn request(number: u64, argument: u64) {
    let request: [u64; 6] = [number, argument, 0, 0, 0, 0];
    // SAFETY: four rotations by 128 bits in all, and an exchange of a register with itself: they
    // change nothing but flags. Valgrind recognises the sequence, and reads the six words and what
    // the argument points to: a string, or nothing.
    unsafe {
        asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") request.as_ptr(),
            inout("rdx") 0_u64 => _,
        );
    }
}

/// Counts nothing there: `main` finds no output.
#[cfg(not(target_arch = "x86_64"))]
fn request(_: u64, _: u64) {}
