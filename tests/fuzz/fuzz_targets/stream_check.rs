// SPDX-License-Identifier: MIT OR Apache-2.0
//! Migration streams from anywhere: reader, containers and checker.
//! Not here: what has to hold, the second implementation included (`hostile_stream`).
//! Units: the first byte selects: choices that change a good stream, or bytes as they come.
//! Threads: one.
//! Source: `p2mtrack_stream::check`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2mtrack_tests::choices::Choices;
use p2mtrack_tests::hostile_stream::{drive, hold};

fuzz_target!(|bytes: &[u8]| {
    match bytes.split_first() {
        Some((&what, rest)) if what % 2 == 0 => drive(Choices::new(rest)),
        Some((_, rest)) => hold(rest),
        None => {}
    }
});
