// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of this process, as the system counts it: now, and at its peak.
//! Not here: what uses it.
//! Units: bytes.
//! Threads: reads files of the system.
//! Source: Linux `proc(5)`, `VmRSS` and `VmHWM` in /proc/self/status, 5 in /proc/self/clear_refs.

use std::fs;

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

    #[test]
    fn the_peak_is_read_in_bytes() {
        let peak = |status| field(status, "VmHWM:");
        assert_eq!(peak("Name:\tx\nVmHWM:\t    1234 kB\nVmRSS:\t 1 kB\n"), Some(1_263_616));
        assert_eq!(peak("VmRSS:\t 1 kB\n"), None);
        assert!(cfg!(not(target_os = "linux")) || peak_bytes().is_some_and(|peak| peak > 1 << 16));
        assert!(cfg!(not(target_os = "linux")) || resident_bytes() <= peak_bytes());
    }
}
