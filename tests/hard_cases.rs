// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hard cases: sequences found by an adversarial review of the engine, each once a loss, a leak or
//! a wrong report.
//! Not here: the rows and branches that the design names (`changes`, `outcomes`), the laws
//! (`laws`).
//! Units: pfns of the hand-driven guest in `fixture`.
//! Threads: one.
//! Source: a review against `docs/design.md`; ports that fail on demand are in `Bent`.

use p2mtrack::config::{Config, ForeignPtePolicy};
use p2mtrack::error::{EntryCause, Error, StructureCause};
use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::migration::Migration;
use p2mtrack::monitor::Monitor;
use p2mtrack::port::*;
use p2mtrack::table::TableView;
use p2mtrack_tests::fixture::{At, BASE, Fixture, Frame, Got, HOLES, OWN, finish, round};
use std::collections::BTreeMap;

fn copied(fixture: Fixture) -> (Fixture, Migration) {
    let mut m = fixture.start(Config::default());
    round(&fixture, &mut m);
    (fixture, m)
}

/// The fixture with ports that fail on demand.
struct Bent {
    fixture: Fixture,
    clean: bool,
    disable: bool,
    enable: bool,
    unmappable: bool,
    frames: Option<u64>,
    fail_after_delivery: bool,
    unconfirmed: bool,
    point: Option<BTreeMap<u64, Got>>,
}
impl Bent {
    fn new(fixture: &Fixture) -> Self {
        Self {
            fixture: fixture.clone(),
            clean: false,
            disable: false,
            enable: false,
            unmappable: false,
            frames: None,
            fail_after_delivery: false,
            unconfirmed: false,
            point: None,
        }
    }
}
struct BentLog<'a>(&'a mut Bent);
impl LogDirty for BentLog<'_> {
    fn enable(&mut self) -> Result<(), PortError> {
        if std::mem::take(&mut self.0.enable) {
            return Err("enable".into());
        }
        self.0.fixture.clone().enable()
    }
    fn disable(&mut self) -> Result<(), PortError> {
        if std::mem::take(&mut self.0.disable) {
            return Err("disable".into());
        }
        self.0.fixture.clone().disable()
    }
    fn clean(&mut self, into: LogBuffer<'_>) -> Result<u64, PortError> {
        let read = self.0.fixture.clone().clean(into)?;
        // EFAULT at the end: the log was copied out and cleared, then the call failed.
        if std::mem::take(&mut self.0.clean) {
            return Err("efault".into());
        }
        Ok(read)
    }
}
struct BentP2m {
    fixture: Fixture,
    unmappable: bool,
    frames: Option<u64>,
}
impl P2mSource for BentP2m {
    fn width(&self) -> Width {
        self.fixture.width()
    }
    fn domain_frames(&mut self) -> Result<u64, PortError> {
        self.frames.map_or_else(|| self.fixture.domain_frames(), Ok)
    }
    fn roots(&mut self) -> Result<Roots, PortError> {
        self.fixture.roots()
    }
    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault> {
        self.fixture.read(mfn, into)
    }
    fn map(&mut self, f: &[Mfn], a: &mut Vec<Result<MapSlot, MapFault>>) {
        if self.unmappable {
            a.resize(f.len(), Err(MapFault::Errno(12)))
        } else {
            self.fixture.map(f, a)
        }
    }
    fn unmap(&mut self, slots: &[MapSlot]) {
        self.fixture.unmap(slots)
    }
    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        self.fixture.live(slot)
    }
}
struct BentTransport {
    fixture: Fixture,
    fail: bool,
    unconfirmed: bool,
    point: Option<BTreeMap<u64, Got>>,
}
impl Transport for BentTransport {
    fn send(
        &mut self,
        p: &[Page],
        v: &dyn TableView,
        a: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        self.fixture.send(p, v, a)?;
        if std::mem::take(&mut self.fail) { Err("cut off after delivery".into()) } else { Ok(()) }
    }
    fn frame_list(&mut self, l: FrameList<'_>) -> Result<(), PortError> {
        self.fixture.frame_list(l)
    }
    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        self.fixture.gone(pfns)
    }
    fn returned(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        self.fixture.returned(into)
    }
    fn consistent(&mut self) -> Result<(), PortError> {
        if std::mem::take(&mut self.unconfirmed) {
            // The destination discarded the unfinished checkpoint, and reported it.
            let mut m = self.fixture.machine();
            let point = self.point.clone().expect("a point");
            let lost: Vec<_> = m
                .received
                .iter()
                .filter(|(k, v)| point.get(k) != Some(v))
                .map(|(k, _)| *k)
                .chain(point.keys().copied())
                .collect();
            m.returned.extend(lost);
            m.received = point;
            return Err("not confirmed".into());
        }
        self.fixture.consistent()
    }
}
impl Bent {
    fn with<T>(&mut self, call: impl FnOnce(&mut Ports<'_>) -> T) -> T {
        let c = self.fixture.clone();
        let mut types = self.fixture.clone();
        let mut unlogged = self.fixture.clone();
        let mut p2m = BentP2m {
            fixture: self.fixture.clone(),
            unmappable: self.unmappable,
            frames: self.frames,
        };
        let mut transport = BentTransport {
            fixture: self.fixture.clone(),
            fail: self.fail_after_delivery,
            unconfirmed: self.unconfirmed,
            point: self.point.clone(),
        };
        call(&mut Ports {
            guest: Guest {
                p2m: &mut p2m,
                m2p: &c,
                types: &mut types,
                unlogged: &mut unlogged,
                observer: &mut (),
            },
            log_dirty: &mut BentLog(self),
            transport: &mut transport,
        })
    }
}

#[test]
fn a_failed_clean_and_a_failed_disable_lose_the_log() {
    let (fixture, mut m) = copied(Fixture::tree());
    fixture.machine().write(9, 0x99);
    fixture.machine().balloon_in(HOLES + 1, 7);
    let mut bent = Bent::new(&fixture);
    (bent.clean, bent.disable) = (true, true);
    let _ = bent.with(|p| m.round(p));
    round(&fixture, &mut m); // "the round may be repeated"
    finish(&fixture, &mut m);
}

#[test]
fn a_failed_clean_and_a_failed_enable_leave_the_log_off() {
    let (fixture, mut m) = copied(Fixture::tree());
    let mut bent = Bent::new(&fixture);
    (bent.clean, bent.enable) = (true, true);
    bent.with(|p| m.round(p)).expect_err("enable failed");
    let again = fixture.with(|p| m.round(p));
    fixture.machine().write(9, 0x99);
    if again.is_ok() {
        finish(&fixture, &mut m);
    }
}

#[test]
fn a_leaf_renamed_and_renamed_back_is_followed() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        let (fixture, mut m) = copied(fixture);
        let (a, b) = (OWN + 1, HOLES + 3);
        let leaf = fixture.machine().leaf(512);
        {
            let g = &mut *fixture.machine();
            g.set_entry(b, Entry(leaf));
            g.machphys(leaf, b);
        }
        round(&fixture, &mut m); // backing pfn: b
        fixture.machine().set_entry(b, Entry::INVALID);
        round(&fixture, &mut m);
        fixture.machine().machphys(leaf, a); // undone: marks a, whose entry never changed
        round(&fixture, &mut m);
        fixture.machine().balloon_out(650); // written in the leaf, marked under a
        round(&fixture, &mut m);
        finish(&fixture, &mut m);
    }
}
#[test]
fn a_leaf_renamed_and_renamed_back_is_reported() {
    let (fixture, mut m) = copied(Fixture::tree());
    let (a, b) = (OWN + 1, HOLES + 3);
    let leaf = fixture.machine().leaf(512);
    fixture.machine().set_entry(b, Entry(leaf));
    fixture.machine().machphys(leaf, b);
    round(&fixture, &mut m);
    fixture.machine().set_entry(b, Entry::INVALID);
    round(&fixture, &mut m);
    fixture.machine().machphys(leaf, a);
    round(&fixture, &mut m);
    finish(&fixture, &mut m);
    assert_eq!(fixture.machine().list[1], Some(Pfn(a)));
}

#[test]
fn a_frame_renamed_and_renamed_back_reaches_the_tables() {
    let (fixture, mut m) = copied(Fixture::tree());
    let (a, b) = (600, HOLES + 3);
    let f = fixture.machine().entry(a).0;
    {
        let g = &mut *fixture.machine();
        g.set_entry(b, Entry(f));
        g.machphys(f, b);
        g.make_table(20, b); // normalised to b
    }
    round(&fixture, &mut m);
    fixture.machine().set_entry(b, Entry::INVALID);
    round(&fixture, &mut m);
    fixture.machine().machphys(f, a);
    round(&fixture, &mut m);
    finish(&fixture, &mut m);
}

#[test]
fn copies_of_a_walk_that_was_not_taken_over_are_not_trusted() {
    let (fixture, mut m) = copied(Fixture::tree());
    {
        let g = &mut *fixture.machine();
        let top = g.roots.frame_list_list;
        let mid = g.peek(top, 0);
        let mid_two = g.copy_words(mid, HOLES + 1);
        g.set_entry(HOLES + 1, Entry(mid_two));
        g.poke(top, 0, mid_two);
        g.on(At::Read, |g| g.errors.push(At::Roots)); // the roots can't be read after the walk
    }
    fixture.with(|p| m.round(p)).expect_err("roots can't be read");
    {
        let g = &mut *fixture.machine();
        let leaf = g.copy_words(g.leaf(512), HOLES + 2);
        g.set_entry(HOLES + 2, Entry(leaf));
        g.poke(leaf, 88, u64::MAX);
        g.set_leaf(1, leaf); // written in mid_two
        g.release(BASE + 600);
    }
    round(&fixture, &mut m);
    finish(&fixture, &mut m);
}

#[test]
fn copies_of_a_blind_walk_are_not_trusted() {
    let fixture = Fixture::tree();
    fixture.machine().roots.pfn_count = (1 << 18) + 512;
    let (fixture, mut m) = copied(fixture);
    {
        let g = &mut *fixture.machine();
        let top = g.roots.frame_list_list;
        let mid = g.peek(top, 0);
        let mid_two = g.copy_words(mid, HOLES + 1);
        g.set_entry(HOLES + 1, Entry(mid_two));
        g.poke(top, 0, mid_two);
        g.poke(top, 1, 0x3abc); // a mid that does not exist yet
    }
    assert!(round(&fixture, &mut m).p2m_unreadable);
    {
        let g = &mut *fixture.machine();
        let leaf = g.copy_words(g.leaf(512), HOLES + 2);
        g.set_entry(HOLES + 2, Entry(leaf));
        g.set_leaf(1, leaf);
        g.release(BASE + 600);
        let new = g.populate(600);
        g.set_entry(600, Entry(new)); // in the new leaf
        g.write_frame(new, 0x6000);
        let top = g.roots.frame_list_list;
        g.poke(top, 1, u64::MAX);
        g.roots.pfn_count = 1536;
    }
    assert!(!round(&fixture, &mut m).p2m_unreadable);
    finish(&fixture, &mut m);
}

#[test]
fn an_offer_survives_rounds_that_failed() {
    let (fixture, mut m) = copied(Fixture::tree());
    {
        let g = &mut *fixture.machine();
        g.accepts = true;
        g.set_entry(9, Entry::INVALID);
        g.set_entry(9, Entry(BASE + 9));
        g.frame(BASE + 9).content = 0xd0;
    }
    for _ in 0..2 {
        fixture.machine().on(At::Clean, |g| g.errors.push(At::Roots));
        fixture.with(|p| m.round(p)).expect_err("roots can't be read");
        fixture.machine().accepts = false;
    }
    round(&fixture, &mut m);
    finish(&fixture, &mut m);
}

#[test]
fn an_offer_is_remembered_for_a_leaf_whose_writes_show_only_later() {
    for rounds in [0, 2, 5] {
        for fixture in [Fixture::tree(), Fixture::linear()] {
            let (fixture, mut m) = copied(fixture);
            let (leaf, home) = {
                let g = &mut *fixture.machine();
                let leaf = g.leaf(9);
                let home = g.frame(leaf).m2p.expect("a leaf has a pfn");
                g.machphys(leaf, HOLES + 40); // its writes are logged under a pfn without an entry
                g.accepts = true;
                g.set_entry(9, Entry::INVALID);
                g.set_entry(9, Entry(BASE + 9));
                g.frame(BASE + 9).content = 0xd0;
                (leaf, home)
            };
            round(&fixture, &mut m);
            fixture.machine().accepts = false;
            for _ in 0..rounds {
                round(&fixture, &mut m);
            }
            fixture.machine().machphys(leaf, home);
            round(&fixture, &mut m);
            finish(&fixture, &mut m);
        }
    }
}

#[test]
fn an_observer_gets_what_may_have_come_back_by_transfer() {
    let fixture = Fixture::tree();
    let mut monitor = Monitor::new(Config::default(), Width::W64).expect("threads");
    fixture.machine().log_on = true;
    fixture
        .with(|ports| monitor.observe(&mut ports.guest, ports.log_dirty, |_, _| ()))
        .expect("the first round");
    {
        let g = &mut *fixture.machine();
        g.accepts = true;
        g.set_entry(9, Entry::INVALID);
        g.set_entry(9, Entry(BASE + 9));
    }
    let mut heard = Vec::new();
    fixture
        .with(|ports| monitor.observe(&mut ports.guest, ports.log_dirty, |pfn, _| heard.push(pfn)))
        .expect("a round");
    assert!(heard.contains(&Pfn(9)));
}

#[test]
fn an_offer_of_the_round_before_survives_rounds_that_failed_before_the_log() {
    let (fixture, mut m) = copied(Fixture::tree());
    fixture.machine().accepts = true;
    round(&fixture, &mut m);
    {
        let g = &mut *fixture.machine();
        g.set_entry(9, Entry::INVALID);
        g.set_entry(9, Entry(BASE + 9));
        g.frame(BASE + 9).content = 0xd0;
        g.accepts = false;
    }
    for _ in 0..3 {
        fixture.machine().errors.push(At::Roots);
        fixture.with(|p| m.round(p)).expect_err("roots can't be read");
    }
    round(&fixture, &mut m);
    finish(&fixture, &mut m);
}

#[test]
fn a_page_written_after_a_first_round_that_failed_amid_its_sends_arrives() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        fixture.machine().on(At::Send, |_| ()); // the first batch is accepted
        fixture.machine().on(At::Send, |g| g.errors.push(At::Send));
        let mut m = fixture.start(Config::default());
        fixture.with(|p| m.round(p)).expect_err("the second batch failed");
        fixture.machine().write(9, 0x99);
        finish(&fixture, &mut m);
    }
}

#[test]
fn a_leaf_whose_pfn_does_not_name_it_back_is_a_named_error() {
    let (fixture, mut m) = copied(Fixture::tree());
    {
        let g = &mut *fixture.machine();
        let leaf = g.leaf(512);
        g.machphys(leaf, 9); // pfn 9 has another frame, by p2m and m2p
        g.set_entry(OWN + 1, Entry::INVALID);
    }
    let done = fixture.with(|p| m.finish(p));
    let g = fixture.machine();
    assert!(
        matches!(done, Err(Error::Structure { cause: StructureCause::Unnamed, .. })),
        "completed, list {:?}, but pfn 9 is {:?}",
        g.list,
        g.entry(9)
    );
}

#[test]
fn each_leaf_without_a_pfn_is_found() {
    let fixture = Fixture::tree();
    let low = BASE + 5;
    {
        let g = &mut *fixture.machine();
        g.roots.pfn_count = 5 * 512;
        g.frame(low).words = Some(std::sync::Arc::new(std::array::from_fn(|_| u64::MAX.into())));
        g.set_leaf(3, low);
        g.set_leaf(4, low); // a shared tail without frames: not tracked
    }
    let (fixture, mut m) = copied(fixture);
    {
        let g = &mut *fixture.machine();
        g.frame(low).m2p = None;
        let leaf = g.leaf(512);
        g.frame(leaf).m2p = None;
        g.log.insert(OWN + 1);
        g.log.insert(5);
        let mid = g.peek(g.roots.frame_list_list, 0);
        g.poke(mid, 7, u64::MAX);
        let e = g.entry(OWN + 1);
        g.set_entry(OWN + 1, Entry::INVALID);
        g.set_entry(5, Entry::INVALID);
        let _ = e;
    }
    let done = fixture.with(|p| m.finish(p));
    assert!(
        matches!(done, Err(Error::Structure { cause: StructureCause::Unnamed, .. })),
        "completed, list {:?}",
        fixture.machine().list
    );
}

#[test]
fn a_write_to_a_tail_leaf_that_is_tracked_elsewhere_calls_for_a_walk() {
    let fixture = Fixture::tree();
    {
        let g = &mut *fixture.machine();
        g.roots.pfn_count = 7 * 512;
        let w = g.copy_words(g.leaf(0), HOLES + 1);
        g.set_entry(HOLES + 1, Entry(w));
        for slot in 0..512 {
            g.poke(w, slot, u64::MAX);
        }
        let last = g.copy_words(g.leaf(0), HOLES + 2);
        g.set_entry(HOLES + 2, Entry(last));
        for slot in 0..512 {
            g.poke(last, slot, u64::MAX);
        }
        for p in [3, 5, 6] {
            g.set_leaf(p, w);
        }
        g.set_leaf(4, last);
        g.balloon_in(4 * 512 + 1, 4);
    }
    let mut m = fixture.start(Config::default());
    let r = round(&fixture, &mut m);
    assert_eq!(r.leaves.tracked, 5);
    let f = {
        let g = &mut *fixture.machine();
        let f = g.populate(6 * 512 + 7);
        g.set_entry(6 * 512 + 7, Entry(f)); // written in the shared leaf
        g.write_frame(f, 0x6006);
        f
    };
    let r = fixture.with(|p| m.finish(p));
    let g = fixture.machine();
    let at: Vec<_> =
        g.received.iter().filter(|(_, v)| **v == Got::Content(0x6006)).map(|x| *x.0).collect();
    assert!(
        matches!(r, Err(Error::Entry { cause: EntryCause::Alias(_), .. })),
        "completed: frame {f:#x}, m2p {:#x}, arrived at {at:x?}; {r:?}",
        6 * 512 + 7
    );
}

#[test]
fn gone_is_said_again_if_the_point_was_not_confirmed() {
    let (fixture, mut m) = copied(Fixture::tree());
    fixture.with(|p| m.checkpoint(p)).expect("a checkpoint");
    let mut bent = Bent::new(&fixture);
    bent.point = Some(fixture.machine().received.clone());
    fixture.machine().balloon_out(9);
    bent.unconfirmed = true;
    bent.with(|p| m.checkpoint(p)).expect_err("not confirmed");
    finish(&fixture, &mut m);
}

#[test]
fn cancel_switches_the_log_off_also_after_a_failed_finish() {
    let (fixture, mut m) = copied(Fixture::tree());
    let mut bent = Bent::new(&fixture);
    bent.disable = true;
    // The destination is complete: after an error the source would run beside it.
    assert!(bent.with(|p| m.finish(p)).expect("completes").log_left_on);
    assert!(fixture.machine().log_on && fixture.machine().maps.is_empty());
    fixture.with(|p| m.cancel(p)).expect("cancels");
    assert!(!fixture.machine().log_on);
}

#[test]
fn a_table_that_names_a_frame_which_lost_its_pfn_is_a_named_error() {
    for fixture in [Fixture::tree(), Fixture::linear()] {
        fixture.machine().make_table(20, 21);
        let (fixture, mut m) = copied(fixture);
        // The frame stays the domain's and in the m2p; the table is not written.
        fixture.machine().set_entry(21, Entry::INVALID);
        round(&fixture, &mut m);
        let error = fixture.with(|ports| m.finish(ports)).expect_err("named");
        assert!(matches!(error, Error::Table { pfn: Pfn(20), .. }), "{error}");
    }
}

#[test]
fn a_frame_without_a_pfn_puts_the_tables_that_may_name_it_in_uncertainty_once() {
    let (fixture, mut m) = copied(Fixture::tree());
    fixture.machine().make_table(19, 21); // names one pfn
    fixture.machine().make_wide_table(20, 21, 1044); // names two that are far apart
    fixture.machine().set_entry(30, Entry::INVALID); // while it is ballooned out
    let point =
        |m: &mut Migration| fixture.with(|ports| m.checkpoint(ports)).expect("a checkpoint");
    assert_eq!(point(&mut m).pages.tables, 3, "both, and the wide one again");
    assert_eq!(point(&mut m).pages.tables, 0);
}

#[test]
fn a_failed_cancel_is_not_live() {
    let (fixture, mut m) = copied(Fixture::tree());
    let mut bent = Bent::new(&fixture);
    bent.disable = true;
    bent.with(|p| m.cancel(p)).expect_err("disable failed");
    fixture.machine().write(9, 1);
    if fixture.with(|p| m.finish(p)).is_ok() {
        fixture.machine().assert_identical();
    }
}

#[test]
fn what_a_table_named_in_a_failed_send_is_given_back() {
    let (fixture, mut m) = copied(Fixture::tree());
    {
        let g = &mut *fixture.machine();
        g.make_table(20, 21);
    }
    round(&fixture, &mut m);
    {
        let g = &mut *fixture.machine();
        g.balloon_in(HOLES + 4, 1);
        let t = g.entry(20).0;
        let f = g.entry(HOLES + 4).0;
        g.poke(t, 3, f << 12 | 0x67);
        // The new page itself is deferred: its m2p is being updated when the page is resolved, but
        // not when the table is.
        g.frame(f).m2p = None;
        g.log = [20, OWN + 2].into();
        let x = HOLES + 4;
        g.on(At::Send, move |g| {
            // the leaf's page goes first
            g.on(At::Send, move |g| g.frame(f).m2p = Some(x));
        });
    }
    let mut bent = Bent::new(&fixture);
    bent.fail_after_delivery = false;
    // two sends in this round: data, then the table. A wrapper makes the second one fail.
    struct Second(u32, Fixture);
    impl Transport for Second {
        fn send(
            &mut self,
            p: &[Page],
            v: &dyn TableView,
            a: &mut Vec<Answer>,
        ) -> Result<(), PortError> {
            self.1.send(p, v, a)?;
            self.0 += 1;
            if self.0 == 2 { Err("cut off after delivery".into()) } else { Ok(()) }
        }
        fn frame_list(&mut self, l: FrameList<'_>) -> Result<(), PortError> {
            self.1.frame_list(l)
        }
        fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
            self.1.gone(pfns)
        }
        fn returned(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
            self.1.returned(into)
        }
        fn consistent(&mut self) -> Result<(), PortError> {
            self.1.consistent()
        }
    }
    let (mut a, mut b, c, mut d, mut e, mut f) = (
        fixture.clone(),
        fixture.clone(),
        fixture.clone(),
        fixture.clone(),
        fixture.clone(),
        Second(0, fixture.clone()),
    );
    m.round(&mut Ports {
        guest: Guest { p2m: &mut b, m2p: &c, types: &mut d, unlogged: &mut e, observer: &mut () },
        log_dirty: &mut a,
        transport: &mut f,
    })
    .expect_err("cut off");
    let Got::Table(t) = fixture.machine().received[&20].clone() else { panic!() };
    assert_eq!(t[3] >> 12, HOLES + 4, "the receiver has a table that names it");
    {
        let g = &mut *fixture.machine();
        let t = g.entry(20).0;
        g.poke(t, 3, 0);
        g.balloon_out(HOLES + 4);
    }
    finish(&fixture, &mut m);
    assert!(fixture.machine().said_gone.contains(&(HOLES + 4)), "leaks at the destination");
}

#[test]
fn a_pfn_under_a_foreign_tag_that_a_table_named_is_given_back() {
    let (fixture, mut m) = copied(Fixture::tree());
    let (x, y) = (HOLES + 4, HOLES + 5);
    let f = {
        let g = &mut *fixture.machine();
        g.balloon_in(y, 1);
        let f = g.entry(y).0;
        g.set_entry(x, Entry::foreign(Width::W64, Mfn(f))); // granted to itself
        g.make_table(20, 21);
        f
    };
    round(&fixture, &mut m);
    {
        let g = &mut *fixture.machine();
        let t = g.entry(20).0;
        g.poke(t, 3, f << 12 | 0x67);
        g.on(At::Send, move |g| g.machphys(f, x));
    }
    round(&fixture, &mut m);
    let Got::Table(t) = fixture.machine().received[&20].clone() else { panic!() };
    assert_eq!(t[3] >> 12, x);
    {
        let g = &mut *fixture.machine();
        let t = g.entry(20).0;
        g.poke(t, 3, 0);
        g.set_entry(x, Entry::INVALID);
        g.machphys(f, y);
    }
    finish(&fixture, &mut m);
    assert!(fixture.machine().said_gone.contains(&x), "leaks at the destination");
}

#[test]
fn leaves_that_can_not_be_mapped_for_a_moment_are_a_uncertainty_and_no_crowd() {
    let fixture = Fixture::tree();
    {
        let g = &mut *fixture.machine();
        g.roots.pfn_count = 200 * 512;
        // Ballooned down: 200 leaves, few frames.
        for p in 3..200 {
            let pfn = HOLES + p as u64;
            let leaf = g.copy_words(g.leaf(0), pfn);
            g.set_entry(pfn, Entry(leaf));
            for slot in 0..512 {
                g.poke(leaf, slot, u64::MAX);
            }
            g.set_leaf(p, leaf);
        }
    }
    let mut m = fixture.start(Config::default());
    let mut bent = Bent::new(&fixture);
    bent.unmappable = true;
    let first = bent.with(|p| m.round(p));
    assert!(first.is_ok(), "{}", first.unwrap_err());
    finish(&fixture, &mut m);
}

#[test]
fn garbage_in_a_shared_leaf_does_not_panic() {
    let fixture = Fixture::tree();
    {
        let g = &mut *fixture.machine();
        let w = g.copy_words(g.leaf(0), HOLES + 9);
        g.set_entry(HOLES + 9, Entry(w));
        for slot in 0..512 {
            g.poke(w, slot, 1 << 40);
        }
        for p in 3..6 {
            g.set_leaf(p, w);
        }
        let last = g.copy_words(g.leaf(1024), HOLES + 10);
        g.set_entry(HOLES + 10, Entry(last));
        g.set_leaf(6, last);
        for slot in 0..512 {
            g.poke(last, slot, u64::MAX);
        }
        g.roots.pfn_count = 7 * 512;
    }
    let mut m = fixture.start(Config::default());
    round(&fixture, &mut m);
    finish(&fixture, &mut m);
}

#[test]
fn one_failed_query_in_the_final_round_is_no_verdict() {
    let fixture = Fixture::tree();
    let mut m = fixture.start(Config { foreign_pte: ForeignPtePolicy::Clear, ..Config::default() });
    round(&fixture, &mut m);
    {
        let g = &mut *fixture.machine();
        let mfn = 0x3000;
        g.frames.insert(
            mfn,
            Frame { owned: false, m2p: Some(30), kind: FrameType::Data, content: 1, words: None },
        );
        g.make_table(20, 21);
        let t = g.entry(20).0;
        g.poke(t, 7, mfn << 12 | 0x67);
        g.log = [20].into();
        g.on(At::Send, |g| g.errors.push(At::Query));
    }
    let r = fixture.with(|p| m.finish(p));
    assert!(r.is_ok(), "{}", r.unwrap_err());
}

#[test]
fn a_blind_round_does_not_say_that_it_shrinks() {
    let (fixture, mut m) = copied(Fixture::tree());
    fixture.machine().write(9, 9);
    let count = std::mem::take(&mut fixture.machine().roots.pfn_count);
    let r = round(&fixture, &mut m);
    assert!(r.p2m_unreadable);
    assert_ne!(r.shrinking, Some(true), "owed {} left {}", r.pages.owed, r.pages.left);
    fixture.machine().roots.pfn_count = count;
    finish(&fixture, &mut m);
}

#[test]
fn shrink_and_regrowth_in_one_round() {
    let (fixture, mut m) = copied(Fixture::tree());
    {
        let g = &mut *fixture.machine();
        g.roots.pfn_count = 1100;
        // The page of leaf 1 moves: an entry of the p2m's own pfn changes, which calls for a second
        // walk.
        let old = g.leaf(512);
        let new = g.copy_words(old, OWN + 1);
        g.set_leaf(1, new);
        g.set_entry(OWN + 1, Entry(new));
        g.release(old);
        g.on(At::Live, |g| {
            g.roots.pfn_count = 1536;
            let mfn = BASE + 1200;
            let leaf = g.leaf(1200);
            g.poke(leaf, 1200 % 512, u64::MAX);
            g.release(mfn);
        });
    }
    round(&fixture, &mut m);
    round(&fixture, &mut m);
    finish(&fixture, &mut m);
}

#[test]
fn report_uncertainties_of_a_failed_round_are_not_counted_in_the_next() {
    let (fixture, mut m) = copied(Fixture::tree());
    fixture.machine().short = Some(100);
    fixture.machine().errors.push(At::Send);
    fixture.with(|p| m.round(p)).expect_err("send");
    let r = round(&fixture, &mut m);
    assert_eq!(r.uncertain[0], 0, "no short bitmap in this round");
}

#[test]
fn report_entries_of_a_failed_round_are_not_counted_again() {
    let (fixture, mut m) = copied(Fixture::tree());
    fixture.machine().balloon_out(9);
    fixture.machine().errors.push(At::Send);
    fixture.with(|p| m.round(p)).expect_err("send");
    fixture.machine().log.insert(OWN);
    assert_eq!(round(&fixture, &mut m).entries.unmapped, 0, "counted in the round that failed");
}

#[test]
fn report_cleared_ptes_of_a_table_that_fell_away() {
    let fixture = Fixture::tree();
    let mut m = fixture.start(Config { foreign_pte: ForeignPtePolicy::Clear, ..Config::default() });
    round(&fixture, &mut m);
    {
        let g = &mut *fixture.machine();
        g.frames.insert(
            0x3000,
            Frame { owned: false, m2p: Some(30), kind: FrameType::Data, content: 1, words: None },
        );
        g.make_table(1200, 21);
        let t = g.entry(1200).0;
        g.poke(t, 7, 0x3000 << 12 | 0x67);
    }
    fixture.with(|p| m.checkpoint(p)).expect("a checkpoint");
    fixture.machine().roots.pfn_count = 1100;
    let r = fixture.with(|p| m.finish(p)).expect("completes");
    assert_eq!((r.settled.cleared_ptes, m.tracker().cleared_ptes().count()), (0, 0));
}
