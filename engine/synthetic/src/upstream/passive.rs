// SPDX-License-Identifier: MIT OR Apache-2.0
//! Upstream's loop with the engine in front of it in passive mode, and what a sender has to change
//! for that; each can be left out.
//! Not here: upstream as it is (`passes`, `batch`).
//! Units: pfns; a pass is one CLEAN and what the engine made of it.
//! Threads: one; the guest runs between any two of the calls, and while contents are read.
//! Source: `docs/adopt.md`; libxc `send_domain_memory_live`, `suspend_and_send_dirty`,
//! `write_batch`.

use std::sync::atomic::Ordering;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::cause::Cause;
use p2mtrack::config::{Config, Sender};
use p2mtrack::frame::{FrameType, Mfn, Pfn};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{Answer, Deferral, FrameTypes, Guest, LogDirty, MapFault, Page, PortError};
use p2mtrack::report::{RoundReport, Stage};
use p2mtrack::table::{PTE_PRESENT, TableCause, TableFault, TableView, normalise, pte_mfn};
use p2mtrack::tracker::Tracker;

use super::abort::Abort;
use super::p2m::{P2m, View};
use super::passes::{enable, settle};
use crate::fault::Fault;
use crate::oracle::Verdict;
use crate::page_table::is_xen_slot;
use crate::ports::map_check;
use crate::receiver::Refusal;
use crate::run::{Ending, Run};
use crate::simulation::{SimConfig, SimPorts, Simulation};

/// As upstream's, but counted in pages that the last pass sent: many of the owed pfns may have no
/// frame.
const TARGET_SENT: u64 = 50;
const PASSES_MAX: u64 = 5;

/// What the sender changes: everything, unless a test leaves something out.
#[derive(Clone, Copy, Debug)]
pub struct Changes {
    /// Pfns that the engine adds to what log-dirty names are sent.
    pub adds: bool,
    /// Pages are sent by the entries that the engine gives to the sender; otherwise by the live
    /// ones.
    pub entries: bool,
    /// The sender has told the engine that it reads its own live p2m.
    pub said_it_reads: bool,
    /// The p2m is mapped again when the engine says so.
    pub remap: bool,
    /// A page that can't be mapped or normalised is deferred. Otherwise it ends the migration.
    pub defer: bool,
    /// The frame list is sent again when it changes.
    pub list: bool,
    /// A table that names a pfn past the list that was sent is deferred.
    pub past_list: bool,
    /// Linux's tags are ignored when an entry is compared with a frame.
    pub tags: bool,
    /// A table that names a frame of another domain is deferred, whatever p2m and m2p say of it.
    pub owners: bool,
}

impl Changes {
    /// A sender that sends by the entries that it is given.
    pub const ALL: Self = Self {
        adds: true,
        entries: true,
        said_it_reads: false,
        remap: true,
        defer: true,
        list: true,
        past_list: true,
        tags: true,
        owners: true,
    };
    /// A sender that can only read its own live p2m, and has said so.
    pub const READS: Self = Self { entries: false, said_it_reads: true, ..Self::ALL };
}

/// Builds a simulation and migrates it as upstream would with these changes.
#[must_use]
pub fn migrate_passive(config: &SimConfig, changes: Changes) -> Run {
    let simulation = Simulation::new(config);
    let sender =
        if changes.said_it_reads { Sender::CallerReadsP2m } else { Sender::CallerNormalises };
    let engine = Config { threads: config.threads, sender, ..Config::default() };
    let engine = config.scenario.engine(config.seed, engine);
    let mut run = Run::default();
    let mut ports = simulation.ports();
    let result = match Tracker::new(engine, config.width) {
        Ok(tracker) => {
            let mut sender = PassiveSender {
                simulation: &simulation,
                ports: &mut ports,
                tracker,
                p2m: None,
                list_pfns: 0,
                changes,
            };
            let result = sender.run(&mut run);
            sender.drop_p2m();
            let PassiveSender { tracker, ports, .. } = &mut sender;
            tracker.cancel(&mut ports.p2m);
            result
        }
        Err(error) => Err(error.into()),
    };
    settle(&simulation, result, &mut run);
    run
}

/// A sender under way.
struct PassiveSender<'a> {
    simulation: &'a Simulation,
    ports: &'a mut SimPorts,
    tracker: Tracker,
    /// Its own mapping; none while it can't be made.
    p2m: Option<P2m>,
    /// Pfns of the list that was sent: a table that names one past them is deferred.
    list_pfns: u64,
    changes: Changes,
}

impl PassiveSender<'_> {
    fn run(&mut self, run: &mut Run) -> Result<(), Abort> {
        self.map_p2m(false)?;
        enable(self.simulation, self.ports)?;
        for pass in 1..=PASSES_MAX {
            let report = self.pass(Stage::Live, run)?;
            if pass > 1 && report.pages.accepted < TARGET_SENT {
                break;
            }
        }
        for _ in 0..self.simulation.checkpoints() {
            self.suspended_pass(Stage::Checkpoint, run)?;
            if !matches!(run.ending, Ending::Judged(Verdict::Identical)) {
                return Ok(());
            }
            self.simulation.resume();
            self.simulation.shared().lock().run_out();
        }
        self.suspended_pass(Stage::Final, run)
    }

    fn suspended_pass(&mut self, stage: Stage, run: &mut Run) -> Result<(), Abort> {
        self.simulation.suspend();
        self.pass(stage, run)?;
        let judgement = self.simulation.judge();
        run.ending = Ending::Judged(judgement.verdict);
        run.judgement = Some(judgement);
        Ok(())
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut Tracker, &mut Guest<'_>) -> T) -> T {
        call(&mut self.tracker, &mut self.ports.lend(&mut ()).guest)
    }

    /// One pass: CLEAN, what the engine makes of it, and all of that sent.
    fn pass(&mut self, stage: Stage, run: &mut Run) -> Result<RoundReport, Abort> {
        let log_dirty = &mut self.ports.log_dirty.clone();
        let (read, dirty) = self.with(|tracker, guest| {
            let mut buffer = tracker.begin(guest, stage)?;
            // If CLEAN fails nothing was read, and all of it is uncertain to the engine.
            let read =
                if buffer.pfns() > 0 { log_dirty.clean(buffer.lend()).unwrap_or(0) } else { 0 };
            Ok::<_, Abort>((read, buffer.copy()))
        })?;
        self.with(|tracker, guest| tracker.scan(guest, read).map(drop))?;
        while self.batch(stage, &dirty)? {}
        if stage != Stage::Live {
            let gone = self.tracker.gone()?;
            self.simulation.shared().lock().receiver.take_gone(&gone);
        }
        run.rounds += 1;
        let report = self.with(Tracker::end)?;
        run.gone += report.settled.gone;
        Ok(report)
    }

    /// Takes some pages and sends them. Returns whether there were any.
    fn batch(&mut self, stage: Stage, dirty: &PfnBitmap) -> Result<bool, Abort> {
        // ORDER: a flag of its own, set by this thread's own calls
        if self.simulation.cancel_flag().load(Ordering::Relaxed) {
            return Err(Abort::struck_by(Fault::Cancel, "cancelled"));
        }
        let pages = self.with(|tracker, guest| tracker.take(guest).map(<[_]>::to_vec))?;
        let causes: Vec<_> = self.tracker.batch_causes().collect();
        if self.tracker.remap() && self.changes.remap || self.p2m.is_none() {
            self.map_p2m(stage != Stage::Live)?;
        }
        if self.tracker.frame_list_changed() {
            if self.changes.list || self.list_pfns == 0 {
                let (pfns, list) = (self.tracker.pfn_count(), self.tracker.frame_list());
                self.simulation.shared().enter().receiver.take_list(pfns, &list);
                self.list_pfns = pfns;
            }
            self.tracker.frame_list_sent();
        }
        if pages.is_empty() {
            return Ok(false);
        }
        let mut answers = Vec::with_capacity(pages.len());
        for (page, causes) in pages.iter().zip(causes) {
            let is_its_own = causes.contains(Cause::First)
                || dirty.get(page.pfn)
                || causes.contains(Cause::Deferred);
            answers.push(if self.changes.adds || is_its_own {
                self.send(page)?
            } else {
                Answer::Accepted // left out, as if there had been nothing to add
            });
        }
        self.with(|tracker, guest| tracker.answer(guest, answers))?;
        Ok(true)
    }

    /// Maps the p2m anew. While the guest runs this may fail: then there is no mapping for now.
    fn map_p2m(&mut self, must: bool) -> Result<(), Abort> {
        self.drop_p2m();
        match P2m::map_meanwhile(self.simulation.shared(), self.ports) {
            Ok(p2m) => self.p2m = Some(p2m),
            Err(abort) if must || !self.changes.defer => return Err(abort),
            Err(_) => {}
        }
        Ok(())
    }

    fn drop_p2m(&mut self) {
        if let Some(p2m) = self.p2m.take() {
            p2m.unmap(&mut self.ports.p2m);
        }
    }

    /// Defers a page that can't be sent now, or gives up.
    fn put_off(&self, deferral: Deferral, what: std::fmt::Arguments<'_>) -> Result<Answer, Abort> {
        if self.changes.defer {
            return Ok(Answer::Deferred(deferral));
        }
        Err(Abort::because(what))
    }

    fn send(&mut self, page: &Page) -> Result<Answer, Abort> {
        let not_owned = Deferral::MapFailed(MapFault::NotOwned);
        let pfn = page.pfn;
        let (mfn, kind) = match self.frame_to_send(page) {
            Ok(Some(frame)) => frame,
            Ok(None) => return self.put_off(not_owned, format_args!("{pfn} has no frame")),
            Err(error) => {
                return self.put_off(Deferral::Unacknowledged, format_args!("{pfn}: {error}"));
            }
        };
        let mut world = self.simulation.shared().enter();
        if let Err(fault) = map_check(&mut world, mfn) {
            drop(world);
            return self
                .put_off(Deferral::MapFailed(fault), format_args!("map {pfn}, {mfn}: {fault}"));
        }
        let FrameType::Table { level, .. } = kind else {
            let content = world.xen.machine.content(mfn.0);
            let taken = world.receiver.take_data(pfn.0, kind, content);
            return taken.map(|()| Answer::Accepted).map_err(refused);
        };
        let mut words = Box::new(Leaf::default());
        world.xen.machine.copy_words(mfn.0, &mut words);
        drop(world);
        let names_others = match self.names_others(level, &words) {
            Ok(fault) => fault,
            Err(error) => {
                return self.put_off(Deferral::QueryFailed, format_args!("{pfn}: {error}"));
            }
        };
        let normalised = self.normalise(pfn, level, &mut words);
        if let Some(fault) = normalised.err().or(names_others) {
            return self.put_off(Deferral::Table(fault), format_args!("{pfn}: {fault}"));
        }
        let taken = self.simulation.shared().lock().receiver.take_table(pfn.0, kind, words);
        taken.map(|()| Answer::Accepted).map_err(refused)
    }

    /// The first PTE to a frame of another domain.
    fn names_others(&mut self, level: u8, words: &Leaf) -> Result<Option<TableFault>, PortError> {
        let width = self.simulation.shared().lock().guest.width;
        let named: Vec<_> = (0_u16..)
            .zip(words.words)
            .filter(|&(slot, pte)| {
                pte & PTE_PRESENT != 0 && !is_xen_slot(width, level, slot.into())
            })
            .map(|(slot, pte)| (slot, pte_mfn(pte)))
            .collect();
        if named.is_empty() || !self.changes.owners {
            return Ok(None);
        }
        let frames: Vec<Mfn> = named.iter().map(|&(_, mfn)| mfn).collect();
        let mut kinds = vec![FrameType::NotOwned; frames.len()];
        self.ports.types.query(&frames, &mut kinds)?;
        let others = named.into_iter().zip(kinds).find(|(_, kind)| *kind == FrameType::NotOwned);
        let fault = |((slot, mfn), _)| TableFault { level, slot, mfn, cause: TableCause::Foreign };
        Ok(others.map(fault))
    }

    fn normalise(&self, pfn: Pfn, level: u8, words: &mut Leaf) -> Result<(), TableFault> {
        let Some(p2m) = &self.p2m else {
            let (slot, mfn, cause) = (0, Mfn(0), TableCause::Unsaid);
            return Err(TableFault { level, slot, mfn, cause });
        };
        let pfns = if self.changes.past_list { self.list_pfns } else { p2m.pfns() };
        let knows_tags = self.changes.tags;
        let view = View { p2m, pfns, knows_tags, source: &self.ports.p2m, m2p: &self.ports.m2p };
        normalise(pfn, level, words, &view as &dyn TableView)
    }

    /// The frame, and its type as Xen has it now.
    fn frame_to_send(&mut self, page: &Page) -> Result<Option<(Mfn, FrameType)>, PortError> {
        let mfn = if self.changes.entries {
            Some(page.mfn)
        } else {
            self.p2m.as_ref().and_then(|p2m| p2m.frame(&self.ports.p2m, page.pfn))
        };
        let Some(mfn) = mfn else { return Ok(None) };
        let mut kind = [FrameType::NotOwned];
        self.ports.types.query(&[mfn], &mut kind)?;
        Ok(match kind[0] {
            FrameType::NotOwned | FrameType::Broken => None,
            kind => Some((mfn, kind)),
        })
    }
}

fn refused(refusal: Refusal) -> Abort {
    Abort::because(format_args!("the receiver refused: {refusal:?}"))
}
