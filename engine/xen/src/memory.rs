// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Xen reports about the machine's memory: its last frame, and where the m2p is.
//! Not here: the m2p itself (`m2p`).
//! Units: mfns; an extent is 2 MiB of the m2p.
//! Threads: the caller's.
//! Source: facts of Xen `public/memory.h`; `xen-save-path.md` 2.4.

#![expect(unsafe_code, reason = "an address of a buffer goes into a hypercall; docs/safety.md")]

use bytemuck::{Pod, Zeroable};

use crate::buffer::Buffer;
use crate::call::{Caller, Op};

const MAXIMUM_RAM_PAGE: u32 = 2;
const MACHPHYS_MFN_LIST: u32 = 5;
const GET_VNUMA_INFO: u32 = 26;
const MACHPHYS_COMPAT_MFN_LIST: u32 = 25;

/// `struct xen_machphys_mfn_list`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MfnList {
    extents_max: u32,
    pad: u32,
    starts: u64,
    extents: u32,
    tail: u32,
}

/// `struct xen_vnuma_topology_info`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct VnumaTopology {
    domid: u16,
    pad: u16,
    nodes: u32,
    vcpus: u32,
    ranges: u32,
    arrays: [u64; 3],
}

/// Whether a domain has virtual NUMA nodes.
pub(crate) fn has_vnuma(caller: &mut Caller, domid: u16) -> Result<bool, i32> {
    let mut topology = VnumaTopology { domid, ..VnumaTopology::zeroed() };
    // SAFETY: arrays without elements: Xen answers how many there are, and writes none.
    match unsafe { caller.call(Op::Memory(GET_VNUMA_INFO), &mut topology) } {
        Err(libc::EOPNOTSUPP) => Ok(false),
        Ok(_) | Err(libc::ENOBUFS) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// Frames of the machine: Xen's `max_page` is one past the last one.
pub(crate) fn machine_frames(caller: &mut Caller) -> Result<u64, i32> {
    // SAFETY: this command takes no argument; the word is not read.
    unsafe { caller.call(Op::Memory(MAXIMUM_RAM_PAGE), &mut 0_u64) }
}

/// First frames of the m2p's extents, at most `extents` of them.
pub(crate) fn m2p_extents(caller: &mut Caller, extents: u32) -> Result<Vec<u64>, i32> {
    list(caller, MACHPHYS_MFN_LIST, extents)
}

/// The same of the m2p that 32-bit guests see.
pub(crate) fn compat_m2p_extents(caller: &mut Caller, extents: u32) -> Result<Vec<u64>, i32> {
    list(caller, MACHPHYS_COMPAT_MFN_LIST, extents)
}

fn list(caller: &mut Caller, command: u32, extents: u32) -> Result<Vec<u64>, i32> {
    let mut starts = Buffer::new(caller.privcmd(), extents as usize * 8).map_err(|e| e.errno())?;
    let mut list = MfnList { extents_max: extents, starts: starts.address(), ..MfnList::zeroed() };
    // SAFETY: the buffer has space for `extents` words, and is borrowed.
    unsafe { caller.call(Op::Memory(command), &mut list) }?;
    Ok(starts.words()[..list.extents.min(extents) as usize].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn structures_are_where_xen_has_them() {
        let list = [offset_of!(MfnList, starts), offset_of!(MfnList, extents)];
        assert_eq!((list, size_of::<MfnList>()), ([8, 16], 24));
        let vnuma = [
            offset_of!(VnumaTopology, nodes),
            offset_of!(VnumaTopology, vcpus),
            offset_of!(VnumaTopology, ranges),
            offset_of!(VnumaTopology, arrays),
        ];
        assert_eq!((vnuma, size_of::<VnumaTopology>()), ([4, 8, 12, 16], 40));
    }
}
