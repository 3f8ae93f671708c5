// SPDX-License-Identifier: MIT OR Apache-2.0
//! One hostile structure, walked by the engine and compared with the machine's own walk: no pages
//! are sent.
//! Not here: whole migrations (`drive`).
//! Units: positions of the p2m.
//! Threads: one.
//! Source: `docs/design.md`, law 6; `judge` has a second implementation of the geometry.

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

/// Observations of one structure: the first one walks from scratch, the others from the walk
/// before.
const ROUNDS: u64 = 3;

impl Machine<'_> {
    /// From now on the guest does not act and no port fails.
    #[must_use]
    pub fn still(self) -> Self {
        {
            let st = &mut *self.state();
            let never = Beat { period: 0, left: 0 };
            (st.meddles, st.fails, st.breaks, st.lies) = (never, never, never, never);
        }
        self
    }

    /// Limits the pfns that the engine can follow to `pfns` (below 2^40). A p2m of 2^27 pfns is
    /// allowed, but a walk takes milliseconds, and an observer owes each pfn once, which takes
    /// seconds. A fuzzer would spend all its time there.
    #[must_use]
    pub fn no_farther_than(self, pfns: u64) -> Self {
        self.state().size_limit = pfns;
        self
    }

    /// The guest writes arbitrary roots and slots.
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

/// Walks a machine at rest some times, and changes its structure before each walk. Returns the kind
/// of the error that ended it, if one did.
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

/// Each listed position has the leaf that the machine's own walk finds there, and tracked positions
/// end within the limit.
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
