// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random recordings for tests: rounds that obey the rules of `round` and are otherwise arbitrary.
//! Not here: the behaviour of a real guest (`guest`).
//! Units: few leaves, so that a test can run hundreds of recordings.
//! Threads: plain values.
//! Source: own.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod guest;
pub(crate) mod walker;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Mfn, Pfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::Roots;
use p2mtrack_trace::{Flavour, Meta, NONE, Round, Structure, UpperFrame, Writer};
use proptest::prelude::*;

/// Frames of the machine in every recording.
pub(crate) const MAX_MFN: u64 = 1 << 12;

/// A META of this width.
pub(crate) fn meta(width: Width) -> Meta {
    Meta {
        name: "life".into(),
        width,
        pfn_count: 1024,
        max_mfn: MAX_MFN,
        kernel: "k".into(),
        xen: "x".into(),
        flavour: Flavour::Both,
        load: String::new(),
        rounds: 0,
        source: "test".into(),
    }
}

/// One thing that happens in a round.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Edit {
    /// A run of entries: where, how long, first value, step.
    Run(usize, usize, u64, u64),
    /// The list gets this many leaves.
    Resize(usize),
    /// A position gets a frame; several positions may get the same.
    Leaf(usize, u64),
    /// A position loses its frame.
    NoLeaf(usize),
    /// An upper frame is added, or its words change.
    Upper(bool, u8, u64, u64),
    /// An upper frame is removed.
    NoUpper(u64),
    /// An exception is added.
    Exception(u64, Option<u64>),
    /// An exception is removed.
    NoException(u64),
    /// A stretch of the bitmap.
    Dirty(u64, u64),
    /// The roots change.
    Roots(u64),
}

fn edit() -> impl Strategy<Value = Edit> {
    let value = || prop_oneof![0..MAX_MFN, Just(NONE), any::<u64>(), 0_u64..1 << 32];
    let step = prop_oneof![Just(1_u64), Just(0), Just(NONE), any::<u64>()];
    let frame = || 0_u64..8; // few, so that they collide
    prop_oneof![
        4 => (0_usize..2048, 1_usize..700, value(), step).prop_map(|(a, b, c, d)| Edit::Run(a, b, c, d)),
        1 => (0_usize..5).prop_map(Edit::Resize),
        2 => (0_usize..5, frame()).prop_map(|(a, b)| Edit::Leaf(a, b)),
        1 => (0_usize..5).prop_map(Edit::NoLeaf),
        2 => (any::<bool>(), 1_u8..5, frame(), any::<u64>()).prop_map(|(a, b, c, d)| Edit::Upper(a, b, c, d)),
        1 => frame().prop_map(Edit::NoUpper),
        2 => (0..MAX_MFN, prop::option::of(0_u64..NONE - 2)).prop_map(|(a, b)| Edit::Exception(a, b)),
        1 => (0..MAX_MFN).prop_map(Edit::NoException),
        3 => (0_u64..5000, 1_u64..600).prop_map(|(a, b)| Edit::Dirty(a, b)),
        1 => any::<u64>().prop_map(Edit::Roots),
    ]
}

/// A whole recording: width and rounds.
pub(crate) fn life() -> impl Strategy<Value = (Width, Vec<Round>)> {
    let rounds = prop::collection::vec((prop::collection::vec(edit(), 0..12), 0_u64..5000), 1..6);
    (prop_oneof![Just(Width::W32), Just(Width::W64)], rounds)
        .prop_map(|(width, rounds)| (width, play(width, &rounds)))
}

fn play(width: Width, script: &[(Vec<Edit>, u64)]) -> Vec<Round> {
    let mut round = Round::default();
    let mut rounds = Vec::new();
    for (edits, dirty_pfns) in script {
        let mut dirty = PfnBitmap::new(*dirty_pfns);
        for &edit in edits {
            apply(width, &mut round, &mut dirty, edit);
        }
        round.log_dirty = (!rounds.is_empty()).then_some(dirty);
        agree(width, &mut round);
        rounds.push(round.clone());
    }
    rounds
}

fn apply(width: Width, round: &mut Round, dirty: &mut PfnBitmap, edit: Edit) {
    match edit {
        Edit::Run(start, length, value, step) => {
            let cells = round.entries.iter_mut().skip(start).take(length);
            for (i, entry) in cells.enumerate() {
                *entry = value.wrapping_add(step.wrapping_mul(i as u64));
            }
        }
        Edit::Resize(leaves) => {
            round.leaf_mfns.resize(leaves, NONE);
            round.entries.resize(leaves * width.entries(), NONE);
        }
        Edit::Leaf(at, mfn) => {
            if let Some(leaf) = round.leaf_mfns.get_mut(at) {
                *leaf = mfn;
            }
        }
        Edit::NoLeaf(at) => {
            if let Some(leaf) = round.leaf_mfns.get_mut(at) {
                *leaf = NONE;
            }
        }
        Edit::Upper(tree, level, mfn, word) => add_upper(round, tree, level, mfn, word),
        Edit::NoUpper(mfn) => round.upper.retain(|frame| frame.mfn.0 != mfn),
        Edit::Exception(mfn, pfn) => _ = round.exceptions.insert(mfn, pfn),
        Edit::NoException(mfn) => _ = round.exceptions.remove(&mfn),
        Edit::Dirty(start, length) => {
            for pfn in start..start + length {
                dirty.set(Pfn(pfn));
            }
        }
        Edit::Roots(word) => {
            round.before = round.after;
            round.after = Roots { generation: word, pfn_count: word >> 3, ..round.after };
        }
    }
}

fn add_upper(round: &mut Round, tree: bool, level: u8, mfn: u64, word: u64) {
    let structure = if tree { Structure::Tree } else { Structure::Table };
    let level = if tree { level.clamp(2, 3) } else { level };
    let at = match round.upper.iter().position(|frame| frame.mfn.0 == mfn) {
        Some(at) => at,
        None => {
            let (mfn, content) = (Mfn(mfn), Arc::new(Leaf::default()));
            round.upper.push(UpperFrame { structure, level, mfn, pfn: None, content });
            round.upper.len() - 1
        }
    };
    let content = Arc::make_mut(&mut round.upper[at].content);
    for i in 0..word % 7 {
        content.words[(word >> 9) as usize % 500 + i as usize] = word.wrapping_add(i << 12);
    }
}

/// Makes the round obey the rules: one pfn and one content for a frame, holes where there is no
/// leaf, words that fit.
fn agree(width: Width, round: &mut Round) {
    let entries = width.entries();
    if width == Width::W32 {
        for entry in &mut round.entries {
            *entry = if *entry as u32 == u32::MAX { NONE } else { *entry & 0xffff_ffff };
        }
    }
    let pfn_of = |mfn: u64| if mfn.is_multiple_of(3) { NONE } else { mfn * 700 };
    let mut first = HashMap::new();
    for (at, &mfn) in round.leaf_mfns.iter().enumerate() {
        if mfn == NONE {
            round.entries[at * entries..][..entries].fill(NONE);
            continue;
        }
        let from = *first.entry(mfn).or_insert(at);
        round.entries.copy_within(from * entries..(from + 1) * entries, at * entries);
    }
    round.leaf_pfns =
        round.leaf_mfns.iter().map(|&m| if m == NONE { NONE } else { pfn_of(m) }).collect();
    for frame in &mut round.upper {
        let pfn = pfn_of(frame.mfn.0);
        frame.pfn = (pfn != NONE).then_some(Pfn(pfn));
    }
    let listed: BTreeSet<u64> =
        round.leaf_mfns.iter().copied().chain(round.upper.iter().map(|f| f.mfn.0)).collect();
    round.exceptions.retain(|mfn, _| !listed.contains(mfn));
}

/// The trace of a recording.
pub(crate) fn write(width: Width, rounds: &[Round]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &meta(width)).expect("begins");
    for round in rounds {
        writer.round(round).expect("obeys the rules");
    }
    writer.finish().expect("ends")
}
