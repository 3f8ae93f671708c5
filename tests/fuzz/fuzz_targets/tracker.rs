// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracker under arbitrary port answers: a whole migration of a hostile machine per input.
//! Not here: the machine and its checks (`p2mtrack_tests::hostile_guest`).
//! Units: the input is a string of choices; its first byte says who is hostile, and how.
//! Threads: one.
//! Source: laws of `docs/design.md`; debug assertions are on, law 5 is checked after each round.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2mtrack_tests::choices::Choices;
use p2mtrack_tests::hostile_guest::families::Family;
use p2mtrack_tests::hostile_guest::{Hostility, Machine, drive};

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let hostility = choices.pick(&[Hostility::Guest, Hostility::Host]);
    let family = choices.below(16) as usize;
    let machine = match Family::ALL.get(family) {
        Some(family) => family.machine(choices, hostility),
        None => Machine::new(choices, hostility),
    };
    drive(&machine.no_farther_than(1 << 16));
});
