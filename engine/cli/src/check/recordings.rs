// SPDX-License-Identifier: MIT OR Apache-2.0
//! The check over recordings of simulated guests: it misses nothing of honest ones, and finds a
//! planted miss.
//! Not here: when a difference is a miss (`check`), recordings of real guests (`tests/replay.rs`).
//! Units: rounds of a recording; round 0 is the first copy.
//! Threads: one for each of several guests.
//! Source: own. A miss is planted in the recording, or in what the check gets from the engine.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::config::Config;
use p2mtrack::frame::{Entry, Mfn, Pfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{LOG_DIRTY_LEAF_PFNS, M2p, Observer, Phase, PortError, Roots};
use p2mtrack::report::RoundReport;
use p2mtrack_synthetic::run::{Run, Watch, migrate_with, side_by_side};
use p2mtrack_synthetic::{Fault, FaultSet, P2mKind, Scenario, SimConfig, Simulation};
use p2mtrack_trace::{
    Flavour, Limits, Meta, NONE, Reader, Recorder, Round, Structure, UpperFrame, Writer,
};

use super::Check;
use crate::follow::Follower;
use crate::replay::{check_round, observe};
use crate::simulate::record;

/// Memory of each guest: enough leaves for holes, tails and growth.
const GUEST_BYTES: u64 = 8 << 20;

/// Seeds to try: a test takes the first that suits it.
const SEEDS: RangeInclusive<u64> = 1..=40;

/// Makes the recording that `simulate --record` makes.
struct Recording(Recorder<Vec<u8>>);

impl Observer for Recording {
    fn begin(&mut self, _: Phase) {}

    fn end(&mut self, _: Phase) {}
}

impl Watch for Recording {
    fn round(
        &mut self,
        _: &RoundReport,
        log: Option<&PfnBitmap>,
        simulation: &Simulation,
    ) -> Result<(), PortError> {
        record::round(&mut self.0, log, simulation).map_err(Into::into)
    }

    fn wants_log(&self) -> bool {
        true
    }
}

/// A recording of a guest.
#[derive(Clone)]
struct Life {
    meta: Meta,
    rounds: Vec<Round>,
    /// For each round whether the engine had no uncertainty, which would make it owe more.
    calm: Vec<bool>,
}

impl Life {
    fn of(config: &SimConfig) -> (Self, Run) {
        let simulation = Simulation::new(config);
        let meta = Meta {
            name: config.options(),
            width: config.width,
            pfn_count: config.guest_bytes / 4096,
            max_mfn: simulation.ports().m2p.frames(),
            kernel: String::new(),
            xen: String::new(),
            flavour: Flavour::Both,
            load: String::new(),
            rounds: 0,
            source: String::new(),
        };
        let mut recording = Recording(Recorder::new(Vec::new(), &meta).expect("begins"));
        let run = migrate_with(&simulation, engine(config), &mut recording);
        assert!(run.error.is_none() || run.fault.is_some(), "{}: {:?}", meta.name, run.error);
        if run.rounds == 0 {
            return (Self { meta, rounds: Vec::new(), calm: Vec::new() }, run);
        }
        let bytes = recording.0.finish().expect("ends");
        let reader = Reader::new(&bytes, Limits::default()).expect("opens");
        let mut cursor = reader.rounds();
        let next = || cursor.advance().expect("decodes").then(|| cursor.round().clone());
        (Self { meta, rounds: std::iter::from_fn(next).collect(), calm: Vec::new() }, run)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &self.meta).expect("begins");
        for round in &self.rounds {
            writer.round(round).unwrap_or_else(|error| panic!("{}: {error}", self.meta.name));
        }
        writer.finish().expect("ends")
    }

    const fn width(&self) -> Width {
        self.meta.width
    }

    fn is_frame(&self, entry: u64) -> bool {
        Entry(entry).names_frame(self.width(), self.meta.max_mfn)
    }

    /// What the check counts as missed.
    fn missed(&self) -> u64 {
        self.missed_without(|_, _| false)
    }

    /// The same if the check does not get these owed pfns, by round and pfn.
    fn missed_without(&self, dropped: impl Fn(u64, u64) -> bool) -> u64 {
        let bytes = self.bytes();
        judged(&Reader::new(&bytes, Limits::default()).expect("opens"), dropped).0.missed()
    }

    /// A pfn with a frame, and the pfn of its leaf. From round `number - 1` to `number + 1` the
    /// leaf's frame is listed there and nowhere else, with the same pfn.
    fn steady(&self, number: usize, wanted: impl Fn(usize) -> bool) -> Option<(usize, u64)> {
        let [before, now, after] = self.rounds.get(number - 1..=number + 1)? else { return None };
        let alone = |position: &usize| {
            let mfn = now.leaf_mfns[*position];
            let same = |round: &Round| {
                round.leaf_mfns.get(*position) == Some(&mfn)
                    && round.leaf_pfns[*position] == now.leaf_pfns[*position]
                    && round.leaf_mfns.iter().filter(|&&other| other == mfn).count() == 1
            };
            mfn != NONE && [before, now, after].into_iter().all(same)
        };
        let counts = [before, now, after].map(|round| round.after.pfn_count as usize);
        let pfns = |position: usize| {
            let first = position * self.width().entries();
            first..(first + self.width().entries()).min(counts[0]).min(counts[1]).min(counts[2])
        };
        let positions = (0..now.leaf_mfns.len()).filter(alone);
        let mut pfns = positions.flat_map(pfns);
        let pfn = pfns.find(|&pfn| self.is_frame(before.entries[pfn]) && wanted(pfn))?;
        Some((pfn, now.leaf_pfns[pfn / self.width().entries()]))
    }

    /// Rounds that are neither first nor last, without an uncertainty in them and in the next one.
    fn inner(&self) -> impl DoubleEndedIterator<Item = usize> {
        let calm = |&number: &usize| self.calm[number] && self.calm[number + 1];
        (1..self.rounds.len().saturating_sub(1)).filter(calm)
    }

    /// Removes these pfns from the log of a round and of the next one.
    fn drop_bits(&mut self, number: usize, pfns: [u64; 2]) {
        for round in &mut self.rounds[number..=number + 1] {
            for pfn in pfns {
                if let Some(log) = round.log_dirty.as_mut().filter(|log| pfn < log.pfns()) {
                    log.clear(Pfn(pfn));
                }
            }
        }
    }

    /// A changed entry whose leaf log-dirty does not name: the round, and the recording.
    fn with_a_dropped_bit(&self) -> Option<(usize, Self)> {
        let (number, (pfn, leaf)) = self.inner().find_map(|number| {
            let [before, now, after] = [number - 1, number, number + 1].map(|at| &self.rounds[at]);
            let changed = |pfn: usize| {
                let was = before.entries[pfn];
                was != now.entries[pfn] && was != after.entries[pfn]
            };
            Some((number, self.steady(number, changed)?))
        })?;
        let mut life = self.clone();
        life.drop_bits(number, [leaf, pfn as u64]);
        Some((number, life))
    }

    /// An entry that differs from some round on, without a mark in any log.
    fn with_a_changed_entry(&self) -> Option<Self> {
        let found = |number| Some((number, self.steady(number, |_| true)?));
        let (number, (pfn, leaf)) = self.inner().rev().find_map(found)?;
        let mut life = self.clone();
        life.drop_bits(number, [leaf, pfn as u64]);
        for round in &mut life.rounds[number..] {
            if let Some(entry) = round.entries.get_mut(pfn) {
                *entry = NONE;
            }
        }
        Some(life)
    }

    /// Inserts a round without a p2m after round `number`. The frames keep their pfns.
    fn hide_after(&mut self, number: usize) {
        let last = &self.rounds[number];
        let roots = Roots { pfn_count: 0, ..last.after };
        let some = |pfn: u64| (pfn != NONE).then_some(pfn);
        let leaves =
            last.leaf_mfns.iter().zip(&last.leaf_pfns).map(|(&mfn, &pfn)| (mfn, some(pfn)));
        let upper = last.upper.iter().map(|frame| (frame.mfn.0, frame.pfn.map(|pfn| pfn.0)));
        let exceptions = leaves.chain(upper).filter(|&(mfn, _)| mfn != NONE).collect();
        let log_dirty = Some(PfnBitmap::new(LOG_DIRTY_LEAF_PFNS));
        let hidden =
            Round { before: roots, after: roots, log_dirty, exceptions, ..Round::default() };
        self.rounds.insert(number + 1, hidden);
    }

    /// The pfn and the positions of a leaf without frames at several positions, two of them before
    /// a leaf with frames: the same in the round before this one and in all later ones.
    fn without_frames(&self, number: usize) -> Option<(u64, Vec<usize>)> {
        let [before, now] = [number - 1, number].map(|at| &self.rounds[at]);
        let any_frame = |round: &Round, at: usize| {
            round.leaf_entries(self.width(), at).iter().any(|&entry| self.is_frame(entry))
        };
        let last = |round: &Round| (0..round.leaf_mfns.len()).rfind(|&at| any_frame(round, at));
        let last = last(before)?.min(last(now)?);
        let stays = |round: &Round, mfn, second: usize| {
            listed(round, mfn) == listed(now, mfn)
                && round.leaf_pfns[second] == now.leaf_pfns[second]
                && round.after.pfn_count >= ((second + 1) * self.width().entries()) as u64
        };
        (0..last).find_map(|at| {
            let (mfn, leaf, at) =
                (now.leaf_mfns[at], now.leaf_pfns[at], listed(now, now.leaf_mfns[at]));
            let &second = at.get(1).filter(|&&at| at < last && mfn != NONE && leaf != NONE)?;
            let rounds = &self.rounds[number - 1..];
            let fits =
                !any_frame(now, at[0]) && rounds.iter().all(|round| stays(round, mfn, second));
            fits.then_some((leaf, at))
        })
    }

    /// From some round on that leaf has other entries without frames; log-dirty names it if
    /// `is_marked`.
    fn with_other_entries(&self, is_marked: bool) -> Option<Self> {
        let (number, (leaf, positions)) =
            self.inner().find_map(|number| Some((number, self.without_frames(number)?)))?;
        let mut life = self.clone();
        let width = self.width();
        for round in &mut life.rounds[number..] {
            for at in positions.iter().map(|position| position * width.entries()) {
                for (slot, entry) in round.entries[at..at + width.entries()].iter_mut().enumerate()
                {
                    *entry = Entry::identity(width, Pfn(4 * slot as u64 + 1)).0;
                }
            }
        }
        life.drop_bits(number, [leaf; 2]);
        let log = life.rounds[number].log_dirty.as_mut().filter(|log| leaf < log.pfns())?;
        if is_marked {
            log.set(Pfn(leaf));
        }
        Some(life)
    }
}

/// The positions of a frame.
fn listed(round: &Round, mfn: u64) -> Vec<usize> {
    let here = |at: &usize| round.leaf_mfns[*at] == mfn;
    (0..round.leaf_mfns.len()).filter(here).collect()
}

/// The check after all rounds, and for each round whether there was no uncertainty.
fn judged(reader: &Reader<'_>, dropped: impl Fn(u64, u64) -> bool) -> (Check, Vec<bool>) {
    let mut follower = Follower::new(Path::new("made"), reader, Config::default()).expect("starts");
    let mut check = Check::new(reader.meta().width, reader.meta().max_mfn, false);
    let mut calm = Vec::new();
    loop {
        let (report, mut owed) = observe(&mut follower).expect("observes");
        let number = follower.number();
        for pfn in owed.pfns.iter().filter(|pfn| dropped(number, pfn.0)).collect::<Vec<_>>() {
            owed.pfns.clear(pfn);
        }
        check_round(&mut check, &follower, &report, &owed);
        calm.push(report.uncertain.iter().all(|&uncertainties| uncertainties == 0));
        if !follower.advance().expect("decodes") {
            return (check, calm);
        }
    }
}

/// Misses that were planted in recordings of one guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Planted {
    bits: u64,
    entries: u64,
    unreported: u64,
    words: u64,
    hidden: u64,
}

impl Planted {
    fn new(config: &SimConfig) -> Self {
        let (mut life, _) = Life::of(config);
        let bytes = life.bytes();
        let reader = Reader::new(&bytes, Limits::default()).expect("opens");
        let (check, calm) = judged(&reader, |_, _| false);
        life.calm = calm;
        let name = &life.meta.name;
        assert_eq!((check.missed(), check.pending()), (0, 0), "{name}");
        let mut planted = Self::default();
        let mut hidden = life.clone();
        hidden.hide_after(life.rounds.len() / 2);
        assert_eq!(hidden.missed(), 0, "{name}: hidden after round {}", life.rounds.len() / 2);
        if let Some((number, mut dropped)) = life.with_a_dropped_bit() {
            assert!(dropped.missed() > 0, "{name}: a bit of round {number} was dropped");
            dropped.hide_after(number);
            assert!(dropped.missed() > 0, "{name}: dropped, and then hidden");
            (planted.bits, planted.hidden) = (1, 1);
        }
        if let Some(changed) = life.with_a_changed_entry() {
            assert!(changed.missed() > 0, "{name}: an entry was changed");
            planted.entries = 1;
        }
        let both = life.rounds[0]
            .entries
            .iter()
            .zip(&life.rounds.get(1).map_or(&life.rounds[0], |r| r).entries);
        let held = both.clone().position(|(&a, &b)| life.is_frame(a) && life.is_frame(b));
        if let Some(pfn) = held.filter(|_| life.rounds.len() > 1) {
            assert!(
                life.missed_without(|_, owed| owed == pfn as u64) > 0,
                "{name}: pfn {pfn:#x} was never reported"
            );
            planted.unreported = 1;
        }
        if let Some(marked) = life.with_other_entries(true) {
            assert_eq!(marked.missed(), 0, "{name}: other entries without a frame");
            let unmarked = life.with_other_entries(false).expect("the same");
            assert!(unmarked.missed() > 0, "{name}: other entries without a mark");
            planted.words = 1;
        }
        planted
    }

    const fn add(mut self, other: Self) -> Self {
        self.bits += other.bits;
        self.entries += other.entries;
        self.unreported += other.unreported;
        self.words += other.words;
        self.hidden += other.hidden;
        self
    }
}

/// The engine's configuration with the policies of the scenario.
fn engine(config: &SimConfig) -> Config {
    config.scenario.engine(config.seed, Config::default())
}

/// Guests that keep their rules, of each width and kind.
fn honest() -> Vec<SimConfig> {
    let mut configs = Vec::new();
    for scenario in Scenario::ALL.into_iter().filter(|&scenario| scenario != Scenario::Hostile) {
        for width in [Width::W32, Width::W64] {
            for kind in [P2mKind::Linear, P2mKind::Tree] {
                if scenario.forced_p2m().is_none_or(|forced| forced == kind) {
                    let plain = SimConfig::plain(scenario, 1, GUEST_BYTES);
                    configs.push(SimConfig { width, p2m: Some(kind), ..plain });
                }
            }
        }
    }
    configs
}

/// The guest with each seed whose policies refuse nothing, and which takes a suspend back if the
/// scenario ever does.
fn seeded(config: &SimConfig) -> impl Iterator<Item = SimConfig> {
    let config = config.clone();
    let wanted = |config: &SimConfig| {
        let simulation = Simulation::new(config);
        let fails = |checkpoint| simulation.checkpoint_fails_after(checkpoint).is_some();
        let takes_back = (0..simulation.checkpoints()).any(fails);
        takes_back == config.scenario.takes_back()
            && !config.scenario.may_be_refused(&engine(config))
    };
    SEEDS.map(move |seed| SimConfig { seed, ..config.clone() }).filter(wanted)
}

#[test]
fn logs_that_fail_or_are_short_hide_nothing() {
    // Of each scenario one guest for each fault: widths and kinds in turn.
    let faults = [Fault::ShortBitmap, Fault::AllocationFailure];
    let honest = honest();
    let guests = honest.chunk_by(|one, next| one.scenario == next.scenario);
    let pair = |(turn, guests): (usize, &[SimConfig])| {
        [0, 1].map(|at| SimConfig {
            faults: FaultSet(vec![faults[at]]),
            ..guests[(turn + at * (guests.len() - 1)) % guests.len()].clone()
        })
    };
    let configs: Vec<_> = guests.enumerate().flat_map(pair).collect();
    let struck = side_by_side(&configs, |config| {
        for config in seeded(config) {
            let (life, run) = Life::of(&config);
            if !run.struck.is_empty() && life.rounds.len() > 1 {
                assert_eq!(life.missed(), 0, "{}", life.meta.name);
                return config.faults.0[0];
            }
        }
        panic!("{}: the fault never strikes", config.options())
    });
    assert_eq!(struck.len(), 2 * (Scenario::ALL.len() - 1));
}

#[test]
fn honest_recordings_miss_nothing_and_a_planted_miss_is_found() {
    let first = |config: &SimConfig| seeded(config).next().expect("a seed");
    let configs: Vec<_> = honest().iter().map(first).collect();
    let planted = side_by_side(&configs, Planted::new);
    let planted = planted.into_iter().fold(Planted::default(), Planted::add);
    println!("{} recordings: {planted:?}", configs.len());
    let many = configs.len() as u64 / 2;
    assert!(planted.entries.min(planted.unreported) > many, "{planted:?}");
    assert!(planted.bits.min(planted.hidden).min(planted.words) > many / 4, "{planted:?}");
}

/// The entries of a made leaf.
#[derive(Clone, Copy)]
enum Says {
    /// Consecutive frames from this one on.
    Frames(u64),
    /// Invalid entries.
    Invalid,
    /// Identity entries, which name no frame either.
    Identity,
}

/// Frames of made recordings: the machine's, the top and the mid of the tree.
const MADE_FRAMES: u64 = 1 << 16;
const TOP: u64 = 1;
const MID: u64 = 2;

/// A 64-bit guest with a tree: in each round the frame of each leaf, and its entries. The logs are
/// empty.
fn made(rounds: &[&[(u64, Says)]]) -> Life {
    let meta = Meta {
        name: "made".to_owned(),
        width: Width::W64,
        pfn_count: 0,
        max_mfn: MADE_FRAMES,
        kernel: String::new(),
        xen: String::new(),
        flavour: Flavour::Tree,
        load: String::new(),
        rounds: 0,
        source: String::new(),
    };
    let round = |(number, leaves): (usize, &&[(u64, Says)])| {
        let upper = |level, mfn, slots: &[u64]| {
            let mut content = Leaf::HOLE;
            content.words[..slots.len()].copy_from_slice(slots);
            let (mfn, content) = (Mfn(mfn), Arc::new(content));
            UpperFrame { structure: Structure::Tree, level, mfn, pfn: None, content }
        };
        let leaf_mfns: Vec<u64> = leaves.iter().map(|&(mfn, _)| mfn).collect();
        let roots = Roots {
            pfn_count: 512 * leaves.len() as u64,
            frame_list_list: TOP,
            ..Roots::default()
        };
        let entry = |says, slot| match says {
            Says::Frames(first) => first + slot,
            Says::Invalid => NONE,
            Says::Identity => Entry::identity(Width::W64, Pfn(slot)).0,
        };
        let entries =
            leaves.iter().flat_map(|&(_, says)| (0..512).map(move |slot| entry(says, slot)));
        Round {
            before: roots,
            after: roots,
            log_dirty: (number > 0).then(|| PfnBitmap::new(LOG_DIRTY_LEAF_PFNS)),
            upper: vec![upper(3, TOP, &[MID]), upper(2, MID, &leaf_mfns)],
            leaf_pfns: leaf_mfns.iter().map(|mfn| mfn + 30_000).collect(),
            leaf_mfns,
            entries: entries.collect(),
            ..Round::default()
        }
    };
    Life { meta, rounds: rounds.iter().enumerate().map(round).collect(), calm: Vec::new() }
}

#[test]
fn a_leaf_without_frames_at_several_positions_is_not_owed_and_everything_else_is() {
    use Says::{Frames, Identity, Invalid};
    let still = |leaves: &[(u64, Says)]| made(&[leaves; 3]);
    let frames = (10, Frames(1000));
    let identity = [(11, Identity), (11, Identity), frames];
    let unreported = |_, pfn| pfn < 1024;
    assert_eq!(still(&identity).missed_without(unreported), 0, "identity");
    let invalid = [(12, Invalid), (12, Invalid), frames];
    let other = made(&[&identity, &invalid, &invalid]);
    assert_eq!(other.missed_without(unreported), 0, "another such leaf");
    // A copy is listed once, as when Linux is about to put a frame there.
    let copy = [(11, Identity), (12, Identity), frames];
    let alone = made(&[&identity, &copy, &copy]);
    assert_eq!(alone.missed_without(unreported), 0, "a copy");

    let pfn_7 = |_, pfn| pfn == 7;
    let missed = |life: Life| (life.missed(), life.missed_without(pfn_7));
    assert_eq!(missed(still(&[(11, Identity), frames])), (0, 1), "listed once");
    let tail = [(11, Identity), frames, (11, Identity)];
    assert_eq!(missed(still(&tail)), (0, 1), "the other one is past every frame");
    let full = Frames(2000);
    assert_eq!(missed(still(&[(11, full), (11, full), frames])), (0, 1), "with frames");
    let before = [(12, Frames(3000)), (11, Identity), frames];
    let now = made(&[&before, &identity, &identity]);
    assert_eq!(now.missed_without(|round, pfn| round == 1 && pfn == 7), 1, "with frames before");
}

#[test]
fn pfns_are_owed_when_they_come_back_after_a_shrink_and_not_after_a_hidden_p2m() {
    let (short, long) =
        ([(10, Says::Frames(1000))], [(10, Says::Frames(1000)), (11, Says::Frames(2000))]);
    let back = made(&[&long, &short, &long, &long]);
    let unreported = |round, pfn| round == 2 && pfn >= 512;
    assert_eq!((back.missed(), back.missed_without(unreported)), (0, 512));
    let mut hidden = made(&[&long, &long, &long]);
    hidden.hide_after(0);
    assert_eq!(hidden.missed_without(unreported), 0);
}
