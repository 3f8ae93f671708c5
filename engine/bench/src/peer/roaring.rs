// SPDX-License-Identifier: MIT OR Apache-2.0
//! `RoaringBitmap`: compressed by pieces of 2^16, for one writer.
//! Not here: its set operations.
//! Units: pfns below 2^32.
//! Threads: one.
//! Source: crate roaring.

use ::roaring::RoaringBitmap;

use super::DirtySet;

/// The bitmap.
#[derive(Debug, Default)]
pub struct Roaring(RoaringBitmap);

impl DirtySet for Roaring {
    fn name(&self) -> &'static str {
        "roaring"
    }

    fn is_concurrent(&self) -> bool {
        false
    }

    fn mark(&mut self, pfn: u64) {
        self.0.insert(u32::try_from(pfn).expect("a pfn below 2^32"));
    }

    fn take(&mut self, into: &mut Vec<u64>) {
        into.extend(std::mem::take(&mut self.0).into_iter().map(u64::from));
    }
}
