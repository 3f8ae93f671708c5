// SPDX-License-Identifier: MIT OR Apache-2.0
//! Xen's write log: a tree of leaves of 32,768 pfns, cleared by whole leaves.
//! Not here: what is marked (`xen`).
//! Units: bit `pfn % 64` of word `pfn / 64`, as in the engine's bitmap.
//! Threads: one owner.
//! Source: `xen/arch/x86/mm/paging.c`: `paging_mark_pfn_dirty`, `paging_log_dirty_op`.

use std::collections::BTreeMap;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::port::LOG_DIRTY_LEAF_PFNS;

const LEAF_WORDS: usize = LOG_DIRTY_LEAF_PFNS as usize / 64;

/// `EINVAL`: enabled twice, or read while off.
pub(crate) const EINVAL: i32 = 22;
/// `ENOMEM`: a mark found no memory since the log was enabled.
pub(crate) const ENOMEM: i32 = 12;

/// The log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    enabled: bool,
    failed: bool,
    leaves: BTreeMap<u64, Box<[u64; LEAF_WORDS]>>,
    /// The mark, counted from now, that finds no memory.
    pub(crate) fail_in: Option<u64>,
    /// A mark found no memory; for the record of faults.
    pub(crate) fired: bool,
}

impl Log {
    /// Whether log-dirty is on.
    pub(crate) const fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Switches on, with an empty log.
    pub(crate) fn enable(&mut self) -> Result<(), i32> {
        if self.enabled {
            return Err(EINVAL);
        }
        self.enabled = true;
        self.failed = false;
        self.leaves.clear();
        Ok(())
    }

    /// Switches off and frees the tree.
    pub(crate) fn disable(&mut self) {
        self.enabled = false;
        self.failed = false;
        self.leaves.clear();
    }

    /// Marks a pfn.
    pub(crate) fn mark(&mut self, pfn: u64) {
        if !self.enabled {
            return;
        }
        if let Some(left) = &mut self.fail_in {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.fail_in = None;
                self.failed = true;
                self.fired = true;
            }
        }
        // After a failure Xen goes on marking what it can; here all later marks are lost, too.
        if self.failed {
            return;
        }
        let leaf = self
            .leaves
            .entry(pfn / LOG_DIRTY_LEAF_PFNS)
            .or_insert_with(|| Box::new([0; LEAF_WORDS]));
        let bit = pfn % LOG_DIRTY_LEAF_PFNS;
        leaf[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    /// Whether a pfn is marked.
    #[cfg(test)]
    pub(crate) fn is_marked(&self, pfn: u64) -> bool {
        let bit = pfn % LOG_DIRTY_LEAF_PFNS;
        self.leaves
            .get(&(pfn / LOG_DIRTY_LEAF_PFNS))
            .is_some_and(|leaf| leaf[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
    }

    /// CLEAN: copies the prefix `0..into.pfns()` and wipes every leaf that it touches.
    pub(crate) fn clean(&mut self, into: &mut PfnBitmap) -> Result<(), i32> {
        if !self.enabled {
            return Err(EINVAL);
        }
        if self.failed {
            return Err(ENOMEM);
        }
        let touched = into.pfns().div_ceil(LOG_DIRTY_LEAF_PFNS);
        let above = self.leaves.split_off(&touched);
        let wiped = std::mem::replace(&mut self.leaves, above);
        let Some((&last, _)) = wiped.last_key_value() else { return Ok(()) };
        let mut words = vec![0; (last as usize + 1) * LEAF_WORDS];
        for (index, leaf) in &wiped {
            let at = *index as usize * LEAF_WORDS;
            words[at..at + LEAF_WORDS].copy_from_slice(&leaf[..]);
        }
        into.copy_from_words(&words);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack::frame::Pfn;

    fn on() -> Log {
        let mut log = Log::default();
        log.enable().expect("was off");
        log
    }

    #[test]
    fn clean_wipes_whole_leaves_and_keeps_what_is_above() {
        let mut log = on();
        for pfn in [5, 150, 40_000, 70_000] {
            log.mark(pfn);
        }
        let mut bits = PfnBitmap::new(100);
        log.clean(&mut bits).expect("on");
        assert_eq!(bits.iter().collect::<Vec<_>>(), [Pfn(5)]);
        assert!(!log.is_marked(150), "same leaf: wiped unread");
        assert!(log.is_marked(40_000) && log.is_marked(70_000));
        let mut bits = PfnBitmap::new(98_304);
        log.clean(&mut bits).expect("on");
        assert_eq!(bits.count(), 2);
    }

    #[test]
    fn enomem_is_sticky_until_the_log_is_switched_off() {
        let mut log = on();
        log.fail_in = Some(2);
        log.mark(1);
        log.mark(2);
        let mut bits = PfnBitmap::new(32_768);
        assert_eq!(log.clean(&mut bits), Err(ENOMEM));
        assert_eq!(log.clean(&mut bits), Err(ENOMEM));
        log.disable();
        log.enable().expect("off");
        log.mark(3);
        log.clean(&mut bits).expect("works again");
        assert_eq!(bits.drain(), [Pfn(3)]);
    }

    #[test]
    fn nothing_is_marked_while_off_and_enabling_twice_fails() {
        let mut log = Log::default();
        log.mark(1);
        log.enable().expect("was off");
        assert!(!log.is_marked(1));
        assert_eq!(log.enable(), Err(EINVAL));
    }
}
