// SPDX-License-Identifier: MIT OR Apache-2.0
//! Comparison: maps what is not mapped, compares the pending leaves with their shadow, gathers what
//! the shards found.
//! Not here: one leaf's comparison (`leaf`), queries of frame owners (`owners`).
//! Units: leaves by position.
//! Threads: leaves are compared by all shards; gathering is the owner's.
//! Source: `docs/design.md`, law 2: a leaf stays pending until it was compared.

mod leaf;
mod owners;

use std::sync::Arc;

use leaf::{Compared, Comparison};
pub(crate) use owners::ask as ask_owners;

use crate::cause::Cause;
use crate::config::Sender;
use crate::destination::{Destination, Sent};
use crate::error::{Error, StructureCause};
use crate::frame::{LeafIndex, Pfn, Width};
use crate::intake::Intake;
use crate::leaf::Leaf;
use crate::ledger::Ledger;
use crate::p2m::{Item, Layout, P2m};
use crate::port::Guest;
use crate::resend::{ResendBitmap, ResendShard};
use crate::round::Round;
use crate::shadow::{SHARD_LEAVES, Shadow, ShadowShard};
use crate::uncertainty::Uncertainty;

/// Attempts to map the leaves of a suspended guest: hypervisors have transient failures.
const MAPS_SUSPENDED: u32 = 8;
/// Leaves compared between two gatherings of results: bounds their memory.
const LEAVES_CHUNK: usize = 16_384;

/// Maps what is not mapped. While the guest runs, all pfns of a leaf that can't be mapped are owed;
/// for a suspended guest it is an error.
pub(crate) fn map(suspended: bool, p2m: &mut P2m, guest: &mut Guest<'_>) -> Result<(), Error> {
    let tries = if suspended { MAPS_SUSPENDED } else { 1 };
    if (0..tries).any(|_| p2m.layout.map(guest.p2m) == 0) || tries == 1 {
        return Ok(());
    }
    p2m.unmapped_leaf().map_or(Ok(()), Err)
}

/// Compares all pending leaves. `adopt`: what is read goes into the shadow at once. Returns the
/// changed pfns that back p2m frames.
pub(crate) fn run(
    adopt: bool,
    round: &mut Round,
    intake: &mut Intake,
    p2m: &mut P2m,
    ledger: &mut Ledger,
    destination: &mut Destination,
    guest: &Guest<'_>,
) -> Result<Vec<Pfn>, Error> {
    let items = p2m.pending.items();
    let mut backing = Vec::new();
    let mut chunks = items.chunks(LEAVES_CHUNK);
    let compared = chunks.try_for_each(|chunk| {
        let mut found = if adopt {
            compare_and_adopt(chunk, round, intake, &p2m.layout, ledger, destination, guest)
        } else {
            compare(chunk, round, intake, &p2m.layout, ledger, destination, guest)
        };
        backing.append(&mut found.backing);
        gather(chunk, found, adopt, round, p2m, ledger, destination)?;
        chunk.iter().for_each(|item| intake.offers.compared(item.leaf));
        Ok(())
    });
    p2m.pending.sweep();
    compared.map(|()| backing)
}

/// How leaves are compared in this round.
fn comparison<'a>(
    round: &Round,
    intake: &'a Intake,
    layout: &'a Layout,
    sent: &'a Sent,
    guest: &'a Guest<'_>,
) -> Comparison<'a> {
    Comparison {
        kernel: round.kernel,
        layout,
        p2m: guest.p2m,
        m2p: guest.m2p,
        log: intake.log.bits(),
        offers: &intake.offers,
        sent,
        tables_unknown: round.config.sender != Sender::Engine,
        check_m2p: round.checks_m2p(),
    }
}

fn compare(
    items: &[Item],
    round: &Round,
    intake: &Intake,
    layout: &Layout,
    ledger: &mut Ledger,
    destination: &Destination,
    guest: &Guest<'_>,
) -> Compared {
    let comparison = comparison(round, intake, layout, &destination.sent, guest);
    let pieces = round.shards.pieces(items);
    let mut parts = lend(&mut ledger.bitmap, layout.width(), &pieces);
    let shadow = &destination.shadow;
    round.shards.fold_mut(&mut parts, |(resend, items)| comparison.run(items, shadow, resend))
}

/// The same, and what is read goes into the shadow at once.
fn compare_and_adopt(
    items: &[Item],
    round: &Round,
    intake: &Intake,
    layout: &Layout,
    ledger: &mut Ledger,
    destination: &mut Destination,
    guest: &Guest<'_>,
) -> Compared {
    let comparison = comparison(round, intake, layout, &destination.sent, guest);
    let in_one = |a: &Item, b: &Item| a.leaf.0 / SHARD_LEAVES == b.leaf.0 / SHARD_LEAVES;
    let pieces: Vec<_> = items.chunk_by(in_one).collect();
    let parts = lend(&mut ledger.bitmap, layout.width(), &pieces);
    let mut parts = shadowed(&mut destination.shadow, parts);
    round.shards.fold_mut(&mut parts, |(first, shard, (resend, items))| {
        comparison.observe(items, shard, *first, resend)
    })
}

fn gather(
    items: &[Item],
    found: Compared,
    adopt: bool,
    round: &mut Round,
    p2m: &mut P2m,
    ledger: &Ledger,
    destination: &mut Destination,
) -> Result<(), Error> {
    let width = p2m.width();
    if let Some((leaf, mfn, positions)) = found.aliased {
        let (pfn, cause) = (width.first_pfn(leaf), StructureCause::Aliased(positions));
        return Err(Error::Structure { level: 0, mfn, pfn, cause });
    }
    for &leaf in &found.unmapped {
        // Every pfn of a leaf that is not mapped is owed, until it is mapped.
        round.note(Uncertainty::LeafUnmapped);
        let first = width.first_pfn(leaf).0;
        ledger.bitmap.mark_range(first..first + width.entries() as u64, Cause::Uncertain);
    }
    p2m.pending.settle(items, &found.unmapped);
    for item in items.iter().filter(|item| !item.is_new()) {
        p2m.recheck.compared(item.leaf);
    }
    if found.leaves > 0 && round.config.sender != Sender::Engine {
        // What a table named while the leaves were being written is unknown.
        destination.sent.tables.all_are_uncertain();
    }
    round.report.leaves.compared += found.leaves;
    round.report.leaves.unchanged += found.unchanged;
    round.report.entries.add(&found.counts);
    if adopt {
        destination.observed(found.counts.mapped, found.counts.unmapped);
    }
    for (leaves, copy) in found.adopt {
        let copy = shared_copy(leaves[0], copy, &p2m.layout, &destination.shadow);
        destination.shadow.install_shared(&leaves, &copy);
    }
    Ok(())
}

/// The copy that another position of the frame already has, if it is equal: aliases share one copy.
fn shared_copy(leaf: LeafIndex, copy: Arc<Leaf>, layout: &Layout, shadow: &Shadow) -> Arc<Leaf> {
    let first = layout.first_position(leaf).filter(|_| layout.is_shared(leaf));
    let shared = first.and_then(|first| shadow.copy(first)).filter(|old| ***old == *copy);
    shared.map_or(copy, Arc::clone)
}

/// The items of one thread, and their part of the bitmap.
type Part<'a> = (ResendShard<'a>, &'a [Item]);

/// Cuts the bitmap where the items, which are sorted, were cut.
fn lend<'a>(resend: &'a mut ResendBitmap, width: Width, pieces: &[&'a [Item]]) -> Vec<Part<'a>> {
    let firsts = pieces.iter().map(|items| width.first_pfn(items[0].leaf).0);
    resend.shards_mut(firsts).zip(pieces.iter().copied()).collect()
}

/// Adds to each part the shard of the shadow that it lies in, and that shard's first leaf.
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
