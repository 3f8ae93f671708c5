// SPDX-License-Identifier: MIT OR Apache-2.0
//! Structure: walks the p2m under its seqlock when there is a reason to, and adopts the walk.
//! Not here: the reasons (`p2m::Reasons`), one walk (`p2m::Walk`), comparing leaves (`compare`).
//! Units: walks and reads of the roots, bounded in number, never by time.
//! Threads: the owner's.
//! Source: `docs/design.md`, "Changes"; `docs/decisions/0003`.

mod width;

use crate::cause::Cause;
use crate::config::{Rewalk, Sender};
use crate::destination::Destination;
use crate::error::Error;
use crate::frame::Pfn;
use crate::intake::Offers;
use crate::ledger::Ledger;
use crate::p2m::{P2m, Reasons, Shape, Walk, Walked};
use crate::port::{Guest, QUERY_FRAMES_MAX, Roots};
use crate::round::Round;
use crate::uncertain;
use crate::uncertainty::Uncertainty;

/// Walks in one live round before instability is an uncertainty.
const WALKS_LIVE: u32 = 8;
/// Walks of a suspended guest before the engine gives up.
const WALKS_SUSPENDED: u32 = 4;
/// Reads of the roots while their generation is odd, before a walk is tried anyway.
const ROOTS_READS_MAX: u32 = 64;

/// A walk, the roots that it used, and whether it was stable.
type Found = (Walked, Roots, bool);

/// Walks under the seqlock. Returns whether the walk was stable. While the guest runs, a walk that
/// is not, or a structure that can't be followed now, is an uncertainty and not an error.
pub(crate) fn walk(
    round: &mut Round,
    offers: &mut Offers,
    p2m: &mut P2m,
    ledger: &mut Ledger,
    destination: &mut Destination,
    guest: &mut Guest<'_>,
) -> Result<bool, Error> {
    p2m.walked = true;
    p2m.reasons.report(&mut round.report.structure);
    p2m.layout.drop_unbacked_copies();
    if p2m.reasons.forced {
        p2m.layout.copies.clear();
    }
    let (walked, roots, stable) = match find(round, p2m, guest)? {
        Ok(found) => found,
        Err(error) => return fail(error, round, p2m, ledger, destination).map(|()| false),
    };
    p2m.reasons = Reasons::default();
    adopt(walked, &roots, round, p2m, ledger, destination, guest);
    offers.cover(p2m.layout.tracked());
    if round.config.sender != Sender::Engine {
        // Sent tables may have been normalised with a structure that was there only between two
        // walks.
        destination.sent.tables.all_are_uncertain();
    }
    if !stable {
        // Every frame of the walk was read after CLEAN: any later change of it is in the next log.
        round.note(Uncertainty::Generation);
    }
    Ok(stable)
}

/// Walks until a walk is stable, a limited number of times. The inner error is the last walk's own.
fn find(
    round: &mut Round,
    p2m: &mut P2m,
    guest: &mut Guest<'_>,
) -> Result<Result<Found, Error>, Error> {
    let suspended = round.is_suspended();
    let tries = if suspended { WALKS_SUSPENDED } else { WALKS_LIVE };
    let mut attempt = 0;
    loop {
        let before = even_roots(guest, suspended)?;
        let walked = walk_once(round, p2m, guest, &before);
        attempt += 1;
        let found = match walked {
            Err(error) => Err(error),
            Ok(walked) => {
                let after = guest.p2m.roots().map_err(Error::port("p2m source"))?;
                let stable = suspended || walked.shape.is_stable(&before, &after);
                // Also in the middle of an update that makes no progress: its vCPU is not running.
                if stable || after == before {
                    return Ok(Ok((walked, before, stable)));
                }
                Ok((walked, before, stable))
            }
        };
        if attempt == tries {
            return Ok(found);
        }
        round.report.structure.retries += 1;
        p2m.layout.copies.clear();
    }
}

/// Reads the roots until their generation is even, as a reader of a seqlock does, a limited number
/// of times.
fn even_roots(guest: &mut Guest<'_>, suspended: bool) -> Result<Roots, Error> {
    let mut roots = Roots::default();
    for _ in 0..ROOTS_READS_MAX {
        roots = guest.p2m.roots().map_err(Error::port("p2m source"))?;
        if suspended || !roots.is_linear() || roots.generation.is_multiple_of(2) {
            break;
        }
    }
    Ok(roots)
}

fn walk_once(
    round: &mut Round,
    p2m: &mut P2m,
    guest: &mut Guest<'_>,
    roots: &Roots,
) -> Result<Walked, Error> {
    round.report.structure.walks += 1;
    let (width, frames) = (p2m.width(), p2m.domain.most);
    if p2m.roots.is_none() {
        width::expect(width, frames, guest, roots)?;
    }
    let shape = Shape::new(width, roots, guest.m2p.frames())?;
    let limit = width.leaves(p2m.domain.limit_pfns());
    let copies = &mut p2m.layout.copies;
    Walk::new(guest.p2m, guest.m2p, copies, shape, roots.pfn_count, frames, limit).run()
}

/// No walk could be made: an error if the guest is suspended or if it lasts for too many rounds;
/// otherwise an uncertainty.
fn fail(
    error: Error,
    round: &mut Round,
    p2m: &P2m,
    ledger: &Ledger,
    destination: &Destination,
) -> Result<(), Error> {
    let uncertainty = match error {
        // No walk ever succeeded, and there is nothing to follow.
        Error::Roots { .. } | Error::Width { .. } if p2m.roots.is_none() => return Err(error),
        _ if round.is_suspended() => return Err(error),
        Error::Roots { .. } => Uncertainty::Roots,
        // A table that the guest stopped using and writes as data, while the walk reads it.
        _ => Uncertainty::Walk,
    };
    if round.uncertain.running(uncertainty) >= round.config.uncertain_rounds_max {
        return Err(error); // the uncertainty's own error would hide the frame that it is about
    }
    round.note(uncertainty);
    uncertain::owe_all(p2m, ledger, destination);
    round.report.p2m_unreadable = true;
    Ok(())
}

fn adopt(
    walked: Walked,
    roots: &Roots,
    round: &mut Round,
    p2m: &mut P2m,
    ledger: &mut Ledger,
    destination: &mut Destination,
    guest: &mut Guest<'_>,
) {
    let (limit, width) = (p2m.limit_pfns(), p2m.width());
    let first = p2m.roots.is_none();
    let changes = p2m.layout.install(walked, roots.pfn_count, guest.p2m, guest.m2p, limit);
    p2m.roots = Some(*roots);
    let (before, pfns) = (changes.pfns_before, p2m.layout.pfns());
    if pfns > before && width.slot_of(Pfn(before)) > 0 {
        // The last leaf was tracked in part: its other entries are tracked now.
        p2m.pending.add(width.leaf_of(Pfn(before)), Cause::Growth);
    }
    destination.resize(before, pfns, p2m.layout.tracked(), guest.m2p.frames());
    ledger.bitmap.resize(pfns);
    p2m.resize();
    if round.config.rewalk == Rewalk::EveryRound {
        // Nothing is sent, so that no page is found under another pfn: the m2p is read for each p2m
        // frame.
        for part in 0..p2m.layout.backing.len() {
            p2m.p2m_frame_moved(part, guest.m2p, &mut round.report.structure);
        }
    }
    round.report.leaves.fresh += if first { 0 } else { changes.fresh };
    round.report.leaves.dropped += changes.dropped;
    for leaf in changes.repointed {
        p2m.pending.add(leaf, Cause::Structure);
    }
    for leaf in changes.grown {
        p2m.pending.add(leaf, if first { Cause::First } else { Cause::Growth });
    }
}

/// For a suspended guest: an owed pfn's frame may be a p2m frame that got that pfn without a write
/// to any table. Its contents are then compared or read again.
pub(crate) fn find_moved_p2m_frames(
    round: &mut Round,
    p2m: &mut P2m,
    ledger: &Ledger,
    guest: &Guest<'_>,
) {
    let mut from = 0;
    loop {
        let taken = ledger.bitmap.take(QUERY_FRAMES_MAX, from);
        let owed = taken.pfns().to_vec();
        from = taken.next();
        drop(taken); // only read: the pfns stay owed
        if owed.is_empty() {
            return;
        }
        for pfn in owed {
            let entry = p2m.layout.entry(guest.p2m, pfn);
            if let Some(mfn) = entry.and_then(|entry| entry.claim(p2m.width()).named()) {
                p2m.frame_named(mfn, guest.m2p, &mut round.report.structure);
            }
        }
    }
}
