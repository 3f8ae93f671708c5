// SPDX-License-Identifier: MIT OR Apache-2.0
//! A domain's pages for the stream's transport.
//! Not here: how they are mapped (`p2mtrack_xen::XenPages`).
//! Units: frames of 4 KiB.
//! Threads: a batch may be read on another thread than the one that mapped it.
//! Source: own; why a batch is unmapped and not left to the end of a process:
//! `docs/decisions/0027`.

use p2mtrack::frame::Mfn;
use p2mtrack::guest::GuestLeaf;
use p2mtrack::port::{MapFault, PortError};
use p2mtrack_stream::pages::{PageBatch, Pages};
use p2mtrack_xen::{Domain, XenError, XenPages};

/// A domain's pages.
#[derive(Debug)]
pub struct DomainPages(XenPages);

/// Pages that are mapped as long as this lives.
#[derive(Debug)]
pub struct DomainBatch(p2mtrack_xen::PageBatch);

impl DomainPages {
    /// For a domain.
    ///
    /// # Errors
    /// No memory.
    pub fn new(domain: &Domain) -> Result<Self, XenError> {
        XenPages::new(domain).map(Self)
    }
}

impl Pages for DomainPages {
    type Batch = DomainBatch;

    fn map(&mut self, frames: &[Mfn]) -> Result<DomainBatch, PortError> {
        Ok(DomainBatch(self.0.map(frames)?))
    }
}

impl PageBatch for DomainBatch {
    fn page(&self, index: usize) -> Result<GuestLeaf<'_>, MapFault> {
        self.0.page(index)
    }
}
