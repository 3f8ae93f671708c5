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
use crate::config::Verify;
use crate::doubt::Doubt;
use crate::error::{Error, StructureCause};
use crate::frame::{LeafIndex, Pfn};
use crate::layout::Part;
use crate::leaf::Leaf;
use crate::port::Ports;
use crate::report::LeafCounts;

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
        match self.layout.first_unmapped() {
            Some((leaf, mfn, fault)) => Err(Error::Structure {
                level: 0,
                mfn,
                pfn: self.width.first_pfn(leaf),
                cause: StructureCause::Unreadable(fault),
            }),
            None => Ok(()),
        }
    }

    /// Compares all pending leaves. Returns the changed pfns that hold frames of the p2m.
    pub(super) fn compare(
        &mut self,
        ports: &mut Ports<'_>,
        adopt_all: bool,
    ) -> Result<Vec<Pfn>, Error> {
        let items: Vec<_> =
            self.pending.iter().map(|(&leaf, &cause)| Item { leaf, cause }).collect();
        let mut holders = Vec::new();
        for chunk in items.chunks(LEAVES_CHUNK) {
            let comparison = Comparison {
                kernel: self.kernel,
                layout: &self.layout,
                shadow: &self.shadow,
                resend: &self.resend,
                p2m: ports.p2m,
                m2p: ports.m2p,
                log: &self.log,
                adopt_all,
                offers: &self.offers,
                check_m2p: self.report.stage.is_suspended() || self.config.verify == Verify::Full,
            };
            let found = self.shards.map(chunk, |item| comparison.run(item));
            for compared in found {
                self.gather(compared, &mut holders)?;
            }
        }
        Ok(holders)
    }

    pub(super) fn gather(
        &mut self,
        compared: Compared,
        holders: &mut Vec<Pfn>,
    ) -> Result<(), Error> {
        let Item { leaf, cause } = compared.item;
        if let Some((mfn, positions)) = compared.aliased {
            let pfn = self.width.first_pfn(leaf);
            let cause = StructureCause::Aliased(positions);
            return Err(Error::Structure { level: 0, mfn, pfn, cause });
        }
        if compared.unmapped.is_some() {
            self.doubts.mark(Doubt::LeafUnmapped);
            let first = self.width.first_pfn(leaf).0;
            self.resend.mark_range(first..first + self.width.entries() as u64, Cause::Doubt);
            return Ok(()); // stays pending
        }
        self.pending.remove(&leaf);
        self.offers.compared(leaf);
        self.report.leaves.compared += 1;
        self.report.leaves.unchanged += u64::from(compared.equal && cause == Cause::Entry);
        self.report.entries.add(&compared.counts);
        holders.extend(compared.holders);
        if compared.equal && compared.hole {
            self.shadow.compact(leaf);
        }
        if let Some(copy) = compared.adopt {
            let copy = self.shared_copy(leaf, copy);
            self.shadow.install(leaf, &copy);
        }
        Ok(())
    }

    /// Frames that the domain holds, or held when it held most.
    pub(crate) const fn domain_frames(&self) -> u64 {
        self.domain_frames
    }

    /// The copy that another position of the frame already has, if it says the same: aliases cost one.
    pub(super) fn shared_copy(&self, leaf: LeafIndex, copy: Arc<Leaf>) -> Arc<Leaf> {
        let frame = self.layout.frame(leaf).filter(|_| self.layout.is_shared(leaf));
        let first = frame.and_then(|mfn| self.layout.first_position(mfn));
        let shared = first.and_then(|first| self.shadow.copy(first)).filter(|old| ***old == *copy);
        shared.map_or(copy, Arc::clone)
    }

    pub(super) fn count_leaves(&mut self) {
        let dirty =
            self.layout.holders.marked(&self.log).into_iter().filter_map(|part| match part {
                Part::Leaf(mfn) => Some(self.layout.listed(mfn)),
                Part::Table(..) => None,
            });
        self.report.leaves = LeafCounts {
            tracked: self.layout.tracked(),
            distinct: self.layout.distinct(),
            dirty: dirty.sum(),
            ..self.report.leaves
        };
    }
}
