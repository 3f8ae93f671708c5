// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams from anywhere: the checker ends, and its answers hold together.
//! Not here: what has to hold (`hostile_stream`).
//! Units: `P2MTRACK_STREAM_CASES` cases, or 20,000 in a release build and 2,000 in others.
//! Threads: one.
//! Source: own.

use p2mtrack_tests::choices::Choices;
use p2mtrack_tests::hostile_stream::{drive, hold};
use p2mtrack_tests::sample_stream::Stream;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use p2mtrack::frame::Width;

fn cases() -> u32 {
    let asked = std::env::var("P2MTRACK_STREAM_CASES").ok();
    let asked = asked.map(|cases| cases.parse().expect("P2MTRACK_STREAM_CASES is a number"));
    asked.unwrap_or(if cfg!(debug_assertions) { 2_000 } else { 20_000 })
}

fn run(name: &str, holds: impl Fn(&[u8])) {
    let config =
        ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    let result = runner.run(&bytes, |bytes| {
        holds(&bytes);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{name}: {failure}"));
}

#[test]
fn changed_streams_are_answered_consistently() {
    run("changed", |bytes| drive(Choices::new(bytes)));
}

#[test]
fn bytes_of_any_kind_are_answered_consistently() {
    run("any", |bytes| {
        hold(bytes);
        // Behind good headers.
        let mut stream = Stream::good(Width::W64).libxc();
        stream.truncate(48);
        stream.extend(bytes);
        hold(&stream);
    });
}

/// Inputs of the fuzzer that found something are among its seeds.
#[test]
fn seeds_of_the_fuzzer_are_answered_consistently() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/stream_check");
    let seeds: Vec<_> = std::fs::read_dir(seeds).expect("seeds").collect();
    assert!(seeds.len() >= 4, "{seeds:?}");
    for seed in seeds {
        let bytes = std::fs::read(seed.expect("a file").path()).expect("a seed");
        let (&what, rest) = bytes.split_first().expect("a first byte");
        if what % 2 == 0 { drive(Choices::new(rest)) } else { hold(rest) }
    }
}
