// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages of a guest for the sender: mapped a batch at a time, read by raw pointers, unmapped with
//! the batch.
//! Not here: leaves of the p2m, which stay mapped (`p2m_source`).
//! Units: frames of 4 KiB in the order in which they were asked for.
//! Threads: any number of readers of a batch. The writers are the guest, and others that it allows.
//! Source: as `mapping`. Nothing here makes a Rust reference to a page: its bytes may change while
//! they are read.

use p2mtrack::frame::Mfn;
use p2mtrack::guest::GuestLeaf;
use p2mtrack::port::MapFault;

use crate::domain::Domain;
use crate::error::XenError;
use crate::mapping::Mapping;

/// The pages of a domain.
#[derive(Debug)]
pub struct XenPages {
    domain: Domain,
}

/// Pages that are mapped as long as this lives.
#[derive(Debug)]
pub struct PageBatch {
    mapping: Mapping,
}

impl XenPages {
    /// For a domain.
    ///
    /// # Errors
    /// No memory.
    pub fn new(domain: &Domain) -> Result<Self, XenError> {
        Ok(Self { domain: domain.another()? })
    }

    /// Maps frames for reading, in one call. A frame that the domain gives away meanwhile is kept
    /// alive by the batch.
    ///
    /// # Errors
    /// The whole call fails: no memory, or no such domain. Why a single frame is not mapped,
    /// [`PageBatch::page`] says.
    pub fn map(&self, frames: &[Mfn]) -> Result<PageBatch, XenError> {
        let frames: Vec<u64> = frames.iter().map(|mfn| mfn.0).collect();
        let privcmd = &self.domain.xen().privcmd;
        Ok(PageBatch { mapping: Mapping::frames(privcmd, self.domain.domid(), &frames)? })
    }
}

impl PageBatch {
    /// The page of frame `index` of the batch.
    ///
    /// # Errors
    /// Why it is not mapped; also if the batch has no such frame.
    pub fn page(&self, index: usize) -> Result<GuestLeaf<'_>, MapFault> {
        let fault = || self.mapping.fault(index).unwrap_or(MapFault::NotOwned);
        self.mapping.live(index).ok_or_else(fault)
    }

    /// Its address: readable for 4,096 bytes as long as the batch lives, never through a reference.
    /// For `writev` and the like.
    ///
    /// # Errors
    /// As [`PageBatch::page`].
    pub fn address(&self, index: usize) -> Result<*const u8, MapFault> {
        self.page(index).map(GuestLeaf::as_ptr)
    }
}
