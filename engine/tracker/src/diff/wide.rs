// SPDX-License-Identifier: MIT OR Apache-2.0
//! Portable vectors: a line of 64 bytes at a time, compared in lanes of 32 bits.
//! Not here: instructions of one CPU; the crate `wide` picks what the target has at build time.
//! Units: as in `diff`; a line is 8 entries of a 64-bit leaf, 16 of a 32-bit one.
//! Threads: pure.
//! Source: `wide` 1.7.1, `u32x16`: `to_bitmask` takes the top bit of each lane, lane 0 first.

use bytemuck::cast_ref;
use wide::u32x16;

use crate::form::Base;
use crate::frame::{FRAME_BYTES, Width};
use crate::leaf::{Leaf, LeafMask, MASK_WORDS};

/// Vectors of 64 bytes in a leaf.
const LINES: usize = FRAME_BYTES / 64;

/// On a little-endian machine, the 32-bit lane 2k in memory is the low half of word k, which is
/// slot 2k; elsewhere it is slot 2k + 1. For a 64-bit entry the order of the halves is irrelevant.
const LANES_ARE_SLOTS: bool = cfg!(target_endian = "little");

pub(super) fn diff(width: Width, live: &Leaf, base: &Base<'_>) -> LeafMask {
    match *base {
        Base::Hole => against(width, live, |_| u32x16::splat(u32::MAX)),
        Base::Raw(copy) => {
            let lines = lines(copy);
            against(width, live, |line| lines[line])
        }
        _ => {
            let mut predicted = Leaf::default();
            base.decode(width, &mut predicted);
            diff(width, live, &Base::Raw(&predicted))
        }
    }
}

/// Compares each line with the expected one.
fn against(width: Width, live: &Leaf, expected: impl Fn(usize) -> u32x16) -> LeafMask {
    let live = lines(live);
    let lanes = unequal_lanes(|line| live[line].simd_eq(expected(line)));
    match width {
        Width::W64 => fold_pairs(&lanes),
        Width::W32 if LANES_ARE_SLOTS => lanes,
        Width::W32 => swap_pairs(&lanes),
    }
}

/// The leaf as vectors. The cast can't fail: a leaf is aligned to 64 bytes.
fn lines(leaf: &Leaf) -> &[u32x16; LINES] {
    cast_ref(&leaf.words)
}

/// One bit per lane of 32 bits that is not `equal`, 16 a line.
fn unequal_lanes(equal: impl Fn(usize) -> u32x16) -> LeafMask {
    let mut mask = LeafMask::NONE;
    for line in 0..LINES {
        let unequal = u64::from(equal(line).to_bitmask() ^ 0xffff);
        mask.words[line / 4] |= unequal << (16 * (line % 4));
    }
    mask
}

/// One bit per entry of 64 bits, from the bits of its halves. These leaves use lanes of 32 bits
/// too, because SSE2 compares no wider ones.
fn fold_pairs(lanes: &LeafMask) -> LeafMask {
    let mut mask = LeafMask::NONE;
    for index in 0..MASK_WORDS {
        if lanes.words[index] != 0 {
            mask.words[index / 2] |= either_of_pairs(lanes.words[index]) << (32 * (index % 2));
        }
    }
    mask
}

/// Each bit in the place of its neighbour.
fn swap_pairs(lanes: &LeafMask) -> LeafMask {
    const EVEN: u64 = 0x5555_5555_5555_5555;
    LeafMask { words: lanes.words.map(|bits| (bits & EVEN) << 1 | bits >> 1 & EVEN) }
}

/// Bit i of the result: bit 2i or bit 2i + 1 of `bits`.
const fn either_of_pairs(bits: u64) -> u64 {
    let bits = (bits | bits >> 1) & 0x5555_5555_5555_5555;
    let bits = (bits | bits >> 1) & 0x3333_3333_3333_3333;
    let bits = (bits | bits >> 2) & 0x0f0f_0f0f_0f0f_0f0f;
    let bits = (bits | bits >> 4) & 0x00ff_00ff_00ff_00ff;
    let bits = (bits | bits >> 8) & 0x0000_ffff_0000_ffff;
    (bits | bits >> 16) & 0x0000_0000_ffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only a big-endian machine uses it, and none runs these tests.
    #[test]
    fn swapped_pairs_are_each_others_neighbours() {
        for slot in 0..64 * MASK_WORDS {
            let mut one = LeafMask::NONE;
            one.set(slot);
            assert!(swap_pairs(&one).slots().eq([slot ^ 1]));
            assert_eq!(swap_pairs(&swap_pairs(&one)), one);
        }
    }
}
