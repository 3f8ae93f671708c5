// SPDX-License-Identifier: MIT OR Apache-2.0
//! One domain: its identity, its size, and whether the number still means the same domain.
//! Not here: its memory.
//! Units: frames of 4 KiB.
//! Threads: one owner.
//! Source: Xen `XEN_DOMCTL_getdomaininfo`; domain numbers are used again, so that the UUID decides.

use std::fmt;

use p2mtrack::frame::{Mfn, Width};

use crate::domctl::{Domctl, GetDomainInfo};
use crate::error::{XenError, failed};
use crate::version::Xen;

/// A domain's handle, which the toolstack chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// The state of a domain at one moment, as Xen reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// Its handle.
    pub uuid: Uuid,
    /// Frames that it holds.
    pub frames: u64,
    /// Frames that it may hold.
    pub frames_max: u64,
    /// Its shared_info.
    pub shared_info: Mfn,
    /// vCPUs that it may have: their numbers are below this.
    pub vcpus: u32,
    /// It is being destroyed.
    pub dying: bool,
    /// Not a PV guest.
    pub hvm: bool,
    /// Why it has shut itself down; 2 is to be suspended.
    pub shutdown: Option<u8>,
}

/// Xen's `SHUTDOWN_suspend`.
const SUSPEND: u8 = 2;

impl DomainInfo {
    /// Whether it is suspended.
    #[must_use]
    pub const fn is_suspended(&self) -> bool {
        matches!(self.shutdown, Some(SUSPEND))
    }

    fn new(raw: &GetDomainInfo) -> Self {
        let flag = |bit: u32| raw.flags >> bit & 1 == 1;
        Self {
            uuid: Uuid(raw.handle),
            frames: raw.frames,
            frames_max: raw.frames_max,
            shared_info: Mfn(raw.shared_info),
            vcpus: raw.vcpu_id_max.wrapping_add(1), // ~0 without any
            dying: flag(0),
            hvm: flag(1),
            shutdown: flag(2).then_some((raw.flags >> 16) as u8),
        }
    }
}

/// A PV guest.
#[derive(Debug)]
pub struct Domain {
    xen: Xen,
    calls: Domctl,
    domid: u16,
    uuid: Uuid,
    shared_info: Mfn,
    width: Width,
}

impl Domain {
    /// Finds a PV guest by its number.
    ///
    /// # Errors
    /// There is none, it is dying, or it is no PV guest.
    pub fn open(xen: &Xen, domid: u16) -> Result<Self, XenError> {
        let mut calls = xen.calls()?;
        let info = ask(&mut calls, domid)?;
        if info.hvm {
            return Err(XenError::new("open", libc::EOPNOTSUPP).of(domid).hint(NOT_PV));
        }
        let bits = calls.address_size(domid).map_err(failed("ask for the width"));
        let width = match bits.map_err(|error| error.of(domid))? {
            32 => Width::W32,
            64 => Width::W64,
            _ => return Err(XenError::new("ask for the width", libc::EOPNOTSUPP).of(domid)),
        };
        Ok(Self {
            xen: xen.clone(),
            calls,
            domid,
            uuid: info.uuid,
            shared_info: info.shared_info,
            width,
        })
    }

    /// The same domain, for another owner.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn another(&self) -> Result<Self, XenError> {
        Ok(Self { xen: self.xen.clone(), calls: self.xen.calls()?, ..*self })
    }

    /// Its number.
    #[must_use]
    pub const fn domid(&self) -> u16 {
        self.domid
    }

    /// Its handle.
    #[must_use]
    pub const fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Its width.
    #[must_use]
    pub const fn width(&self) -> Width {
        self.width
    }

    /// The hypervisor.
    #[must_use]
    pub const fn xen(&self) -> &Xen {
        &self.xen
    }

    pub(crate) const fn calls(&mut self) -> &mut Domctl {
        &mut self.calls
    }

    /// Its state now. A toolstack that preserves a crashed domain gives it another UUID: it is the
    /// same one as long as its shared_info is.
    ///
    /// # Errors
    /// ESRCH if it is gone or dying, or another domain has its number; else the call failed.
    pub fn info(&mut self) -> Result<DomainInfo, XenError> {
        let info = ask(&mut self.calls, self.domid)?;
        if info.uuid != self.uuid && info.shared_info != self.shared_info {
            return Err(gone(self.domid));
        }
        Ok(info)
    }

    /// Whether Xen reports that the domain is gone or dying; any other error does not count.
    #[must_use]
    pub fn is_gone(&mut self) -> bool {
        self.info().is_err_and(|error| error.errno() == libc::ESRCH)
    }

    /// The size of the pool that its log is allocated from, in bytes.
    ///
    /// # Errors
    /// Xen before 4.17 does not report it.
    pub fn paging_pool_bytes(&mut self) -> Result<u64, XenError> {
        let bytes = self.calls.paging_pool_bytes(self.domid);
        bytes.map_err(failed("ask for the paging pool")).map_err(|error| error.of(self.domid))
    }
}

const DYING: &str = "the domain is being destroyed";
const NOT_PV: &str = "not a PV guest: it has no p2m of its own";

impl XenError {
    /// The domain is there, and being destroyed.
    #[must_use]
    pub const fn dying(domid: u16) -> Self {
        Self::new("get the state", libc::ESRCH).of(domid).hint(DYING)
    }

    /// Whether a domain could not be opened because it is no PV guest.
    #[must_use]
    pub fn is_not_pv(&self) -> bool {
        self.hint == Some(NOT_PV)
    }

    /// Whether it is [`XenError::dying`].
    #[must_use]
    pub fn is_dying(&self) -> bool {
        self.hint == Some(DYING)
    }
}

fn gone(domid: u16) -> XenError {
    XenError::new("get the state", libc::ESRCH).of(domid).hint("the domain is gone")
}

fn ask(calls: &mut Domctl, domid: u16) -> Result<DomainInfo, XenError> {
    let raw = calls.domain_info(domid).map_err(|errno| match errno {
        libc::ESRCH => gone(domid),
        errno => XenError::new("get the state", errno).of(domid),
    })?;
    // Xen answers with the next domain if this one is gone.
    if raw.domid != domid {
        return Err(gone(domid));
    }
    let info = DomainInfo::new(&raw);
    if info.dying {
        return Err(XenError::dying(domid));
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;

    #[test]
    fn flags_are_read_as_xen_writes_them() {
        let mut raw = GetDomainInfo::zeroed();
        raw.flags = 1 << 2 | 2 << 16;
        raw.handle = std::array::from_fn(|index| index as u8);
        raw.vcpu_id_max = u32::MAX;
        assert_eq!(DomainInfo::new(&raw).vcpus, 0);
        raw.vcpu_id_max = 1;
        assert_eq!(DomainInfo::new(&raw).vcpus, 2);
        let info = DomainInfo::new(&raw);
        assert!(info.is_suspended() && !info.dying && !info.hvm);
        assert_eq!(info.uuid.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        raw.flags = 1 << 2 | 3 << 16; // crashed
        assert!(!DomainInfo::new(&raw).is_suspended());
        raw.flags = 1 | 1 << 1;
        let info = DomainInfo::new(&raw);
        assert!(info.dying && info.hvm && info.shutdown.is_none());
    }
}
