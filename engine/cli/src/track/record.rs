// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--record`: a trace of the live guest, made by a second tracker that only observes.
//! Not here: the format, the recorder (`p2mtrack_trace::record`).
//! Units: a round of the trace for each round of the engine.
//! Threads: the caller's.
//! Source: the guest runs between the readings of the two trackers: what it writes then is in the
//! trace's next round too.

use std::io::BufWriter;
use std::path::{Path, PathBuf};

use p2mtrack::port::{M2p, P2mSource, Roots};
use p2mtrack_trace::{Flavour, Meta, RecordError, Recorder, StagedFile};

use super::session::Session;
use crate::failure::{Failure, note};
use crate::signals::uninterrupted;

/// A trace being written.
pub(super) struct Recording {
    path: PathBuf,
    recorder: Recorder<BufWriter<StagedFile>>,
    rounds: u64,
    /// Nothing more can be written, and the error was returned.
    broken: bool,
}

impl Recording {
    pub(super) fn create(
        (path, staged): (&Path, StagedFile),
        session: &mut Session,
    ) -> Result<Self, Failure> {
        let file = Failure::file(path);
        let roots = session.guest.p2m.roots().map_err(|error| file(error.to_string()))?;
        let version = session.xen.version().unwrap_or_default();
        let meta = Meta {
            name: path
                .file_stem()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            width: session.guest.p2m.width(),
            pfn_count: roots.pfn_count,
            max_mfn: session.guest.m2p.frames(),
            kernel: String::new(),
            xen: format!("Xen {version}"),
            flavour: if roots.p2m_cr3 == 0 { Flavour::Tree } else { Flavour::Linear },
            load: String::new(),
            rounds: 0,
            source: format!("p2mtrack {} track", env!("CARGO_PKG_VERSION")),
        };
        session.tap.open();
        let recorder = Recorder::new(BufWriter::new(staged), &meta);
        let recorder = recorder.map_err(Failure::file(path))?;
        Ok(Self { path: path.to_path_buf(), recorder, rounds: 0, broken: false })
    }

    /// Records the guest's present p2m. `before` are the roots as read before the round.
    pub(super) fn round(
        &mut self,
        session: &mut Session,
        before: Roots,
        number: u64,
    ) -> Result<(), Failure> {
        let log = session.tap.take();
        let mut observer = ();
        let (mut guest, _) = session.guest.lend(&mut observer);
        let recorded = self.recorder.round(&mut guest, before, log.as_ref());
        self.rounds += u64::from(recorded.is_ok());
        self.broken = matches!(recorded, Err(RecordError::Trace(_)));
        recorded.map(|_| ()).map_err(|error| match error {
            RecordError::Tracker(source) => Failure::Engine {
                about: format!("recording of round {number}"),
                source: source.into(),
            },
            trace => Failure::file(&self.path)(trace),
        })
    }

    /// Gives the file its name if a round was recorded, even if the guest is gone or the engine
    /// failed.
    pub(super) fn finish(mut self, session: &mut Session) -> Result<(), Failure> {
        self.recorder.release(&mut session.guest.p2m);
        if self.broken {
            return Ok(());
        }
        if self.rounds == 0 {
            let path = self.path.display();
            note(&format!("{path}: not written: tracking ended before the first copy"));
            return Ok(());
        }
        uninterrupted(|| self.recorder.commit())?.map_err(Failure::file(&self.path))
    }
}
