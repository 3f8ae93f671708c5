// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest of both sides: its p2m as a simulated guest has it, its m2p as a table, and the
//! changes of a round.
//! Not here: the rounds (`in_rust`, `in_c`).
//! Units: pfns, mfns; a change gives a pfn one of two frames.
//! Threads: one.
//! Source: `p2mtrack_synthetic::huge`.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{FrameType, Mfn, Pfn};
use p2mtrack::leaf::FRAME_WORDS;
use p2mtrack::port::M2p;
use p2mtrack_bench::p2m::pattern;
use p2mtrack_synthetic::huge::ports::GuestPorts;
use p2mtrack_synthetic::huge::{Guest, Shape};

use crate::Round;

/// Pages that are written in each leaf in a written round.
const WRITTEN_IN_LEAF: u64 = 16;
/// Leaves that change in a busy round, at most.
const CHANGING: u64 = 2000;

/// Pages that a written round sends at most.
pub(crate) const fn written_pages(gib: u64) -> u64 {
    (gib << 18) / FRAME_WORDS as u64 * WRITTEN_IN_LEAF
}

/// The guest.
pub(crate) struct Fixture {
    guest: &'static Guest,
    /// All ones: no pfn.
    m2p: Vec<AtomicU64>,
    /// For each pfn that changes: its leaf, its slot, and its two frames.
    changes: Vec<Change>,
    /// The log-dirty bitmap of the next CLEAN.
    log: Mutex<PfnBitmap>,
}

struct Change {
    pfn: u64,
    /// The backing pfn of its leaf.
    backing_pfn: u64,
    frames: [u64; 2],
}

impl Fixture {
    /// A guest of so many GiB.
    pub(crate) fn new(gib: u64) -> Result<Self, Box<dyn Error>> {
        let leaves = gib << 9; // 512 to the GiB
        // Lives as long as the program.
        let guest: &'static Guest =
            Box::leak(Box::new(Guest::new(pattern(Shape::Superpage, leaves as usize))?));
        let mut ports = GuestPorts::new(guest);
        let (machine, mut m2p) = {
            let mut observer = ();
            let lent = ports.lend(&mut observer);
            let frames = lent.guest.m2p.frames();
            let pfn = |mfn| lent.guest.m2p.pfn(Mfn(mfn)).map_or(u64::MAX, |pfn| pfn.0);
            (frames, (0..frames).map(|mfn| AtomicU64::new(pfn(mfn))).collect::<Vec<_>>())
        };
        let step = (leaves / CHANGING).max(1);
        let changes: Vec<_> = (0..leaves)
            .step_by(step as usize)
            .map(|leaf| leaf * FRAME_WORDS as u64 + 7)
            .filter(|&pfn| guest.is_plain(pfn))
            .zip(machine..)
            .map(|(pfn, spare)| Change {
                pfn,
                backing_pfn: guest.leaf_pfn(pfn / FRAME_WORDS as u64),
                frames: [guest.entry(pfn), spare],
            })
            .collect();
        m2p.extend(changes.iter().map(|_| AtomicU64::new(u64::MAX)));
        Ok(Self { guest, m2p, changes, log: Mutex::default() })
    }

    /// Leaves that change in a busy round.
    pub(crate) fn changing(&self) -> u64 {
        self.changes.len() as u64
    }

    /// Pages that a round takes: of each change the page, and the page that its leaf is.
    pub(crate) fn expected(&self, round: Round) -> u64 {
        match round {
            Round::Quiet => 0,
            Round::Written => self.written().count() as u64,
            Round::Busy => 2 * self.changing(),
        }
    }

    fn log(&self) -> MutexGuard<'_, PfnBitmap> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ports of the guest.
    pub(crate) fn ports(&self) -> GuestPorts<'static> {
        GuestPorts::new(self.guest)
    }

    /// The m2p.
    pub(crate) fn m2p(&self) -> &[AtomicU64] {
        &self.m2p
    }

    /// Pages that are written.
    fn written(&self) -> impl Iterator<Item = u64> + '_ {
        let pfns = (64..self.guest.pfns()).step_by(FRAME_WORDS);
        pfns.flat_map(|first| first..first + WRITTEN_IN_LEAF)
            .filter(|&pfn| self.guest.is_plain(pfn))
    }

    /// The guest writes pages, and the log has them.
    pub(crate) fn write(&self) {
        let mut log = self.log();
        log.reset(self.guest.pfns().next_multiple_of(32_768));
        for pfn in self.written() {
            log.set(Pfn(pfn));
        }
    }

    /// Each pfn that changes gets its first or its second frame; its page and its leaf's are in the
    /// log.
    pub(crate) fn change(&self, second: bool) {
        let mut log = self.log();
        log.reset(self.guest.pfns().next_multiple_of(32_768));
        for change in &self.changes {
            let (here, away) =
                (change.frames[usize::from(second)], change.frames[usize::from(!second)]);
            let leaf = self.guest.leaf(change.pfn / FRAME_WORDS as u64).expect("a leaf");
            // ORDER: one thread.
            leaf[(change.pfn % FRAME_WORDS as u64) as usize].store(here, Ordering::Relaxed);
            self.m2p[away as usize].store(u64::MAX, Ordering::Relaxed); // ORDER: as above
            self.m2p[here as usize].store(change.pfn, Ordering::Relaxed); // ORDER: as above
            log.set(Pfn(change.pfn));
            log.set(Pfn(change.backing_pfn));
        }
    }

    /// Types as Xen returns them. A frame without a pfn is another domain's.
    pub(crate) fn type_words(&self, mfns: &[u64], words: &mut [u32]) {
        for (word, &mfn) in words.iter_mut().zip(mfns) {
            // ORDER: as in `pfn`
            let pfn = self.m2p.get(mfn as usize).map(|pfn| pfn.load(Ordering::Relaxed));
            let kind = match pfn {
                None | Some(u64::MAX) => FrameType::NotOwned,
                Some(pfn) => match self.guest.table_level(pfn) {
                    Some(level) => FrameType::Table { level, pinned: level == 4 },
                    None => FrameType::Data,
                },
            };
            *word = kind.pfinfo();
        }
    }

    /// CLEAN into words that are zero, as many as there are.
    pub(crate) fn clean(&self, words: &mut [u64]) {
        let mut log = self.log();
        for (to, &word) in words.iter_mut().zip(log.words()) {
            *to = word;
        }
        log.reset(0);
    }
}

impl M2p for &Fixture {
    fn frames(&self) -> u64 {
        self.m2p.len() as u64
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        let pfn = self.m2p.get(mfn.0 as usize)?.load(Ordering::Relaxed); // ORDER: a word by itself
        (pfn != u64::MAX).then_some(Pfn(pfn))
    }
}
