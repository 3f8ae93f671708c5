// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux's interface to the hypervisor: hypercalls, and mappings of frames of other domains.
//! Not here: what is called (`call`), the memory that goes with it (`buffer`, `mapping`).
//! Units: frames of 4 KiB; errors are errno.
//! Threads: any. Those that unmap wait for each other; other calls are independent.
//! Source: Linux `include/uapi/xen/privcmd.h`; the layouts below are its structures.

#![expect(unsafe_code, reason = "ioctl and mmap; docs/safety.md")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use crate::unmapping::{Cleared, Unmapping};

/// The device.
#[derive(Debug)]
pub(crate) struct Privcmd {
    calls: File,
    /// Provides memory that no hypercall can fault on; kernels before 4.18 lack it.
    buffers: Option<File>,
    unmapping: Unmapping,
}

/// `struct privcmd_hypercall`.
#[repr(C)]
struct Hypercall {
    op: u64,
    arg: [u64; 5],
}

/// `struct privcmd_mmapbatch_v2`.
#[repr(C)]
struct MmapBatch {
    num: u32,
    dom: u16,
    addr: u64,
    arr: *const u64,
    err: *mut i32,
}

/// `struct privcmd_mmap_resource`.
#[repr(C)]
struct MmapResource {
    dom: u16,
    kind: u32,
    id: u32,
    idx: u32,
    num: u64,
    addr: u64,
}

/// `_IOC(_IOC_NONE, 'P', number, sizeof(T))`.
const fn request<T>(number: u32) -> libc::Ioctl {
    ((size_of::<T>() as u32) << 16 | (b'P' as u32) << 8 | number) as libc::Ioctl
}

const HYPERCALL: libc::Ioctl = request::<Hypercall>(0);
const MMAP_BATCH: libc::Ioctl = request::<MmapBatch>(4);
const MMAP_RESOURCE: libc::Ioctl = request::<MmapResource>(7);

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

impl Privcmd {
    /// Opens the device.
    ///
    /// # Errors
    /// There is none (no Xen, no module), or it may not be opened.
    pub(crate) fn open() -> io::Result<Self> {
        let open = |path| OpenOptions::new().read(true).write(true).open(path);
        let (calls, buffers) = (open("/dev/xen/privcmd")?, open("/dev/xen/hypercall").ok());
        Ok(Self { calls, buffers, unmapping: Unmapping::default() })
    }

    /// Makes a hypercall and returns what it returned.
    ///
    /// # Errors
    /// Its errno, or the kernel's.
    ///
    /// # Safety
    /// Every address among the arguments, and in what they point to, is of memory that lives as
    /// long as the call, that nothing else refers to meanwhile, and that is as large as the
    /// hypercall takes it to be.
    pub(crate) unsafe fn hypercall(&self, op: u64, arg: [u64; 5]) -> Result<u64, i32> {
        let call = Hypercall { op, arg };
        // The C library's function `ioctl` truncates the result to 32 bits.
        // SAFETY: `call` is what this request reads; the rest is the caller's promise.
        let answer = unsafe {
            libc::syscall(libc::SYS_ioctl, self.calls.as_raw_fd(), HYPERCALL, ptr::from_ref(&call))
        };
        if answer < 0 { Err(errno()) } else { Ok(answer as u64) }
    }

    /// Reserves address space for `pages` frames, for `map_frames` or `map_resource`.
    ///
    /// # Errors
    /// No address space.
    pub(crate) fn reserve(&self, pages: usize) -> Result<*mut u64, i32> {
        map(Some(&self.calls), pages, libc::PROT_READ, libc::MAP_SHARED)
    }

    /// Memory that no hypercall faults on, all zeros, writable.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn memory(&self, pages: usize) -> Result<*mut u64, i32> {
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        if let Some(device) = &self.buffers
            && let Ok(memory) = map(Some(device), pages, writable, libc::MAP_SHARED)
        {
            return Ok(memory);
        }
        // The best alternative: locked in memory, though the kernel may still move it. Callers must
        // expect EFAULT.
        let locked =
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_LOCKED | libc::MAP_POPULATE;
        let memory = map(None, pages, writable, locked)?;
        // SAFETY: the range was mapped just now. A fork must not make it copy-on-write.
        unsafe { libc::madvise(memory.cast(), pages * 4096, libc::MADV_DONTFORK) };
        Ok(memory)
    }

    /// Maps frames of a domain into a range that was reserved for as many. `errors` gets an errno
    /// for each frame, 0 for those that are mapped.
    ///
    /// # Errors
    /// Nothing is mapped.
    ///
    /// # Safety
    /// `range` comes from [`Privcmd::reserve`] for `frames.len()` pages; nothing was mapped there.
    pub(crate) unsafe fn map_frames(
        &self,
        range: *mut u64,
        domid: u16,
        frames: &[u64],
        errors: &mut [i32],
    ) -> Result<(), i32> {
        assert_eq!(frames.len(), errors.len(), "an answer for each frame");
        let batch = MmapBatch {
            num: u32::try_from(frames.len()).map_err(|_| libc::E2BIG)?,
            dom: domid,
            addr: range as u64,
            arr: frames.as_ptr(),
            err: errors.as_mut_ptr(),
        };
        // SAFETY: both arrays have `num` elements; the range is the caller's promise.
        let answer =
            unsafe { libc::ioctl(self.calls.as_raw_fd(), MMAP_BATCH, ptr::from_ref(&batch)) };
        // ENOENT: some frames are paged out; `errors` says which.
        if answer == 0 || errno() == libc::ENOENT { Ok(()) } else { Err(errno()) }
    }

    /// Unmaps frames, and gives their range back.
    ///
    /// # Safety
    /// `range` comes from [`Privcmd::reserve`] for `pages` pages, and they are not used any more.
    pub(crate) unsafe fn unmap_frames(&self, range: *mut u64, pages: usize) {
        // SAFETY: the caller's promise.
        match unsafe { self.unmapping.clear(self, range, pages) } {
            // SAFETY: as above.
            Cleared::Unmap => unsafe { unmap(range, pages) },
            // SAFETY: as above.
            Cleared::Keep => unsafe { bury(range, pages) },
        }
    }

    /// Whether frames are unmapped by Xen's calls, as far as these work; `None` if none were yet.
    pub(crate) fn unmaps_by_calls(&self) -> Option<bool> {
        self.unmapping.is_by_calls()
    }

    /// Maps frames of a resource (Xen `XENMEM_acquire_resource`) from number `idx` on.
    ///
    /// # Errors
    /// Nothing is mapped.
    ///
    /// # Safety
    /// `range` comes from [`Privcmd::reserve`] for `num` pages; nothing was mapped there.
    pub(crate) unsafe fn map_resource(
        &self,
        range: *mut u64,
        domid: u16,
        (kind, id): (u32, u32),
        idx: u32,
        num: u64,
    ) -> Result<(), i32> {
        let resource = MmapResource { dom: domid, kind, id, idx, num, addr: range as u64 };
        // SAFETY: the request reads `resource`; the range is the caller's promise.
        let answer =
            unsafe { libc::ioctl(self.calls.as_raw_fd(), MMAP_RESOURCE, ptr::from_ref(&resource)) };
        if answer == 0 { Ok(()) } else { Err(errno()) }
    }
}

fn map(file: Option<&File>, pages: usize, access: i32, flags: i32) -> Result<*mut u64, i32> {
    let bytes = pages.checked_mul(4096).filter(|&bytes| bytes > 0).ok_or(libc::EINVAL)?;
    let descriptor = file.map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: the kernel chooses the address, so that no existing mapping is replaced.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, descriptor, 0) };
    if at == libc::MAP_FAILED { Err(errno()) } else { Ok(at.cast()) }
}

/// Unmaps pages.
///
/// # Safety
/// `at` comes from [`Privcmd::reserve`] or [`Privcmd::memory`] for `pages` pages, and they are not
/// used any more.
pub(crate) unsafe fn unmap(at: *mut u64, pages: usize) {
    // SAFETY: the caller's promise. It can only fail for an invalid range.
    unsafe { libc::munmap(at.cast(), pages * 4096) };
}

/// Unmaps pages, but keeps their addresses: nothing else may ever be mapped there.
///
/// # Safety
/// As [`unmap`].
unsafe fn bury(at: *mut u64, pages: usize) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the caller's promise; what is mapped there can't be read. If it fails, the pages stay
    // mapped, and their addresses in use.
    unsafe { libc::mmap(at.cast(), pages * 4096, libc::PROT_NONE, flags, -1, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn requests_are_those_of_the_kernels_header() {
        // As compiled from Linux's <xen/privcmd.h>.
        assert_eq!((HYPERCALL, MMAP_BATCH, MMAP_RESOURCE), (0x30_5000, 0x20_5004, 0x20_5007));
        let batch = [
            offset_of!(MmapBatch, dom),
            offset_of!(MmapBatch, addr),
            offset_of!(MmapBatch, arr),
            offset_of!(MmapBatch, err),
        ];
        assert_eq!(batch, [4, 8, 16, 24]);
        assert_eq!((offset_of!(MmapResource, kind), offset_of!(MmapResource, num)), (4, 16));
    }
}
