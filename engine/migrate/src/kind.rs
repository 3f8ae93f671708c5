// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kinds of errors that end a save, for programs: names that do not change.
//! Not here: which error is of which kind (`fault`).
//! Units: names as in JSON.
//! Threads: plain values.
//! Source: own; the table in `docs/migrate.md`.

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The domain is no PV guest.
    NotPv,
    /// The domain was being destroyed at the start.
    Dying,
    /// It has virtual NUMA nodes, which a stream does not carry.
    Vnuma,
    /// The guest publishes no p2m.
    NoP2m,
    /// Another process tracks or saves it, or the lock file can't be used.
    Locked,
    /// This Xen is built without shadow paging, which log-dirty needs.
    NoShadowPaging,
    /// Not enough memory in the host, or in this process.
    NoMemory,
    /// Another program has log-dirty on.
    LogDirtyOn,
    /// A PCI device is assigned.
    PciDevice,
    /// A superpage in a page table, or in the list of the p2m.
    Superpage,
    /// A machine check hit a frame.
    BrokenPage,
    /// A page table names a frame of another domain.
    ForeignPte,
    /// Two pfns have one frame.
    Alias,
    /// A page table, or a vCPU's register, names a frame that no pfn has.
    UnresolvedPte,
    /// The domain holds frames that no pfn has, or fewer than its pfns have.
    Unaccounted,
    /// A pfn, or the length of the list, does not fit a stream.
    PfnTooLarge,
    /// The frame list has positions without a leaf, and no leaf that could stand there.
    NoHoleLeaf,
    /// The receiver may not hold so many pfns.
    ReceiverLimit,
    /// What is left did not become small enough.
    Unconverged,
    /// The guest did not suspend in time.
    SuspendLate,
    /// The guest shut down for another reason, or another program resumed it.
    SuspendOther,
    /// The domain disappeared.
    DomainGone,
    /// The stream can't be written.
    Sink,
    /// Cancelled by a signal.
    Cancelled,
    /// An uncertainty of the engine lasted for too long.
    Uncertain,
    /// The structure of the p2m can't be followed.
    P2mStructure,
    /// The p2m is longer than the domain's frames can justify.
    P2mSizeLimit,
    /// More pfns wait than the domain has frames.
    TooManyDeferred,
    /// A pfn that the last round can't settle.
    Unsettled,
    /// A call to Xen, to xenstore or to the kernel failed.
    Hypercall,
    /// The guest could not be resumed.
    ResumeFailed,
    /// The toolstack that started the save has ended, or does not follow its protocol.
    ToolstackGone,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 32] = [
        Self::NotPv,
        Self::Dying,
        Self::Vnuma,
        Self::NoP2m,
        Self::Locked,
        Self::NoShadowPaging,
        Self::NoMemory,
        Self::LogDirtyOn,
        Self::PciDevice,
        Self::Superpage,
        Self::BrokenPage,
        Self::ForeignPte,
        Self::Alias,
        Self::UnresolvedPte,
        Self::Unaccounted,
        Self::PfnTooLarge,
        Self::NoHoleLeaf,
        Self::ReceiverLimit,
        Self::Unconverged,
        Self::SuspendLate,
        Self::SuspendOther,
        Self::DomainGone,
        Self::Sink,
        Self::Cancelled,
        Self::Uncertain,
        Self::P2mStructure,
        Self::P2mSizeLimit,
        Self::TooManyDeferred,
        Self::Unsettled,
        Self::Hypercall,
        Self::ResumeFailed,
        Self::ToolstackGone,
    ];

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotPv => "not-pv",
            Self::Dying => "dying",
            Self::Vnuma => "vnuma",
            Self::NoP2m => "no-p2m",
            Self::Locked => "locked",
            Self::NoShadowPaging => "no-shadow-paging",
            Self::NoMemory => "no-memory",
            Self::LogDirtyOn => "log-dirty-on",
            Self::PciDevice => "pci-device",
            Self::Superpage => "superpage",
            Self::BrokenPage => "broken-page",
            Self::ForeignPte => "foreign-pte",
            Self::Alias => "alias",
            Self::UnresolvedPte => "unresolved-pte",
            Self::Unaccounted => "unaccounted",
            Self::PfnTooLarge => "pfn-too-large",
            Self::NoHoleLeaf => "no-hole-leaf",
            Self::ReceiverLimit => "receiver-limit",
            Self::Unconverged => "unconverged",
            Self::SuspendLate => "suspend-late",
            Self::SuspendOther => "suspend-other",
            Self::DomainGone => "domain-gone",
            Self::Sink => "sink",
            Self::Cancelled => "cancelled",
            Self::Uncertain => "uncertain",
            Self::P2mStructure => "p2m-structure",
            Self::P2mSizeLimit => "p2m-size-limit",
            Self::TooManyDeferred => "too-many-deferred",
            Self::Unsettled => "unsettled",
            Self::Hypercall => "hypercall",
            Self::ResumeFailed => "resume-failed",
            Self::ToolstackGone => "toolstack-gone",
        }
    }

    /// The number of the operating system's that is nearest, for a toolstack that knows no more.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::Dying | Self::DomainGone => libc::ESRCH,
            Self::NotPv
            | Self::Vnuma
            | Self::NoShadowPaging
            | Self::PciDevice
            | Self::Superpage
            | Self::ForeignPte => libc::EOPNOTSUPP,
            Self::Locked | Self::LogDirtyOn => libc::EBUSY,
            Self::NoMemory => libc::ENOMEM,
            Self::PfnTooLarge | Self::ReceiverLimit | Self::P2mSizeLimit => libc::E2BIG,
            Self::Unconverged | Self::SuspendLate | Self::Uncertain => libc::ETIMEDOUT,
            Self::Cancelled => libc::ECANCELED,
            Self::Sink | Self::BrokenPage | Self::Hypercall | Self::ResumeFailed => libc::EIO,
            Self::ToolstackGone => libc::EPIPE,
            Self::NoP2m
            | Self::Alias
            | Self::UnresolvedPte
            | Self::Unaccounted
            | Self::NoHoleLeaf
            | Self::SuspendOther
            | Self::P2mStructure
            | Self::TooManyDeferred
            | Self::Unsettled => libc::EINVAL,
        }
    }

    /// Whether an error of this kind may be just what a domain that disappeared looks like.
    #[must_use]
    pub const fn may_hide_a_domain_that_is_gone(self) -> bool {
        !matches!(
            self,
            Self::Cancelled
                | Self::Sink
                | Self::ReceiverLimit
                | Self::Unconverged
                | Self::ToolstackGone
        )
    }

    /// Whether a guest that is refused with this kind does not run.
    #[must_use]
    pub const fn is_of_no_running_guest(self) -> bool {
        matches!(self, Self::Dying | Self::DomainGone | Self::SuspendOther)
    }
}
