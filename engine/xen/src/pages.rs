// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages of a guest for whoever sends them: mapped a batch at a time, read by raw pointers, given
//! back with the batch.
//! Not here: leaves of the p2m, whose mappings are held (`p2m_source`).
//! Units: frames of 4 KiB in the order in which they were asked for.
//! Threads: any number of readers of a batch. The writers are the guest and who it lets write.
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
    /// Of a domain.
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
    /// None of them can be mapped, whichever they are: no memory, or no such domain. What is wrong
    /// with a single frame is asked of the batch.
    pub fn map(&self, frames: &[Mfn]) -> Result<PageBatch, XenError> {
        let frames: Vec<u64> = frames.iter().map(|mfn| mfn.0).collect();
        let privcmd = &self.domain.xen().privcmd;
        Ok(PageBatch { mapping: Mapping::frames(privcmd, self.domain.domid(), &frames)? })
    }
}

impl PageBatch {
    /// The page of the frame that was asked for as number `index`.
    ///
    /// # Errors
    /// Why it is not mapped; also if there is no such number.
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
