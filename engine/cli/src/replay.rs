// SPDX-License-Identifier: MIT OR Apache-2.0
//! `replay FILE`: what the engine finds in a recorded guest, round by round.
//! Not here: what it should have found (`check`).
//! Units: leaves are positions, entries are pfns; sums are over the rounds after the first copy.
//! Threads: as `--threads` says.
//! Source: rule of each count: the head of `p2mtrack_trace::naive`.

use std::process::ExitCode;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::cause::Cause;
use p2mtrack::config::Config;
use p2mtrack::report::{RoundReport, StructureCounts};
use serde::Serialize;

use crate::args::ReplayArgs;
use crate::check::Check;
use crate::failure::{Failure, VERDICT};
use crate::follow::Follower;
use crate::output::{BAD, GOOD, HEAD, NOTE, Output, counted};
use crate::recording::Recording;

/// The first copy.
#[derive(Serialize)]
struct FirstCopy {
    event: &'static str,
    kernel: &'static str,
    threads: usize,
    leaves: u64,
    leaves_distinct: u64,
    pfns: u64,
    pfns_owed: u64,
}

/// A later round.
#[derive(Serialize)]
struct RoundLine {
    event: &'static str,
    round: u64,
    leaves: u64,
    leaves_dirty: u64,
    leaves_new: u64,
    leaves_compared: u64,
    leaves_unchanged: u64,
    entries_changed: u64,
    mapped: u64,
    unmapped: u64,
    remapped: u64,
    other: u64,
    beyond_log_dirty: u64,
    structure: Structure,
    log_dirty_pfns: u64,
    pfns_owed: u64,
    pfns_owed_beyond_log_dirty: u64,
}

/// Structure events by what told of them.
#[derive(Serialize)]
struct Structure {
    generation: u64,
    roots: u64,
    pfn_count: u64,
    dirty: u64,
    entries: u64,
    moved: u64,
}

/// The end. Its keys and their order are an interface.
#[derive(Default, Serialize)]
struct Totals {
    event: &'static str,
    rounds: u64,
    leaves_dirty: u64,
    leaves_new: u64,
    entries_changed: u64,
    mapped: u64,
    unmapped: u64,
    remapped: u64,
    other: u64,
    beyond_log_dirty: u64,
    missed: Option<u64>,
    pending: Option<u64>,
}

/// Pfns that a round owed.
#[derive(Default)]
struct Owed {
    pfns: PfnBitmap,
    count: u64,
    /// Of these, the ones that log-dirty did not name.
    beyond: u64,
}

pub(crate) fn run(args: &ReplayArgs) -> Result<ExitCode, Failure> {
    let Recording { reader, .. } = Recording::open(&args.file)?;
    let config = Config { threads: args.threads.into(), ..args.compare.config() };
    let mut follower = Follower::new(&args.file, &reader, config)?;
    let mut check = args.check.then(|| Check::new(reader.meta()));
    let mut totals = Totals { event: "replay", ..Totals::default() };
    let mut out = Output::stdout(args.json);
    loop {
        let (report, owed) = observe(&mut follower)?;
        if let Some(check) = &mut check {
            check.round(follower.round(), &owed.pfns, &follower.tracker);
        }
        if follower.number() == 0 {
            print_first_copy(&mut out, &report, &owed, follower.tracker.pfns())?;
        } else {
            totals.add(&report);
            print_round(&mut out, &RoundLine::new(follower.number(), &report, &owed))?;
        }
        if !follower.advance()? {
            break;
        }
    }
    totals.missed = check.as_ref().map(Check::missed);
    totals.pending = check.as_ref().map(Check::pending);
    out.object(&totals)?;
    print_verdict(&mut out, &totals)?;
    out.finish()?;
    let missed = totals.missed.is_some_and(|missed| missed > 0);
    Ok(if missed { ExitCode::from(VERDICT) } else { ExitCode::SUCCESS })
}

fn observe(follower: &mut Follower<'_>) -> Result<(RoundReport, Owed), Failure> {
    let mut owed = Owed::default();
    let covered = follower.round().entries.len() as u64;
    owed.pfns.reset(covered);
    let report = follower.observe(|pfn, causes| {
        owed.pfns.set(pfn);
        owed.count += 1;
        owed.beyond += u64::from(!causes.contains(Cause::LogDirty));
    })?;
    Ok((report, owed))
}

impl RoundLine {
    fn new(round: u64, report: &RoundReport, owed: &Owed) -> Self {
        let RoundReport { leaves, entries, structure, .. } = report;
        Self {
            event: "round",
            round,
            leaves: leaves.tracked,
            leaves_dirty: leaves.dirty,
            leaves_new: leaves.fresh,
            leaves_compared: leaves.compared,
            leaves_unchanged: leaves.unchanged,
            entries_changed: entries.changed(),
            mapped: entries.mapped,
            unmapped: entries.unmapped,
            remapped: entries.remapped,
            other: entries.other,
            beyond_log_dirty: entries.beyond_log_dirty,
            structure: Structure::new(structure),
            log_dirty_pfns: report.log_dirty_pfns,
            pfns_owed: owed.count,
            pfns_owed_beyond_log_dirty: owed.beyond,
        }
    }
}

impl Structure {
    const fn new(counts: &StructureCounts) -> Self {
        Self {
            generation: counts.generation,
            roots: counts.roots,
            pfn_count: counts.pfn_count,
            dirty: counts.dirty,
            entries: counts.entries,
            moved: counts.moved,
        }
    }

    /// For people: the triggers that fired, with their numbers.
    fn words(&self) -> String {
        let all = [
            ("generation", self.generation),
            ("roots", self.roots),
            ("count", self.pfn_count),
            ("dirty", self.dirty),
            ("entries", self.entries),
            ("moved", self.moved),
        ];
        let fired = all.iter().filter(|(_, count)| *count > 0);
        let words: Vec<_> = fired.map(|(name, count)| format!("{name} {count}")).collect();
        if words.is_empty() { "-".into() } else { words.join(", ") }
    }
}

impl Totals {
    fn add(&mut self, report: &RoundReport) {
        let RoundReport { leaves, entries, .. } = report;
        self.rounds += 1;
        self.leaves_dirty += leaves.dirty;
        self.leaves_new += leaves.fresh;
        self.entries_changed += entries.changed();
        self.mapped += entries.mapped;
        self.unmapped += entries.unmapped;
        self.remapped += entries.remapped;
        self.other += entries.other;
        self.beyond_log_dirty += entries.beyond_log_dirty;
    }
}

fn print_first_copy(
    out: &mut Output,
    report: &RoundReport,
    owed: &Owed,
    pfns: u64,
) -> Result<(), Failure> {
    out.object(&FirstCopy {
        event: "first_copy",
        kernel: report.kernel,
        threads: report.threads,
        leaves: report.leaves.tracked,
        leaves_distinct: report.leaves.distinct,
        pfns,
        pfns_owed: owed.count,
    })?;
    out.text(format_args!(
        "First copy: {pfns} pfns in {}, {} with an entry.\n",
        counted(report.leaves.tracked, "leaf", "leaves"),
        owed.count,
    ))?;
    out.styled(HEAD, format_args!("{HEADS}"))?;
    Ok(())
}

const HEADS: &str = concat!(
    "       ---------------- leaves ----------------  ---------------- entries ----------------",
    "  ---- pfns owed ----\n",
    "round    dirty      new compared unchanged   mapped unmapped remapped  other    beyond",
    "      all    beyond  structure events",
);

fn print_round(out: &mut Output, line: &RoundLine) -> Result<(), Failure> {
    out.object(line)?;
    let style = if line.beyond_log_dirty > 0 { NOTE } else { anstyle::Style::new() };
    out.text(format_args!(
        "{:>5} {:>8} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>6} {style}{:>9}{style:#} {:>8} {:>9}  {}",
        line.round,
        line.leaves_dirty,
        line.leaves_new,
        line.leaves_compared,
        line.leaves_unchanged,
        line.mapped,
        line.unmapped,
        line.remapped,
        line.other,
        line.beyond_log_dirty,
        line.pfns_owed,
        line.pfns_owed_beyond_log_dirty,
        line.structure.words(),
    ))?;
    Ok(())
}

/// The sentences for a person.
fn print_verdict(out: &mut Output, totals: &Totals) -> Result<(), Failure> {
    let rounds = counted(totals.rounds, "round", "rounds");
    let changed = counted(totals.entries_changed, "p2m entry changed", "p2m entries changed");
    out.text(format_args!(""))?;
    match (totals.entries_changed, totals.beyond_log_dirty) {
        (0, _) => out.text(format_args!("No p2m entry changed in {rounds}."))?,
        (_, 0) => {
            out.text(format_args!(
                "{changed} in {rounds}, each of a pfn that log-dirty named too."
            ))?;
        }
        (_, beyond) => {
            out.text(format_args!("{changed} in {rounds}."))?;
            out.styled(NOTE, format_args!("{beyond} of them are beyond log-dirty: {LOST}"))?;
        }
    }
    if let (Some(missed), Some(pending)) = (totals.missed, totals.pending) {
        print_check(out, missed, pending)?;
    }
    Ok(())
}

const LOST: &str =
    "a migration that sends only the pfns that log-dirty names would have lost them.";

fn print_check(out: &mut Output, missed: u64, pending: u64) -> Result<(), Failure> {
    if missed > 0 {
        let changes = counted(missed, "change was found", "changes were found");
        out.styled(BAD, format_args!("MISSED: {changes} neither in its round nor in the next."))?;
    } else {
        let words = "Checked against every entry of every round: nothing was missed.";
        out.styled(GOOD, format_args!("{words}"))?;
    }
    if pending > 0 {
        let changes = counted(pending, "change came", "changes came");
        let words = "after the last look at log-dirty: pending, for a next round to find.";
        out.text(format_args!("{changes} {words}"))?;
    }
    Ok(())
}
