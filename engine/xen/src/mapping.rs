// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames of a domain, mapped for reading until dropped.
//! Not here: which frames, and what they contain.
//! Units: frames of 4 KiB in the order in which they were asked for.
//! Threads: any number of readers. The writers are other domains.
//! Source: as `privcmd`. A mapping keeps its frames alive: a frame that the domain gave away is not
//! free before.

#![expect(unsafe_code, reason = "foreign memory; docs/safety.md")]

use std::ptr::NonNull;
use std::sync::Arc;

use p2mtrack::frame::Mfn;
use p2mtrack::guest::GuestLeaf;
use p2mtrack::port::MapFault;

use crate::error::{XenError, failed};
use crate::privcmd::Privcmd;

/// Frames that are mapped, or could not be mapped.
#[derive(Debug)]
pub(crate) struct Mapping {
    privcmd: Arc<Privcmd>,
    base: NonNull<u64>,
    faults: Box<[i32]>,
}

// SAFETY: foreign memory is read only through `GuestLeaf`, which any number of threads may do.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

const CALL: &str = "map frames";

impl Mapping {
    /// Maps frames of a domain.
    ///
    /// # Errors
    /// The whole call fails.
    pub(crate) fn frames(
        privcmd: &Arc<Privcmd>,
        domid: u16,
        frames: &[u64],
    ) -> Result<Self, XenError> {
        let mut mapping = Self::reserve(privcmd, frames.len())?;
        let range = mapping.base.as_ptr();
        // SAFETY: the range was reserved for as many frames just now.
        let mapped = unsafe { privcmd.map_frames(range, domid, frames, &mut mapping.faults) };
        mapped.map_err(failed(CALL)).map_err(|error| error.of(domid))?;
        Ok(mapping)
    }

    /// Maps `num` frames of a resource, from number `first` on.
    ///
    /// # Errors
    /// Xen refuses.
    pub(crate) fn resource(
        privcmd: &Arc<Privcmd>,
        domid: u16,
        resource: (u32, u32),
        first: u32,
        num: u32,
    ) -> Result<Self, XenError> {
        let mapping = Self::reserve(privcmd, num as usize)?;
        let range = mapping.base.as_ptr();
        // SAFETY: the range was reserved for as many frames just now.
        let mapped = unsafe { privcmd.map_resource(range, domid, resource, first, num.into()) };
        mapped.map_err(failed("map a resource")).map_err(|error| error.of(domid))?;
        Ok(mapping)
    }

    fn reserve(privcmd: &Arc<Privcmd>, pages: usize) -> Result<Self, XenError> {
        let range = privcmd.reserve(pages).map_err(failed(CALL))?;
        let base = NonNull::new(range).ok_or(XenError::new(CALL, libc::ENOMEM))?;
        Ok(Self { privcmd: Arc::clone(privcmd), base, faults: vec![0; pages].into() })
    }

    /// Why a frame is not mapped.
    pub(crate) fn fault(&self, index: usize) -> Option<MapFault> {
        match self.faults.get(index)?.saturating_neg() {
            0 => None,
            // Xen's answers for a frame that has no owner, or is another domain's or Xen's own.
            libc::EBUSY | libc::EINVAL | libc::EPERM => Some(MapFault::NotOwned),
            errno => Some(MapFault::Errno(errno)),
        }
    }

    /// All frames that are mapped, in order.
    pub(crate) fn lives(&self) -> impl Iterator<Item = GuestLeaf<'_>> {
        (0..self.faults.len()).filter_map(|index| self.live(index))
    }

    /// A frame that is mapped; `None` if it is not.
    pub(crate) fn live(&self, index: usize) -> Option<GuestLeaf<'_>> {
        if *self.faults.get(index)? != 0 {
            return None;
        }
        let words = self.base.as_ptr().wrapping_add(index * 512);
        // SAFETY: the frame is mapped until this is dropped, which the lifetime prevents meanwhile;
        // it is read through `GuestLeaf` only, and this program can't write it.
        Some(unsafe { GuestLeaf::from_ptr(words) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `reserve` made it of so many pages, and it is not borrowed.
        unsafe { self.privcmd.unmap_frames(self.base.as_ptr(), self.faults.len()) };
    }
}

/// The error of a frame that is not mapped.
pub(crate) const fn not_mapped(call: &'static str, fault: MapFault) -> XenError {
    match fault {
        MapFault::Errno(errno) => XenError::new(call, errno),
        _ => XenError::new(call, libc::EPERM),
    }
}

/// Copies one frame, each word read once.
pub(crate) fn copy(
    privcmd: &Arc<Privcmd>,
    domid: u16,
    mfn: Mfn,
    into: &mut p2mtrack::leaf::Leaf,
) -> Result<(), MapFault> {
    let mapping = Mapping::frames(privcmd, domid, &[mfn.0])
        .map_err(|error| MapFault::Errno(error.errno()))?;
    let live = mapping.live(0).ok_or_else(|| mapping.fault(0).unwrap_or(MapFault::NotOwned))?;
    live.fetch(into);
    Ok(())
}
