// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a save ended: a kind for programs, numbers that name the cause, and words for people.
//! Not here: what is done about it (`save`).
//! Units: pfns, mfns; levels and slots of page tables.
//! Threads: plain values.
//! Source: errors of the engine, of its ports and of the stream; the table in `docs/migrate.md`.

use std::error::Error as StdError;
use std::{fmt, io};

use p2mtrack::error::{EntryCause, Error, RootsFault, StructureCause};
use p2mtrack::frame::{Mfn, Pfn};
use p2mtrack::port::PortError;
use p2mtrack::table::{TableCause, TableFault};
use p2mtrack_stream::frame_list::ListFault;
use p2mtrack_stream::populated::TooMany;
use p2mtrack_xen::{GuardError, LockError, SuspendError, XenError};

use crate::kind::Kind;
use crate::tail::TailFault;

/// Why a save ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of error it is.
    pub kind: Kind,
    /// The pfn that it is about.
    pub pfn: Option<Pfn>,
    /// The frame that it is about.
    pub mfn: Option<Mfn>,
    /// The level of a page table, or of a frame of the p2m.
    pub level: Option<u8>,
    /// The slot of a page table.
    pub slot: Option<u16>,
    /// The operating system's number for it, for a toolstack that knows no more.
    pub errno: i32,
    /// What happened, to what, and what to do.
    pub words: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl StdError for Fault {}

impl Fault {
    /// An error that is about no frame.
    pub fn new(kind: Kind, words: impl Into<String>) -> Self {
        let (errno, words) = (kind.errno(), words.into());
        Self { kind, pfn: None, mfn: None, level: None, slot: None, errno, words }
    }

    /// An error of Xen's while the domain is looked at for the first time.
    #[must_use]
    pub fn at_first(error: &XenError) -> Self {
        let kind = match error.errno() {
            libc::EOPNOTSUPP => Kind::NotPv,
            libc::ESRCH if error.is_dying() => Kind::Dying,
            libc::ESRCH => Kind::DomainGone,
            libc::ENOMEM => Kind::NoMemory,
            _ => Kind::Hypercall,
        };
        Self::new(kind, error.to_string())
    }

    /// An error while the stream is written.
    #[must_use]
    pub fn port(error: &PortError) -> Self {
        let fault = Self::new(of_port("transport", error), in_full(&**error));
        Self { errno: errno_of(error).unwrap_or(fault.errno), ..fault }
    }

    /// The output can't be written.
    #[must_use]
    pub fn sink(error: &io::Error) -> Self {
        let fault = Self::new(of_io(error), in_full(error));
        Self { errno: error.raw_os_error().unwrap_or(fault.errno), ..fault }
    }

    /// An error of the engine.
    #[must_use]
    pub fn engine(error: &Error) -> Self {
        let mut fault = Self::new(of_engine(error), in_full(error));
        match *error {
            Error::Page { pfn, mfn, .. } => fault.about(Some(pfn), Some(mfn)),
            Error::Structure { level, mfn, pfn, .. } => {
                fault.about(Some(pfn), Some(mfn));
                fault.level = Some(level);
            }
            Error::P2mSize { pfn, .. } | Error::TooManyDeferred { pfn, .. } => {
                fault.about(Some(pfn), None);
            }
            Error::Entry { pfn, mfn, .. } => fault.about(Some(pfn), mfn),
            Error::Table { pfn, fault: TableFault { level, slot, mfn, .. } } => {
                fault.about(Some(pfn), Some(mfn));
                (fault.level, fault.slot) = (Some(level), Some(slot));
            }
            Error::Port { ref source, .. } => {
                fault.errno = errno_of(source).unwrap_or(fault.errno);
                if let Some(&TailFault::Context { mfn, .. }) = source.downcast_ref() {
                    fault.mfn = mfn;
                }
            }
            _ => {}
        }
        fault
    }

    /// A log-dirty that can't be switched on, by the guard.
    #[must_use]
    pub fn guard(error: &GuardError, has_pci: bool) -> Self {
        let kind = match error {
            GuardError::Xen(refused) if refused.is_on_already() && has_pci => Kind::PciDevice,
            GuardError::Xen(refused) => of_xen(refused),
            GuardError::Other => Kind::DomainGone,
            GuardError::Void => Kind::Locked,
            GuardError::Process(_) | GuardError::Suspend(_) => Kind::Hypercall,
        };
        Self::new(kind, in_full(error))
    }

    /// A suspend that failed.
    #[must_use]
    pub fn suspend(error: &SuspendError) -> Self {
        let kind = match error {
            SuspendError::Xen(refused) => of_xen(refused),
            SuspendError::Xenstore(_) => Kind::Hypercall,
            SuspendError::Late(_) => Kind::SuspendLate,
            SuspendError::Ended { .. } => Kind::SuspendOther,
            SuspendError::Cancelled => Kind::Cancelled,
        };
        Self::new(kind, in_full(error))
    }

    fn about(&mut self, pfn: Option<Pfn>, mfn: Option<Mfn>) {
        (self.pfn, self.mfn) = (pfn, mfn);
    }
}

impl From<LockError> for Fault {
    fn from(error: LockError) -> Self {
        Self::new(Kind::Locked, in_full(&error))
    }
}

impl From<XenError> for Fault {
    fn from(error: XenError) -> Self {
        Self::new(of_xen(&error), error.to_string())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::engine(&error)
    }
}

/// An error of Xen's after the first look.
fn of_xen(error: &XenError) -> Kind {
    match error.errno() {
        libc::ESRCH => Kind::DomainGone,
        libc::ENOMEM => Kind::NoMemory,
        libc::EINVAL if error.is_on_already() => Kind::LogDirtyOn,
        libc::EINVAL if error.is_resumed() => Kind::SuspendOther,
        libc::EOPNOTSUPP | libc::ENOSYS if error.is_of_log_dirty() => Kind::NoShadowPaging,
        _ => Kind::Hypercall,
    }
}

/// The operating system's number of an error of the stream.
fn errno_of(error: &PortError) -> Option<i32> {
    error.downcast_ref::<io::Error>()?.raw_os_error()
}

fn of_io(error: &io::Error) -> Kind {
    if error.raw_os_error() == Some(libc::ECANCELED) { Kind::Cancelled } else { Kind::Sink }
}

fn of_port(port: &str, source: &PortError) -> Kind {
    if let Some(error) = source.downcast_ref::<XenError>() {
        return of_xen(error);
    }
    if let Some(error) = source.downcast_ref::<io::Error>() {
        return of_io(error);
    }
    if let Some(fault) = source.downcast_ref::<ListFault>() {
        return match fault {
            ListFault::NoHoleLeaf { .. } => Kind::NoHoleLeaf,
            ListFault::TooLong { .. } => Kind::PfnTooLarge,
        };
    }
    if source.is::<TooMany>() {
        return Kind::ReceiverLimit;
    }
    match source.downcast_ref::<TailFault>() {
        Some(TailFault::Context { .. }) => Kind::UnresolvedPte,
        Some(TailFault::Xen(error)) => of_xen(error),
        None if port == "transport" => Kind::Sink,
        None => Kind::Hypercall,
    }
}

fn of_engine(error: &Error) -> Kind {
    match error {
        Error::Port { port, source } => of_port(port, source),
        Error::Page { source, .. } => of_port("transport", source),
        Error::Roots { fault: RootsFault::Absent, .. } => Kind::NoP2m,
        Error::Structure { cause: StructureCause::Superpage, .. } => Kind::Superpage,
        Error::Roots { .. } | Error::Width { .. } | Error::Structure { .. } => Kind::P2mStructure,
        Error::P2mSize { .. } => Kind::P2mSizeLimit,
        Error::TooManyDeferred { .. } => Kind::TooManyDeferred,
        Error::Unaccounted { .. } => Kind::Unaccounted,
        Error::Uncertain { source, .. } => match source.as_ref().map(|s| of_port("", s)) {
            Some(Kind::DomainGone) => Kind::DomainGone,
            _ => Kind::Uncertain,
        },
        Error::Entry { cause, .. } => match cause {
            EntryCause::Alias(_) => Kind::Alias,
            EntryCause::Broken => Kind::BrokenPage,
            _ => Kind::Unsettled,
        },
        Error::Table { fault, .. } => match fault.cause {
            TableCause::Foreign => Kind::ForeignPte,
            TableCause::Unresolved => Kind::UnresolvedPte,
            TableCause::Superpage => Kind::Superpage,
            _ => Kind::Unsettled,
        },
        Error::Threads { .. } => Kind::NoMemory,
        _ => Kind::Hypercall,
    }
}

/// Text from a file, a guest or a path, with control characters escaped.
#[must_use]
pub fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    text.chars().map(escape).collect()
}

/// An error with all its causes. A cause whose text is already there is not repeated.
pub fn in_full(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack::frame::Width;
    use p2mtrack::port::{Deferral, MapFault};
    use p2mtrack::uncertainty::Uncertainty;
    use p2mtrack_stream::vcpu::{ContextFault, Register};
    use p2mtrack_xen::{CHECK, ENABLE};

    const PFN: Pfn = Pfn(7);
    const MFN: Mfn = Mfn(9);

    fn port(name: &'static str, source: impl Into<PortError>) -> Error {
        Error::Port { port: name, source: source.into() }
    }

    fn xen(call: &'static str, errno: i32) -> Error {
        port("log-dirty", XenError::new(call, errno))
    }

    fn io(errno: i32) -> Error {
        port("transport", io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn a_stream_that_can_not_be_written_has_the_errno_of_the_write() {
        for errno in [libc::EPIPE, libc::ENOSPC] {
            let fault = Fault::from(io(errno));
            assert_eq!((fault.kind, fault.errno), (Kind::Sink, errno));
            let source: PortError = io::Error::from_raw_os_error(errno).into();
            assert_eq!(Fault::port(&source).errno, errno);
            assert_eq!(Fault::sink(&io::Error::from_raw_os_error(errno)).errno, errno);
        }
        assert_eq!(Fault::sink(&io::ErrorKind::WriteZero.into()).errno, Kind::Sink.errno());
    }

    fn entry(cause: EntryCause) -> Error {
        Error::Entry { pfn: PFN, mfn: Some(MFN), cause }
    }

    fn table(cause: TableCause) -> Error {
        Error::Table { pfn: PFN, fault: TableFault { level: 2, slot: 511, mfn: MFN, cause } }
    }

    fn structure(cause: StructureCause) -> Error {
        Error::Structure { level: 1, mfn: MFN, pfn: PFN, cause }
    }

    fn uncertain(source: Option<PortError>) -> Error {
        Error::Uncertain { uncertainty: Uncertainty::LogLost, rounds: 6, source }
    }

    #[test]
    fn every_error_of_the_engine_has_a_kind() {
        let frame = ContextFault::Frame { register: Register::Cr3, mfn: MFN };
        let gone = || XenError::new("map", libc::ESRCH);
        let deferred = EntryCause::Deferred(Deferral::NotOwned);
        let roots = |fault| Error::Roots { fault, value: 0 };
        for (error, kind) in [
            (xen(ENABLE, libc::EINVAL), Kind::LogDirtyOn),
            (xen(ENABLE, libc::EOPNOTSUPP), Kind::NoShadowPaging),
            (xen(ENABLE, libc::ENOSYS), Kind::NoShadowPaging),
            (xen(ENABLE, libc::ENOMEM), Kind::NoMemory),
            (xen("clean log-dirty", libc::ENOMEM), Kind::NoMemory),
            (xen("clean log-dirty", libc::ESRCH), Kind::DomainGone),
            (xen("clean log-dirty", libc::EINVAL), Kind::Hypercall),
            (xen("map", libc::EOPNOTSUPP), Kind::Hypercall),
            (port("p2m source", XenError::new(CHECK, libc::EINVAL)), Kind::SuspendOther),
            (port("p2m source", "unknown"), Kind::Hypercall),
            (port("transport", "unknown"), Kind::Sink),
            (io(libc::ENOSPC), Kind::Sink),
            (io(libc::EPIPE), Kind::Sink),
            (io(libc::ECANCELED), Kind::Cancelled),
            (port("transport", ListFault::NoHoleLeaf { position: 3 }), Kind::NoHoleLeaf),
            (port("transport", ListFault::TooLong { pfns: 1 << 33 }), Kind::PfnTooLarge),
            (port("transport", TooMany { pfns: 9, limit: 8 }), Kind::ReceiverLimit),
            (port("transport", TailFault::context(1, frame)), Kind::UnresolvedPte),
            (port("transport", TailFault::Xen(gone())), Kind::DomainGone),
            (roots(RootsFault::Absent), Kind::NoP2m),
            (roots(RootsFault::Misaligned), Kind::P2mStructure),
            (structure(StructureCause::Superpage), Kind::Superpage),
            (structure(StructureCause::Unstable), Kind::P2mStructure),
            (structure(StructureCause::Unreadable(MapFault::NotOwned)), Kind::P2mStructure),
            (
                Error::Width { given: Width::W64, cause: p2mtrack::error::WidthCause::Port },
                Kind::P2mStructure,
            ),
            (Error::P2mSize { pfn: PFN, limit: 1, domain_frames: 1 }, Kind::P2mSizeLimit),
            (
                Error::TooManyDeferred { pfn: PFN, waiting: 2, domain_frames: 1 },
                Kind::TooManyDeferred,
            ),
            (
                Error::Unaccounted { unaccounted_frames: 1, domain_frames: 1, limit: 0 },
                Kind::Unaccounted,
            ),
            (uncertain(None), Kind::Uncertain),
            (uncertain(Some("ENOMEM".into())), Kind::Uncertain),
            (uncertain(Some(gone().into())), Kind::DomainGone),
            (entry(EntryCause::Alias(Pfn(8))), Kind::Alias),
            (entry(EntryCause::Broken), Kind::BrokenPage),
            (entry(deferred), Kind::Unsettled),
            (entry(EntryCause::Restless), Kind::Unsettled),
            (table(TableCause::Foreign), Kind::ForeignPte),
            (table(TableCause::Unresolved), Kind::UnresolvedPte),
            (table(TableCause::Superpage), Kind::Superpage),
            (Error::Threads { source: "EAGAIN".into() }, Kind::NoMemory),
        ] {
            let fault = Fault::engine(&error);
            assert_eq!(fault.kind, kind, "{error}");
            assert!(!fault.words.is_empty());
        }
    }

    #[test]
    fn an_error_names_pfn_mfn_level_and_slot() {
        let fault = Fault::engine(&table(TableCause::Foreign));
        assert_eq!((fault.pfn, fault.mfn), (Some(PFN), Some(MFN)));
        assert_eq!((fault.level, fault.slot), (Some(2), Some(511)));
        let fault = Fault::engine(&structure(StructureCause::Superpage));
        assert_eq!((fault.pfn, fault.mfn, fault.level), (Some(PFN), Some(MFN), Some(1)));
        let register = ContextFault::Frame { register: Register::Edx, mfn: MFN };
        let fault = Fault::engine(&port("transport", TailFault::context(0, register)));
        assert_eq!(fault.mfn, Some(MFN));
        assert!(fault.words.contains("vCPU 0") && fault.words.contains("edx"), "{fault}");
    }

    #[test]
    fn what_is_refused_before_anything_is_touched_has_a_kind() {
        let first = |errno| Fault::at_first(&XenError::new("open", errno)).kind;
        let kinds = [libc::EOPNOTSUPP, libc::ESRCH, libc::ENOMEM, libc::EPERM].map(first);
        assert_eq!(kinds, [Kind::NotPv, Kind::DomainGone, Kind::NoMemory, Kind::Hypercall]);
        assert_eq!(Fault::at_first(&XenError::dying(3)).kind, Kind::Dying);
        assert_eq!(Fault::from(XenError::dying(3)).kind, Kind::DomainGone, "later it has gone");
        let held = LockError::Held { domid: 3, pid: Some(4) };
        assert_eq!(Fault::from(held).kind, Kind::Locked);
    }

    #[test]
    fn a_log_that_the_guard_can_not_switch_on_has_a_kind() {
        let refused = |errno| GuardError::Xen(XenError::new(ENABLE, errno));
        let kind = |errno, has_pci| Fault::guard(&refused(errno), has_pci).kind;
        assert_eq!(kind(libc::EINVAL, false), Kind::LogDirtyOn);
        assert_eq!(kind(libc::EINVAL, true), Kind::PciDevice);
        assert_eq!(kind(libc::EOPNOTSUPP, true), Kind::NoShadowPaging);
        assert_eq!(kind(libc::ENOMEM, true), Kind::NoMemory);
        assert_eq!(Fault::guard(&GuardError::Other, false).kind, Kind::DomainGone);
        assert_eq!(Fault::guard(&GuardError::Void, false).kind, Kind::Locked);
    }

    #[test]
    fn a_suspend_that_fails_has_a_kind() {
        for (error, kind) in [
            (SuspendError::Late(std::time::Duration::from_secs(60)), Kind::SuspendLate),
            (SuspendError::Ended { reason: 3 }, Kind::SuspendOther),
            (SuspendError::Cancelled, Kind::Cancelled),
            (SuspendError::Xenstore(io::ErrorKind::NotFound.into()), Kind::Hypercall),
            (SuspendError::Xen(XenError::new("get the state", libc::ESRCH)), Kind::DomainGone),
        ] {
            assert_eq!(Fault::suspend(&error).kind, kind, "{error}");
        }
    }

    #[test]
    fn names_of_kinds_are_distinct_words() {
        let names: std::collections::BTreeSet<_> = Kind::ALL.map(Kind::name).into();
        assert_eq!(names.len(), Kind::ALL.len());
        let table = include_str!("../../../docs/migrate.md");
        for name in names {
            assert!(name.bytes().all(|byte| byte == b'-' || byte.is_ascii_alphanumeric()));
            assert!(table.contains(&format!("`{name}`")), "docs/migrate.md does not have {name}");
        }
    }
}
