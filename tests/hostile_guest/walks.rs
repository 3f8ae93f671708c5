// SPDX-License-Identifier: MIT OR Apache-2.0
//! One hostile structure, walked and held against the machine's own idea of it: no pages are sent.
//! Not here: whole migrations (`drive`).
//! Units: positions of the p2m.
//! Threads: one.
//! Source: `docs/design.md`, law 6; the geometry is written down a second time in `judge`.

use std::collections::BTreeSet;

use p2mtrack::config::{Config, Rewalk};
use p2mtrack::error::Error;
use p2mtrack::frame::{LeafIndex, Mfn};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::monitor::Monitor;
use p2mtrack::tracker::Tracker;

use super::drive::named;
use super::{Beat, FRAMES, Machine};

/// Observations of one structure: the first one walks from nothing, the others from what it left.
const ROUNDS: u64 = 3;

impl Machine<'_> {
    /// Nothing happens any more but what is asked for, and no port fails.
    #[must_use]
    pub fn still(self) -> Self {
        {
            let st = &mut *self.state();
            let never = Beat { period: 0, left: 0 };
            (st.meddles, st.fails, st.breaks, st.lies) = (never, never, never, never);
        }
        self
    }

    /// Pfns that the engine can follow end at `pfns` (below 2^40): a p2m of 2^27 pfns is rightly
    /// followed, but takes milliseconds, and an observer owes each of them once, which takes
    /// seconds. A fuzzer would do nothing else.
    #[must_use]
    pub fn no_farther_than(self, pfns: u64) -> Self {
        self.state().reach = pfns;
        self
    }

    /// The guest writes roots and slots as it likes.
    fn twist(&self) {
        let st = &mut *self.state();
        for _ in 0..st.choices.below(8) {
            if st.choices.once_in(3) {
                self.twist_roots(st);
            } else {
                self.twist_slot(st);
            }
        }
    }
}

/// Walks a still machine some times, its structure twisted before each. Returns the kind of the
/// error that ended it, if one did.
///
/// # Panics
/// If the walk found another leaf than the machine has, or left something mapped.
pub fn walk(machine: &Machine<'_>) -> Option<&'static str> {
    let config = Config { rewalk: Rewalk::EveryRound, ..Config::default() };
    let mut monitor = Monitor::new(config, machine.temper.width).ok()?;
    let mut ended = None;
    machine.with_ports(|ports| ports.log_dirty.enable()).ok()?;
    for _ in 0..ROUNDS {
        machine.twist();
        let seen = machine
            .with_ports(|ports| monitor.observe(&mut ports.guest, ports.log_dirty, |_, _| ()));
        match seen {
            Ok(report) if !report.p2m_unreadable => expect_leaves(machine, monitor.tracker()),
            Ok(_) => {}
            Err(error) => ended = Some(name(&error, machine)),
        }
    }
    machine.with_ports(|ports| monitor.release(ports.guest.p2m));
    machine.expect_unmapped();
    ended
}

fn name(error: &Error, machine: &Machine<'_>) -> &'static str {
    let name = named(error, machine);
    assert!(["roots", "structure", "p2m-size", "uncertainty"].contains(&name), "{error}");
    name
}

/// Each listed position has the leaf that the machine's own walk finds there, and tracked ones end
/// where they may.
fn expect_leaves(machine: &Machine<'_>, tracker: &Tracker) {
    let st = &*machine.state();
    let width = machine.temper.width;
    let found = tracker.leaf_frames();
    assert!(tracker.pfns() <= st.roots.pfn_count);
    let mut untracked = BTreeSet::new();
    for position in 0..(found.len() as u64 + 1).min(width.leaves(st.roots.pfn_count)).min(2048) {
        let there = machine.named_leaf(st, position).map(Mfn);
        let listed = found.get(position as usize).copied().filter(|&mfn| mfn != Mfn(u64::MAX));
        assert_eq!(listed, there, "position {position:#x}");
        if width.first_pfn(LeafIndex(position)).0 >= tracker.pfns() {
            untracked.extend(there);
        }
    }
    // What is not tracked names nothing that could be a frame.
    for leaf in untracked.into_iter().filter(|leaf| leaf.0 < FRAMES) {
        let mut copy = Leaf::default();
        GuestLeaf::from_atomics(machine.words(leaf.0)).fetch(&mut copy);
        let named = copy.entries(width).find(|entry| entry.names_frame(width, FRAMES));
        assert_eq!(named, None, "{leaf} is not tracked");
    }
}
