// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads all of a live guest's p2m without any tracker code: every table, every leaf, every entry.
//! Not here: comparing it (`check`).
//! Units: entries are pfns' words, widened; all ones where there is none.
//! Threads: one.
//! Source: own; geometry of list and tree: `xen-save-path.md` 2.3. Frames come through the same
//! foreign maps.

use std::collections::HashMap;

use p2mtrack::frame::{Mfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{P2mSource, Roots};
use p2mtrack_trace::NONE;

/// Attempts when the guest changes its p2m meanwhile.
const TRIES: u32 = 20;
/// Leaves that are mapped at once.
const LEAVES: usize = 512;
/// A PTE of a large page.
const PSE: u64 = 1 << 7;
/// Bounds of the pfns that are read: at least, however few frames the guest holds, and at most,
/// however many.
const PFNS: std::ops::Range<u64> = 1 << 22..1 << 27;

/// A p2m at about one moment: the guest runs while it is read.
pub(super) struct FullCopy {
    pub(super) pfn_count: u64,
    pub(super) entries: Vec<u64>,
}

/// Reads it; `None` if the guest changes the structure during every attempt. A guest may claim any
/// count of pfns: nothing is read beyond what the engine tracks and 16 for each of its frames
/// (Linux allows for ten).
pub(super) fn read(p2m: &mut dyn P2mSource, tracked: u64) -> Option<FullCopy> {
    let frames = p2m.domain_frames().ok()?;
    let bound = frames.saturating_mul(16).clamp(PFNS.start, PFNS.end).max(tracked);
    for _ in 0..TRIES {
        let before = p2m.roots().ok()?;
        // Only the list has a generation; a tree's means nothing.
        if before.p2m_cr3 != 0 && before.generation % 2 == 1 {
            continue;
        }
        let pfn_count = before.pfn_count.min(bound);
        let frames = Walk { p2m: &mut *p2m, tables: HashMap::new() }.frames(&before, pfn_count);
        let after = p2m.roots().ok()?;
        if let Some(frames) = frames.filter(|_| before == after)
            && let Some(entries) = entries(p2m, &frames)
        {
            return Some(FullCopy { pfn_count, entries });
        }
    }
    None
}

/// A walk over upper frames, each read once.
struct Walk<'a> {
    p2m: &'a mut dyn P2mSource,
    tables: HashMap<u64, Leaf>,
}

impl Walk<'_> {
    /// The frame of each leaf; all ones where the p2m has none.
    fn frames(&mut self, roots: &Roots, pfn_count: u64) -> Option<Vec<u64>> {
        let width = self.p2m.width();
        let leaves = pfn_count.div_ceil(width.entries() as u64);
        let step = |number| {
            if roots.p2m_cr3 != 0 {
                self.listed(width, roots, number)
            } else {
                self.in_tree(width, roots, number)
            }
        };
        (0..leaves).map(step).collect()
    }

    /// Through the guest's page tables, from the root down.
    fn listed(&mut self, width: Width, roots: &Roots, number: u64) -> Option<u64> {
        let (mut mfn, levels) = match width {
            Width::W64 => (roots.p2m_cr3 >> 12, 4),
            Width::W32 => ((roots.p2m_cr3 >> 12 | roots.p2m_cr3 << 20) & 0xffff_ffff, 3),
        };
        let address = roots.p2m_vaddr.wrapping_add(number * 4096);
        for level in (0..levels).rev() {
            let slot = address >> (12 + 9 * level) & 511;
            let entry = self.table(mfn)?.words[slot as usize];
            if entry & 1 == 0 {
                return Some(NONE);
            }
            if level > 0 && entry & PSE != 0 {
                return None; // a large page names no table
            }
            mfn = entry >> 12 & ((1 << 40) - 1);
        }
        Some(mfn)
    }

    /// Through top and mid frame.
    fn in_tree(&mut self, width: Width, roots: &Roots, number: u64) -> Option<u64> {
        let slots = width.entries() as u64;
        // A slot that names nothing is 0, or all ones in the guest's width.
        let slot = |table: &Leaf, slot: u64| match width {
            Width::W64 => Some(table.words[slot as usize]).filter(|&mfn| mfn != 0 && mfn != NONE),
            Width::W32 => Some(table.words[slot as usize / 2] >> (32 * (slot % 2)) & 0xffff_ffff)
                .filter(|&mfn| mfn != 0 && mfn != 0xffff_ffff),
        };
        if number / slots >= slots {
            return Some(NONE); // past what a tree can cover
        }
        let Some(mid) = slot(self.table(roots.frame_list_list)?, number / slots) else {
            return Some(NONE);
        };
        Some(slot(self.table(mid)?, number % slots).unwrap_or(NONE))
    }

    fn table(&mut self, mfn: u64) -> Option<&Leaf> {
        if !self.tables.contains_key(&mfn) {
            let mut copy = Leaf::default();
            self.p2m.read(Mfn(mfn), &mut copy).ok()?;
            self.tables.insert(mfn, copy);
        }
        self.tables.get(&mfn)
    }
}

/// Every entry; `None` if a leaf can't be mapped any more.
fn entries(p2m: &mut dyn P2mSource, frames: &[u64]) -> Option<Vec<u64>> {
    let width = p2m.width();
    let mut entries = Vec::with_capacity(frames.len() * width.entries());
    for chunk in frames.chunks(LEAVES) {
        let present: Vec<Mfn> =
            chunk.iter().filter(|&&mfn| mfn != NONE).map(|&mfn| Mfn(mfn)).collect();
        let mut answers = Vec::new();
        p2m.map(&present, &mut answers);
        let slots: Vec<_> = answers.iter().filter_map(|answer| answer.ok()).collect();
        let complete = slots.len() == present.len();
        let mut held = slots.iter();
        for &mfn in chunk.iter().filter(|_| complete) {
            let mut copy = Leaf::HOLE;
            if mfn != NONE
                && let Some(&slot) = held.next()
            {
                p2m.live(slot).fetch(&mut copy);
            }
            entries.extend(copy.entries(width).map(|entry| entry.0));
        }
        p2m.unmap(&slots);
        if !complete {
            return None;
        }
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack::cause::CauseSet;
    use p2mtrack::config::Config;
    use p2mtrack::frame::Pfn;
    use p2mtrack::monitor::Monitor;
    use p2mtrack::port::{LogDirty, M2p};
    use p2mtrack::report::RoundReport;
    use p2mtrack_synthetic::{P2mKind, Scenario, SimConfig, SimPorts, Simulation};

    use crate::check::Check;
    use crate::findings::Owed;

    #[test]
    fn it_reads_the_same_entries_as_the_engine() {
        for width in [Width::W32, Width::W64] {
            for kind in [P2mKind::Linear, P2mKind::Tree] {
                let plain = SimConfig::plain(Scenario::Balloon, 3, 32 << 20);
                let simulation = Simulation::new(&SimConfig { width, p2m: Some(kind), ..plain });
                simulation.pause(true);
                let mut ports = simulation.ports();
                let full = read(&mut ports.p2m, 0).expect("the guest is paused");
                let mut monitor = Monitor::new(Config::default(), width).expect("a monitor");
                observe(&mut monitor, &mut ports, |_, _| ());
                let tracker = monitor.tracker();
                assert!(tracker.pfns() > 0 && full.pfn_count >= tracker.pfns());
                for pfn in 0..tracker.pfns() {
                    let engine = tracker.shadow_entry(Pfn(pfn)).0;
                    assert_eq!(full.entries[pfn as usize], engine, "{width:?} {kind:?} {pfn:#x}");
                }
                monitor.release(&mut ports.p2m);
            }
        }
    }

    fn observe(
        monitor: &mut Monitor,
        ports: &mut SimPorts,
        each: impl FnMut(Pfn, CauseSet),
    ) -> RoundReport {
        let mut observer = ();
        let mut lent = ports.lend(&mut observer);
        monitor.observe(&mut lent.guest, lent.log_dirty, each).expect("an honest guest")
    }

    /// What the check counts as missed of a running guest. Without `all` it gets only 15 of 16 owed
    /// pfns.
    fn missed(config: &SimConfig, all: bool) -> u64 {
        let simulation = Simulation::new(config);
        let mut ports = simulation.ports();
        ports.log_dirty.enable().expect("on");
        let mut monitor = Monitor::new(Config::default(), config.width).expect("a monitor");
        let mut check = Check::new(config.width, ports.m2p.frames(), true);
        for _ in 0..ROUNDS {
            let mut owed = Owed::default();
            let hear = |pfn: Pfn, causes| {
                if all || !pfn.0.is_multiple_of(16) {
                    owed.add(pfn, causes);
                }
            };
            let report = observe(&mut monitor, &mut ports, hear);
            let tracker = monitor.tracker();
            match read(&mut ports.p2m, tracker.pfns()).filter(|_| !report.p2m_unreadable) {
                Some(full) => check.round(&full.entries, full.pfn_count, &owed.pfns, tracker),
                None => check.skip(&owed.pfns, tracker),
            }
            simulation.run_guest(100);
        }
        monitor.release(&mut ports.p2m);
        check.missed()
    }

    const ROUNDS: u64 = 8;

    #[test]
    fn nothing_is_missed_of_honest_running_guests() {
        for scenario in Scenario::ALL.into_iter().filter(|scenario| !scenario.is_hostile()) {
            for (seed, width) in [(1, Width::W32), (2, Width::W64), (3, Width::W64)] {
                let config = SimConfig { width, ..SimConfig::plain(scenario, seed, 12 << 20) };
                assert_eq!(missed(&config, true), 0, "{}", config.options());
                assert!(missed(&config, false) > 0, "{}", config.options());
            }
        }
    }
}
