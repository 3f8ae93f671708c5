// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scenario of all `diff.*` figures: live leaves are compared with the shadow, differences
//! OR-ed into the resend bitmap; for comparison `memcmp` over two full copies, our portable
//! kernels, and reading.
//! Not here: which p2m, which leaves, which goal (`figures`).
//! Units: a pass compares all listed leaves, several times if they are few; it finds changed pfns.
//! Threads: a pool; every side cuts the list in the same way.
//! Source: the engine's order of work: `engine/tracker/src/compare/leaf.rs`.

use std::hint::black_box;
use std::sync::Mutex;

use p2mtrack::cause::Cause;
use p2mtrack::diff::Kernel;
use p2mtrack::frame::{FRAME_BYTES, LeafIndex, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::resend::{ResendBitmap, ResendShard};
use p2mtrack::shadow::{Forms, Shadow, ShadowBytes};

use crate::ab_run::{AbRun, Side, Times, WallClock};
use crate::figure::{Figure, Rate, Unit};
use crate::p2m::{LiveP2m, Planted};
use crate::peer::memcmp;
use crate::pool::Pool;
use crate::setup::Setup;

/// The guest's width: large guests are 64-bit.
const WIDTH: Width = Width::W64;

/// Our side.
pub const OURS: &str = "p2mtrack";
/// `memcmp`, leaf by leaf: it finds which leaf differs.
pub const MEMCMP: &str = "memcmp";
/// `memcmp` of all leaves of a thread at once: it finds only whether anything differs.
pub const MEMCMP_WHOLE: &str = "memcmp-whole";
/// Reading: without and with a prefetch of the next leaf.
pub const READ: [&str; 2] = ["read", "read-ahead"];

/// A p2m with its shadow, and how it is compared.
#[derive(Debug)]
pub struct Diff<'a> {
    /// The p2m. The shadow has the contents of its copy.
    pub p2m: &'a LiveP2m,
    pool: &'a Pool,
    kernel: Kernel,
    shadow: Shadow,
    /// Locked for a pass, not by its threads.
    resend: Mutex<ResendBitmap>,
    repeats: usize,
}

/// The first pfn of a leaf.
fn first_pfn(leaf: u32) -> u64 {
    WIDTH.first_pfn(LeafIndex(u64::from(leaf))).0
}

impl<'a> Diff<'a> {
    /// Installs the copies of the listed leaves in a shadow. A pass compares each `repeats` times.
    #[must_use]
    pub fn new(
        p2m: &'a LiveP2m,
        pool: &'a Pool,
        kernel: Kernel,
        forms: Forms,
        repeats: usize,
    ) -> Self {
        let leaves = p2m.leaves() as u64;
        let mut shadow = Shadow::with_forms(WIDTH, forms);
        shadow.resize(leaves);
        let mut leaf = Leaf::default();
        for &index in p2m.listed() {
            GuestLeaf::from_atomics(p2m.copy(index)).fetch(&mut leaf);
            shadow.install(LeafIndex(u64::from(index)), &leaf);
        }
        let resend = Mutex::new(ResendBitmap::new(leaves * WIDTH.entries() as u64));
        Self { p2m, pool, kernel, shadow, resend, repeats }
    }

    /// The same for a p2m that is compared from end to end.
    #[must_use]
    pub fn whole(setup: &'a Setup, p2m: &'a LiveP2m, forms: Forms) -> Self {
        Self::new(p2m, &setup.pool, setup.kernel, forms, setup.repeats(p2m.leaves()))
    }

    /// Uses another pool.
    pub fn staff(&mut self, pool: &'a Pool) {
        self.pool = pool;
    }

    /// What the shadow holds.
    #[must_use]
    pub fn held(&self) -> ShadowBytes {
        self.shadow.bytes()
    }

    /// The sum of what all threads find in all repeats of a pass.
    fn pass(&self, work: impl Fn(&[u32]) -> u64 + Sync) -> u64 {
        self.pool.sum(self.p2m.listed(), |piece| {
            // The compiler may not reuse the result of the first repeat for a later one.
            (0..self.repeats).map(|_| work(black_box(piece))).fold(0, u64::wrapping_add)
        })
    }

    /// Our pass: changed pfns.
    ///
    /// # Panics
    /// If an earlier pass panicked.
    pub fn compare(&self, kernel: Kernel) -> u64 {
        let mut resend = self.resend.lock().expect("no pass failed");
        let first = |piece: &[u32]| piece.first().map(|&leaf| first_pfn(leaf));
        let firsts: Vec<_> = self.pool.pieces(self.p2m.listed()).filter_map(first).collect();
        let shards: Vec<_> = resend.shards_mut(firsts.iter().copied()).map(Mutex::new).collect();
        self.pass(|piece| {
            let Some(&leaf) = piece.first() else { return 0 };
            let shard = firsts.partition_point(|&first| first < first_pfn(leaf));
            let mut shard = shards[shard].lock().expect("its own thread has it");
            self.compare_piece(kernel, piece, &mut shard)
        })
    }

    fn compare_piece(&self, kernel: Kernel, piece: &[u32], resend: &mut ResendShard<'_>) -> u64 {
        let mut changed = 0;
        for (leaf, live, ahead) in self.p2m.walk(piece) {
            let mask = self.shadow.diff_live(kernel, leaf, live, ahead);
            if !mask.is_empty() {
                changed += u64::from(mask.count());
                resend.mark_leaf(WIDTH, leaf, &mask, Cause::Entry);
            }
        }
        changed
    }

    /// Our pass, with the kernel that is measured.
    #[must_use]
    pub fn compare_again(&self) -> u64 {
        self.compare(self.kernel)
    }

    /// What a pass finds if each repeat finds so much.
    #[must_use]
    pub const fn in_a_pass(&self, found: u64) -> u64 {
        found * self.repeats as u64
    }

    /// `memcmp`: leaves with a change.
    fn memcmp(&self) -> u64 {
        let one = std::slice::from_ref;
        self.pass(|piece| {
            let differ = |&&i: &&u32| memcmp::differ(one(self.p2m.live(i)), one(self.p2m.copy(i)));
            piece.iter().filter(differ).count() as u64
        })
    }

    /// `memcmp`: threads whose piece has a change.
    fn memcmp_whole(&self) -> u64 {
        self.pass(|piece| {
            let (live, copy) = self.p2m.between(piece);
            u64::from(memcmp::differ(live, copy))
        })
    }

    /// All sides, for a p2m with these changes. `memcmp-whole` needs a p2m that is listed whole and
    /// has no changes: else its result depends on how the threads cut the list.
    #[must_use]
    pub fn ab_run(&self, there: Planted) -> AbRun<'_> {
        let Planted { pfns, leaves } = there;
        let (repeats, kernel) = (self.repeats as u64, self.kernel);
        let checksum = self.p2m.checksum().wrapping_mul(repeats);
        let read = |ahead| move || self.pass(|piece| self.p2m.read(piece, ahead));
        // The side at either end runs twice in a row and may find data in a cache. It is reading,
        // so that this only makes the floor harder to reach.
        let mut ab_run = AbRun::default()
            .side(READ[0], checksum, read(false))
            .side(OURS, pfns * repeats, move || self.compare(kernel))
            .side(MEMCMP, leaves * repeats, || self.memcmp());
        if self.p2m.is_whole() && pfns == 0 {
            ab_run = ab_run.side(MEMCMP_WHOLE, 0, || self.memcmp_whole());
        }
        for other in [Kernel::SCALAR, Kernel::WIDE].into_iter().filter(|&other| other != kernel) {
            ab_run = ab_run.side(other.name(), pfns * repeats, move || self.compare(other));
        }
        ab_run.side(READ[1], checksum, read(true))
    }

    /// Checks that every side finds planted changes, and that they are owed then.
    ///
    /// # Panics
    /// If a side does not.
    pub fn prove(&self) {
        let planted = self.p2m.plant();
        self.ab_run(planted).sides().iter().for_each(Side::run);
        let owed = self.resend.lock().expect("no pass failed").count();
        assert_eq!(owed, planted.pfns, "changes are owed");
        self.p2m.plant();
    }

    /// Checks that the sides work, and measures them on the unchanged p2m.
    ///
    /// # Panics
    /// If a side has a wrong result.
    #[must_use]
    pub fn measure(&self, name: &str, detail: &str) -> Figure {
        self.prove();
        let times = self.ab_run(Planted::default()).run(&WallClock::default());
        self.figure(name, &times, detail)
    }

    /// Bytes that must be read for one comparison of all listed leaves: the live leaves and their
    /// forms; of forms in runs only the heads.
    fn needed_bytes(&self) -> f64 {
        let held = self.held();
        let listed = self.p2m.listed().len() as u64;
        let blocks = held.packed * FRAME_BYTES as u64 / 2 + held.raw * FRAME_BYTES as u64;
        (listed * (FRAME_BYTES + size_of::<u64>()) as u64 + blocks) as f64
    }

    /// The figure of an A/B run: the speed relative to the faster `memcmp`, and the share of the
    /// floor.
    fn figure(&self, name: &str, times: &Times, detail: &str) -> Figure {
        let whole = self.p2m.is_whole();
        let memcmp = if whole { &[MEMCMP, MEMCMP_WHOLE][..] } else { &[MEMCMP] };
        let value = times.speed(OURS, times.fastest(memcmp));
        let read = times.fastest(&READ);
        let live = (self.p2m.listed().len() * FRAME_BYTES) as f64;
        let repeats = self.repeats as f64;
        let leaves = self.p2m.listed().len() as f64;
        let (read_seconds, seconds) = (times.seconds(read), times.seconds(OURS));
        let mut peers = times.against_all(OURS);
        peers.retain(|(peer, _)| !READ.contains(&peer.as_str()));
        let detail = format!("{detail}; {}", self.p2m.pages_in_words());
        Figure {
            floor: Some(times.speed(OURS, read) * self.needed_bytes() / live),
            kernel: Some(self.kernel),
            threads: self.pool.threads(),
            peers,
            rate: Some(Rate {
                leaves: leaves * repeats / seconds,
                bytes: self.needed_bytes() / leaves,
                bandwidth: live * repeats / read_seconds,
            }),
            ..Figure::new(name, value, Unit::Times, detail)
        }
    }
}
