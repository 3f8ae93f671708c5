// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a transport needs of a back end: the pages of a batch, mapped for reading.
//! Not here: how they are mapped (the back end's).
//! Units: frames of 4 KiB in the order in which they were asked for.
//! Threads: a batch may be read on another thread than the one that mapped it.
//! Source: own.

use p2mtrack::frame::Mfn;
use p2mtrack::guest::GuestLeaf;
use p2mtrack::port::{MapFault, PortError};

/// Maps pages.
pub trait Pages {
    /// Pages that are mapped as long as it lives.
    type Batch: PageBatch;

    /// Maps frames for reading. A frame that the domain gives away meanwhile is kept alive by the
    /// batch.
    ///
    /// # Errors
    /// The whole call fails.
    fn map(&mut self, frames: &[Mfn]) -> Result<Self::Batch, PortError>;
}

/// Pages that are mapped.
pub trait PageBatch {
    /// The page of frame `index`.
    ///
    /// # Errors
    /// Why it is not mapped.
    fn page(&self, index: usize) -> Result<GuestLeaf<'_>, MapFault>;
}
