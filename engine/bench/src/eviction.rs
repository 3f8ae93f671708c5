// SPDX-License-Identifier: MIT OR Apache-2.0
//! Empties the caches before something is timed: by reading more than they hold.
//! Not here: what is timed.
//! Units: bytes.
//! Threads: the caller's; caches that other processors have alone keep what they have.
//! Source: Linux: sizes of caches in `/sys`.

use std::fs;

/// Bytes that are read at least: where the system reports no sizes.
const LEAST_BYTES: usize = 64 << 20;

/// Memory that is read instead of what the caches hold.
#[derive(Debug)]
pub struct Eviction(Vec<u64>);

impl Default for Eviction {
    fn default() -> Self {
        let bytes = largest_cache_bytes().map_or(LEAST_BYTES, |cache| LEAST_BYTES.max(2 * cache));
        Self(vec![1; bytes / 8])
    }
}

impl Eviction {
    /// Reads all of it.
    ///
    /// # Panics
    /// If it is not what was written.
    pub fn evict(&self) {
        assert_eq!(self.0.iter().sum::<u64>(), self.0.len() as u64);
    }
}

fn largest_cache_bytes() -> Option<usize> {
    let size = |index: usize| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        fs::read_to_string(path).ok()
    };
    (0..).map_while(size).filter_map(|size| kibibytes(&size)).max()
}

/// Bytes of a size such as `1024K`.
fn kibibytes(text: &str) -> Option<usize> {
    Some(text.trim().strip_suffix('K')?.parse::<usize>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_read_than_a_cache_holds() {
        assert_eq!([kibibytes("1024K\n"), kibibytes("12")], [Some(1 << 20), None]);
        let eviction = Eviction::default();
        assert!(eviction.0.len() * 8 >= LEAST_BYTES.max(largest_cache_bytes().unwrap_or(0)));
        eviction.evict();
    }
}
