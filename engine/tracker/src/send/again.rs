// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pfns that have to be sent again, although nothing says that they were written.
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

/// A frame moved: a page table that was sent may name its old pfn. While the guest runs, such
/// tables are sent again for at most `uncertain_rounds_max` rounds in a row; then it is left to a
/// suspended round.
pub(crate) fn owe_tables(round: &mut Round, ledger: &Ledger, destination: &mut Destination) {
    let patience = round.config.uncertain_rounds_max;
    if !destination.sent.tables.are_uncertain()
        || !round.is_suspended() && round.uncertain.running(Uncertainty::Tables) >= patience
    {
        return;
    }
    let tables = destination.sent.tables.take_uncertain();
    if !tables.is_empty() {
        round.note(Uncertainty::Tables);
    }
    for pfn in tables {
        ledger.bitmap.mark(pfn, Cause::Table);
    }
}

/// Owes pfns that were sent although the m2p does not name them: log-dirty does not say when they
/// are written.
pub(crate) fn owe_unsound(ledger: &Ledger, destination: &Destination) {
    for pfn in destination.sent.unsound() {
        ledger.bitmap.mark(pfn, Cause::Uncertain);
    }
}

/// If a pfn is owed, so is the other one that has its frame: the m2p may have changed to either.
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

/// Between two walks the structure may have changed and changed back, and a caller that reads the
/// p2m by its own mapping may have read that. What was given to the sender since is owed again, and
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
