// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the destination has, as far as the source can know: frames held, tables, pfns gone, frames
//! that moved.
//! Not here: the entry under which a pfn was sent (`shadow`), what is done about a frame that moved
//! (`send::moves`).
//! Units: sets of pfns; their length only grows, so that removed pfns can still be reported as
//! gone.
//! Threads: one owner.
//! Source: `docs/design.md`: rows "frame moves to another pfn" and law 7.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::destination::tables::Tables;
use crate::frame::{Mfn, Pfn};
use crate::pfn_set::PfnSet;

/// The engine's notes about the receiver.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// The receiver may hold a frame: something was sent, or a table that was sent names the pfn.
    held: PfnSet,
    /// Held by the receiver, without a frame at the source: to be reported at the next consistent
    /// point.
    gone: PfnSet,
    /// Last sent as page tables.
    pub(crate) tables: Tables,
    /// Last settled as another domain's frame or a machine range.
    foreign: PfnSet,
    /// Last sent although the m2p names another pfn, or none.
    stale: PfnSet,
    /// Last sent as a copy of another pfn's frame, and which pfn that is by the m2p.
    twins: BTreeMap<Pfn, Pfn>,
    /// Waiting for a frame which is also another pfn's, and which pfn that is by the m2p.
    waiting_beside: BTreeMap<Pfn, Pfn>,
    /// Pfns that were last settled with a frame of the domain.
    populated: u64,
    /// Frames under whose old pfn a table may have been sent, while the shadow no longer (or not
    /// yet) shows it: the last pfn that the frame was known by.
    last_known: BTreeMap<Mfn, LastKnown>,
    /// Pfns that were given to the sender since every leaf was last compared: the sender may have
    /// read another entry by its own mapping
    /// ([`Sender::CallerReadsP2m`](crate::config::Sender::CallerReadsP2m)).
    pub(crate) since: PfnSet,
}

/// What a pfn was sent on: whether log-dirty names it when its frame is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Footing {
    /// The m2p names it.
    Sound,
    /// The m2p names another pfn, which has another frame, or none: sent under the p2m anyway.
    Stale,
    /// The frame is also this pfn's, which the m2p names.
    Alias(Pfn),
}

/// The pfn that a frame was last known by.
#[derive(Clone, Copy, Debug)]
struct LastKnown {
    pfn: Pfn,
    /// Every table that may name the frame was normalised again since: none does.
    rechecked: bool,
}

impl Sent {
    /// Covers at least `pfns` pfns.
    pub(crate) fn cover(&mut self, pfns: u64) {
        let Self { held, gone, tables, foreign, stale, .. } = self;
        for set in [held, gone, foreign, stale] {
            set.cover(pfns);
        }
        tables.cover(pfns);
        self.since.cover(pfns.next_multiple_of(64));
    }

    /// Adds where its memory is, if it is mapped.
    pub(crate) fn mapped_at(&self, list: &mut Vec<Range<usize>>) {
        let Self { held, gone, tables, foreign, stale, since, .. } = self;
        for set in [held, gone, foreign, stale, since] {
            set.mapped_at(list);
        }
        tables.mapped_at(list);
    }

    /// The transport is about to get a frame for this pfn, or a table that names it.
    pub(crate) fn hold(&mut self, pfn: Pfn) {
        self.held.set(pfn);
    }

    /// Whether the receiver may hold a frame for this pfn.
    pub(crate) fn is_held(&self, pfn: Pfn) -> bool {
        self.held.get(pfn)
    }

    /// The transport has the pfn's page. `before`: its entry named a frame when it was last
    /// settled. That it is a table is noted in [`Sent::tables`].
    pub(crate) fn accepted(&mut self, pfn: Pfn, before: bool, footing: Footing) {
        self.gone.clear(pfn);
        let foreign = self.foreign.clear(pfn);
        self.populated += u64::from(foreign || !before);
        self.forget_waiting_beside(pfn);
        self.stale.put(pfn, footing == Footing::Stale);
        match footing {
            Footing::Alias(twin) => _ = self.twins.insert(pfn, twin),
            Footing::Sound | Footing::Stale => self.forget_twin(pfn),
        }
    }

    /// The pfn has no frame at the source. `before` as for [`Sent::accepted`].
    pub(crate) fn unpopulated(&mut self, pfn: Pfn, before: bool, foreign: bool) {
        let populated = before && !self.foreign.get(pfn);
        self.populated -= u64::from(populated);
        self.tables.clear(pfn);
        self.stale.clear(pfn);
        self.forget_twin(pfn);
        self.forget_waiting_beside(pfn);
        self.foreign.put(pfn, foreign);
        if self.held.get(pfn) {
            self.gone.set(pfn);
        }
    }

    fn forget_twin(&mut self, pfn: Pfn) {
        if !self.twins.is_empty() {
            self.twins.remove(&pfn);
        }
    }

    /// The pfn waits for a frame that is `other`'s, too.
    pub(crate) fn wait_beside(&mut self, pfn: Pfn, other: Pfn) {
        self.waiting_beside.insert(pfn, other);
    }

    fn forget_waiting_beside(&mut self, pfn: Pfn) {
        if !self.waiting_beside.is_empty() {
            self.waiting_beside.remove(&pfn);
        }
    }

    /// Pfns settled with a frame of the domain.
    pub(crate) const fn populated(&self) -> u64 {
        self.populated
    }

    /// Whether the pfn was last settled as something that is not the domain's.
    pub(crate) fn is_foreign(&self, pfn: Pfn) -> bool {
        self.foreign.get(pfn)
    }

    /// The pfns settled as something that is not the domain's.
    pub(crate) fn foreign(&self) -> impl Iterator<Item = Pfn> + '_ {
        self.foreign.iter()
    }

    /// The pfns whose frames' writes log-dirty marks under another pfn, or not at all.
    pub(crate) fn unsound(&self) -> impl Iterator<Item = Pfn> + '_ {
        self.stale.iter().chain(self.twins.keys().copied())
    }

    /// The pfns sent against the m2p.
    pub(crate) fn stale(&self) -> impl Iterator<Item = Pfn> + '_ {
        self.stale.iter()
    }

    /// The pfn whose frame this pfn was last sent as a copy of, or waits for.
    pub(crate) fn beside(&self, pfn: Pfn) -> Option<Pfn> {
        let of =
            |map: &BTreeMap<Pfn, Pfn>| if map.is_empty() { None } else { map.get(&pfn).copied() };
        of(&self.waiting_beside).or_else(|| of(&self.twins))
    }

    /// What was last sent for `copy` is a copy of `pfn`'s frame.
    pub(crate) fn pair(&mut self, copy: Pfn, pfn: Pfn) {
        self.twins.insert(copy, pfn);
    }

    /// The pfns sent as copies of another's frame, and that other one.
    pub(crate) fn twins(&self) -> impl Iterator<Item = (Pfn, Pfn)> + '_ {
        self.twins.iter().map(|(&pfn, &twin)| (pfn, twin))
    }

    /// These pfns were removed: none of them has a frame at the source; `populated` of them had
    /// one. Returns how many lines of sets were read.
    pub(crate) fn remove_by_shrink(&mut self, pfns: &Range<u64>, populated: u64) -> u64 {
        self.populated -= populated;
        for map in [&mut self.twins, &mut self.waiting_beside] {
            map.retain(|pfn, _| !pfns.contains(&pfn.0));
        }
        let sets = [&mut self.stale, &mut self.foreign];
        let reads = sets.map(|set| set.clear_range(pfns)).iter().sum::<u64>();
        reads + self.tables.clear_range(pfns) + self.gone.add_range(&self.held, pfns)
    }

    /// `frame` was found under `pfn`. Returns whether it was known by another pfn before, which it
    /// has left then.
    pub(crate) fn arrived(&mut self, frame: Mfn, pfn: Pfn) -> bool {
        let before = self.last_known.remove(&frame);
        self.leave(before, pfn)
    }

    /// The shadow no longer (or not yet) has `frame` for `pfn`, but a table may name it so. Returns
    /// whether it was known by another pfn before, which it has left then.
    pub(crate) fn note_last_known(&mut self, frame: Mfn, pfn: Pfn) -> bool {
        let before = self.last_known.insert(frame, LastKnown { pfn, rechecked: false });
        self.leave(before, pfn)
    }

    fn leave(&mut self, before: Option<LastKnown>, pfn: Pfn) -> bool {
        let left = before.filter(|before| before.pfn != pfn);
        if let Some(before) = left {
            self.tables.frame_left(before.pfn);
        }
        left.is_some()
    }

    /// The guest is suspended, and some frames of the domain have no pfn: a table that was sent
    /// before they lost theirs may still name them, and is uncertain.
    pub(crate) fn recheck_tables(&mut self) {
        let unchecked = self.last_known.values_mut().filter(|known| !known.rechecked);
        for known in unchecked {
            known.rechecked = true;
            self.tables.frame_left(known.pfn);
        }
    }

    /// The frames that are watched for a move.
    pub(crate) fn last_known_frames(&self) -> Vec<Mfn> {
        self.last_known.keys().copied().collect()
    }

    /// A watched frame left the domain: no page table of the guest can name it any more.
    pub(crate) fn forget(&mut self, frame: Mfn) {
        self.last_known.remove(&frame);
    }

    /// Pfns to be reported as gone.
    pub(crate) fn gone(&self) -> Vec<Pfn> {
        self.gone.iter().collect()
    }

    /// The receiver gave these back.
    pub(crate) fn given_back(&mut self, pfns: &[Pfn]) {
        for &pfn in pfns {
            self.gone.clear(pfn);
            self.held.clear(pfn);
        }
    }

    /// Pfns settled as foreign.
    pub(crate) const fn foreign_pfns(&self) -> u64 {
        self.foreign.len()
    }

    /// Pfns sent against the m2p.
    pub(crate) const fn stale_pfns(&self) -> u64 {
        self.stale.len()
    }

    /// Pfns that wait for another's frame.
    pub(crate) fn waiting_beside_pfns(&self) -> u64 {
        self.waiting_beside.len() as u64
    }

    /// Pfns sent as copies of another's frame.
    pub(crate) fn alias_pfns(&self) -> u64 {
        self.twins.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_receiver_holds_is_gone() {
        let mut sent = Sent::default();
        sent.cover(100);
        sent.unpopulated(Pfn(1), false, false);
        assert!(sent.gone().is_empty());
        sent.hold(Pfn(1));
        sent.unpopulated(Pfn(1), false, true);
        assert_eq!((sent.gone(), sent.foreign_pfns()), (vec![Pfn(1)], 1));
        sent.accepted(Pfn(1), true, Footing::Stale);
        sent.tables.put(Pfn(1), None);
        assert_eq!((sent.gone(), sent.foreign_pfns(), sent.stale_pfns()), (vec![], 0, 1));
        sent.unpopulated(Pfn(1), true, false);
        sent.tables.all_are_uncertain();
        assert_eq!((sent.tables.take_uncertain(), sent.stale_pfns()), (vec![], 0));
        sent.given_back(&[Pfn(1)]);
        sent.unpopulated(Pfn(1), false, false);
        assert!(sent.gone().is_empty());
    }

    #[test]
    fn pfns_with_a_frame_are_counted_once() {
        let mut sent = Sent::default();
        sent.cover(100);
        for (named, populated) in [(false, 1), (true, 1)] {
            sent.accepted(Pfn(1), named, Footing::Sound);
            assert_eq!(sent.populated(), populated);
        }
        sent.unpopulated(Pfn(1), true, true); // the entry still names a frame, of another domain
        assert_eq!(sent.populated(), 0);
        sent.unpopulated(Pfn(1), true, true);
        assert_eq!(sent.populated(), 0);
        sent.accepted(Pfn(1), true, Footing::Sound);
        sent.accepted(Pfn(2), false, Footing::Sound);
        assert_eq!(sent.populated(), 2);
        sent.unpopulated(Pfn(2), true, false);
        sent.unpopulated(Pfn(2), false, false);
        assert_eq!(sent.populated(), 1);
    }

    #[test]
    fn what_is_not_on_a_sound_footing_is_known_until_it_is() {
        let mut sent = Sent::default();
        sent.cover(100);
        let unsound = |sent: &Sent| sent.unsound().collect::<Vec<_>>();
        sent.accepted(Pfn(1), false, Footing::Stale);
        sent.accepted(Pfn(2), false, Footing::Alias(Pfn(7)));
        sent.accepted(Pfn(3), false, Footing::Sound);
        assert_eq!((unsound(&sent), sent.alias_pfns()), (vec![Pfn(1), Pfn(2)], 1));
        assert_eq!(sent.twins().collect::<Vec<_>>(), [(Pfn(2), Pfn(7))]);
        sent.accepted(Pfn(2), true, Footing::Stale);
        sent.accepted(Pfn(1), true, Footing::Alias(Pfn(8)));
        assert_eq!((unsound(&sent), sent.stale_pfns()), (vec![Pfn(2), Pfn(1)], 1));
        sent.accepted(Pfn(2), true, Footing::Sound);
        sent.unpopulated(Pfn(1), true, true);
        assert!(unsound(&sent).is_empty() && sent.is_foreign(Pfn(1)));
    }

    #[test]
    fn a_pfn_that_waits_for_another_s_frame_is_known_until_settled_or_gone() {
        let mut sent = Sent::default();
        sent.cover(100);
        (1..4).for_each(|pfn| sent.wait_beside(Pfn(pfn), Pfn(50)));
        assert_eq!((sent.beside(Pfn(1)), sent.waiting_beside_pfns()), (Some(Pfn(50)), 3));
        sent.accepted(Pfn(1), false, Footing::Sound);
        sent.unpopulated(Pfn(2), false, false);
        sent.remove_by_shrink(&(3..100), 0);
        assert_eq!((sent.beside(Pfn(1)), sent.waiting_beside_pfns()), (None, 0));
    }

    #[test]
    fn a_frame_that_comes_back_under_another_pfn_has_moved() {
        let mut sent = Sent::default();
        assert!(!sent.arrived(Mfn(5), Pfn(1)));
        assert!(!sent.note_last_known(Mfn(5), Pfn(1)));
        assert!(sent.note_last_known(Mfn(5), Pfn(3)));
        assert!(sent.arrived(Mfn(5), Pfn(1)));
        sent.note_last_known(Mfn(5), Pfn(1));
        assert!(!sent.arrived(Mfn(5), Pfn(1)));
        sent.note_last_known(Mfn(6), Pfn(1));
        sent.cover(100);
        sent.tables.put(Pfn(9), None);
        sent.tables.take_uncertain();
        let rechecked = [(); 2].map(|()| {
            sent.recheck_tables();
            sent.tables.take_uncertain()
        });
        assert_eq!(rechecked, [vec![Pfn(9)], vec![]]);
        sent.forget(Mfn(6));
        assert!(!sent.arrived(Mfn(6), Pfn(2)));
    }
}
