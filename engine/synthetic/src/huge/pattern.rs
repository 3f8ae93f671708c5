// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole p2m as a function: the entry of any pfn and the pfn of any frame, without a table of the
//! guest's size.
//! Not here: memory that holds it (`guest`), or what a guest does to it (`life`).
//! Units: pfns and mfns as plain numbers; entries as a 64-bit guest has them, all ones where there
//! is no frame.
//! Threads: plain values; leaves are filled in parallel.
//! Source: one file for each shape; shape, pfns, seed and, for `Real`, the tile decide a pattern.

use p2mtrack::frame::Entry;
use p2mtrack::leaf::FRAME_WORDS;
use rayon::prelude::*;

use super::permutation::Permutation;
use super::runs::Runs;
use super::shape::Shape;
use super::superpage::Superpages;
use super::swaps::{CELL_BITS, Swaps};
use super::tile::{Tile, TileFault};

/// The first frame that a guest may have: no small number is a frame of the guest by chance.
pub const FIRST_MFN: u64 = 1 << 18;
/// Pfns of the largest p2m: frames have to fit 32 bits.
pub const PFNS_MAX: u64 = 1 << 31;

#[derive(Clone, Debug)]
enum Rule {
    Superpage(Superpages),
    Runs(Runs),
    Ballooned(Runs, Swaps),
    Random(Permutation),
    Real(Tile),
}

/// A p2m.
#[derive(Clone, Debug)]
pub struct Pattern {
    shape: Shape,
    pfns: u64,
    rule: Rule,
}

impl Pattern {
    /// The p2m of a shape over `pfns` pfns, which belongs to a seed. `tile` is for [`Shape::Real`]:
    /// the entries of a captured p2m, whole leaves.
    ///
    /// # Errors
    /// The shape is [`Shape::Real`] and the tile is unusable.
    ///
    /// # Panics
    /// If `pfns` is no whole leaves, or not from 1 to [`PFNS_MAX`].
    pub fn new(shape: Shape, pfns: u64, seed: u64, tile: &[u64]) -> Result<Self, TileFault> {
        assert!(pfns.is_multiple_of(FRAME_WORDS as u64), "{pfns} pfns are no whole leaves");
        assert!((1..=PFNS_MAX).contains(&pfns), "{pfns} pfns are too few or too many");
        let rule = match shape {
            Shape::Superpage => Rule::Superpage(Superpages::new(pfns, seed)),
            Shape::Runs => Rule::Runs(Runs::new(pfns, seed)),
            Shape::Ballooned => Rule::Ballooned(Runs::new(pfns, seed), Swaps::new(pfns, seed)),
            Shape::Random => Rule::Random(Permutation::new(pfns, seed)),
            Shape::Real => Rule::Real(Tile::new(tile)?),
        };
        Ok(Self { shape, pfns, rule })
    }

    /// Its shape.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Pfns that it covers.
    #[must_use]
    pub const fn pfns(&self) -> u64 {
        self.pfns
    }

    /// One past the last frame that a pfn may have.
    #[must_use]
    pub fn frames(&self) -> u64 {
        FIRST_MFN
            + match &self.rule {
                Rule::Real(tile) => tile.span(self.pfns),
                _ => self.pfns,
            }
    }

    /// The entry of a pfn: a frame, or all ones for none.
    ///
    /// # Panics
    /// May, if `pfn` is not below [`Pattern::pfns`].
    #[must_use]
    pub fn entry(&self, pfn: u64) -> u64 {
        let frame = match &self.rule {
            Rule::Superpage(rule) => rule.frame(pfn),
            Rule::Runs(rule) => rule.frame(pfn),
            Rule::Ballooned(rule, swaps) => rule.frame(swaps.partner(pfn)),
            Rule::Random(rule) => rule.forward(pfn),
            Rule::Real(tile) => match tile.frame(pfn) {
                Some(frame) => frame,
                None => return Entry::INVALID.0,
            },
        };
        FIRST_MFN + frame
    }

    /// The pfn of a frame; `None` if no pfn has it.
    #[must_use]
    pub fn pfn(&self, mfn: u64) -> Option<u64> {
        if !(FIRST_MFN..self.frames()).contains(&mfn) {
            return None;
        }
        let frame = mfn - FIRST_MFN;
        match &self.rule {
            Rule::Superpage(rule) => Some(rule.page(frame)),
            Rule::Runs(rule) => Some(rule.page(frame)),
            Rule::Ballooned(rule, swaps) => Some(swaps.partner(rule.page(frame))),
            Rule::Random(rule) => Some(rule.backward(frame)),
            Rule::Real(tile) => tile.page(frame).filter(|&pfn| pfn < self.pfns),
        }
    }

    /// Writes the entries of one leaf.
    ///
    /// # Panics
    /// If `entries` is not 512 long; may, if the leaf is past the end.
    pub fn fill_leaf(&self, leaf: u64, entries: &mut [u64]) {
        assert_eq!(entries.len(), FRAME_WORDS, "a leaf has 512 entries");
        let first = leaf * FRAME_WORDS as u64;
        match &self.rule {
            Rule::Superpage(rule) => {
                // A leaf is one block.
                count_up(entries, FIRST_MFN + rule.frame(first));
            }
            Rule::Runs(rule) => fill_runs(rule, first, entries),
            Rule::Ballooned(rule, swaps) => {
                fill_runs(rule, first, entries);
                for cell in first >> CELL_BITS..(first + FRAME_WORDS as u64) >> CELL_BITS {
                    if let Some((pfn, other)) = swaps.swap(cell) {
                        entries[(pfn - first) as usize] = FIRST_MFN + rule.frame(other);
                    }
                }
            }
            Rule::Random(_) | Rule::Real(_) => {
                for (entry, pfn) in entries.iter_mut().zip(first..) {
                    *entry = self.entry(pfn);
                }
            }
        }
    }

    /// Writes the entries of leaf after leaf from `leaf` on, on all threads of rayon's pool.
    ///
    /// # Panics
    /// If `entries` is no whole leaves; may, if it goes past the end.
    pub fn fill(&self, leaf: u64, entries: &mut [u64]) {
        /// Leaves that a thread takes at once.
        const LEAVES: usize = 512;
        entries.par_chunks_mut(LEAVES * FRAME_WORDS).enumerate().for_each(|(index, chunk)| {
            let first = leaf + (index * LEAVES) as u64;
            for (leaf, entries) in (first..).zip(chunk.chunks_mut(FRAME_WORDS)) {
                self.fill_leaf(leaf, entries);
            }
        });
    }
}

fn count_up(entries: &mut [u64], from: u64) {
    for (entry, mfn) in entries.iter_mut().zip(from..) {
        *entry = mfn;
    }
}

/// Block by block: a block is looked up once, however long it is.
fn fill_runs(rule: &Runs, first: u64, entries: &mut [u64]) {
    let mut at = 0;
    while at < entries.len() {
        let page = first + at as u64;
        let block = rule.block(page);
        let end = block.page + (1 << block.order);
        let length = ((end - page) as usize).min(entries.len() - at);
        let from = FIRST_MFN + block.frame + block.turn(page - block.page);
        let run = &mut entries[at..at + length];
        if block.descends {
            for (entry, step) in run.iter_mut().zip(0..) {
                *entry = from - step;
            }
        } else {
            count_up(run, from);
        }
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tile with holes, a run downwards and a single page.
    fn tile() -> Vec<u64> {
        let mut tile: Vec<u64> = (7000..7000 + 1024).collect();
        tile[100..200].fill(u64::MAX);
        for (entry, mfn) in tile[300..400].iter_mut().zip((9000..9100).rev()) {
            *entry = mfn;
        }
        tile[700] = 20_000;
        tile
    }

    fn pattern(shape: Shape, pfns: u64, seed: u64) -> Pattern {
        Pattern::new(shape, pfns, seed, &tile()).expect("a good tile")
    }

    fn filled(pattern: &Pattern) -> Vec<u64> {
        let mut entries = vec![0; pattern.pfns() as usize];
        pattern.fill(0, &mut entries);
        entries
    }

    /// Lengths of the maximal runs of steps +1 and -1: upwards, downwards. Single pages count as
    /// upwards.
    fn run_lengths(entries: &[u64]) -> (Vec<u64>, Vec<u64>) {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < entries.len() {
            let step = |i: usize| entries.get(i + 1).map(|next| next.wrapping_sub(entries[i]));
            let first = step(at).filter(|&step| step == 1 || step == u64::MAX);
            let mut end = at + 1;
            while first.is_some() && step(end - 1) == first {
                end += 1;
            }
            let runs = if first == Some(u64::MAX) { &mut down } else { &mut up };
            runs.push((end - at) as u64);
            at = end;
        }
        (up, down)
    }

    #[test]
    fn every_frame_once_and_every_way_back() {
        for shape in Shape::ALL {
            for pfns in [512, 1024, 1536, 16_384, 262_144 + 1536] {
                let pattern = pattern(shape, pfns, 3);
                let entries = filled(&pattern);
                let mut seen = vec![false; pattern.frames() as usize];
                for (pfn, &entry) in (0..).zip(&entries) {
                    assert_eq!(pattern.entry(pfn), entry, "{shape}, {pfns} pfns: pfn {pfn}");
                    if entry == u64::MAX {
                        assert_eq!(shape, Shape::Real);
                        continue;
                    }
                    assert!(entry >= FIRST_MFN);
                    let again = std::mem::replace(&mut seen[entry as usize], true);
                    assert!(!again, "{shape}, {pfns} pfns: mfn {entry} twice");
                    assert_eq!(pattern.pfn(entry), Some(pfn), "{shape}, {pfns} pfns");
                }
                let named = |mfn: u64| pattern.pfn(mfn).is_some();
                let unnamed = (0..pattern.frames()).find(|&m| named(m) != seen[m as usize]);
                assert_eq!(unnamed, None, "{shape}, {pfns} pfns: a pfn for a frame without one");
                assert_eq!(pattern.pfn(pattern.frames()), None);
            }
        }
    }

    #[test]
    fn a_seed_decides_and_parts_are_as_the_whole() {
        for shape in Shape::ALL {
            let whole = filled(&pattern(shape, 1 << 20, 1));
            assert_eq!(whole, filled(&pattern(shape, 1 << 20, 1)), "{shape}");
            let same = whole == filled(&pattern(shape, 1 << 20, 2));
            assert_eq!(same, shape == Shape::Real, "{shape}");
            let mut part = vec![0; 3 * FRAME_WORDS];
            pattern(shape, 1 << 20, 1).fill(701, &mut part);
            assert_eq!(part, whole[701 * FRAME_WORDS..704 * FRAME_WORDS], "{shape}");
        }
    }

    #[test]
    fn superpages_are_runs_of_two_mib_allocated_downwards() {
        let entries = filled(&pattern(Shape::Superpage, 1 << 20, 1));
        let (up, down) = run_lengths(&entries);
        assert!(down.is_empty() && up.iter().all(|&length| length == 512));
        let leaves: Vec<_> = entries.chunks(FRAME_WORDS).collect();
        let below = leaves.windows(2).filter(|pair| pair[1][0] + 512 == pair[0][0]).count();
        assert!(below >= leaves.len() - 4, "but for the ends of four gigabytes: {below}");
        assert!(entries.iter().step_by(FRAME_WORDS).all(|entry| entry.is_multiple_of(512)));
    }

    /// `docs/perf.md`, "Runs of real guests".
    #[test]
    fn runs_are_like_those_of_real_guests() {
        let entries = filled(&pattern(Shape::Runs, 1 << 22, 1));
        let (mut whole, mut runs) = (0, 0);
        for leaf in entries.chunks(FRAME_WORDS) {
            let (up, down) = run_lengths(leaf);
            whole += usize::from(up.len() + down.len() == 1);
            runs += up.len() + down.len();
        }
        let leaves = entries.len() / FRAME_WORDS;
        assert!((70..90).contains(&(100 * whole / leaves)), "{whole} of {leaves} leaves are whole");
        assert!((3 * leaves..6 * leaves).contains(&runs), "{runs} runs in {leaves} leaves");
        let (up, down) = run_lengths(&entries);
        let pages = |runs: &[u64], least| runs.iter().filter(|&&l| l >= least).sum::<u64>();
        let big = pages(&up, 512) + pages(&down, 512);
        assert!(big * 4 > entries.len() as u64 * 3, "{big} pages in runs of 2 MiB and more");
        let small = |runs: &[u64]| runs.iter().filter(|&&l| (2..256).contains(&l)).count();
        assert!(small(&down) > small(&up), "small runs mostly go downwards");
        assert!(down.iter().any(|&length| length >= 512), "some large ones, too");
    }

    #[test]
    fn a_ballooned_guest_has_one_swap_for_1024_pages() {
        let pfns = 1 << 22;
        let runs = filled(&pattern(Shape::Runs, pfns, 1));
        let swapped = filled(&pattern(Shape::Ballooned, pfns, 1));
        let changed = runs.iter().zip(&swapped).filter(|(run, now)| run != now).count() as u64;
        let swaps = changed / 2;
        assert!(
            changed.is_multiple_of(2) && swaps.abs_diff(pfns / 1024) < pfns / 16_384,
            "{swaps}"
        );
        let leaves = runs.chunks(FRAME_WORDS).zip(swapped.chunks(FRAME_WORDS));
        let untouched = leaves.filter(|(run, now)| run == now).count() as u64;
        assert!(untouched * 5 > pfns / 512, "scattered by chance: {untouched} leaves without any");
    }

    #[test]
    fn random_frames_have_no_neighbours() {
        let (up, down) = run_lengths(&filled(&pattern(Shape::Random, 1 << 20, 1)));
        assert!(up.iter().chain(&down).all(|&length| length <= 2));
        assert!(up.len() + down.len() > (1 << 20) - 20);
    }

    #[test]
    fn a_real_p2m_is_the_tile_again_and_again() {
        let entries = filled(&pattern(Shape::Real, 4096, 1));
        let (one, two) = (&entries[..1024], &entries[1024..2048]);
        let span = two[0] - one[0];
        for (pfn, (&here, &there)) in one.iter().zip(two).enumerate() {
            assert_eq!(here == u64::MAX, tile()[pfn] == u64::MAX);
            assert!(here == there || here + span == there, "pfn {pfn}");
        }
        let runs = |entries: &[u64]| {
            let (up, down) = run_lengths(entries);
            (up.len(), down.len())
        };
        assert_eq!(runs(one), runs(&tile()));
    }
}
