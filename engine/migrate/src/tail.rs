// SPDX-License-Identifier: MIT OR Apache-2.0
//! The records around the pages: headers and static data before them, time, shared_info and vCPUs
//! behind them; END is written by the one who knows that nothing else fails (`save`).
//! Not here: their layout (`p2mtrack_stream`), the calls (`p2mtrack_xen::XenState`).
//! Units: mfns of registers become pfns by the engine's view of p2m and m2p.
//! Threads: one owner.
//! Source: `xen-migrate.md` 2, in its order. shared_info and vCPUs are read after the guest is
//! suspended: until then Xen writes them without a mark. The time is read last: the guest's stands
//! still from there.

use std::time::{Duration, Instant};
use std::{error, fmt};

use p2mtrack::frame::{FRAME_BYTES, Mfn, Pfn, Width};
use p2mtrack::port::PortError;
use p2mtrack::table::{Resolved, TableView};
use p2mtrack_stream::record::RecordKind;
use p2mtrack_stream::sink::Sink;
use p2mtrack_stream::transport::Tail;
use p2mtrack_stream::vcpu::{ContextFault, convert};
use p2mtrack_stream::writer::{TscInfo, Writer};
use p2mtrack_xen::{Domain, VcpuState, XenError, XenState};

/// Why the state of a guest can't be sent.
#[derive(Debug)]
pub enum TailFault {
    /// A register of a vCPU can't be sent.
    Context {
        /// The vCPU.
        vcpu: u32,
        /// The frame that the register names, if that is what is wrong.
        mfn: Option<Mfn>,
        /// Why.
        source: ContextFault,
    },
    /// A call failed.
    Xen(XenError),
}

impl fmt::Display for TailFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Context { vcpu, .. } => write!(f, "the registers of vCPU {vcpu} can't be sent"),
            Self::Xen(cause) => cause.fmt(f),
        }
    }
}

impl error::Error for TailFault {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Context { source, .. } => Some(source),
            Self::Xen(_) => None,
        }
    }
}

impl TailFault {
    pub(crate) const fn context(vcpu: u32, source: ContextFault) -> Self {
        let mfn = match source {
            ContextFault::Frame { mfn, .. } => Some(mfn),
            _ => None,
        };
        Self::Context { vcpu, mfn, source }
    }
}

/// What a guest is besides its pages.
#[derive(Debug)]
pub struct DomainTail {
    state: XenState,
    width: Width,
    shared_info: Box<[u8; FRAME_BYTES]>,
    vcpus: Vec<(u32, VcpuState)>,
}

impl DomainTail {
    /// Of a domain.
    ///
    /// # Errors
    /// No memory.
    pub fn new(domain: &Domain) -> Result<Self, XenError> {
        Ok(Self {
            state: XenState::new(domain)?,
            width: domain.width(),
            shared_info: Box::new([0; FRAME_BYTES]),
            vcpus: Vec::new(),
        })
    }

    /// Writes what comes before the pages: headers, width, CPU policies.
    ///
    /// # Errors
    /// A call fails, or the sink.
    pub fn write_head<S: Sink>(&mut self, writer: &mut Writer<S>) -> Result<(), PortError> {
        let policy = self.state.cpu_policy()?;
        writer.headers(self.state.xen_version()?)?;
        writer.pv_info(self.width)?;
        writer.cpuid_policy(&policy.leaves)?;
        writer.msr_policy(&policy.msrs)?;
        Ok(writer.static_data_end()?)
    }

    /// Reads everything once while the guest runs, and throws it away: says how long it takes, and
    /// shows before the guest is suspended whether Xen answers.
    ///
    /// # Errors
    /// A call fails.
    pub fn rehearse(&mut self) -> Result<Duration, XenError> {
        let begun = Instant::now();
        self.read_all()?;
        self.state.tsc()?;
        self.vcpus.clear();
        Ok(begun.elapsed())
    }

    fn read_all(&mut self) -> Result<(), XenError> {
        *self.shared_info = self.state.shared_info()?;
        self.vcpus.clear();
        for number in 0..self.state.vcpus()? {
            if let Some(vcpu) = self.state.vcpu(number)? {
                self.vcpus.push((number, vcpu));
            }
        }
        Ok(())
    }
}

impl<S: Sink> Tail<S> for DomainTail {
    fn read(&mut self, view: &dyn TableView) -> Result<(), PortError> {
        self.read_all().map_err(TailFault::Xen)?;
        for (number, vcpu) in &mut self.vcpus {
            // No table names these frames.
            let resolve = |mfn| match view.resolve(NO_TABLE, mfn) {
                Resolved::Pfn(pfn) => Some(pfn),
                _ => None,
            };
            convert(self.width, *number, &mut vcpu.basic, resolve)
                .map_err(|fault| TailFault::context(*number, fault))?;
        }
        Ok(())
    }

    fn write(&mut self, writer: &mut Writer<S>) -> Result<(), PortError> {
        let tsc = self.state.tsc().map_err(TailFault::Xen)?;
        writer.tsc_info(&TscInfo {
            mode: tsc.mode,
            khz: tsc.khz,
            nsec: tsc.nsec,
            incarnation: tsc.incarnation,
        })?;
        writer.shared_info(&self.shared_info)?;
        for (number, vcpu) in &self.vcpus {
            writer.vcpu(RecordKind::VcpuBasic, *number, &vcpu.basic)?;
            let rest = [
                (RecordKind::VcpuExtended, &vcpu.extended),
                (RecordKind::VcpuXsave, &vcpu.xsave),
                (RecordKind::VcpuMsrs, &vcpu.msrs),
            ];
            for (kind, state) in rest.into_iter().filter(|(_, state)| !state.is_empty()) {
                writer.vcpu(kind, *number, state)?;
            }
        }
        Ok(())
    }
}

/// A pfn that no page table has.
const NO_TABLE: Pfn = Pfn(u64::MAX);
