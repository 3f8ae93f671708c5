// SPDX-License-Identifier: MIT OR Apache-2.0
//! The domctls that read what a guest is besides its memory: CPU policies, time, vCPUs.
//! Not here: what is in their bytes; the general registers, which the parent module reads.
//! Units: bytes as Xen hands them out; lengths are Xen's own answers.
//! Threads: one owner for each `Domctl`.
//! Source: facts of Xen `public/domctl.h`, equal in Xen 4.13 to 4.22; `xen-migrate.md` 2. The test
//! host compiles them against the header of its version (`tests/xen-host/layout.c`).

#![expect(unsafe_code, reason = "addresses of buffers go into hypercalls; docs/safety.md")]

use bytemuck::{Pod, Zeroable};

use super::Domctl;
use crate::buffer::Buffer;

const GET_VCPU_INFO: u32 = 14;
const GET_EXT_VCPU_CONTEXT: u32 = 43;
const GET_TSC_INFO: u32 = 59;
const GET_VCPU_EXTSTATE: u32 = 63;
const GET_VCPU_MSRS: u32 = 72;
const GET_CPU_POLICY: u32 = 82;

/// Bytes of `xen_cpuid_leaf_t`.
const LEAF_BYTES: usize = 24;
/// Bytes of `xen_msr_entry_t`, and of `struct xen_domctl_vcpu_msr`.
const MSR_BYTES: usize = 16;
/// What Xen may claim that it has to write, at most: a vCPU's state, or a policy.
const STATE_BYTES_MAX: u64 = 1 << 20;
/// How often a call is tried that fails with EFAULT: the memory may have been moved (`privcmd`).
const TRIES: u32 = 4;

/// `struct xen_domctl_getvcpuinfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct VcpuInfo {
    vcpu: u32,
    online: u8,
    blocked: u8,
    running: u8,
    pad: u8,
    cpu_time: u64,
    cpu: u32,
    pad2: u32,
}

/// `struct xen_domctl_ext_vcpucontext`, and what later versions may add to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct ExtVcpuContext {
    vcpu: u32,
    size: u32,
    rest: [u64; 15],
}

/// `struct xen_domctl_vcpuextstate`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct VcpuExtState {
    vcpu: u32,
    pad: u32,
    mask: u64,
    size: u64,
    buffer: u64,
}

/// `struct xen_domctl_vcpu_msrs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct VcpuMsrs {
    vcpu: u32,
    count: u32,
    msrs: u64,
}

/// `struct xen_domctl_tsc_info`. The order of a stream's record is another one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct Tsc {
    pub(crate) mode: u32,
    pub(crate) khz: u32,
    pub(crate) incarnation: u32,
    pad: u32,
    pub(crate) nsec: u64,
}

/// `struct xen_domctl_cpu_policy`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Policy {
    leaves: u32,
    msrs: u32,
    leaves_at: u64,
    msrs_at: u64,
    err_leaf: u32,
    err_subleaf: u32,
    err_msr: u32,
    pad: u32,
}

/// Repeats a call whose memory was moved meanwhile.
fn patiently<T>(mut call: impl FnMut() -> Result<T, i32>) -> Result<T, i32> {
    for _ in 1..TRIES {
        match call() {
            Err(libc::EFAULT) => {}
            answer => return answer,
        }
    }
    call()
}

/// The first `length` bytes of a buffer.
fn bytes(buffer: &Buffer, length: usize) -> Vec<u8> {
    bytemuck::cast_slice(buffer.words())[..length].to_vec()
}

impl Domctl {
    /// Memory for an answer of so many bytes.
    fn answer(&self, length: u64) -> Result<Buffer, i32> {
        if length > STATE_BYTES_MAX {
            return Err(libc::E2BIG);
        }
        Buffer::new(self.privcmd(), length as usize).map_err(|error| error.errno())
    }

    /// Whether a vCPU is online: one that is unplugged has no state.
    pub(crate) fn vcpu_is_online(&mut self, domid: u16, vcpu: u32) -> Result<bool, i32> {
        let mut info = VcpuInfo { vcpu, ..VcpuInfo::zeroed() };
        // SAFETY: the structure has no address.
        unsafe { self.call(GET_VCPU_INFO, domid, &mut info) }?;
        Ok(info.online != 0)
    }

    /// A vCPU's extended context, its own number and length included; perhaps empty.
    pub(crate) fn ext_vcpu_context(&mut self, domid: u16, vcpu: u32) -> Result<Vec<u8>, i32> {
        let mut context = ExtVcpuContext { vcpu, ..ExtVcpuContext::zeroed() };
        // SAFETY: the structure has no address.
        unsafe { self.call(GET_EXT_VCPU_CONTEXT, domid, &mut context) }?;
        let all = bytemuck::bytes_of(&context);
        all.get(..context.size as usize).map(<[u8]>::to_vec).ok_or(libc::E2BIG)
    }

    /// A vCPU's xsave area; empty if it has none.
    pub(crate) fn xsave(&mut self, domid: u16, vcpu: u32) -> Result<Vec<u8>, i32> {
        let mut most = VcpuExtState { vcpu, ..VcpuExtState::zeroed() };
        // SAFETY: without an address Xen only answers how much there may be.
        unsafe { self.call(GET_VCPU_EXTSTATE, domid, &mut most) }?;
        if most.mask == 0 {
            return Ok(Vec::new());
        }
        let mut buffer = self.answer(most.size)?;
        let size = patiently(|| {
            let mut state = VcpuExtState { buffer: buffer.address(), ..most };
            // SAFETY: the buffer has `size` bytes, and is borrowed.
            unsafe { self.call(GET_VCPU_EXTSTATE, domid, &mut state) }?;
            // What the vCPU has ever used, which is less: a receiver takes only that.
            Ok(state.size.min(most.size))
        })?;
        Ok(bytes(&buffer, size as usize))
    }

    /// A vCPU's MSRs that are not in its other state.
    pub(crate) fn vcpu_msrs(&mut self, domid: u16, vcpu: u32) -> Result<Vec<u8>, i32> {
        let mut most = VcpuMsrs { vcpu, ..VcpuMsrs::zeroed() };
        // SAFETY: without an address Xen only answers how many there may be.
        unsafe { self.call(GET_VCPU_MSRS, domid, &mut most) }?;
        if most.count == 0 {
            return Ok(Vec::new());
        }
        let mut buffer = self.answer(u64::from(most.count) * MSR_BYTES as u64)?;
        let count = patiently(|| {
            let mut msrs = VcpuMsrs { msrs: buffer.address(), ..most };
            // SAFETY: the buffer has space for `count` MSRs, and is borrowed.
            unsafe { self.call(GET_VCPU_MSRS, domid, &mut msrs) }?;
            Ok(msrs.count.min(most.count))
        })?;
        Ok(bytes(&buffer, count as usize * MSR_BYTES))
    }

    /// The guest's time. It stands from here on for a guest that is sent.
    pub(crate) fn tsc(&mut self, domid: u16) -> Result<Tsc, i32> {
        self.get(GET_TSC_INFO, domid)
    }

    /// The guest's CPUID leaves and MSRs; either may be empty.
    pub(crate) fn cpu_policy(&mut self, domid: u16) -> Result<(Vec<u8>, Vec<u8>), i32> {
        let most: Policy = self.get(GET_CPU_POLICY, domid)?;
        let space = |count: u32, each: usize| u64::from(count) * each as u64;
        let mut leaves = self.answer(space(most.leaves, LEAF_BYTES))?;
        let mut msrs = self.answer(space(most.msrs, MSR_BYTES))?;
        let found = patiently(|| {
            let mut policy =
                Policy { leaves_at: leaves.address(), msrs_at: msrs.address(), ..most };
            // SAFETY: the buffers have space for as many, and are borrowed.
            unsafe { self.call(GET_CPU_POLICY, domid, &mut policy) }?;
            Ok(policy)
        })?;
        let count = |found: u32, most: u32| found.min(most) as usize;
        Ok((
            bytes(&leaves, count(found.leaves, most.leaves) * LEAF_BYTES),
            bytes(&msrs, count(found.msrs, most.msrs) * MSR_BYTES),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn structures_are_where_xen_has_them() {
        let info = [offset_of!(VcpuInfo, online), offset_of!(VcpuInfo, cpu_time)];
        assert_eq!((info, size_of::<VcpuInfo>()), ([4, 8], 24));
        assert_eq!((offset_of!(ExtVcpuContext, size), size_of::<ExtVcpuContext>()), (4, 128));
        let state = [
            offset_of!(VcpuExtState, mask),
            offset_of!(VcpuExtState, size),
            offset_of!(VcpuExtState, buffer),
        ];
        assert_eq!((state, size_of::<VcpuExtState>()), ([8, 16, 24], 32));
        let msrs = [offset_of!(VcpuMsrs, count), offset_of!(VcpuMsrs, msrs)];
        assert_eq!((msrs, size_of::<VcpuMsrs>()), ([4, 8], 16));
        let tsc = [offset_of!(Tsc, khz), offset_of!(Tsc, incarnation), offset_of!(Tsc, nsec)];
        assert_eq!((tsc, size_of::<Tsc>()), ([4, 8, 16], 24));
        let policy = [
            offset_of!(Policy, msrs),
            offset_of!(Policy, leaves_at),
            offset_of!(Policy, msrs_at),
            offset_of!(Policy, err_leaf),
            offset_of!(Policy, err_subleaf),
            offset_of!(Policy, err_msr),
        ];
        assert_eq!((policy, size_of::<Policy>()), ([4, 8, 16, 24, 28, 32], 40));
    }

    #[test]
    fn a_call_whose_memory_is_moved_is_repeated_but_not_for_ever() {
        let mut tries = 0;
        let mut call = |faults: u32, errno: i32| {
            tries = 0;
            let answer = patiently(|| {
                tries += 1;
                if tries <= faults { Err(errno) } else { Ok(()) }
            });
            (answer, tries)
        };
        assert_eq!(call(3, libc::EFAULT), (Ok(()), 4));
        assert_eq!(call(9, libc::EFAULT), (Err(libc::EFAULT), 4));
        assert_eq!(call(9, libc::ESRCH), (Err(libc::ESRCH), 1));
    }
}
