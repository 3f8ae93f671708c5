// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes contents for the frames above the leaves, which a capture only lists, so that a walk finds
//! the leaves.
//! Not here: contents that a recorder has read; those are written as they are.
//! Units: page = virtual frame of the linear list; slots of 8 bytes, in a 32-bit tree 4.
//! Threads: pure.
//! Source: walk order and geometry of the captures; `xen-save-path.md` 2.3.
//!
//! The rule: the tables that a level needs, in the order of what they cover, get the frames that
//! are listed for the level, in the order of the list. If there are fewer frames than tables,
//! tables of equal contents share one (Linux backs holes by one shared table). If that does not
//! suffice, it is an error: no frame is invented. Frames that are left over stay listed, without
//! contents. Slots that lead to no leaf are not present (page tables) or all ones (tree).

use std::collections::HashMap;
use std::sync::Arc;

use p2mtrack::frame::{Mfn, Pfn, Width};
use p2mtrack::leaf::Leaf;

use crate::round::{NONE, Structure, UpperFrame};

/// Present, writable, user, accessed, dirty.
const PTE_FLAGS: u64 = 0x67;

/// Too few frames are listed for the leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooFewFrames {
    /// The level.
    pub(crate) level: u8,
    /// Tables that differ.
    pub(crate) needed: usize,
    /// Frames in the list.
    pub(crate) listed: usize,
}

/// The frames of a structure, and which of them is its root.
#[derive(Debug)]
pub(crate) struct Upper {
    pub(crate) frames: Vec<UpperFrame>,
    pub(crate) root: Option<u64>,
}

/// The shape of a structure over leaves.
struct Shape {
    structure: Structure,
    width: Width,
    levels: std::ops::RangeInclusive<u8>,
    slot_bits: u32,
    /// Index of leaf position 0 among all that the structure can hold.
    first: u64,
}

/// Page tables that map the leaves in order from `vaddr` on: 4 levels, for a 32-bit guest 3.
pub(crate) fn linear(
    width: Width,
    vaddr: u64,
    leaf_mfns: &[u64],
    listed: &[[u64; 3]],
) -> Result<Upper, TooFewFrames> {
    let (levels, address_bits) = match width {
        Width::W32 => (1..=3, 32),
        Width::W64 => (1..=4, 48),
    };
    let first = (vaddr & ((1 << address_bits) - 1)) >> 12;
    let shape = Shape { structure: Structure::Table, width, levels, slot_bits: 9, first };
    build(&shape, leaf_mfns, listed)
}

/// Mid frames and a top frame that name the leaves in order.
pub(crate) fn tree(
    width: Width,
    leaf_mfns: &[u64],
    listed: &[[u64; 3]],
) -> Result<Upper, TooFewFrames> {
    let (structure, slot_bits) = (Structure::Tree, width.entry_bits());
    build(&Shape { structure, width, levels: 2..=3, slot_bits, first: 0 }, leaf_mfns, listed)
}

/// What a table has to hold: slot and mfn, ascending.
type Slots = Vec<(usize, u64)>;

fn build(shape: &Shape, leaf_mfns: &[u64], listed: &[[u64; 3]]) -> Result<Upper, TooFewFrames> {
    let mut contents: HashMap<u64, Slots> = HashMap::new();
    let indexed = leaf_mfns.iter().enumerate().filter(|&(_, &mfn)| mfn != NONE);
    let mut below: Vec<(u64, u64)> =
        indexed.map(|(position, &mfn)| (shape.first + position as u64, mfn)).collect();
    for level in shape.levels.clone() {
        let tables = group(&below, shape.slot_bits);
        let frames: Vec<u64> = listed
            .iter()
            .filter(|triple| triple[0] == u64::from(level))
            .map(|triple| triple[1])
            .collect();
        let chosen = assign(&tables, &frames).map_err(|needed| TooFewFrames {
            level,
            needed,
            listed: frames.len(),
        })?;
        below = tables.iter().zip(&chosen).map(|((index, _), &mfn)| (*index, mfn)).collect();
        contents.extend(chosen.into_iter().zip(tables.into_iter().map(|(_, slots)| slots)));
    }
    // One root, or none for a list without any leaf.
    if below.len() > 1 {
        let level = *shape.levels.end();
        return Err(TooFewFrames { level, needed: below.len(), listed: 1 });
    }
    let frames = listed.iter().map(|triple| frame(shape, triple, &contents)).collect();
    Ok(Upper { frames, root: below.first().map(|&(_, mfn)| mfn) })
}

/// Tables over ascending (index, mfn): the index of each, and its slots.
fn group(below: &[(u64, u64)], slot_bits: u32) -> Vec<(u64, Slots)> {
    let mut tables: Vec<(u64, Slots)> = Vec::new();
    for &(index, mfn) in below {
        let slot = (index & ((1 << slot_bits) - 1)) as usize;
        match tables.last_mut() {
            Some((table, slots)) if *table == index >> slot_bits => slots.push((slot, mfn)),
            _ => tables.push((index >> slot_bits, vec![(slot, mfn)])),
        }
    }
    tables
}

/// A frame for each table. The error is the number of frames that are needed.
fn assign(tables: &[(u64, Slots)], frames: &[u64]) -> Result<Vec<u64>, usize> {
    if tables.len() <= frames.len() {
        return Ok(frames[..tables.len()].to_vec());
    }
    let mut numbers: HashMap<&Slots, usize> = HashMap::new();
    let mut chosen = Vec::with_capacity(tables.len());
    for (_, slots) in tables {
        let fresh = numbers.len();
        chosen.push(*numbers.entry(slots).or_insert(fresh));
    }
    match numbers.len() {
        needed if needed > frames.len() => Err(needed),
        _ => Ok(chosen.into_iter().map(|number| frames[number]).collect()),
    }
}

fn frame(
    shape: &Shape,
    &[level, mfn, pfn]: &[u64; 3],
    contents: &HashMap<u64, Slots>,
) -> UpperFrame {
    let mut content = match shape.structure {
        Structure::Table => Leaf::default(),
        Structure::Tree => Leaf::HOLE,
    };
    for &(slot, mfn) in contents.get(&mfn).into_iter().flatten() {
        match (shape.structure, shape.width) {
            (Structure::Table, _) => content.words[slot] = mfn << 12 | PTE_FLAGS,
            (Structure::Tree, Width::W64) => content.words[slot] = mfn,
            (Structure::Tree, Width::W32) => content.set_word32(slot, mfn as u32),
        }
    }
    UpperFrame {
        structure: shape.structure,
        level: u8::try_from(level).unwrap_or(u8::MAX),
        mfn: Mfn(mfn),
        pfn: (pfn != NONE).then_some(Pfn(pfn)),
        content: Arc::new(content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The leaves that a walk of plain loops finds for positions `0..count`.
    fn walk(
        upper: &Upper,
        shape_bits: u32,
        levels: u32,
        first: u64,
        count: u64,
        width: Width,
    ) -> Vec<u64> {
        let find = |mfn: u64| upper.frames.iter().find(|frame| frame.mfn.0 == mfn);
        (first..first + count)
            .map(|index| {
                let mut at = upper.root.unwrap_or(NONE);
                for level in (0..levels).rev() {
                    let Some(frame) = find(at) else { return NONE };
                    let slot = (index >> (shape_bits * level)) as usize & ((1 << shape_bits) - 1);
                    at = match frame.structure {
                        Structure::Tree => frame.content.entry(width, slot).0,
                        Structure::Table if frame.content.words[slot] & 1 == 0 => NONE,
                        Structure::Table => frame.content.words[slot] >> 12,
                    };
                }
                at
            })
            .collect()
    }

    #[test]
    fn a_walk_finds_exactly_the_leaves() {
        let mut leaves: Vec<u64> = (5000..6000).collect();
        leaves[7] = NONE;
        let vaddr = 0xffff_c900_0000_0000 + (500 << 12);
        let listed = [[4, 1, 11], [3, 2, 12], [2, 3, NONE], [1, 4, 14], [1, 5, 15], [1, 6, 16]];
        let upper = linear(Width::W64, vaddr, &leaves, &listed).expect("suffices");
        let first = (vaddr >> 12) & ((1 << 36) - 1);
        assert_eq!(walk(&upper, 9, 4, first, 1000, Width::W64), leaves);
        assert_eq!(walk(&upper, 9, 4, first + 1000, 1, Width::W64), [NONE]);
        assert_eq!(upper.frames[2].pfn, None);

        let upper = linear(Width::W32, 0xf500_0000, &leaves, &listed[1..]).expect("suffices");
        assert_eq!(walk(&upper, 9, 3, 0xf_5000, 1000, Width::W32), leaves);

        let listed = [[3, 1, 11], [2, 2, 12], [2, 3, 13]];
        let upper = tree(Width::W64, &leaves, &listed).expect("suffices");
        assert_eq!(walk(&upper, 9, 2, 0, 1000, Width::W64), leaves);
        let upper = tree(Width::W32, &leaves, &listed).expect("suffices");
        assert_eq!(walk(&upper, 10, 2, 0, 1000, Width::W32), leaves);
        assert!(upper.frames[2].content.is_hole(), "one mid frame is left over");
    }

    #[test]
    fn equal_tables_share_a_frame_when_there_are_too_few() {
        let leaves = vec![77; 512 * 3];
        let listed = [[3, 1, 1], [2, 2, 2]];
        let upper = tree(Width::W64, &leaves, &listed).expect("one mid for three places");
        assert_eq!(walk(&upper, 9, 2, 0, 1536, Width::W64), leaves);
        let other: Vec<u64> = (0..1536).collect();
        let error = tree(Width::W64, &other, &listed).expect_err("three mids");
        assert_eq!(error, TooFewFrames { level: 2, needed: 3, listed: 1 });
    }

    #[test]
    fn a_list_past_the_root_is_refused_and_no_leaves_need_no_root() {
        let leaves: Vec<u64> = (0..2).collect();
        let listed = [
            [4, 1, 1],
            [4, 9, 9],
            [3, 2, 2],
            [3, 3, 3],
            [2, 4, 4],
            [2, 5, 5],
            [1, 6, 6],
            [1, 7, 7],
        ];
        let error = linear(Width::W64, 0xffff_ffff_ffff_f000, &leaves, &listed);
        assert_eq!(error.expect_err("two roots").level, 4);
        let upper = linear(Width::W64, 0, &[], &listed).expect("nothing needed");
        assert_eq!((upper.root, upper.frames.len()), (None, 8));
    }
}
