// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is counted: small loops over the engine's hot paths, each in a steady state.
//! Not here: the counting.
//! Units: a turn does [`Scenario::units`] units of work: leaves, entries, pfns, pages or PTEs.
//! Threads: one.
//! Source: the interfaces that a round uses: `Shadow`, `ResendBitmap`; for a whole round `Monitor`
//! (`quiet`), for a stream its transport (`stream`).

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use p2mtrack::cause::Cause;
use p2mtrack::diff::Kernel;
use p2mtrack::frame::{Entry, LeafIndex, Pfn, Width};
use p2mtrack::guest::{Ahead, GuestLeaf};
use p2mtrack::leaf::{FRAME_WORDS, Leaf, LeafMask};
use p2mtrack::resend::ResendBitmap;
use p2mtrack::shadow::{Forms, Shadow};

use crate::quiet::{self, Quiet};
use crate::stream::{Normalising, Sending};

/// Units of work in a turn of most scenarios.
const UNITS: u64 = 512;

/// One loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// A leaf that is one run, compared and equal.
    UnchangedAffine,
    /// A leaf of eight runs with four patches, compared and equal.
    UnchangedSegments,
    /// A leaf without runs, compared and equal.
    UnchangedPacked,
    /// The same, with a raw shadow.
    UnchangedRaw,
    /// An entry that differs, found and marked; half of the entries of each leaf differ.
    ChangedEntry,
    /// An entry that is accepted: its leaf is decoded and encoded.
    AcceptedEntry,
    /// A leaf whose slots are all marked.
    MarkedLeaf,
    /// A pfn taken from a sparse bitmap.
    TakenSparse,
    /// A pfn taken from a dense bitmap.
    TakenDense,
    /// A leaf of an idle guest, in one round.
    QuietLeaf,
    /// A page of a batch, written to a sink that only counts.
    SentPage,
    /// A PTE of a page table whose PTEs follow one another, normalised.
    PlainPte,
}

impl Scenario {
    /// All of them.
    pub(crate) const ALL: [Self; 12] = [
        Self::UnchangedAffine,
        Self::UnchangedSegments,
        Self::UnchangedPacked,
        Self::UnchangedRaw,
        Self::ChangedEntry,
        Self::AcceptedEntry,
        Self::MarkedLeaf,
        Self::TakenSparse,
        Self::TakenDense,
        Self::QuietLeaf,
        Self::SentPage,
        Self::PlainPte,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::UnchangedAffine => "leaf.unchanged.affine",
            Self::UnchangedSegments => "leaf.unchanged.segments",
            Self::UnchangedPacked => "leaf.unchanged.packed",
            Self::UnchangedRaw => "leaf.unchanged.raw",
            Self::ChangedEntry => "entry.changed",
            Self::AcceptedEntry => "entry.accepted",
            Self::MarkedLeaf => "leaf.marked",
            Self::TakenSparse => "pfn.taken.sparse",
            Self::TakenDense => "pfn.taken.dense",
            Self::QuietLeaf => "leaf.quiet",
            Self::SentPage => "page.sent",
            Self::PlainPte => "pte.plain",
        }
    }

    /// Whether the kernel matters.
    pub(crate) const fn has_kernel(self) -> bool {
        matches!(
            self,
            Self::UnchangedAffine
                | Self::UnchangedSegments
                | Self::UnchangedPacked
                | Self::UnchangedRaw
                | Self::ChangedEntry
        )
    }

    /// Units of work in a turn.
    pub(crate) const fn units(self) -> u64 {
        match self {
            Self::QuietLeaf => quiet::LEAVES,
            _ => UNITS,
        }
    }

    /// Allocations that a unit may cost in the steady state: a round allocates a list of its pieces
    /// of the log, and one of the page tables that it looks up in the m2p.
    pub(crate) fn allocations_max(self) -> f64 {
        match self {
            Self::QuietLeaf => 2.0 / quiet::LEAVES as f64,
            _ => 0.0,
        }
    }

    /// Builds everything that the loop needs, so that it is in its steady state.
    pub(crate) fn prepare(self, kernel: Kernel) -> Stage {
        let mut stage = Stage::new(self, kernel);
        stage.work(2, 0);
        stage
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|scenario| scenario.name() == name);
        known.ok_or_else(|| format!("no scenario is called {name:?}"))
    }
}

/// Leaves of the guest.
const LEAVES: u64 = 64;

/// A scenario with its guest.
#[derive(Debug)]
pub(crate) struct Stage {
    scenario: Scenario,
    kernel: Kernel,
    live: Vec<[AtomicU64; FRAME_WORDS]>,
    shadow: Shadow,
    resend: ResendBitmap,
    accepted: Vec<(Pfn, Entry)>,
    quiet: Option<Quiet>,
    sending: Option<Sending>,
    normalising: Option<Normalising>,
}

impl Stage {
    fn new(scenario: Scenario, kernel: Kernel) -> Self {
        let forms = match scenario {
            Scenario::UnchangedPacked => Forms::Packed,
            Scenario::UnchangedRaw => Forms::Raw,
            _ => Forms::Auto,
        };
        let mut shadow = Shadow::with_forms(Width::W64, forms);
        shadow.resize(LEAVES);
        let leaves = (0..LEAVES).map(|leaf| {
            let words = std::array::from_fn(|slot| word(scenario, leaf, slot as u64));
            shadow.install(LeafIndex(leaf), &Leaf { words });
            words.map(AtomicU64::new)
        });
        let live: Vec<_> = leaves.collect();
        if scenario == Scenario::ChangedEntry {
            for word in live.iter().flat_map(|leaf| leaf.iter().step_by(2)) {
                word.fetch_add(1 << 20, Ordering::Relaxed); // ORDER: one thread
            }
        }
        let resend = ResendBitmap::new(LEAVES * 512 * 64);
        let quiet = (scenario == Scenario::QuietLeaf).then(|| Quiet::new(kernel));
        let sending = (scenario == Scenario::SentPage).then(|| Sending::new(UNITS));
        let normalising = (scenario == Scenario::PlainPte).then(Normalising::new);
        let accepted = Vec::with_capacity(512);
        Self { scenario, kernel, live, shadow, resend, accepted, quiet, sending, normalising }
    }

    /// Does so many turns of work, and `plant` percent more.
    ///
    /// # Panics
    /// If a result is wrong.
    pub(crate) fn work(&mut self, turns: u32, plant: u32) {
        let mut surplus = 0;
        for turn in 0..turns {
            surplus += plant;
            for _ in 0..=surplus / 100 {
                self.turn(u64::from(turn));
            }
            surplus %= 100;
        }
    }

    fn turn(&mut self, turn: u64) {
        match self.scenario {
            Scenario::UnchangedAffine
            | Scenario::UnchangedSegments
            | Scenario::UnchangedPacked
            | Scenario::UnchangedRaw => {
                let changed = self.compare((0..UNITS).map(|unit| unit % LEAVES));
                assert_eq!(changed, 0, "nothing changed");
            }
            Scenario::ChangedEntry => {
                let changed = self.compare(0..2);
                assert_eq!(u64::from(changed), UNITS, "half of two leaves");
            }
            Scenario::AcceptedEntry => {
                self.accepted.clear();
                let first = turn % LEAVES * 512;
                let entry = |pfn| (Pfn(pfn), Entry(pfn * 3 % 7 + turn));
                self.accepted.extend((first..first + UNITS).map(entry));
                self.shadow.update(&self.accepted);
            }
            Scenario::MarkedLeaf => {
                let all = LeafMask::first(512);
                let mut resend = self.resend.shards_mut([0]).next().expect("one shard");
                for leaf in 0..UNITS {
                    resend.mark_leaf(Width::W64, LeafIndex(leaf), &all, Cause::Entry);
                }
            }
            Scenario::TakenSparse => {
                for unit in 0..UNITS {
                    self.resend.mark(Pfn(unit * 4099 + turn % 64), Cause::LogDirty);
                }
                self.take();
            }
            Scenario::TakenDense => {
                self.resend.mark_range(4096..4096 + UNITS, Cause::LogDirty);
                self.take();
            }
            Scenario::QuietLeaf => {
                let compared = self.quiet.as_mut().map(Quiet::round);
                assert_eq!(compared, Some(0), "nothing happened");
            }
            Scenario::SentPage => {
                assert_eq!(self.sending.as_mut().map(Sending::send), Some(UNITS), "all pages");
            }
            Scenario::PlainPte => {
                let last = self.normalising.as_mut().map(Normalising::normalise);
                assert_eq!(last, Some(1024 + 511), "the last pfn");
            }
        }
    }

    /// Compares leaves, as a shard of a round does. Returns how many entries differ.
    fn compare(&mut self, leaves: impl Iterator<Item = u64>) -> u32 {
        let mut resend = self.resend.shards_mut([0]).next().expect("one shard");
        let mut count = 0;
        for leaf in leaves {
            let live = GuestLeaf::from_atomics(&self.live[leaf as usize]);
            let changed =
                self.shadow.diff_live(self.kernel, LeafIndex(leaf), live, Ahead::default());
            resend.mark_leaf(Width::W64, LeafIndex(leaf), &changed, Cause::Entry);
            count += changed.count();
        }
        count
    }

    fn take(&self) {
        let mut taken = self.resend.take(UNITS as usize, 0);
        let pages = taken.pfns().len();
        assert_eq!(pages as u64, UNITS, "all that was marked");
        taken.pay_all();
    }
}

/// The word in a slot.
fn word(scenario: Scenario, leaf: u64, slot: u64) -> u64 {
    let run = 0x10_0000 + leaf * 512 + slot;
    match scenario {
        Scenario::UnchangedSegments if slot % 128 == 77 => slot,
        Scenario::UnchangedSegments => run ^ (slot / 64) << 12,
        Scenario::UnchangedPacked | Scenario::UnchangedRaw => {
            run.wrapping_mul(0x9e37_79b9) & 0x7fff_ffff
        }
        _ => run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_the_right_result_with_every_kernel() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.to_string().parse(), Ok(scenario));
            for &kernel in Kernel::available() {
                scenario.prepare(kernel).work(3, 50);
            }
        }
    }

    #[test]
    fn leaves_have_the_form_that_their_scenario_is_about() {
        let form = |scenario| Stage::new(scenario, Kernel::SCALAR).shadow.bytes();
        assert_eq!(form(Scenario::UnchangedAffine).affine, LEAVES);
        assert_eq!(form(Scenario::UnchangedSegments).segments, LEAVES);
        assert_eq!(form(Scenario::UnchangedPacked).packed, LEAVES);
        assert_eq!(form(Scenario::UnchangedRaw).raw, LEAVES);
    }
}
