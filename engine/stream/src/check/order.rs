// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which record may come when.
//! Not here: what is in the records.
//! Units: offsets in bytes.
//! Threads: one.
//! Source: Xen `docs/specs/libxc-migration-stream.pandoc`, "Layout"; libxc `xg_sr_restore.c`.

use crate::check::rule::{Findings, Rule};
use crate::record::RecordKind;

/// The place in the stream.
#[derive(Debug)]
pub(crate) struct Order {
    version: u32,
    records: u64,
    has_static_data_end: bool,
    /// A record came before STATIC_DATA_END: reported once.
    is_static_data_missed: bool,
    /// How far the records behind the pages have come since the last consistent point.
    state: State,
    has_tsc: bool,
    has_shared_info: bool,
    pub(crate) is_verify: bool,
    pub(crate) checkpoints: u64,
}

/// Records behind the pages, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Pages,
    Tsc,
    SharedInfo,
    Vcpus,
}

impl Order {
    pub(crate) const fn new() -> Self {
        Self {
            version: 0,
            records: 0,
            has_static_data_end: false,
            is_static_data_missed: false,
            state: State::Pages,
            has_tsc: false,
            has_shared_info: false,
            is_verify: false,
            checkpoints: 0,
        }
    }

    /// The version that the image header has.
    pub(crate) const fn set_version(&mut self, version: u32) {
        self.version = version;
    }

    /// A record of this kind begins at byte `offset`.
    pub(crate) fn begin(&mut self, findings: &mut Findings<'_>, offset: u64, kind: RecordKind) {
        use RecordKind::{
            Checkpoint, CpuidPolicy, End, MsrPolicy, P2mFrames, PageData, PvInfo, SharedInfo,
            StaticDataEnd, TscInfo, VcpuBasic, VcpuExtended, VcpuMsrs, VcpuXsave, Verify,
        };
        let name = kind.name();
        let is_in_place = (kind == PvInfo) == (self.records == 0);
        let found = format_args!("record {} is {name}", self.records + 1);
        findings.expect(is_in_place, offset, Rule::PvInfoFirst, found);
        self.records += 1;
        match kind {
            PvInfo => {}
            CpuidPolicy | MsrPolicy | StaticDataEnd => self.static_data(findings, offset, kind),
            PageData | P2mFrames => self.reach(findings, offset, kind, State::Pages),
            Verify => {
                let is_first = !self.is_verify && self.checkpoints == 0;
                let found = format_args!("{name} comes again, or after a CHECKPOINT");
                findings.expect(is_first, offset, Rule::VerifyPlace, found);
                self.is_verify = true;
                self.reach(findings, offset, kind, State::Pages);
            }
            TscInfo => {
                self.has_tsc = true;
                self.reach(findings, offset, kind, State::Tsc);
            }
            SharedInfo => {
                self.has_shared_info = true;
                self.reach(findings, offset, kind, State::SharedInfo);
            }
            VcpuBasic | VcpuExtended | VcpuXsave | VcpuMsrs => {
                self.reach(findings, offset, kind, State::Vcpus);
            }
            Checkpoint | End => self.expect_static_data_end(findings, offset, kind),
            _ => {} // not a record of a PV guest
        }
        let found = format_args!("{name} comes after VERIFY");
        let is_list = kind == P2mFrames && self.is_verify;
        findings.expect(!is_list, offset, Rule::VerifyPlace, found);
        if kind == Checkpoint {
            let found = format_args!("{name} comes after VERIFY");
            findings.expect(!self.is_verify, offset, Rule::VerifyPlace, found);
        }
    }

    fn static_data(&mut self, findings: &mut Findings<'_>, offset: u64, kind: RecordKind) {
        let found = format_args!("{} comes in version {}", kind.name(), self.version);
        if !findings.expect(self.version >= 3, offset, Rule::RecordVersion, found) {
            return;
        }
        let found = format_args!("{} comes after STATIC_DATA_END", kind.name());
        findings.expect(!self.has_static_data_end, offset, Rule::StaticData, found);
        if kind == RecordKind::StaticDataEnd {
            self.has_static_data_end = true;
        }
    }

    fn expect_static_data_end(
        &mut self,
        findings: &mut Findings<'_>,
        offset: u64,
        kind: RecordKind,
    ) {
        if self.version < 3 || self.has_static_data_end || self.is_static_data_missed {
            return;
        }
        self.is_static_data_missed = true;
        let found = format_args!("{} comes before STATIC_DATA_END", kind.name());
        findings.add(offset, Rule::StaticData, found);
    }

    /// A record comes that belongs to this state: none of a later one may have come.
    fn reach(&mut self, findings: &mut Findings<'_>, offset: u64, kind: RecordKind, state: State) {
        self.expect_static_data_end(findings, offset, kind);
        // vCPUs have an order of their own; TSC and SHARED_INFO come once.
        let is_next = match state {
            State::Tsc | State::SharedInfo => self.state < state,
            State::Pages | State::Vcpus => self.state <= state,
        };
        let found = format_args!("{} comes after {}", kind.name(), self.state.name());
        findings.expect(is_next, offset, Rule::StateOrder, found);
        self.state = self.state.max(state);
    }

    /// The consistent point at byte `offset` ends the records behind the pages.
    pub(crate) fn end_state(
        &mut self,
        findings: &mut Findings<'_>,
        offset: u64,
        kind: RecordKind,
        has_first_vcpu: bool,
    ) {
        for (has, what) in [
            (self.has_tsc, "X86_TSC_INFO"),
            (self.has_shared_info, "SHARED_INFO"),
            (has_first_vcpu, "X86_PV_VCPU_BASIC of vCPU 0"),
        ] {
            let found = format_args!("no {what} came before {}", kind.name());
            findings.expect(has, offset, Rule::StateMissing, found);
        }
        self.state = State::Pages;
        (self.has_tsc, self.has_shared_info) = (false, false);
        self.checkpoints += u64::from(kind == RecordKind::Checkpoint);
    }

    /// Records so far.
    pub(crate) const fn records(&self) -> u64 {
        self.records
    }
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Pages => "pages",
            Self::Tsc => "X86_TSC_INFO",
            Self::SharedInfo => "SHARED_INFO",
            Self::Vcpus => "a record of a vCPU",
        }
    }
}
