// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines about what observed rounds found, in a recorded guest (`replay`) or a live one (`track`).
//! Not here: finding it, or checking it (`check`).
//! Units: leaves are positions, entries are pfns; sums are over the rounds after the first copy.
//! Threads: plain values.
//! Source: rule of each count: the head of `p2mtrack_trace::naive`. Keys and their order are an
//! interface.

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::cause::{Cause, CauseSet};
use p2mtrack::frame::Pfn;
use p2mtrack::report::{RoundReport, StructureCounts};
use serde::Serialize;

use crate::check::Check;
use crate::failure::Failure;
use crate::output::{BAD, GOOD, HEAD, NOTE, Output, counted};

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
pub(crate) struct RoundLine {
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
    p2m_unreadable: bool,
}

/// Structure events by trigger.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Structure {
    generation: u64,
    roots: u64,
    pfn_count: u64,
    dirty: u64,
    entries: u64,
    moved: u64,
}

/// The totals. Keys and their order are an interface.
#[derive(Default, Serialize)]
pub(crate) struct Totals {
    pub(crate) event: &'static str,
    pub(crate) rounds: u64,
    pub(crate) leaves_dirty: u64,
    pub(crate) leaves_new: u64,
    pub(crate) entries_changed: u64,
    mapped: u64,
    unmapped: u64,
    remapped: u64,
    other: u64,
    pub(crate) beyond_log_dirty: u64,
    pub(crate) missed: Option<u64>,
    pub(crate) pending: Option<u64>,
}

/// Pfns that a round owed.
#[derive(Default)]
pub(crate) struct Owed {
    pub(crate) pfns: PfnBitmap,
    pub(crate) count: u64,
    /// Of these, the ones that log-dirty did not name.
    pub(crate) beyond: u64,
}

/// For people: frames of the domain against entries that name frames. A running guest changes
/// between the two counts.
pub(crate) fn unaccounted(frames: i64) -> String {
    let count = counted(frames.unsigned_abs(), "frame", "frames");
    match frames {
        0 => "the p2m names as many frames as the domain holds".to_owned(),
        1.. => format!("the domain holds {count} that its p2m does not name"),
        _ => format!("the p2m names {count} more than the domain holds"),
    }
}

impl Owed {
    /// Adds an owed pfn.
    pub(crate) fn add(&mut self, pfn: Pfn, causes: CauseSet) {
        if pfn.0 >= self.pfns.pfns() {
            self.pfns.resize((pfn.0 + 1).next_power_of_two());
        }
        self.pfns.set(pfn);
        self.count += 1;
        self.beyond += u64::from(!causes.contains(Cause::LogDirty));
    }
}

impl RoundLine {
    pub(crate) fn new(round: u64, report: &RoundReport, owed: &Owed) -> Self {
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
            p2m_unreadable: report.p2m_unreadable,
        }
    }
}

impl Structure {
    pub(crate) const fn new(counts: &StructureCounts) -> Self {
        Self {
            generation: counts.generation,
            roots: counts.roots,
            pfn_count: counts.pfn_count,
            dirty: counts.dirty,
            entries: counts.entries,
            moved: counts.moved,
        }
    }

    pub(crate) const fn add(&mut self, other: &Self) {
        self.generation += other.generation;
        self.roots += other.roots;
        self.pfn_count += other.pfn_count;
        self.dirty += other.dirty;
        self.entries += other.entries;
        self.moved += other.moved;
    }

    /// Events of all kinds.
    pub(crate) const fn events(&self) -> u64 {
        self.generation + self.roots + self.pfn_count + self.dirty + self.entries + self.moved
    }

    /// For people: the triggers that fired, with their numbers.
    pub(crate) fn words(&self) -> String {
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
    /// Zeros, for this command.
    pub(crate) fn of(event: &'static str) -> Self {
        Self { event, ..Self::default() }
    }

    pub(crate) const fn add(&mut self, report: &RoundReport) {
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

/// The first copy.
pub(crate) fn print_first_copy(
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
        "First copy: {pfns} pfns in {}, {} owed.\n",
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

/// A later round.
pub(crate) fn print_round(out: &mut Output, line: &RoundLine) -> Result<(), Failure> {
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
pub(crate) fn print_verdict(
    out: &mut Output,
    totals: &Totals,
    check: Option<&Check>,
) -> Result<(), Failure> {
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
    check.map_or(Ok(()), |check| print_check(out, check))
}

const LOST: &str =
    "a migration that sends only the pfns that log-dirty names would have lost them.";

fn print_check(out: &mut Output, check: &Check) -> Result<(), Failure> {
    let (missed, pending) = (check.missed(), check.pending());
    let (checked, unchecked, needed) = (check.checked(), check.unchecked(), check.needed());
    if missed > 0 {
        let changes = counted(missed, "change was found", "changes were found");
        out.styled(BAD, format_args!("MISSED: {changes} neither in its round nor in the next."))?;
    } else if checked == 0 {
        let words = "The p2m could not be read in full in any round: nothing was checked.";
        return Ok(out.styled(BAD, format_args!("{words}"))?);
    } else if checked < needed {
        let rounds = counted(checked, "round", "rounds");
        out.styled(
            BAD,
            format_args!(
                "NOT CHECKED: {rounds} with the first copy, at least {needed} are needed."
            ),
        )?;
    } else if unchecked > 0 {
        let words = "Checked against every entry of";
        out.styled(
            NOTE,
            format_args!(
                "{words} {checked} of {} rounds: nothing was missed there.",
                checked + unchecked
            ),
        )?;
    } else {
        let words = "Checked against every entry of every round: nothing was missed.";
        out.styled(GOOD, format_args!("{words}"))?;
    }
    if pending > 0 {
        let changes = counted(pending, "change came", "changes came");
        let words = "after the last reading of log-dirty: pending, for a next round to find.";
        out.text(format_args!("{changes} {words}"))?;
    }
    Ok(())
}
