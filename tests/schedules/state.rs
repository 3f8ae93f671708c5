// SPDX-License-Identifier: MIT OR Apache-2.0
//! The progress of the runner in a file: an interrupted run is resumed and ends with the same
//! totals.
//! Not here: what is counted (`tally`).
//! Units: schedules; seconds of all runs of the program together.
//! Threads: one owner; two runners must not share a file.
//! Source: own; written to a new file that is renamed over the old one, so that there is always a
//! complete one.

use std::error::Error;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use p2mtrack_synthetic::outcome::Failure;
use serde::{Deserialize, Serialize};

use crate::failure::Report;
use crate::tally::Tally;

/// What is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The program that ran them: totals of two programs can't be mixed.
    program: String,
    /// The first schedule.
    pub(crate) from: u64,
    /// The next schedule.
    pub(crate) next: u64,
    /// Time spent.
    pub(crate) seconds: f64,
    pub(crate) tally: Tally,
    /// The failures that were reported; the tally counts all.
    pub(crate) failures: Vec<Report>,
}

impl State {
    /// The state in a file, or a new one if there is no file.
    pub(crate) fn open(path: &Path, from: u64) -> Result<Self, Box<dyn Error>> {
        let program = fingerprint()?;
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let (tally, failures) = (Tally::default(), Vec::new());
                return Ok(Self { program, from, next: from, seconds: 0.0, tally, failures });
            }
            Err(error) => return Err(format!("{}: {error}", path.display()).into()),
        };
        let state: Self =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        if state.program != program {
            return Err(format!(
                "{} was written by another build of this program: remove it to begin again",
                path.display()
            )
            .into());
        }
        if state.from != from {
            return Err(format!("{} begins at {}", path.display(), state.from).into());
        }
        Ok(state)
    }

    /// The number of failures of a kind that were reported.
    pub(crate) fn reported(&self, failure: Failure) -> usize {
        self.failures.iter().filter(|report| report.is(failure)).count()
    }

    /// Writes the state.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let mut file = File::create(&beside)?;
        file.write_all(serde_json::to_string(self)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        Ok(())
    }
}

/// A digest of this very program (FNV-1a over words).
fn fingerprint() -> Result<String, Box<dyn Error>> {
    let bytes = fs::read(std::env::current_exe()?)?;
    let digest = bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325_u64, |digest, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (digest ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3)
    });
    Ok(format!("{digest:016x}"))
}
