// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records of a libxc stream: their numbers, names, and what bounds their lengths.
//! Not here: what a body holds (`word`, `vcpu`), or which records may follow (`check`).
//! Units: bytes; a record is padded with zeros to a multiple of 8.
//! Threads: plain values.
//! Source: Xen `docs/specs/libxc-migration-stream.pandoc`, revision 3;
//! `tools/libs/guest/xg_sr_stream_format.h`.

/// Bytes of a record's header: its number and the length of its body, each a u32.
pub const RECORD_HEADER_BYTES: usize = 8;

/// The longest body that a receiver takes (`REC_LENGTH_MAX`).
pub const BODY_BYTES_MAX: u32 = 128 << 20;

/// Bit 31 of a record's number: a receiver that does not know the record may skip it.
pub const OPTIONAL: u32 = 1 << 31;

/// The records of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum RecordKind {
    /// The stream is complete.
    End = 0x0,
    /// Pfns with their types, and the pages of those that have data.
    PageData = 0x1,
    /// The guest's width.
    PvInfo = 0x2,
    /// The pfns of the p2m's own leaves.
    P2mFrames = 0x3,
    /// A vCPU's registers.
    VcpuBasic = 0x4,
    /// A vCPU's extended context.
    VcpuExtended = 0x5,
    /// A vCPU's xsave area.
    VcpuXsave = 0x6,
    /// The shared_info page.
    SharedInfo = 0x7,
    /// The guest's time stamp counter.
    TscInfo = 0x8,
    /// HVM only.
    HvmContext = 0x9,
    /// HVM only.
    HvmParams = 0xa,
    /// Not used any more.
    Toolstack = 0xb,
    /// A vCPU's MSRs.
    VcpuMsrs = 0xc,
    /// From here on pages are compared, not stored.
    Verify = 0xd,
    /// A consistent point of a Remus stream.
    Checkpoint = 0xe,
    /// COLO's back channel only.
    CheckpointDirtyPfnList = 0xf,
    /// Everything that does not change while the guest runs was sent (version 3).
    StaticDataEnd = 0x10,
    /// CPUID leaves (version 3).
    CpuidPolicy = 0x11,
    /// MSRs of the CPU policy (version 3).
    MsrPolicy = 0x12,
}

impl RecordKind {
    /// All of them, in order of number.
    pub const ALL: [Self; 19] = [
        Self::End,
        Self::PageData,
        Self::PvInfo,
        Self::P2mFrames,
        Self::VcpuBasic,
        Self::VcpuExtended,
        Self::VcpuXsave,
        Self::SharedInfo,
        Self::TscInfo,
        Self::HvmContext,
        Self::HvmParams,
        Self::Toolstack,
        Self::VcpuMsrs,
        Self::Verify,
        Self::Checkpoint,
        Self::CheckpointDirtyPfnList,
        Self::StaticDataEnd,
        Self::CpuidPolicy,
        Self::MsrPolicy,
    ];

    /// The record with this number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The specification's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::End => "END",
            Self::PageData => "PAGE_DATA",
            Self::PvInfo => "X86_PV_INFO",
            Self::P2mFrames => "X86_PV_P2M_FRAMES",
            Self::VcpuBasic => "X86_PV_VCPU_BASIC",
            Self::VcpuExtended => "X86_PV_VCPU_EXTENDED",
            Self::VcpuXsave => "X86_PV_VCPU_XSAVE",
            Self::SharedInfo => "SHARED_INFO",
            Self::TscInfo => "X86_TSC_INFO",
            Self::HvmContext => "HVM_CONTEXT",
            Self::HvmParams => "HVM_PARAMS",
            Self::Toolstack => "TOOLSTACK",
            Self::VcpuMsrs => "X86_PV_VCPU_MSRS",
            Self::Verify => "VERIFY",
            Self::Checkpoint => "CHECKPOINT",
            Self::CheckpointDirtyPfnList => "CHECKPOINT_DIRTY_PFN_LIST",
            Self::StaticDataEnd => "STATIC_DATA_END",
            Self::CpuidPolicy => "X86_CPUID_POLICY",
            Self::MsrPolicy => "X86_MSR_POLICY",
        }
    }
}

/// The zeros behind a body of this length.
#[must_use]
pub const fn padding(length: u32) -> usize {
    (length.wrapping_neg() & 7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_by_its_number() {
        for kind in RecordKind::ALL {
            assert_eq!(RecordKind::of(kind as u32), Some(kind));
        }
        assert_eq!([0x13, OPTIONAL, u32::MAX].map(RecordKind::of), [None; 3]);
    }

    #[test]
    fn bodies_are_padded_to_eight_bytes() {
        assert_eq!([0, 1, 7, 8, 9, u32::MAX].map(padding), [0, 7, 1, 0, 7, 1]);
    }
}
