// SPDX-License-Identifier: MIT OR Apache-2.0
//! `table.normalise`: page tables made for the destination, by the engine's view.
//! Not here: where they are read, or sent.
//! Units: shares of the speed of a plain loop over the same PTEs: m2p, p2m, compare.
//! Threads: one.
//! Source: full level 1 tables, whose PTEs name frames in runs or at random, as the p2m does.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use p2mtrack::config::Config;
use p2mtrack::frame::{FRAME_BYTES, Pfn, Width};
use p2mtrack::leaf::{FRAME_WORDS, Leaf};
use p2mtrack::port::{Answer, Guest, Ports};
use p2mtrack::report::Stage;
use p2mtrack::table::{self, PTE_FRAME, TableCopy, TableView, pte_mfn};
use p2mtrack::tracker::Tracker;

use crate::ab_run::{AbRun, WallClock};
use crate::figure::{Figure, Goal, Unit};
use crate::plain::{Order, PlainGuest, PlainPorts};
use crate::setup::Setup;

const OURS: &str = "p2mtrack";
const LOOP: &str = "loop";
/// The same while the guest runs: its live entries are read too.
const LIVE: &str = "live";
/// By the view, PTE by PTE.
const SINGLE: &str = "single-ptes";

/// The largest guest: its p2m and m2p are several times any cache of today.
const GUEST_BYTES_MAX: u64 = 16 << 30;
/// Tables of a pass, and of one call.
const TABLES: usize = 2048;
const BATCH_TABLES: usize = 1024;

/// Measures.
#[must_use]
pub fn run(setup: &Setup) -> Vec<Figure> {
    let pfns = setup.guest_bytes.min(GUEST_BYTES_MAX) / FRAME_BYTES as u64;
    let pfns = 1 << pfns.max(1 << 18).ilog2();
    vec![
        normalise("table.normalise.runs", pfns, Order::Runs, 0.7),
        normalise("table.normalise.random", pfns, Order::Random, 0.9),
    ]
}

fn normalise(name: &str, pfns: u64, order: Order, goal: f64) -> Figure {
    let guest = PlainGuest::new(pfns, order);
    let (mut ports, mut live_ports) = (PlainPorts::new(&guest), PlainPorts::new(&guest));
    let (suspended, live) = (tracker(&mut ports, true), tracker(&mut live_ports, false));
    let (mut nobody, mut nobody_else) = ((), ());
    let Ports { guest: mut lent, .. } = ports.lend(&mut nobody);
    let Ports { guest: mut live_lent, .. } = live_ports.lend(&mut nobody_else);
    let view = suspended.view(&mut lent);
    let live = live.view(&mut live_lent);
    let tables: Vec<_> = (0..TABLES as u64).map(|number| table(&guest, number)).collect();
    let expected = tables.iter().fold(0, |sum, table| sum + plain_sum(&guest, table));
    let copies = RefCell::new(tables.clone());
    let prepare = || copies.borrow_mut().clone_from_slice(&tables);
    let sum = |tables: &[TableCopy]| tables.iter().fold(0, |sum, table| sum + spot(&table.words));
    let by = |view: &dyn TableView| {
        let mut copies = copies.borrow_mut();
        copies.chunks_mut(BATCH_TABLES).for_each(|batch| view.normalise_all(batch));
        assert_eq!(copies.iter().find_map(|table| table.fault), None);
        sum(&copies)
    };
    let ours = || by(&view);
    let live = || by(&live);
    let plain = || {
        let mut copies = copies.borrow_mut();
        let good = copies.iter_mut().all(|table| plain(&guest, &mut table.words));
        assert!(good, "all PTEs are good");
        sum(&copies)
    };
    let single = || {
        let mut copies = copies.borrow_mut();
        for copy in copies.iter_mut() {
            let done =
                table::normalise(copy.pfn, copy.level, &mut copy.words, &view as &dyn TableView);
            done.expect("all PTEs are good");
        }
        sum(&copies)
    };
    let times = AbRun::default()
        .prepared(OURS, expected, prepare, ours)
        .prepared(LOOP, expected, prepare, plain)
        .prepared(LIVE, expected, prepare, live)
        .prepared(SINGLE, expected, prepare, single)
        .run(&WallClock::default());
    let value = times.speed(OURS, LOOP);
    let detail = format!("{TABLES} full tables of a guest of {} MiB", pfns / 256);
    Figure {
        goal: Some(Goal::AtLeast(goal)),
        floor: Some(value),
        peers: [LIVE, SINGLE].map(|peer| (peer.to_owned(), times.speed(OURS, peer))).into(),
        ..Figure::new(name, value, Unit::Share, detail)
    }
}

/// A tracker after its first copy; of a suspended guest with a batch in flight.
fn tracker(ports: &mut PlainPorts<'_>, suspended: bool) -> Tracker {
    let mut nobody = ();
    let Ports { mut guest, .. } = ports.lend(&mut nobody);
    let mut tracker = Tracker::new(Config::default(), Width::W64).expect("starts");
    begin(&mut tracker, &mut guest, Stage::Live);
    loop {
        let pages = tracker.take(&mut guest).expect("the guest does nothing").len();
        if tracker.frame_list_changed() {
            tracker.frame_list_sent();
        }
        if pages == 0 {
            break;
        }
        let answers = (0..pages).map(|_| Answer::Accepted);
        tracker.answer(&mut guest, answers).expect("accepted");
    }
    tracker.end(&mut guest).expect("the guest does nothing");
    if suspended {
        begin(&mut tracker, &mut guest, Stage::Checkpoint);
        let pages = tracker.take(&mut guest).expect("the guest does nothing");
        assert!(!pages.is_empty(), "a pfn is written without a mark");
    }
    tracker
}

fn begin(tracker: &mut Tracker, guest: &mut Guest<'_>, stage: Stage) {
    let pfns = tracker.begin(guest, stage).expect("the guest does nothing").pfns();
    tracker.scan(guest, pfns).expect("the guest does nothing");
}

/// A level 1 table over 512 pfns that follow one another from a random place on, or over any.
fn table(guest: &PlainGuest, number: u64) -> TableCopy {
    let mixed = |number: u64| (number.wrapping_mul(0xd134_2543_de82_ef95) >> 20) % guest.pfns();
    let mut words = Leaf::default();
    for (word, slot) in words.words.iter_mut().zip(0..) {
        let pfn = match guest.order() {
            Order::Runs => mixed(number) / 512 * 512 + slot,
            Order::Random => mixed(number * 512 + slot),
        };
        *word = guest.frame(pfn).0 << 12 | 0x67;
    }
    TableCopy::new(Pfn(number), 1, words)
}

/// The plain loop over a table.
fn plain(guest: &PlainGuest, table: &mut Leaf) -> bool {
    let (m2p, p2m) = (guest.m2p(), guest.p2m());
    let mut good = true;
    for pte in &mut table.words {
        if *pte & 1 == 0 {
            continue;
        }
        let mfn = pte_mfn(*pte).0;
        // ORDER: each word by itself
        let pfn = m2p[mfn as usize].load(Ordering::Relaxed);
        let entry = &p2m.frame(pfn as usize / FRAME_WORDS)[pfn as usize % FRAME_WORDS];
        good &= entry.load(Ordering::Relaxed) == mfn;
        *pte = *pte & !PTE_FRAME | pfn << 12 & PTE_FRAME;
    }
    good
}

/// A few words of a table: reading all of them would be timed.
fn spot(words: &Leaf) -> u64 {
    words.words[7] >> 12 ^ words.words[500] >> 12
}

/// The same of a table that is normalised by the plain loop.
fn plain_sum(guest: &PlainGuest, table: &TableCopy) -> u64 {
    let mut words = table.words.clone();
    assert!(plain(guest, &mut words), "a table of the guest's own frames");
    spot(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_make_the_same_tables() {
        let orders = [Order::Runs, Order::Random];
        for (order, suspended) in orders.into_iter().flat_map(|o| [(o, false), (o, true)]) {
            let guest = PlainGuest::new(1 << 18, order);
            let mut ports = PlainPorts::new(&guest);
            let (tracker, mut nobody) = (tracker(&mut ports, suspended), ());
            let Ports { guest: mut lent, .. } = ports.lend(&mut nobody);
            let view = tracker.view(&mut lent);
            let mut ours: Vec<_> = (0..40).map(|number| table(&guest, number)).collect();
            let mut theirs = ours.clone();
            view.normalise_all(&mut ours);
            for (our, their) in ours.iter().zip(&mut theirs) {
                assert!(plain(&guest, &mut their.words));
                assert_eq!(our.fault, None);
                assert_eq!(our.words.words, their.words.words);
            }
        }
    }

    /// Whatever is wrong with one PTE of a table: as if it was looked at PTE by PTE.
    #[test]
    fn one_bad_pte_is_found_wherever_it_is() {
        let guest = PlainGuest::new(1 << 18, Order::Runs);
        let mut ports = PlainPorts::new(&guest);
        let (tracker, mut nobody) = (tracker(&mut ports, false), ());
        let Ports { guest: mut lent, .. } = ports.lend(&mut nobody);
        let view = tracker.view(&mut lent);
        let good = table(&guest, 5);
        let changes: [fn(u64) -> u64; 7] = [
            |pte| pte + (1 << 12),         // the frame of another pfn
            |pte| pte & 0xfff,             // no pfn has it
            |pte| pte & !1,                // not present
            |pte| pte ^ 0x40,              // another flag
            |pte| pte | 0x000f_ffff << 32, // past the machine
            |pte| pte | 1 << 63,           // no execute
            |_| 0,
        ];
        for (slot, level) in [(0, 1), (1, 1), (300, 1), (511, 1), (260, 4), (255, 4)] {
            for change in changes {
                let mut one = TableCopy::new(good.pfn, level, good.words.clone());
                one.words.words[slot] = change(one.words.words[slot]);
                let mut at_once = [one.clone()];
                let fault =
                    table::normalise(one.pfn, level, &mut one.words, &view as &dyn TableView);
                view.normalise_all(&mut at_once);
                assert_eq!(at_once[0].fault, fault.err(), "slot {slot}");
                let is_same = at_once[0].words.words == one.words.words;
                assert!(is_same || at_once[0].fault.is_some(), "slot {slot}");
            }
        }
        // The p2m or the m2p says something else.
        let pfn = guest.pfn_of(pte_mfn(good.words.words[77]));
        let spot = guest.p2m().frame((pfn / 512) as usize);
        for word in
            [&spot[(pfn % 512) as usize], &guest.m2p()[pte_mfn(good.words.words[77]).0 as usize]]
        {
            let before = word.swap(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            let mut at_once = [good.clone()];
            view.normalise_all(&mut at_once);
            assert_eq!(at_once[0].fault.map(|fault| fault.slot), Some(77));
            word.store(before, Ordering::Relaxed); // ORDER: one thread
        }
    }
}
