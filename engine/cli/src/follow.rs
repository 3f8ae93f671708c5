// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the engine over a recording, one observed round after another.
//! Not here: what is done with the findings (`replay`, `life`).
//! Units: round 0 is the first copy.
//! Threads: the engine's own pool.
//! Source: own. The engine walks in every round, because the recorder did.

use std::path::{Path, PathBuf};

use p2mtrack::cause::CauseSet;
use p2mtrack::config::{Config, Rewalk};
use p2mtrack::frame::Pfn;
use p2mtrack::monitor::Monitor;
use p2mtrack::port::M2p;
use p2mtrack::report::RoundReport;
use p2mtrack::tracker::Tracker;
use p2mtrack_trace::replay::ReplayPorts;
use p2mtrack_trace::{Reader, Replay, Round};

use crate::failure::Failure;

/// A monitor of a recording.
pub(crate) struct Follower<'r> {
    path: PathBuf,
    replay: Replay<'r>,
    ports: ReplayPorts,
    monitor: Monitor,
}

impl<'r> Follower<'r> {
    /// A follower before the first copy. `path` is for errors; `config.rewalk` is replaced.
    pub(crate) fn new(
        path: &Path,
        reader: &'r Reader<'_>,
        config: Config,
    ) -> Result<Self, Failure> {
        let replay = Replay::new(reader).map_err(Failure::file(path))?;
        let config = Config { rewalk: Rewalk::EveryRound, ..config };
        let monitor = Monitor::new(config, reader.meta().width).map_err(Failure::file(path))?;
        Ok(Self { path: path.to_path_buf(), ports: replay.ports(), replay, monitor })
    }

    /// Observes the current round. `each` gets every owed pfn with its causes.
    pub(crate) fn observe(
        &mut self,
        each: impl FnMut(Pfn, CauseSet),
    ) -> Result<RoundReport, Failure> {
        let mut observer = ();
        let (mut guest, log_dirty) = self.ports.lend(&mut observer);
        self.monitor.observe(&mut guest, log_dirty, each).map_err(|error| {
            let about = format!("{}: round {}", self.path.display(), self.replay.number());
            Failure::Engine { about, source: error.into() }
        })
    }

    /// The engine's state.
    pub(crate) const fn tracker(&self) -> &Tracker {
        self.monitor.tracker()
    }

    /// Advances to the next round, if there is one.
    pub(crate) fn advance(&mut self) -> Result<bool, Failure> {
        self.replay.advance().map_err(Failure::file(&self.path))
    }

    /// The current round as recorded.
    pub(crate) const fn round(&self) -> &Round {
        self.replay.round()
    }

    /// Its number.
    pub(crate) fn number(&self) -> u64 {
        self.replay.number()
    }

    /// The m2p of the current round.
    pub(crate) const fn m2p(&self) -> &impl M2p {
        &self.ports.m2p
    }
}
