// SPDX-License-Identifier: MIT OR Apache-2.0
//! Named kinds of hostility, each a family of machines, made by construction and not at random.
//! Not here: what a guest does at random (`hostile_guest`).
//! Units: pfns, mfns.
//! Threads: one a machine.
//! Source: law 6 of `docs/design.md`, `docs/decisions/0001`.

use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};

use super::{
    FIRST_SLOT, FRAMES, HIGH_TABLES, Hostility, Kind, LEAVES, LOW_TABLES, Machine, OTHERS, OWN,
    PTE_FLAGS, Reading, State, cr3_of,
};
use crate::choices::Choices;

/// A kind of hostility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Top, mid and leaf are one frame, or lead back to each other.
    Cycles,
    /// One leaf at every position.
    Aliases,
    /// 2^63 pfns, 2^64 - 1, 2^32 - 1 in a 32-bit guest, and their neighbours.
    Counts,
    /// Roots, slots and entries name frames that the machine does not have.
    Outside,
    /// The generation is odd at every read.
    OddForEver,
    /// The roots differ at every read.
    RestlessRoots,
    /// Leaves that are page tables that are leaves.
    LeavesAsTables,
    /// Roots, slots and entries name frames of other domains.
    OtherDomains,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 8] = [
        Self::Cycles,
        Self::Aliases,
        Self::Counts,
        Self::Outside,
        Self::OddForEver,
        Self::RestlessRoots,
        Self::LeavesAsTables,
        Self::OtherDomains,
    ];

    /// A machine of this kind.
    #[must_use]
    pub fn machine<'c>(self, mut choices: Choices<'c>, hostility: Hostility) -> Machine<'c> {
        let width = choices.pick(&[Width::W64, Width::W32]);
        let kind = match self {
            Self::OddForEver => Kind::Linear, // a tree has no generation
            _ => choices.pick(&[Kind::Tree, Kind::Linear]),
        };
        let mut machine = Machine::of(choices, hostility, width, kind);
        machine.temper.repents = match self {
            Self::OddForEver | Self::RestlessRoots => machine.temper.repents,
            _ => super::Repentance::Never,
        };
        {
            let st = &mut *machine.state();
            match self {
                Self::Cycles => machine.cycle(st),
                Self::Aliases => machine.alias(st),
                Self::Counts => machine.count(st),
                Self::Outside => machine.name_frames(st, &[FRAMES, FRAMES + 7, 1 << 27, 1 << 39]),
                Self::OddForEver => st.reading = Reading::OddForEver,
                Self::RestlessRoots => st.reading = Reading::Restless,
                Self::LeavesAsTables => machine.tables_as_leaves(st),
                Self::OtherDomains => machine.name_frames(st, &[0, 1, 7, OTHERS - 1]),
            }
        }
        machine
    }
}

impl Machine<'_> {
    /// A 64-bit guest whose tree lists one leaf without frames up to the end of 2^27 pfns, where
    /// another leaf names a frame. Before it is suspended its p2m becomes short again.
    #[must_use]
    pub fn with_a_long_tail() -> Self {
        let machine = Machine::of(Choices::new(&[]), Hostility::Guest, Width::W64, Kind::Tree);
        {
            let st = &mut *machine.state();
            let [shared, last] = [OWN + 9, OWN + 10];
            let [mid, last_mid] = [LOW_TABLES[1], HIGH_TABLES[1]];
            for slot in 0..512 {
                let identity = Entry::identity(Width::W64, Pfn(slot)).0;
                machine.poke(st, shared, slot, false, identity);
                machine.poke(st, last, slot, false, u64::MAX);
                machine.poke(st, mid, slot, false, shared);
                machine.poke(st, last_mid, slot, false, shared);
                if slot > 0 {
                    machine.poke(st, HIGH_TABLES[0], slot, false, mid);
                }
            }
            machine.poke(st, last, 511, false, OWN + 20);
            machine.poke(st, last_mid, 511, false, last);
            machine.poke(st, HIGH_TABLES[0], 511, false, last_mid);
            st.roots.pfn_count = 1 << 27;
        }
        machine
    }

    fn slot_word(&self, mfn: u64) -> u64 {
        if self.temper.kind == Kind::Tree { mfn } else { mfn << 12 | PTE_FLAGS }
    }

    fn slots(&self) -> u64 {
        if self.narrow_upper() { 1024 } else { 512 }
    }

    /// Fills all, or the first few, slots of a frame above the leaves.
    fn fill_slots(&self, st: &mut State<'_>, table: u64, mfn: u64) {
        let slots = if st.choices.once_in(4) { 3 } else { self.slots() };
        for slot in 0..slots {
            self.poke(st, table, slot, self.narrow_upper(), self.slot_word(mfn));
        }
    }

    /// A count for which a walk repeats frames: once in `rarity` times all that the structure can
    /// hold, which takes milliseconds.
    fn long_count(&self, st: &mut State<'_>, rarity: u64) -> u64 {
        let entries = self.temper.width.entries() as u64;
        match st.choices.below(rarity) {
            last if last == rarity - 1 && self.temper.kind == Kind::Linear => 1 << 35,
            last if last >= rarity - 2 => 1 << 27,
            choice if choice % 64 >= 50 => 513 * entries,
            choice => 1 + choice % 64 * entries,
        }
    }

    fn cycle(&self, st: &mut State<'_>) {
        st.roots.pfn_count = self.long_count(st, 64);
        let levels = self.levels() as u64;
        let ring = 1 + st.choices.below(levels + 1);
        // The frames of the ring refer to one another; a single frame is top, mid and leaf at once.
        for at in 0..ring {
            self.fill_slots(st, HIGH_TABLES[0] + at, HIGH_TABLES[0] + (at + 1) % ring);
        }
        st.roots.frame_list_list = HIGH_TABLES[0];
        if self.temper.kind == Kind::Linear {
            st.roots.p2m_cr3 = cr3_of(self.temper.width, HIGH_TABLES[0]);
        }
    }

    fn alias(&self, st: &mut State<'_>) {
        let narrow = self.temper.width == Width::W32;
        let leaf = OWN + st.choices.below(LEAVES);
        if st.choices.once_in(2) {
            let word = st.choices.pick(&[
                u64::MAX,
                Entry::identity(self.temper.width, Pfn(3)).0,
                FRAMES + 1,
            ]);
            for slot in 0..self.temper.width.entries() as u64 {
                self.poke(st, leaf, slot, narrow, word);
            }
        }
        st.roots.pfn_count = self.long_count(st, 256);
        let first = if self.temper.kind == Kind::Linear { FIRST_SLOT } else { 0 };
        let kept = st.choices.below(LEAVES + 1); // positions that keep their own leaf
        for slot in first + kept..first + 512 {
            let table = if self.temper.kind == Kind::Tree || slot < 512 { 0 } else { 1 };
            let word = self.slot_word(leaf);
            self.poke(st, LOW_TABLES[table], slot % 512, self.narrow_upper(), word);
        }
        let mid = LOW_TABLES[if self.temper.kind == Kind::Tree { 0 } else { 1 }];
        for slot in 2..self.slots() {
            self.poke(st, HIGH_TABLES[0], slot, self.narrow_upper(), self.slot_word(mid));
        }
    }

    fn count(&self, st: &mut State<'_>) {
        let around =
            [1 << 63, u64::MAX, u64::from(u32::MAX), (1 << 63) - 1, (1 << 63) + 1, 1 << 36];
        let count = st.choices.pick(&around);
        st.roots.pfn_count = match self.temper.width {
            Width::W32 => count.min(u64::from(u32::MAX)),
            Width::W64 => count,
        };
    }

    /// Some of roots, slots and entries name these frames.
    fn name_frames(&self, st: &mut State<'_>, frames: &[u64]) {
        let narrow = self.temper.width == Width::W32;
        let entries = self.temper.width.entries() as u64;
        for _ in 0..1 + st.choices.below(8) {
            let mfn = st.choices.pick(frames);
            match st.choices.below(8) {
                0 => st.roots.frame_list_list = mfn,
                1 => st.roots.p2m_cr3 = cr3_of(self.temper.width, mfn),
                2 => {
                    let position = st.choices.below(LEAVES);
                    self.point(st, position, mfn);
                }
                3 => {
                    let table = OWN + 4 + st.choices.below(5);
                    let slot = st.choices.below(self.slots());
                    self.poke(st, table, slot, self.narrow_upper(), self.slot_word(mfn));
                }
                4 => {
                    let tagged = Entry::foreign(self.temper.width, Mfn(mfn)).0;
                    let slot = st.choices.below(64);
                    self.poke(st, OWN, slot, narrow, tagged);
                }
                _ => {
                    let (leaf, slot) = (OWN + st.choices.below(LEAVES), st.choices.below(entries));
                    self.poke(st, leaf, slot, narrow, mfn);
                }
            }
        }
    }

    /// Page tables are listed as leaves of the p2m, and leaves have the type of page tables.
    fn tables_as_leaves(&self, st: &mut State<'_>) {
        for _ in 0..1 + st.choices.below(4) {
            let (position, table) = (st.choices.below(LEAVES), OWN + 4 + st.choices.below(5));
            self.point(st, position, table);
        }
        for leaf in OWN..OWN + LEAVES {
            let level = st.choices.below(5) as u8;
            if level > 0 {
                st.frames[leaf as usize].kind = FrameType::Table { level, pinned: false };
            }
            if st.choices.once_in(2) {
                for slot in 0..st.choices.below(64) {
                    let mfn = OWN + st.choices.below(16);
                    self.poke(st, leaf, slot, false, mfn << 12 | PTE_FLAGS);
                }
            }
        }
    }
}
