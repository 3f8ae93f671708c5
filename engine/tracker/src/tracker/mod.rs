// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracker: one round's steps in their order; `intake`, `structure` and `leaves` do them.
//! Not here: sending (`migration`). A caller that sends nothing (`observe`) needs only this.
//! Units: pfns and leaf positions; a round is one taking of log-dirty and all that follows from it.
//! Threads: one owner; the comparison runs on the engine's own pool.
//! Source: order of the steps: `docs/design.md`, laws 1 to 4; `xen-save-path.md` 6.5.

mod barren;
mod intake;
mod leaves;
mod owners;
mod pending;
mod structure;
mod width;

use std::sync::Arc;

use pending::Pending;

use crate::cause::{Cause, CauseSet};
use crate::config::{Config, Verify};
use crate::diff::Kernel;
use crate::doubt::{Doubt, Doubts};
use crate::error::Error;
use crate::evidence::Evidence;
use crate::frame::{Entry, Mfn, Pfn, Width};
use crate::layout::Layout;
use crate::leaf::Leaf;
use crate::log::Log;
use crate::offers::Offers;
use crate::owners::Owners;
use crate::pfn_set::PfnSet;
use crate::port::{P2mSource, Phase, PortError, Ports, Roots};
use crate::report::{RoundReport, Stage};
use crate::resend::ResendBitmap;
use crate::resolve::is_settled_with;
use crate::sent::Sent;
use crate::shadow::{Forms, Shadow, ShadowBytes};
use crate::shard::Shards;

/// Pfns that `observe` tells of between two looks at the bitmap: bounds its memory.
const OBSERVED_PFNS_MAX: usize = 65_536;

/// Follows one guest's p2m.
#[derive(Debug)]
pub struct Tracker {
    pub(crate) config: Config,
    width: Width,
    kernel: Kernel,
    shards: Shards,
    pub(crate) layout: Layout,
    pub(crate) shadow: Shadow,
    pub(crate) resend: ResendBitmap,
    pub(crate) sent: Sent,
    pub(crate) doubts: Doubts,
    pub(crate) report: RoundReport,
    /// Entries that the shadow held for pfns that fell away: their frames may have moved.
    pub(crate) fallen: Vec<(Pfn, Entry)>,
    /// Leaves that must be compared before the round can be said to know anything about them.
    pending: Pending,
    evidence: Evidence,
    roots: Option<Roots>,
    domain_frames: u64,
    /// Frames of the machine.
    machine_frames: u64,
    /// Frames that the domain held when this round began.
    held_frames: u64,
    log: Log,
    /// Pfns that the log of this round has to cover; 0 if it has not to be read.
    log_span: u64,
    /// Why log-dirty was lost the last time.
    log_error: Option<PortError>,
    /// A log was lent and never handed over, and no round has ended since: its doubt.
    log_lost: bool,
    /// Log-dirty failed and is not yet on again.
    log_broken: bool,
    offers: Offers,
    owners: Owners,
    /// Frames that entries named when they were last observed; of a migration nothing.
    observed_frames: u64,
    /// Pfns that were handed out since every leaf was last compared: whoever sends may have read another entry of its
    /// own ([`Sender::Reads`](crate::config::Sender::Reads)).
    pub(crate) handed: PfnSet,
    /// The structure was walked; the caller forgets it.
    pub(crate) walked: bool,
    rounds: u64,
}

impl Tracker {
    /// Makes a tracker for a guest of this width. Nothing is read yet.
    ///
    /// # Errors
    /// [`Error::Threads`] if the pool can't be started, [`Error::Environment`] if a kernel or a form is asked for that
    /// is not there.
    pub fn new(config: Config, width: Width) -> Result<Self, Error> {
        let forms = config.shadow.map_or_else(Forms::choose, Ok).map_err(Error::environment)?;
        Ok(Self {
            width,
            kernel: config.kernel.map_or_else(Kernel::choose, Ok).map_err(Error::environment)?,
            shards: Shards::new(config.threads)?,
            layout: Layout::new(width),
            shadow: Shadow::with_forms(width, forms),
            resend: ResendBitmap::new(0),
            sent: Sent::default(),
            doubts: Doubts::default(),
            report: RoundReport::default(),
            fallen: Vec::new(),
            pending: Pending::default(),
            evidence: Evidence { forced: true, ..Evidence::default() },
            roots: None,
            domain_frames: 0,
            machine_frames: 0,
            held_frames: 0,
            log: Log::default(),
            log_span: 0,
            log_error: None,
            log_lost: false,
            log_broken: false,
            offers: Offers::default(),
            owners: Owners::default(),
            observed_frames: 0,
            handed: PfnSet::default(),
            walked: false,
            rounds: 0,
            config,
        })
    }

    /// Why a pfn is owed now; empty if it is not.
    #[must_use]
    pub fn why(&self, pfn: Pfn) -> CauseSet {
        self.resend.why(pfn)
    }

    /// The entry under which a pfn was last accepted.
    #[must_use]
    pub fn shadow_entry(&self, pfn: Pfn) -> Entry {
        self.shadow.entry(pfn)
    }

    /// Whether a pfn was last settled with this frame, as the domain's own.
    pub(crate) fn is_settled_with(&self, pfn: Pfn, mfn: Mfn) -> bool {
        is_settled_with(&self.shadow, &self.sent, pfn, mfn)
    }

    /// Tracked pfns: from here on no pfn can have a frame.
    #[must_use]
    pub fn pfns(&self) -> u64 {
        self.layout.pfns()
    }

    /// The frame at each listed leaf position, tracked or not, as the last walk found it; all ones
    /// where there is none.
    #[must_use]
    pub fn leaf_frames(&self) -> &[Mfn] {
        self.layout.leaves()
    }

    /// The upper frames that the last walk read: level (1 names leaves), frame, private copy.
    pub fn tables(&self) -> impl Iterator<Item = (u8, Mfn, &Arc<Leaf>)> {
        self.layout.copies.iter().map(|(&(level, mfn), copy)| (level, mfn, copy))
    }

    /// The roots under which the last walk was made; `None` before the first.
    #[must_use]
    pub const fn roots(&self) -> Option<Roots> {
        self.roots
    }

    /// Memory of the shadow by form.
    #[must_use]
    pub fn shadow_bytes(&self) -> ShadowBytes {
        self.shadow.bytes()
    }

    /// The p2m may have been rebuilt without a sign (the guest resumed): walk anew in the next round.
    pub fn distrust_structure(&mut self) {
        self.evidence.forced = true;
        self.layout.copies.clear();
    }

    /// One round without sending: everything that is found is taken for accepted at once, as seen.
    /// Before the pfns are forgotten, `each` hears of every one that was owed, with its causes.
    ///
    /// # Errors
    /// Any of [`Error`]; the round may be repeated.
    pub fn observe(
        &mut self,
        ports: &mut Ports<'_>,
        mut each: impl FnMut(Pfn, CauseSet),
    ) -> Result<RoundReport, Error> {
        self.begin_round(Stage::Live);
        self.look_before_log(ports)?;
        self.read_log(ports)?;
        self.look_at_p2m(ports, true)?;
        self.fallen.clear(); // nothing was sent that could name them
        if !self.report.blind {
            let unaccounted = self.held_frames.cast_signed() - self.observed_frames.cast_signed();
            self.report.unaccounted_frames = Some(unaccounted);
        }
        let mut from = 0;
        loop {
            let mut taken = self.resend.take(OBSERVED_PFNS_MAX, from);
            let owed: Vec<_> =
                taken.pfns().iter().copied().zip(taken.causes().iter().copied()).collect();
            taken.pay_all();
            from = taken.next();
            drop(taken);
            if owed.is_empty() {
                break;
            }
            for (pfn, causes) in owed {
                each(pfn, causes);
                self.report.pages.accepted += 1;
                // A frame of the p2m may be found under another pfn, as when its page is sent.
                if let Some(mfn) = self.shadow.entry(pfn).claim(self.width).named() {
                    self.frame_named(ports, mfn);
                }
            }
        }
        self.end_round()
    }

    /// Gives all mappings back.
    pub fn release(&mut self, p2m: &mut dyn P2mSource) {
        self.layout.release(p2m);
    }

    pub(crate) fn begin_round(&mut self, stage: Stage) {
        self.doubts.begin_round();
        self.owners.begin_round(stage.is_suspended(), self.config.verify == Verify::Full);
        if self.log_lost {
            self.doubts.mark(Doubt::ShortBitmap);
        }
        self.report = RoundReport {
            round: self.rounds,
            stage,
            kernel: self.kernel.name(),
            threads: self.shards.threads(),
            ..RoundReport::default()
        };
    }

    /// Ends the round: a doubt that ran for too long ends a live migration here.
    pub(crate) fn end_round(&mut self) -> Result<RoundReport, Error> {
        self.rounds += 1;
        if self.pending.is_empty() {
            self.offers.end_round(self.report.stage.is_suspended());
        }
        self.report.doubts = self.doubts.counts();
        self.log_lost = false;
        let rounds = self.config.doubt_rounds_max;
        let persistent = self.doubts.end_round(rounds);
        match persistent {
            Some(doubt) if !self.report.stage.is_suspended() => {
                let source = match doubt {
                    Doubt::LogLost => self.log_error.take(),
                    // The first of them that is not mapped now.
                    Doubt::LeafUnmapped => self.unmapped_leaf().map(PortError::from),
                    _ => None,
                };
                Err(Error::Doubt { doubt, rounds: self.doubts.running(doubt), source })
            }
            _ => Ok(self.report.clone()),
        }
    }

    /// Takes log-dirty, by its port or as the caller read it up to a pfn, and marks everything that follows.
    pub(crate) fn scan(&mut self, ports: &mut Ports<'_>, read: Option<u64>) -> Result<(), Error> {
        match read {
            None => self.read_log(ports)?,
            Some(read) => self.take_log(ports, read)?,
        }
        self.look_at_p2m(ports, false)?;
        self.report.doubts = self.doubts.counts(); // so far
        Ok(())
    }

    /// The structure may have been another one between two looks, there and back: whoever reads the p2m by a mapping of its
    /// own may have read that. What was handed out since is owed again, and forgotten once every leaf was compared.
    fn doubt_what_was_read(&mut self) {
        if self.report.structure.walks > 0 {
            for pfn in self.handed.iter() {
                self.resend.mark(pfn, Cause::Structure);
            }
        }
        if self.pending.is_empty() && !self.report.blind {
            self.handed.clear_all();
        }
    }

    fn look_at_p2m(&mut self, ports: &mut Ports<'_>, adopt_all: bool) -> Result<(), Error> {
        self.look(ports, adopt_all)?;
        self.doubt_what_was_read();
        self.report.pfn_count = self.layout.pfn_count();
        self.count_leaves();
        Ok(())
    }
}

/// Tells the observer of a phase, also when it ends in an error.
pub(crate) fn phase<'p, T>(
    ports: &mut Ports<'p>,
    phase: Phase,
    run: impl FnOnce(&mut Ports<'p>) -> Result<T, Error>,
) -> Result<T, Error> {
    ports.observer.begin(phase);
    let result = run(ports);
    ports.observer.end(phase);
    result
}
