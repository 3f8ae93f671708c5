// SPDX-License-Identifier: MIT OR Apache-2.0
//! The most memory that this program had at any moment.
//! Not here: what used it.
//! Units: bytes.
//! Threads: asks the system.
//! Source: Linux `proc(5)`, `VmHWM` in /proc/self/status.

/// The peak of the resident set; `None` where the system doesn't say.
pub(super) fn peak_bytes() -> Option<u64> {
    peak_in(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn peak_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        assert_eq!(peak_in("Name:\tx\nVmHWM:\t    1234 kB\nVmRSS:\t 1 kB\n"), Some(1_263_616));
        assert_eq!(peak_in("VmRSS:\t 1 kB\n"), None);
        assert!(cfg!(not(target_os = "linux")) || peak_bytes().is_some_and(|peak| peak > 1 << 16));
    }
}
