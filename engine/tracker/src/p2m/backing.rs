// SPDX-License-Identifier: MIT OR Apache-2.0
//! The backing pfn of each p2m frame: the link from a log-dirty bit to a leaf or an upper frame.
//! Not here: the frames themselves (`layout`).
//! Units: pfns; a frame is known by its number in the order of all frames, leaves first.
//! Threads: one owner.
//! Source: Xen marks a write under `m2p[frame]` of that moment (`paging_mark_dirty`), so the m2p,
//! not the p2m, is asked.
//!
//! All of it is plain arrays, built when a walk is adopted, because a p2m of 4 TiB has two million
//! leaves. Few frames get another pfn between walks: those are kept apart, together with all frames
//! of a pfn that one of them left. So in any case a move costs one search, and finding a pfn's
//! frames costs one step for each.

use std::collections::BTreeSet;

use crate::bitmap::{LINE_PFNS, bits_of, words_of};
use crate::frame::{Mfn, Pfn};
use crate::intake::Log;
use crate::pfn_set::PfnSet;

/// One frame that the p2m is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum P2mFrame {
    /// A leaf.
    Leaf(Mfn),
    /// An upper frame of this level.
    Upper(u8, Mfn),
}

impl P2mFrame {
    /// Its frame.
    pub(crate) const fn mfn(self) -> Mfn {
        match self {
            Self::Leaf(mfn) | Self::Upper(_, mfn) => mfn,
        }
    }
}

/// Counts a visit of a frame, for tests.
#[cfg(test)]
fn visited() {
    tests::VISITS.set(tests::VISITS.get() + 1);
}

#[cfg(not(test))]
const fn visited() {}

/// No pfn: no log-dirty bit marks writes to the frame.
const NO_PFN: Pfn = Pfn(u64::MAX);

/// Pfn of each frame, and the frames of each pfn.
#[derive(Debug, Default)]
pub(crate) struct BackingPfns {
    /// In ascending order.
    frames: Vec<P2mFrame>,
    /// The pfn of each frame.
    pfns: Vec<Pfn>,
    without_pfn: BTreeSet<usize>,
    /// The pfn that each frame had when the walk was adopted, and the frames in the order of these
    /// pfns.
    settled: Vec<Pfn>,
    by_pfn: Vec<u32>,
    /// For each line of pfns the first of `by_pfn` that is not before it.
    lines: Vec<u32>,
    /// Pfns that frames left since, and the frames of such pfns, or with a pfn that they got since.
    loose: BTreeSet<Pfn>,
    moved: BTreeSet<(Pfn, u32)>,
    /// The pfns that back any frame.
    pfns_with_frames: PfnSet,
}

impl BackingPfns {
    /// Installs the frames of a walk, in ascending order. The pfns of new ones are asked for; the
    /// others keep theirs. Returns whether a leaf is new.
    pub(crate) fn install(
        &mut self,
        frames: Vec<P2mFrame>,
        ask: impl Fn(Mfn) -> Option<Pfn>,
    ) -> bool {
        let (mut old, mut new_leaf) = (0, false);
        let pfns = frames.iter().map(|frame| {
            while self.frames.get(old).is_some_and(|known| known < frame) {
                old += 1;
            }
            if self.frames.get(old) == Some(frame) {
                return self.pfns[old];
            }
            new_leaf |= matches!(frame, P2mFrame::Leaf(_));
            ask(frame.mfn()).unwrap_or(NO_PFN)
        });
        self.pfns = pfns.collect();
        self.settled.clone_from(&self.pfns);
        self.frames = frames;
        self.index();
        new_leaf
    }

    /// Builds the indexes from frames and pfns.
    fn index(&mut self) {
        let held = |index: &u32| self.pfns[*index as usize] != NO_PFN;
        self.by_pfn = (0..self.frames.len() as u32).filter(held).collect();
        self.by_pfn.sort_unstable_by_key(|&index| (self.pfns[index as usize], index));
        self.without_pfn =
            (0..self.frames.len()).filter(|&index| self.pfns[index] == NO_PFN).collect();
        self.loose.clear();
        self.moved.clear();
        self.pfns_with_frames = PfnSet::default();
        self.lines.clear();
        let Some(&last) = self.by_pfn.last() else { return };
        self.pfns_with_frames.cover((self.pfns[last as usize].0 + 1).next_multiple_of(64));
        for (number, &index) in self.by_pfn.iter().enumerate() {
            let pfn = self.pfns[index as usize];
            self.pfns_with_frames.set(pfn);
            let line = (pfn.0 / LINE_PFNS) as usize;
            self.lines.resize(self.lines.len().max(line + 1), number as u32);
        }
    }

    /// Sets the pfn under which writes to a frame are marked. With `None`, or a pfn from `limit`
    /// on, it has no pfn: it counts as dirty in every round. Returns whether anything changed.
    pub(crate) fn set(&mut self, index: usize, pfn: Option<Pfn>, limit: u64) -> bool {
        let pfn = pfn.filter(|pfn| pfn.0 < limit).unwrap_or(NO_PFN);
        let before = std::mem::replace(&mut self.pfns[index], pfn);
        if before == pfn {
            return false;
        }
        self.leave(index, before);
        self.enter(index, pfn);
        true
    }

    fn leave(&mut self, index: usize, pfn: Pfn) {
        if pfn == NO_PFN {
            self.without_pfn.remove(&index);
            return;
        }
        if self.settled[index] == pfn {
            self.loosen(pfn);
        }
        self.moved.remove(&(pfn, index as u32));
        if self.at(pfn).next().is_none() {
            self.pfns_with_frames.clear(pfn);
        }
    }

    fn enter(&mut self, index: usize, pfn: Pfn) {
        if pfn == NO_PFN {
            self.without_pfn.insert(index);
            return;
        }
        self.moved.insert((pfn, index as u32));
        self.pfns_with_frames.cover((pfn.0 + 1).next_multiple_of(64));
        self.pfns_with_frames.set(pfn);
    }

    /// Before the first of a pfn's frames leaves it: moves all of them to `moved`. Once a walk for
    /// each pfn.
    fn loosen(&mut self, pfn: Pfn) {
        if !self.loose.contains(&pfn) {
            let settled: Vec<_> = self.settled_at(self.first_of(pfn), pfn).collect();
            self.moved.extend(settled.into_iter().map(|index| (pfn, index)));
            self.loose.insert(pfn);
        }
    }

    /// Number of frames.
    pub(crate) const fn len(&self) -> usize {
        self.frames.len()
    }

    /// A frame.
    pub(crate) fn frame(&self, index: usize) -> P2mFrame {
        self.frames[index]
    }

    /// The number of a frame, if it is known.
    pub(crate) fn find(&self, frame: P2mFrame) -> Option<usize> {
        self.frames.binary_search(&frame).ok()
    }

    /// The pfn of a frame, if it has one.
    pub(crate) fn pfn(&self, index: usize) -> Option<Pfn> {
        Some(self.pfns[index]).filter(|&pfn| pfn != NO_PFN)
    }

    /// P2m frames whose pfn has to be asked for again in every round: upper frames, and leaves
    /// without a pfn.
    pub(crate) fn to_ask(&self) -> Vec<usize> {
        let tables = self.frames.partition_point(|frame| matches!(frame, P2mFrame::Leaf(_)));
        let leaves = self.without_pfn.iter().copied().filter(|&index| index < tables);
        (tables..self.frames.len()).chain(leaves).collect()
    }

    /// The frames that `pfn` backs.
    pub(crate) fn at(&self, pfn: Pfn) -> impl Iterator<Item = usize> + '_ {
        self.from(self.first_of(pfn), pfn)
    }

    /// The same; `guess` is where they probably begin in `by_pfn`.
    fn from(&self, guess: usize, pfn: Pfn) -> impl Iterator<Item = usize> + '_ {
        let settled =
            |number: usize| self.by_pfn.get(number).map(|&index| self.settled[index as usize]);
        let before = guess.checked_sub(1).and_then(settled);
        // Pfns that got frames since have bits, too, but no place in `by_pfn`.
        let right = guess <= self.by_pfn.len()
            && settled(guess).is_none_or(|at| at >= pfn)
            && before.is_none_or(|before| before < pfn);
        let first = if right { guess } else { self.first_of(pfn) };
        let settled = if self.loose.contains(&pfn) { self.by_pfn.len() } else { first };
        let moved = self.moved.range((pfn, 0)..=(pfn, u32::MAX)).map(|&(_, index)| index);
        let found = self.settled_at(settled, pfn).chain(moved.inspect(|_| visited()));
        found.map(|index| index as usize)
    }

    /// The frames that had `pfn` when the walk was adopted, if they begin at `first` in
    /// `by_pfn`.
    fn settled_at(&self, first: usize, pfn: Pfn) -> impl Iterator<Item = u32> + '_ {
        let frames = self.by_pfn[first..].iter().copied();
        frames.take_while(move |&index| {
            visited();
            self.settled[index as usize] == pfn
        })
    }

    /// Where the frames of a pfn begin in `by_pfn`, if any are there.
    fn first_of(&self, pfn: Pfn) -> usize {
        let line = (pfn.0 / LINE_PFNS) as usize;
        let at =
            |line: usize| self.lines.get(line).map_or(self.by_pfn.len(), |&first| first as usize);
        let (first, end) = (at(line), at(line + 1));
        // Mostly one frame a pfn, and none moved: then the bits before it say where it is.
        let words = words_of(line).start..(pfn.0 / 64) as usize;
        let below = self.pfns_with_frames.word(words.end) & ((1 << (pfn.0 % 64)) - 1);
        let ones = words.map(|word| self.pfns_with_frames.word(word).count_ones()).sum::<u32>()
            + below.count_ones();
        let guess = first + ones as usize;
        let settled = |number: usize| self.settled[self.by_pfn[number] as usize];
        if guess < end && settled(guess) == pfn && (guess == first || settled(guess - 1) < pfn) {
            return guess;
        }
        let line = &self.by_pfn[first..end];
        first + line.partition_point(|&index| self.settled[index as usize] < pfn)
    }

    /// The set of backing pfns.
    pub(crate) const fn pfns_with_frames(&self) -> &PfnSet {
        &self.pfns_with_frames
    }

    /// The frames whose pfn is in `dirty`, and those without a pfn.
    pub(crate) fn dirty(&self, dirty: &Log) -> Vec<usize> {
        let mut found: Vec<_> = self.without_pfn.iter().copied().collect();
        found.extend(self.marked(dirty));
        found
    }

    /// The frames whose pfn is in `dirty`.
    pub(crate) fn marked<'a>(&'a self, dirty: &'a Log) -> impl Iterator<Item = usize> + 'a {
        dirty.dirty_words(self.pfns_with_frames.lines()).flat_map(move |(index, word)| {
            let held = self.pfns_with_frames.word(index);
            let bits = bits_of(held & word);
            // The frames of one word follow each other.
            let first = if held & word == 0 { 0 } else { self.first_of(Pfn(64 * index as u64)) };
            bits.flat_map(move |bit| {
                let below = held & ((1 << bit) - 1);
                self.from(first + below.count_ones() as usize, Pfn(64 * index as u64 + bit))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::resend::ResendBitmap;
    use crate::shard::Shards;
    use proptest::prelude::*;

    const LIMIT: u64 = 5000;

    thread_local! {
        /// Visits of frames, in all.
        pub(super) static VISITS: Cell<u64> = const { Cell::new(0) };
    }

    fn log(pfns: &[u64]) -> Log {
        let (mut log, shards) = (Log::default(), Shards::new(1).expect("the caller's thread"));
        log.reset(1 << 15);
        for &pfn in pfns {
            log.fill().set(Pfn(pfn));
        }
        log.owe(&mut ResendBitmap::new(0), &shards);
        log
    }

    #[test]
    fn a_dirty_pfn_finds_its_frames_and_those_without_a_pfn_are_always_dirty() {
        let (leaf, lost, table) =
            (P2mFrame::Leaf(Mfn(1)), P2mFrame::Leaf(Mfn(3)), P2mFrame::Upper(1, Mfn(2)));
        let mut backing = BackingPfns::default();
        let ask = |mfn: Mfn| Some(Pfn(100)).filter(|_| mfn != Mfn(3));
        assert!(backing.install(vec![leaf, lost, table], ask));
        assert_eq!(backing.dirty(&log(&[])), [1]);
        assert_eq!(backing.dirty(&log(&[100])), [1, 0, 2]);
        assert_eq!(backing.to_ask(), [2, 1]);
        assert!(backing.set(0, Some(Pfn(7)), LIMIT) && !backing.set(0, Some(Pfn(7)), LIMIT));
        assert_eq!((backing.dirty(&log(&[100])), backing.pfn(0)), (vec![1, 2], Some(Pfn(7))));
        assert!(!backing.install(vec![leaf, table], |_| None), "both are known");
        assert_eq!(backing.dirty(&log(&[7, 100])), [0, 1]);
        assert_eq!((backing.find(table), backing.find(lost)), (Some(1), None));
        assert!(backing.set(1, Some(Pfn(LIMIT)), LIMIT));
        assert!(!backing.pfns_with_frames().get(Pfn(100)) && backing.pfn(1).is_none());
    }

    #[test]
    fn a_frame_under_the_first_or_the_last_pfn_of_a_word_is_found() {
        for pfn in [0, 63, 64, 511, 512] {
            let mut backing = BackingPfns::default();
            backing.install(vec![P2mFrame::Leaf(Mfn(1))], |_| Some(Pfn(pfn)));
            assert_eq!(backing.dirty(&log(&[pfn])), [0]);
            let moved = pfn + 1024;
            assert!(backing.set(0, Some(Pfn(moved)), LIMIT));
            assert_eq!(backing.dirty(&log(&[moved])), [0]);
        }
    }

    #[test]
    fn pfns_that_got_frames_after_the_walk_hide_no_others_of_their_word() {
        for settled in [vec![10, 10, 20, 1000, 1001], vec![10, 20, 1000, 1001]] {
            let frames = (0..settled.len() as u64).map(|index| P2mFrame::Leaf(Mfn(index)));
            let mut backing = BackingPfns::default();
            backing.install(frames.collect(), |mfn| Some(Pfn(settled[mfn.0 as usize])));
            let mut now = settled.clone();
            for (index, pfn) in [(settled.len() - 2, 3), (settled.len() - 1, 4)] {
                backing.set(index, Some(Pfn(pfn)), LIMIT);
                now[index] = pfn;
                for pfn in [3, 4, 10, 20] {
                    let expected: Vec<_> = (0..now.len()).filter(|&i| now[i] == pfn).collect();
                    assert_eq!(backing.at(Pfn(pfn)).collect::<Vec<_>>(), expected);
                    assert_eq!(backing.dirty(&log(&[pfn])), expected);
                }
            }
        }
    }

    /// Frames that move as their guest likes. Each move, and each frame that is found, costs a
    /// visit or two, however many others are or were at the same pfn.
    #[test]
    fn many_parts_that_get_one_pfn_and_leave_it_cost_a_look_each() {
        const PARTS: u64 = 2000;
        let frames: Vec<_> = (0..PARTS).map(|index| P2mFrame::Leaf(Mfn(index))).collect();
        type Hop = fn(u64, u64) -> Option<Pfn>;
        let hops: [(&str, Hop); 6] = [
            ("in and out", |frame, turn| Some(Pfn(if turn % 2 == 1 { 7 } else { frame }))),
            ("without_pfn and out", |_, turn| Some(Pfn(7)).filter(|_| turn % 2 == 1)),
            ("between two", |_, turn| Some(Pfn(7 + turn % 2))),
            ("a chain", |frame, turn| Some(Pfn(frame + turn))),
            ("one by one", |frame, turn| Some(Pfn(if frame % 5 < turn { 3000 } else { 7 }))),
            ("a frame of a pfn", |frame, turn| Some(Pfn(if frame == turn { frame } else { 4000 }))),
        ];
        for (name, hop) in hops {
            let mut backing = BackingPfns::default();
            backing.install(frames.clone(), |mfn| hop(mfn.0, 0));
            VISITS.set(0);
            for turn in 1..6 {
                let mut found = 0;
                for frame in 0..PARTS {
                    let here = backing.pfn(frame as usize);
                    backing.set(frame as usize, hop(frame, turn), LIMIT);
                    // The pfn that it left, and the one that it got: a caller asks whether they
                    // have any frame.
                    for pfn in [here, hop(frame, turn)].into_iter().flatten() {
                        found += u64::from(backing.at(pfn).next().is_some());
                    }
                }
                found += backing.at(Pfn(7)).count() as u64 + backing.at(Pfn(4000)).count() as u64;
                let all: Vec<_> = (0..LIMIT).collect();
                found += backing.marked(&log(&all)).count() as u64;
                let visits = VISITS.replace(0);
                assert!(visits <= 4 * (PARTS + found), "{name}: {visits} visits, {found} found");
            }
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_list_of_pairs(
            first in prop::collection::vec(prop::option::of(0_u64..2000), 1..60),
            moves in prop::collection::vec((0_usize..60, prop::option::of(0_u64..2000)), 0..60),
            again in any::<bool>(),
        ) {
            let mut model = first.clone();
            let frames: Vec<_> = (0..first.len()).map(|i| P2mFrame::Leaf(Mfn(i as u64))).collect();
            let mut backing = BackingPfns::default();
            backing.install(frames.clone(), |mfn| first[mfn.0 as usize].map(Pfn));
            for (index, pfn) in moves {
                let index = index % model.len();
                let changed = backing.set(index, pfn.map(Pfn), LIMIT);
                prop_assert_eq!(changed, std::mem::replace(&mut model[index], pfn) != pfn);
            }
            if again {
                prop_assert!(!backing.install(frames, |_| None));
            }
            let every: Vec<_> = (0..2010).collect();
            let marked: BTreeSet<_> = backing.marked(&log(&every)).collect();
            let held: BTreeSet<_> = (0..model.len()).filter(|&i| model[i].is_some()).collect();
            prop_assert_eq!(marked, held);
            for pfn in 0..2010 {
                let mut found: Vec<_> = backing.at(Pfn(pfn)).collect();
                found.sort_unstable();
                let expected: Vec<_> = (0..model.len()).filter(|&i| model[i] == Some(pfn)).collect();
                prop_assert_eq!(backing.pfns_with_frames().get(Pfn(pfn)), !expected.is_empty());
                prop_assert_eq!(found, expected);
            }
            let without_pfn: Vec<_> = (0..model.len()).filter(|&i| model[i].is_none()).collect();
            prop_assert_eq!(backing.dirty(&log(&[])), without_pfn);
        }
    }
}
