// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest that is saved: what is refused before anything is touched, and the claim on it.
//! Not here: the save.
//! Units: one domain.
//! Threads: one owner.
//! Source: `xen-migrate.md` 2, "refuse early".

use std::process::Command;

use p2mtrack::port::P2mSource;
use p2mtrack_xen::{
    Claim, ClaimError, Dismissed, Domain, DomainInfo, DomainStore, Left, Unknown, Xen, XenError,
    XenGuest, XenState,
};

use crate::fault::{Fault, in_full};
use crate::kind::Kind;

/// A guest that can be saved.
#[derive(Debug)]
pub struct Source {
    pub(crate) domain: Domain,
    pub(crate) guest: XenGuest,
    pub(crate) claim: Claim,
    /// A PCI device is assigned.
    pub(crate) has_pci: bool,
    /// What the guest is to have, by xenstore.
    target_kib: Option<u64>,
    /// Its name, by xenstore.
    name: Option<String>,
}

impl Source {
    /// Looks at a domain, and claims it. `live`: log-dirty will be needed. Also returns what a
    /// tracker left that died with its guard, which is mended.
    ///
    /// # Errors
    /// It can't be saved, and nothing was touched.
    pub fn open<C: Fn() -> Command + 'static>(
        domid: u16,
        unknown: Unknown,
        live: bool,
        command: impl FnOnce(&Domain) -> C,
    ) -> Result<(Self, Left), Fault> {
        let at_first = |error: XenError| Fault::at_first(&error);
        let xen = Xen::open(unknown).map_err(at_first)?;
        let mut domain = Domain::open(&xen, domid).map_err(at_first)?;
        check(&mut domain)?;
        let mut guest = XenGuest::open(&domain)?;
        check_p2m(&mut guest)?;
        let by_store = |error| Fault::new(Kind::Hypercall, format!("xenstore: {error}"));
        let mut store = DomainStore::open(&domain).map_err(by_store)?;
        let has_pci = store.has_pci_devices().map_err(by_store)?;
        if live && has_pci {
            let words = format!(
                "domain {domid} has a PCI device: Xen keeps no log of what it writes; detach it, \
                 or save the guest suspended (save without --live, xl save)"
            );
            return Err(Fault::new(Kind::PciDevice, words));
        }
        let target_kib = store.target_kib().map_err(by_store)?;
        let name = store.name().map_err(by_store)?;
        let (claim, left) =
            Claim::take(&domain, command(&domain)).map_err(|error| of_claim(&error))?;
        Ok((Self { domain, guest, claim, has_pci, target_kib, name }, left))
    }

    /// The domain.
    #[must_use]
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Its state now.
    ///
    /// # Errors
    /// See [`Domain::info`].
    pub fn info(&mut self) -> Result<DomainInfo, XenError> {
        self.domain.info()
    }

    /// How much memory it is to have, in KiB, if xenstore says so.
    #[must_use]
    pub const fn target_kib(&self) -> Option<u64> {
        self.target_kib
    }

    /// Its name, if xenstore has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Lets go of it: log-dirty is off, and the lock is free. What is left takes time: see
    /// [`Remains`]. A source that a guard has to clean up is dropped instead:
    /// the guard then does so, and has the lock until it has.
    ///
    /// # Errors
    /// It can't be switched off.
    pub fn close(mut self) -> Result<Remains, Fault> {
        let guard = match self.claim.release(&mut self.guest.log_dirty) {
            Ok(guard) => Some(guard),
            // The lock is free, and log-dirty is off: only its file is not as it was.
            Err(ClaimError::Lock(_)) => None,
            Err(error) => return Err(of_claim(&error)),
        };
        Ok(Remains { _guard: guard, _guest: self.guest })
    }

    /// Lets go of it where it is not known what its guard has done: waits until the guard has
    /// cleaned up, and does so itself if that failed.
    ///
    /// # Errors
    /// Log-dirty may be on.
    pub fn abandon(mut self) -> Result<(), Fault> {
        self.claim.abandon(&mut self.guest.log_dirty).map_err(|error| of_claim(&error))
    }
}

/// What is left of a source: mappings, and a guard that does nothing any more. When this is dropped
/// they are gone. A process that is about to end may forget it instead: the kernel lets go of
/// mappings faster then (`docs/decisions/0027`), and the guard ends with its tracker.
#[derive(Debug)]
pub struct Remains {
    _guard: Option<Dismissed>,
    _guest: XenGuest,
}

/// What a stream can't carry, and a guest that can't be suspended.
fn check(domain: &mut Domain) -> Result<(), Fault> {
    let domid = domain.domid();
    if let Some(reason) = domain.info()?.shutdown {
        let words = format!("domain {domid} has shut down already (reason {reason})");
        return Err(Fault::new(Kind::SuspendOther, words));
    }
    if XenState::new(domain)?.has_vnuma()? {
        let words = format!("domain {domid} has virtual NUMA nodes, which a stream does not carry");
        return Err(Fault::new(Kind::Vnuma, words));
    }
    Ok(())
}

fn check_p2m(guest: &mut XenGuest) -> Result<(), Fault> {
    let roots = guest.p2m.roots().map_err(|error| Fault::new(Kind::Hypercall, in_full(&*error)))?;
    let has_none = roots.p2m_cr3 == 0 && matches!(roots.frame_list_list, 0 | u64::MAX);
    if roots.pfn_count == 0 || has_none {
        let words = "the guest publishes no p2m: its kernel has not started, or can't be migrated";
        return Err(Fault::new(Kind::NoP2m, words));
    }
    Ok(())
}

pub(crate) fn of_claim(error: &ClaimError) -> Fault {
    match error {
        ClaimError::Lock(error) => Fault::new(Kind::Locked, in_full(error)),
        ClaimError::Guard(error) => Fault::guard(error, false),
        ClaimError::Xen(error) => error.clone().into(),
    }
}
