// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines about a round of a live guest, and about all rounds.
//! Not here: what they have in common with a recorded guest's (`findings`).
//! Units: times in microseconds, by the wall clock; of phases as the engine reports them.
//! Threads: plain values.
//! Source: keys: `docs/json.md`.

use std::time::Duration;

use hdrhistogram::Histogram;
use p2mtrack::report::RoundReport;
use p2mtrack::tracker::Tracker;
use p2mtrack::uncertainty::Uncertainty;
use serde::Serialize;
use serde_json::{Map, Value};

use super::full;
use super::session::Session;
use crate::bitmaps::Bitmaps;
use crate::check::Check;
use crate::failure::Failure;
use crate::findings::{Owed, RoundLine, Structure, Totals, unaccounted};
use crate::output::Output;

/// Longest time that is recorded exactly: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// One round.
pub(super) struct Round {
    pub(super) number: u64,
    pub(super) report: RoundReport,
    pub(super) owed: Owed,
    pub(super) phases: Vec<(&'static str, Duration)>,
    pub(super) time: Duration,
    pub(super) shadow_bytes: u64,
}

/// Its line.
#[derive(Serialize)]
pub(super) struct Line {
    #[serde(flatten)]
    found: RoundLine,
    walks: u64,
    walk_retries: u64,
    uncertain: u64,
    unaccounted_frames: Option<i64>,
    round_us: u64,
    phase_us: Map<String, Value>,
}

impl Round {
    pub(super) fn new(
        number: u64,
        report: RoundReport,
        owed: Owed,
        session: &Session,
        time: Duration,
    ) -> Self {
        let phases = session.stopwatch.phases().collect();
        let shadow_bytes = session.monitor.tracker().shadow_bytes().bytes;
        Self { number, report, owed, phases, time, shadow_bytes }
    }

    /// Compares all of the p2m with what the engine knows of it. A round in which the engine could
    /// not follow the structure is skipped: the next one judges it.
    pub(super) fn check(&self, check: &mut Check, session: &mut Session) {
        let owed = &self.owed.pfns;
        match full::read(&mut session.guest.p2m, session.monitor.tracker().pfns())
            .filter(|_| !self.report.p2m_unreadable)
        {
            Some(full) => {
                check.round(&full.entries, full.pfn_count, owed, session.monitor.tracker());
            }
            None => check.skip(owed, session.monitor.tracker()),
        }
    }

    pub(super) fn found(&self) -> RoundLine {
        RoundLine::new(self.number, &self.report, &self.owed)
    }

    pub(super) fn line(&self) -> Line {
        let time = |&(name, time): &(&str, Duration)| (name.to_owned(), micros(time).into());
        Line {
            found: self.found(),
            walks: self.report.structure.walks,
            walk_retries: self.report.structure.retries,
            uncertain: self.report.uncertain.iter().sum(),
            unaccounted_frames: self.report.unaccounted_frames,
            round_us: micros(self.time),
            phase_us: self.phases.iter().map(time).collect(),
        }
    }
}

/// All rounds after the first copy.
pub(super) struct Sums {
    pub(super) found: Totals,
    pub(super) structure: Structure,
    pub(super) walks: u64,
    pub(super) log_dirty_pfns: u64,
    pub(super) pfns_owed: u64,
    /// Frames that the domain held and no entry named, at the end of the last round.
    unaccounted_frames: Option<i64>,
    uncertain: [u64; Uncertainty::ALL.len()],
    rounds: Histogram<u64>,
    phases: Vec<(&'static str, Histogram<u64>)>,
}

/// The last line.
#[derive(Serialize)]
pub(super) struct Last {
    #[serde(flatten)]
    pub(super) found: Totals,
    /// Rounds that could not be checked.
    pub(super) unchecked: Option<u64>,
    structure: Structure,
    structure_events: u64,
    walks: u64,
    log_dirty_pfns: u64,
    pfns_owed: u64,
    unaccounted_frames: Option<i64>,
    uncertain: Map<String, Value>,
    shadow_bytes: u64,
    #[serde(flatten)]
    bitmaps: Bitmaps,
    round_us: Times,
    phase_us: Map<String, Value>,
}

/// Times of many rounds.
#[derive(Clone, Copy, Serialize)]
struct Times {
    p50: u64,
    p99: u64,
    max: u64,
}

impl Times {
    fn new(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p99: at(0.99), max: histogram.max() }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("bounds of this file")
}

impl Sums {
    pub(super) fn new() -> Self {
        Self {
            found: Totals::of("track"),
            structure: Structure::default(),
            walks: 0,
            log_dirty_pfns: 0,
            pfns_owed: 0,
            unaccounted_frames: None,
            uncertain: [0; Uncertainty::ALL.len()],
            rounds: histogram(),
            phases: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, round: &Round) {
        let report = &round.report;
        self.found.add(report);
        self.structure.add(&Structure::new(&report.structure));
        self.walks += report.structure.walks;
        self.log_dirty_pfns += report.log_dirty_pfns;
        self.pfns_owed += round.owed.count;
        self.unaccounted_frames = report.unaccounted_frames;
        for (sum, uncertainties) in self.uncertain.iter_mut().zip(report.uncertain) {
            *sum += uncertainties;
        }
        self.rounds.saturating_record(micros(round.time));
        for (index, (name, time)) in round.phases.iter().enumerate() {
            if self.phases.len() == index {
                self.phases.push((name, histogram()));
            }
            self.phases[index].1.saturating_record(micros(*time));
        }
    }

    pub(super) fn totals(self, check: Option<&Check>, tracker: &Tracker) -> Last {
        let uncertainties =
            Uncertainty::ALL.iter().zip(self.uncertain).filter(|(_, count)| *count > 0);
        let phase = |(name, times): &(&str, Histogram<u64>)| {
            ((*name).to_owned(), serde_json::json!(Times::new(times)))
        };
        let structure = self.structure;
        let mut found = self.found;
        found.missed = check.map(Check::missed);
        found.pending = check.map(Check::pending);
        Last {
            found,
            unchecked: check.map(Check::unchecked),
            structure,
            structure_events: structure.events(),
            walks: self.walks,
            log_dirty_pfns: self.log_dirty_pfns,
            pfns_owed: self.pfns_owed,
            unaccounted_frames: self.unaccounted_frames,
            uncertain: uncertainties
                .map(|(uncertainty, n)| (uncertainty.name().to_owned(), n.into()))
                .collect(),
            shadow_bytes: tracker.shadow_bytes().bytes,
            bitmaps: Bitmaps::at(&tracker.mapped_at()),
            round_us: Times::new(&self.rounds),
            phase_us: self.phases.iter().filter(|(_, times)| times.max() > 0).map(phase).collect(),
        }
    }
}

/// For people: how long rounds and their phases took.
pub(super) fn print_times(out: &mut Output, last: &Last) -> Result<(), Failure> {
    let Times { p50, p99, max } = last.round_us;
    let ms = |us: u64| us as f64 / 1000.0;
    let phase = |(name, times): (&String, &Value)| {
        format!("{name} {:.1}", ms(times["p50"].as_u64().unwrap_or(0)))
    };
    let phases: Vec<_> = last.phase_us.iter().map(phase).collect();
    out.text(format_args!(
        "A round took {:.1} ms (median; {:.1} p99, {:.1} at most): {}. Structure events: {}, walks: {}.",
        ms(p50),
        ms(p99),
        ms(max),
        phases.join(", "),
        last.structure.words(),
        last.walks,
    ))?;
    if let Some(frames) = last.unaccounted_frames {
        out.text(format_args!("At the end {}.", unaccounted(frames)))?;
    }
    if let Some(unchecked @ 1..) = last.unchecked {
        out.text(format_args!(
            "Not checked, because the p2m could not be read in full: {unchecked} rounds."
        ))?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use p2mtrack::config::Config;
    use p2mtrack::frame::Width;

    /// A round that found something.
    pub(in crate::track) fn a_round(number: u64) -> Round {
        let mut report = RoundReport { log_dirty_pfns: 7, ..RoundReport::default() };
        (report.entries.mapped, report.entries.beyond_log_dirty) = (5, 2);
        (report.leaves.tracked, report.leaves.dirty) = (9, 3);
        (report.structure.generation, report.structure.walks) = (1, 2);
        report.uncertain[0] = 4;
        let phases =
            vec![("roots", Duration::from_micros(3)), ("clean", Duration::from_micros(40))];
        let (owed, time) = (Owed { count: 11, ..Owed::default() }, Duration::from_micros(50));
        Round { number, report, owed, phases, time, shadow_bytes: 4096 }
    }

    fn keys(value: &impl Serialize) -> Vec<String> {
        let value = serde_json::to_value(value).expect("JSON");
        value.as_object().expect("an object").keys().cloned().collect()
    }

    #[test]
    fn sums_are_sums_and_every_key_is_in_the_docs() {
        let tracker = Tracker::new(Config::default(), Width::W64).expect("a tracker");
        let (mut sums, check) = (Sums::new(), Check::new(Width::W64, 100, true));
        sums.add(&a_round(1));
        sums.add(&a_round(2));
        let last = sums.totals(Some(&check), &tracker);
        let value = serde_json::to_value(&last).expect("JSON");
        assert_eq!((&value["rounds"], &value["entries_changed"]), (&2.into(), &10.into()));
        assert_eq!((&value["leaves_dirty"], &value["pfns_owed"]), (&6.into(), &22.into()));
        assert_eq!((&value["structure_events"], &value["walks"]), (&2.into(), &4.into()));
        assert_eq!((&value["missed"], &value["uncertain"]["short-bitmap"]), (&0.into(), &8.into()));
        assert_eq!(
            (&value["round_us"]["p50"], &value["phase_us"]["clean"]["max"]),
            (&50.into(), &40.into())
        );
        let docs = include_str!("../../../../docs/json.md");
        let chapter =
            docs.split("\n## ").find(|chapter| chapter.starts_with("track\n")).expect("it");
        let replay =
            docs.split("\n## ").find(|chapter| chapter.starts_with("replay\n")).expect("it");
        for key in keys(&last) {
            assert!(chapter.contains(&format!("`{key}`")), "{key}");
        }
        for key in keys(&a_round(1).line()) {
            let key = format!("`{key}`");
            assert!(chapter.contains(&key) || replay.contains(&key), "{key}");
        }
    }
}
