// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inputs of the save helper from anywhere.
//! Not here: what has to hold (`hostile_helper`).
//! Units: 20,000 cases in a release build, 2,000 in others.
//! Threads: one.
//! Source: own.

use p2mtrack_tests::hostile_helper::hold;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Bytes of any kind; words of options and command lines; messages.
fn inputs() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just("--save-domain"),
        Just("--restore-domain"),
        Just("--downtime"),
        Just("--observe"),
        Just("--report"),
        Just("--rate"),
        Just("--live"),
        Just("300ms"),
        Just("1GiB"),
        Just("7"),
        Just("0"),
        Just("4294967296"),
        Just("'"),
        Just(""),
    ];
    let line = proptest::collection::vec(word, 0..9).prop_map(|words| words.join(" ").into_bytes());
    let message = prop_oneof![
        Just(vec![2, 0, 3, 0]),
        Just([&[10, 0, 10, 0][..], &[7; 8]].concat()),
        Just(vec![0, 0]),
        Just(vec![4, 0, 3, 0, 0, 0]),
        proptest::collection::vec(any::<u8>(), 0..9),
    ];
    let messages = proptest::collection::vec(message, 0..9).prop_map(|messages| messages.concat());
    let rest = prop_oneof![line, messages, proptest::collection::vec(any::<u8>(), 0..200)];
    (any::<u8>(), rest).prop_map(|(what, rest)| [&[what], &rest[..]].concat())
}

#[test]
fn whatever_the_helper_is_given_is_taken_or_refused_in_words() {
    let cases = if cfg!(debug_assertions) { 2_000 } else { 20_000 };
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&inputs(), |bytes| {
        hold(&bytes);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
