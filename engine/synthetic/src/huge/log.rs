// SPDX-License-Identifier: MIT OR Apache-2.0
//! Xen's write log as one bitmap of the guest's size.
//! Not here: what is marked (`guest`).
//! Units: bit `pfn % 64` of word `pfn / 64`, as in the engine's bitmap.
//! Threads: one owner.
//! Source: the engine's `LogDirty`; `log_dirty` has Xen's own tree, with its faults.

use p2mtrack::port::{LOG_DIRTY_LEAF_PFNS, LogBuffer};

/// The log.
#[derive(Debug)]
pub(crate) struct Log {
    enabled: bool,
    words: Vec<u64>,
}

impl Log {
    /// A log over `pfns` pfns, off.
    pub(crate) fn new(pfns: u64) -> Self {
        let words = pfns.next_multiple_of(LOG_DIRTY_LEAF_PFNS) / 64;
        Self { enabled: false, words: vec![0; words as usize] }
    }

    /// Whether it is on.
    pub(crate) const fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Switches on, empty. `false` if it was on.
    pub(crate) fn enable(&mut self) -> bool {
        if self.enabled {
            return false;
        }
        self.words.fill(0);
        self.enabled = true;
        true
    }

    /// Switches off.
    pub(crate) const fn disable(&mut self) {
        self.enabled = false;
    }

    /// Marks a pfn.
    pub(crate) fn mark(&mut self, pfn: u64) {
        if self.enabled
            && let Some(word) = self.words.get_mut((pfn / 64) as usize)
        {
            *word |= 1 << (pfn % 64);
        }
    }

    /// Reads and clears the prefix `0..into.pfns()`; every word of `into` is overwritten. `false`
    /// if the log is off.
    pub(crate) fn clean(&mut self, mut into: LogBuffer<'_>) -> bool {
        if !self.enabled {
            return false;
        }
        let into = into.words_mut();
        let asked = into.len();
        if asked > self.words.len() {
            self.words.resize(asked, 0);
        }
        into.copy_from_slice(&self.words[..asked]);
        self.words[..asked].fill(0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack::bitmap::PfnBitmap;
    use p2mtrack::frame::Pfn;

    #[test]
    fn clean_overwrites_the_prefix_and_keeps_the_rest() {
        let mut log = Log::new(65_536);
        log.mark(1);
        let mut bits = PfnBitmap::new(32_768);
        assert!(!log.clean(LogBuffer::over(&mut bits)), "off");
        assert!(log.enable() && !log.enable());
        for pfn in [0, 32_767, 32_768, 65_535, 1 << 40] {
            log.mark(pfn);
        }
        bits.set(Pfn(5)); // left over from another round
        assert!(log.clean(LogBuffer::over(&mut bits)));
        assert_eq!(bits.drain(), [Pfn(0), Pfn(32_767)]);
        let mut bits = PfnBitmap::new(131_072);
        assert!(log.clean(LogBuffer::over(&mut bits)));
        assert_eq!(bits.drain(), [Pfn(32_768), Pfn(65_535)]);
    }
}
