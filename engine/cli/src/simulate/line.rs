// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines about one run for people: scenarios explained, the table of rounds, the closing verdict.
//! Not here: JSON (`result`).
//! Units: pages of 4 KiB, milliseconds.
//! Threads: the caller's.
//! Source: none.

use std::error::Error;
use std::io::Write;

use anstyle::{AnsiColor, Style};
use p2mtrack::report::{RoundReport, Stage};
use p2mtrack_synthetic::oracle::Verdict;
use p2mtrack_synthetic::run::{Ending, Run};
use p2mtrack_synthetic::{Begun, Scenario, SimConfig};
use serde_json::json;

use crate::size::in_words;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const HEAD: Style = Style::new().bold();

/// Explains every scenario.
pub(super) fn list_scenarios(as_json: bool) -> Result<(), Box<dyn Error>> {
    let mut out = anstream::stdout().lock();
    for scenario in Scenario::ALL {
        let (name, about) = (scenario.name(), scenario.about());
        if as_json {
            writeln!(out, "{}", json!({"event": "scenario", "name": name, "about": about}))?;
        } else {
            writeln!(out, "{HEAD}{name:<20}{HEAD:#}{about}")?;
        }
    }
    Ok(())
}

/// Digits in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The lines before the run.
pub(super) fn opening(run: &SimConfig, kind: &str, command: &str) -> String {
    let pages = run.guest_bytes / 4096;
    format!(
        "Migrating a synthetic {} guest ({} pages, {}-bit, {kind} p2m) that changes its p2m while it runs.\n\
         Scenario {HEAD}{}{HEAD:#}: {}\nAgain with: {command}\n",
        in_words(run.guest_bytes),
        grouped(pages),
        run.width.bits(),
        run.scenario.name(),
        run.scenario.about(),
    )
}

/// Heads of the columns of [`round`].
pub(super) fn head() -> String {
    let head = format!(
        "{:<11}{:>12}{:>11}{:>11}{:>12}{:>11}{:>15}{:>10}{:>9}",
        "round",
        "log-dirty",
        "leaves",
        "changed",
        "beyond-log",
        "structure",
        "pages sent",
        "left",
        "ms"
    );
    format!("{HEAD}{head}{HEAD:#}")
}

/// One round.
pub(super) fn round(report: &RoundReport, milliseconds: u128) -> String {
    let name = match report.stage {
        Stage::Live if report.round == 0 => "first copy".to_owned(),
        Stage::Live => format!("live {}", report.round),
        Stage::Checkpoint => format!("ckpt {}", report.round),
        Stage::Final => "suspended".to_owned(),
    };
    let first = report.round == 0;
    let changed = if first { 0 } else { report.entries.changed() };
    let beyond = if first { 0 } else { report.entries.beyond_log_dirty };
    let mut line = format!(
        "{name:<11}{:>12}{:>11}{:>11}{:>12}{:>11}{:>15}{:>10}{milliseconds:>9}",
        grouped(report.log_dirty_pfns),
        grouped(report.leaves.compared),
        grouped(changed),
        grouped(beyond),
        grouped(report.structure.events()),
        grouped(report.pages.accepted),
        grouped(report.pages.left),
    );
    for (uncertainty, count) in p2mtrack::uncertainty::Uncertainty::ALL.iter().zip(report.uncertain)
    {
        if count > 0 {
            line.push_str(&format!("  uncertainty: {uncertainty}"));
        }
    }
    line
}

/// A program that the guest began.
pub(super) fn program(begun: &Begun) -> String {
    format!("program {:<5} begun at step {:>7}: {}", begun.number, begun.step, begun.behaviour)
}

/// What the columns mean.
pub(super) fn legend() -> &'static str {
    "leaves: p2m leaves compared with the shadow; changed: entries that differ; beyond-log: of these, pfns that \
     log-dirty\ndid not name; structure: signs that the p2m itself was reshaped; left: pfns deferred to the next round"
}

/// How upstream's algorithm ended on the same guest.
pub(super) fn upstream(config: &SimConfig, command: &str, run: &Run) -> String {
    let mut text = format!(
        "\n{HEAD}Upstream's algorithm{HEAD:#} on this guest (scenario {}; {command}):\n{}",
        config.scenario.name(),
        ending(run)
    );
    text.push_str(&differences(run));
    text
}

/// How a run ended, in a sentence.
fn ending(run: &Run) -> String {
    let mut text = match run.ending {
        Ending::Judged(Verdict::Identical) => format!(
            "{GOOD}Identical.{GOOD:#} Every page, page table and frame of the suspended source is at the destination, \
             and nothing else."
        ),
        Ending::Judged(Verdict::Corrupt) => {
            format!("{BAD}Corrupt.{BAD:#} The destination differs from the suspended source.")
        }
        Ending::Judged(Verdict::Leaked) => format!(
            "{BAD}Leaked.{BAD:#} Every page is right, but the destination holds frames that the source does not have."
        ),
        Ending::Aborted => {
            format!("{BAD}Aborted:{BAD:#} {}.", run.error.as_deref().unwrap_or("no reason given"))
        }
    };
    if let Some(fault) = run.fault {
        text.push_str(&format!(" This is the injected fault {}.", fault.name()));
    }
    text
}

/// The first few differences that the oracle found.
fn differences(run: &Run) -> String {
    let found = run.judgement.iter().flat_map(|judgement| &judgement.differences);
    found.map(|difference| format!("\n  {difference}")).collect()
}

/// The end of one run, for a person.
pub(super) fn verdict(run: &Run) -> String {
    let mut text = ending(run);
    if run.beyond_log_dirty > 0 {
        text.push_str(&format!(
            "\n{} changed pfns were not in log-dirty: a migration that follows log-dirty alone would have left them \
             stale or lost.",
            grouped(run.beyond_log_dirty)
        ));
    }
    if run.gone > 0 {
        text.push_str(&format!(
            "\n{} pfns that were sent and then given up by the guest were given back at the destination.",
            grouped(run.gone)
        ));
    }
    text.push_str(&match &run.harmed {
        None if run.ending == Ending::Aborted => {
            "\nThe source guest is unharmed: log-dirty off, nothing mapped, it runs on.".to_owned()
        }
        None => String::new(),
        Some(harm) => format!("\n{BAD}The source was harmed:{BAD:#} {harm}."),
    });
    text.push_str(&differences(run));
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn digits_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(16_777_216), "16,777,216");
    }
}
