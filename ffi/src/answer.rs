// SPDX-License-Identifier: MIT OR Apache-2.0
//! A host's answers for a batch, checked as a whole before any of them is written down.
//! Not here: what follows from them.
//! Units: one answer a page, in order.
//! Threads: plain values.
//! Source: `include/p2mtrack.h`, `p2mt_answer`.

use p2mtrack::frame::{FrameType, Mfn};
use p2mtrack::port::{Answer, Deferral, MapFault, Page};
use p2mtrack::table::{TableCause, TableFault};

use crate::abi;
use crate::error::{Fault, PageError};

/// What is known of how a page table of the batch was normalised.
pub(crate) type Normalised = Option<Result<(), TableFault>>;

/// The errno that a host's negative word says.
pub(crate) fn errno(word: i32) -> Option<i32> {
    (word < 0).then(|| word.saturating_neg())
}

/// All answers; `theirs` empty means that all are accepted. `ours`: tables are only accepted if they were normalised by us.
pub(crate) fn answers(
    theirs: &[abi::Answer],
    pages: &[Page],
    tables: &[Normalised],
    ours: bool,
) -> Result<Vec<Answer>, Fault> {
    let all_accepted = abi::Answer::default();
    let of = |index: usize| theirs.get(index).unwrap_or(&all_accepted);
    let one = |(index, page): (usize, &Page)| {
        let table = tables.get(index).copied().flatten();
        answer(of(index), page, table, ours)
    };
    pages.iter().enumerate().map(one).collect()
}

fn answer(
    theirs: &abi::Answer,
    page: &Page,
    table: Normalised,
    ours: bool,
) -> Result<Answer, Fault> {
    let &abi::Answer { verdict, reason, errnum, zero } = theirs;
    let nonsense = || {
        Fault::argument(format!(
            "verdict {verdict}, reason {reason}, errnum {errnum} for {}",
            page.pfn
        ))
    };
    if zero != 0 {
        return Err(nonsense());
    }
    match (verdict, reason, errnum) {
        (abi::ACCEPTED, 0, 0) => {
            if ours && page.kind.is_table() && table != Some(Ok(())) {
                let text =
                    format!("the page table at {} was not normalised by p2mt_normalise", page.pfn);
                return Err(Fault::order(text));
            }
            Ok(Answer::Accepted)
        }
        (abi::DEFERRED, abi::DEFER_MAP, abi::NOT_OWNED) => {
            Ok(Answer::Deferred(Deferral::MapFailed(MapFault::NotOwned)))
        }
        (abi::DEFERRED, abi::DEFER_MAP, errnum) => {
            let errno = errno(errnum).ok_or_else(nonsense)?;
            Ok(Answer::Deferred(Deferral::MapFailed(MapFault::Errno(errno))))
        }
        (abi::DEFERRED, abi::DEFER_TABLE, 0) => {
            let FrameType::Table { level, .. } = page.kind else { return Err(nonsense()) };
            let unsaid =
                TableFault { level, slot: 0, mfn: Mfn(abi::NONE), cause: TableCause::Unsaid };
            let fault = table.and_then(Result::err).unwrap_or(unsaid);
            Ok(Answer::Deferred(Deferral::Table(fault)))
        }
        (abi::DEFERRED, abi::DEFER_NO_ANSWER, 0) => Ok(Answer::Deferred(Deferral::Unacknowledged)),
        (abi::FAILED, 0, errnum) => {
            let errno = errno(errnum).ok_or_else(nonsense)?;
            Ok(Answer::Failed(Box::new(PageError(errno))))
        }
        _ => Err(nonsense()),
    }
}
