// SPDX-License-Identifier: MIT OR Apache-2.0
//! One whole migration of a huge guest by the real engine, judged at the end.
//! Not here: the engine, the oracle; this only calls them in the order that a toolstack would.
//! Units: rounds.
//! Threads: the caller's; the engine starts its own.
//! Source: the loop of a toolstack: first copy, live rounds, suspend, final round; on an error,
//! cancel.

use std::ops::Range;

use p2mtrack::config::Config;
use p2mtrack::error::Error;
use p2mtrack::migration::Migration;
use p2mtrack::port::{Observer, PortError};
use p2mtrack::report::RoundReport;
use p2mtrack::shadow::ShadowBytes;

use crate::run::in_full;

use super::guest::Guest;
use super::life::{Deeds, Life};
use super::oracle::{Judgement, judge};
use super::ports::GuestPorts;

/// Which side is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The guest, between two rounds.
    Guest,
    /// The engine.
    Engine,
    /// The oracle.
    Oracle,
}

/// Observes the migration of a huge guest.
pub trait Watch: Observer {
    /// A round ended.
    ///
    /// # Errors
    /// The migration is cancelled with this error.
    fn round(&mut self, report: &RoundReport) -> Result<(), PortError>;

    /// Where the engine's large bitmaps are, after the last round.
    fn memory(&mut self, _: &[Range<usize>]) {}

    /// Another side goes to work.
    fn turn(&mut self, _: Turn) {}
}

/// No observer.
impl Watch for () {
    fn round(&mut self, _: &RoundReport) -> Result<(), PortError> {
        Ok(())
    }
}

/// How a run went.
#[derive(Debug, Default)]
pub struct Run {
    /// What the oracle found; `None` if the migration ended with an error.
    pub judgement: Option<Judgement>,
    /// Why it ended with an error.
    pub error: Option<String>,
    /// The kind of the engine's error, if that is why.
    pub kind: Option<&'static str>,
    /// Frames that the last suspended round did not account for.
    pub unaccounted_frames: Option<i64>,
    /// What a tracker broke, or left behind at the source.
    pub harmed: Option<String>,
    /// Rounds that ended well.
    pub rounds: u64,
    /// Changed entries, after the first copy, whose own pfn log-dirty did not name.
    pub beyond_log_dirty: u64,
    /// Pfns that were reported to the receiver as gone.
    pub gone: u64,
    /// What the guest did.
    pub deeds: Deeds,
    /// The shadow after the last round.
    pub shadow: Option<ShadowBytes>,
    /// The last round.
    pub last: Option<RoundReport>,
}

/// Migrates a guest: the first copy, `rounds` live rounds, suspend, the final round. The guest runs
/// before each of them but the first.
#[must_use]
pub fn migrate(
    guest: &Guest,
    life: &mut Life,
    engine: Config,
    rounds: u64,
    watch: &mut dyn Watch,
) -> Run {
    let mut driver = Driver { guest, ports: GuestPorts::new(guest), watch, run: Run::default() };
    let mut migration = None;
    let done = driver.steps(life, engine, rounds, &mut migration);
    driver.run.deeds = life.deeds();
    if let Some(migration) = &migration {
        driver.run.shadow = Some(migration.tracker().shadow_bytes());
        driver.watch.memory(&migration.tracker().mapped_at());
    }
    match done {
        Ok(()) => {
            drop(migration); // its memory is not needed any more
            driver.watch.turn(Turn::Oracle);
            driver.run.judgement = Some(judge(guest));
        }
        Err(stop) => driver.give_up(stop, migration),
    }
    driver.run.harmed = driver.run.harmed.or_else(|| guest.harm());
    driver.run
}

/// Why a migration ends early.
enum Stop {
    Engine(Error),
    /// The observer returned an error.
    Watch(PortError),
}

/// A migration under way.
struct Driver<'a> {
    guest: &'a Guest,
    ports: GuestPorts<'a>,
    watch: &'a mut dyn Watch,
    run: Run,
}

impl Driver<'_> {
    fn steps(
        &mut self,
        life: &mut Life,
        engine: Config,
        rounds: u64,
        slot: &mut Option<Migration>,
    ) -> Result<(), Stop> {
        let started = Migration::start(engine, &mut self.ports.lend(self.watch));
        let migration = slot.insert(started.map_err(Stop::Engine)?);
        for round in 0..=rounds {
            if round > 0 {
                self.live(life);
            }
            let report = migration.round(&mut self.ports.lend(self.watch));
            self.note(report.map_err(Stop::Engine)?)?;
        }
        self.live(life);
        self.guest.suspend(true);
        let report = migration.finish(&mut self.ports.lend(self.watch));
        self.note(report.map_err(Stop::Engine)?)
    }

    fn live(&mut self, life: &mut Life) {
        self.watch.turn(Turn::Guest);
        life.run(self.guest);
        self.watch.turn(Turn::Engine);
    }

    fn note(&mut self, report: RoundReport) -> Result<(), Stop> {
        self.run.rounds += 1;
        self.run.beyond_log_dirty +=
            if report.round == 0 { 0 } else { report.entries.beyond_log_dirty };
        self.run.gone += report.settled.gone;
        let watched = self.watch.round(&report);
        self.run.unaccounted_frames = report.unaccounted_frames.or(self.run.unaccounted_frames);
        self.run.last = Some(report);
        watched.map_err(Stop::Watch)
    }

    fn give_up(&mut self, stop: Stop, migration: Option<Migration>) {
        if let Some(mut migration) = migration {
            let cancelled = migration.cancel(&mut self.ports.lend(self.watch));
            self.run.harmed = cancelled.err().map(|error| in_full(&error));
        }
        if let Stop::Engine(error) = &stop {
            self.run.kind = Some(error.kind());
            self.run.unaccounted_frames = error.unaccounted_frames();
        }
        self.run.error = Some(match stop {
            Stop::Engine(error) => in_full(&error),
            Stop::Watch(error) => error.to_string(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::huge::Shape;
    use crate::huge::guest::tests::guest;
    use crate::huge::oracle::Difference;
    use crate::huge::receiver::Stamped;
    use crate::oracle::Verdict;
    use p2mtrack::frame::Pfn;

    /// A guest after its migration.
    fn migrated(shape: Shape, pfns: u64) -> (Guest, Run) {
        let guest = guest(shape, pfns);
        guest.log().disable();
        let run = migrate(&guest, &mut Life::new(2), Config::default(), 3, &mut ());
        (guest, run)
    }

    #[test]
    fn every_shape_arrives_identical() {
        for shape in Shape::ALL {
            let (guest, run) = migrated(shape, 1 << 16);
            let judgement = run.judgement.unwrap_or_else(|| panic!("{shape}: {:?}", run.error));
            assert_eq!(judgement.verdict(), Verdict::Identical, "{shape}: {:?}", judgement.first);
            assert_eq!((&run.harmed, run.rounds), (&None, 5), "{shape}");
            assert_eq!(judgement.frames, guest.frames(), "{shape}");
            // Without a shadow these would be stale.
            assert!(run.beyond_log_dirty > 100 && run.gone > 10, "{shape}: {run:?}");
            guest.check_premise().expect("kept");
        }
    }

    #[test]
    fn several_threads_and_a_short_last_table_change_nothing() {
        let guest = guest(Shape::Ballooned, 600 * 512);
        guest.log().disable();
        let engine = Config { threads: 2, ..Config::default() };
        let run = migrate(&guest, &mut Life::new(3), engine, 2, &mut ());
        let judgement = run.judgement.expect("completed");
        assert_eq!(judgement.verdict(), Verdict::Identical, "{:?}", judgement.first);
    }

    /// The oracle's judgement after `spoil` changed something once the destination was right.
    fn spoilt(spoil: impl FnOnce(&Guest)) -> Judgement {
        let (guest, _) = migrated(Shape::Runs, 1 << 14);
        assert_eq!(judge(&guest).verdict(), Verdict::Identical);
        spoil(&guest);
        judge(&guest)
    }

    #[test]
    fn a_wrong_stamp_is_caught() {
        let found = spoilt(|guest| guest.machine.write(guest.frame(77).expect("a frame")));
        assert_eq!((found.verdict(), found.mismatched_pfns), (Verdict::Corrupt, 1));
        let text = found.first.expect("the difference").to_string();
        assert!(text.starts_with("pfn 0x4d: mfn 0x") && text.ends_with("arrived"), "{text}");
    }

    #[test]
    fn a_wrong_frame_with_the_same_stamp_is_caught() {
        let found = spoilt(|guest| {
            let page = guest.stamped(guest.frame(9).expect("a frame"));
            let other = Stamped { mfn: page.mfn + 1, ..page };
            guest.receiver.take(9, other, guest.pattern().entry(9));
        });
        assert_eq!((found.verdict(), found.mismatched_pfns), (Verdict::Corrupt, 1));
    }

    #[test]
    fn a_missing_page_is_caught() {
        let found = spoilt(|guest| guest.receiver.take_gone(&[Pfn(12_000), Pfn(9_000)]));
        assert_eq!((found.verdict(), found.missing_pfns), (Verdict::Corrupt, 2));
        assert!(matches!(found.first, Some(Difference::Page { pfn: 9_000, there: None, .. })));
    }

    #[test]
    fn a_leak_is_caught() {
        let found = spoilt(|guest| assert!((0..guest.pfns()).any(|pfn| guest.balloon_out(pfn))));
        // The leaf of the entry changed, too: that is a mismatch, no leak.
        assert_eq!((found.leaked_pfns, found.mismatched_pfns, found.missing_pfns), (1, 1, 0));
        let found = spoilt(|guest| {
            let hole = (0..guest.pfns()).find(|&pfn| guest.frame(pfn).is_none()).expect("a hole");
            guest.receiver.take(hole, Stamped { mfn: 9, stamp: 1 }, guest.pattern().entry(hole));
        });
        assert_eq!((found.verdict(), found.leaked_pfns), (Verdict::Leaked, 1));
    }

    #[test]
    fn a_wrong_table_and_a_wrong_list_are_caught() {
        let found = spoilt(|guest| {
            let pieces = &mut *guest.receiver.pieces();
            pieces.tables.values_mut().next().expect("a table").words[3] ^= 1 << 12;
            pieces.list[5] = 0;
            pieces.list.push(0);
        });
        assert_eq!((found.wrong_tables, found.list_mismatches), (1, 2));
        let found = spoilt(|guest| guest.receiver.pieces().tables.clear());
        assert_eq!((found.wrong_tables, found.verdict()), (4, Verdict::Corrupt));
    }
}
