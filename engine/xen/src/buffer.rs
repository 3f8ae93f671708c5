// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that a hypercall reads and writes: page-aligned, always present, never shared with a
//! child.
//! Not here: what is in it.
//! Units: bytes; words of 64 bits, as the hypervisor wrote them.
//! Threads: one owner. The hypervisor writes only while a call of the owner's is under way.
//! Source: libxencall's rules for hypercall-safe memory (`ecosystem.md` B2).

#![expect(unsafe_code, reason = "memory of the kernel's; docs/safety.md")]

use std::ptr::NonNull;
use std::slice;

use crate::error::{XenError, failed};
use crate::privcmd::{self, Privcmd};

/// The memory.
#[derive(Debug)]
pub(crate) struct Buffer {
    base: NonNull<u64>,
    pages: usize,
}

// SAFETY: plain memory of this process, owned.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads, and no call writes while it is shared.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// At least `bytes` bytes, zeroed, rounded up to a page.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn new(privcmd: &Privcmd, bytes: usize) -> Result<Self, XenError> {
        let pages = bytes.div_ceil(4096).max(1);
        let memory = privcmd.memory(pages).map_err(failed("allocate hypercall memory"))?;
        let base =
            NonNull::new(memory).ok_or(XenError::new("allocate hypercall memory", libc::ENOMEM))?;
        Ok(Self { base, pages })
    }

    /// The address for a hypercall.
    pub(crate) fn address(&mut self) -> u64 {
        self.base.as_ptr() as u64
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.pages * 4096
    }

    pub(crate) const fn words(&self) -> &[u64] {
        // SAFETY: `pages` pages are mapped from `base` on, and no call is under way, which would
        // borrow mutably.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.pages * 512) }
    }

    pub(crate) const fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: as above, and this is the only borrow.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.pages * 512) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `new` made it of so many pages, and it is owned.
        unsafe { privcmd::unmap(self.base.as_ptr(), self.pages) };
    }
}
