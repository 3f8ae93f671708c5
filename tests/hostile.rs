// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hostile guests and hosts: random machines, each of which ends in a named error or a completed
//! migration within bounds.
//! Not here: the machine and its checks (`hostile_guest`), memory (`hostile_memory`), guided search
//! (`fuzz`).
//! Units: `P2MTRACK_HOSTILE_CASES` cases over all tests here (default 2,000);
//! `P2MTRACK_HOSTILE_CASE` is one, in hex.
//! Threads: the test harness's; each case runs on one thread and is deterministic.
//! Source: law 6 of `docs/design.md`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Once;

use p2mtrack_tests::choices::Choices;
use p2mtrack_tests::hostile_guest::families::Family;
use p2mtrack_tests::hostile_guest::{End, Hostility, Machine, drive};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// The most bytes of a case.
const BYTES_MAX: usize = 768;

/// The number of cases of a test with this share, in per cent, of all.
fn cases(share: u32) -> u32 {
    let all = std::env::var("P2MTRACK_HOSTILE_CASES");
    let all: u32 = all.map_or(2_000, |cases| cases.parse().expect("a number of cases"));
    all.div_ceil(100) * share
}

/// Totals over the cases of a test.
#[derive(Debug, Default)]
struct Tally {
    ends: BTreeMap<&'static str, u64>,
    judged: u64,
    calls: u64,
    reads: u64,
}

impl Tally {
    fn add(&mut self, end: End) {
        *self.ends.entry(end.name).or_default() += 1;
        self.judged += end.judged;
        self.calls = self.calls.max(end.calls);
        self.reads = self.reads.max(end.reads);
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ascii"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("hex digits")).collect()
}

/// Shrinking makes a case fail thousands of times: only the last message is printed.
fn quiet() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !HUNTING.get() {
                hook(panic);
            }
        }));
    });
}

thread_local! {
    /// Whether this thread is running cases.
    static HUNTING: Cell<bool> = const { Cell::new(false) };
}

/// Runs random cases, and shrinks the first one that fails to a short string.
fn hunt(name: &str, share: u32, case: impl Fn(Choices<'_>) -> End) -> Tally {
    let tally = Cell::new(Tally::default());
    let run = |bytes: &[u8]| {
        let end = case(Choices::new(bytes));
        let mut sum = tally.take();
        sum.add(end);
        tally.set(sum);
    };
    if let Ok(hex) = std::env::var("P2MTRACK_HOSTILE_CASE") {
        run(&bytes_of(&hex));
        return tally.into_inner();
    }
    quiet();
    let config = ProptestConfig {
        cases: cases(share),
        failure_persistence: None, // the case is printed
        max_shrink_iters: 4_096,
        max_shrink_time: 10_000, // milliseconds
        ..ProptestConfig::default()
    };
    let seed = name.bytes().cycle().take(32).collect::<Vec<_>>();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let strings = proptest::collection::vec(any::<u8>(), 0..BYTES_MAX);
    let mut runner = TestRunner::new_with_rng(config, rng);
    HUNTING.set(true);
    let result = runner.run(&strings, |bytes| {
        run(&bytes);
        Ok::<_, TestCaseError>(())
    });
    HUNTING.set(false);
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, bytes)) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!(
                "{why}\nrepeat: P2MTRACK_HOSTILE_CASE={hex} cargo test -p p2mtrack-tests --test hostile {name}"
            );
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
    let tally = tally.into_inner();
    let cases: u64 = tally.ends.values().sum();
    println!(
        "{name}: {cases} cases, {} pfns judged, at most {} port calls and {} reads in one call, {:?}",
        tally.judged, tally.calls, tally.reads, tally.ends
    );
    tally
}

fn family(name: &str, family: Family) -> Tally {
    hunt(name, 5, |mut choices| {
        let hostility = choices.pick(&[Hostility::Guest, Hostility::Guest, Hostility::Host]);
        drive(&family.machine(choices, hostility))
    })
}

/// Cases that the fuzzer found are among its seeds.
#[test]
fn seeds_of_the_fuzzer_end_well() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/tracker");
    let seeds: Vec<_> = std::fs::read_dir(seeds).expect("seeds").collect();
    assert!(seeds.len() >= 13, "{seeds:?}");
    for seed in seeds {
        let bytes = std::fs::read(seed.expect("a file").path()).expect("a seed");
        drive(&Machine::of_string(&bytes));
    }
}

#[test]
fn hostile_guests_end_well() {
    let tally = hunt("hostile_guests_end_well", 30, |choices| {
        drive(&Machine::new(choices, Hostility::Guest))
    });
    let ended = |name: &str| tally.ends.get(name).copied().unwrap_or_default();
    if cases(30) >= 600 {
        assert!(ended("completed") > 0 && tally.judged > 0, "{tally:?}");
    }
}

#[test]
fn arbitrary_port_answers_end_well() {
    hunt("arbitrary_port_answers_end_well", 30, |choices| {
        drive(&Machine::new(choices, Hostility::Host))
    });
}

#[test]
fn cyclic_trees_end_well() {
    family("cyclic_trees_end_well", Family::Cycles);
}

#[test]
fn aliases_end_well() {
    family("aliases_end_well", Family::Aliases);
}

#[test]
fn counts_past_all_reason_end_well() {
    family("counts_past_all_reason_end_well", Family::Counts);
}

#[test]
fn frames_outside_the_machine_end_well() {
    family("frames_outside_the_machine_end_well", Family::Outside);
}

#[test]
fn odd_generations_end_well() {
    family("odd_generations_end_well", Family::OddForEver);
}

#[test]
fn roots_that_change_at_each_read_end_well() {
    family("roots_that_change_at_each_read_end_well", Family::RestlessRoots);
}

#[test]
fn leaves_that_are_page_tables_end_well() {
    family("leaves_that_are_page_tables_end_well", Family::LeavesAsTables);
}

#[test]
fn frames_of_other_domains_end_well() {
    family("frames_of_other_domains_end_well", Family::OtherDomains);
}
