// SPDX-License-Identifier: MIT OR Apache-2.0
//! The oracle of a huge guest: compares every pfn of the suspended source with the destination.
//! Not here: the migration. The oracle knows no tracker.
//! Units: pfns; positions of the frame list.
//! Threads: leaf by leaf on rayon's pool.
//! Source: the promise (`docs/design.md`): exactly the pfns with a frame, each with what was in it
//! at suspend.

use std::cmp::Ordering as Order;
use std::fmt;

use p2mtrack::leaf::FRAME_WORDS;
use rayon::prelude::*;

use crate::oracle::Verdict;

use super::guest::Guest;
use super::receiver::Stamped;
use super::zone::Part;

/// One difference between source and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A pfn: what is at the source, and at the destination.
    Page {
        /// The pfn.
        pfn: u64,
        /// At the source; `None` without a frame.
        here: Option<Stamped>,
        /// At the destination.
        there: Option<Stamped>,
    },
    /// A page table of the p2m arrived with other PTEs, or not as a table.
    Table {
        /// Its pfn.
        pfn: u64,
        /// The first slot that is wrong.
        slot: usize,
    },
    /// The frame list has another pfn for a leaf, or none.
    List {
        /// The leaf's position.
        leaf: u64,
    },
}

struct Shown(Option<Stamped>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("no frame"),
            Some(Stamped { mfn, stamp }) => write!(f, "mfn {mfn:#x} with stamp {stamp}"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Page { pfn, here, there } => {
                write!(f, "pfn {pfn:#x}: {} at the source, {} arrived", Shown(here), Shown(there))
            }
            Self::Table { pfn, slot } => {
                write!(f, "pfn {pfn:#x}: page table, wrong at slot {slot}")
            }
            Self::List { leaf } => write!(f, "the frame list is wrong about leaf {leaf}"),
        }
    }
}

/// What the oracle found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Pfns with a frame at the source.
    pub frames: u64,
    /// Of these, pfns with a wrong frame, or none, at the destination.
    pub mismatched_pfns: u64,
    /// Of the mismatched, pfns without a frame at the destination.
    pub missing_pfns: u64,
    /// Pfns with a frame only at the destination.
    pub leaked_pfns: u64,
    /// Page tables that arrived wrong.
    pub wrong_tables: u64,
    /// Positions of the frame list that are wrong.
    pub list_mismatches: u64,
    /// The difference at the lowest pfn, or else one of a page table or the list.
    pub first: Option<Difference>,
}

impl Judgement {
    /// The overall verdict.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        if self.mismatched_pfns + self.wrong_tables + self.list_mismatches > 0 {
            Verdict::Corrupt
        } else if self.leaked_pfns > 0 {
            Verdict::Leaked
        } else {
            Verdict::Identical
        }
    }

    /// Both together; `self` is of lower pfns.
    fn and(self, other: Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            mismatched_pfns: self.mismatched_pfns + other.mismatched_pfns,
            missing_pfns: self.missing_pfns + other.missing_pfns,
            leaked_pfns: self.leaked_pfns + other.leaked_pfns,
            wrong_tables: self.wrong_tables + other.wrong_tables,
            list_mismatches: self.list_mismatches + other.list_mismatches,
            first: self.first.or(other.first),
        }
    }
}

/// Compares the source as it is now with the destination.
#[must_use]
pub fn judge(guest: &Guest) -> Judgement {
    let leaves = 0..guest.pfns() / FRAME_WORDS as u64;
    let pages = leaves
        .into_par_iter()
        .map(|position| judge_leaf(guest, position))
        .reduce(Judgement::default, Judgement::and);
    pages.and(judge_tables(guest)).and(judge_list(guest))
}

fn judge_leaf(guest: &Guest, position: u64) -> Judgement {
    let mut built = [0; FRAME_WORDS];
    guest.pattern().fill_leaf(position, &mut built);
    let mut found = Judgement::default();
    for (pfn, built) in (position * FRAME_WORDS as u64..).zip(built) {
        let here = guest.frame(pfn).map(|mfn| guest.stamped(mfn));
        let there = guest.receiver.get(pfn, built);
        found.frames += u64::from(here.is_some());
        if here != there {
            found.mismatched_pfns += u64::from(here.is_some());
            found.missing_pfns += u64::from(there.is_none());
            found.leaked_pfns += u64::from(here.is_none());
            found.first = found.first.or(Some(Difference::Page { pfn, here, there }));
        }
    }
    found
}

/// Compares the page tables; at the destination they hold pfns.
fn judge_tables(guest: &Guest) -> Judgement {
    let pieces = guest.receiver.pieces();
    let mut found = Judgement::default();
    let mut expected = 0;
    for pfn in guest.zone.table_pfns().iter().map(|&pfn| u64::from(pfn)) {
        let Some(Part::Table(level, index)) = guest.zone.part(pfn) else { continue };
        expected += 1;
        let here = guest.zone.table(level, index, |pfn| pfn);
        let slot = match pieces.tables.get(&pfn) {
            None => Some(0),
            Some(there) => here.words.iter().zip(&there.words).position(|(h, t)| h != t),
        };
        if let Some(slot) = slot {
            found.wrong_tables += 1;
            found.first = found.first.or(Some(Difference::Table { pfn, slot }));
        }
    }
    // Any other page table that arrived is none at the source.
    let surplus = pieces.tables.len().saturating_sub(expected);
    if let (Order::Greater, Some(&pfn)) = (surplus.cmp(&0), pieces.tables.keys().next()) {
        found.wrong_tables += surplus as u64;
        found.first = found.first.or(Some(Difference::Table { pfn, slot: 0 }));
    }
    found
}

fn judge_list(guest: &Guest) -> Judgement {
    let (here, there) = (guest.zone.leaf_pfns(), &guest.receiver.pieces().list);
    let wrong = |&leaf: &usize| here.get(leaf) != there.get(leaf);
    let mut positions = (0..here.len().max(there.len())).filter(wrong);
    let first = positions.next().map(|leaf| Difference::List { leaf: leaf as u64 });
    let list_mismatches = u64::from(first.is_some()) + positions.count() as u64;
    Judgement { list_mismatches, first, ..Judgement::default() }
}
