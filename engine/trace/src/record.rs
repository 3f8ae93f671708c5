// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records a live guest: a second tracker observes it, and each of its rounds becomes a round of
//! the trace.
//! Not here: reading log-dirty. It can be read only once, so the caller reads it and gives it to
//! the recorder.
//! Units: as in `round`; entries are as the tracker read them, later writes are in the next round.
//! Threads: one; the tracker compares on the caller's.
//! Source: own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::{error, fmt};

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::config::{Config, Rewalk};
use p2mtrack::error::Error;
use p2mtrack::frame::{Entry, Mfn, Pfn};
use p2mtrack::leaf::Leaf;
use p2mtrack::monitor::Monitor;
use p2mtrack::port::{Guest, LogBuffer, LogDirty, M2p, P2mSource, PortError, Roots};
use p2mtrack::report::RoundReport;

use crate::error::TraceError;
use crate::meta::Meta;
use crate::round::{NONE, Round, Structure, UpperFrame};
use crate::staged::StagedFile;
use crate::writer::Writer;

/// A recording that can't go on.
#[derive(Debug)]
pub enum RecordError {
    /// The guest can't be followed.
    Tracker(Error),
    /// The trace can't be written, or the guest has something that no trace may hold.
    Trace(TraceError),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tracker(_) => write!(f, "guest can't be recorded"),
            Self::Trace(_) => write!(f, "trace can't be written"),
        }
    }
}

impl error::Error for RecordError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Tracker(cause) => Some(cause),
            Self::Trace(cause) => Some(cause),
        }
    }
}

/// A recording of a live guest.
#[derive(Debug)]
pub struct Recorder<W: Write> {
    writer: Writer<W>,
    meta: Meta,
    monitor: Monitor,
    log: GivenLog,
}

impl<W: Write> Recorder<W> {
    /// Begins a trace of a guest with META's width.
    ///
    /// # Errors
    /// `out` failed.
    pub fn new(out: W, meta: &Meta) -> Result<Self, RecordError> {
        Self::over(Writer::new(out, meta).map_err(RecordError::Trace)?, meta)
    }

    fn over(writer: Writer<W>, meta: &Meta) -> Result<Self, RecordError> {
        let config = Config { rewalk: Rewalk::EveryRound, ..Config::default() };
        let monitor = Monitor::new(config, meta.width).map_err(RecordError::Tracker)?;
        Ok(Self { writer, meta: meta.clone(), monitor, log: GivenLog::default() })
    }

    /// Observes one round and writes it. `before` are the roots as read before the CLEAN that
    /// returned `log`. The tracker reads the guest now, so call this right after that CLEAN. In the
    /// first round a `log` is ignored: everything that it could name is read after it.
    ///
    /// # Errors
    /// See [`RecordError`]. After an error of the tracker nothing was written, and the round may be
    /// repeated without a log: the recorder keeps the marks.
    pub fn round(
        &mut self,
        guest: &mut Guest<'_>,
        before: Roots,
        log: Option<&PfnBitmap>,
    ) -> Result<RoundReport, RecordError> {
        let first = self.writer.rounds() == 0;
        if let Some(log) = log.filter(|_| !first) {
            self.log.give(log);
        }
        let log_dirty = (!first).then(|| self.log.marks.clone());
        let mut unwatched = Guest {
            p2m: &mut *guest.p2m,
            m2p: guest.m2p,
            types: &mut *guest.types,
            unlogged: &mut *guest.unlogged,
            observer: &mut (), // the caller's phases are not ours
        };
        let report = self.monitor.observe(&mut unwatched, &mut self.log, |_, _| ());
        let report = report.map_err(RecordError::Tracker)?;
        let mut round = self.view(guest);
        (round.before, round.log_dirty) = (before, log_dirty);
        self.writer.round(&round).map_err(RecordError::Trace)?;
        self.log.marks.reset(0);
        Ok(report)
    }

    /// Releases the recorder's mappings. Call it before [`Recorder::finish`], while the guest still
    /// exists.
    pub fn release(&mut self, p2m: &mut dyn P2mSource) {
        self.monitor.release(p2m);
    }

    /// Ends the trace and returns the flushed target.
    ///
    /// # Errors
    /// `out` failed, or no round was recorded.
    pub fn finish(self) -> Result<W, RecordError> {
        self.writer.finish().map_err(RecordError::Trace)
    }

    /// The round as the tracker has it, without what the caller gave.
    fn view(&self, guest: &mut Guest<'_>) -> Round {
        // A trace can't hold a frame past the machine. It was never mapped either.
        let word = |mfn: &Mfn| if mfn.0 < self.meta.max_mfn { mfn.0 } else { NONE };
        let leaf_mfns: Vec<u64> = self.monitor.tracker().leaf_frames().iter().map(word).collect();
        let mut pfns = HashMap::new();
        let mut pfn_of = |mfn: u64| {
            // Read once: the m2p of a live guest may change, a trace has one value.
            *pfns.entry(mfn).or_insert_with(|| guest.m2p.pfn(Mfn(mfn)).map_or(NONE, |pfn| pfn.0))
        };
        let held = |&mfn: &u64| if mfn == NONE { NONE } else { pfn_of(mfn) };
        let leaf_pfns = leaf_mfns.iter().map(held).collect();
        let upper = self.upper(|mfn| Some(pfn_of(mfn)).filter(|&pfn| pfn != NONE).map(Pfn));
        let entries = self.entries(guest.p2m, &leaf_mfns);
        let exceptions = self.exceptions(guest.m2p, &pfns, &entries);
        let after = self.monitor.tracker().roots().unwrap_or_default();
        Round { after, upper, leaf_mfns, leaf_pfns, entries, exceptions, ..Round::default() }
    }

    /// Each upper frame once, from the root down.
    fn upper(&self, mut pfn_of: impl FnMut(u64) -> Option<Pfn>) -> Vec<UpperFrame> {
        let linear = self.monitor.tracker().roots().is_some_and(|roots| roots.p2m_cr3 != 0);
        // A tree's mid frames are level 1 of the walk, and level 2 in a trace.
        let (structure, raise) = if linear { (Structure::Table, 0) } else { (Structure::Tree, 1) };
        let mut tables: Vec<_> = self.monitor.tracker().tables().collect();
        tables.sort_unstable_by_key(|&(level, mfn, _)| (std::cmp::Reverse(level), mfn));
        let mut seen = HashSet::new();
        tables.retain(|&(_, mfn, _)| mfn.0 < self.meta.max_mfn && seen.insert(mfn));
        let frame = |(level, mfn, content): (u8, Mfn, &Arc<Leaf>)| UpperFrame {
            structure,
            level: level + raise,
            mfn,
            pfn: pfn_of(mfn.0),
            content: Arc::clone(content),
        };
        tables.into_iter().map(frame).collect()
    }

    /// All entries; those of a shared frame are the same at all its positions.
    fn entries(&self, p2m: &mut dyn P2mSource, leaf_mfns: &[u64]) -> Vec<u64> {
        let width = self.meta.width;
        let length = width.entries();
        let tracked = width.leaves(self.monitor.tracker().pfns());
        let mut entries = vec![NONE; leaf_mfns.len() * length];
        let mut first = HashMap::new();
        for (position, &mfn) in leaf_mfns.iter().enumerate() {
            if mfn == NONE {
                continue;
            }
            let at = position * length;
            let from = *first.entry(mfn).or_insert(at);
            if from != at {
                entries.copy_within(from..from + length, at);
            } else if (position as u64) < tracked {
                for (pfn, entry) in (at as u64..).zip(&mut entries[at..at + length]) {
                    *entry = self.monitor.tracker().shadow_entry(Pfn(pfn)).0;
                }
            } else {
                // Listed, but not tracked: a shared leaf without frames, which the shadow leaves
                // out.
                let mut copy = Leaf::HOLE;
                if p2m.read(Mfn(mfn), &mut copy).is_ok() {
                    let words = copy.entries(width).map(|entry| entry.0);
                    entries.splice(at..at + length, words);
                }
            }
        }
        entries
    }

    /// m2p values of named frames that are neither listed (`pfns`) nor given by the entries.
    fn exceptions(
        &self,
        m2p: &dyn M2p,
        pfns: &HashMap<u64, u64>,
        entries: &[u64],
    ) -> BTreeMap<u64, Option<u64>> {
        let mut seen = HashSet::new();
        let mut exceptions = BTreeMap::new();
        for (pfn, &entry) in (0..).zip(entries) {
            let named = Entry(entry).names_frame(self.meta.width, self.meta.max_mfn);
            if !named || pfns.contains_key(&entry) || !seen.insert(entry) {
                continue;
            }
            let value = m2p.pfn(Mfn(entry)).map(|pfn| pfn.0);
            if value != Some(pfn) {
                exceptions.insert(entry, value);
            }
        }
        exceptions
    }
}

impl Recorder<BufWriter<StagedFile>> {
    /// Begins a trace in a file that appears at `path` only on [`Recorder::commit`].
    ///
    /// # Errors
    /// As [`Writer::create`].
    pub fn create(path: &Path, meta: &Meta) -> Result<Self, RecordError> {
        Self::over(Writer::create(path, meta).map_err(RecordError::Trace)?, meta)
    }

    /// Ends the trace and gives the file its name.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub fn commit(self) -> Result<(), RecordError> {
        self.writer.commit().map_err(RecordError::Trace)
    }
}

/// A log that the caller read.
#[derive(Debug, Default)]
struct GivenLog {
    /// Its marks, until they are written.
    marks: PfnBitmap,
}

impl GivenLog {
    fn give(&mut self, log: &PfnBitmap) {
        if self.marks.pfns() < log.pfns() {
            self.marks.resize(log.pfns());
        }
        for pfn in log.iter() {
            self.marks.set(pfn);
        }
    }
}

impl LogDirty for GivenLog {
    fn enable(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn disable(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn clean(&mut self, mut into: LogBuffer<'_>) -> Result<u64, PortError> {
        into.add(0, self.marks.words());
        Ok(self.marks.pfns().min(into.pfns()))
    }
}
