// SPDX-License-Identifier: MIT OR Apache-2.0
//! A migration behind a handle: the engine, the host's ports, and what has to be kept between two calls.
//! Not here: pointers and threads (`boundary`), the exported functions (`functions`).
//! Units: those of the header.
//! Threads: one call at a time.
//! Source: `p2mtrack::migration`, the steps of a round.

use std::fmt;

use p2mtrack::config::Sender;
use p2mtrack::doubt::Doubt;
use p2mtrack::frame::{Entry, FrameType, Pfn};
use p2mtrack::leaf::Leaf;
use p2mtrack::migration::Migration;
use p2mtrack::port::{Answer, Deferral, Phase};
use p2mtrack::report::RoundReport;
use p2mtrack::table::{TableFault, normalise};

use crate::abi;
use crate::answer::{Normalised, all_accepted, answers};
use crate::clock::Clock;
use crate::error::Fault;
use crate::host::Host;
use crate::{config, convert};

/// A migration behind a handle.
#[derive(Debug)]
pub(crate) struct Session {
    migration: Migration,
    host: Host,
    clock: Clock,
    sender: Sender,
    /// The log's room, while it is lent.
    room: Option<Room>,
    /// How the normalisation of pages of the batch went.
    tables: Normalised,
    /// Pfns gone, once they were asked for.
    gone: Option<Vec<Pfn>>,
    totals: abi::Stats,
}

/// The engine's bitmap, as long as the host fills it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) words: *mut u64,
    pub(crate) pfns: u64,
}

impl Session {
    pub(crate) fn new(theirs: &abi::Config, host: abi::Host) -> Result<Self, Fault> {
        let (config, width) = (config::config(theirs)?, config::width(theirs.width)?);
        let host = Host::new(host, width)?;
        Ok(Self {
            migration: Migration::attach(config, width)?,
            host,
            clock: Clock::default(),
            sender: config.sender,
            room: None,
            tables: Normalised::new(),
            gone: None,
            totals: abi::Stats { size: size_of::<abi::Stats>() as u32, ..Default::default() },
        })
    }

    pub(crate) fn say(&self, level: u32, text: fmt::Arguments<'_>) {
        self.host.say(level, text);
    }

    pub(crate) fn begin(&mut self, stage: u32) -> Result<Room, Fault> {
        let stage = config::stage(stage)?;
        // Also if it can't begin: the round before is given up.
        (self.room, self.gone) = (None, None);
        self.tables.clear();
        let Self { migration, host, clock, .. } = self;
        let bits = migration.begin(&mut host.lend(clock), stage)?;
        let room = Room { pfns: bits.pfns(), words: bits.words_mut().as_mut_ptr() };
        self.room = Some(room);
        Ok(room)
    }

    /// The room for the log, while it is lent.
    pub(crate) fn room(&self) -> Result<Room, Fault> {
        self.room.ok_or_else(|| Fault::order("p2mt_feed called while no log is lent"))
    }

    pub(crate) fn scan(&mut self, read: u64) -> Result<abi::Report, Fault> {
        let Self { migration, host, clock, .. } = self;
        let scanned = migration.scan(&mut host.lend(clock), read).cloned();
        // Also after an error: unless it was out of order, the log was taken.
        self.room =
            self.room.filter(|_| matches!(&scanned, Err(p2mtrack::error::Error::Order { .. })));
        let report = scanned?;
        self.warn_of_doubts(&report);
        Ok(convert::report(&report))
    }

    fn warn_of_doubts(&self, report: &RoundReport) {
        let (round, warning) = (report.round, abi::LOG_WARNING);
        if report.blind {
            self.say(warning, format_args!("round {round}: the p2m's structure can't be followed"));
        }
        for (doubt, &times) in Doubt::ALL.iter().zip(&report.doubts).filter(|(_, n)| **n > 0) {
            self.say(warning, format_args!("round {round}: doubt of kind {doubt}, {times} times"));
        }
    }

    /// The next pages, and what has to be done before they are sent.
    pub(crate) fn take(&mut self) -> Result<(impl Iterator<Item = abi::Page>, u32), Fault> {
        let Self { migration, host, clock, tables, .. } = self;
        migration.take(&mut host.lend(clock))?;
        tables.clear();
        let remap = if migration.remap() { abi::DO_REMAP } else { 0 };
        let list = if migration.frame_list_changed() { abi::DO_FRAME_LIST } else { 0 };
        let pages = migration.batch().iter().zip(migration.batch_causes());
        Ok((pages.map(|(page, causes)| convert::page(page, causes)), remap | list))
    }

    /// `Ok(Some)` is a table that can't be normalised now.
    pub(crate) fn normalise(
        &mut self,
        index: usize,
        words: &mut Leaf,
    ) -> Result<Option<(Pfn, TableFault)>, Fault> {
        let page = self.migration.batch().get(index).copied();
        let page = page.ok_or_else(|| Fault::argument(format!("no page {index} was taken")))?;
        let FrameType::Table { level, .. } = page.kind else {
            return Err(Fault::argument(format!("{} is no page table", page.pfn)));
        };
        let ports = self.host.lend(&mut self.clock);
        let done = {
            let view = self.migration.view(&*ports.p2m, ports.m2p, &mut *ports.types);
            normalise(page.pfn, level, words, &view)
        };
        self.tables.insert(index, done);
        Ok(done.err().map(|fault| (page.pfn, fault)))
    }

    pub(crate) fn answer(&mut self, theirs: Option<&[abi::Answer]>) -> Result<(), Fault> {
        let ours = self.sender == Sender::Told;
        let Self { migration, host, clock, tables, .. } = self;
        let pages = migration.batch();
        let Some(theirs) = theirs else {
            all_accepted(pages, tables, ours)?;
            let answers = std::iter::repeat_with(|| Answer::Accepted).take(pages.len());
            return Ok(migration.answer(&mut host.lend(clock), answers)?);
        };
        if theirs.len() != pages.len() {
            let text = format!("{} answers for {} pages", theirs.len(), pages.len());
            return Err(Fault::argument(text));
        }
        let answers = answers(theirs, pages, tables, ours)?;
        Ok(migration.answer(&mut host.lend(clock), answers)?)
    }

    /// The frame list, and how many pfns it covers.
    pub(crate) fn frame_list(&self) -> (Vec<Option<Pfn>>, u64) {
        (self.migration.frame_list(), self.migration.pfn_count())
    }

    pub(crate) fn frame_list_told(&mut self) {
        if self.migration.frame_list_changed() {
            self.migration.frame_list_told();
        }
    }

    pub(crate) fn hand_back(&mut self, pfns: &[u64]) -> Result<(), Fault> {
        if !self.migration.is_live() {
            return Err(Fault::order("p2mt_return called after the end: nobody will send them"));
        }
        self.host.hand_back(pfns);
        Ok(())
    }

    /// Pfns gone, from one on.
    pub(crate) fn gone(&mut self, from: u64) -> Result<&[Pfn], Fault> {
        let known = self.gone.take().filter(|_| self.migration.is_settled());
        let gone = match known {
            Some(gone) => self.gone.insert(gone),
            None => self.gone.insert(self.migration.gone()?),
        };
        let begin = gone.partition_point(|pfn| pfn.0 < from);
        Ok(&gone[begin..])
    }

    pub(crate) fn end(&mut self) -> Result<abi::Report, Fault> {
        if self.migration.is_settled() && self.host.has_returned() {
            let text =
                "p2mt_end called while pfns that were handed back are owed: begin the round again";
            return Err(Fault::order(text));
        }
        let Self { migration, host, clock, .. } = self;
        let report = migration.end(&mut host.lend(clock))?;
        self.gone = None;
        let told = convert::report(&report);
        let totals = &mut self.totals;
        totals.rounds += 1;
        totals.pages_accepted += told.pages_accepted;
        totals.entries_changed += report.entries.changed();
        totals.entries_beyond_log_dirty += told.entries_beyond_log_dirty;
        totals.pages_deferred += told.pages_deferred_m2p
            + told.pages_deferred_frame
            + told.pages_deferred_table
            + told.pages_deferred_doubt;
        let (round, stage) = (report.round, report.stage.name());
        let (owed, accepted, left) = (told.pages_owed, told.pages_accepted, told.pages_left);
        self.say(
            abi::LOG_INFO,
            format_args!(
                "round {round} ({stage}): {owed} pages owed, {accepted} accepted, {left} left"
            ),
        );
        Ok(told)
    }

    /// Ends the migration. Nothing of it can fail: log-dirty is the host's.
    pub(crate) fn cancel(&mut self) {
        let Self { migration, host, clock, .. } = self;
        let _ = migration.cancel(&mut host.lend(clock));
        (self.room, self.gone) = (None, None);
    }

    /// Lets go of the host's mappings, without the engine.
    pub(crate) fn let_go(&mut self) {
        self.host.unmap_all();
    }

    pub(crate) fn verify(&mut self, verify: u32) -> Result<(), Fault> {
        self.migration.set_verify(config::verify(verify)?);
        Ok(())
    }

    pub(crate) fn stats(&self) -> abi::Stats {
        let spent = |phase| self.clock.spent(phase);
        abi::Stats {
            owed: self.migration.owed(),
            shadow_bytes: self.migration.shadow_bytes().bytes,
            roots_ns: spent(Phase::Roots),
            clean_ns: spent(Phase::Clean),
            walk_ns: spent(Phase::Walk),
            diff_ns: spent(Phase::Diff),
            send_ns: spent(Phase::Send),
            ..self.totals
        }
    }

    pub(crate) fn why(&self, pfn: u64) -> abi::Why {
        let pfn = Pfn(pfn);
        let Entry(entry) = self.migration.shadow_entry(pfn);
        abi::Why {
            size: size_of::<abi::Why>() as u32,
            causes: u32::from(self.migration.why(pfn).bits()),
            defer: self
                .migration
                .deferral(pfn)
                .map_or(0, |reason: Deferral| convert::deferral(reason)),
            zero: 0,
            entry,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Over a host that refuses everything.
    pub(crate) fn session() -> Session {
        let config = abi::Config { width: 64, ..Default::default() };
        Session::new(&config, crate::host::nobody()).expect("starts")
    }

    #[test]
    fn a_callback_that_fails_is_named() {
        let mut session = session();
        let fault = session.begin(abi::LIVE).expect_err("refused");
        assert_eq!(fault.code(), abi::E_HOST);
        let text = "unlogged writers failed: the host's callback accepts_transfer returned -22";
        assert_eq!(fault.text(), text);
        assert_eq!(session.scan(0).expect_err("not begun").code(), abi::E_ORDER);
    }
}
