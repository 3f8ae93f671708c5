// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C library's `memcmp` over two full copies: the obvious solution.
//! Not here: which entries of a leaf differ; `memcmp` does not say.
//! Units: frames.
//! Threads: pure reads; no thread writes meanwhile.
//! Source: glibc picks its kernel by processor, as we do.

#![expect(unsafe_code, reason = "a call into C; docs/safety.md")]

use crate::frames::FrameWords;

/// Whether two runs of frames, equally long, have different bytes.
///
/// # Panics
/// If they are not equally long.
#[must_use]
pub fn differ(live: &[FrameWords], copy: &[FrameWords]) -> bool {
    assert_eq!(live.len(), copy.len(), "memcmp takes one length");
    let bytes = size_of_val(live);
    // SAFETY: both are readable for `bytes` bytes, and no thread writes them now.
    unsafe { libc::memcmp(live.as_ptr().cast(), copy.as_ptr().cast(), bytes) != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Frames, Pages};
    use p2mtrack::leaf::Leaf;

    #[test]
    fn one_bit_makes_frames_differ() {
        let [one, other] = [0, 1].map(|_| Frames::new(3, Pages::Small).expect("memory"));
        assert!(!differ(one.all(), other.all()));
        let mut leaf = Leaf::default();
        leaf.words[511] = 1 << 63;
        other.write(2, &leaf);
        assert!(differ(one.all(), other.all()));
        assert!(!differ(&one.all()[..2], &other.all()[..2]));
    }
}
