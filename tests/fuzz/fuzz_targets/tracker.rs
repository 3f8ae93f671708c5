// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracker under arbitrary port answers: a whole migration of a hostile machine per input.
//! Not here: the machine and its checks (`p2mtrack_tests::hostile_guest`).
//! Units: the input is a string of choices; its first byte selects who is hostile, and how.
//! Threads: one.
//! Source: laws of `docs/design.md`; debug assertions are on, law 5 is checked after each round.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2mtrack_tests::hostile_guest::{Machine, drive};

fuzz_target!(|bytes: &[u8]| {
    drive(&Machine::of_string(bytes));
});
