// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--record`: a trace of the simulated guest, made by a second tracker that only observes.
//! Not here: the format, the recorder (`p2mtrack_trace::record`).
//! Units: a round of the trace for each round of the migration.
//! Threads: the caller's.
//! Source: the guest is paused while it is recorded, so that recording does not change the run.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::error::Error;
use p2mtrack::port::{M2p, P2mSource, PortError};
use p2mtrack_synthetic::{P2mKind, SimConfig, Simulation};
use p2mtrack_trace::{Flavour, Meta, RecordError, Recorder, StagedFile};

use crate::failure::{Failure, in_full, note};
use crate::signals::uninterrupted;

/// A trace being written.
pub(super) struct Recording {
    path: PathBuf,
    recorder: Recorder<BufWriter<StagedFile>>,
    rounds: u64,
    /// The error after which nothing more can be written.
    failed: Option<RecordError>,
}

impl Recording {
    pub(super) fn create(
        (path, staged): (&Path, StagedFile),
        config: &SimConfig,
        simulation: &Simulation,
    ) -> Result<Self, Failure> {
        let ports = simulation.ports();
        let meta = Meta {
            name: format!("{}-{}", config.scenario.name(), config.seed),
            width: config.width,
            pfn_count: config.guest_bytes / 4096,
            max_mfn: ports.m2p.frames(),
            kernel: "synthetic".to_owned(),
            xen: "simulated".to_owned(),
            flavour: match simulation.p2m_kind() {
                P2mKind::Linear => Flavour::Linear,
                P2mKind::Tree => Flavour::Tree,
            },
            load: config.scenario.about().to_owned(),
            rounds: 0,
            source: format!("p2mtrack {}", env!("CARGO_PKG_VERSION")),
        };
        let recorder = Recorder::new(BufWriter::new(staged), &meta);
        let recorder = recorder.map_err(Failure::file(path))?;
        Ok(Self { path: path.to_path_buf(), recorder, rounds: 0, failed: None })
    }

    pub(super) fn round(
        &mut self,
        log: Option<&PfnBitmap>,
        simulation: &Simulation,
    ) -> Result<(), PortError> {
        let result = round(&mut self.recorder, log, simulation);
        self.rounds += u64::from(result.is_ok());
        result.map_err(|error| {
            let words = in_full(&error);
            self.failed = Some(error).filter(|error| matches!(error, RecordError::Trace(_)));
            words.into()
        })
    }

    /// Gives the file its name, if a round was recorded.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let file = Failure::file(&self.path);
        if let Some(error) = self.failed {
            return Err(file(error));
        }
        if self.rounds == 0 {
            let path = self.path.display();
            note(&format!("{path}: not written: the migration ended before its first copy"));
            return Ok(());
        }
        uninterrupted(|| self.recorder.commit())?.map_err(file)
    }
}

/// Records a round of a guest without a change to its run.
pub(crate) fn round<W: Write>(
    recorder: &mut Recorder<W>,
    log: Option<&PfnBitmap>,
    simulation: &Simulation,
) -> Result<(), RecordError> {
    simulation.pause(true);
    let mut ports = simulation.ports();
    let recorded = (ports.p2m.roots())
        .map_err(|source| RecordError::Tracker(Error::Port { port: "p2m source", source }))
        .and_then(|before| recorder.round(&mut ports.lend(&mut ()).guest, before, log));
    recorder.release(&mut ports.p2m); // a mapping keeps a frame alive
    simulation.pause(false);
    recorded.map(|_| ())
}
