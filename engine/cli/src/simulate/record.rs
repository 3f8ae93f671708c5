// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--record`: a trace of the simulated guest, made by a second tracker that only looks.
//! Not here: the format, the recorder (`p2mtrack_trace::record`).
//! Units: a round of the trace for each round of the migration.
//! Threads: the caller's.
//! Source: the guest stands still while it is recorded, so that a recorded run goes as one that is not.

use std::error::Error;
use std::io::BufWriter;
use std::path::Path;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::port::{M2p, P2mSource, PortError};
use p2mtrack_synthetic::{P2mKind, SimConfig, Simulation};
use p2mtrack_trace::{Flavour, Meta, Recorder, StagedFile};

/// A trace under way.
pub(super) struct Recording {
    recorder: Recorder<BufWriter<StagedFile>>,
}

impl Recording {
    pub(super) fn create(
        path: &Path,
        config: &SimConfig,
        simulation: &Simulation,
    ) -> Result<Self, Box<dyn Error>> {
        // Before the file is made: a directory that can't be written to is told at once.
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
        Ok(Self { recorder: Recorder::create(path, &meta)? })
    }

    pub(super) fn round(
        &mut self,
        log: Option<&PfnBitmap>,
        simulation: &Simulation,
    ) -> Result<(), PortError> {
        simulation.pause(true);
        let mut ports = simulation.ports();
        let before = ports.p2m.roots()?;
        let result = self.recorder.round(&mut ports.lend(&mut ()), before, log);
        // A held mapping keeps a frame alive: the guest must not feel that it is watched.
        self.recorder.release(&mut ports.p2m);
        simulation.pause(false);
        result.map(|_| ()).map_err(Into::into)
    }

    pub(super) fn finish(self) -> Result<(), Box<dyn Error>> {
        Ok(self.recorder.commit()?)
    }
}
