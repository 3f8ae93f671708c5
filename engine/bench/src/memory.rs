// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of this process, as the system counts it: now, at its peak, and of a part of it.
//! Not here: what uses it.
//! Units: bytes.
//! Threads: reads files of the system.
//! Source: Linux `proc(5)`, `VmRSS` and `VmHWM` in /proc/self/status, 5 in /proc/self/clear_refs,
//! bit 63 of a page's word in /proc/self/pagemap.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of a page.
const PAGE_BYTES: usize = 4096;
/// The bit of a page that is in memory.
const IN_MEMORY: u64 = 1 << 63;

/// The resident set; `None` where the system doesn't report it.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    field(&status()?, "VmRSS:")
}

/// The peak of the resident set; `None` where the system doesn't report it.
#[must_use]
pub fn peak_bytes() -> Option<u64> {
    field(&status()?, "VmHWM:")
}

/// Resets the peak, where the system can.
pub fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// What of some addresses is in memory; `None` where the system doesn't report it.
#[must_use]
pub fn resident_of(addresses: &[Range<usize>]) -> Option<u64> {
    let pages = File::open("/proc/self/pagemap").ok()?;
    let resident = |at: &Range<usize>| {
        let mut words = vec![0; at.len().div_ceil(PAGE_BYTES) * 8];
        pages.read_exact_at(&mut words, (at.start / PAGE_BYTES * 8) as u64).ok()?;
        let (words, _) = words.as_chunks();
        let there = words.iter().filter(|&&word| u64::from_le_bytes(word) & IN_MEMORY != 0);
        Some((PAGE_BYTES * there.count()) as u64)
    };
    addresses.iter().map(resident).sum()
}

fn status() -> Option<String> {
    fs::read_to_string("/proc/self/status").ok()
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack_synthetic::huge::mapping::{Mapping, Use};

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_written_is_in_memory() {
        const BYTES: usize = 8 << 20;
        let mut map = Mapping::<u64>::new(BYTES / 8, Use::Sparse).expect("memory");
        let at = map.as_ptr().addr();
        let resident = || resident_of(&[at..at + BYTES / 2, at + BYTES / 2..at + BYTES]);
        assert_eq!((resident(), resident_of(&[])), (Some(0), Some(0)));
        map[BYTES / 16] = 1;
        assert_eq!(resident(), Some(PAGE_BYTES as u64));
        map.fill(1);
        assert_eq!(resident(), Some(BYTES as u64));
    }

    #[test]
    fn the_peak_is_read_in_bytes() {
        let peak = |status| field(status, "VmHWM:");
        assert_eq!(peak("Name:\tx\nVmHWM:\t    1234 kB\nVmRSS:\t 1 kB\n"), Some(1_263_616));
        assert_eq!(peak("VmRSS:\t 1 kB\n"), None);
        assert!(cfg!(not(target_os = "linux")) || peak_bytes().is_some_and(|peak| peak > 1 << 16));
        assert!(cfg!(not(target_os = "linux")) || resident_bytes() <= peak_bytes());
    }
}
