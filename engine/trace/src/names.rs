// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pfn names a frame: the reverse of the entries, kept up to date change by change.
//! Not here: m2p values that a trace states itself (`replay`).
//! Units: one word for each frame of the machine.
//! Threads: one writer between rounds; any thread may read `FirstNames` meanwhile.
//! Source: own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// For each frame the lowest pfn that names it, plus one; 0 = none, so that untouched memory is
/// free.
#[derive(Debug)]
pub(crate) struct FirstNames(Box<[AtomicU64]>);

impl FirstNames {
    /// Frames of the machine.
    pub(crate) fn frames(&self) -> u64 {
        self.0.len() as u64
    }

    /// The lowest pfn that names a frame.
    pub(crate) fn pfn(&self, mfn: u64) -> Option<u64> {
        let word = usize::try_from(mfn).ok().and_then(|at| self.0.get(at))?;
        // ORDER: rounds change only while no thread is inside a call; the caller synchronizes.
        word.load(Ordering::Relaxed).checked_sub(1)
    }

    fn set(&self, mfn: u64, pfn: Option<u64>) {
        let word = pfn.map_or(0, |pfn| pfn + 1);
        self.0[mfn as usize].store(word, Ordering::Relaxed); // ORDER: as in `pfn`
    }
}

/// All names of all frames.
#[derive(Debug)]
pub(crate) struct Names {
    first: Arc<FirstNames>,
    /// All names of frames with more than one.
    shared: HashMap<u64, BTreeSet<u64>>,
    named: u64,
}

impl Names {
    /// No names, for a machine of `frames` frames; `None` if there is no memory for it.
    pub(crate) fn new(frames: u64) -> Option<Self> {
        let words = bytemuck::try_zeroed_slice_box(usize::try_from(frames).ok()?).ok()?;
        let first = Arc::new(FirstNames(words));
        Some(Self { first, shared: HashMap::new(), named: 0 })
    }

    /// The part that any thread may read.
    pub(crate) fn first(&self) -> &Arc<FirstNames> {
        &self.first
    }

    /// Distinct frames that have a name.
    pub(crate) const fn named(&self) -> u64 {
        self.named
    }

    /// `pfn` names `mfn` (below the count) from now on.
    pub(crate) fn add(&mut self, mfn: u64, pfn: u64) {
        let Some(first) = self.first.pfn(mfn) else {
            self.named += 1;
            return self.first.set(mfn, Some(pfn));
        };
        let names = self.shared.entry(mfn).or_insert_with(|| BTreeSet::from([first]));
        names.insert(pfn);
        self.first.set(mfn, names.first().copied());
    }

    /// `pfn` names `mfn` no longer.
    pub(crate) fn remove(&mut self, mfn: u64, pfn: u64) {
        let Some(names) = self.shared.get_mut(&mfn) else {
            debug_assert_eq!(self.first.pfn(mfn), Some(pfn), "only what was added is removed");
            self.named -= 1;
            return self.first.set(mfn, None);
        };
        names.remove(&pfn);
        self.first.set(mfn, names.first().copied());
        if names.len() == 1 {
            self.shared.remove(&mfn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_the_reverse_of_the_entries(writes in prop::collection::vec((0_usize..8, 0_u64..6), 0..60)) {
            let mut entries = [5; 8]; // frame 5 stands for none
            let mut names = Names::new(5).expect("memory");
            for (pfn, new) in writes {
                let old = std::mem::replace(&mut entries[pfn], new);
                if old < 5 {
                    names.remove(old, pfn as u64);
                }
                if new < 5 {
                    names.add(new, pfn as u64);
                }
                let mut named = 0;
                for mfn in 0..5 {
                    let first = entries.iter().position(|&entry| entry == mfn);
                    prop_assert_eq!(names.first().pfn(mfn), first.map(|pfn| pfn as u64));
                    named += u64::from(first.is_some());
                }
                prop_assert_eq!(names.named(), named);
            }
        }
    }

    #[test]
    fn frames_past_the_machine_have_no_name() {
        let names = Names::new(3).expect("memory");
        assert_eq!((names.first().frames(), names.first().pfn(3)), (3, None));
        assert_eq!(names.first().pfn(u64::MAX), None);
        assert!(Names::new(u64::MAX).is_none());
    }
}
