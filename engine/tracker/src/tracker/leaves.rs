// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leaves: maps what is not mapped, compares what is pending, gathers what the shards found.
//! Not here: one leaf's comparison (`compare`).
//! Units: positions.
//! Threads: the comparison runs on the engine's pool; gathering is the owner's.
//! Source: `docs/design.md`, law 2: a leaf stays pending until it was compared.

use std::sync::Arc;

use super::Tracker;
use crate::cause::Cause;
use crate::compare::{Compared, Comparison, Item};
use crate::config::{Sender, Verify};
use crate::doubt::Doubt;
use crate::error::{Error, StructureCause};
use crate::frame::{LeafIndex, Pfn, Width};
use crate::leaf::Leaf;
use crate::port::Ports;
use crate::report::LeafCounts;
use crate::resend::{ResendBitmap, ResendShard};
use crate::shadow::{SHARD_LEAVES, Shadow, ShadowShard};

/// Tries to map the leaves of a guest that stands still: hypervisors have transient failures.
const MAPS_SUSPENDED: u32 = 8;
/// Leaves compared between two gatherings of results: bounds their memory.
const LEAVES_CHUNK: usize = 16_384;

impl Tracker {
    /// Maps what is not mapped. A leaf that can't be: all its pfns are owed.
    pub(super) fn map(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        let tries = if self.report.stage.is_suspended() { MAPS_SUSPENDED } else { 1 };
        if (0..tries).any(|_| self.layout.map(ports.p2m) == 0) || tries == 1 {
            return Ok(());
        }
        self.unmapped_leaf().map_or(Ok(()), Err)
    }

    /// The first leaf that is not mapped, as an error.
    pub(super) fn unmapped_leaf(&self) -> Option<Error> {
        let (leaf, mfn, fault) = self.layout.first_unmapped()?;
        let (pfn, cause) = (self.width.first_pfn(leaf), StructureCause::Unreadable(fault));
        Some(Error::Structure { level: 0, mfn, pfn, cause })
    }

    /// Compares all pending leaves. Returns the changed pfns that hold frames of the p2m.
    pub(super) fn compare(
        &mut self,
        ports: &mut Ports<'_>,
        adopt_all: bool,
    ) -> Result<Vec<Pfn>, Error> {
        let items = self.pending.items();
        let mut holders = Vec::new();
        let mut chunks = items.chunks(LEAVES_CHUNK);
        let compared = chunks.try_for_each(|chunk| {
            let mut found = self.compare_some(ports, adopt_all, chunk);
            holders.append(&mut found.holders);
            self.gather(chunk, found, adopt_all)
        });
        self.pending.sweep();
        compared.map(|()| holders)
    }

    fn compare_some(&mut self, ports: &Ports<'_>, adopt_all: bool, items: &[Item]) -> Compared {
        let comparison = Comparison {
            kernel: self.kernel,
            layout: &self.layout,
            p2m: ports.p2m,
            m2p: ports.m2p,
            log: self.log.bits(),
            offers: &self.offers,
            handed: &self.handed,
            sent: &self.sent,
            untold: self.config.sender != Sender::Told,
            check_m2p: self.report.stage.is_suspended() || self.config.verify == Verify::Full,
        };
        let width = self.width;
        if adopt_all {
            let in_one = |a: &Item, b: &Item| a.leaf.0 / SHARD_LEAVES == b.leaf.0 / SHARD_LEAVES;
            let pieces: Vec<_> = items.chunk_by(in_one).collect();
            let parts = lend(&mut self.resend, width, &pieces);
            let mut parts = shadowed(&mut self.shadow, parts);
            self.shards.fold_mut(&mut parts, |(first, shard, (resend, items))| {
                comparison.observe(items, shard, *first, resend)
            })
        } else {
            let mut parts = lend(&mut self.resend, width, &self.shards.pieces(items));
            let shadow = &self.shadow;
            self.shards
                .fold_mut(&mut parts, |(resend, items)| comparison.run(items, shadow, resend))
        }
    }

    fn gather(&mut self, items: &[Item], found: Compared, adopt_all: bool) -> Result<(), Error> {
        if let Some((leaf, mfn, positions)) = found.aliased {
            let pfn = self.width.first_pfn(leaf);
            let cause = StructureCause::Aliased(positions);
            return Err(Error::Structure { level: 0, mfn, pfn, cause });
        }
        for &leaf in &found.unmapped {
            self.doubts.mark(Doubt::LeafUnmapped);
            let first = self.width.first_pfn(leaf).0;
            self.resend.mark_range(first..first + self.width.entries() as u64, Cause::Doubt);
        }
        self.pending.settle(items, &found.unmapped);
        // Of a leaf that is not mapped every pfn is owed, until it is.
        for item in items {
            self.offers.compared(item.leaf);
            if !item.is_first_look() {
                self.owners.compared(item.leaf);
            }
        }
        if found.leaves > 0 && self.config.sender != Sender::Told {
            // What a table named while its leaf was being written nobody knows.
            self.sent.doubt_tables_sent();
        }
        self.report.leaves.compared += found.leaves;
        self.report.leaves.unchanged += found.unchanged;
        self.report.entries.add(&found.counts);
        if adopt_all {
            let observed = self.observed_frames + found.counts.mapped;
            self.observed_frames = observed.saturating_sub(found.counts.unmapped);
        }
        for (leaves, copy) in found.adopt {
            let copy = self.shared_copy(leaves[0], copy);
            self.shadow.install_shared(&leaves, &copy);
        }
        Ok(())
    }

    /// Frames that the domain holds, or held when it held most.
    pub(crate) const fn domain_frames(&self) -> u64 {
        self.domain_frames
    }

    /// The copy that another position of the frame already has, if it says the same: aliases cost one.
    pub(super) fn shared_copy(&self, leaf: LeafIndex, copy: Arc<Leaf>) -> Arc<Leaf> {
        let first = self.layout.first_position(leaf).filter(|_| self.layout.is_shared(leaf));
        let shared = first.and_then(|first| self.shadow.copy(first)).filter(|old| ***old == *copy);
        shared.map_or(copy, Arc::clone)
    }

    pub(super) fn count_leaves(&mut self) {
        let dirty = self.layout.holders.marked(&self.log).map(|part| self.layout.listed(part));
        self.report.leaves = LeafCounts {
            tracked: self.layout.tracked(),
            distinct: self.layout.distinct(),
            dirty: dirty.sum(),
            ..self.report.leaves
        };
    }
}

/// Items that are one thread's, and their part of the bitmap.
type Part<'a> = (ResendShard<'a>, &'a [Item]);

/// Cuts the bitmap where items, which are in order, were cut.
fn lend<'a>(resend: &'a mut ResendBitmap, width: Width, pieces: &[&'a [Item]]) -> Vec<Part<'a>> {
    let firsts = pieces.iter().map(|items| width.first_pfn(items[0].leaf).0);
    resend.shards_mut(firsts).zip(pieces.iter().copied()).collect()
}

/// Adds to parts, of which each lies in one shard of the shadow, that shard and its first leaf.
fn shadowed<'a>(
    shadow: &'a mut Shadow,
    parts: Vec<Part<'a>>,
) -> Vec<(LeafIndex, &'a mut ShadowShard, Part<'a>)> {
    let mut parts = parts.into_iter().peekable();
    let shards = shadow.shards_mut().filter_map(|(first, shard)| {
        let part =
            parts.next_if(|(_, items)| items[0].leaf.0 / SHARD_LEAVES == first.0 / SHARD_LEAVES)?;
        Some((first, shard, part))
    });
    shards.collect()
}
