// SPDX-License-Identifier: MIT OR Apache-2.0
//! A host's answers for a batch, checked as a whole before any of them is written down.
//! Not here: what follows from them.
//! Units: one answer a page, in order.
//! Threads: plain values.
//! Source: `include/p2mtrack.h`, `p2mt_answer`.

use std::collections::BTreeMap;

use p2mtrack::frame::{FrameType, Mfn};
use p2mtrack::port::{Answer, Deferral, MapFault, Page};
use p2mtrack::table::{TableCause, TableFault};

use crate::abi;
use crate::error::{Fault, PageError};

/// How the normalisation of page tables of a batch went, by their numbers in it.
pub(crate) type Normalised = BTreeMap<usize, Result<(), TableFault>>;

/// The largest errno that there is.
const ERRNO_MAX: i32 = 4095;

/// The errno that a host's negative word says.
pub(crate) fn errno(word: i32) -> Option<i32> {
    (-ERRNO_MAX..0).contains(&word).then_some(-word)
}

/// That all are accepted. `ours`: page tables only if they were normalised by us.
pub(crate) fn all_accepted(pages: &[Page], tables: &Normalised, ours: bool) -> Result<(), Fault> {
    let all = abi::PageAnswer::default();
    let mut kept = pages.iter().enumerate().filter(|(_, page)| ours && page.kind.is_table());
    kept.try_for_each(|(index, page)| answer(&all, page, tables.get(&index), ours).map(drop))
}

/// All answers, one a page. `ours` as above.
pub(crate) fn answers(
    theirs: impl Iterator<Item = Result<abi::PageAnswer, Fault>>,
    pages: &[Page],
    tables: &Normalised,
    ours: bool,
) -> Result<Vec<Answer>, Fault> {
    let mut answers = Vec::with_capacity(pages.len());
    for (index, (page, theirs)) in pages.iter().zip(theirs).enumerate() {
        answers.push(answer(&theirs?, page, tables.get(&index), ours)?);
    }
    Ok(answers)
}

fn answer(
    theirs: &abi::PageAnswer,
    page: &Page,
    table: Option<&Result<(), TableFault>>,
    ours: bool,
) -> Result<Answer, Fault> {
    let &abi::PageAnswer { verdict, reason, errnum, zero } = theirs;
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
            if ours && page.kind.is_table() && table != Some(&Ok(())) {
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
            let fault = table.copied().and_then(Result::err).unwrap_or(unsaid);
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
