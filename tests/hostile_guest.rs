// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small machine with one guest that lies and, optionally, a host that breaks its contracts: all
//! generated from `Choices`.
//! Not here: its ports (`ports`), one migration of it (`drive`), what must have arrived (`judge`),
//! shapes (`families`).
//! Units: pfns, mfns; a machine of 320 frames; page contents are version numbers.
//! Threads: one a machine; the traits require `Sync`, so the state is behind a mutex and live words
//! are atomics.
//! Source: law 6 of `docs/design.md`; marking as in Xen: through the m2p at the time of the write,
//! owned frames only.

mod drive;
pub mod families;
mod judge;
mod ports;
mod walks;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::leaf::FRAME_WORDS;
use p2mtrack::port::Roots;

pub use drive::{End, drive};
pub use walks::walk;

use self::families::Family;
use crate::choices::Choices;

/// Frames of the machine.
pub const FRAMES: u64 = 320;
/// Frames of other domains: from 0 on.
pub const OTHERS: u64 = 48;
/// The first frame that the domain holds at the start.
pub const OWN: u64 = 64;
/// The number of frames that it holds at the start.
pub const OWN_FRAMES: u64 = 192;
/// Leaves of the p2m at the start; the count of pfns ends inside the last one.
pub const LEAVES: u64 = 4;
/// Frames that each leaf names at the start, from its first slot on.
const LEAF_FRAMES: u64 = OWN_FRAMES / LEAVES;
/// The p2m frames among the domain's frames: four leaves, then the frames above them.
const LOW_TABLES: [u64; 2] = [OWN + 4, OWN + 5];
const HIGH_TABLES: [u64; 3] = [OWN + 6, OWN + 7, OWN + 8];
/// Slot of leaf 0 in the lowest page table: the list crosses into a second one.
const FIRST_SLOT: u64 = 510;
/// Present, writable, user, accessed, dirty.
const PTE_FLAGS: u64 = 0x67;
/// A superpage, if it is above level 1.
const PTE_SUPERPAGE: u64 = 0x80;

/// Who breaks rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hostility {
    /// The guest. The host keeps the contracts of `port`, faults that they allow included.
    Guest,
    /// Both: a port may answer anything.
    Host,
}

/// How the p2m is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A list behind page tables.
    Linear,
    /// A tree.
    Tree,
}

/// How the roots behave when they are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// Unchanged.
    #[default]
    Still,
    /// The generation is another odd number at each read.
    OddForEver,
    /// Other roots at each read.
    Restless,
}

/// How much of its honest state a guest restores before it is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repentance {
    Whole,
    Structure,
    Never,
}

/// What does not change during a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Temper {
    pub(crate) hostility: Hostility,
    pub(crate) width: Width,
    pub(crate) kind: Kind,
    repents: Repentance,
}

/// Something that happens at random: after a random number of chances, never once no choices are
/// left.
#[derive(Clone, Copy, Debug)]
struct Beat {
    /// Chances between two occurrences, on average; 0 = never.
    period: u64,
    left: u64,
}

impl Beat {
    fn new(period: u64, choices: &mut Choices<'_>) -> Self {
        Self { period, left: choices.below(2 * period) }
    }

    fn strikes(&mut self, choices: &mut Choices<'_>) -> bool {
        if self.period == 0 || choices.is_exhausted() {
            return false;
        }
        let strikes = self.left == 0;
        self.left = if strikes { choices.below(2 * self.period) } else { self.left - 1 };
        strikes
    }
}

type Words = [AtomicU64; FRAME_WORDS];

/// The owner of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Domain,
    Other,
    Nobody,
}

/// What Xen knows of a frame, and which version of its contents it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) owner: Owner,
    pub(crate) m2p: Option<u64>,
    pub(crate) kind: FrameType,
    pub(crate) version: u64,
}

/// What the destination has for a pfn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) entry: Entry,
    pub(crate) mfn: u64,
    pub(crate) version: u64,
}

/// Everything that changes.
#[derive(Debug)]
pub(crate) struct State<'c> {
    pub(crate) choices: Choices<'c>,
    /// The guest acts.
    meddles: Beat,
    /// A port fails as its contract allows.
    fails: Beat,
    /// A port breaks its contract; the m2p, which is called most often, has its own beat.
    breaks: Beat,
    lies: Beat,
    /// The size of the machine as the host reported it: once reported, it stays.
    said_frames: Option<u64>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) roots: Roots,
    pub(crate) reading: Reading,
    pub(crate) log_on: bool,
    pub(crate) log: BTreeSet<u64>,
    /// The frame of each slot that was ever returned.
    pub(crate) slots: Vec<Option<u64>>,
    /// The largest count of pfns that was published, and the largest pfn that the m2p ever named.
    farthest: u64,
    /// The limit for counts and pfns that the engine can follow.
    size_limit: u64,
    pub(crate) suspended: bool,
    /// A port refused to switch log-dirty off.
    pub(crate) off_refused: bool,
    pub(crate) received: HashMap<u64, Received>,
    /// Port calls in the engine's current call: those during which the guest may act, and reads
    /// (`live`, `pfn`).
    pub(crate) calls: u64,
    pub(crate) reads: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Machine<'c> {
    pub(crate) temper: Temper,
    words: Vec<OnceLock<Box<Words>>>,
    state: Mutex<State<'c>>,
}

fn order_free(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed) // ORDER: a guest's words promise no more; one thread here
}

/// `cr3` of a root frame: a 32-bit guest folds the upper bits into the low ones.
const fn cr3_of(width: Width, mfn: u64) -> u64 {
    match width {
        Width::W32 => (mfn as u32).rotate_left(12) as u64,
        Width::W64 => mfn << 12,
    }
}

impl<'c> Machine<'c> {
    /// A machine whose guest is honest so far; width, kind and temper are random.
    #[must_use]
    pub fn new(mut choices: Choices<'c>, hostility: Hostility) -> Self {
        let temper = Temper {
            hostility,
            width: choices.pick(&[Width::W64, Width::W32]),
            kind: choices.pick(&[Kind::Linear, Kind::Tree]),
            repents: choices.pick(&[
                Repentance::Whole,
                Repentance::Structure,
                Repentance::Never,
                Repentance::Whole,
            ]),
        };
        Self::with(choices, temper)
    }

    /// The machine for a fuzzer's string: its first choices select who is hostile, and how.
    #[must_use]
    pub fn of_string(bytes: &'c [u8]) -> Self {
        let mut choices = Choices::new(bytes);
        let hostility = choices.pick(&[Hostility::Guest, Hostility::Host]);
        let machine = match Family::ALL.get(choices.below(16) as usize) {
            Some(family) => family.machine(choices, hostility),
            None => Self::new(choices, hostility),
        };
        machine.no_farther_than(1 << 16)
    }

    /// Like [`Machine::new`], with a given width and kind.
    #[must_use]
    pub fn of(choices: Choices<'c>, hostility: Hostility, width: Width, kind: Kind) -> Self {
        let machine = Self::new(choices, hostility);
        let choices = machine.state().choices.clone();
        Self::with(choices, Temper { width, kind, ..machine.temper })
    }

    fn with(mut choices: Choices<'c>, temper: Temper) -> Self {
        let mut beat = |periods: [u64; 4]| {
            let period = choices.pick(&periods);
            Beat::new(period, &mut choices)
        };
        let (meddles, fails) = (beat([0, 64, 16, 4]), beat([0, 0, 128, 32]));
        let (breaks, lies) = match temper.hostility {
            Hostility::Guest => (Beat { period: 0, left: 0 }, Beat { period: 0, left: 0 }),
            Hostility::Host => (beat([64, 16, 4, 256]), beat([1024, 256, 64, 0])),
        };
        let owner = |mfn: u64| match mfn {
            0..OTHERS => Owner::Other,
            OWN.. if mfn < OWN + OWN_FRAMES => Owner::Domain,
            _ => Owner::Nobody,
        };
        let frame = |mfn| Frame { owner: owner(mfn), m2p: None, kind: FrameType::Data, version: 0 };
        let state = State {
            choices,
            meddles,
            fails,
            breaks,
            lies,
            said_frames: None,
            frames: (0..FRAMES).map(frame).collect(),
            roots: Roots::default(),
            reading: Reading::default(),
            log_on: false,
            log: BTreeSet::new(),
            slots: Vec::new(),
            farthest: 0,
            size_limit: u64::MAX,
            suspended: false,
            off_refused: false,
            received: HashMap::new(),
            calls: 0,
            reads: 0,
        };
        let words = (0..FRAMES).map(|_| OnceLock::new()).collect();
        let machine = Self { temper, words, state: Mutex::new(state) };
        machine.build();
        machine
    }

    /// Sets up an honest guest.
    fn build(&self) {
        let st = &mut *self.state();
        for mfn in OWN..OWN + OWN_FRAMES {
            st.frames[mfn as usize].m2p = Some(self.home(mfn));
        }
        let narrow = self.temper.width == Width::W32;
        for leaf in OWN..OWN + LEAVES {
            self.fill(leaf, u64::MAX);
        }
        for mfn in LOW_TABLES.into_iter().chain(HIGH_TABLES) {
            self.fill(mfn, if self.temper.kind == Kind::Tree { u64::MAX } else { 0 });
        }
        for mfn in OWN..OWN + OWN_FRAMES {
            let (leaf, slot) = ((mfn - OWN) / LEAF_FRAMES, (mfn - OWN) % LEAF_FRAMES);
            self.put(OWN + leaf, slot, narrow, mfn);
        }
        for (mfn, slot, word) in self.upper_slots() {
            self.put(mfn, slot, narrow && self.temper.kind == Kind::Tree, word);
        }
        if self.temper.kind == Kind::Linear {
            for (mfn, level) in LOW_TABLES.into_iter().chain(HIGH_TABLES).zip([1_u8, 1, 2, 3, 4]) {
                if u32::from(level) <= self.levels() {
                    let kind = FrameType::Table { level, pinned: level == 4 };
                    st.frames[mfn as usize].kind = kind;
                }
            }
        }
        st.roots = self.home_roots();
    }

    /// Levels above the leaves.
    pub(crate) const fn levels(&self) -> u32 {
        match (self.temper.kind, self.temper.width) {
            (Kind::Tree, _) => 2,
            (Kind::Linear, Width::W32) => 3,
            (Kind::Linear, Width::W64) => 4,
        }
    }

    /// The start of the list: two pages before the end of what its first page table maps.
    const fn vaddr(&self) -> u64 {
        match self.temper.width {
            Width::W64 => 0xffff_c900_003f_e000,
            Width::W32 => 0xf03f_e000,
        }
    }

    /// The roots of the honest guest.
    pub(crate) fn home_roots(&self) -> Roots {
        let entries = self.temper.width.entries() as u64;
        let roots = Roots { pfn_count: (LEAVES - 1) * entries + 80, ..Roots::default() };
        match self.temper.kind {
            Kind::Tree => Roots { frame_list_list: HIGH_TABLES[0], ..roots },
            Kind::Linear => {
                let root = HIGH_TABLES[self.levels() as usize - 2];
                let p2m_cr3 = cr3_of(self.temper.width, root);
                Roots { p2m_cr3, p2m_vaddr: self.vaddr(), generation: 4, ..roots }
            }
        }
    }

    /// The slots above the leaves as the honest guest writes them.
    fn upper_slots(&self) -> Vec<(u64, u64, u64)> {
        let leaves = (0..LEAVES).map(|position| (position, OWN + position));
        if self.temper.kind == Kind::Tree {
            let mid = LOW_TABLES[0];
            let slots = leaves.map(|(position, leaf)| (mid, position, leaf));
            return slots.chain([(HIGH_TABLES[0], 0, mid)]).collect();
        }
        let pte = |mfn: u64| mfn << 12 | PTE_FLAGS;
        let mut slots: Vec<_> = leaves
            .map(|(position, leaf)| {
                let slot = FIRST_SLOT + position;
                (LOW_TABLES[slot as usize / FRAME_WORDS], slot % 512, pte(leaf))
            })
            .collect();
        let page = self.vaddr() >> 12;
        for (table, below) in [0, 1].into_iter().zip(LOW_TABLES) {
            slots.push((HIGH_TABLES[0], (page >> 9 & 511) + table, pte(below)));
        }
        for level in 3..=self.levels() {
            let (table, below) = (HIGH_TABLES[level as usize - 2], HIGH_TABLES[level as usize - 3]);
            slots.push((table, page >> (9 * (level - 1)) & 511, pte(below)));
        }
        slots
    }

    /// The pfn of one of the domain's first frames in the honest guest.
    pub(crate) fn home(&self, mfn: u64) -> u64 {
        let index = mfn - OWN;
        index / LEAF_FRAMES * self.temper.width.entries() as u64 + index % LEAF_FRAMES
    }

    /// Poisoning does not matter: after a panic in another call the case is over.
    pub(crate) fn state(&self) -> MutexGuard<'_, State<'c>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The largest pfn that roots or m2p ever named: it bounds the memory that a host may need.
    #[must_use]
    pub fn farthest_pfn(&self) -> u64 {
        self.state().farthest
    }

    /// Frames whose words were ever read or written: the p2m, its leaves or a table can only be
    /// made of these.
    #[must_use]
    pub fn frames_touched(&self) -> u64 {
        self.words.iter().filter(|words| words.get().is_some()).count() as u64
    }

    // --- words ---------------------------------------------------------------------------------

    /// The words of a frame of the machine; zeros until they are written.
    pub(crate) fn words(&self, mfn: u64) -> &Words {
        self.words[mfn as usize]
            .get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))))
    }

    fn fill(&self, mfn: u64, word: u64) {
        for slot in 0..FRAME_WORDS as u64 {
            self.put(mfn, slot, false, word);
        }
    }

    /// Writes a word, or one of its halves, without a mark.
    fn put(&self, mfn: u64, slot: u64, narrow: bool, word: u64) {
        let slot = slot as usize;
        let relaxed = Ordering::Relaxed; // ORDER: as in `order_free`
        if narrow {
            let (at, shift) = (&self.words(mfn)[slot / 2 % FRAME_WORDS], 32 * (slot % 2));
            let kept = order_free(at) & !(0xffff_ffff << shift);
            at.store(kept | (word & 0xffff_ffff) << shift, relaxed);
        } else {
            self.words(mfn)[slot % FRAME_WORDS].store(word, relaxed);
        }
    }

    /// Reads a word, or one of its halves.
    pub(crate) fn get(&self, mfn: u64, slot: u64, narrow: bool) -> u64 {
        let slot = slot as usize;
        if narrow {
            order_free(&self.words(mfn)[slot / 2 % FRAME_WORDS]) >> (32 * (slot % 2)) & 0xffff_ffff
        } else {
            order_free(&self.words(mfn)[slot % FRAME_WORDS])
        }
    }

    /// Whether slots of a frame above the leaves are halves of words.
    fn narrow_upper(&self) -> bool {
        self.temper.kind == Kind::Tree && self.temper.width == Width::W32
    }

    /// The guest writes one of its frames.
    fn poke(&self, st: &mut State<'_>, mfn: u64, slot: u64, narrow: bool, word: u64) {
        if st.owns(mfn) && self.get(mfn, slot, narrow) != word {
            self.put(mfn, slot, narrow, word);
            st.touch(mfn);
        }
    }

    // --- the guest -----------------------------------------------------------------------------

    /// What the guest may do while a port is called.
    pub(crate) fn meddle(&self, st: &mut State<'_>) {
        // A host that breaks its contracts lets a suspended guest run.
        if st.suspended && self.temper.hostility == Hostility::Guest {
            return;
        }
        if st.meddles.strikes(&mut st.choices) {
            self.act(st);
        }
    }

    /// One action of a guest; the first ones are honest.
    pub(crate) fn act(&self, st: &mut State<'_>) {
        match st.choices.below(12) {
            0 => {
                let mfn = st.some_own();
                st.touch(mfn);
            }
            1 => self.exchange(st),
            2 => self.balloon_out(st),
            3 => self.balloon_in(st),
            4 => self.move_leaf(st),
            5 => st.roots = self.home_roots(),
            6 => st.roots.generation = st.roots.generation.wrapping_add(st.choices.below(3)),
            7 => {
                let pfn = self.some_pfn(st);
                let word = self.some_word(st, OWN);
                self.set_entry(st, pfn, word);
            }
            8 => {
                let (mfn, pfn) = (st.some_own(), self.some_pfn(st));
                st.machphys(mfn, Some(pfn));
            }
            9 => {
                let mfn = st.some_own();
                let level = st.choices.below(6) as u8;
                st.frames[mfn as usize].kind = match level {
                    0 | 5 => FrameType::Data,
                    level => FrameType::Table { level, pinned: st.choices.once_in(2) },
                };
            }
            10 => self.twist_slot(st),
            _ => self.twist_roots(st),
        }
    }

    /// Two pfns exchange their frames, as an honest guest does it.
    fn exchange(&self, st: &mut State<'_>) {
        let (a, b) = (st.some_own(), st.some_own());
        let (Some(p), Some(q)) = (st.frames[a as usize].m2p, st.frames[b as usize].m2p) else {
            return;
        };
        self.set_entry(st, p, b);
        self.set_entry(st, q, a);
        st.machphys(a, Some(q));
        st.machphys(b, Some(p));
    }

    fn balloon_out(&self, st: &mut State<'_>) {
        let mfn = st.some_own();
        if let Some(pfn) = st.frames[mfn as usize].m2p {
            self.set_entry(st, pfn, u64::MAX);
        }
        st.release(mfn);
    }

    fn balloon_in(&self, st: &mut State<'_>) {
        let free: Vec<_> =
            (0..FRAMES).filter(|&mfn| st.frames[mfn as usize].owner == Owner::Nobody).collect();
        if free.is_empty() {
            return;
        }
        let (mfn, pfn) = (st.choices.pick(&free), self.some_pfn(st));
        st.populate(mfn, pfn);
        self.set_entry(st, pfn, mfn);
        st.touch(mfn);
    }

    /// A leaf is copied to another frame of the guest, and the two frames swap pfns.
    fn move_leaf(&self, st: &mut State<'_>) {
        let position = st.choices.below(LEAVES);
        let (old, new) = (self.leaf_of(st, position), st.some_own());
        let Some(old) = old else { return };
        st.roots.generation = st.roots.generation.wrapping_add(1);
        for slot in 0..FRAME_WORDS as u64 {
            let word = self.get(old, slot, false);
            self.poke(st, new, slot, false, word);
        }
        self.point(st, position, new);
        let (Some(p), Some(q)) = (st.frames[old as usize].m2p, st.frames[new as usize].m2p) else {
            return;
        };
        self.set_entry(st, p, new);
        self.set_entry(st, q, old);
        st.machphys(new, Some(p));
        st.machphys(old, Some(q));
        st.roots.generation = st.roots.generation.wrapping_add(1);
    }

    /// Writes an entry through the leaf at that position, whatever it is.
    fn set_entry(&self, st: &mut State<'_>, pfn: u64, word: u64) {
        let width = self.temper.width;
        if let Some(leaf) = self.leaf_of(st, width.leaf_of(Pfn(pfn)).0) {
            self.poke(st, leaf, width.slot_of(Pfn(pfn)) as u64, width == Width::W32, word);
        }
    }

    /// Points a position of the honest structure at a frame.
    pub(crate) fn point(&self, st: &mut State<'_>, position: u64, mfn: u64) {
        let (table, slot, word) = match self.temper.kind {
            Kind::Tree => (LOW_TABLES[0], position, mfn),
            Kind::Linear => {
                let slot = FIRST_SLOT + position;
                let table = LOW_TABLES[(slot as usize / FRAME_WORDS).min(1)];
                (table, slot % 512, mfn << 12 | PTE_FLAGS)
            }
        };
        self.poke(st, table, slot, self.narrow_upper(), word);
    }

    /// Any slot of any p2m frame gets an interesting word.
    fn twist_slot(&self, st: &mut State<'_>) {
        let table = OWN + st.choices.below(9);
        let slot = match st.choices.below(4) {
            0 => st.choices.below(8),
            1 => FIRST_SLOT + st.choices.below(2),
            2 => self.vaddr() >> (12 + 9 * st.choices.below(4)) & 511,
            _ => st.choices.below(1024),
        };
        let word = self.some_word(st, table);
        let narrow = self.temper.width == Width::W32 && st.choices.once_in(2);
        self.poke(st, table, slot, narrow, word);
    }

    fn twist_roots(&self, st: &mut State<'_>) {
        match st.choices.below(6) {
            0 => st.roots.pfn_count = self.some_count(st),
            1 => st.roots.generation = st.choices.pick(&[1, 0, u64::MAX, u64::MAX - 1, 7]),
            2 => st.roots.frame_list_list = self.some_word(st, HIGH_TABLES[0]),
            3 => {
                let mfn = self.some_word(st, HIGH_TABLES[1]);
                st.roots.p2m_cr3 = cr3_of(self.temper.width, mfn);
            }
            4 => {
                let vaddr = self.vaddr();
                let pages = [1, 2, 512, 1 << 18, 1 << 35];
                st.roots.p2m_vaddr = vaddr.wrapping_add(st.choices.pick(&pages) << 12);
            }
            _ => st.roots.p2m_vaddr = st.choices.word(),
        }
    }

    /// Before a guest is suspended.
    pub(crate) fn repent(&self, st: &mut State<'_>) {
        if self.temper.repents == Repentance::Never {
            return;
        }
        st.roots = Roots { generation: st.roots.generation & !1, ..self.home_roots() };
        if st.reading == Reading::Restless {
            st.reading = Reading::Still;
        }
        let structure = OWN..OWN + 9;
        let whole = self.temper.repents == Repentance::Whole;
        let frames = if whole { OWN..OWN + OWN_FRAMES } else { structure };
        for mfn in frames.clone() {
            if st.frames[mfn as usize].owner == Owner::Nobody {
                st.populate(mfn, self.home(mfn));
                st.touch(mfn);
            }
            st.machphys(mfn, Some(self.home(mfn)));
        }
        let honest = Machine::with(Choices::new(&[]), self.temper);
        let leaves = if whole { OWN..OWN + 9 } else { LOW_TABLES[0]..OWN + 9 };
        for mfn in leaves {
            st.frames[mfn as usize].kind = honest.state().frames[mfn as usize].kind;
            for slot in 0..FRAME_WORDS as u64 {
                self.poke(st, mfn, slot, false, honest.get(mfn, slot, false));
            }
        }
        for mfn in frames {
            self.set_entry(st, self.home(mfn), mfn);
            if whole && mfn >= OWN + 9 {
                st.frames[mfn as usize].kind = FrameType::Data;
            }
        }
    }

    // --- interesting numbers -------------------------------------------------------------------

    fn some_pfn(&self, st: &mut State<'_>) -> u64 {
        let entries = self.temper.width.entries() as u64;
        match st.choices.below(16) {
            14 => st.choices.below(LEAVES * entries),
            15 => st.choices.pick(&[1 << 20, (1 << 27) - 1, 1 << 31, 1 << 40, u64::MAX]),
            _ => st.choices.below(LEAVES) * entries + st.choices.below(64),
        }
    }

    /// A count of pfns. The large ones are rare: a bitmap of 2^27 pfns takes milliseconds.
    pub(crate) fn some_count(&self, st: &mut State<'_>) -> u64 {
        let entries = self.temper.width.entries() as u64;
        let home = self.home_roots().pfn_count;
        match st.choices.below(32) {
            0..=15 => home + st.choices.below(2 * entries) - entries,
            16..=23 => st.choices.below(LEAVES) * entries,
            24..=30 => st.choices.below(1 << 16),
            _ => st.choices.pick(&[0, 1 << 63, u64::MAX, u64::from(u32::MAX), 1 << 27, 1 << 35]),
        }
    }

    /// A word for a slot or an entry of the frame `at`.
    pub(crate) fn some_word(&self, st: &mut State<'_>, at: u64) -> u64 {
        let width = self.temper.width;
        let pte = |mfn: u64| mfn << 12 | PTE_FLAGS;
        let outside = [FRAMES, FRAMES + 1, 1 << 20, 1 << 28, (1 << 40) - 1, 1 << 61];
        match st.choices.below(16) {
            0 => u64::MAX,
            1 => 0,
            2 => st.some_own(),
            3 => pte(st.some_own()),
            4 => at,
            5 => pte(at),
            6 => OWN + st.choices.below(9),
            7 => pte(OWN + st.choices.below(9)),
            8 => st.choices.below(OTHERS),
            9 => pte(st.choices.below(OTHERS)),
            10 => st.choices.pick(&outside),
            11 => pte(st.choices.pick(&outside)),
            12 => Entry::foreign(width, Mfn(st.choices.below(FRAMES))).0,
            13 => Entry::identity(width, Pfn(st.choices.below(FRAMES))).0,
            14 => pte(st.some_own()) | PTE_SUPERPAGE,
            _ => st.choices.word(),
        }
    }
}

impl State<'_> {
    pub(crate) fn owns(&self, mfn: u64) -> bool {
        self.frames.get(mfn as usize).is_some_and(|frame| frame.owner == Owner::Domain)
    }

    fn cut(&self, pfns: u64) -> u64 {
        if (self.size_limit..1 << 40).contains(&pfns) { self.size_limit } else { pfns }
    }

    fn some_own(&mut self) -> u64 {
        OWN + self.choices.below(OWN_FRAMES)
    }

    fn mark(&mut self, mfn: u64) {
        if let (true, true, Some(pfn)) =
            (self.log_on, self.owns(mfn), self.frames[mfn as usize].m2p)
        {
            self.log.insert(pfn);
        }
    }

    /// The guest writes a page.
    fn touch(&mut self, mfn: u64) {
        if self.owns(mfn) {
            self.frames[mfn as usize].version += 1;
            self.mark(mfn);
        }
    }

    /// `MMU_MACHPHYS_UPDATE`: sets the m2p of an owned frame and marks the new pfn.
    fn machphys(&mut self, mfn: u64, pfn: Option<u64>) {
        let pfn = pfn.map(|pfn| self.cut(pfn));
        if self.owns(mfn) && self.frames[mfn as usize].m2p != pfn {
            self.farthest = self.farthest.max(pfn.unwrap_or(0));
            self.frames[mfn as usize].m2p = pfn;
            self.mark(mfn);
        }
    }

    fn release(&mut self, mfn: u64) {
        if self.owns(mfn) {
            let frame = &mut self.frames[mfn as usize];
            *frame = Frame { owner: Owner::Nobody, m2p: None, kind: FrameType::Data, ..*frame };
        }
    }

    /// A new frame from Xen: nothing is marked.
    fn populate(&mut self, mfn: u64, pfn: u64) {
        let pfn = self.cut(pfn);
        self.farthest = self.farthest.max(pfn);
        let frame = &mut self.frames[mfn as usize];
        *frame = Frame { owner: Owner::Domain, m2p: Some(pfn), ..*frame };
    }

    /// Whether the domain's frame is a page table.
    pub(crate) fn kind(&self, mfn: u64) -> FrameType {
        match self.frames.get(mfn as usize) {
            Some(frame) if frame.owner == Owner::Domain => frame.kind,
            _ => FrameType::NotOwned,
        }
    }
}
