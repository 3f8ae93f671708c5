// SPDX-License-Identifier: MIT OR Apache-2.0
//! The capabilities of the machine.
//! Not here: a single domain.
//! Units: none.
//! Threads: the caller's.
//! Source: facts of Xen `public/sysctl.h`, whose version number is separate from that of domctl.

#![expect(unsafe_code, reason = "a hypercall; docs/safety.md")]

use bytemuck::{Pod, Zeroable};

use crate::call::{Caller, Op};
use crate::error::{XenError, failed};
use crate::version::Xen;

const PHYSINFO: u32 = 3;
/// Versions of the interface whose structure is the one below: Xen 4.13 (0x13) to 4.22, and what
/// may follow.
const VERSIONS: std::ops::RangeInclusive<u32> = 0x13..=0x28;
/// `XEN_SYSCTL_PHYSCAP_pv`, `_shadow`.
const PV: u32 = 1 << 1;
const SHADOW: u32 = 1 << 4;

/// `struct xen_sysctl` with the head of `struct xen_sysctl_physinfo`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Argument {
    command: u32,
    interface_version: u32,
    cpus: [u32; 7],
    capabilities: u32,
    rest: [u32; 24],
}

/// The machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysicalInfo {
    /// It runs PV guests.
    pub pv: bool,
    /// It has shadow paging, which log-dirty of a PV guest needs.
    pub shadow: bool,
}

/// The machine under a hypervisor.
#[derive(Debug)]
pub struct Host {
    caller: Caller,
}

impl Host {
    /// The machine of this hypervisor.
    ///
    /// # Errors
    /// No memory.
    pub fn new(xen: &Xen) -> Result<Self, XenError> {
        Ok(Self { caller: Caller::new(&xen.privcmd)? })
    }

    /// Asks for its capabilities.
    ///
    /// # Errors
    /// This Xen's interface is not known.
    pub fn physical_info(&mut self) -> Result<PhysicalInfo, XenError> {
        let mut result = Err(libc::EACCES);
        for interface_version in VERSIONS.rev() {
            let mut argument =
                Argument { command: PHYSINFO, interface_version, ..Argument::zeroed() };
            // SAFETY: the operation takes this structure, in which there is no address.
            result = unsafe { self.caller.call(Op::Sysctl, &mut argument) }.map(|_| PhysicalInfo {
                pv: argument.capabilities & PV != 0,
                shadow: argument.capabilities & SHADOW != 0,
            });
            if result != Err(libc::EACCES) {
                break;
            }
        }
        result.map_err(failed("ask for the machine's capabilities"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_structure_is_where_xen_has_it() {
        assert_eq!(size_of::<Argument>(), 136);
        assert_eq!(offset_of!(Argument, capabilities), 36);
    }
}
