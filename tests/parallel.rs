// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parallel round: shards compare live leaves while other threads, the guest's vCPUs, write
//! them.
//! Not here: reshaped p2ms (`simulation`, `hard_cases`); the structure of this guest does not
//! change.
//! Units: leaves of 512 entries, of which a few name frames; contents are numbers.
//! Threads: two writers beside 1, 2, 4 or 8 of the engine's; without locks, so that a race detector
//! sees all accesses.
//! Source: `docs/design.md`, "Completeness". Also run by Miri and by ThreadSanitizer, see
//! `tests/run`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::config::Config;
use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::{FRAME_WORDS, Leaf};
use p2mtrack::migration::Migration;
use p2mtrack::monitor::Monitor;
use p2mtrack::port::{
    Answer, FrameList, FrameTypes, Guest, LogBuffer, LogDirty, M2p, MapFault, MapSlot, Observer,
    P2mSource, Page, Phase, PortError, Ports, Roots, Transport, Unlogged,
};
use p2mtrack::table::TableView;

/// Eight shards of the minimum size; under Miri a shard may be smaller in proportion.
const LEAVES: u64 = if cfg!(miri) { 4 } else { 512 };
/// Slots of each leaf that the writers use.
const SLOTS: u64 = if cfg!(miri) { 2 } else { 16 };
const WRITERS: u64 = if cfg!(miri) { 1 } else { 2 };
/// The p2m's own frames: each leaf, the mid and the top frame.
const OWN_FRAMES: u64 = LEAVES + 2;
/// Frames of the machine: an unused one, the p2m's own, one per slot, and half as many spare ones.
const MACHINE: u64 = 1 + OWN_FRAMES + LEAVES * SLOTS * 3 / 2;
/// Minimum of live rounds, and of words written while leaves were compared.
const ROUNDS: usize = if cfg!(miri) { 2 } else { 6 };
const OVERLAPPING: u64 = if cfg!(miri) { 2 } else { 20_000 };
/// After so many rounds the writers count as stuck.
const ROUNDS_MAX: usize = 2_000;
const NO_PFN: u64 = u64::MAX;

type Words = Vec<[AtomicU64; FRAME_WORDS]>;

/// Frames, p2m and log of a guest. All atomics, each with the order that real hardware would give.
struct Machine {
    /// Words of the p2m's own frames: mfn 1 is leaf 0.
    words: Words,
    m2p: Vec<AtomicU64>,
    owned: Vec<AtomicBool>,
    content: Vec<AtomicU64>,
    log: Vec<AtomicU64>,
    stop: AtomicBool,
    /// The engine is comparing.
    comparing: AtomicBool,
    /// Entries written meanwhile.
    overlapping: AtomicU64,
}

fn leaf_mfn(leaf: u64) -> u64 {
    1 + leaf
}

/// The p2m's own frames have the last pfns of the leaves.
fn own_pfn(own: u64) -> u64 {
    own % LEAVES * 512 + 511 - own / LEAVES
}

impl Machine {
    fn new() -> Self {
        let filled = || std::array::from_fn(|_| AtomicU64::new(u64::MAX));
        let machine = Self {
            words: (0..OWN_FRAMES).map(|_| filled()).collect(),
            m2p: (0..MACHINE).map(|_| AtomicU64::new(NO_PFN)).collect(),
            owned: (0..MACHINE).map(|_| AtomicBool::new(false)).collect(),
            content: (0..MACHINE).map(|_| AtomicU64::new(0)).collect(),
            log: (0..(LEAVES * 512).div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            stop: AtomicBool::new(false),
            comparing: AtomicBool::new(false),
            overlapping: AtomicU64::new(0),
        };
        for own in 0..OWN_FRAMES {
            machine.give(leaf_mfn(own), own_pfn(own));
        }
        for own in 0..OWN_FRAMES {
            machine.set_entry(own_pfn(own), Entry(leaf_mfn(own)));
        }
        for leaf in 0..LEAVES {
            // ORDER: no thread runs yet; here and below.
            machine.words[LEAVES as usize][leaf as usize].store(leaf_mfn(leaf), Ordering::Relaxed);
        }
        machine.words[LEAVES as usize + 1][0].store(leaf_mfn(LEAVES), Ordering::Relaxed);
        machine
    }

    fn entry(&self, pfn: u64) -> Entry {
        // ORDER: a guest's words promise no more.
        Entry(self.words[(pfn / 512) as usize][(pfn % 512) as usize].load(Ordering::Relaxed))
    }

    fn pfn_of(&self, mfn: u64) -> u64 {
        self.m2p[mfn as usize].load(Ordering::Relaxed) // ORDER: as the guest's words
    }

    /// Marks the pfn of a frame that was written. After the write: if the log is taken between the
    /// two, the next log has the write.
    fn mark(&self, mfn: u64) {
        let pfn = self.pfn_of(mfn);
        // ORDER: Release for the Acquire in `clean`: a thread that sees the mark sees the write.
        self.log[(pfn / 64) as usize].fetch_or(1 << (pfn % 64), Ordering::Release);
    }

    fn set_entry(&self, pfn: u64, entry: Entry) {
        let words = &self.words[(pfn / 512) as usize];
        // ORDER: published by the mark
        words[(pfn % 512) as usize].store(entry.0, Ordering::Relaxed);
        self.mark(leaf_mfn(pfn / 512));
        // ORDER: Relaxed, so that these two order nothing: they only count.
        let comparing = self.comparing.load(Ordering::Relaxed);
        self.overlapping.fetch_add(u64::from(comparing), Ordering::Relaxed);
    }

    /// Xen allocates a frame.
    fn give(&self, mfn: u64, pfn: u64) {
        // ORDER: published by the entry's mark
        self.m2p[mfn as usize].store(pfn, Ordering::Relaxed);
        self.owned[mfn as usize].store(true, Ordering::Relaxed); // ORDER: the same
    }

    fn write(&self, mfn: u64, content: u64) {
        // ORDER: published by the mark
        self.content[mfn as usize].store(content, Ordering::Relaxed);
        self.mark(mfn);
    }

    fn balloon_in(&self, pfn: u64, mfn: u64, content: u64) {
        self.give(mfn, pfn);
        self.set_entry(pfn, Entry(mfn));
        self.write(mfn, content);
    }

    fn balloon_out(&self, pfn: u64) -> u64 {
        let mfn = self.entry(pfn).0;
        self.set_entry(pfn, Entry::INVALID);
        self.owned[mfn as usize].store(false, Ordering::Relaxed); // ORDER: queried each time
        self.m2p[mfn as usize].store(NO_PFN, Ordering::Relaxed); // ORDER: the same
        mfn
    }

    /// One vCPU: it has every `WRITERS`th pfn and a share of the spare frames.
    fn run_writer(&self, writer: u64) {
        let own: Vec<u64> = (0..LEAVES * SLOTS)
            .filter(|slot| slot % WRITERS == writer)
            .map(|slot| slot % LEAVES * 512 + slot / LEAVES)
            .collect();
        let frames = 1 + OWN_FRAMES..MACHINE;
        let mut free: Vec<u64> = frames.filter(|mfn| mfn % WRITERS == writer).collect();
        let mut turn = writer;
        // ORDER: Relaxed: the engine's thread joins this one before it uses the results.
        while !self.stop.load(Ordering::Relaxed) {
            if cfg!(miri) && !self.comparing.load(Ordering::Relaxed) {
                thread::yield_now(); // Miri is slow: write only during a comparison
                continue;
            }
            turn += WRITERS;
            // A generator of full period: it gives all pfns, in an order unrelated to the leaves.
            let dice = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
            let pfn = own[dice as usize % own.len()];
            let entry = self.entry(pfn);
            match (entry == Entry::INVALID, dice >> 20 & 3) {
                (true, _) => {
                    let mfn = free.remove(0); // the frame that has been free for longest
                    self.balloon_in(pfn, mfn, turn);
                }
                (false, 0) => free.push(self.balloon_out(pfn)),
                (false, 1) => {
                    let mfn = free.remove(0);
                    free.push(self.balloon_out(pfn));
                    self.balloon_in(pfn, mfn, turn);
                }
                (false, _) => self.write(entry.0, turn),
            }
        }
    }

    fn balloon_out_some(&self) {
        let slots = (0..LEAVES * SLOTS).map(|slot| slot % LEAVES * 512 + slot / LEAVES);
        for pfn in slots.filter(|&pfn| self.entry(pfn) != Entry::INVALID).step_by(3) {
            self.balloon_out(pfn);
        }
    }

    /// The contents of a page; of a leaf, all of its words.
    fn page(&self, mfn: u64) -> u64 {
        let content = self.content[mfn as usize].load(Ordering::Relaxed); // ORDER: after `clean`
        let own = self.words.get(mfn as usize - 1);
        own.map_or(content, |words| {
            let words = words.iter().map(|word| word.load(Ordering::Relaxed)); // ORDER: the same
            words.fold(0, |sum: u64, word| sum.rotate_left(7) ^ word)
        })
    }

    /// What the destination must hold.
    fn expected(&self) -> BTreeMap<u64, u64> {
        let pfns = (0..LEAVES * 512).filter(|&pfn| self.entry(pfn) != Entry::INVALID);
        pfns.map(|pfn| (pfn, self.page(self.entry(pfn).0))).collect()
    }

    fn assert_shadow(&self, shadow: impl Fn(Pfn) -> Entry) {
        for pfn in 0..LEAVES * 512 {
            assert_eq!(shadow(Pfn(pfn)), self.entry(pfn), "the shadow of pfn {pfn:#x}");
        }
    }
}

/// One port of the machine; each call goes to the same atomics.
#[derive(Clone, Copy)]
struct Port<'m>(&'m Machine);

impl LogDirty for Port<'_> {
    fn enable(&mut self) -> Result<(), PortError> {
        let mut dropped = PfnBitmap::default();
        dropped.reset(64 * self.0.log.len() as u64);
        self.clean(LogBuffer::over(&mut dropped)).map(|_| ())
    }

    fn disable(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn clean(&mut self, mut into: LogBuffer<'_>) -> Result<u64, PortError> {
        for (index, word) in (0..).zip(&self.0.log) {
            // ORDER: Acquire for the Release in `mark`.
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                into.set(Pfn(64 * index + u64::from(bits.trailing_zeros())));
                bits &= bits - 1;
            }
        }
        Ok(into.pfns())
    }
}

impl P2mSource for Port<'_> {
    fn width(&self) -> Width {
        Width::W64
    }

    fn domain_frames(&mut self) -> Result<u64, PortError> {
        // ORDER: as the m2p
        let owned = self.0.owned.iter().filter(|owned| owned.load(Ordering::Relaxed));
        Ok(owned.count() as u64)
    }

    fn roots(&mut self) -> Result<Roots, PortError> {
        let top = leaf_mfn(LEAVES + 1);
        Ok(Roots { pfn_count: LEAVES * 512, frame_list_list: top, ..Roots::default() })
    }

    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault> {
        let words = self.0.words.get(mfn.0 as usize - 1).ok_or(MapFault::NotOwned)?;
        GuestLeaf::from_atomics(words).fetch(into);
        Ok(())
    }

    fn map(&mut self, frames: &[Mfn], answers: &mut Vec<Result<MapSlot, MapFault>>) {
        answers.extend(frames.iter().map(|mfn| Ok(MapSlot(mfn.0 as u32))));
    }

    fn unmap(&mut self, _: &[MapSlot]) {}

    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        GuestLeaf::from_atomics(&self.0.words[slot.0 as usize - 1])
    }
}

impl M2p for Port<'_> {
    fn frames(&self) -> u64 {
        MACHINE
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        let known = self.0.m2p.get(mfn.0 as usize);
        known.map(|_| self.0.pfn_of(mfn.0)).filter(|&pfn| pfn != NO_PFN).map(Pfn)
    }
}

impl FrameTypes for Port<'_> {
    fn query(&mut self, frames: &[Mfn], types: &mut [FrameType]) -> Result<(), PortError> {
        for (mfn, kind) in frames.iter().zip(types) {
            let owned = self.0.owned[mfn.0 as usize].load(Ordering::Relaxed); // ORDER: as the m2p
            *kind = if owned { FrameType::Data } else { FrameType::NotOwned };
        }
        Ok(())
    }
}

impl Unlogged for Port<'_> {
    fn pfns(&mut self, _: &mut Vec<Pfn>) -> Result<(), PortError> {
        Ok(())
    }

    fn accepts_transfer(&mut self) -> Result<bool, PortError> {
        Ok(false)
    }
}

impl Observer for Port<'_> {
    fn begin(&mut self, phase: Phase) {
        self.0.comparing.store(phase == Phase::Diff, Ordering::Relaxed); // ORDER: only counts
    }

    fn end(&mut self, _: Phase) {
        self.0.comparing.store(false, Ordering::Relaxed); // ORDER: only counts
    }
}

/// The destination.
struct Received<'m> {
    machine: &'m Machine,
    pages: BTreeMap<u64, u64>,
}

impl Transport for Received<'_> {
    fn send(
        &mut self,
        pages: &[Page],
        _: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        for page in pages {
            self.pages.insert(page.pfn.0, self.machine.page(page.mfn.0));
            answers.push(Answer::Accepted);
        }
        Ok(())
    }

    fn frame_list(&mut self, _: FrameList<'_>) -> Result<(), PortError> {
        Ok(())
    }

    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        for pfn in pfns {
            self.pages.remove(&pfn.0);
        }
        Ok(())
    }

    fn returned(&mut self, _: &mut Vec<Pfn>) -> Result<(), PortError> {
        Ok(())
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        Ok(())
    }
}

fn with<T>(received: &mut Received<'_>, call: impl FnOnce(&mut Ports<'_>) -> T) -> T {
    let port = Port(received.machine);
    let (mut log, mut p2m, mut types, mut unlogged, mut observer) = (port, port, port, port, port);
    call(&mut Ports {
        guest: Guest {
            p2m: &mut p2m,
            m2p: &port,
            types: &mut types,
            unlogged: &mut unlogged,
            observer: &mut observer,
        },
        log_dirty: &mut log,
        transport: received,
    })
}

/// Repeats `round` beside the writers until enough was written while leaves were compared, and
/// twice more. Then the guest does not run any more.
fn beside_writers(machine: &Machine, mut round: impl FnMut()) {
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || machine.run_writer(writer));
        }
        let stop = StopAtEnd(machine);
        let mut rounds = 0;
        // ORDER: only counts.
        while rounds < ROUNDS || machine.overlapping.load(Ordering::Relaxed) < OVERLAPPING {
            round();
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "no writes while leaves are compared");
        }
        drop(stop);
    });
    round();
    // The writers write every page in every round, so that it has a mark of its own. Now only
    // entries are written.
    thread::scope(|scope| {
        scope.spawn(|| machine.balloon_out_some());
        round();
    });
}

/// Stops the writers, also after a failed assertion: the scope waits for them.
struct StopAtEnd<'m>(&'m Machine);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed); // ORDER: as the load in `run_writer`
    }
}

fn migrate_beside_writers(threads: usize) {
    let machine = Machine::new();
    let mut received = Received { machine: &machine, pages: BTreeMap::new() };
    let config = Config { threads, ..Config::default() };
    let mut migration =
        with(&mut received, |ports| Migration::start(config, ports)).expect("starts");
    beside_writers(&machine, || {
        with(&mut received, |ports| migration.round(ports)).expect("a live round");
    });
    with(&mut received, |ports| migration.finish(ports)).expect("completes");
    assert!(received.pages == machine.expected(), "the destination differs");
    machine.assert_shadow(|pfn| migration.tracker().shadow_entry(pfn));
}

/// An observer gets every pfn whose entry changed in the shadow, in the same round.
fn observe_beside_writers(threads: usize) {
    let machine = Machine::new();
    let mut received = Received { machine: &machine, pages: BTreeMap::new() };
    let config = Config { threads, ..Config::default() };
    let mut monitor = Monitor::new(config, Width::W64).expect("threads");
    let mut before = vec![Entry::INVALID; (LEAVES * 512) as usize];
    let mut round = || {
        let mut reported = BTreeSet::new();
        let report = |pfn: Pfn, _| {
            reported.insert(pfn.0);
        };
        with(&mut received, |ports| monitor.observe(&mut ports.guest, ports.log_dirty, report))
            .expect("a round");
        for (pfn, before) in (0..).zip(&mut before) {
            let now = monitor.tracker().shadow_entry(Pfn(pfn));
            assert!(
                now == *before || reported.contains(&pfn),
                "pfn {pfn:#x} changed without a report"
            );
            *before = now;
        }
    };
    beside_writers(&machine, &mut round);
    round();
    machine.assert_shadow(|pfn| monitor.tracker().shadow_entry(pfn));
}

/// Under Miri only one number of threads: its seeds explore more than other numbers would.
const THREADS: &[usize] = if cfg!(miri) { &[2] } else { &[1, 2, 4, 8] };

#[test]
fn a_migration_beside_writers_is_identical() {
    THREADS.iter().copied().for_each(migrate_beside_writers);
}

#[test]
fn an_observer_beside_writers_misses_nothing() {
    THREADS.iter().copied().for_each(observe_beside_writers);
}
