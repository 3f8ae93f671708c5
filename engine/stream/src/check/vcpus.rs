// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records of vCPUs: lengths, order, numbers; what their registers name is kept until a consistent
//! point.
//! Not here: whether the pfns are what they have to be (`point`).
//! Units: vCPU numbers.
//! Threads: one.
//! Source: libxc `xg_sr_save_x86_pv.c`, `write_all_vcpu_information`; `xg_sr_restore_x86_pv.c`,
//! `handle_x86_pv_vcpu_blob`.

use std::collections::BTreeMap;

use p2mtrack::frame::Width;

use crate::check::rule::{Findings, Rule};
use crate::header::little;
use crate::record::RecordKind;
use crate::vcpu::{
    Converted, EXTENDED_BYTES_MAX, MSR_BYTES, VCPUS_MAX, XSAVE_BYTES_MIN, basic_bytes,
};

/// Records of vCPUs since the last consistent point.
#[derive(Debug, Default)]
pub(crate) struct Vcpus {
    /// The last record: number and kind.
    last: Option<(u32, u8)>,
    /// By number: where the first record is, and what the registers name.
    pub(crate) seen: BTreeMap<u32, Seen>,
}

/// A vCPU that has a record.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) offset: u64,
    /// From its BASIC record, if that was readable.
    pub(crate) basic: Option<Converted>,
    has_basic: bool,
}

/// The place of a record among those of a vCPU.
const fn rank(kind: RecordKind) -> u8 {
    match kind {
        RecordKind::VcpuBasic => 0,
        RecordKind::VcpuExtended => 1,
        RecordKind::VcpuXsave => 2,
        _ => 3,
    }
}

impl Vcpus {
    /// Takes the body of a vCPU's record, which begins at byte `offset`.
    pub(crate) fn take(
        &mut self,
        findings: &mut Findings<'_>,
        offset: u64,
        width: Width,
        kind: RecordKind,
        body: &[u8],
    ) {
        let name = kind.name();
        let Some((head, context)) = body.split_at_checked(8) else {
            let found = format_args!("{name} has {} bytes, not 8 or more", body.len());
            return findings.add(offset, Rule::BodyLength, found);
        };
        let (id, reserved) = (little(&head[..4]) as u32, little(&head[4..]));
        let found = format_args!("{name} of vCPU {id} has {reserved:#x} in its reserved field");
        findings.expect(reserved == 0, offset, Rule::Reserved, found);
        let found = format_args!("{name} is of vCPU {id}");
        if !findings.expect(id < VCPUS_MAX, offset, Rule::VcpuId, found) {
            return;
        }
        let now = (id, rank(kind));
        let is_later = self.last.is_none_or(|last| last < now);
        let found = format_args!("{name} of vCPU {id} comes too late, or once more");
        findings.expect(is_later, offset, Rule::VcpuOrder, found);
        self.last = Some(now);
        let length = context.len();
        let (is_long, words) = fits(width, kind, length);
        let found =
            format_args!("{name} of vCPU {id} has a context of {length} bytes, not {words}");
        findings.expect(is_long, offset, Rule::BodyLength, found);
        if kind == RecordKind::VcpuExtended && length >= 8 {
            let (inner, size) = (little(&context[..4]) as u32, little(&context[4..8]));
            let found = format_args!("EXTENDED of vCPU {id} has a context of vCPU {inner}");
            findings.expect(inner == id, offset, Rule::VcpuId, found);
            let found =
                format_args!("EXTENDED of vCPU {id} has {length} bytes, its size is {size}");
            findings.expect(size == length as u64, offset, Rule::BodyLength, found);
        }
        let seen = self.seen.entry(id).or_insert(Seen { offset, basic: None, has_basic: false });
        if kind == RecordKind::VcpuBasic {
            seen.has_basic = true;
            seen.offset = offset;
            seen.basic = Converted::read(width, context);
        }
    }

    /// Whether vCPU 0 has registers.
    pub(crate) fn has_first(&self) -> bool {
        self.seen.get(&0).is_some_and(|seen| seen.has_basic)
    }

    /// vCPUs without registers.
    pub(crate) fn without_basic(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.seen.iter().filter(|(_, seen)| !seen.has_basic).map(|(&id, seen)| (id, seen.offset))
    }
}

/// Whether a context may have this length, and which ones it may have.
fn fits(width: Width, kind: RecordKind, length: usize) -> (bool, String) {
    match kind {
        RecordKind::VcpuBasic => {
            let bytes = basic_bytes(width);
            (length == bytes, bytes.to_string())
        }
        RecordKind::VcpuExtended => {
            ((8..=EXTENDED_BYTES_MAX).contains(&length), format!("8 to {EXTENDED_BYTES_MAX}"))
        }
        RecordKind::VcpuXsave => (length >= XSAVE_BYTES_MIN, format!("{XSAVE_BYTES_MIN} or more")),
        _ => (length > 0 && length.is_multiple_of(MSR_BYTES), format!("a multiple of {MSR_BYTES}")),
    }
}
