// SPDX-License-Identifier: MIT OR Apache-2.0
//! A description of this machine: figures of one machine say little about another.
//! Not here: bandwidth, which each A/B run measures for itself.
//! Units: bytes; names as the system writes them.
//! Threads: reads small files of the system.
//! Source: Linux: `/proc`, `/sys`. What a system does not report is `None` or empty.

use std::fs;
use std::thread;

/// Facts about the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The processor's model name.
    pub cpu: Option<String>,
    /// Processors that this program may use.
    pub cpus: usize,
    /// Caches of the first processor, as `L2 1024K`.
    pub caches: Vec<String>,
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// The operating system's kernel.
    pub system: Option<String>,
    /// When memory gets transparent huge pages: `always`, `madvise` or `never`.
    pub huge_pages: Option<String>,
    /// Bytes of a huge page.
    pub huge_page_bytes: Option<u64>,
}

impl Machine {
    /// Reads the facts from the system.
    #[must_use]
    pub fn detect() -> Self {
        let text = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let huge = "/sys/kernel/mm/transparent_hugepage";
        Self {
            cpu: text("/proc/cpuinfo").and_then(|info| field(&info, "model name")),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            caches: caches(),
            memory_bytes: text("/proc/meminfo")
                .and_then(|info| field(&info, "MemTotal"))
                .and_then(|kib| kib.strip_suffix(" kB")?.parse::<u64>().ok())
                .map(|kib| kib << 10),
            system: text("/proc/sys/kernel/osrelease"),
            huge_pages: text(&format!("{huge}/enabled")).and_then(|modes| chosen(&modes)),
            huge_page_bytes: text(&format!("{huge}/hpage_pmd_size"))
                .and_then(|bytes| bytes.parse().ok()),
        }
    }
}

/// The first value of a key in lines of `key : value`.
fn field(text: &str, key: &str) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned())
}

/// The word in brackets.
fn chosen(modes: &str) -> Option<String> {
    let (_, rest) = modes.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode.to_owned())
}

fn caches() -> Vec<String> {
    let cache = |index: usize| {
        let file = |name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}");
            fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
        };
        let kind = match file("type")?.as_str() {
            "Data" => "d",
            "Instruction" => "i",
            _ => "",
        };
        Some(format!("L{}{kind} {}", file("level")?, file("size")?))
    };
    (0..).map_while(cache).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found_in_what_the_system_writes() {
        let info = "processor\t: 0\nmodel name\t: A: B\nprocessor\t: 1\nmodel name\t: C\n";
        assert_eq!(field(info, "model name").as_deref(), Some("A: B"));
        assert_eq!(field(info, "bogomips"), None);
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("none"), None);
        assert!(Machine::detect().cpus > 0);
    }
}
