// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far a file may expand: a few bytes of runs can expand to gigabytes, so that file size is no
//! bound.
//! Not here: rules of the format itself (`format`, `round`).
//! Units: entries, pfns and frames as in `p2mtrack::frame`; bytes where the name says so.
//! Threads: plain values.
//! Source: sized for a machine of 24 GiB, sums below.

/// Bounds of a reader and a replay. A number beyond its bound is an error that names it.
///
/// By default the worst file costs a replay 4 GiB of entries, 4 GiB of live frames, 8 GiB of m2p, 1
/// GiB of log-dirty and 256 MiB of upper frames; a reader alone 5.3 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the p2m in one round (8 bytes each; 2^29 = a guest of 2 TiB).
    pub entries: u64,
    /// Pfns of one log-dirty bitmap (1 bit each).
    pub log_dirty_pfns: u64,
    /// Upper frames in one round (4 KiB each).
    pub upper_frames: u64,
    /// Frames of the machine, for a replay's m2p (8 bytes each, taken as they are used).
    pub machine_frames: u64,
    /// Positions that decoding a whole file may process: bounds the time if many rounds expand far.
    pub work: u64,
    /// Bytes of a capture after decompression. One round of them is in memory at a time; a trace
    /// that is made in memory may have a quarter of this.
    pub capture_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 1 << 29,
            log_dirty_pfns: 1 << 33,
            upper_frames: 1 << 16,
            machine_frames: 1 << 30,
            work: 1 << 34,
            capture_bytes: 4 << 30,
        }
    }
}
