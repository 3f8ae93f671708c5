// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--view`: the present state of a tracked guest, drawn again after each round.
//! Not here: a line for each round (`findings`).
//! Units: as in the lines.
//! Threads: one owner.
//! Source: own; nothing is drawn if standard error is not a terminal.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::line::{Round, Sums};

const ROWS: [&str; 5] = ["round", "leaves", "entries", "owed", "structure"];

/// The rows on the terminal.
pub(super) struct View {
    rows: Vec<ProgressBar>,
}

impl View {
    pub(super) fn new(wanted: bool) -> Self {
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("{prefix:>10.bold}  {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        let row = |name: &&'static str| {
            all.add(ProgressBar::new_spinner().with_style(style.clone()).with_prefix(*name))
        };
        Self { rows: if wanted { ROWS.iter().map(row).collect() } else { Vec::new() } }
    }

    pub(super) fn show(&self, round: &Round, sums: &Sums) {
        let (report, totals) = (&round.report, &sums.found);
        let words = [
            format!("{} in {:.1} ms", round.number, round.time.as_secs_f64() * 1e3),
            format!(
                "{} tracked, {} dirty, {} compared; {} dirty in all",
                report.leaves.tracked,
                report.leaves.dirty,
                report.leaves.compared,
                totals.leaves_dirty
            ),
            format!(
                "{} changed, {} beyond log-dirty; {} and {} in all",
                report.entries.changed(),
                report.entries.beyond_log_dirty,
                totals.entries_changed,
                totals.beyond_log_dirty
            ),
            format!("{} pfns, {} in log-dirty", round.owed.count, report.log_dirty_pfns),
            format!("{} in all, {} walks", sums.structure.words(), sums.walks),
        ];
        for (row, words) in self.rows.iter().zip(words) {
            row.set_message(words);
            row.tick();
        }
    }

    pub(super) fn clear(&self) {
        self.rows.iter().for_each(ProgressBar::finish);
    }
}
