// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that are written without a log-dirty mark: mapped grants, the two rings, start_info.
//! Not here: the place of a registered vcpu_info, which Xen does not report
//! (`docs/decisions/0016`).
//! Units: pfns.
//! Threads: one owner.
//! Source: `xen-save-path.md` 6.4: writes that set no bit.

use p2mtrack::frame::Pfn;
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{M2p, PortError, Transfer, Unlogged};
use std::sync::Arc;

use crate::domain::Domain;
use crate::error::XenError;
use crate::grant_table::GrantTable;
use crate::m2p::XenM2p;
use crate::mapping;
use crate::start_info;
use crate::vcpu::Vcpu;

/// A domain's unlogged writers as a port.
#[derive(Debug)]
pub struct XenUnlogged {
    domain: Domain,
    grants: GrantTable,
    /// What transfer entries named when they were last read.
    transfers: Vec<Transfer>,
    m2p: Arc<XenM2p>,
}

impl XenUnlogged {
    /// For a domain; `m2p` is that of its machine.
    ///
    /// # Errors
    /// No memory.
    pub fn new(domain: Domain, m2p: Arc<XenM2p>) -> Result<Self, XenError> {
        let grants = GrantTable::new(domain.xen(), domain.domid())?;
        Ok(Self { domain, grants, transfers: Vec::new(), m2p })
    }

    /// Appends start_info and the rings that it names.
    fn rings(&mut self, into: &mut Vec<Pfn>) -> Result<(), XenError> {
        let (domid, width) = (self.domain.domid(), self.domain.width());
        let error = |errno| XenError::new("read start_info", errno).of(domid);
        if !self.domain.info()?.is_suspended() {
            return Err(error(libc::EBUSY).hint("only a suspended guest says where it is"));
        }
        let mfn = Vcpu::read(&mut self.domain)?.start_info();
        let mut page = Leaf::default();
        let copied = mapping::copy(&self.domain.xen().privcmd, domid, mfn, &mut page);
        copied
            .map_err(|_| error(libc::EFAULT).hint("register edx names no frame of the domain"))?;
        let rings = start_info::rings(width, &page);
        let rings =
            rings.ok_or_else(|| error(libc::EFAULT).hint("register edx names another frame"))?;
        into.extend(self.m2p.pfn(mfn));
        into.extend([rings.store, rings.console]);
        Ok(())
    }
}

impl Unlogged for XenUnlogged {
    fn pfns(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        self.rings(into)?;
        into.extend(self.grants.written()?.into_iter().filter_map(|mfn| self.m2p.pfn(mfn)));
        Ok(())
    }

    fn accepts_transfer(&mut self) -> Result<bool, PortError> {
        self.transfers = self.grants.transfers()?;
        Ok(!self.transfers.is_empty())
    }

    fn transfers(&mut self, into: &mut Vec<Transfer>) -> Result<bool, PortError> {
        // As `accepts_transfer` read them: an entry used since then still names its pfn.
        into.append(&mut self.transfers);
        Ok(true)
    }
}
