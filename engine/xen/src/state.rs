// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest is besides its memory, as a migration carries it: CPU policies, time, shared_info,
//! vCPUs.
//! Not here: how it stands in a stream, in which mfns are pfns.
//! Units: bytes as Xen hands them out; mfns are still the source's.
//! Threads: one owner.
//! Source: `xen-migrate.md` 2, in the order in which a sender asks. Policies may be read at any
//! time; the rest is only good of a suspended guest.

use p2mtrack::frame::{FRAME_BYTES, Width};
use p2mtrack::leaf::Leaf;

use crate::call::Caller;
use crate::domain::Domain;
use crate::error::{XenError, failed};
use crate::{mapping, memory, vcpu};

/// A guest's CPU policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuPolicy {
    /// CPUID leaves of 24 bytes each, perhaps none.
    pub leaves: Vec<u8>,
    /// MSRs of 16 bytes each, perhaps none.
    pub msrs: Vec<u8>,
}

/// A guest's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscInfo {
    /// How its TSC is made.
    pub mode: u32,
    /// Its TSC's frequency in kHz.
    pub khz: u32,
    /// Nanoseconds since it was made.
    pub nsec: u64,
    /// Times that it was moved.
    pub incarnation: u32,
}

/// A vCPU's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuState {
    /// `vcpu_guest_context` of the guest's width.
    pub basic: Vec<u8>,
    /// Its extended context, number and length included; perhaps empty.
    pub extended: Vec<u8>,
    /// Its xsave area, which begins with xcr0 and xcr0_accum; empty if it has none.
    pub xsave: Vec<u8>,
    /// MSRs of 16 bytes each, perhaps none.
    pub msrs: Vec<u8>,
}

/// Bytes of `vcpu_guest_context`.
const fn basic_bytes(width: Width) -> usize {
    match width {
        Width::W32 => 2800,
        Width::W64 => 5168,
    }
}

/// The state of one domain.
#[derive(Debug)]
pub struct XenState {
    domain: Domain,
}

impl XenState {
    /// For a domain.
    ///
    /// # Errors
    /// No memory.
    pub fn new(domain: &Domain) -> Result<Self, XenError> {
        Ok(Self { domain: domain.another()? })
    }

    /// Whether the domain has virtual NUMA nodes, which a stream does not carry.
    ///
    /// # Errors
    /// The call fails.
    pub fn has_vnuma(&mut self) -> Result<bool, XenError> {
        let mut caller = Caller::new(&self.domain.xen().privcmd)?;
        let answer = memory::has_vnuma(&mut caller, self.domain.domid());
        answer.map_err(self.failed("ask for virtual NUMA nodes"))
    }

    /// The version of the hypervisor under it, as two numbers.
    ///
    /// # Errors
    /// The call fails.
    pub fn xen_version(&self) -> Result<(u32, u32), XenError> {
        self.domain.xen().version_numbers()
    }

    /// Its CPU policies.
    ///
    /// # Errors
    /// The call fails.
    pub fn cpu_policy(&mut self) -> Result<CpuPolicy, XenError> {
        let domid = self.domain.domid();
        let policy = self.domain.calls().cpu_policy(domid);
        let (leaves, msrs) = policy.map_err(self.failed("read the CPU policies"))?;
        Ok(CpuPolicy { leaves, msrs })
    }

    /// Its time; to be read as late as possible, because a guest that is sent stands still from
    /// here on.
    ///
    /// # Errors
    /// The call fails.
    pub fn tsc(&mut self) -> Result<TscInfo, XenError> {
        let domid = self.domain.domid();
        let tsc = self.domain.calls().tsc(domid).map_err(self.failed("read the TSC"))?;
        Ok(TscInfo { mode: tsc.mode, khz: tsc.khz, nsec: tsc.nsec, incarnation: tsc.incarnation })
    }

    /// A copy of its shared_info.
    ///
    /// # Errors
    /// The page can't be mapped.
    pub fn shared_info(&mut self) -> Result<[u8; FRAME_BYTES], XenError> {
        let mfn = self.domain.info()?.shared_info;
        let (privcmd, domid) = (&self.domain.xen().privcmd, self.domain.domid());
        let mut page = Leaf::default();
        mapping::copy(privcmd, domid, mfn, &mut page)
            .map_err(|fault| mapping::not_mapped("map shared_info", fault).of(domid))?;
        Ok(bytemuck::cast(page.words))
    }

    /// How many vCPUs it may have: their numbers are below this.
    ///
    /// # Errors
    /// The domain is gone.
    pub fn vcpus(&mut self) -> Result<u32, XenError> {
        Ok(self.domain.info()?.vcpus)
    }

    /// A vCPU's state; `None` if it is unplugged.
    ///
    /// # Errors
    /// A call fails.
    pub fn vcpu(&mut self, vcpu: u32) -> Result<Option<VcpuState>, XenError> {
        let domid = self.domain.domid();
        let online = self.domain.calls().vcpu_is_online(domid, vcpu);
        if !online.map_err(self.failed("ask for the state of a vcpu"))? {
            return Ok(None);
        }
        let basic = vcpu::registers(&mut self.domain, vcpu)?;
        let basic: &[u8] = bytemuck::cast_slice(basic.words());
        let basic = basic[..basic_bytes(self.domain.width())].to_vec();
        let extended = self.domain.calls().ext_vcpu_context(domid, vcpu);
        let extended = extended.map_err(self.failed("read a vcpu's extended context"))?;
        let xsave = self.domain.calls().xsave(domid, vcpu);
        let xsave = xsave.map_err(self.failed("read a vcpu's xsave area"))?;
        let msrs = self.domain.calls().vcpu_msrs(domid, vcpu);
        let msrs = msrs.map_err(self.failed("read a vcpu's MSRs"))?;
        Ok(Some(VcpuState { basic, extended, xsave, msrs }))
    }

    fn failed(&self, call: &'static str) -> impl FnOnce(i32) -> XenError {
        let domid = self.domain.domid();
        move |errno| failed(call)(errno).of(domid)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn registers_are_as_long_as_in_xens_header() {
        use super::*;
        let length = size_of::<xen_sys::vcpu_guest_context>();
        assert_eq!(basic_bytes(Width::W64), length);
    }
}
