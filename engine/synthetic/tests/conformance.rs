// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulated back ends keep the rules of the ports; and each check finds a port that breaks its
//! rule.
//! Not here: the rules (`p2mtrack::port::conformance`), faults on purpose (`ports`).
//! Units: small guests, suspended.
//! Threads: two readers.
//! Source: the contracts of the traits in `p2mtrack::port`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::port::conformance::{self, Outcome};
use p2mtrack::port::{
    Answer, FrameList, FrameTypes, Guest, LogBuffer, LogDirty, M2p, MapFault, MapSlot, P2mSource,
    Page, PortError, Roots, Transfer, Transport, Unlogged,
};
use p2mtrack::table::{Resolved, TableView};
use p2mtrack_synthetic::ports::SimM2p;
use p2mtrack_synthetic::{P2mKind, Scenario, SimConfig, SimPorts, Simulation};

/// A suspended guest.
fn at_rest(width: Width, kind: P2mKind) -> Simulation {
    let plain = SimConfig::plain(Scenario::Quiet, 1, 8 << 20);
    let simulation = Simulation::new(&SimConfig { width, p2m: Some(kind), ..plain });
    simulation.run_guest(50);
    simulation.suspend();
    simulation
}

fn kinds() -> impl Iterator<Item = Simulation> {
    let both = [Width::W32, Width::W64].into_iter();
    both.flat_map(|width| [P2mKind::Linear, P2mKind::Tree].map(|kind| at_rest(width, kind)))
}

/// The guest goes on for a while.
fn go_on(simulation: &Simulation) {
    simulation.resume();
    simulation.run_guest(50);
    simulation.suspend();
}

/// The domain's frames, as they are read.
fn copies(ports: &mut SimPorts) -> Vec<Option<Leaf>> {
    let mut copy = |mfn| {
        let mut leaf = Leaf::default();
        ports.p2m.read(Mfn(mfn), &mut leaf).ok().map(|()| leaf)
    };
    (0..ports.m2p.frames()).map(&mut copy).collect()
}

/// The frames that a guest of [`at_rest`] writes when it goes on, found with another guest of the
/// same seed.
fn written_next(width: Width, kind: P2mKind) -> Vec<Mfn> {
    let simulation = at_rest(width, kind);
    let mut ports = simulation.ports();
    let before = copies(&mut ports);
    go_on(&simulation);
    let after = copies(&mut ports);
    let written = |mfn: &u64| {
        let [before, after] = [&before[*mfn as usize], &after[*mfn as usize]];
        before.is_some() && after.is_some() && before != after
    };
    let written: Vec<_> = (0..ports.m2p.frames()).filter(written).map(Mfn).collect();
    assert!(written.len() > 3, "{} frames", written.len());
    written
}

/// Every table is sent as it is.
struct Careless(Width);

impl TableView for Careless {
    fn width(&self) -> Width {
        self.0
    }
    fn resolve(&self, _: Pfn, _: Mfn) -> Resolved {
        Resolved::Clear
    }
    fn is_compat_m2p(&self, _: Mfn) -> bool {
        false
    }
}

/// Pages of the first pfns.
fn pages(ports: &mut SimPorts) -> Vec<Page> {
    let mfns: Vec<Mfn> = (0..ports.m2p.frames()).map(Mfn).collect();
    let mut pages = Vec::new();
    for mfns in mfns.chunks(1024) {
        let mut types = vec![FrameType::Data; mfns.len()];
        ports.types.query(mfns, &mut types).expect("answers");
        for (&mfn, kind) in mfns.iter().zip(types) {
            let named = ports.m2p.pfn(mfn).filter(|_| kind != FrameType::NotOwned);
            let entry = Entry::frame(mfn);
            pages.extend(named.map(|pfn| Page { pfn, mfn, entry, kind }));
        }
    }
    pages.sort_by_key(|page| page.pfn);
    pages.truncate(1500);
    pages
}

#[test]
fn simulated_ports_conform() {
    for simulation in kinds() {
        let mut ports = simulation.ports();
        conformance::guest(&mut ports.lend(&mut ()).guest).expect("the guest");
        let pfns = ports.p2m.roots().expect("roots").pfn_count;
        conformance::log_dirty(&mut ports.log_dirty, pfns, None).expect("its log");
        let (pages, width) = (pages(&mut ports), ports.p2m.width());
        let view = Careless(width);
        conformance::transport(&mut ports.transport, width, &pages, &view, &ports.m2p)
            .expect("the transport");
    }
}

#[test]
fn what_a_simulated_guest_writes_is_seen_and_logged() {
    for (width, kind) in [(Width::W32, P2mKind::Tree), (Width::W64, P2mKind::Linear)] {
        let (simulation, written) = (at_rest(width, kind), written_next(width, kind));
        let SimPorts { mut log_dirty, mut p2m, m2p, .. } = simulation.ports();
        let mut write = || {
            conformance::live(&mut p2m, written[0], &mut || go_on(&simulation)).expect("live");
            written.iter().filter_map(|&mfn| m2p.pfn(mfn)).collect::<Vec<_>>()
        };
        conformance::log_dirty(&mut log_dirty, 1 << 20, Some(&mut write)).expect("its log");
    }
}

/// What a back end does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    FramesGrow,
    PfnPastTheEnd,
    PfnOfTheNext,
    PfnsOfOthers,
    RunOfPfnsTooLong,
    RootsMove,
    HoldsTooMuch,
    ReadsPastTheEnd,
    AnswersForNothing,
    AnswerLacks,
    MapsStrangers,
    OutOfOrder,
    MapsOnce,
    ShowsAnother,
    LiveIsOld,
    ReadIsOld,
    EntriesOfOthers,
    RunOfEntriesTooLong,
    TypesOfStrangers,
    TypesOutOfOrder,
    NoWholeBatch,
    PfnsReplaced,
    NamesUnknown,
    LogKeeps,
    LogTooLong,
    LogReadsNothing,
    LogOnce,
    WriteIsLost,
    OneWriteOnly,
    AcceptsStrangers,
    PageLacks,
    NothingIsTaken,
    ReturnedReplaced,
    NotConfirmed,
}

/// A port that does one thing wrong.
struct Bad<'a, T> {
    inner: &'a mut T,
    wrong: Wrong,
    calls: AtomicU64,
    /// The first frame that was mapped, as it was then.
    old: OnceLock<Box<[AtomicU64; 512]>>,
}

impl<'a, T> Bad<'a, T> {
    fn new(inner: &'a mut T, wrong: Wrong) -> Self {
        Self { inner, wrong, calls: AtomicU64::new(0), old: OnceLock::new() }
    }
}

impl<T> Bad<'_, T> {
    /// The number of this call.
    fn call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1 // ORDER: a number of its own
    }
}

/// The same of an m2p.
struct BadM2p<'a>(&'a SimM2p, Wrong, AtomicU64);

impl M2p for BadM2p<'_> {
    fn frames(&self) -> u64 {
        let grow = u64::from(self.1 == Wrong::FramesGrow);
        // ORDER: a number of its own
        self.0.frames() + grow * self.2.fetch_add(1, Ordering::Relaxed)
    }
    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        let past = mfn.0 >= self.0.frames() && self.1 == Wrong::PfnPastTheEnd;
        let next = u64::from(self.1 == Wrong::PfnOfTheNext);
        if past { Some(Pfn(0)) } else { self.0.pfn(Mfn(mfn.0.wrapping_add(next))) }
    }
    fn pfns(&self, frames: &[Mfn], into: &mut [Option<Pfn>]) {
        frames.iter().zip(&mut *into).for_each(|(&mfn, pfn)| *pfn = self.pfn(mfn));
        if self.1 == Wrong::PfnsOfOthers {
            into.rotate_left(1);
        }
    }
    fn is_run(&self, first: Mfn, pfn: Pfn, count: u64) -> bool {
        let looked_at = if self.1 == Wrong::RunOfPfnsTooLong { 1 } else { count };
        (0..looked_at).all(|at| self.pfn(Mfn(first.0 + at)) == Some(Pfn(pfn.0 + at)))
    }
}

impl<T: P2mSource> P2mSource for Bad<'_, T> {
    fn width(&self) -> Width {
        self.inner.width()
    }
    fn domain_frames(&mut self) -> Result<u64, PortError> {
        let more = if self.wrong == Wrong::HoldsTooMuch { 1 << 50 } else { 0 };
        Ok(self.inner.domain_frames()? + more)
    }
    fn roots(&mut self) -> Result<Roots, PortError> {
        let mut roots = self.inner.roots()?;
        if self.wrong == Wrong::RootsMove {
            roots.pfn_count -= self.call() % 2;
        }
        Ok(roots)
    }
    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault> {
        let read = self.inner.read(mfn, into);
        if let Some(old) = self.old.get().filter(|_| self.wrong == Wrong::ReadIsOld) {
            // ORDER: never written.
            into.words = std::array::from_fn(|word| old[word].load(Ordering::Relaxed));
        }
        if self.wrong == Wrong::ReadsPastTheEnd { Ok(()) } else { read }
    }
    fn map(&mut self, frames: &[Mfn], answers: &mut Vec<Result<MapSlot, MapFault>>) {
        let wrong = self.wrong;
        let first = answers.len();
        match wrong {
            Wrong::AnswersForNothing if frames.is_empty() => {
                answers.push(Err(MapFault::NotOwned));
            }
            // ORDER: a number of its own
            Wrong::MapsOnce if self.calls.load(Ordering::Relaxed) > 2 => {
                answers.extend(frames.iter().map(|_| Err(MapFault::Errno(12))));
            }
            Wrong::OutOfOrder => {
                let turned: Vec<_> = frames.iter().rev().copied().collect();
                self.inner.map(&turned, answers);
            }
            Wrong::MapsStrangers => {
                self.inner.map(frames, answers);
                let some = answers.iter().copied().find_map(Result::ok);
                for answer in &mut answers[first..] {
                    *answer = answer.or(some.ok_or(MapFault::NotOwned));
                }
            }
            _ => self.inner.map(frames, answers),
        }
        if wrong == Wrong::AnswerLacks {
            answers.pop();
        }
        self.call();
        if let Some(&Ok(slot)) = answers.first() {
            let mut copy = Leaf::default();
            self.inner.live(slot).fetch(&mut copy);
            self.old.get_or_init(|| Box::new(copy.words.map(AtomicU64::new)));
        }
    }
    fn unmap(&mut self, slots: &[MapSlot]) {
        self.inner.unmap(slots);
    }
    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        if let Some(old) = self.old.get().filter(|_| self.wrong == Wrong::LiveIsOld) {
            return GuestLeaf::from_atomics(old);
        }
        let other = MapSlot(slot.0 ^ 1);
        self.inner.live(if self.wrong == Wrong::ShowsAnother { other } else { slot })
    }
    fn is_run(&self, slot: MapSlot, position: u32, first: Mfn, count: u64) -> bool {
        let looked_at = if self.wrong == Wrong::RunOfEntriesTooLong { 1 } else { count };
        self.inner.is_run(slot, position, first, looked_at)
    }
    fn entries(&self, places: &[(MapSlot, u32)], into: &mut [Entry]) {
        self.inner.entries(places, into);
        if self.wrong == Wrong::EntriesOfOthers {
            into.rotate_left(1);
        }
    }
}

impl<T: FrameTypes> FrameTypes for Bad<'_, T> {
    fn query(&mut self, frames: &[Mfn], types: &mut [FrameType]) -> Result<(), PortError> {
        if self.wrong == Wrong::NoWholeBatch && frames.len() > 512 {
            return Err("too many".into());
        }
        self.inner.query(frames, types)?;
        match self.wrong {
            Wrong::TypesOfStrangers => types.fill(FrameType::Data),
            Wrong::TypesOutOfOrder => types.rotate_left(usize::from(self.call() == 3)),
            _ => {}
        }
        Ok(())
    }
}

impl<T: Unlogged> Unlogged for Bad<'_, T> {
    fn pfns(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        if self.wrong == Wrong::PfnsReplaced {
            into.clear();
        }
        self.inner.pfns(into)
    }
    fn accepts_transfer(&mut self) -> Result<bool, PortError> {
        self.inner.accepts_transfer()
    }
    fn transfers(&mut self, into: &mut Vec<Transfer>) -> Result<bool, PortError> {
        let known = self.inner.transfers(into)?;
        into.extend((self.wrong == Wrong::NamesUnknown).then_some(Transfer::Into(Pfn(1))));
        Ok(known && self.wrong != Wrong::NamesUnknown)
    }
}

impl<T: LogDirty> LogDirty for Bad<'_, T> {
    fn enable(&mut self) -> Result<(), PortError> {
        if self.wrong == Wrong::LogOnce && self.call() > 1 {
            return Err("on once, and never again".into());
        }
        self.inner.enable()
    }
    fn disable(&mut self) -> Result<(), PortError> {
        self.inner.disable()
    }
    fn clean(&mut self, mut into: LogBuffer<'_>) -> Result<u64, PortError> {
        let read = self.inner.clean(into.lend())?;
        match self.wrong {
            Wrong::LogKeeps => into.set(Pfn(1)),
            Wrong::LogTooLong => return Ok(read + 1),
            Wrong::LogReadsNothing => return Ok(0),
            Wrong::WriteIsLost => into.words_mut().fill(0),
            Wrong::OneWriteOnly => {
                let first = into.copy().drain().first().copied();
                into.words_mut().fill(0);
                first.into_iter().for_each(|pfn| into.set(pfn));
            }
            _ => {}
        }
        Ok(read)
    }
}

impl<T: Transport> Transport for Bad<'_, T> {
    fn send(
        &mut self,
        pages: &[Page],
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        self.inner.send(pages, view, answers)?;
        match self.wrong {
            Wrong::AcceptsStrangers => {
                answers.iter_mut().for_each(|answer| *answer = Answer::Accepted);
            }
            Wrong::PageLacks => drop(answers.pop()),
            Wrong::NothingIsTaken => {
                let defer = || Answer::Deferred(p2mtrack::port::Deferral::Unacknowledged);
                answers.iter_mut().for_each(|answer| *answer = defer());
            }
            _ => {}
        }
        Ok(())
    }
    fn frame_list(&mut self, list: FrameList<'_>) -> Result<(), PortError> {
        self.inner.frame_list(list)
    }
    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        self.inner.gone(pfns)
    }
    fn returned(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        if self.wrong == Wrong::ReturnedReplaced {
            into.clear();
        }
        self.inner.returned(into)
    }
    fn consistent(&mut self) -> Result<(), PortError> {
        if self.wrong == Wrong::NotConfirmed {
            Err("no word".into())
        } else {
            self.inner.consistent()
        }
    }
}

/// Runs all checks over ports of which one is wrong.
fn check(wrong: Wrong) -> Outcome {
    let simulation = at_rest(Width::W64, P2mKind::Linear);
    let mut handles = simulation.ports();
    let (pages, pfns) = (pages(&mut handles), handles.p2m.roots().expect("roots").pfn_count);
    let SimPorts { log_dirty, p2m, m2p, types, unlogged, transport, .. } = &mut handles;
    let m2p = BadM2p(m2p, wrong, AtomicU64::new(0));
    // While the guest is suspended these two do nothing wrong.
    let stale = matches!(wrong, Wrong::LiveIsOld | Wrong::ReadIsOld);
    conformance::guest(&mut Guest {
        p2m: &mut Bad::new(p2m, if stale { Wrong::Nothing } else { wrong }),
        m2p: &m2p,
        types: &mut Bad::new(types, wrong),
        unlogged: &mut Bad::new(unlogged, wrong),
        observer: &mut (),
    })?;
    let written = written_next(Width::W64, P2mKind::Linear);
    if stale {
        let p2m = &mut Bad::new(p2m, wrong);
        return conformance::live(p2m, written[0], &mut || go_on(&simulation));
    }
    let mut write = || {
        go_on(&simulation);
        written.iter().filter_map(|&mfn| m2p.pfn(mfn)).collect()
    };
    conformance::log_dirty(&mut Bad::new(log_dirty, wrong), pfns, Some(&mut write))?;
    let transport = &mut Bad::new(transport, wrong);
    conformance::transport(transport, Width::W64, &pages, &Careless(Width::W64), &m2p)
}

#[test]
fn a_correct_back_end_conforms() {
    check(Wrong::Nothing).unwrap_or_else(|broken| panic!("{broken}"));
}

#[test]
fn each_rule_finds_the_port_that_breaks_it() {
    for (wrong, port, rule) in [
        (Wrong::FramesGrow, "M2p", "the same at every call"),
        (Wrong::PfnPastTheEnd, "M2p", "past the end"),
        (Wrong::PfnOfTheNext, "M2p", "whose entry names it"),
        (Wrong::PfnsOfOthers, "M2p", "`pfns` says"),
        (Wrong::RunOfPfnsTooLong, "M2p", "`is_run` says"),
        (Wrong::RootsMove, "P2mSource", "roots of a suspended guest"),
        (Wrong::HoldsTooMuch, "P2mSource", "no more frames than the machine"),
        (Wrong::ReadsPastTheEnd, "P2mSource", "past the machine's end"),
        (Wrong::AnswersForNothing, "P2mSource", "`map` of nothing"),
        (Wrong::AnswerLacks, "P2mSource", "once for each frame"),
        (Wrong::MapsStrangers, "P2mSource", "and no others"),
        (Wrong::OutOfOrder, "P2mSource", "in their order"),
        (Wrong::MapsOnce, "P2mSource", "mapped again"),
        (Wrong::ShowsAnother, "P2mSource", "`live`"),
        (Wrong::LiveIsOld, "P2mSource", "written after `map`"),
        (Wrong::ReadIsOld, "P2mSource", "what `live` shows"),
        (Wrong::EntriesOfOthers, "P2mSource", "`entries` says"),
        (Wrong::RunOfEntriesTooLong, "P2mSource", "`is_run` says"),
        (Wrong::TypesOfStrangers, "FrameTypes", "and no other is"),
        (Wrong::TypesOutOfOrder, "FrameTypes", "order of the frames"),
        (Wrong::NoWholeBatch, "FrameTypes", "up to 1,024"),
        (Wrong::PfnsReplaced, "Unlogged", "`pfns` appends"),
        (Wrong::NamesUnknown, "Unlogged", "names none"),
        (Wrong::LogKeeps, "LogDirty", "clears what it read"),
        (Wrong::LogTooLong, "LogDirty", "no more than it was asked for"),
        (Wrong::LogReadsNothing, "LogDirty", "reads something"),
        (Wrong::LogOnce, "LogDirty", "switched on again"),
        (Wrong::WriteIsLost, "LogDirty", "that was written is dirty"),
        (Wrong::OneWriteOnly, "LogDirty", "that was written is dirty"),
        (Wrong::AcceptsStrangers, "Transport", "is not there is deferred"),
        (Wrong::PageLacks, "Transport", "once for each page"),
        (Wrong::NothingIsTaken, "Transport", "can be read is accepted"),
        (Wrong::ReturnedReplaced, "Transport", "`returned` appends"),
        (Wrong::NotConfirmed, "Transport", "confirmed"),
    ] {
        let broken = check(wrong).expect_err(&format!("{wrong:?}"));
        assert!(broken.port == port && broken.rule.contains(rule), "{wrong:?}: {broken}");
        assert!(!broken.seen.is_empty());
    }
}
