// SPDX-License-Identifier: MIT OR Apache-2.0
//! Intake: takes log-dirty and turns it into owed pfns, suspect leaves and evidence.
//! Not here: what follows from the evidence (`structure`), comparing the leaves (`leaves`).
//! Units: pfns; a request for the log is rounded up to whole leaves of Xen's log.
//! Threads: the owner's.
//! Source: `xen-save-path.md` 6.2 and 6.5: CLEAN covers a prefix and wipes whole leaves; law 1 and law 4.

use super::{Tracker, phase};
use crate::cause::Cause;
use crate::config::Verify;
use crate::doubt::Doubt;
use crate::error::Error;
use crate::frame::{LeafIndex, Pfn};
use crate::layout::Part;
use crate::port::{LOG_DIRTY_LEAF_PFNS, LogRoom, Phase, PortError, Ports, Roots, Transfer};

impl Tracker {
    /// Looks at what has to be looked at before the log is read.
    pub(crate) fn look_before_log(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        let before = phase(ports, Phase::Roots, |ports| {
            self.look_for_offers(ports)?;
            let frames = ports.p2m.domain_frames().map_err(Error::port("p2m source"))?;
            // Whatever a port answers: no domain holds more frames than the machine has.
            self.machine_frames = ports.m2p.frames();
            self.held_frames = frames.min(self.machine_frames);
            self.domain_frames = self.domain_frames.max(self.held_frames);
            ports.p2m.roots().map_err(Error::port("p2m source"))
        })?;
        // The log was switched on just now: the first copy needs no bitmap.
        let is_first = self.rounds == 0 && self.roots.is_none();
        self.log_span = if is_first { 0 } else { self.span(&before) };
        Ok(())
    }

    /// Room for the log: empty, as long as the log has to be read. No pfns if it has not to be read at all.
    pub(crate) fn log_room(&mut self) -> LogRoom<'_> {
        self.log.reset(self.log_span);
        self.log.fill()
    }

    /// Reads the log by its port and marks what follows.
    pub(super) fn read_log(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        if self.log_span == 0 {
            self.log_room();
        } else {
            phase(ports, Phase::Clean, |ports| {
                let read = self.clean(ports);
                self.mark_log(ports, read)
            })?;
        }
        self.look_after_log(ports)
    }

    /// Marks what follows from a log that the caller read into [`Tracker::log_room`], up to `read`.
    pub(super) fn take_log(&mut self, ports: &mut Ports<'_>, read: u64) -> Result<(), Error> {
        if self.log_span > 0 {
            phase(ports, Phase::Clean, |ports| self.mark_log(ports, read.min(self.log_span)))?;
        }
        self.look_after_log(ports)
    }

    /// The log was lent and is not handed over: what it has is owed, and what it may have had.
    pub(crate) fn doubt_log(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        if self.log_span == 0 {
            return Ok(());
        }
        self.log_lost = true;
        self.mark_log(ports, 0)
    }

    fn look_after_log(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        let after = phase(ports, Phase::Roots, |ports| {
            self.look_for_offers(ports)?;
            ports.p2m.roots().map_err(Error::port("p2m source"))
        })?;
        self.weigh(&after);
        Ok(())
    }

    /// Whether the guest takes frames by transfer, and for which pfns. Asked on both sides of CLEAN: a frame that came back
    /// just before it has its leaf in this round's log and in no other, and the offer may be as young.
    fn look_for_offers(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        let failed = Error::port("unlogged writers");
        let offered = ports.unlogged.accepts_transfer().map_err(failed)?;
        // An offer that was told is not told again: it is noted whatever else fails.
        let named = named(ports);
        for pfn in self.offers.look(offered, named.as_ref().ok().and_then(Option::as_deref)) {
            self.resend.mark(pfn, Cause::Unlogged);
        }
        named.map_err(Error::port("unlogged writers"))?;
        if self.report.stage.is_suspended() && self.offers.are_nameless() {
            self.doubt_all(Doubt::Transfers);
        }
        Ok(())
    }

    /// Pfns that a request for the log has to cover: the guest's own count as far as it is credible,
    /// everything tracked, and every pfn that holds a frame of the p2m. Never nothing: Xen takes a CLEAN without a
    /// bitmap for one of everything, unread.
    pub(super) fn span(&self, roots: &Roots) -> u64 {
        roots
            .pfn_count
            .min(self.reach_pfns())
            .max(self.layout.pfns())
            .max(self.layout.holders.plane().pfns())
            .max(1)
            .next_multiple_of(LOG_DIRTY_LEAF_PFNS)
    }

    /// Reads the log. Returns how many pfns of it.
    fn clean(&mut self, ports: &mut Ports<'_>) -> u64 {
        self.log_room();
        if !self.log_broken {
            match ports.log_dirty.clean(self.log.fill()) {
                Ok(pfns) => return pfns.min(self.log_span),
                Err(error) => (self.log_error, self.log_broken) = (Some(error), true),
            }
        }
        0
    }

    /// Owes what the log names, and what it may name where it was not read; finds the parts of the p2m in it.
    fn mark_log(&mut self, ports: &mut Ports<'_>, read: u64) -> Result<(), Error> {
        let span = self.log_span;
        // Before anything else may fail: what was read is in no other log.
        self.report.log_dirty_pfns = self.log.owe(&mut self.resend, &self.shards);
        let lost = self.log_broken;
        if lost {
            // Broken until it is on again, in whatever round that works; off may have worked before.
            let off = ports.log_dirty.disable();
            let on = ports.log_dirty.enable();
            on.map_err(|on| Error::port("log-dirty")(off.err().unwrap_or(on)))?;
            self.log_broken = false;
        }
        // Upper frames lead to everything else and are few: the m2p is asked for each. A blind part's
        // writes were not marked anywhere so far.
        for part in self.layout.holders.to_ask() {
            self.part_moved(ports, part);
        }
        let mut parts = self.layout.holders.dirty(&self.log);
        if read < span {
            self.owe_doubtful(read..span);
            // What was not read may be dirty: so may every part of the p2m there.
            let unread = |&part: &usize| self.layout.holders.pfn(part).is_some_and(|p| p.0 >= read);
            parts.extend((0..self.layout.holders.len()).filter(unread));
            self.doubts.mark(if lost { Doubt::LogLost } else { Doubt::ShortBitmap });
        }
        self.suspect(&parts);
        if self.config.verify == Verify::Full {
            for leaf in (0..self.layout.tracked()).map(LeafIndex) {
                self.pending.add_new(leaf, Cause::Doubt);
            }
        }
        Ok(())
    }

    /// Takes dirty parts of the p2m apart: leaves are to be compared, upper frames to be read again.
    pub(super) fn suspect(&mut self, parts: &[usize]) {
        for &part in parts {
            match self.layout.holders.part(part) {
                Part::Table(level, mfn) => {
                    self.layout.copies.remove(&(level, mfn));
                    self.evidence.dirty += 1;
                }
                Part::Leaf(mfn) => {
                    let positions = self.layout.positions(part);
                    if positions.is_empty() || self.layout.is_watched(mfn) {
                        // Tracked nowhere, or the last walk went by what it says.
                        self.evidence.dirty += 1;
                    }
                    for &leaf in &*positions {
                        self.pend(leaf, Cause::Entry);
                    }
                }
            }
        }
    }

    pub(super) fn pend(&mut self, leaf: LeafIndex, cause: Cause) {
        self.pending.add(leaf, cause);
    }
}

/// The pfns that transfer entries of the grant table name, if that is known.
fn named(ports: &mut Ports<'_>) -> Result<Option<Vec<Pfn>>, PortError> {
    let mut entries = Vec::new();
    if !ports.unlogged.transfers(&mut entries)? {
        return Ok(None);
    }
    let named = entries.iter().filter_map(|&entry| match entry {
        Transfer::Into(pfn) => Some(pfn),
        Transfer::Came(mfn) => ports.m2p.pfn(mfn).filter(|_| mfn.0 < ports.m2p.frames()),
    });
    Ok(Some(named.collect()))
}
