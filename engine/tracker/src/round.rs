// SPDX-License-Identifier: MIT OR Apache-2.0
//! One round in steps: begin, scan, take and answer as long as there are batches, end.
//! Not here: in what order pfns are taken (`sweep`), a batch (`batch`), the steps over a lent transport (`migration`).
//! Units: rounds; at most `QUERY_FRAMES_MAX` pages a batch.
//! Threads: one owner, stepped by its caller; no clock.
//! Source: `docs/design.md`, section 3: laws 3 and 7.

use crate::cause::CauseSet;
use crate::config::Sender;
use crate::error::Error;
use crate::frame::Pfn;
use crate::migration::Migration;
use crate::port::{Answer, LogRoom, Page, Phase, Ports};
use crate::report::{RoundReport, Stage};
use crate::sweep::Sending;
use crate::tracker::phase;

/// Where a round stands. An error of a step ends the round: it is begun again, and nothing is lost.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// None is under way.
    Closed,
    /// The log is to be read.
    Begun,
    /// Batches are taken.
    Sending(Sending),
    /// Nothing is left to be taken.
    Swept,
}

/// A round for who keeps the loop. `Ports::log_dirty` is not called, and of `Ports::transport` only `returned`.
impl Migration {
    /// Begins a round, and lends room for the log: the caller reads and clears log-dirty into it, as
    /// [`LogDirty::clean`](crate::port::LogDirty::clean) would, for all of its pfns, and hands it over by
    /// [`Migration::scan`]. No pfns if log-dirty has not to be read. A round that was not ended is given up:
    /// what it did not settle is owed, and of a log that was not handed over everything.
    ///
    /// # Errors
    /// A port's.
    pub fn begin(&mut self, ports: &mut Ports<'_>, stage: Stage) -> Result<LogRoom<'_>, Error> {
        self.open(ports, stage)?;
        Ok(self.tracker.log_room())
    }

    /// Takes the log, of which the first `read` pfns were read, and finds what is owed. What was not read is in doubt, to the
    /// pfn; bits past `read` are owed as what they are.
    ///
    /// # Errors
    /// Any of [`Error`]; the round may be begun again.
    pub fn scan(&mut self, ports: &mut Ports<'_>, read: u64) -> Result<&RoundReport, Error> {
        self.look(ports, Some(read))?;
        Ok(&self.tracker.report)
    }

    /// Takes the next pages, at most [`QUERY_FRAMES_MAX`](crate::port::QUERY_FRAMES_MAX), to be sent and answered; page
    /// tables are normalised with [`Migration::view`]. None is left if there are none: of a guest that stands still
    /// everything is settled then.
    ///
    /// # Errors
    /// [`Error::Order`] if the last batch has no answer, or nothing was scanned. Otherwise any of [`Error`]; the
    /// round may be begun again.
    pub fn take(&mut self, ports: &mut Ports<'_>) -> Result<&[Page], Error> {
        self.expect_answered("take")?;
        phase(ports, Phase::Send, |ports| self.next_batch(ports))?;
        Ok(self.batch.pages())
    }

    /// The pages that were taken and not answered yet.
    #[must_use]
    pub fn batch(&self) -> &[Page] {
        self.batch.pages()
    }

    /// Why each page of [`Migration::batch`] is owed.
    pub fn batch_causes(&self) -> impl Iterator<Item = CauseSet> {
        self.batch.causes()
    }

    /// Answers the batch, one answer per page in order; the rest counts as not acknowledged.
    ///
    /// # Errors
    /// [`Error::Order`] if there is no batch, or if the frame list was not told before: nothing is written down then.
    /// [`Error::Page`] if a page can't be sent.
    pub fn answer(
        &mut self,
        ports: &mut Ports<'_>,
        answers: impl IntoIterator<Item = Answer>,
    ) -> Result<(), Error> {
        self.expect_live("answer")?;
        if self.batch.pages().is_empty() {
            return Err(Error::Order { call: "answer", state: "no batch was taken" });
        }
        self.expect_frame_list_told("answer")?;
        let settled = phase(ports, Phase::Send, |ports| self.settle_batch(ports, answers));
        let settled = settled.and_then(|()| self.expect_no_crowd());
        if settled.is_err() {
            self.step = Step::Closed;
        }
        settled
    }

    /// Whether the frame list changed since it was last told.
    #[must_use]
    pub const fn frame_list_changed(&self) -> bool {
        self.tracker.layout.list_changed
    }

    /// The leaves of the frame list: for each the pfn of its frame, as in [`FrameList`](crate::port::FrameList).
    #[must_use]
    pub fn frame_list(&self) -> Vec<Option<Pfn>> {
        self.tracker.layout.frame_list()
    }

    /// Pfns that the frame list covers.
    #[must_use]
    pub const fn pfn_count(&self) -> u64 {
        self.tracker.layout.pfn_count()
    }

    /// The destination was told the frame list.
    pub const fn frame_list_told(&mut self) {
        self.tracker.layout.list_changed = false;
        self.tracker.report.structure.frame_lists += 1;
    }

    /// Whether the p2m's structure was looked at anew since this was last asked: whoever holds a mapping of it by
    /// another walk has to drop it.
    pub fn remap(&mut self) -> bool {
        std::mem::take(&mut self.tracker.walked)
    }

    /// The pfns that have no frame at the source, and one at the destination, to be given back there before the round
    /// is ended.
    ///
    /// # Errors
    /// [`Error::Order`] unless the guest is suspended and everything is settled.
    pub fn gone(&self) -> Result<Vec<Pfn>, Error> {
        if self.is_settled() {
            return Ok(self.tracker.sent.gone());
        }
        Err(Error::Order { call: "gone", state: "not everything is settled" })
    }

    /// Ends the round: the destination has what was accepted, of a suspended guest also the frame list and the pfns
    /// gone, as one consistent state. A round of a guest that runs may be ended early. After the final round every
    /// mapping was given back.
    ///
    /// # Errors
    /// [`Error::Order`] if a batch has no answer, or of a guest that stands still the frame list was not told or not
    /// everything is settled: the round goes on. [`Error::Doubt`] if a doubt ran for too long.
    pub fn end(&mut self, ports: &mut Ports<'_>) -> Result<RoundReport, Error> {
        self.expect_answered("end")?;
        let stage = self.tracker.report.stage;
        if stage.is_suspended() {
            self.expect_frame_list_told("end")?; // while the guest runs the next round will do
            if !self.is_settled() {
                return Err(Error::Order { call: "end", state: "not everything is settled" });
            }
        }
        self.step = Step::Closed;
        if stage.is_suspended() {
            self.settle();
        }
        let report = self.close()?;
        if stage == Stage::Final {
            self.finished(ports);
        }
        Ok(report)
    }
}

/// The steps themselves.
impl Migration {
    pub(crate) fn open(&mut self, ports: &mut Ports<'_>, stage: Stage) -> Result<(), Error> {
        self.expect_live("begin")?;
        if matches!(self.step, Step::Begun) {
            self.tracker.doubt_log(ports)?; // it may have bits that are nowhere else
        }
        self.step = Step::Closed;
        self.give_batch_back(ports);
        if std::mem::replace(&mut self.was_suspended, stage.is_suspended()) {
            // A guest that resumes rewrites its lists and resets its generation: equal numbers prove
            // nothing. It may have resumed after an error, too.
            self.tracker.distrust_structure();
        }
        self.tracker.begin_round(stage);
        if std::mem::replace(&mut self.unended, true) {
            self.previous = None; // what that round found is in no estimate
        }
        #[cfg(debug_assertions)]
        self.accepted.on_a_machine_of(ports.m2p.frames());
        self.owe_again(ports)?;
        if stage.is_suspended() {
            self.owe_unlogged(ports)?;
            self.owe_unsound();
        }
        self.tracker.look_before_log(ports)?;
        self.step = Step::Begun;
        Ok(())
    }

    pub(crate) fn look(&mut self, ports: &mut Ports<'_>, read: Option<u64>) -> Result<(), Error> {
        self.expect_live("scan")?;
        if !matches!(self.step, Step::Begun) {
            return Err(Error::Order { call: "scan", state: "no round was begun" });
        }
        self.step = Step::Closed;
        self.tracker.scan(ports, read)?;
        if self.tracker.config.sender != Sender::Told {
            self.owe_tables(); // what the scan put in doubt is sent in this round
        }
        self.tracker.report.pages.owed = self.owed();
        self.estimate();
        self.step = Step::Sending(Sending::default());
        Ok(())
    }

    /// Takes pfns until there are pages in flight. Returns whether there are.
    pub(crate) fn next_batch(&mut self, ports: &mut Ports<'_>) -> Result<bool, Error> {
        let Step::Sending(mut sending) = self.step else { return Ok(false) };
        self.step = Step::Closed;
        let more = self.sweep(ports, &mut sending)?;
        self.step = if more { Step::Sending(sending) } else { Step::Swept };
        Ok(more)
    }

    /// Whether a round is under way: it was begun, and neither ended nor stopped by an error.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        !matches!(self.step, Step::Closed)
    }

    /// Whether everything of a suspended guest is settled, and the round has not ended.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        matches!(self.step, Step::Swept) && self.tracker.report.stage.is_suspended()
    }

    fn expect_answered(&self, call: &'static str) -> Result<(), Error> {
        self.expect_live(call)?;
        if !self.batch.pages().is_empty() {
            return Err(Error::Order { call, state: "the last batch has no answer" });
        }
        match self.step {
            Step::Sending(_) | Step::Swept => Ok(()),
            Step::Begun => Err(Error::Order { call, state: "the log was not handed over" }),
            Step::Closed => Err(Error::Order { call, state: "no round was begun" }),
        }
    }

    const fn expect_frame_list_told(&self, call: &'static str) -> Result<(), Error> {
        if self.frame_list_changed() {
            return Err(Error::Order { call, state: "the frame list changed and was not told" });
        }
        Ok(())
    }

    /// Everything is settled, and the other side has it.
    fn settle(&mut self) {
        let sent = &mut self.tracker.sent;
        let gone = sent.gone();
        sent.given_back(&gone);
        let settled = &mut self.tracker.report.settled;
        settled.gone = gone.len() as u64;
        settled.foreign = sent.foreign_pfns();
        settled.m2p_stale = sent.stale_pfns();
        settled.aliases = sent.alias_pfns();
        settled.cleared_ptes = self.cleared.values().map(|frames| frames.len() as u64).sum();
    }

    /// Whether it converges, as far as the round has come. Nobody knows if ranges are owed because something could not be
    /// known of them: how much of that is new can't be told.
    fn estimate(&mut self) {
        let report = &mut self.tracker.report;
        (report.dirty_rate, report.shrinking) = (None, None);
        let Some(previous) = &self.previous else { return };
        if report.blind || self.tracker.doubts.of_ranges() > 0 {
            return;
        }
        let newly = report.log_dirty_pfns + report.entries.beyond_log_dirty;
        let sent = previous.pages.accepted.max(1);
        report.dirty_rate = Some(newly as f64 / sent as f64);
        report.shrinking = Some(report.pages.owed < previous.pages.owed);
    }

    fn close(&mut self) -> Result<RoundReport, Error> {
        self.tracker.report.pages.left = self.owed();
        self.estimate();
        #[cfg(debug_assertions)]
        self.check_invariant();
        let report = self.tracker.end_round()?;
        self.previous = Some(report.clone());
        self.unended = false;
        Ok(report)
    }
}
