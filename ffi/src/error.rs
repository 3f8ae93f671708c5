// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a failed call reports to the host: a code, an errno, pfn, mfn and level, and a text with
//! the causes.
//! Not here: where it is kept (`boundary`).
//! Units: frame numbers as in the header; `abi::NONE` and -1 where there is none.
//! Threads: plain values.
//! Source: `p2mtrack::error`; the codes are the header's.

use std::error::Error as StdError;
use std::ffi::{CStr, c_char, c_int};
use std::fmt;

use p2mtrack::error::{EntryCause, Error, StructureCause, WidthCause};
use p2mtrack::frame::{Mfn, Pfn};
use p2mtrack::port::{Deferral, MapFault};
use p2mtrack::table::TableFault;

use crate::abi;
use crate::answer::errno;

/// `EINVAL`: stands for an answer of a host that makes no sense.
pub(crate) const EINVAL: i32 = 22;

/// A failed call.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    code: c_int,
    errnum: i32,
    level: i32,
    pfn: u64,
    mfn: u64,
    text: String,
    /// A result that the host expects; it is not logged.
    expected: bool,
}

impl Fault {
    pub(crate) fn new(code: c_int, text: impl Into<String>) -> Self {
        let (pfn, mfn) = (abi::NONE, abi::NONE);
        Self { code, errnum: 0, level: -1, pfn, mfn, text: text.into(), expected: false }
    }

    /// Marks it as a result that the host expects.
    pub(crate) const fn expected(mut self) -> Self {
        self.expected = true;
        self
    }

    pub(crate) const fn is_expected(&self) -> bool {
        self.expected
    }

    pub(crate) fn argument(text: impl Into<String>) -> Self {
        Self::new(abi::E_ARGUMENT, text)
    }

    pub(crate) fn order(text: impl Into<String>) -> Self {
        Self::new(abi::E_ORDER, text)
    }

    pub(crate) const fn code(&self) -> c_int {
        self.code
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    const fn errnum(mut self, errnum: i32) -> Self {
        self.errnum = errnum;
        self
    }

    /// Adds the failure of a callback as its cause, unless it has an errno already.
    pub(crate) fn because(mut self, errnum: i32, what: &str) -> Self {
        if self.errnum != 0 {
            return self;
        }
        self.text = format!("{}: {what}", self.text);
        self.errnum(errnum)
    }

    const fn at(mut self, pfn: Option<Pfn>, mfn: Option<Mfn>) -> Self {
        self.pfn = match pfn {
            Some(Pfn(pfn)) => pfn,
            None => abi::NONE,
        };
        self.mfn = match mfn {
            Some(Mfn(mfn)) => mfn,
            None => abi::NONE,
        };
        self
    }

    fn level(mut self, level: u8) -> Self {
        self.level = i32::from(level);
        self
    }

    /// A page table's fault, at the table's pfn.
    pub(crate) fn table(pfn: Pfn, fault: &TableFault) -> Self {
        let text = format!("page table at {pfn}: {fault}");
        Self::new(abi::E_TABLE, text).at(Some(pfn), Some(fault.mfn)).level(fault.level)
    }

    /// Where in the p2m's structure, and the errno.
    fn of_structure(self, error: &Error) -> Self {
        let Error::Structure { level, mfn, pfn, cause } = error else { return self };
        let at = self.at(Some(*pfn), Some(*mfn)).level(*level);
        match cause {
            StructureCause::Unreadable(fault) => at.errnum(errno_of(*fault)),
            _ => at,
        }
    }

    /// As the header's structure. A text that is too long is cut.
    pub(crate) fn to_abi(&self) -> abi::Error {
        let mut text = [0; abi::ERROR_TEXT_BYTES];
        let most = self.text.len().min(abi::ERROR_TEXT_BYTES - 1);
        let end = (0..=most).rev().find(|&end| self.text.is_char_boundary(end)).unwrap_or(0);
        for (to, &byte) in text.iter_mut().zip(&self.text.as_bytes()[..end]) {
            *to = if byte == 0 { b' ' as c_char } else { byte as c_char };
        }
        let &Self { code, errnum, level, pfn, mfn, .. } = self;
        abi::Error { size: size_of::<abi::Error>() as u32, code, errnum, level, pfn, mfn, text }
    }
}

/// No error so far.
pub(crate) fn none() -> abi::Error {
    Fault::new(abi::OK, "").to_abi()
}

/// A callback of the host failed.
#[derive(Debug)]
pub(crate) struct CallbackError {
    pub(crate) callback: &'static str,
    /// What it returned.
    pub(crate) word: c_int,
}

impl CallbackError {
    /// A word that is no errno counts as `-EINVAL`.
    pub(crate) fn errnum(&self) -> i32 {
        let known = errno(self.word).is_some() || self.word == abi::NOT_OWNED;
        if known { self.word } else { -EINVAL }
    }
}

impl fmt::Display for CallbackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host's callback {} returned {}", self.callback, self.word)?;
        let known = self.errnum() == self.word;
        if known { Ok(()) } else { write!(f, ", which is no errno") }
    }
}

impl StdError for CallbackError {}

/// The host answered that a page can't be sent.
#[derive(Debug)]
pub(crate) struct PageError(pub(crate) i32);

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host could not send it: its answer said {}", -self.0)
    }
}

impl StdError for PageError {}

/// A callback answered something that makes no sense: not an errno.
#[derive(Debug)]
pub(crate) struct Nonsense(pub(crate) String);

impl fmt::Display for Nonsense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Nonsense {}

/// The text of an error with its causes, and the host's errno among them.
fn in_full(error: &Error) -> (String, i32) {
    let (mut text, mut errnum) = (error.to_string(), 0);
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        if let Some(callback) = inner.downcast_ref::<CallbackError>() {
            errnum = callback.errnum();
        } else if let Some(PageError(page)) = inner.downcast_ref() {
            errnum = -*page;
        }
        source = inner.source();
    }
    (text, errnum)
}

const fn errno_of(fault: MapFault) -> i32 {
    match fault {
        MapFault::NotOwned => abi::NOT_OWNED,
        MapFault::Errno(errno) => -errno,
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let (text, errnum) = in_full(&error);
        // The header's functions have the names of the steps.
        let text = match &error {
            Error::Order { .. } => format!("p2mt_{text}"),
            _ => text,
        };
        let fault = |code| Self::new(code, text.clone()).errnum(errnum);
        match &error {
            Error::Port { .. } => fault(abi::E_HOST),
            Error::Page { pfn, mfn, .. } => fault(abi::E_PAGE).at(Some(*pfn), Some(*mfn)),
            Error::Roots { .. } => fault(abi::E_ROOTS),
            Error::Width { cause: WidthCause::Entries { pfn, mfn }, .. } => {
                fault(abi::E_WIDTH).at(Some(*pfn), Some(*mfn))
            }
            Error::Width { .. } => fault(abi::E_WIDTH),
            Error::Structure { .. } => fault(abi::E_STRUCTURE).of_structure(&error),
            Error::P2mSize { pfn, .. } => fault(abi::E_P2M_SIZE).at(Some(*pfn), None),
            Error::TooManyDeferred { pfn, .. } => {
                fault(abi::E_TOO_MANY_DEFERRED).at(Some(*pfn), None)
            }
            Error::Unaccounted { .. } => fault(abi::E_UNACCOUNTED),
            Error::Uncertain { source, .. } => {
                let behind = source.as_ref().and_then(|source| source.downcast_ref::<Error>());
                behind.map_or_else(
                    || fault(abi::E_UNCERTAIN),
                    |error| fault(abi::E_UNCERTAIN).of_structure(error),
                )
            }
            Error::Entry { pfn, mfn, cause } => {
                let at = fault(abi::E_ENTRY).at(Some(*pfn), *mfn);
                match cause {
                    EntryCause::Deferred(Deferral::MapFailed(fault)) => at.errnum(errno_of(*fault)),
                    _ => at,
                }
            }
            Error::Table { pfn, fault } => Self::table(*pfn, fault),
            Error::Environment { .. } => fault(abi::E_ENVIRONMENT),
            Error::Threads { .. } => fault(abi::E_THREADS),
            Error::Order { .. } => fault(abi::E_ORDER),
            _ => fault(abi::E_PANIC), // an error of the engine without a code: a defect
        }
    }
}

/// What a code means.
pub(crate) const fn meaning(code: c_int) -> &'static CStr {
    match code {
        abi::OK => c"no error",
        abi::E_HOST => c"a callback of the host failed",
        abi::E_SIZE => c"a structure has a size or fields that this library does not know",
        abi::E_FORKED => c"the handle was created by another process",
        abi::E_THREADS => c"the engine's threads can't be started",
        abi::E_BUSY => c"the handle is in use",
        abi::E_ARGUMENT => c"an argument is invalid",
        abi::E_ENVIRONMENT => c"an environment variable asks for something that is not available",
        abi::E_UNCERTAIN => c"an uncertainty of one kind lasted for too many rounds",
        abi::E_ORDER => c"the call is not allowed in this state",
        abi::E_PAGE => c"the host could not send a page",
        abi::E_ROOTS => c"the roots of the p2m can't be followed",
        abi::E_STRUCTURE => c"a frame of the p2m's structure can't be used",
        abi::E_P2M_SIZE => c"the p2m covers more pfns than the domain's frames can justify",
        abi::E_TOO_MANY_DEFERRED => c"more pfns are deferred than the domain holds frames",
        abi::E_ENTRY => c"a pfn can't be settled",
        abi::E_TABLE => c"a page table can't be normalised",
        abi::E_WIDTH => c"the guest does not have the configured width",
        abi::E_UNACCOUNTED => c"the domain's frames and its pfns' frames differ by too many",
        abi::E_PANIC => c"the library has a defect, and the handle hit it",
        _ => c"not a code of this library",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack::frame::Width;
    use p2mtrack::table::TableCause;

    #[test]
    fn an_error_names_what_it_is_about() {
        let callback = CallbackError { callback: "types", word: -12 };
        let port = Error::Port { port: "type query", source: Box::new(callback) };
        let error = Fault::from(port).to_abi();
        assert_eq!((error.code, error.errnum, error.pfn), (abi::E_HOST, -12, abi::NONE));
        let page = Error::Page { pfn: Pfn(5), mfn: Mfn(6), source: Box::new(PageError(32)) };
        let error = Fault::from(page).to_abi();
        assert_eq!((error.code, error.errnum, error.pfn, error.mfn), (abi::E_PAGE, -32, 5, 6));
        let cause = TableCause::Superpage;
        let fault = TableFault { level: 2, slot: 7, mfn: Mfn(9), cause };
        let error = Fault::from(Error::Table { pfn: Pfn(8), fault }).to_abi();
        assert_eq!((error.code, error.level, error.pfn, error.mfn), (abi::E_TABLE, 2, 8, 9));
        let cause = WidthCause::Entries { pfn: Pfn(3), mfn: Mfn(4) };
        let error = Fault::from(Error::Width { given: Width::W32, cause }).to_abi();
        assert_eq!((error.code, error.pfn, error.mfn, error.level), (abi::E_WIDTH, 3, 4, -1));
        let cause = StructureCause::Unreadable(MapFault::Errno(14));
        let error = Error::Structure { level: 3, mfn: Mfn(1), pfn: Pfn(2), cause };
        let error = Fault::from(error).to_abi();
        assert_eq!((error.code, error.level, error.errnum), (abi::E_STRUCTURE, 3, -14));
    }

    #[test]
    fn a_text_has_the_number_that_the_host_said() {
        for (word, errnum, text) in [
            (-5, -5, "the host's callback read returned -5"),
            (abi::NOT_OWNED, abi::NOT_OWNED, "the host's callback read returned -4096"),
            (7, -EINVAL, "the host's callback read returned 7, which is no errno"),
        ] {
            let error = CallbackError { callback: "read", word };
            assert_eq!((error.errnum(), error.to_string().as_str()), (errnum, text));
        }
        assert_eq!(PageError(32).to_string(), "the host could not send it: its answer said -32");
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_ends() {
        let error = Fault::argument("ä".repeat(400) + "\0").to_abi();
        assert_eq!((error.text[485] as u8, error.text[486], error.text[487]), (0xa4, 0, 0));
    }
}
