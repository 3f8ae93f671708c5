// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages by a bare `writev`: the least that a sender of them can do.
//! Not here: headers, words, cancellation.
//! Units: pages; pages that lie side by side are one piece.
//! Threads: one; another one drains.
//! Source: writev(2).

#![expect(unsafe_code, reason = "a call into C; docs/safety.md")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use p2mtrack::frame::FRAME_BYTES;
use p2mtrack::guest::GuestLeaf;

/// Pieces that are written again and again.
#[derive(Debug)]
pub struct Batch<'a> {
    pieces: Vec<libc::iovec>,
    /// The pages live as long.
    pages: std::marker::PhantomData<GuestLeaf<'a>>,
}

impl<'a> Batch<'a> {
    /// The pieces of these pages.
    #[must_use]
    pub fn new(pages: impl Iterator<Item = GuestLeaf<'a>>) -> Self {
        let mut pieces: Vec<libc::iovec> = Vec::new();
        for page in pages {
            let base = page.as_ptr().cast_mut().cast();
            match pieces.last_mut() {
                Some(last) if last.iov_base.wrapping_byte_add(last.iov_len) == base => {
                    last.iov_len += FRAME_BYTES;
                }
                _ => pieces.push(libc::iovec { iov_base: base, iov_len: FRAME_BYTES }),
            }
        }
        Self { pieces, pages: std::marker::PhantomData }
    }

    /// Writes all pages, in one call or as many as it takes. Returns the bytes.
    ///
    /// # Errors
    /// The call's.
    pub fn write(&self, fd: BorrowedFd<'_>) -> io::Result<u64> {
        let mut pieces = self.pieces.clone();
        let (mut left, mut whole) = (&mut pieces[..], 0);
        while !left.is_empty() {
            let count = left.len().min(1024) as libc::c_int;
            // SAFETY: each piece is of pages that are readable during the call.
            let written = unsafe { libc::writev(fd.as_raw_fd(), left.as_ptr(), count) };
            let mut bytes = usize::try_from(written).map_err(|_| io::Error::last_os_error())?;
            whole += bytes as u64;
            let passed = left
                .iter()
                .take_while(|piece| {
                    let is_passed = bytes >= piece.iov_len;
                    bytes -= if is_passed { piece.iov_len } else { 0 };
                    is_passed
                })
                .count();
            left = &mut left[passed..];
            if let Some(first) = left.first_mut() {
                first.iov_base = first.iov_base.wrapping_byte_add(bytes);
                first.iov_len -= bytes;
            }
        }
        Ok(whole)
    }
}
