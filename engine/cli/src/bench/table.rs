// SPDX-License-Identifier: MIT OR Apache-2.0
//! Figures and the machine for people.
//! Not here: JSON (`object`).
//! Units: as [`p2mtrack_bench::figure::Unit`] says.
//! Threads: plain values.
//! Source: none.

use p2mtrack_bench::figure::{Figure, Goal, Unit};
use p2mtrack_bench::machine::Machine;

use crate::failure::printable;
use crate::output::{BAD, GOOD};
use crate::size::in_words;

/// What the columns mean.
pub(super) const LEGEND: &str = "x: times as fast as its peer; of floor: the least time in which this machine reads the bytes that must be read,\n\
     measured in turn with the figure, over the figure's time; below a figure: what was measured, and how many times as fast as each peer.";

/// Lines about the machine.
pub(super) fn machine(machine: &Machine) -> Vec<String> {
    let cpu = machine.cpu.as_deref().unwrap_or("An unknown processor");
    let system = machine.system.as_deref().unwrap_or("unknown");
    let memory = machine.memory_bytes.map(|bytes| format!(", {} GiB", bytes >> 30));
    let huge = match (machine.huge_pages.as_deref(), machine.huge_page_bytes) {
        (Some(mode), Some(bytes)) => format!("; huge pages of {}: {mode}", in_words(bytes)),
        _ => String::new(),
    };
    vec![
        printable(&format!("{cpu}, {} threads{}", machine.cpus, memory.unwrap_or_default())),
        printable(&format!("{}; system {system}{huge}", machine.caches.join(", "))),
    ]
}

/// Heads of the columns of [`figure`].
pub(super) fn head() -> String {
    format!(
        "{:<38}{:>10}{:>13}{:>10}{:>9}  {:<8}{:>7}",
        "figure", "value", "goal", "of floor", "goal", "kernel", "threads"
    )
}

/// A figure, and below it what was measured.
pub(super) fn figure(figure: &Figure) -> Vec<String> {
    let number = |number: f64| match figure.unit {
        Unit::Times => format!("{number:.2}x"),
        Unit::Share => format!("{:.3} %", number * 100.0),
        Unit::Bytes => format!("{:.2} GiB", number / f64::from(1 << 30)),
    };
    let goal = figure.goal.map(|goal| match goal {
        Goal::AtLeast(least) => format!(">= {}", number(least)),
        Goal::AtMost(most) => format!("<= {}", number(most)),
    });
    let share = |share: Option<f64>| share.map(|share| format!("{share:.2}")).unwrap_or_default();
    let floor_goal = figure.floor_goal.map(|least| format!(">= {least:.2}")).unwrap_or_default();
    let verdict = match figure.met() {
        None => String::new(),
        Some(true) => format!("  {GOOD}reached{GOOD:#}"),
        Some(false) => format!("  {BAD}missed{BAD:#}"),
    };
    let kernel = figure.kernel.map_or("", |kernel| kernel.name());
    let line = format!(
        "{:<38}{:>10}{:>13}{:>10}{floor_goal:>9}  {kernel:<8}{:>7}{verdict}",
        figure.name,
        number(figure.value),
        goal.unwrap_or_default(),
        share(figure.floor),
        figure.threads,
    );
    let mut lines = vec![line, format!("    {}", figure.detail)];
    if !figure.peers.is_empty() {
        let peers: Vec<_> =
            figure.peers.iter().map(|(peer, x)| format!("{peer} {x:.2}x")).collect();
        lines.push(format!("    {}", peers.join(", ")));
    }
    lines
}
