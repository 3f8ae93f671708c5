// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ports of a hostile machine: they check the engine's side of each contract, and optionally
//! break their own.
//! Not here: the machine (`hostile_guest`), or what a migration must end with (`drive`).
//! Units: as in `p2mtrack::port`; calls are counted.
//! Threads: one a machine.
//! Source: the contracts in `p2mtrack::port`; `docs/decisions/0001` for the limits of requests.

use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::{FRAME_WORDS, Leaf};
use p2mtrack::port::{
    Answer, Deferral, FrameList, FrameTypes, Guest, LOG_DIRTY_LEAF_PFNS, LogBuffer, LogDirty, M2p,
    MapFault, MapSlot, P2mSource, Page, PortError, Ports, QUERY_FRAMES_MAX, Roots, Transfer,
    Transport, Unlogged,
};
use p2mtrack::table::{Resolved, TableCause, TableFault, TableView, normalise};

use super::drive::{CALLS_MAX, READS_MAX};
use super::{FRAMES, Hostility, Machine, OTHERS, Owner, Reading, Received, State};

/// The p2m size limit of a machine this small: any guest may have so many pfns, and none more.
pub(crate) const SIZE_MAX_PFNS: u64 = 1 << 27;
/// Frames in one call of `map`.
const MAP_FRAMES_MAX: usize = 4096;
/// Pfns in one call of `gone`.
const GONE_PFNS_MAX: usize = 65_536;

impl State<'_> {
    fn count_read(&mut self) {
        self.reads += 1;
        assert!(self.reads <= READS_MAX, "{READS_MAX} reads in one call of the engine");
    }

    /// Whether a port fails now, as its contract allows.
    fn fails(&mut self) -> bool {
        self.fails.strikes(&mut self.choices)
    }

    /// Whether the host breaks a contract now.
    fn breaks(&mut self) -> bool {
        self.breaks.strikes(&mut self.choices)
    }

    fn fault(&mut self, what: &str) -> Result<(), PortError> {
        match self.fails() {
            true => Err(format!("planted failure: {what}").into()),
            false => Ok(()),
        }
    }

    fn map_fault(&mut self, mfn: Mfn) -> Result<(), MapFault> {
        let lies = self.breaks();
        match self.owns(mfn.0) || lies && mfn.0 < FRAMES {
            false => Err(MapFault::NotOwned),
            true if self.fails() => {
                Err(self.choices.pick(&[MapFault::Errno(12), MapFault::NotOwned]))
            }
            true => Ok(()),
        }
    }

    fn some_deferral(&mut self) -> Deferral {
        let fault = TableFault {
            level: self.choices.below(6) as u8,
            slot: self.choices.below(1024) as u16,
            mfn: Mfn(self.choices.word()),
            cause: self.choices.pick(&[
                TableCause::Foreign,
                TableCause::Unresolved,
                TableCause::Superpage,
            ]),
        };
        self.choices.pick(&[
            Deferral::Unacknowledged,
            Deferral::MapFailed(MapFault::Errno(5)),
            Deferral::MapFailed(MapFault::NotOwned),
            Deferral::Table(fault),
            Deferral::M2pMismatch,
            Deferral::NotOwned,
            Deferral::LeafUnmapped,
            Deferral::QueryFailed,
        ])
    }
}

impl<'c> Machine<'c> {
    /// Runs `call` with the ports.
    pub(crate) fn with_ports<T>(&self, call: impl FnOnce(&mut Ports<'_>) -> T) -> T {
        let (mut a, mut b, c, mut d, mut e, mut f) = (self, self, self, self, self, self);
        call(&mut Ports {
            guest: Guest {
                p2m: &mut b,
                m2p: &c,
                types: &mut d,
                unlogged: &mut e,
                observer: &mut (),
            },
            log_dirty: &mut a,
            transport: &mut f,
        })
    }

    /// A port call begins: it is counted, and the guest may act.
    fn call(&self) -> std::sync::MutexGuard<'_, State<'c>> {
        let mut st = self.state();
        st.calls += 1;
        assert!(st.calls <= CALLS_MAX, "{CALLS_MAX} port calls in one call of the engine");
        self.meddle(&mut st);
        st
    }
}

impl LogDirty for &Machine<'_> {
    fn enable(&mut self) -> Result<(), PortError> {
        let mut st = self.call();
        st.fault("enable")?;
        if st.log_on && !st.breaks() {
            return Err("log-dirty is on already".into());
        }
        st.log_on = true;
        st.log.clear();
        Ok(())
    }

    fn disable(&mut self) -> Result<(), PortError> {
        let mut st = self.call();
        let refused = st.fault("disable");
        st.off_refused = refused.is_err();
        refused?;
        st.log_on = false;
        Ok(())
    }

    fn clean(&mut self, mut into: LogBuffer<'_>) -> Result<u64, PortError> {
        let st = &mut *self.call();
        let asked = into.pfns();
        assert!(st.log_on, "CLEAN while log-dirty is off");
        assert_eq!(into.copy().count(), 0, "CLEAN into a bitmap that is not empty");
        assert!(asked > 0 && asked.is_multiple_of(LOG_DIRTY_LEAF_PFNS), "CLEAN of {asked} pfns");
        assert!(asked <= SIZE_MAX_PFNS, "CLEAN of {asked} pfns is past the p2m size limit");
        let broken = st.breaks();
        if broken {
            for _ in 0..st.choices.below(8) {
                into.set(Pfn(st.choices.below(1 << 12)));
            }
        }
        let failed = st.fault("CLEAN");
        let short = failed.is_err() || st.fails();
        let read = if short { st.choices.below(asked + 1) } else { asked };
        let kept = st.log.split_off(&read);
        let taken = std::mem::replace(&mut st.log, kept);
        taken.into_iter().for_each(|pfn| into.set(Pfn(pfn)));
        failed?;
        Ok(if broken { st.choices.pick(&[read, 0, u64::MAX, asked + 1]) } else { read })
    }
}

impl P2mSource for &Machine<'_> {
    fn width(&self) -> Width {
        self.temper.width
    }

    fn domain_frames(&mut self) -> Result<u64, PortError> {
        let mut st = self.call();
        st.fault("domain frames")?;
        if st.breaks() {
            return Ok(st.choices.pick(&[0, 1, 1 << 20, u64::MAX]));
        }
        Ok(st.frames.iter().filter(|frame| frame.owner == Owner::Domain).count() as u64)
    }

    fn roots(&mut self) -> Result<Roots, PortError> {
        let st = &mut *self.call();
        st.fault("roots")?;
        match st.reading {
            Reading::Still => {}
            Reading::OddForEver => {
                let step = 2 * st.choices.below(2);
                st.roots.generation = (st.roots.generation | 1).wrapping_add(step);
            }
            Reading::Restless if st.suspended && self.temper.hostility == Hostility::Guest => {}
            Reading::Restless => st.roots = self.some_roots(st),
        }
        st.roots.pfn_count = st.cut(st.roots.pfn_count);
        st.farthest = st.farthest.max(st.roots.pfn_count);
        Ok(st.roots)
    }

    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault> {
        let st = &mut *self.call();
        st.map_fault(mfn)?;
        GuestLeaf::from_atomics(self.words(mfn.0)).fetch(into);
        Ok(())
    }

    fn map(&mut self, frames: &[Mfn], answers: &mut Vec<Result<MapSlot, MapFault>>) {
        let st = &mut *self.call();
        assert!((1..=MAP_FRAMES_MAX).contains(&frames.len()), "maps {} frames", frames.len());
        for &mfn in frames {
            assert!(!st.slots.contains(&Some(mfn.0)), "{mfn} is mapped twice");
            if st.breaks() {
                return; // too few answers
            }
            answers.push(st.map_fault(mfn).map(|()| {
                self.words(mfn.0);
                st.slots.push(Some(mfn.0));
                MapSlot(st.slots.len() as u32 - 1)
            }));
        }
        if st.breaks() {
            answers.push(Err(MapFault::Errno(st.choices.word() as i32)));
            answers.push(Ok(MapSlot(u32::MAX))); // without a frame: the engine must not use it
        }
    }

    fn unmap(&mut self, slots: &[MapSlot]) {
        let mut st = self.call();
        for slot in slots {
            let held = st.slots.get_mut(slot.0 as usize).and_then(Option::take);
            assert!(held.is_some(), "slot {} is unmapped and was not mapped", slot.0);
        }
    }

    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        let mut st = self.state();
        st.count_read();
        self.meddle(&mut st);
        match st.slots.get(slot.0 as usize) {
            Some(Some(mfn)) => GuestLeaf::from_atomics(self.words(*mfn)),
            _ => panic!("slot {} is read and not mapped", slot.0),
        }
    }
}

impl M2p for &Machine<'_> {
    fn frames(&self) -> u64 {
        let st = &mut *self.state();
        if st.said_frames.is_none() {
            let lie = st.lies.strikes(&mut st.choices);
            let frames =
                if lie { st.choices.pick(&[FRAMES, 0, 1, OTHERS, 1 << 20]) } else { FRAMES };
            st.said_frames = Some(frames);
        }
        st.said_frames.unwrap_or(FRAMES)
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        let st = &mut *self.state();
        st.count_read();
        if st.lies.strikes(&mut st.choices) {
            return Some(Pfn(self.some_pfn(st)));
        }
        st.frames.get(mfn.0 as usize).and_then(|frame| frame.m2p).map(Pfn)
    }

    fn compat_frame(&self) -> Option<Mfn> {
        (self.temper.width == Width::W32).then_some(Mfn(OTHERS - 1))
    }
}

impl FrameTypes for &Machine<'_> {
    fn query(&mut self, frames: &[Mfn], types: &mut [FrameType]) -> Result<(), PortError> {
        let st = &mut *self.call();
        assert!((1..=QUERY_FRAMES_MAX).contains(&frames.len()), "asks for {}", frames.len());
        assert_eq!(frames.len(), types.len());
        let broken = st.breaks();
        for (mfn, kind) in frames.iter().zip(types) {
            assert!(broken || mfn.0 < FRAMES || self.temper.hostility == Hostility::Host, "{mfn}");
            *kind = st.kind(mfn.0);
            if broken && st.choices.once_in(4) {
                let level = st.choices.word() as u8;
                let table = FrameType::Table { level, pinned: true };
                let kinds = [FrameType::NotOwned, FrameType::Data, table, FrameType::Broken];
                *kind = st.choices.pick(&kinds);
            }
        }
        st.fault("query")
    }
}

impl Unlogged for &Machine<'_> {
    fn pfns(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        let st = &mut *self.call();
        assert!(st.suspended, "unlogged writers are queried while the guest runs");
        for _ in 0..st.choices.below(4) {
            into.push(Pfn(self.some_pfn(st)));
        }
        st.fault("unlogged writers")
    }

    fn accepts_transfer(&mut self) -> Result<bool, PortError> {
        let mut st = self.call();
        st.fault("grant table")?;
        Ok(st.choices.once_in(16))
    }

    /// Entries that name anything; the port may report that it does not know them.
    fn transfers(&mut self, into: &mut Vec<Transfer>) -> Result<bool, PortError> {
        let mut st = self.call();
        st.fault("grant table")?;
        if st.choices.once_in(4) {
            let number = st.choices.pick(&[0, 1, 600, 1 << 20, 1 << 40, u64::MAX]);
            into.extend([Transfer::Into(Pfn(number)), Transfer::Came(Mfn(number))]);
        }
        Ok(!st.choices.once_in(4))
    }
}

impl Machine<'_> {
    /// The honest transport's answer for a page.
    fn deliver(&self, page: &Page, view: &dyn TableView) -> Answer {
        let mfn = page.mfn.0;
        {
            let st = &mut *self.state();
            if let Err(fault) = st.map_fault(page.mfn) {
                return Answer::Deferred(Deferral::MapFailed(fault));
            }
            if st.breaks() {
                return match st.choices.below(16) {
                    0 => Answer::Failed("planted failure: page".into()),
                    1..8 => Answer::Accepted,
                    _ => Answer::Deferred(st.some_deferral()),
                };
            }
        }
        let version = self.state().frames[mfn as usize].version;
        if let FrameType::Table { level, .. } = page.kind {
            let mut table = Leaf::default();
            GuestLeaf::from_atomics(self.words(mfn)).fetch(&mut table);
            if let Err(fault) = self.normalise(page.pfn, level, &mut table, view) {
                return Answer::Deferred(Deferral::Table(fault));
            }
        }
        let mut st = self.state();
        st.received.insert(page.pfn.0, Received { entry: page.entry, mfn, version });
        if !st.fails() {
            return Answer::Accepted;
        }
        match st.choices.once_in(64) {
            true => Answer::Failed("planted failure: page".into()),
            false => Answer::Deferred(Deferral::Unacknowledged),
        }
    }

    /// Reads of the transport don't count as the engine's. An entry costs at most two: one of the
    /// m2p, and one of the live entry of the pfn that the m2p names.
    fn normalise(
        &self,
        pfn: Pfn,
        level: u8,
        table: &mut Leaf,
        view: &dyn TableView,
    ) -> Result<(), TableFault> {
        let before = std::mem::take(&mut self.state().reads);
        let result = normalise(pfn, level, table, view);
        let st = &mut *self.state();
        assert!(st.reads <= 2 * FRAME_WORDS as u64, "{} reads for one table", st.reads);
        st.reads = before;
        result
    }

    /// A transport that calls the view with arbitrary arguments.
    fn pry(&self, view: &dyn TableView) {
        let (table, mfn) = {
            let st = &mut *self.state();
            (self.some_pfn(st), self.some_word(st, OTHERS))
        };
        if let Resolved::Pfn(pfn) = view.resolve(Pfn(table), Mfn(mfn)) {
            assert!(pfn.0 < SIZE_MAX_PFNS, "{pfn} is past the p2m size limit");
        }
        view.is_compat_m2p(Mfn(mfn));
    }
}

impl Transport for &Machine<'_> {
    fn send(
        &mut self,
        pages: &[Page],
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        assert!((1..=QUERY_FRAMES_MAX).contains(&pages.len()), "sends {} pages", pages.len());
        let (broken, guest_only) = {
            let mut st = self.call();
            (st.breaks(), self.temper.hostility == Hostility::Guest)
        };
        for (page, next) in pages.iter().zip(pages.iter().skip(1).map(Some).chain([None])) {
            assert!(page.pfn.0 < SIZE_MAX_PFNS && next.is_none_or(|next| page.pfn < next.pfn));
            let named = [Entry(page.mfn.0), Entry::foreign(self.temper.width, page.mfn)];
            let identity = 1 << (self.temper.width.bits() - 2);
            let plain = Entry(page.entry.0 & !identity);
            assert!(named.contains(&page.entry) || named.contains(&plain), "{page:x?}");
            assert!(matches!(page.kind, FrameType::Data | FrameType::Table { .. }), "{page:?}");
            assert!(!guest_only || page.mfn.0 < FRAMES, "{page:?}");
        }
        if broken {
            self.pry(view);
        }
        for page in pages {
            if broken && self.state().choices.once_in(4) {
                break; // too few answers
            }
            let answer = self.deliver(page, view);
            answers.push(answer);
        }
        let mut st = self.state();
        if broken && st.choices.once_in(4) {
            answers.extend([Answer::Accepted, Answer::Failed("planted: for no page".into())]);
        }
        st.fault("send")
    }

    fn frame_list(&mut self, list: FrameList<'_>) -> Result<(), PortError> {
        let mut st = self.call();
        let positions = list.leaves.len() as u64;
        assert!(
            positions <= self.temper.width.leaves(SIZE_MAX_PFNS),
            "a list of {positions} leaves"
        );
        st.fault("frame list")
    }

    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        let st = &mut *self.call();
        assert!(st.suspended, "gone is reported while the guest runs");
        assert!((1..=GONE_PFNS_MAX).contains(&pfns.len()));
        for pfn in pfns {
            st.received.remove(&pfn.0);
        }
        st.fault("gone")
    }

    fn returned(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        let st = &mut *self.call();
        if st.fails() {
            let mut held: Vec<_> = st.received.keys().copied().collect();
            held.sort_unstable();
            let lost = st.choices.below(8) as usize;
            into.extend(held.into_iter().take(lost).map(Pfn));
        }
        if st.breaks() {
            into.push(Pfn(self.some_pfn(st)));
        }
        st.fault("returned")
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        let mut st = self.call();
        assert!(st.suspended, "a consistent point while the guest runs");
        st.fault("consistent")
    }
}
