// SPDX-License-Identifier: MIT OR Apache-2.0
//! `snapshot.first`, `round.quiet`, `round.scattered`, `round.suspended`, `intake`, `memory.peak`:
//! one huge guest under migration.
//! Not here: how its rounds are run (`harness`).
//! Units: time relative to a guest of 64 GiB; share of the read floor; bytes.
//! Threads: the engine's, as many as the setup's pool has.
//! Source: rounds of both guests run in turn; a round is timed from the end of the intake.

use std::time::Duration;

use hdrhistogram::Histogram;
use p2mtrack::frame::FRAME_BYTES;
use p2mtrack::leaf::FRAME_WORDS;
use p2mtrack_synthetic::huge::{Guest, Shape};

use crate::ab_run::{BLOCKS, median};
use crate::eviction::Eviction;
use crate::figure::{Figure, Goal, Unit};
use crate::harness::{Harness, Watched, read, read_words};
use crate::memory::{forget_peak, peak_bytes};
use crate::p2m::pattern;
use crate::setup::Setup;

/// The guest that the huge one is compared with.
const SMALL_BYTES: u64 = 64 << 30;
/// Rounds without any change in a block.
const QUIET_ROUNDS: usize = 200;
/// Rounds with scattered changes in a block, and leaves that change in each.
const SCATTERED_ROUNDS: usize = 11;
const SCATTERED_LEAVES: u64 = 2000;
/// Such rounds with everything sent, in a block.
const SENT_ROUNDS: usize = 3;
/// Of so many leaves one is changed whole before the guest is suspended.
const SUSPENDED_STRIDE: usize = 100;
/// Bytes of a line of a bitmap.
const LINE_BYTES: f64 = 64.0;

/// Measures.
#[must_use]
pub fn run(setup: &Setup) -> Vec<Figure> {
    let (guest, small_guest) =
        (guest(setup.guest_bytes), guest(SMALL_BYTES.min(setup.guest_bytes)));
    let mut figures = watched(setup, &guest, &small_guest);
    forget_peak();
    let mut huge = Harness::new(setup, &guest);
    huge.round();
    figures.push(sent(setup, &mut huge, &small_guest));
    figures.extend(intake(setup, &mut huge));
    figures.push(suspended(setup, huge));
    figures.extend(peak());
    figures.into_iter().map(|figure| Figure { threads: setup.pool.threads(), ..figure }).collect()
}

fn guest(bytes: u64) -> Guest {
    let leaves = bytes / (FRAME_BYTES * FRAME_BYTES / 8) as u64;
    Guest::new(pattern(Shape::Superpage, leaves as usize)).expect("memory for a guest")
}

/// The figures that need no sender.
fn watched(setup: &Setup, guest: &Guest, small_guest: &Guest) -> Vec<Figure> {
    let (mut huge, first) = first(setup, guest);
    let (mut small, ..) = Watched::new(setup, small_guest);
    let eviction = Eviction::default();
    let quiet = against("round.quiet", None, QUIET_ROUNDS, |long| {
        quiet(if long { &mut huge } else { &mut small })
    });
    let scattered = against("round.scattered", Some(1.3), SCATTERED_ROUNDS, |long| {
        scattered(if long { &mut huge } else { &mut small }, &eviction)
    });
    huge.release();
    small.release();
    vec![first, quiet, scattered]
}

/// The first snapshot against reading the p2m, in turn. The last one goes on.
fn first<'g>(setup: &Setup, guest: &'g Guest) -> (Watched<'g>, Figure) {
    let all: Vec<u64> = (0..setup.leaves() as u64).collect();
    let (mut shares, mut last) = (Vec::with_capacity(BLOCKS), None);
    for _ in 0..BLOCKS {
        last.into_iter().for_each(|(watched, _): (Watched<'_>, u64)| watched.release());
        let before = read(setup, guest, &all);
        let (watched, took, leaves) = Watched::new(setup, guest);
        let floor = (before + read(setup, guest, &all)) / 2;
        shares.push(floor.as_secs_f64() / took.as_secs_f64());
        last = Some((watched, leaves));
    }
    let (watched, leaves) = last.expect("a block");
    let value = median(shares);
    let detail =
        format!("{leaves} leaves read, put into their forms and owed, against reading them");
    let goal = Some(Goal::AtLeast(0.85));
    let figure = Figure::new("snapshot.first", value, Unit::Share, detail);
    (watched, Figure { goal, floor: Some(value), ..figure })
}

fn quiet(watched: &mut Watched<'_>) -> Duration {
    let (report, owed, took) = watched.round();
    assert_eq!((report.log_dirty_pfns, owed), (0, 0), "nothing happened");
    took
}

/// Exchanges a frame in each of some leaves. The round begins with empty caches.
fn scattered(watched: &mut Watched<'_>, eviction: &Eviction) -> Duration {
    let exchanged = exchange(watched.guest());
    eviction.evict();
    let (report, _, took) = watched.round();
    assert_eq!((report.leaves.compared, report.entries.remapped), (exchanged, exchanged));
    took
}

/// Exchanges one frame in each of some leaves. Returns the number of leaves.
fn exchange(guest: &Guest) -> u64 {
    let stride = guest.pfns() / SCATTERED_LEAVES;
    let spans = (0..SCATTERED_LEAVES).map(|number| number * stride..(number + 1) * stride);
    let chosen =
        spans.filter_map(|mut span| span.find(|&pfn| pfn % 512 == 77 && guest.is_plain(pfn)));
    chosen.map(|pfn| u64::from(guest.exchange(pfn))).sum()
}

/// Such rounds with everything sent that they owe.
fn sent(setup: &Setup, huge: &mut Harness<'_>, small_guest: &Guest) -> Figure {
    let mut small = Harness::new(setup, small_guest);
    small.round();
    let eviction = Eviction::default();
    let figure = against("round.scattered.sent", None, SENT_ROUNDS, |long| {
        exchange(if long { huge.guest() } else { small.guest() });
        eviction.evict();
        if long { huge.round().1 } else { small.round().1 }
    });
    small.finish();
    figure
}

/// The last round, with every entry of one leaf in a hundred changed: the comparison of these
/// leaves against reading them. Once: a guest is suspended once.
fn suspended(setup: &Setup, huge: Harness<'_>) -> Figure {
    let guest = huge.guest();
    let changed: Vec<u64> = (0..setup.leaves() as u64)
        .step_by(SUSPENDED_STRIDE)
        .filter(|&leaf| exchange_leaf(guest, leaf))
        .collect();
    Eviction::default().evict();
    let floor = read(setup, guest, &changed);
    let (report, took) = huge.finish();
    assert!(report.leaves.compared >= changed.len() as u64, "each changed leaf");
    let value = took.as_secs_f64() / floor.as_secs_f64();
    let detail = format!(
        "one run; {} leaves compared, {} of them changed whole, against reading these; {:.1} ms",
        report.leaves.compared,
        changed.len(),
        took.as_secs_f64() * 1e3,
    );
    let goal = Some(Goal::AtMost(1.2));
    Figure { goal, ..Figure::new("round.suspended", value, Unit::Times, detail) }
}

/// Exchanges each frame of a leaf. Returns whether that was possible for any.
fn exchange_leaf(guest: &Guest, leaf: u64) -> bool {
    let pfns = leaf * FRAME_WORDS as u64..(leaf + 1) * FRAME_WORDS as u64;
    let exchanged = pfns.filter(|&pfn| guest.is_plain(pfn) && guest.exchange(pfn));
    exchanged.count() > 0
}

/// How much longer rounds of the huge guest are: blocks of `rounds` rounds in turn, of both guests.
fn against(
    name: &str,
    most: Option<f64>,
    rounds: usize,
    mut round: impl FnMut(bool) -> Duration,
) -> Figure {
    let (mut huge, mut small, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..BLOCKS {
        let (long, short): (Vec<_>, Vec<_>) =
            (0..rounds).map(|_| (round(true), round(false))).unzip();
        ratios.push(middle(&long) / middle(&short));
        huge.extend(long);
        small.extend(short);
    }
    let detail = format!(
        "{} rounds each, from the end of the intake; {:.1} us longer; {}; of 64 GiB: {}",
        huge.len(),
        (middle(&huge) - middle(&small)) * 1e6,
        latencies(&huge),
        latencies(&small),
    );
    let goal = most.map(Goal::AtMost);
    Figure { goal, ..Figure::new(name, median(ratios), Unit::Times, detail) }
}

/// The median in seconds.
fn middle(times: &[Duration]) -> f64 {
    median(times.iter().map(Duration::as_secs_f64).collect())
}

/// Percentiles.
fn latencies(times: &[Duration]) -> String {
    let mut histogram = Histogram::<u64>::new(3).expect("three digits");
    for time in times {
        histogram.record(time.as_nanos() as u64).expect("a histogram that grows");
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    let max = histogram.max() as f64 / 1e3;
    format!("p50 {:.1} us, p99 {:.1}, p99.9 {:.1}, max {max:.1}", at(0.5), at(0.99), at(0.999))
}

/// The intake of a log with so many bits set in a million, against reading as many bytes as the
/// intake reads and writes.
fn intake(setup: &Setup, harness: &mut Harness<'_>) -> Vec<Figure> {
    let shares = [("sparse", 100), ("dense", 50_000)];
    let mut figures: Vec<_> = shares.map(|(name, ppm)| intake_of(setup, harness, name, ppm)).into();
    let worst = figures.iter().min_by(|a, b| a.value.total_cmp(&b.value)).cloned();
    let worst = worst.map(|worst| Figure {
        goal: Some(Goal::AtLeast(0.8)),
        detail: format!("the worst of both: {}", worst.name),
        name: "intake".to_owned(),
        ..worst
    });
    for (figure, least) in figures.iter_mut().zip([0.85, 0.8]) {
        figure.goal = Some(Goal::AtLeast(least));
    }
    worst.into_iter().chain(figures).collect()
}

fn intake_of(setup: &Setup, harness: &mut Harness<'_>, name: &str, ppm: u64) -> Figure {
    let words = dirty_words(harness.guest().pfns(), ppm);
    let lines = words.chunks(8).filter(|line| line.iter().any(|&word| word != 0)).count();
    // A line that is written is read first.
    let bytes = (words.len() * 8) as f64 + 2.0 * LINE_BYTES * lines as f64;
    let log = (words.len() * 8) as f64;
    let shares = (0..BLOCKS).map(|_| {
        let floor = read_words(setup, &words).as_secs_f64() / log * bytes;
        let (once, again) = (harness.intake(&words), harness.intake(&words));
        2.0 * floor / (once + again).as_secs_f64()
    });
    let value = median(shares.collect());
    let detail = format!("{} % of the bits set, {lines} lines written", ppm as f64 / 1e4);
    let name = format!("intake.{name}");
    Figure { floor: Some(value), ..Figure::new(name, value, Unit::Share, detail) }
}

/// Words with so many scattered bits in a million set.
fn dirty_words(pfns: u64, ppm: u64) -> Vec<u64> {
    let mut words = vec![0; (pfns / 64) as usize];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..pfns / 1_000_000 * ppm + pfns % 1_000_000 * ppm / 1_000_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let pfn = state % pfns;
        words[(pfn / 64) as usize] |= 1 << (pfn % 64);
    }
    words
}

/// The peak of memory since [`forget_peak`].
fn peak() -> Option<Figure> {
    let detail = "a whole migration, guest, machine and destination included".to_owned();
    let figure = Figure::new("memory.peak", peak_bytes()? as f64, Unit::Bytes, detail);
    Some(Figure { goal: Some(Goal::AtMost((20_u64 << 30) as f64)), ..figure })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_as_many_as_were_asked_for() {
        let set =
            |ppm| dirty_words(1 << 22, ppm).iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
        assert!(set(100).abs_diff(419) < 20 && set(50_000).abs_diff(204_600) < 8_000);
    }

    #[test]
    fn latencies_are_in_order() {
        let times: Vec<_> = (1..=1000).map(Duration::from_micros).collect();
        assert_eq!(latencies(&times), "p50 500.2 us, p99 990.2, p99.9 999.4, max 1000.4");
    }
}
