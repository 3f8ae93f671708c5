// SPDX-License-Identifier: MIT OR Apache-2.0
//! The oracle: compares what the receiver holds with what the source was. It knows no tracker.
//! Not here: how source and receiver came to be so.
//! Units: pfns.
//! Threads: plain values.
//! Source: the promise in the project's design, section 1.

use std::fmt;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{FrameType, LeafIndex, Pfn};
use p2mtrack::leaf::Leaf;
use p2mtrack::table::PTE_PRESENT;

use crate::receiver::{Received, Receiver};
use crate::snapshot::{Snapshot, TableTruth};
use crate::words::Content;

/// Differences that a judgement describes.
const DIFFERENCES_MAX: usize = 8;

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Frame for frame the same guest.
    Identical,
    /// A page is wrong, or missing.
    Corrupt,
    /// All pages are right, but the destination holds frames that the source does not.
    Leaked,
}

impl Verdict {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identical => "identical",
            Self::Corrupt => "corrupt",
            Self::Leaked => "leaked",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The pfn, or the position in the frame list.
    pub pfn: u64,
    /// What is different.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Pfn(self.pfn), self.what)
    }
}

/// What the oracle found.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The overall verdict.
    pub verdict: Verdict,
    /// Pfns with a frame at the source and a wrong one, or none, at the destination.
    pub mismatched_pfns: u64,
    /// Of those, pfns that the destination has no frame for.
    pub missing_pfns: u64,
    /// Pfns with a frame at the destination only.
    pub leaked_pfns: u64,
    /// Positions of the frame list that differ.
    pub list_mismatches: u64,
    /// Positions of the frame list past the source's count: wrong only where they overwrite a page.
    pub list_surplus: u64,
    /// Pfns with undefined contents, which were not compared.
    pub undefined_not_compared: u64,
    /// PTEs to frames of no pfn that arrived not present, by policy.
    pub cleared_ptes: Vec<(Pfn, u16)>,
    /// Pfns of a dishonest guest that can't be judged: p2m and m2p disagree at suspend.
    pub ambiguous_pfns: u64,
    /// The first few differences.
    pub differences: Vec<Difference>,
}

impl Judgement {
    fn differ(&mut self, pfn: u64, what: impl FnOnce() -> String) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(Difference { pfn, what: what() });
        }
    }
}

/// Compares the source at suspend with the receiver after it has written its own p2m.
pub(crate) fn judge(source: &Snapshot, receiver: &Receiver) -> Judgement {
    let mut judgement = Judgement {
        verdict: Verdict::Identical,
        mismatched_pfns: 0,
        missing_pfns: 0,
        leaked_pfns: 0,
        list_mismatches: 0,
        list_surplus: 0,
        undefined_not_compared: 0,
        cleared_ptes: Vec::new(),
        ambiguous_pfns: source.ambiguous.len() as u64,
        differences: Vec::new(),
    };
    if let Some(broken) = &source.broken {
        judgement.list_mismatches += 1;
        judgement
            .differ(0, || format!("the source shows {broken}, and yet the migration completed"));
    }
    if let Some((held, named)) = source.lost() {
        judgement.list_mismatches += 1;
        judgement.differ(0, || {
            format!("the p2m names {named} of {held} frames, and yet the migration completed")
        });
    }
    let pfns = source.pfns().max(receiver.pfns());
    let (overwritten, holes) = (listed(receiver.list(), pfns), hole_leaves(receiver, pfns));
    compare_lists(source, receiver, &holes, &mut judgement);
    let leaves = listed(&source.list, pfns);
    let hole = Content::digest(&Leaf::HOLE);
    for pfn in 0..pfns {
        let there = receiver.get(pfn).map(|mut page| {
            if overwritten.get(Pfn(pfn)) {
                page.content = if holes.get(Pfn(pfn)) { hole } else { Content::P2M_LEAF };
            }
            page
        });
        compare_pfn(source, receiver, pfn, there, leaves.get(Pfn(pfn)), &mut judgement);
    }
    judgement.verdict = if judgement.mismatched_pfns + judgement.list_mismatches > 0 {
        Verdict::Corrupt
    } else if judgement.leaked_pfns > 0 {
        Verdict::Leaked
    } else {
        Verdict::Identical
    };
    judgement
}

/// The pfns of a frame list as a set.
fn listed(list: &[Option<Pfn>], pfns: u64) -> PfnBitmap {
    let mut set = PfnBitmap::new(pfns);
    for &pfn in list.iter().flatten() {
        set.set(pfn);
    }
    set
}

/// Leaves that the receiver fills with invalid entries only: it has no frame for any of their pfns.
fn hole_leaves(receiver: &Receiver, pfns: u64) -> PfnBitmap {
    let mut holes = listed(receiver.list(), pfns);
    for (position, pfn) in receiver.list().iter().enumerate() {
        let first = receiver.width().first_pfn(LeafIndex(position as u64)).0;
        let end = first + receiver.width().entries() as u64;
        if let Some(pfn) = pfn
            && (first..end).any(|pfn| receiver.get(pfn).is_some())
        {
            holes.clear(*pfn);
        }
    }
    holes
}

fn compare_lists(
    source: &Snapshot,
    receiver: &Receiver,
    holes: &PfnBitmap,
    judgement: &mut Judgement,
) {
    let ours = &source.list;
    let counted = source.width.leaves(source.pfn_count);
    let surplus = receiver.list().len().saturating_sub(counted as usize);
    let (theirs, past) = receiver.list().split_at(receiver.list().len() - surplus);
    // A stream can't leave a position out: it names a leaf that the receiver fills with invalid
    // entries only.
    let is_hole = |leaf: Option<Pfn>| {
        receiver.names_holes() && leaf.is_some_and(|pfn| pfn.0 < holes.pfns() && holes.get(pfn))
    };
    judgement.list_surplus = past.iter().filter(|leaf| !is_hole(**leaf)).count() as u64;
    for position in 0..ours.len().max(theirs.len()) {
        let at = |list: &[Option<Pfn>]| list.get(position).copied().flatten();
        let (here, there) = (at(ours), at(theirs));
        if here != there && !(here.is_none() && is_hole(there)) {
            judgement.list_mismatches += 1;
            judgement.differ(position as u64, || {
                format!("leaf {position} is at {here:?} and the frame list says {there:?}")
            });
        }
    }
    let covered = source.width.leaves(receiver.list_pfns());
    // A count far past all leaves may be cut, because the list has to be stored.
    if source.count_is_true && covered < counted {
        judgement.list_mismatches += 1;
        let (here, there) = (source.pfn_count, receiver.list_pfns());
        judgement.differ(here, || format!("the frame list covers {there} pfns and the p2m {here}"));
    }
}

fn compare_pfn(
    source: &Snapshot,
    receiver: &Receiver,
    pfn: u64,
    there: Option<Received>,
    is_leaf: bool,
    judgement: &mut Judgement,
) {
    let (here, there) = match (source.get(pfn), there) {
        (None, None) => return,
        (None, Some(page)) => {
            if !source.ambiguous.contains(&pfn) {
                judgement.leaked_pfns += 1;
                judgement.differ(pfn, || format!("leaked, with {}", page.content));
            }
            return;
        }
        (Some(page), None) => {
            judgement.mismatched_pfns += 1;
            judgement.missing_pfns += 1;
            judgement.differ(pfn, || format!("missing: {}", page.content));
            return;
        }
        (Some(here), Some(there)) => (here, there),
    };
    if here.kind != there.kind {
        judgement.mismatched_pfns += 1;
        judgement.differ(pfn, || format!("type {:?} arrived as {:?}", here.kind, there.kind));
    } else if let (FrameType::Table { level, .. }, Some(truth)) =
        (here.kind, source.tables.get(&pfn))
    {
        let wrong = wrong_pte(receiver, pfn, truth, judgement);
        if let Some(what) = wrong {
            judgement.mismatched_pfns += 1;
            judgement.differ(pfn, || format!("level {level} table, {what}"));
        }
    } else if here.content == Content::UNDEFINED && there.content != Content::P2M_LEAF {
        judgement.undefined_not_compared += 1;
    } else if here.content != there.content && !is_leaf {
        judgement.mismatched_pfns += 1;
        judgement.differ(pfn, || format!("{} arrived as {}", here.content, there.content));
    }
}

/// The first PTE that means something else. PTEs that a policy cleared are listed and right.
fn wrong_pte(
    receiver: &Receiver,
    pfn: u64,
    truth: &TableTruth,
    judgement: &mut Judgement,
) -> Option<String> {
    let Some(arrived) = receiver.table(pfn) else { return Some("without its PTEs".to_owned()) };
    for (slot, (&here, &there)) in truth.words.words.iter().zip(&arrived.words).enumerate() {
        let slot = slot as u16;
        let nothing = (here | there) & PTE_PRESENT == 0;
        if truth.ambiguous.contains(&slot) {
            continue;
        }
        if truth.unresolved.contains(&slot) {
            if there & PTE_PRESENT != 0 {
                return Some(format!(
                    "slot {slot} names no pfn at the source, and {there:#x} arrived"
                ));
            }
            judgement.cleared_ptes.push((Pfn(pfn), slot));
        } else if here != there && !nothing {
            return Some(format!("slot {slot}: {here:#x} arrived as {there:#x}"));
        }
    }
    None
}
