// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages, options and command lines of the save helper.
//! Not here: what has to hold (`hostile_helper`).
//! Units: the first byte selects what the others are.
//! Threads: one.
//! Source: `p2mtrack_helper`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2mtrack_tests::hostile_helper::hold;

fuzz_target!(|bytes: &[u8]| hold(bytes));
