// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that moved to another pfn: page tables that were sent may name the old one.
//! Not here: how a move is found (`destination::Moves`).
//! Units: at most `QUERY_FRAMES_MAX` frames a query.
//! Threads: the owner's.
//! Source: `docs/decisions/0002-frames-that-move.md`.

use crate::cause::Cause;
use crate::destination::Destination;
use crate::frame::{FrameType, Mfn, Pfn};
use crate::ledger::Ledger;
use crate::p2m::P2m;
use crate::port::{Guest, QUERY_FRAMES_MAX};
use crate::round::Round;

/// Follows the frames of the pfns that were settled.
pub(crate) fn follow(
    round: &mut Round,
    p2m: &mut P2m,
    ledger: &Ledger,
    destination: &mut Destination,
    guest: &mut Guest<'_>,
) {
    let moves = destination.take_moves();
    for &(pfn, mfn) in &moves.arrived {
        if destination.sent.arrived(mfn, pfn) {
            round.report.pages.moved += 1;
        }
        p2m.frame_named(mfn, guest.m2p, &mut round.report.structure);
    }
    follow_departed(&moves.departed, round, p2m, ledger, destination, guest);
    for &(mfn, pfn) in &moves.named {
        follow_named(mfn, pfn, ledger, destination);
    }
    destination.end_moves(moves);
}

/// Frames of removed pfns may be found under others.
pub(crate) fn follow_removed(
    round: &mut Round,
    p2m: &P2m,
    ledger: &Ledger,
    destination: &mut Destination,
    guest: &mut Guest<'_>,
) {
    let removed = destination.take_removed();
    follow_departed(&removed, round, p2m, ledger, destination, guest);
}

/// A table was sent that names `mfn` as `pfn`, but `pfn` was not accepted under it.
fn follow_named(mfn: Mfn, pfn: Pfn, ledger: &Ledger, destination: &mut Destination) {
    if destination.is_settled_with(pfn, mfn) {
        return; // it was, in the same batch
    }
    // A receiver that localises tables on arrival has made a frame for it.
    destination.sent.hold(pfn);
    destination.sent.note_last_known(mfn, pfn);
    if !ledger.is_owed(pfn) {
        ledger.bitmap.mark(pfn, Cause::Table);
    }
}

/// Frames that pfns had and have no more: they left the domain, are under another pfn, or have to
/// be watched.
fn follow_departed(
    departed: &[(Pfn, Mfn)],
    round: &mut Round,
    p2m: &P2m,
    ledger: &Ledger,
    destination: &mut Destination,
    guest: &mut Guest<'_>,
) {
    for chunk in departed.chunks(QUERY_FRAMES_MAX) {
        let known: Vec<_> =
            chunk.iter().copied().filter(|(_, mfn)| mfn.0 < guest.m2p.frames()).collect();
        let frames: Vec<_> = known.iter().map(|&(_, mfn)| mfn).collect();
        let mut kinds = vec![FrameType::Data; frames.len()];
        if !frames.is_empty() && guest.types.query(&frames, &mut kinds).is_err() {
            kinds.fill(FrameType::Data); // count as the domain's: the safe side
        }
        for ((pfn, mfn), kind) in known.into_iter().zip(kinds) {
            if kind == FrameType::NotOwned {
                destination.sent.forget(mfn);
                continue;
            }
            let named = guest.m2p.pfn(mfn).filter(|other| other.0 < p2m.layout.pfns());
            if let Some(other) = named.filter(|&other| other != pfn) {
                ledger.bitmap.mark(other, Cause::Entry);
                destination.sent.tables.frame_left(pfn);
            } else if !destination.sent.note_last_known(mfn, pfn) {
                continue;
            }
            round.report.pages.moved += 1;
        }
    }
}

/// Frames that left the domain can't be named by its tables any more.
pub(crate) fn forget_departed(destination: &mut Destination, guest: &mut Guest<'_>) {
    for frames in destination.sent.last_known_frames().chunks(QUERY_FRAMES_MAX) {
        let mut kinds = vec![FrameType::Data; frames.len()];
        if guest.types.query(frames, &mut kinds).is_err() {
            continue; // they stay watched
        }
        for (&frame, kind) in frames.iter().zip(kinds) {
            if kind == FrameType::NotOwned {
                destination.sent.forget(frame);
            }
        }
    }
}
