// SPDX-License-Identifier: MIT OR Apache-2.0
//! A host's answers for a batch, checked as a whole before any of them is recorded.
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

/// The results of normalising page tables of a batch, by their index in it.
pub(crate) type Normalised = BTreeMap<usize, Result<(), TableFault>>;

/// The largest errno.
const ERRNO_MAX: i32 = 4095;

/// The errno that a host returned as a negative word.
pub(crate) fn errno(word: i32) -> Option<i32> {
    (-ERRNO_MAX..0).contains(&word).then(|| -word)
}

/// Checks that all pages can be accepted. `ours`: page tables have to be normalised by the library.
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

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack::frame::{Entry, Pfn};

    fn page(kind: FrameType) -> Page {
        Page { pfn: Pfn(1), mfn: Mfn(2), entry: Entry(2), kind }
    }

    #[test]
    fn answers_are_what_the_header_says_and_nothing_else() {
        let table = page(FrameType::Table { level: 1, pinned: false });
        let data = page(FrameType::Data);
        let of = |page: &Page, verdict, reason, errnum| {
            let theirs = abi::PageAnswer { verdict, reason, errnum, zero: 0 };
            answer(&theirs, page, None, true).map_err(|fault| fault.code())
        };
        let not_owned = of(&data, abi::DEFERRED, abi::DEFER_MAP, abi::NOT_OWNED);
        let is = |answer, deferral| matches!(answer, Ok(Answer::Deferred(d)) if d == deferral);
        assert!(is(not_owned, Deferral::MapFailed(MapFault::NotOwned)));
        let enxio = of(&data, abi::DEFERRED, abi::DEFER_MAP, -6);
        assert!(is(enxio, Deferral::MapFailed(MapFault::Errno(6))));
        let no_answer = of(&data, abi::DEFERRED, abi::DEFER_NO_ANSWER, 0);
        assert!(is(no_answer, Deferral::Unacknowledged));
        assert!(matches!(of(&data, abi::FAILED, 0, -32), Ok(Answer::Failed(_))));
        assert!(matches!(of(&data, abi::ACCEPTED, 0, 0), Ok(Answer::Accepted)));
        assert_eq!(of(&table, abi::ACCEPTED, 0, 0).err(), Some(abi::E_ORDER), "not normalised");
        for (verdict, reason, errnum) in [
            (abi::FAILED, 0, abi::NOT_OWNED),
            (abi::FAILED, 0, 32),
            (abi::DEFERRED, abi::DEFER_MAP, 12),
            (abi::DEFERRED, abi::DEFER_TABLE, 0),
            (abi::DEFERRED, abi::DEFER_M2P, 0),
            (abi::ACCEPTED, 0, -5),
            (3, 0, 0),
        ] {
            let code = of(&data, verdict, reason, errnum).err();
            assert_eq!(code, Some(abi::E_ARGUMENT), "{verdict} {reason} {errnum}");
        }
    }
}
