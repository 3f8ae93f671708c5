// SPDX-License-Identifier: MIT OR Apache-2.0
//! Roots and walks: any structure, walked by a tracker that sends nothing, against a walk
//! independent of the tracker.
//! Not here: the structures and the check (`p2mtrack_tests::hostile_guest`).
//! Units: the input is a string of choices; its first byte names the family.
//! Threads: one.
//! Source: law 6 of `docs/design.md`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2mtrack_tests::choices::Choices;
use p2mtrack_tests::hostile_guest::families::Family;
use p2mtrack_tests::hostile_guest::{Hostility, Machine, walk};

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let machine = match choices.below(8) {
        0..5 => Machine::new(choices, Hostility::Guest),
        family => [Family::Cycles, Family::Aliases, Family::LeavesAsTables][family as usize - 5]
            .machine(choices, Hostility::Guest),
    };
    walk(&machine.still().no_farther_than(1 << 16));
});
