// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hand-driven guest: a few leaves; the test makes every write and hypercall, with hooks at every
//! port call.
//! Not here: random guests (`p2mtrack-synthetic`); this machine does nothing by itself.
//! Units: pfns, mfns; page contents are numbers.
//! Threads: one; ports share the machine behind a mutex because the traits require `Sync`.
//! Source: marking rules as in Xen: by pfn through the m2p at the time of the write, owned frames
//! only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use p2mtrack::config::Config;
use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::migration::Migration;
use p2mtrack::port::{
    Answer, Deferral, FrameList, FrameTypes, Guest, LOG_DIRTY_LEAF_PFNS, LogBuffer, LogDirty, M2p,
    MapFault, MapSlot, P2mSource, Page, PortError, Ports, QUERY_FRAMES_MAX, Roots, Transfer,
    Transport, Unlogged,
};
use p2mtrack::report::RoundReport;
use p2mtrack::table::{TableCopy, TableView};

/// Frames of the machine.
pub const MACHINE: u64 = 1 << 14;
/// The frame of pfn `p` at the start is `p + BASE`.
pub const BASE: u64 = 0x1000;
/// First of the pfns with the p2m's own frames: leaves, then upper frames.
pub const OWN: u64 = 0x100;
/// First pfn without a frame: the rest of leaf 2 is ballooned out.
pub const HOLES: u64 = 2 * 512 + 256;
const PRESENT: u64 = 0x67;
const VADDR: u64 = 0xffff_c900_0020_0000;

type Words = Arc<[AtomicU64; 512]>;
type Action = Box<dyn FnOnce(&mut Machine) + Send>;

/// A point at which a test's action runs, before the call takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    Roots,
    Clean,
    Read,
    Map,
    Live,
    M2p,
    Query,
    Send,
    Gone,
    Transfers,
    Suspended,
}

#[derive(Clone, Debug)]
pub struct Frame {
    pub owned: bool,
    pub m2p: Option<u64>,
    pub kind: FrameType,
    pub content: u64,
    pub words: Option<Words>,
}

/// What the destination got for a pfn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    Content(u64),
    Table(Vec<u64>),
}

#[derive(Default)]
pub struct Machine {
    pub linear: bool,
    pub frames: BTreeMap<u64, Frame>,
    pub roots: Roots,
    pub log_on: bool,
    pub log: BTreeSet<u64>,
    pub received: BTreeMap<u64, Got>,
    pub said_gone: Vec<u64>,
    /// The same while the guest ran.
    pub noted_gone: Vec<u64>,
    pub list: Vec<Option<Pfn>>,
    pub lists: u64,
    pub consistent: u64,
    pub sent: Vec<u64>,
    pub maps: BTreeMap<u32, Words>,
    pub map_frames: BTreeMap<u32, u64>,
    pub next_map: u32,
    pub unlogged: Vec<u64>,
    /// The type query reports every frame as not the domain's.
    pub disowned: bool,
    pub accepts: bool,
    /// What the transfer entries of the grant table name; `None` if the port does not know.
    pub transfers: Option<Vec<Transfer>>,
    pub returned: Vec<u64>,
    /// Answers to give instead of the transport's own, by pfn.
    pub answers: BTreeMap<u64, VecDeque<Answer>>,
    /// Errors of whole calls, by point; one each.
    pub errors: Vec<At>,
    /// CLEAN reads only this many pfns, once.
    pub short: Option<u64>,
    pub calls: Vec<At>,
    hooks: Vec<(At, Action)>,
}

impl Machine {
    pub fn on(&mut self, at: At, action: impl FnOnce(&mut Self) + Send + 'static) {
        self.hooks.push((at, Box::new(action)));
    }

    fn arrive(&mut self, at: At) {
        self.calls.push(at);
        if let Some(index) = self.hooks.iter().position(|hook| hook.0 == at) {
            let (_, action) = self.hooks.remove(index);
            action(self);
        }
    }

    fn fails(&mut self, at: At) -> Result<(), PortError> {
        match self.errors.iter().position(|error| *error == at) {
            None => Ok(()),
            Some(index) => {
                self.errors.remove(index);
                Err(format!("planted failure at {at:?}").into())
            }
        }
    }

    pub fn frame(&mut self, mfn: u64) -> &mut Frame {
        self.frames.get_mut(&mfn).unwrap_or_else(|| panic!("no frame {mfn:#x}"))
    }

    fn words(&self, mfn: u64) -> Words {
        Arc::clone(
            self.frames[&mfn].words.as_ref().unwrap_or_else(|| panic!("{mfn:#x} has no words")),
        )
    }

    fn mark(&mut self, mfn: u64) {
        let frame = &self.frames[&mfn];
        if let (true, true, Some(pfn)) = (self.log_on, frame.owned, frame.m2p) {
            self.log.insert(pfn);
        }
    }

    pub fn poke(&mut self, mfn: u64, index: usize, word: u64) {
        self.words(mfn)[index].store(word, Ordering::Relaxed);
        self.mark(mfn);
    }

    pub fn peek(&self, mfn: u64, index: usize) -> u64 {
        self.words(mfn)[index].load(Ordering::Relaxed)
    }

    // --- the guest -----------------------------------------------------------------------------

    /// Writes a page through its frame.
    pub fn write_frame(&mut self, mfn: u64, content: u64) {
        self.frame(mfn).content = content;
        self.mark(mfn);
    }

    /// Writes the page of a pfn.
    pub fn write(&mut self, pfn: u64, content: u64) {
        let mfn = self.entry(pfn).0;
        self.write_frame(mfn, content);
    }

    /// The frame of the leaf with the entry of `pfn`, as the guest sees it now.
    pub fn leaf(&self, pfn: u64) -> u64 {
        let position = (pfn / 512) as usize;
        if self.linear {
            let l1 = self.table(1);
            self.peek(l1, position) >> 12 & 0xff_ffff_ffff
        } else {
            let mid = self.peek(self.roots.frame_list_list, 0);
            self.peek(mid, position)
        }
    }

    /// The linear list's page table of a level.
    pub fn table(&self, level: u8) -> u64 {
        let mut mfn = self.roots.p2m_cr3 >> 12;
        for upper in (level..4).rev() {
            let index = (VADDR >> (12 + 9 * u64::from(upper))) as usize & 511;
            mfn = self.peek(mfn, index) >> 12 & 0xff_ffff_ffff;
        }
        mfn
    }

    pub fn entry(&self, pfn: u64) -> Entry {
        Entry(self.peek(self.leaf(pfn), (pfn % 512) as usize))
    }

    pub fn set_entry(&mut self, pfn: u64, entry: Entry) {
        self.poke(self.leaf(pfn), (pfn % 512) as usize, entry.0);
    }

    /// Points a leaf position at another frame: a PTE or a mid slot.
    pub fn set_leaf(&mut self, position: usize, mfn: u64) {
        if self.linear {
            self.poke(self.table(1), position, mfn << 12 | PRESENT);
        } else {
            let mid = self.peek(self.roots.frame_list_list, 0);
            self.poke(mid, position, mfn);
        }
    }

    /// A new frame from Xen for a pfn: m2p set, nothing marked.
    pub fn populate(&mut self, pfn: u64) -> u64 {
        let mfn =
            (BASE + 0x800..MACHINE).find(|m| !self.frames.contains_key(m)).expect("a free frame");
        let frame =
            Frame { owned: true, m2p: Some(pfn), kind: FrameType::Data, content: 0, words: None };
        self.frames.insert(mfn, frame);
        mfn
    }

    /// Gives a frame back to Xen.
    pub fn release(&mut self, mfn: u64) {
        let frame = self.frame(mfn);
        frame.owned = false;
        frame.m2p = None;
    }

    /// Fills a frame with words.
    pub fn give_words(&mut self, mfn: u64, word: u64) {
        self.frame(mfn).words = Some(Arc::new(std::array::from_fn(|_| AtomicU64::new(word))));
    }

    /// Another domain gets a frame, and sets its m2p.
    pub fn give_away(&mut self, mfn: u64, m2p: Option<u64>) {
        let frame = self.frame(mfn);
        (frame.owned, frame.m2p, frame.content) = (false, m2p, 0xbad);
    }

    /// A pfn gets a frame, from Xen or by transfer, with its contents: m2p set, nothing marked, no
    /// entry written.
    pub fn receive(&mut self, mfn: u64, pfn: u64, content: u64) {
        let frame = self.frame(mfn);
        (frame.owned, frame.m2p, frame.content) = (true, Some(pfn), content);
    }

    /// `MMU_MACHPHYS_UPDATE`: sets the m2p and marks the new pfn.
    pub fn machphys(&mut self, mfn: u64, pfn: u64) {
        self.frame(mfn).m2p = Some(pfn);
        self.mark(mfn);
    }

    pub fn balloon_out(&mut self, pfn: u64) -> u64 {
        let mfn = self.entry(pfn).0;
        self.set_entry(pfn, Entry::INVALID);
        self.release(mfn);
        mfn
    }

    /// The same, if the pfn has a frame.
    pub fn balloon_out_if_there(&mut self, pfn: u64) {
        if self.entry(pfn) != Entry::INVALID {
            self.balloon_out(pfn);
        }
    }

    pub fn balloon_in(&mut self, pfn: u64, content: u64) {
        let mfn = self.populate(pfn);
        self.set_entry(pfn, Entry(mfn));
        self.write_frame(mfn, content);
    }

    /// Turns a page into a level 1 page table with one PTE.
    pub fn make_table(&mut self, pfn: u64, target: u64) {
        let mfn = self.entry(pfn).0;
        let frame = self.frame(mfn);
        frame.words = Some(Arc::new(std::array::from_fn(|_| AtomicU64::new(0))));
        frame.kind = FrameType::Table { level: 1, pinned: false };
        let named = self.entry(target).0;
        self.poke(mfn, 3, named << 12 | PRESENT);
    }

    /// The same with two PTEs, to pfns that are far apart: what it names is remembered by steps of
    /// a few pfns then, so that it may also name their neighbours.
    pub fn make_wide_table(&mut self, pfn: u64, target: u64, other: u64) {
        self.make_table(pfn, target);
        let (mfn, named) = (self.entry(pfn).0, self.entry(other).0);
        self.poke(mfn, 4, named << 12 | PRESENT);
    }

    /// Copies a leaf, with its words, to a new frame of `pfn`.
    pub fn copy_words(&mut self, from: u64, pfn: u64) -> u64 {
        let mfn = self.populate(pfn);
        let words = self.words(from);
        let copy = std::array::from_fn(|i| AtomicU64::new(words[i].load(Ordering::Relaxed)));
        self.frame(mfn).words = Some(Arc::new(copy));
        self.mark(mfn);
        mfn
    }

    // --- the judge -----------------------------------------------------------------------------

    /// What the destination must hold: computed from the machine alone.
    pub fn expected(&self) -> BTreeMap<u64, Got> {
        let frame_of = |pfn: u64| {
            let mfn = self.entry(pfn).0;
            self.frames.get(&mfn).filter(|f| f.owned && f.m2p == Some(pfn))
        };
        let pfn_of = |pte: u64| self.frames[&(pte >> 12 & 0xff_ffff_ffff)].m2p.expect("an m2p");
        let got = |frame: &Frame| match (&frame.words, frame.kind) {
            (Some(words), FrameType::Table { .. }) => Got::Table(
                words
                    .iter()
                    .map(|w| w.load(Ordering::Relaxed))
                    .map(|w| if w & 1 == 1 { pfn_of(w) << 12 | PRESENT } else { w })
                    .collect(),
            ),
            _ => Got::Content(frame.content),
        };
        (0..self.roots.pfn_count).filter_map(|pfn| Some((pfn, got(frame_of(pfn)?)))).collect()
    }

    pub fn assert_identical(&self) {
        let expected = self.expected();
        for pfn in expected.keys().chain(self.received.keys()).collect::<BTreeSet<_>>() {
            let (source, there) = (expected.get(pfn), self.received.get(pfn));
            assert_eq!(there, source, "pfn {pfn:#x} differs at the destination");
        }
    }
}

/// The machine and its ports.
#[derive(Clone)]
pub struct Fixture(Arc<Mutex<Machine>>);

/// A live round that ends without an error.
pub fn round(fixture: &Fixture, migration: &mut Migration) -> RoundReport {
    fixture.with(|ports| migration.round(ports)).expect("a live round")
}

/// A final round that ends without an error, with an identical destination.
pub fn finish(fixture: &Fixture, migration: &mut Migration) -> RoundReport {
    let report = fixture.with(|ports| migration.finish(ports)).expect("completes");
    fixture.machine().assert_identical();
    report
}

impl Fixture {
    /// A guest with a 3-level tree of three leaves: pfns 0..1280 have frames.
    pub fn tree() -> Self {
        Self::new(false)
    }

    /// The same guest with a linear list.
    pub fn linear() -> Self {
        Self::new(true)
    }

    fn new(linear: bool) -> Self {
        let mut machine = Machine { linear, transfers: Some(vec![]), ..Machine::default() };
        for pfn in 0..HOLES {
            let frame = Frame {
                owned: true,
                m2p: Some(pfn),
                kind: FrameType::Data,
                content: 0xc0_0000 + pfn,
                words: None,
            };
            machine.frames.insert(BASE + pfn, frame);
        }
        let own = |n: u64| BASE + OWN + n;
        for n in 0..8 {
            machine.frame(own(n)).words = Some(Arc::new(std::array::from_fn(|_| {
                AtomicU64::new(if linear && n > 2 { 0 } else { u64::MAX })
            })));
        }
        for pfn in 0..HOLES {
            machine.poke(own(pfn / 512), (pfn % 512) as usize, BASE + pfn);
        }
        machine.roots = Roots { pfn_count: 3 * 512, ..Roots::default() };
        if linear {
            machine.roots.p2m_vaddr = VADDR;
            machine.roots.p2m_cr3 = own(6) << 12;
            for (level, table) in (1_u64..=4).zip(3..) {
                machine.frame(own(table)).kind =
                    FrameType::Table { level: level as u8, pinned: false };
            }
            for (level, child) in [(4_u64, 5), (3, 4), (2, 3)] {
                let index = (VADDR >> (12 + 9 * (level - 1))) as usize & 511;
                machine.poke(own(level + 2), index, own(child) << 12 | PRESENT);
            }
            for position in 0..3 {
                machine.poke(own(3), position as usize, own(position) << 12 | PRESENT);
            }
        } else {
            machine.roots.frame_list_list = own(4);
            machine.poke(own(4), 0, own(3));
            for position in 0..3 {
                machine.poke(own(3), position as usize, own(position));
            }
        }
        Self(Arc::new(Mutex::new(machine)))
    }

    pub fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().expect("one thread")
    }

    /// Runs `call` with the ports.
    pub fn with<T>(&self, call: impl FnOnce(&mut Ports<'_>) -> T) -> T {
        let (mut a, mut b, c, mut d, mut e, mut f) =
            (self.clone(), self.clone(), self.clone(), self.clone(), self.clone(), self.clone());
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

    pub fn start(&self, config: Config) -> Migration {
        self.with(|ports| Migration::start(config, ports)).expect("starts")
    }
}

impl LogDirty for Fixture {
    fn enable(&mut self) -> Result<(), PortError> {
        let mut machine = self.machine();
        machine.log_on = true;
        machine.log.clear();
        Ok(())
    }

    fn disable(&mut self) -> Result<(), PortError> {
        self.machine().log_on = false;
        Ok(())
    }

    fn clean(&mut self, mut into: LogBuffer<'_>) -> Result<u64, PortError> {
        let mut machine = self.machine();
        assert!(into.pfns() > 0 && into.pfns().is_multiple_of(LOG_DIRTY_LEAF_PFNS));
        machine.arrive(At::Clean);
        machine.fails(At::Clean)?;
        let read = machine.short.take().unwrap_or(into.pfns());
        let log = std::mem::take(&mut machine.log);
        for pfn in log {
            if pfn < read {
                into.set(Pfn(pfn));
            }
        }
        Ok(read)
    }
}

impl P2mSource for Fixture {
    fn width(&self) -> Width {
        Width::W64
    }

    fn domain_frames(&mut self) -> Result<u64, PortError> {
        Ok(self.machine().frames.values().filter(|frame| frame.owned).count() as u64)
    }

    fn still_suspended(&mut self) -> Result<(), PortError> {
        let mut machine = self.machine();
        machine.arrive(At::Suspended);
        machine.fails(At::Suspended)
    }

    fn roots(&mut self) -> Result<Roots, PortError> {
        let mut machine = self.machine();
        machine.arrive(At::Roots);
        machine.fails(At::Roots)?;
        Ok(machine.roots)
    }

    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault> {
        let mut machine = self.machine();
        machine.arrive(At::Read);
        let frame = machine.frames.get(&mfn.0).filter(|f| f.owned).ok_or(MapFault::NotOwned)?;
        for (index, word) in into.words.iter_mut().enumerate() {
            *word = frame.words.as_ref().map_or(0, |words| words[index].load(Ordering::Relaxed));
        }
        Ok(())
    }

    fn map(&mut self, frames: &[Mfn], answers: &mut Vec<Result<MapSlot, MapFault>>) {
        let mut machine = self.machine();
        machine.arrive(At::Map);
        for mfn in frames {
            let owned = machine.frames.get(&mfn.0).filter(|frame| frame.owned);
            let words = owned.map(|frame| {
                frame
                    .words
                    .clone()
                    .unwrap_or_else(|| Arc::new(std::array::from_fn(|_| AtomicU64::new(0))))
            });
            answers.push(words.map_or(Err(MapFault::NotOwned), |words| {
                machine.next_map += 1;
                let slot = machine.next_map;
                machine.maps.insert(slot, words);
                machine.map_frames.insert(slot, mfn.0);
                Ok(MapSlot(slot))
            }));
        }
    }

    fn unmap(&mut self, slots: &[MapSlot]) {
        let mut machine = self.machine();
        for slot in slots {
            assert!(machine.maps.remove(&slot.0).is_some(), "unmapped twice");
            machine.map_frames.remove(&slot.0);
        }
    }

    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        let mut machine = self.machine();
        machine.arrive(At::Live);
        let words = Arc::as_ptr(machine.maps.get(&slot.0).expect("a held mapping"));
        drop(machine);
        // SAFETY: the words are atomics behind an Arc that stays in `maps` until `unmap` takes the
        // slot; the tracker does not use a slot after that, and no plain reference to them exists.
        unsafe { GuestLeaf::from_ptr(words.cast()) }
    }
}

impl M2p for Fixture {
    fn frames(&self) -> u64 {
        MACHINE
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        let mut machine = self.machine();
        machine.arrive(At::M2p);
        machine.frames.get(&mfn.0).and_then(|frame| frame.m2p).map(Pfn)
    }
}

impl FrameTypes for Fixture {
    fn query(&mut self, frames: &[Mfn], types: &mut [FrameType]) -> Result<(), PortError> {
        let mut machine = self.machine();
        machine.arrive(At::Query);
        machine.fails(At::Query)?;
        assert!(frames.len() <= QUERY_FRAMES_MAX && frames.iter().all(|mfn| mfn.0 < MACHINE));
        for (mfn, kind) in frames.iter().zip(types) {
            let frame = machine.frames.get(&mfn.0).filter(|frame| frame.owned);
            let frame = frame.filter(|_| !machine.disowned);
            *kind = frame.map_or(FrameType::NotOwned, |frame| frame.kind);
        }
        Ok(())
    }
}

impl Unlogged for Fixture {
    fn pfns(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        into.extend(self.machine().unlogged.iter().copied().map(Pfn));
        Ok(())
    }

    fn accepts_transfer(&mut self) -> Result<bool, PortError> {
        Ok(self.machine().accepts)
    }

    fn transfers(&mut self, into: &mut Vec<Transfer>) -> Result<bool, PortError> {
        let mut machine = self.machine();
        machine.arrive(At::Transfers);
        machine.fails(At::Transfers)?;
        into.extend(machine.transfers.iter().flatten());
        Ok(machine.transfers.is_some())
    }
}

impl Fixture {
    fn deliver(&self, page: &Page, view: &dyn TableView) -> Answer {
        let found = {
            let machine = self.machine();
            machine.frames.get(&page.mfn.0).filter(|frame| frame.owned).cloned()
        };
        let Some(frame) = found else {
            return Answer::Deferred(Deferral::MapFailed(MapFault::NotOwned));
        };
        let got = match (page.kind, &frame.words) {
            (FrameType::Table { level, .. }, Some(words)) => {
                let words = std::array::from_fn(|i| words[i].load(Ordering::Relaxed));
                let mut table = [TableCopy::new(page.pfn, level, Leaf { words })];
                view.normalise_all(&mut table);
                let [TableCopy { words, fault, .. }] = table;
                if let Some(fault) = fault {
                    return Answer::Deferred(Deferral::Table(fault));
                }
                Got::Table(words.words.to_vec())
            }
            _ => Got::Content(frame.content),
        };
        let mut machine = self.machine();
        machine.received.insert(page.pfn.0, got);
        machine.sent.push(page.pfn.0);
        machine
            .answers
            .get_mut(&page.pfn.0)
            .and_then(VecDeque::pop_front)
            .unwrap_or(Answer::Accepted)
    }
}

impl Transport for Fixture {
    fn send(
        &mut self,
        pages: &[Page],
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        {
            let mut machine = self.machine();
            machine.arrive(At::Send);
            machine.fails(At::Send)?;
        }
        for page in pages {
            let answer = self.deliver(page, view);
            answers.push(answer);
        }
        Ok(())
    }

    fn frame_list(&mut self, list: FrameList<'_>) -> Result<(), PortError> {
        let mut machine = self.machine();
        machine.list = list.leaves.to_vec();
        machine.lists += 1;
        Ok(())
    }

    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        let mut machine = self.machine();
        machine.arrive(At::Gone);
        machine.fails(At::Gone)?;
        for pfn in pfns {
            machine.said_gone.push(pfn.0);
            machine.received.remove(&pfn.0);
        }
        Ok(())
    }

    fn note_gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        let mut machine = self.machine();
        for pfn in pfns {
            machine.noted_gone.push(pfn.0);
            machine.received.remove(&pfn.0);
        }
        Ok(())
    }

    fn returned(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        into.extend(self.machine().returned.drain(..).map(Pfn));
        Ok(())
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        self.machine().consistent += 1;
        Ok(())
    }
}
