// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was sent and has to be sent again, although nothing says that it was written.
//! Not here: frames that moved (`moves`).
//! Units: pfns.
//! Threads: the owner's.
//! Source: `docs/design.md`, "Completeness"; `docs/decisions/0002` and `0004`.

use crate::cause::Cause;
use crate::destination::Destination;
use crate::ledger::Ledger;
use crate::p2m::P2m;
use crate::round::Round;
use crate::uncertainty::Uncertainty;

/// A frame moved: whatever was sent as a page table may name its old pfn. While the guest runs,
/// this is tolerated for so many rounds; then it is left to the final one.
pub(crate) fn owe_tables(round: &mut Round, ledger: &Ledger, destination: &mut Destination) {
    let patience = round.config.uncertain_rounds_max;
    if !destination.sent.tables_are_uncertain()
        || !round.is_suspended() && round.uncertain.running(Uncertainty::Tables) >= patience
    {
        return;
    }
    let tables = destination.sent.take_tables();
    if !tables.is_empty() {
        round.note(Uncertainty::Tables);
    }
    for pfn in tables {
        ledger.bitmap.mark(pfn, Cause::Table);
    }
}

/// What was sent although the m2p does not name its pfn: log-dirty does not say when it is written.
pub(crate) fn owe_unsound(ledger: &Ledger, destination: &Destination) {
    for pfn in destination.sent.unsound() {
        ledger.bitmap.mark(pfn, Cause::Uncertain);
    }
}

/// Whatever owes a pfn owes the other one that has its frame: the m2p may have gone over to either.
/// While the guest runs the copy waits, and its twin does not.
pub(crate) fn owe_twins(round: &Round, ledger: &Ledger, destination: &Destination) {
    for (pfn, twin) in destination.sent.twins() {
        let (first, second) = (ledger.is_owed(pfn), ledger.is_owed(twin));
        if second && !first {
            ledger.bitmap.mark(pfn, Cause::Uncertain);
        } else if first && !second && round.is_suspended() {
            ledger.bitmap.mark(twin, Cause::Uncertain);
        }
    }
}

/// The structure may have been another one between two walks, there and back: whoever reads the p2m
/// by a mapping of its own may have read that. What was handed out since is owed again, and
/// forgotten once every leaf was compared.
pub(crate) fn owe_what_was_read(
    round: &Round,
    p2m: &P2m,
    ledger: &Ledger,
    destination: &mut Destination,
) {
    if round.report.structure.walks > 0 {
        for pfn in destination.sent.since.iter() {
            ledger.bitmap.mark(pfn, Cause::Structure);
        }
    }
    if p2m.pending.is_empty() && !round.report.p2m_unreadable {
        destination.sent.since.clear_all();
    }
}
