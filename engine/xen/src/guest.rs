// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that a tracker needs of one domain.
//! Not here: a destination, the tracker.
//! Units: as in the tracker's `port`.
//! Threads: as each port says.
//! Source: own.

use std::sync::Arc;

use p2mtrack::port::{Guest, Observer};

use crate::domain::Domain;
use crate::error::XenError;
use crate::frame_types::XenFrameTypes;
use crate::log_dirty::XenLogDirty;
use crate::m2p::XenM2p;
use crate::p2m_source::XenP2m;
use crate::unlogged::XenUnlogged;

/// The hypervisor's side of a tracker's ports.
#[derive(Debug)]
pub struct XenGuest {
    /// Its write log.
    pub log_dirty: XenLogDirty,
    /// Its p2m.
    pub p2m: XenP2m,
    /// The machine's m2p.
    pub m2p: Arc<XenM2p>,
    /// Owner and type of its frames.
    pub types: XenFrameTypes,
    /// Its unlogged writers.
    pub unlogged: XenUnlogged,
}

impl XenGuest {
    /// Opens them all. Log-dirty is not switched.
    ///
    /// # Errors
    /// The domain is gone, or Xen refuses one of them.
    pub fn open(domain: &Domain) -> Result<Self, XenError> {
        let m2p = Arc::new(XenM2p::new(domain.xen())?);
        Ok(Self {
            log_dirty: XenLogDirty::new(domain)?,
            p2m: XenP2m::new(domain.another()?)?,
            types: XenFrameTypes::new(domain.another()?)?,
            unlogged: XenUnlogged::new(domain.another()?, Arc::clone(&m2p))?,
            m2p,
        })
    }

    /// Lends the ports, log-dirty separately, for one call.
    pub fn lend<'a>(
        &'a mut self,
        observer: &'a mut dyn Observer,
    ) -> (Guest<'a>, &'a mut XenLogDirty) {
        let Self { log_dirty, p2m, m2p, types, unlogged } = self;
        (Guest { p2m, m2p: &**m2p, types, unlogged, observer }, log_dirty)
    }
}
