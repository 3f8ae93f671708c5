// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the destination has: the shadow, which is what was sent, and what follows when it changes.
//! Not here: what is owed to it (`ledger`).
//! Units: pfns, mfns.
//! Threads: one owner; shards read it, and write the shadow of an observed guest.
//! Source: `docs/design.md`, law 5 (the shadow is what was sent) and law 9 (the books balance).

#[cfg(debug_assertions)]
mod accepted;
mod digests;
mod sent;
mod tables;

use std::collections::BTreeMap;
use std::ops::Range;

use digests::Digests;
pub(crate) use sent::{Footing, Sent};

use crate::error::Error;
use crate::frame::{Entry, LeafIndex, Mfn, Pfn, Width};
use crate::leaf::Leaf;
use crate::named_pfns::NamedPfns;
use crate::port::Page;
use crate::report::SettledCounts;
use crate::shadow::{EmptyLeaves, Forms, Shadow};

/// Pfns that are noted as gone until the notes are taken.
const NOTED_PFNS_MAX: usize = 65_536;

/// What the destination has.
#[derive(Debug)]
pub(crate) struct Destination {
    /// The entry under which each pfn was last accepted.
    pub(crate) shadow: Shadow,
    pub(crate) sent: Sent,
    /// PTEs made not present by policy, by table.
    pub(crate) cleared: BTreeMap<Pfn, Vec<Mfn>>,
    digests: Digests,
    /// Pfns that the destination may hold, and that lost their frames since this was last taken.
    noted: Vec<Pfn>,
    /// What is to be followed up.
    moves: Moves,
    /// Entries under which pfns were accepted and which the shadow does not show yet, in ascending
    /// order.
    remembered: Vec<(Pfn, Entry)>,
    /// Frames that entries named when they were last observed; 0 in a migration.
    observed_frames: u64,
    /// Frames of the machine: past them an entry names nothing.
    machine_frames: u64,
    #[cfg(debug_assertions)]
    accepted: accepted::Accepted,
}

/// Frames that may be under other pfns than they were.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// Frames of accepted pages: they are where the m2p says, also under an equal entry.
    pub(crate) arrived: Vec<(Pfn, Mfn)>,
    /// Frames that a pfn had and has no more.
    pub(crate) departed: Vec<(Pfn, Mfn)>,
    /// Frames that tables named, with pfns that were not accepted with them.
    pub(crate) named: Vec<(Mfn, Pfn)>,
    /// Entries of pfns that were removed.
    pub(crate) removed: Vec<(Pfn, Entry)>,
}

impl Destination {
    /// An empty destination.
    ///
    /// # Errors
    /// There is no form of the requested name.
    pub(crate) fn new(width: Width, forms: Option<Forms>) -> Result<Self, Error> {
        let forms = forms.map_or_else(Forms::choose, Ok).map_err(Error::environment)?;
        Ok(Self {
            shadow: Shadow::with_forms(width, forms),
            sent: Sent::default(),
            cleared: BTreeMap::new(),
            digests: Digests::default(),
            noted: Vec::new(),
            moves: Moves::default(),
            remembered: Vec::new(),
            observed_frames: 0,
            machine_frames: 0,
            #[cfg(debug_assertions)]
            accepted: accepted::Accepted::default(),
        })
    }

    /// Sets the machine's size.
    pub(crate) const fn on_a_machine_of(&mut self, frames: u64) {
        self.machine_frames = frames;
    }

    /// The destination has a page, with bytes of this digest, if the transport reported one.
    /// Of a table `named` is what it names, if that is known; `cleared` are frames of its PTEs that
    /// were made not present.
    pub(crate) fn accept(
        &mut self,
        page: &Page,
        footing: Footing,
        named: Option<NamedPfns>,
        cleared: Option<Vec<Mfn>>,
        digest: Option<u64>,
    ) {
        let Page { pfn, mfn, entry, kind } = *page;
        self.digests.put(pfn, digest);
        self.moves.arrived.push((pfn, mfn));
        let before = self.settle(pfn, entry);
        // The m2p may have changed to a pfn that was a copy, or waited: then the other one is the
        // copy now.
        let copy = self.sent.beside(pfn).filter(|&other| self.frame_of(other) == Some(mfn));
        self.sent.accepted(pfn, before, footing);
        if kind.is_table() {
            self.sent.tables.put(pfn, named);
        } else {
            self.sent.tables.clear(pfn);
        }
        if let (Footing::Sound, Some(other)) = (footing, copy) {
            self.sent.pair(other, pfn);
        }
        match cleared.filter(|_| kind.is_table()) {
            Some(frames) => self.cleared.insert(pfn, frames),
            None => self.cleared.remove(&pfn),
        };
    }

    /// The pfn has no frame at the source. `foreign`: its entry names something that is not the
    /// domain's.
    pub(crate) fn settle_unpopulated(&mut self, pfn: Pfn, entry: Entry, foreign: bool) {
        let named = entry.claim(self.shadow.width()).named();
        if foreign && !self.sent.is_foreign(pfn) && self.frame_of(pfn) == named {
            // The frame was the pfn's own until another domain got it under the same entry: a table
            // may name it so.
            self.sent.tables.frame_left(pfn);
        }
        let before = self.settle(pfn, entry);
        self.note_gone(pfn);
        self.sent.unpopulated(pfn, before, foreign);
        self.cleared.remove(&pfn);
    }

    /// The bytes that the destination has for the pfn may not be those of the digest.
    pub(crate) fn distrust(&mut self, pfn: Pfn) {
        self.digests.clear(pfn);
    }

    /// The digest of the bytes that the destination has for the pfn, if the transport reported one.
    pub(crate) fn digest(&self, pfn: Pfn) -> Option<u64> {
        self.digests.get(pfn)
    }

    /// Notes that a pfn lost its frame. Nothing depends on a note: of very many some are left out.
    fn note_gone(&mut self, pfn: Pfn) {
        self.digests.clear(pfn);
        if self.sent.is_held(pfn) && self.noted.len() < NOTED_PFNS_MAX {
            self.noted.push(pfn);
        }
    }

    /// Takes the notes, each pfn once: a failed round may note it again.
    pub(crate) fn take_noted(&mut self) -> Vec<Pfn> {
        self.noted.sort_unstable();
        self.noted.dedup();
        std::mem::take(&mut self.noted)
    }

    /// Settles the pfn under this entry: law 5. Returns whether the previous entry named a frame of
    /// the machine.
    fn settle(&mut self, pfn: Pfn, entry: Entry) -> bool {
        let width = self.shadow.width();
        let before = self.shadow.entry(pfn).claim(width).named();
        if let Some(mfn) = before.filter(|&mfn| !entry.claim(width).names(mfn)) {
            self.moves.departed.push((pfn, mfn));
        }
        self.remembered.push((pfn, entry));
        #[cfg(debug_assertions)]
        self.accepted.note(pfn, entry);
        before.is_some_and(|mfn| mfn.0 < self.machine_frames)
    }

    /// Writes what was settled into the shadow, leaf by leaf.
    pub(crate) fn remember(&mut self) {
        self.shadow.update(&self.remembered);
        self.remembered.clear();
    }

    /// The frame that a pfn was last settled with.
    fn frame_of(&self, pfn: Pfn) -> Option<Mfn> {
        let here = self.remembered.binary_search_by_key(&pfn, |&(pfn, _)| pfn);
        let entry = here.map_or_else(|_| self.shadow.entry(pfn), |index| self.remembered[index].1);
        entry.claim(self.shadow.width()).named()
    }

    /// Whether a pfn was last settled with `mfn`, as the domain's own. That p2m and m2p name each
    /// other does not prove it.
    pub(crate) fn is_settled_with(&self, pfn: Pfn, mfn: Mfn) -> bool {
        let claim = self.shadow.entry(pfn).claim(self.shadow.width());
        claim.names(mfn) && !self.sent.is_foreign(pfn)
    }

    /// Tables named these frames, with pfns that were not accepted with them.
    pub(crate) fn tables_named(&mut self, mut named: Vec<(Mfn, Pfn)>) {
        self.moves.named.append(&mut named);
    }

    /// Takes what is to be followed up, except removed pfns; see [`Destination::end_moves`].
    pub(crate) fn take_moves(&mut self) -> Moves {
        let removed = std::mem::take(&mut self.moves.removed);
        let moves = std::mem::take(&mut self.moves);
        self.moves.removed = removed;
        moves
    }

    /// Returns what was followed up: its memory is used for the next batch.
    pub(crate) fn end_moves(&mut self, mut moves: Moves) {
        moves.arrived.clear();
        moves.departed.clear();
        moves.named.clear();
        moves.removed = std::mem::take(&mut self.moves.removed);
        self.moves = moves;
    }

    /// Takes the pfns that were removed, with the frames that their entries named.
    pub(crate) fn take_removed(&mut self) -> Vec<(Pfn, Mfn)> {
        let removed = std::mem::take(&mut self.moves.removed);
        for &(pfn, _) in &removed {
            self.cleared.remove(&pfn);
            #[cfg(debug_assertions)]
            self.accepted.note(pfn, Entry::INVALID);
        }
        let width = self.shadow.width();
        let named = |(pfn, entry): (Pfn, Entry)| Some((pfn, entry.claim(width).named()?));
        removed.into_iter().filter_map(named).collect()
    }

    /// Resizes everything from `before` to `pfns` pfns, and to the tracked leaves. Removed pfns
    /// have no frame any more.
    pub(crate) fn resize(&mut self, before: u64, pfns: u64, tracked: u64, machine_frames: u64) {
        self.shrink(pfns..before, tracked, machine_frames);
        self.sent.cover(pfns);
        self.shadow.resize(tracked);
    }

    /// These pfns have no frame any more. Returns how many entries and lines of sets were read:
    /// none for holes, and one copy for a leaf without frames at many positions.
    fn shrink(&mut self, pfns: Range<u64>, tracked: u64, machine_frames: u64) -> u64 {
        if pfns.is_empty() {
            return 0;
        }
        let (mut reads, mut populated) = (0, 0);
        let width = self.shadow.width();
        let mut empty = EmptyLeaves::new(machine_frames);
        let mut copy = Leaf::default();
        let leaves = width.leaf_of(Pfn(pfns.start)).0..width.leaves(pfns.end);
        for leaf in leaves.map(LeafIndex) {
            let base = self.shadow.base(leaf);
            if empty.has(&base, width) {
                continue;
            }
            base.decode(width, &mut copy);
            let first = width.first_pfn(leaf).0;
            let whole = first..first + width.entries() as u64;
            for pfn in whole.start.max(pfns.start)..whole.end.min(pfns.end) {
                reads += 1;
                let entry = copy.entry(width, (pfn - first) as usize);
                if !entry.claim(width).names_nothing(machine_frames) {
                    self.note_gone(Pfn(pfn));
                    self.moves.removed.push((Pfn(pfn), entry));
                    populated += u64::from(!self.sent.is_foreign(Pfn(pfn)));
                }
                let observed = entry.names_frame(width, machine_frames);
                // 0 in a migration
                self.observed_frames = self.observed_frames.saturating_sub(u64::from(observed));
            }
        }
        reads += empty.reads();
        // An observer has settled nothing.
        reads += self.sent.remove_by_shrink(&pfns, populated.min(self.sent.populated()));
        self.digests.clear_range(pfns.clone());
        self.cut_shadow(pfns, tracked);
        reads
    }

    /// In a leaf that is cut inside and stays, the entries of these pfns become invalid.
    fn cut_shadow(&mut self, pfns: Range<u64>, tracked: u64) {
        let end = pfns.end.min(tracked << self.shadow.width().entry_bits());
        let cut: Vec<_> = (pfns.start..end).map(|pfn| (Pfn(pfn), Entry::INVALID)).collect();
        self.shadow.update(&cut);
    }

    /// Counts entries that were observed to name a frame, or no longer.
    pub(crate) const fn observed(&mut self, mapped: u64, unmapped: u64) {
        self.observed_frames = (self.observed_frames + mapped).saturating_sub(unmapped);
    }

    /// Frames that entries named when they were last observed.
    pub(crate) const fn observed_frames(&self) -> u64 {
        self.observed_frames
    }

    /// Forgets what was removed, without following it.
    pub(crate) fn forget_removed(&mut self) {
        self.moves.removed.clear();
    }

    /// A consistent point: everything is settled, and the receiver gave back what is gone.
    pub(crate) fn consistent(&mut self, settled: &mut SettledCounts) {
        let gone = self.sent.gone();
        self.sent.given_back(&gone);
        settled.gone = gone.len() as u64;
        settled.foreign = self.sent.foreign_pfns();
        settled.m2p_stale = self.sent.stale_pfns();
        settled.aliases = self.sent.alias_pfns();
        settled.cleared_ptes = self.cleared.values().map(|frames| frames.len() as u64).sum();
    }

    /// Distinct frames of the domain that the destination has.
    pub(crate) fn frames(&self) -> u64 {
        let (sent, width) = (&self.sent, self.shadow.width());
        // A frame that the m2p gives to none of its pfns is counted once, however many they are.
        let stale = sent.stale().filter_map(|pfn| self.shadow.entry(pfn).claim(width).named());
        let mut stale: Vec<Mfn> = stale.collect();
        let pfns = stale.len();
        stale.sort_unstable();
        stale.dedup();
        sent.populated() - sent.alias_pfns() - (pfns - stale.len()) as u64
    }

    /// Checks law 5 and the count of law 9: each of the first `pfns` pfns is owed, or the shadow
    /// has the entry under which it was last accepted.
    ///
    /// # Panics
    /// If that does not hold: a bug of this engine, never of a guest.
    #[cfg(debug_assertions)]
    pub(crate) fn check(&mut self, pfns: u64, is_owed: impl Fn(Pfn) -> bool) {
        let width = self.shadow.width();
        self.accepted.cut(pfns);
        let mut populated = 0;
        for pfn in (0..pfns).map(Pfn) {
            let (shadow, accepted) = (self.shadow.entry(pfn), self.accepted.of(pfn));
            let named = !shadow.claim(width).names_nothing(self.machine_frames);
            populated += u64::from(named && !self.sent.is_foreign(pfn));
            if shadow == accepted || is_owed(pfn) {
                continue;
            }
            // A leaf that names nothing and is listed often is remembered whole.
            let nothing = |entry: Entry| entry.claim(width).names_nothing(self.machine_frames);
            let whole = nothing(shadow) && nothing(accepted);
            assert!(whole, "law 5: {pfn} is not owed, shadow {shadow:?}, accepted {accepted:?}");
        }
        assert_eq!(self.sent.populated(), populated, "law 9: pfns settled with a frame");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A leaf that names no frame of the machine, at most positions of 2^27 pfns; and some pfns
    /// that the shrink has to notice, at the first positions and the last.
    #[test]
    fn what_falls_away_costs_what_was_there() {
        const MACHINE: u64 = 1 << 20;
        let positions = 1_u64 << 18;
        for words in [0, 0x9e37_79b9] {
            let mut destination = Destination::new(Width::W64, None).expect("forms");
            destination.shadow.resize(positions);
            destination.sent.cover(positions << 9);
            let mut hole = Leaf::HOLE;
            for slot in 0..512 {
                hole.words[slot as usize] = 1 << 62 | (slot + slot * words) & 0xffff_ffff;
            }
            let hole = Arc::new(hole);
            for leaf in (0..positions).filter(|leaf| leaf % 3 > 0).map(LeafIndex) {
                destination.shadow.install_shared(&[leaf], &hole);
            }
            let last = Pfn((positions << 9) - 1);
            for pfn in [Pfn(510), Pfn(511), Pfn(1024), last] {
                destination.shadow.set(pfn, Entry(7 + pfn.0 % 5));
                destination.sent.hold(pfn);
                destination.sent.accepted(pfn, true, Footing::Stale);
                destination.sent.tables.put(pfn, None);
            }
            destination.sent.unpopulated(Pfn(5 << 9), false, true);
            let reads = destination.shrink(511..positions << 9, 1, MACHINE);
            // Leaves that are cut or have frames, twice at most; and once the leaf at most
            // positions.
            assert!(reads <= 7 * 512, "{reads} reads");
            let removed: Vec<_> = destination.moves.removed.iter().map(|&(pfn, _)| pfn).collect();
            assert_eq!(removed, [Pfn(511), Pfn(1024), last]);
            assert_eq!(destination.sent.gone(), [Pfn(511), Pfn(1024), last]);
            assert_eq!((destination.sent.stale_pfns(), destination.sent.foreign_pfns()), (1, 0));
            destination.sent.tables.all_are_uncertain();
            assert_eq!(destination.sent.tables.take_uncertain(), [Pfn(510)]);
            let cut = [510, 511].map(|pfn| destination.shadow.entry(Pfn(pfn)));
            assert_eq!(cut, [Entry(7), Entry::INVALID]);
        }
    }
}
