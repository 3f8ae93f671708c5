// SPDX-License-Identifier: MIT OR Apache-2.0
//! A migration behind a handle: the engine, the host's ports, and the state between calls.
//! Not here: pointers and threads (`boundary`), the exported functions (`functions`).
//! Units: those of the header.
//! Threads: one call at a time.
//! Source: `p2mtrack::tracker`, the steps of a round.

use std::fmt;

use p2mtrack::config::Sender;
use p2mtrack::error::{EntryCause, Error};
use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{Answer, Deferral};
use p2mtrack::report::RoundReport;
use p2mtrack::table::{TableFault, normalise};
use p2mtrack::tracker::Tracker;
use p2mtrack::uncertainty::Uncertainty;

use crate::abi;
use crate::answer::{Normalised, all_accepted, answers};
use crate::error::Fault;
use crate::host::Host;
use crate::{config, convert};

/// A migration behind a handle.
#[derive(Debug)]
pub(crate) struct Session {
    tracker: Tracker,
    host: Host,
    sender: Sender,
    /// The log's buffer, while it is lent.
    buffer: Option<LogBuffer>,
    /// The results of normalising page tables of the batch.
    tables: Normalised,
    /// Pfns gone, once the host has read them.
    gone: Option<Vec<Pfn>>,
    /// A round was scanned: there is a frame list.
    scanned: bool,
    /// Number of distinct frame lists that the host has read.
    lists: u64,
    /// The host has not reported that the last of them was sent.
    list_unsent: bool,
    /// The p2m was walked since a round last ended without an error: mappings by an older walk have
    /// to be dropped.
    remap: bool,
    /// A round is under way, which `totals` does not include yet.
    open: bool,
    totals: abi::Totals,
}

/// The engine's bitmap, while the host fills it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogBuffer {
    pub(crate) words: *mut u64,
    pub(crate) pfns: u64,
}

impl Session {
    pub(crate) fn new(theirs: &abi::Config, host: abi::Host) -> Result<Self, Fault> {
        let (config, width) = (config::config(theirs)?, config::width(theirs.width)?);
        let host = Host::new(host, width)?;
        Ok(Self {
            tracker: Tracker::new(config, width)?,
            host,
            sender: config.sender,
            buffer: None,
            tables: Normalised::new(),
            gone: None,
            scanned: false,
            lists: 0,
            list_unsent: false,
            remap: false,
            open: false,
            totals: abi::Totals { size: size_of::<abi::Totals>() as u32, ..Default::default() },
        })
    }

    pub(crate) fn say(&self, level: u32, text: fmt::Arguments<'_>) {
        self.host.say(level, text);
    }

    pub(crate) fn begin(&mut self, stage: u32) -> Result<LogBuffer, Fault> {
        let stage = config::stage(stage)?;
        // Even if this round can't begin, the one before is given up.
        (self.buffer, self.gone) = (None, None);
        self.tables.clear();
        self.give_up();
        let Self { tracker, host, open, .. } = self;
        host.begin_round();
        let mut bits = tracker.begin(&mut host.lend(), stage)?;
        *open = true;
        let pfns = bits.pfns();
        let words = if pfns > 0 { bits.words_mut().as_mut_ptr() } else { std::ptr::null_mut() };
        let buffer = LogBuffer { pfns, words };
        self.buffer = Some(buffer);
        Ok(buffer)
    }

    /// Passes on the result of a step: an error may have ended its round.
    fn note<T>(&mut self, result: Result<T, Error>) -> Result<T, Fault> {
        if result.is_err() && !self.tracker.is_under_way() {
            self.give_up();
        }
        result.map_err(|error| with_query(error, &self.host))
    }

    /// Gives up the round under way, if there is one.
    fn give_up(&mut self) {
        if std::mem::take(&mut self.open) {
            self.totals = with(&self.totals, self.tracker.report());
            self.totals.rounds_given_up += 1;
        }
    }

    /// The buffer for the log, while it is lent.
    pub(crate) fn buffer(&self) -> Result<LogBuffer, Fault> {
        self.buffer.ok_or_else(|| Fault::order("p2mt_feed called while no log is lent"))
    }

    pub(crate) fn scan(&mut self, read: u64) -> Result<(), Fault> {
        let Self { tracker, host, .. } = self;
        let scanned = tracker.scan(&mut host.lend(), read).map(drop);
        // After an error the log is taken, too, unless the call was out of order.
        self.buffer = self.buffer.filter(|_| matches!(&scanned, Err(Error::Order { .. })));
        self.note(scanned)?;
        self.scanned = true;
        Ok(())
    }

    /// The report of the round under way, or of the one that just ended.
    pub(crate) fn report(&self) -> abi::Report {
        convert::report(self.tracker.report())
    }

    fn warn_of_uncertainties(&self, report: &RoundReport) {
        let (round, warning) = (report.round, abi::LOG_WARNING);
        if report.p2m_unreadable {
            self.say(warning, format_args!("round {round}: the p2m's structure can't be followed"));
        }
        for (uncertainty, &times) in
            Uncertainty::ALL.iter().zip(&report.uncertain).filter(|(_, n)| **n > 0)
        {
            self.say(
                warning,
                format_args!("round {round}: uncertainty of kind {uncertainty}, {times} times"),
            );
        }
    }

    /// The next pages, and what the host has to do before it sends them.
    pub(crate) fn take(&mut self) -> Result<(impl Iterator<Item = abi::Page>, u32), Fault> {
        let taken = self.tracker.take(&mut self.host.lend()).map(drop);
        self.note(taken)?;
        let Self { tracker, tables, list_unsent, remap, .. } = self;
        tables.clear();
        *remap |= tracker.remap();
        let remap = if *remap { abi::DO_REMAP } else { 0 };
        let list =
            if *list_unsent || tracker.frame_list_changed() { abi::DO_FRAME_LIST } else { 0 };
        let pages = tracker.batch().iter().zip(tracker.batch_causes());
        Ok((pages.map(|(page, causes)| convert::page(page, causes)), remap | list))
    }

    /// `Ok(Some)`: the table can't be normalised now.
    pub(crate) fn normalise(
        &mut self,
        index: usize,
        words: &mut Leaf,
    ) -> Result<Option<(Pfn, TableFault)>, Fault> {
        let page = self.tracker.batch().get(index).copied();
        let page = page.ok_or_else(|| Fault::argument(format!("no page {index} was taken")))?;
        let FrameType::Table { level, .. } = page.kind else {
            return Err(Fault::argument(format!("{} is not a page table", page.pfn)));
        };
        let mut guest = self.host.lend();
        let done = normalise(page.pfn, level, words, &self.tracker.view(&mut guest));
        self.tables.insert(index, done);
        Ok(done.err().map(|fault| (page.pfn, fault)))
    }

    /// The host answers `count` pages.
    pub(crate) fn answer(
        &mut self,
        count: usize,
        theirs: impl Iterator<Item = Result<abi::PageAnswer, Fault>>,
    ) -> Result<(), Fault> {
        self.expect_all(count)?;
        let ours = self.sender == Sender::Engine;
        let answers = answers(theirs, self.tracker.batch(), &self.tables, ours)?;
        let done = self.tracker.answer(&mut self.host.lend(), answers);
        self.note(done)
    }

    /// The host accepts all of `count` pages.
    pub(crate) fn accept(&mut self, count: usize) -> Result<(), Fault> {
        self.expect_all(count)?;
        all_accepted(self.tracker.batch(), &self.tables, self.sender == Sender::Engine)?;
        let answers = std::iter::repeat_with(|| Answer::Accepted).take(count);
        let done = self.tracker.answer(&mut self.host.lend(), answers);
        self.note(done)
    }

    fn expect_all(&self, count: usize) -> Result<(), Fault> {
        let pages = self.tracker.batch().len();
        if pages == 0 {
            return Ok(()); // the engine returns the error
        }
        self.expect_list_sent("answer")?;
        if count != pages {
            return Err(Fault::argument(format!("{count} answers for {pages} pages")));
        }
        Ok(())
    }

    fn expect_list_sent(&self, call: &str) -> Result<(), Fault> {
        if self.list_unsent {
            let text = format!("p2mt_{call} called while the frame list was read and not sent");
            return Err(Fault::order(text));
        }
        Ok(())
    }

    /// The frame list, and how many pfns it covers.
    pub(crate) fn frame_list(&self) -> Result<(Vec<Option<Pfn>>, u64), Fault> {
        if !self.scanned || !self.tracker.is_live() {
            let text = "p2mt_frame_list called before a round was scanned, or after the end";
            return Err(Fault::order(text));
        }
        Ok((self.tracker.frame_list(), self.tracker.pfn_count()))
    }

    /// The host has the list. It is unsent until the host reports it sent. Returns its number.
    pub(crate) fn frame_list_was_read(&mut self) -> u64 {
        if self.tracker.frame_list_changed() {
            self.tracker.frame_list_sent();
            self.list_unsent = true;
            self.lists += 1;
        }
        self.lists
    }

    pub(crate) fn frame_list_sent(&mut self, serial: u64) -> Result<(), Fault> {
        if serial == 0 || serial > self.lists {
            return Err(Fault::argument(format!("no frame list has the number {serial}")));
        }
        if serial < self.lists || self.tracker.frame_list_changed() {
            return Err(Fault::order("the frame list of this serial is not the current one"));
        }
        self.list_unsent = false;
        Ok(())
    }

    pub(crate) fn return_pfns(&mut self, pfns: &[u64]) -> Result<(), Fault> {
        if !self.tracker.is_live() {
            return Err(Fault::order("p2mt_return called after the end: they will not be sent"));
        }
        let pfns: Vec<_> = pfns.iter().copied().map(Pfn).collect();
        if let Some(pfn) = pfns.iter().find(|&&pfn| !self.tracker.is_held(pfn)) {
            let text = format!("p2mt_return: {pfn} was never taken; no pfn was returned");
            return Err(Fault::argument(text));
        }
        self.tracker.give_back(&pfns);
        Ok(())
    }

    /// Pfns gone, from pfn `from` on.
    pub(crate) fn gone(&mut self, from: u64) -> Result<&[Pfn], Fault> {
        let known = self.gone.take().filter(|_| self.tracker.is_settled());
        let gone = match known {
            Some(gone) => self.gone.insert(gone),
            None => self.gone.insert(self.tracker.gone()?),
        };
        let begin = gone.partition_point(|pfn| pfn.0 < from);
        Ok(&gone[begin..])
    }

    /// PTEs that are cleared in tables as they were last accepted.
    pub(crate) fn cleared_ptes(&self) -> Vec<abi::ClearedPte> {
        let pte = |Pfn(pfn): Pfn, &Mfn(mfn): &Mfn| abi::ClearedPte { pfn, mfn };
        let tables = self.tracker.cleared_ptes();
        tables.flat_map(|(pfn, frames)| frames.iter().map(move |mfn| pte(pfn, mfn))).collect()
    }

    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        if self.tracker.is_settled() {
            self.expect_list_sent("end")?;
        }
        let ended = self.tracker.end(&mut self.host.lend());
        if let Err(Error::Uncertain { .. }) = &ended {
            self.warn_of_uncertainties(self.tracker.report());
        }
        let report = self.note(ended)?;
        // The host knows of every walk of the round: a take after it set `DO_REMAP`.
        (self.gone, self.open, self.remap) = (None, false, false);
        self.totals = with(&self.totals, &report);
        self.totals.rounds += 1;
        self.warn_of_uncertainties(&report);
        let RoundReport { round, stage, pages, .. } = &report;
        let (stage, owed, accepted, left) = (stage.name(), pages.owed, pages.accepted, pages.left);
        self.say(
            abi::LOG_INFO,
            format_args!(
                "round {round} ({stage}): {owed} pages owed, {accepted} accepted, {left} left"
            ),
        );
        Ok(())
    }

    /// Ends the tracker. This can't fail: the host switches log-dirty off.
    pub(crate) fn cancel(&mut self) {
        self.give_up();
        self.tracker.cancel(self.host.lend().p2m);
        (self.buffer, self.gone) = (None, None);
    }

    /// Unmaps the host's mappings, without the engine.
    pub(crate) fn unmap_all(&mut self) {
        self.host.unmap_all();
    }

    pub(crate) fn verify(&mut self, verify: u32) -> Result<(), Fault> {
        self.tracker.set_verify(config::verify(verify)?);
        Ok(())
    }

    pub(crate) fn totals(&self) -> abi::Totals {
        let so_far =
            if self.open { with(&self.totals, self.tracker.report()) } else { self.totals };
        let owed = self.tracker.owed();
        abi::Totals { owed, shadow_bytes: self.tracker.shadow_bytes().bytes, ..so_far }
    }

    pub(crate) fn why(&self, pfn: u64) -> abi::PfnState {
        let pfn = Pfn(pfn);
        let Entry(entry) = self.tracker.shadow_entry(pfn);
        abi::PfnState {
            size: size_of::<abi::PfnState>() as u32,
            causes: u32::from(self.tracker.why(pfn).bits()),
            defer: self
                .tracker
                .deferral(pfn)
                .map_or(0, |reason: Deferral| convert::deferral(reason)),
            zero: 0,
            entry,
        }
    }
}

/// Totals plus the counts of a round.
fn with(totals: &abi::Totals, report: &RoundReport) -> abi::Totals {
    let RoundReport { pages, entries, .. } = report;
    let deferred =
        pages.deferred_m2p + pages.deferred_frame + pages.deferred_table + pages.deferred_uncertain;
    abi::Totals {
        pages_accepted: totals.pages_accepted + pages.accepted,
        pages_deferred: totals.pages_deferred + deferred,
        entries_changed: totals.entries_changed + entries.changed(),
        entries_beyond_log_dirty: totals.entries_beyond_log_dirty + entries.beyond_log_dirty,
        ..*totals
    }
}

/// An error, with the failure of the type query that caused it.
fn with_query(error: Error, host: &Host) -> Fault {
    let query = matches!(
        error,
        Error::Entry { cause: EntryCause::Deferred(Deferral::QueryFailed), .. }
            | Error::Uncertain { uncertainty: Uncertainty::QueryFailed, .. }
    );
    let fault = Fault::from(error);
    match host.failed_query().filter(|_| query) {
        Some((errnum, text)) => fault.because(*errnum, text),
        None => fault,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A session with a host whose callbacks all fail.
    pub(crate) fn session() -> Session {
        let config = abi::Config { width: 64, ..Default::default() };
        Session::new(&config, crate::host::refusing()).expect("starts")
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
