// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--prom FILE`: the sums so far, for Prometheus's textfile collector.
//! Not here: a server.
//! Units: base units of Prometheus: seconds, bytes, counts.
//! Threads: one owner.
//! Source: the collector must read complete files only: each gets its name after it is written.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use p2mtrack_trace::StagedFile;
use prometheus::{Gauge, IntCounter, Registry, TextEncoder};

use super::line::{Round, Sums};
use crate::check::Check;
use crate::failure::Failure;
use crate::written::{fill, stage};

/// The file.
pub(super) struct Prom {
    path: PathBuf,
    registry: Registry,
    counters: Vec<(IntCounter, Source)>,
    round_seconds: Gauge,
    shadow_bytes: Gauge,
    leaves: Gauge,
    written: Gauge,
}

/// Where a counter's value comes from.
type Source = fn(&Sums, Option<&Check>) -> u64;

const COUNTERS: [(&str, &str, Source); 9] = [
    ("rounds_total", "Rounds after the first copy", |sums, _| sums.found.rounds),
    ("leaves_dirty_total", "P2m leaves that log-dirty named", |sums, _| sums.found.leaves_dirty),
    ("leaves_new_total", "P2m leaves that are new or moved", |sums, _| sums.found.leaves_new),
    ("entries_changed_total", "P2m entries that changed", |sums, _| sums.found.entries_changed),
    (
        "entries_beyond_log_dirty_total",
        "Changed entries whose pfn log-dirty did not name",
        |sums, _| sums.found.beyond_log_dirty,
    ),
    ("structure_events_total", "Signs of a reshaped p2m", |sums, _| sums.structure.events()),
    ("log_dirty_pfns_total", "Pfns that log-dirty named", |sums, _| sums.log_dirty_pfns),
    ("owed_pfns_total", "Pfns that a migration would send", |sums, _| sums.pfns_owed),
    ("missed_total", "Changes that --check found missed", |_, check| {
        check.map_or(0, Check::missed)
    }),
];

impl Prom {
    /// Fails before anything is tracked if the file can't be written.
    pub(super) fn new(path: &Path, domid: u16) -> Result<Self, Failure> {
        stage(path)?;
        Self::registered(path, domid).map_err(Failure::file(path))
    }

    fn registered(path: &Path, domid: u16) -> prometheus::Result<Self> {
        let labels = HashMap::from([("domid".to_owned(), domid.to_string())]);
        let registry = Registry::new_custom(Some("p2mtrack".to_owned()), Some(labels))?;
        let counter = |(name, help, source): (&str, &str, Source)| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok((counter, source))
        };
        let counters = COUNTERS.into_iter().map(counter).collect::<prometheus::Result<_>>()?;
        let gauge = |name: &str, help: &str| {
            let gauge = Gauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            path: path.to_path_buf(),
            counters,
            round_seconds: gauge("round_seconds", "Time of the last round")?,
            shadow_bytes: gauge("shadow_bytes", "Memory of the shadow")?,
            leaves: gauge("leaves", "P2m leaves that are tracked")?,
            written: gauge(
                "last_round_timestamp_seconds",
                "When the last round ended, in Unix time",
            )?,
            registry,
        })
    }

    pub(super) fn write(
        &self,
        round: &Round,
        sums: &Sums,
        check: Option<&Check>,
    ) -> Result<(), Failure> {
        for (counter, source) in &self.counters {
            counter.inc_by(source(sums, check) - counter.get());
        }
        self.round_seconds.set(round.time.as_secs_f64());
        self.shadow_bytes.set(round.shadow_bytes as f64);
        self.leaves.set(round.report.leaves.tracked as f64);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.written.set(now.as_secs_f64().floor());
        let text = TextEncoder::new().encode_to_string(&self.registry.gather());
        let text = text.map_err(Failure::file(&self.path))?;
        // Not synced: after a crash of the machine the file is of no use.
        fill(stage(&self.path)?, &self.path, &text, StagedFile::publish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::line::tests::a_round;
    use std::fs;

    #[test]
    fn the_file_is_whole_and_counts_up() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("p2mtrack.prom");
        let (prom, mut sums) = (Prom::new(&path, 7).expect("a file"), Sums::new());
        assert!(!path.exists(), "not yet");
        for number in 1..=2 {
            sums.add(&a_round(number));
            prom.write(&a_round(number), &sums, None).expect("written");
        }
        let text = fs::read_to_string(&path).expect("text");
        for line in [
            "# TYPE p2mtrack_rounds_total counter",
            "p2mtrack_rounds_total{domid=\"7\"} 2",
            "p2mtrack_entries_beyond_log_dirty_total{domid=\"7\"} 4",
            "p2mtrack_missed_total{domid=\"7\"} 0",
            "p2mtrack_shadow_bytes{domid=\"7\"} 4096",
            "p2mtrack_round_seconds{domid=\"7\"} 0.00005",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(fs::read_dir(directory.path()).expect("a list").count(), 1, "nothing beside it");
        assert!(Prom::new(Path::new("/nowhere/at/all"), 7).is_err());
    }

    #[test]
    fn files_beside_it_stay_and_a_link_in_its_place_is_not_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("p2mtrack.prom");
        let new = directory.path().join("p2mtrack.prom.new");
        fs::write(&new, "before").expect("written");
        let prom = Prom::new(&path, 7).expect("a file");
        prom.write(&a_round(1), &Sums::new(), None).expect("written");
        assert_eq!(fs::read(&new).expect("text"), b"before");
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/dev/null", &path).expect("linked");
        let refused = prom.write(&a_round(2), &Sums::new(), None);
        assert!(refused.is_err() && path.is_symlink());
    }
}
