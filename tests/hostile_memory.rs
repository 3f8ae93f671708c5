// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a hostile guest can cost the host in memory: the heap of whole migrations under a counting
//! allocator.
//! Not here: time and answers (`hostile`). One test, alone in its process: it counts all
//! allocations of the process.
//! Units: bytes requested, including zeroed pages that were never touched; `P2MTRACK_HOSTILE_CASES`
//! / 20 cases.
//! Threads: one.
//! Source: law 6 of `docs/design.md`, `docs/decisions/0001`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use p2mtrack_tests::choices::Choices;
use p2mtrack_tests::hostile_guest::families::Family;
use p2mtrack_tests::hostile_guest::{FRAMES, Hostility, Machine, drive};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

/// Bytes allocated now, and the most that were.
static NOW: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call goes to the system allocator with the caller's arguments; besides, only sums
// are kept.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size() as u64, Ordering::Relaxed); // ORDER: a sum; one thread
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

fn count(bytes: usize) {
    // ORDER: sums; one thread.
    let now = NOW.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Bytes per pfn that the guest names, up to 2^27 whatever it holds: 9 bitmaps, and the resend
/// bitmap with a bitmap for each of ten causes, twice while it is resized. That is 496 MiB for a
/// leaf at the end of 512 GiB, of which a kernel that maps zeros lazily allocates 135 MiB.
const fn per_pfns(pfns: u64) -> u64 {
    let covered = if pfns < 1 << 27 { pfns.next_multiple_of(32_768) } else { 1 << 27 };
    let positions = covered / 512;
    let compared = if positions < 16_384 { positions } else { 16_384 };
    let waiting = if covered < 65_536 + FRAMES { covered } else { 65_536 + FRAMES };
    covered / 8 * (9 + 2 * 11)
        + positions * POSITION_BYTES
        + compared * COPY_BYTES
        + waiting * WAITING_BYTES
}
/// Per position of a leaf: its frame, in two walks, its place in the shadow, among the pending, in
/// the frame list, and what a comparison found.
const POSITION_BYTES: u64 = 500;
/// Per pfn that waits; more than 65,536 beyond the domain's frames are too many deferred.
const WAITING_BYTES: u64 = 120;
/// Per leaf that is compared, up to 16,384 at a time: the copy for the shadow, until it is found to
/// be shared.
const COPY_BYTES: u64 = 4096 + 64;
/// Per frame that can be a p2m frame: its words, a private copy at each of four levels, and four
/// shadow leaves.
const FRAME_BYTES: u64 = (1 + 4 + 4) * 4096;
/// Batches, reports, the machine itself, and all else that does not grow.
const FIXED_BYTES: u64 = 256 << 10;

/// The bound for a guest whose largest count or m2p value was `pfns`, with so many possible p2m
/// frames.
const fn bound(pfns: u64, frames: u64) -> u64 {
    FIXED_BYTES + frames * FRAME_BYTES + per_pfns(pfns)
}

/// Peak memory of a migration of this machine, and its bound.
fn cost<'c>(machine: impl FnOnce() -> Machine<'c>) -> (u64, u64) {
    let before = NOW.load(Ordering::Relaxed); // ORDER: one thread
    PEAK.store(before, Ordering::Relaxed); // ORDER: one thread
    let machine = machine();
    drive(&machine);
    let peak = PEAK.load(Ordering::Relaxed) - before; // ORDER: one thread
    (peak, bound(machine.farthest_pfn(), machine.frames_touched()))
}

#[test]
fn memory_is_bounded_by_frames_and_reach() {
    let all = std::env::var("P2MTRACK_HOSTILE_CASES");
    let all: u32 = all.map_or(2_000, |cases| cases.parse().expect("a number of cases"));
    let config = ProptestConfig {
        cases: all.div_ceil(20),
        failure_persistence: None, // the case is printed, shrunk
        max_shrink_time: 10_000,   // milliseconds
        ..ProptestConfig::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, b"memory of a hostile guest, 32 B!");
    let strings = proptest::collection::vec(any::<u8>(), 0..768);
    let most = Cell::new((0, 0, 0));
    let result = TestRunner::new_with_rng(config, rng).run(&strings, |bytes| {
        let mut choices = Choices::new(&bytes);
        // The shapes that could cost most are tried most often.
        let machine = || match choices.below(4) {
            0 => Machine::new(choices, Hostility::Guest),
            1 => Family::Cycles.machine(choices, Hostility::Guest),
            2 => Family::Aliases.machine(choices, Hostility::Guest),
            _ => choices.pick(&Family::ALL).machine(choices, Hostility::Guest),
        };
        let (peak, bound) = cost(machine);
        let share = 100 * peak / bound;
        if share > most.get().0 {
            most.set((share, peak, bound));
        }
        prop_assert!(peak <= bound, "{peak} bytes of {bound}");
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    // Debug builds check each of the 2^27 pfns after every round.
    if !cfg!(debug_assertions) {
        let (peak, bound) = cost(Machine::with_a_long_tail);
        println!("a long tail: {peak} of {bound} bytes");
        assert!(peak <= bound, "{peak} bytes of {bound}");
    }
    let (share, peak, bound) = most.get();
    println!("{} cases, at most {share} % of a bound: {peak} of {bound} bytes", all.div_ceil(20));
}
