// SPDX-License-Identifier: MIT OR Apache-2.0
//! A naive live migration; the guest does not run during a round. It shows that the marks of the
//! simulated Xen suffice for a tracker that keeps all the rules, and that each rule is needed in
//! some scenario.

use std::collections::{BTreeMap, BTreeSet};

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Entry, Mfn, Pfn, Width};
use p2mtrack::port::{
    FrameList, LOG_DIRTY_LEAF_PFNS, LogBuffer, LogDirty, M2p, Page, Transfer, Transport, Unlogged,
};
use p2mtrack::table::{Resolved, TableView};
use p2mtrack_synthetic::snapshot::SourceFrame;
use p2mtrack_synthetic::{Scenario, SimConfig, SimPorts, Simulation, Verdict};

/// The rules, each of which can be left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// Changed entries are owed.
    Entries,
    /// Unlogged writers are read again at the end.
    Unlogged,
    /// Equal entries of dirty leaves are owed while transfers are accepted.
    Transfers,
    /// What the transfer entries of the grant table name is owed.
    TransferEntries,
    /// Frames whose m2p names another pfn are owed again.
    Shared,
    /// Page tables are owed again once frames have moved.
    Tables,
    /// Pfns without a frame are reported as gone.
    Gone,
    /// The frame list is sent again.
    List,
    /// Log-dirty is read.
    LogDirty,
}

struct View {
    width: Width,
    pfns: BTreeMap<u64, u64>,
}

impl TableView for View {
    fn width(&self) -> Width {
        self.width
    }
    fn resolve(&self, _: Pfn, mfn: Mfn) -> Resolved {
        self.pfns.get(&mfn.0).map_or(Resolved::Unresolved, |&pfn| Resolved::Pfn(Pfn(pfn)))
    }
    fn is_compat_m2p(&self, _: Mfn) -> bool {
        false
    }
}

struct Naive {
    simulation: Simulation,
    ports: SimPorts,
    without: Option<Rule>,
    sent: BTreeMap<u64, u64>,
    deferred: BTreeSet<u64>,
    /// What transfer entries named at the last query.
    named: BTreeSet<Pfn>,
    /// The most pfns that the guest ever had.
    pfns: u64,
    listed: bool,
    first: bool,
    width: Width,
}

/// An unoptimised build is twenty times slower.
const SEEDS: u64 = if cfg!(debug_assertions) { 5 } else { 100 };

impl Naive {
    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// A live round: the guest may run when the grant table is queried, and is paused after that.
    fn live_round(&mut self) {
        let accepts = self.ports.unlogged.accepts_transfer().expect("no faults");
        self.simulation.pause(true);
        self.round(accepts, false);
        self.simulation.pause(false);
    }

    fn last_round(&mut self) {
        let accepts = self.ports.unlogged.accepts_transfer().expect("no faults");
        self.round(accepts, true);
    }

    fn round(&mut self, accepts: bool, last: bool) {
        let snapshot = self.simulation.snapshot();
        self.pfns = self.pfns.max(snapshot.pfn_count());
        let mut bits = PfnBitmap::new(self.pfns.next_multiple_of(LOG_DIRTY_LEAF_PFNS));
        self.ports.log_dirty.clean(LogBuffer::over(&mut bits)).expect("no faults");
        let named = self.named_by_transfers();
        let mut unlogged = Vec::new();
        if last && self.keeps(Rule::Unlogged) {
            self.ports.unlogged.pfns(&mut unlogged).expect("no faults");
        }
        let frames = self.simulation.source_frames();
        if self.keeps(Rule::List) || !self.listed {
            let (pfn_count, leaves) = (snapshot.pfn_count(), snapshot.list());
            let list = FrameList { width: self.width, pfn_count, leaves };
            self.ports.transport.frame_list(list).expect("no faults");
            self.listed = true;
        }
        let in_dirty_leaf = |pfn: Pfn| {
            let leaf = snapshot.list().get(self.width.leaf_of(pfn).0 as usize).copied().flatten();
            leaf.is_some_and(|leaf| bits.get(leaf))
        };
        let m2p = self.ports.m2p.clone();
        let is_its_own = |frame: &SourceFrame| m2p.pfn(frame.mfn) == Some(frame.pfn);
        let owed = |frame: &&SourceFrame| {
            let before = self.sent.get(&frame.pfn.0);
            self.first
                || before != Some(&frame.mfn.0) && self.keeps(Rule::Entries)
                || bits.get(frame.pfn) && self.keeps(Rule::LogDirty)
                || self.deferred.contains(&frame.pfn.0)
                || unlogged.contains(&frame.pfn)
                || named.contains(&frame.pfn)
                || !is_its_own(frame) && self.keeps(Rule::Shared)
                || accepts && in_dirty_leaf(frame.pfn) && self.keeps(Rule::Transfers)
                || frame.kind.is_table() && self.keeps(Rule::Tables)
        };
        let pages: Vec<Page> = frames
            .iter()
            .filter(owed)
            .map(|f| Page { pfn: f.pfn, mfn: f.mfn, entry: Entry::frame(f.mfn), kind: f.kind })
            .collect();
        self.first = false;
        let held: BTreeSet<Pfn> = frames.iter().map(|frame| frame.pfn).collect();
        let own = frames.iter().filter(|frame| is_its_own(frame));
        let pfns = own.map(|frame| (frame.mfn.0, frame.pfn.0)).collect();
        self.send(&pages, &View { width: self.width, pfns }, last);
        if self.keeps(Rule::Entries) {
            self.sent.retain(|pfn, _| held.contains(&Pfn(*pfn)));
        }
        // A pfn with a mark and no frame at the moment is tried again.
        self.deferred.extend(bits.iter().filter(|pfn| !held.contains(pfn)).map(|pfn| pfn.0));
        if last && self.keeps(Rule::Gone) {
            let gone: Vec<Pfn> =
                (0..self.pfns).map(Pfn).filter(|pfn| !held.contains(pfn)).collect();
            self.ports.transport.gone(&gone).expect("no faults");
        }
    }

    /// The pfns that transfer entries name, by themselves or by a frame, and those that they named
    /// before: a frame may have come since.
    fn named_by_transfers(&mut self) -> BTreeSet<Pfn> {
        let mut transfers = Vec::new();
        self.ports.unlogged.transfers(&mut transfers).expect("no faults");
        let pfn = |transfer| match transfer {
            Transfer::Into(pfn) => Some(pfn),
            Transfer::Came(mfn) => self.ports.m2p.pfn(mfn),
        };
        let now: BTreeSet<Pfn> = transfers.into_iter().filter_map(pfn).collect();
        let before = std::mem::replace(&mut self.named, now.clone());
        if self.keeps(Rule::TransferEntries) { &now | &before } else { BTreeSet::new() }
    }

    fn send(&mut self, pages: &[Page], view: &View, last: bool) {
        for batch in pages.chunks(1024) {
            let mut answers = Vec::new();
            // The guest does not run during a naive round.
            self.ports.transport.send(batch, view, &mut answers).expect("no faults");
            for (page, answer) in batch.iter().zip(&answers) {
                if matches!(answer, p2mtrack::port::Answer::Accepted) {
                    self.sent.insert(page.pfn.0, page.mfn.0);
                    self.deferred.remove(&page.pfn.0);
                } else {
                    assert!(!last, "{page:?} {answer:?}");
                    self.deferred.insert(page.pfn.0);
                }
            }
        }
    }
}

/// One migration, perhaps without a rule.
fn migrate(scenario: Scenario, seed: u64, without: Option<Rule>) -> Verdict {
    let width = if seed.is_multiple_of(2) { Width::W64 } else { Width::W32 };
    let config = SimConfig { width, ..SimConfig::plain(scenario, seed, 8 << 20) };
    let simulation = Simulation::new(&config);
    let ports = simulation.ports();
    let (sent, deferred) = (BTreeMap::new(), BTreeSet::new());
    let width = config.width;
    let named = BTreeSet::new();
    let (pfns, listed, first) = (0, false, true);
    let mut naive =
        Naive { simulation, ports, without, sent, deferred, named, pfns, listed, first, width };
    naive.ports.log_dirty.enable().expect("was off");
    let mut checkpoints = naive.simulation.checkpoints();
    loop {
        while !naive.simulation.wants_suspend() {
            naive.simulation.run_guest(seed * 37 % 700);
            naive.live_round();
        }
        naive.simulation.run_guest(seed % 97);
        naive.simulation.suspend();
        naive.last_round();
        let judgement = naive.simulation.judge();
        if judgement.verdict != Verdict::Identical {
            if without.is_none() {
                panic!("{scenario} {seed}: {judgement:#?}");
            }
            return judgement.verdict;
        }
        if checkpoints == 0 {
            return Verdict::Identical;
        }
        checkpoints -= 1;
        naive.simulation.resume();
    }
}

#[test]
fn with_all_rules_every_honest_scenario_is_identical() {
    let is_copied = |scenario: &Scenario| !scenario.is_hostile() || *scenario == Scenario::Alias;
    for scenario in Scenario::ALL.into_iter().filter(is_copied) {
        for seed in 1..SEEDS {
            migrate(scenario, seed, None);
        }
    }
}

#[test]
fn each_rule_is_needed() {
    for (rule, scenario, verdict) in [
        (Rule::LogDirty, Scenario::Writes, Verdict::Corrupt),
        (Rule::Entries, Scenario::Balloon, Verdict::Corrupt),
        (Rule::Entries, Scenario::Hotplug, Verdict::Corrupt),
        (Rule::Unlogged, Scenario::BackendWrites, Verdict::Corrupt),
        (Rule::Transfers, Scenario::Transfers, Verdict::Corrupt),
        (Rule::Shared, Scenario::M2pStale, Verdict::Corrupt),
        (Rule::TransferEntries, Scenario::Transfers, Verdict::Corrupt),
        (Rule::Tables, Scenario::FrameSwap, Verdict::Corrupt),
        (Rule::Gone, Scenario::Balloon, Verdict::Leaked),
        (Rule::Gone, Scenario::Shrink, Verdict::Leaked),
        (Rule::List, Scenario::LinearReshape, Verdict::Corrupt),
        (Rule::List, Scenario::TreeReshape, Verdict::Corrupt),
        (Rule::List, Scenario::LeafMoved, Verdict::Corrupt),
        (Rule::List, Scenario::Hotplug, Verdict::Corrupt),
    ] {
        let found = (1..120).any(|seed| {
            // With a list that never grows the receiver refuses pages: that counts as corrupt.
            std::panic::catch_unwind(|| migrate(scenario, seed, Some(rule)))
                .unwrap_or(Verdict::Corrupt)
                == verdict
        });
        assert!(found, "no seed of {scenario} needs {rule:?}");
    }
}
