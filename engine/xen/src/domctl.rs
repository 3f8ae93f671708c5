// SPDX-License-Identifier: MIT OR Apache-2.0
//! The domctls that a tracker needs, each a safe function.
//! Not here: what they are used for; any other domctl.
//! Units: frames of 4 KiB; sizes and offsets of the structures as in Xen 4.12 and later, up to
//! 4.22.
//! Threads: one owner for each `Domctl`.
//! Source: facts of Xen `public/domctl.h`; `tests/xen-host` checks them against the header of the
//! installed version.

#![expect(unsafe_code, reason = "addresses of buffers go into hypercalls; docs/safety.md")]

mod state;

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use crate::buffer::Buffer;
use crate::call::{Caller, Op};
use crate::error::XenError;
use crate::privcmd::Privcmd;

const GET_DOMAIN_INFO: u32 = 5;
const SHADOW_OP: u32 = 10;
const SET_VCPU_CONTEXT: u32 = 12;
const GET_VCPU_CONTEXT: u32 = 13;
const RESUME_DOMAIN: u32 = 27;
const GET_ADDRESS_SIZE: u32 = 36;
const GET_PAGE_FRAME_INFO_3: u32 = 61;
const GET_PAGING_MEMPOOL_SIZE: u32 = 85;

/// The operations of `XEN_DOMCTL_shadow_op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum ShadowOp {
    /// Everything off.
    Off = 0,
    /// Log-dirty on.
    EnableLogDirty = 2,
    /// Read the bitmap and clear it.
    Clean = 11,
    /// Read the bitmap.
    Peek = 12,
}

/// The union of `struct xen_domctl`.
const PAYLOAD_BYTES: usize = 128;

/// `struct xen_domctl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Argument {
    command: u32,
    interface_version: u32,
    domid: u16,
    pad: [u16; 3],
    payload: [u64; PAYLOAD_BYTES / 8],
}

/// `struct xen_domctl_shadow_op`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Shadow {
    op: u32,
    mode: u32,
    mb: u32,
    pad: u32,
    bitmap: u64,
    pages: u64,
    faults: u32,
    dirty: u32,
}

/// The head of `struct xen_domctl_getdomaininfo`, up to where versions begin to differ.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct GetDomainInfo {
    pub(crate) domid: u16,
    pad: u16,
    pub(crate) flags: u32,
    pub(crate) frames: u64,
    pub(crate) frames_max: u64,
    outstanding: u64,
    shared: u64,
    paged: u64,
    pub(crate) shared_info: u64,
    cpu_time: u64,
    vcpus_online: u32,
    pub(crate) vcpu_id_max: u32,
    ssidref: u32,
    pub(crate) handle: [u8; 16],
    cpupool: u32,
}

/// `struct xen_domctl_vcpucontext`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct VcpuContext {
    vcpu: u32,
    pad: u32,
    context: u64,
}

/// `struct xen_domctl_getpageframeinfo3`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PageFrameInfo {
    frames: u64,
    array: u64,
}

/// A way to make these calls.
#[derive(Debug)]
pub(crate) struct Domctl {
    caller: Caller,
    version: u32,
}

impl Domctl {
    pub(crate) fn new(privcmd: &Arc<Privcmd>, version: u32) -> Result<Self, XenError> {
        Ok(Self { caller: Caller::new(privcmd)?, version })
    }

    pub(crate) const fn privcmd(&self) -> &Arc<Privcmd> {
        self.caller.privcmd()
    }

    /// # Safety
    /// As [`Caller::call`], of the addresses in `payload`.
    unsafe fn call<T: Pod>(
        &mut self,
        command: u32,
        domid: u16,
        payload: &mut T,
    ) -> Result<(), i32> {
        const { assert!(size_of::<T>() <= PAYLOAD_BYTES) };
        let mut argument = Argument { command, domid, ..Argument::zeroed() };
        argument.interface_version = self.version;
        let length = size_of::<T>();
        let union = bytemuck::cast_slice_mut::<u64, u8>(&mut argument.payload);
        union[..length].copy_from_slice(bytemuck::bytes_of(payload));
        // SAFETY: `Argument` is what a domctl takes; addresses are the caller's promise.
        let answer = unsafe { self.caller.call(Op::Domctl, &mut argument) };
        let union = bytemuck::cast_slice::<u64, u8>(&argument.payload);
        bytemuck::bytes_of_mut(payload).copy_from_slice(&union[..length]);
        answer.map(|_| ())
    }

    /// The result of an operation without an argument.
    fn get<T: Pod>(&mut self, command: u32, domid: u16) -> Result<T, i32> {
        let mut answer = T::zeroed();
        // SAFETY: a payload of zeros has no address.
        unsafe { self.call(command, domid, &mut answer) }?;
        Ok(answer)
    }

    /// The domain with this number, or the next one above: the caller must compare.
    pub(crate) fn domain_info(&mut self, domid: u16) -> Result<GetDomainInfo, i32> {
        self.get(GET_DOMAIN_INFO, domid)
    }

    /// The guest's word in bits.
    pub(crate) fn address_size(&mut self, domid: u16) -> Result<u32, i32> {
        self.get(GET_ADDRESS_SIZE, domid)
    }

    /// Bytes of the pool that a domain's shadow page tables and its log come from. Xen 4.17 and
    /// later.
    pub(crate) fn paging_pool_bytes(&mut self, domid: u16) -> Result<u64, i32> {
        self.get(GET_PAGING_MEMPOOL_SIZE, domid)
    }

    /// Log-dirty on or off.
    pub(crate) fn shadow(&mut self, domid: u16, op: ShadowOp) -> Result<(), i32> {
        let mut shadow = Shadow { op: op as u32, ..Shadow::zeroed() };
        // SAFETY: no address: on and off take no bitmap, and a read without one discards the log.
        unsafe { self.call(SHADOW_OP, domid, &mut shadow) }
    }

    /// Reads the bitmap of the prefix `0..pfns` into `bitmap`, bit `pfn % 64` of word `pfn / 64`.
    /// Returns how many pfns of it were read.
    pub(crate) fn shadow_bitmap(
        &mut self,
        domid: u16,
        op: ShadowOp,
        bitmap: &mut Buffer,
        pfns: u64,
    ) -> Result<u64, i32> {
        assert!(pfns.div_ceil(8) <= bitmap.bytes() as u64, "space for the prefix");
        let mut shadow = Shadow { op: op as u32, pages: pfns, ..Shadow::zeroed() };
        shadow.bitmap = bitmap.address();
        // SAFETY: the bitmap is as long as `pages` says, and borrowed.
        unsafe { self.call(SHADOW_OP, domid, &mut shadow) }?;
        Ok(shadow.pages)
    }

    /// Replaces the first `count` mfns of `frames` by their types.
    pub(crate) fn frame_types(
        &mut self,
        domid: u16,
        frames: &mut Buffer,
        count: usize,
    ) -> Result<(), i32> {
        assert!(count * 8 <= frames.bytes(), "a type for each frame");
        let mut info = PageFrameInfo { frames: count as u64, array: frames.address() };
        // SAFETY: the array has `count` elements, and is borrowed.
        unsafe { self.call(GET_PAGE_FRAME_INFO_3, domid, &mut info) }
    }

    /// Reads the state of a vcpu into `context`.
    pub(crate) fn vcpu_context(
        &mut self,
        domid: u16,
        vcpu: u32,
        context: &mut Buffer,
    ) -> Result<(), i32> {
        self.context(GET_VCPU_CONTEXT, domid, vcpu, context)
    }

    /// Writes it back. The domain must not run: it is paused or suspended.
    pub(crate) fn set_vcpu_context(
        &mut self,
        domid: u16,
        vcpu: u32,
        context: &mut Buffer,
    ) -> Result<(), i32> {
        self.context(SET_VCPU_CONTEXT, domid, vcpu, context)
    }

    fn context(
        &mut self,
        command: u32,
        domid: u16,
        vcpu: u32,
        context: &mut Buffer,
    ) -> Result<(), i32> {
        assert!(context.bytes() >= 8192, "space for both widths");
        let mut argument = VcpuContext { vcpu, pad: 0, context: context.address() };
        // SAFETY: a context has 5,168 bytes (2,800 of a 32-bit guest), and is borrowed.
        unsafe { self.call(command, domid, &mut argument) }
    }

    /// Resumes a suspended domain.
    pub(crate) fn resume(&mut self, domid: u16) -> Result<(), i32> {
        self.get::<u64>(RESUME_DOMAIN, domid).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn structures_are_where_xen_has_them() {
        assert_eq!((size_of::<Argument>(), offset_of!(Argument, payload)), (144, 16));
        let shadow = [
            offset_of!(Shadow, mode),
            offset_of!(Shadow, bitmap),
            offset_of!(Shadow, pages),
            offset_of!(Shadow, faults),
            offset_of!(Shadow, dirty),
            size_of::<Shadow>(),
        ];
        assert_eq!(shadow, [4, 16, 24, 32, 36, 40]);
        let info = [
            offset_of!(GetDomainInfo, flags),
            offset_of!(GetDomainInfo, frames),
            offset_of!(GetDomainInfo, frames_max),
            offset_of!(GetDomainInfo, shared_info),
            offset_of!(GetDomainInfo, vcpu_id_max),
            offset_of!(GetDomainInfo, handle),
        ];
        assert_eq!(info, [4, 8, 16, 48, 68, 76]);
        assert_eq!((size_of::<VcpuContext>(), size_of::<PageFrameInfo>()), (16, 16));
    }
}
