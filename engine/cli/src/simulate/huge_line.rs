// SPDX-License-Identifier: MIT OR Apache-2.0
//! Output about a huge guest: the opening, the result as JSON, the verdict for people.
//! Not here: rounds (`line`, `result`).
//! Units: bytes, pfns, milliseconds, as the keys say.
//! Threads: pure.
//! Source: the schema in `docs/json.md`.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use p2mtrack_synthetic::Verdict;
use p2mtrack_synthetic::huge::Guest;
use p2mtrack_synthetic::huge::run::Run;
use serde::Serialize;

use super::huge_plan::Plan;
use super::line::grouped;
use super::result::{self, EXIT_ABORTED, EXIT_WRONG, P2MTRACK};
use crate::bitmaps::Bitmaps;
use crate::size::in_words;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const HEAD: Style = Style::new().bold();

/// The scenario of all huge guests.
pub(super) const HUGE: &str = "huge";

/// How long it took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) built: Duration,
    pub(super) migrated: Duration,
    pub(super) judged: Duration,
}

/// The end of a run.
#[derive(Debug, Serialize)]
pub(super) struct Outcome<'a> {
    #[serde(flatten)]
    any: result::Outcome<'a>,
    shape: &'static str,
    guest_bytes: u64,
    frames: u64,
    wrong_tables: u64,
    list_mismatches: u64,
    first_difference: Option<String>,
    pages_received: u64,
    shadow_bytes: Option<u64>,
    #[serde(flatten)]
    bitmaps: Bitmaps,
    build_ms: u64,
    migrate_ms: u64,
    judge_ms: u64,
    peak_bytes: Option<u64>,
}

impl<'a> Outcome<'a> {
    pub(super) fn new(
        plan: &Plan,
        guest: &Guest,
        run: &'a Run,
        times: Times,
        bitmaps: Bitmaps,
        peak_bytes: Option<u64>,
    ) -> Self {
        let judgement = run.judgement.unwrap_or_default();
        Self {
            any: result::Outcome {
                event: "result",
                scenario: HUGE,
                seed: plan.seed,
                tracker: P2MTRACK,
                verdict: run.judgement.map_or("aborted", |judgement| judgement.verdict().name()),
                mismatched_pfns: judgement.mismatched_pfns,
                leaked_pfns: judgement.leaked_pfns,
                error: run.error.as_deref(),
                fault: None,
                source_unharmed: run.harmed.is_none(),
                rounds: run.rounds,
                changed_beyond_log_dirty: run.beyond_log_dirty,
                pages_sent: guest.received().0,
                gone: run.gone,
                undefined_not_compared: 0,
                missing_pfns: judgement.missing_pfns,
                kind: run.kind,
                unaccounted_frames: run.unaccounted_frames,
                stock_leaked_pfns: None,
                record_error: None,
            },
            shape: plan.shape.name(),
            guest_bytes: plan.bytes(),
            frames: guest.frames(),
            wrong_tables: judgement.wrong_tables,
            list_mismatches: judgement.list_mismatches,
            first_difference: judgement.first.map(|first| first.to_string()),
            pages_received: guest.received().0,
            shadow_bytes: run.shadow.map(|shadow| shadow.bytes),
            bitmaps,
            build_ms: times.built.as_millis() as u64,
            migrate_ms: times.migrated.as_millis() as u64,
            judge_ms: times.judged.as_millis() as u64,
            peak_bytes,
        }
    }

    /// The exit status that the run asks for.
    pub(super) fn exit_status(&self) -> u8 {
        match self.any.verdict {
            _ if !self.any.source_unharmed => EXIT_WRONG,
            _ if self.any.verdict == Verdict::Identical.name() => 0,
            _ if self.any.error.is_some() => EXIT_ABORTED,
            _ => EXIT_WRONG,
        }
    }
}

/// The lines before the run.
pub(super) fn opening(plan: &Plan, guest: &Guest) -> String {
    format!(
        "Migrating a huge synthetic guest of {} ({} pages, {} with a frame, 64-bit, linear p2m).\n\
         Shape {HEAD}{}{HEAD:#}: {}\nAgain with: {}\n",
        in_words(plan.bytes()),
        grouped(plan.pages),
        grouped(guest.frames()),
        plan.shape,
        plan.shape.about(),
        plan.command(),
    )
}

/// The end of a run, for a person.
pub(super) fn verdict(outcome: &Outcome, run: &Run) -> String {
    let frames = grouped(outcome.frames);
    let mut text = match (&run.judgement, &outcome.any.error) {
        (_, Some(error)) => format!("\n{BAD}Aborted:{BAD:#} {error}."),
        (Some(judgement), None) if judgement.verdict() == Verdict::Identical => format!(
            "\n{GOOD}Identical.{GOOD:#} Each of the {frames} frames of the suspended source is at the destination, with what \
             was in it, and nothing else."
        ),
        (_, None) => format!(
            "\n{BAD}{}.{BAD:#} Of {frames} frames {} are wrong, {} of them missing; {} are leaked. {} page tables and {} \
             positions of the frame list are wrong.",
            if outcome.any.verdict == Verdict::Leaked.name() { "Leaked" } else { "Corrupt" },
            grouped(outcome.any.mismatched_pfns),
            grouped(outcome.any.missing_pfns),
            grouped(outcome.any.leaked_pfns),
            outcome.wrong_tables,
            outcome.list_mismatches,
        ),
    };
    for line in [outcome.first_difference.as_ref(), run.harmed.as_ref()].into_iter().flatten() {
        text.push_str(&format!("\n  {line}"));
    }
    let deeds = run.deeds;
    text.push_str(&format!(
        "\nThe guest wrote {} pages, ballooned {} out and {} in, swapped {} pairs and exchanged {} frames.",
        grouped(deeds.writes),
        grouped(deeds.out),
        grouped(deeds.back),
        grouped(deeds.swaps),
        grouped(deeds.exchanges),
    ));
    text.push_str(&format!(
        "\n{} pages arrived; {} changed pfns were not in log-dirty; {} pfns were given back.",
        grouped(outcome.pages_received),
        grouped(outcome.any.changed_beyond_log_dirty),
        grouped(outcome.any.gone),
    ));
    text.push_str(&spent(outcome, run));
    text
}

/// Memory and time.
fn spent(outcome: &Outcome, run: &Run) -> String {
    let mib = |bytes: Option<u64>| bytes.map_or("?".to_owned(), |bytes| grouped(bytes >> 20));
    let seconds = |ms: u64| ms as f64 / 1e3;
    let (threads, kernel) =
        run.last.as_ref().map_or((1, "none"), |last| (last.threads, last.kernel));
    format!(
        "\nPeak memory {} MiB, of which the shadow {} MiB and the bitmaps {} MiB (of {}). Built in {:.1} s, migrated in {:.1} s, judged in {:.1} s; \
         {threads} threads, kernel {kernel}.",
        mib(outcome.peak_bytes),
        mib(outcome.shadow_bytes),
        mib(outcome.bitmaps.array_resident_bytes),
        mib(outcome.bitmaps.array_bytes),
        seconds(outcome.build_ms),
        seconds(outcome.migrate_ms),
        seconds(outcome.judge_ms),
    )
}
