// SPDX-License-Identifier: MIT OR Apache-2.0
//! The registers of a guest's vcpu 0 that matter when it is suspended and resumed.
//! Not here: the meaning of any other register, or of another vcpu's.
//! Units: byte offsets into `vcpu_guest_context` of the guest's width.
//! Threads: one owner. The guest is suspended.
//! Source: `xen-save-path.md` 2.1: edx has the mfn of start_info, and eax the result of the suspend
//! call.

use p2mtrack::frame::{Mfn, Width};

use crate::buffer::Buffer;
use crate::domain::Domain;
use crate::error::{XenError, failed};

/// Offset of eax.
const fn accumulator(width: Width) -> usize {
    match width {
        Width::W32 => 516 + 24,
        Width::W64 => 520 + 80,
    }
}

/// Offset of edx.
const fn data(width: Width) -> usize {
    match width {
        Width::W32 => 516 + 8,
        Width::W64 => 520 + 96,
    }
}

/// The state of vcpu 0.
#[derive(Debug)]
pub(crate) struct Vcpu {
    context: Buffer,
    width: Width,
}

/// Reads the registers of any vcpu: `vcpu_guest_context` of the guest's width.
pub(crate) fn registers(domain: &mut Domain, vcpu: u32) -> Result<Buffer, XenError> {
    let mut context = Buffer::new(&domain.xen().privcmd, 8192)?;
    let domid = domain.domid();
    let read = domain.calls().vcpu_context(domid, vcpu, &mut context);
    read.map_err(failed("read a vcpu's registers")).map_err(|error| error.of(domid))?;
    Ok(context)
}

impl Vcpu {
    pub(crate) fn read(domain: &mut Domain) -> Result<Self, XenError> {
        Ok(Self { context: registers(domain, 0)?, width: domain.width() })
    }

    pub(crate) fn write(&mut self, domain: &mut Domain) -> Result<(), XenError> {
        let domid = domain.domid();
        let written = domain.calls().set_vcpu_context(domid, 0, &mut self.context);
        written.map_err(failed("write vcpu 0")).map_err(|error| error.of(domid))
    }

    /// The mfn of start_info, which the guest passes when it suspends.
    pub(crate) fn start_info(&self) -> Mfn {
        Mfn(self.width.word(bytemuck::cast_slice(self.context.words()), data(self.width)))
    }

    /// Sets the result of the guest's suspend call: 1 means that the suspend was cancelled.
    pub(crate) fn answer(&mut self, value: u64) {
        let (at, length) = (accumulator(self.width), self.width.bits() as usize / 8);
        let bytes = bytemuck::cast_slice_mut::<u64, u8>(self.context.words_mut());
        bytes[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_where_the_table_has_them() {
        // Table 2.1 of xen-save-path.md: user_regs at 516 and 520, edx at 524 and 616.
        assert_eq!((data(Width::W32), data(Width::W64)), (524, 616));
        assert_eq!((accumulator(Width::W32), accumulator(Width::W64)), (540, 600));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn registers_are_where_xens_header_has_them() {
        use std::mem::offset_of;
        let regs = offset_of!(xen_sys::vcpu_guest_context, user_regs);
        assert_eq!(data(Width::W64), regs + offset_of!(xen_sys::cpu_user_regs, __bindgen_anon_5));
        assert_eq!(
            accumulator(Width::W64),
            regs + offset_of!(xen_sys::cpu_user_regs, __bindgen_anon_3)
        );
    }
}
