// SPDX-License-Identifier: MIT OR Apache-2.0
//! JSON lines of `simulate`. Keys are an interface: `docs/json.md`.
//! Not here: lines for people (`line`).
//! Units: pfns, pages, leaves, milliseconds, as the keys say.
//! Threads: pure.
//! Source: the schema in `docs/json.md`.

use p2mtrack::report::RoundReport;
use p2mtrack::uncertainty::Uncertainty;
use p2mtrack_synthetic::run::{Ending, Run};
use p2mtrack_synthetic::{Begun, Fault, SimConfig};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::failure::VERDICT;
use crate::stopwatch::Stopwatch;

/// Value of `tracker`: the engine.
pub(super) const P2MTRACK: &str = "p2mtrack";
/// Value of `tracker`: the model of Xen's own toolstack.
pub(super) const UPSTREAM: &str = "upstream";

/// A run was corrupt or leaked, or harmed its source.
pub(super) const EXIT_WRONG: u8 = VERDICT;
/// A run ended with an error.
pub(super) const EXIT_ABORTED: u8 = 3;

/// The end of a run: the keys of any guest.
#[derive(Debug, Serialize)]
pub(super) struct Outcome<'a> {
    pub(super) event: &'static str,
    pub(super) scenario: &'static str,
    pub(super) seed: u64,
    pub(super) tracker: &'static str,
    pub(super) verdict: &'static str,
    pub(super) mismatched_pfns: u64,
    pub(super) leaked_pfns: u64,
    pub(super) error: Option<&'a str>,
    pub(super) fault: Option<&'static str>,
    pub(super) source_unharmed: bool,
    pub(super) rounds: u64,
    pub(super) changed_beyond_log_dirty: u64,
    pub(super) pages_sent: u64,
    pub(super) gone: u64,
    pub(super) undefined_not_compared: u64,
    pub(super) missing_pfns: u64,
    pub(super) kind: Option<&'static str>,
    pub(super) unaccounted_frames: Option<i64>,
    /// Only of a run whose pages went through a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stock_leaked_pfns: Option<u64>,
    /// Why there is no recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) record_error: Option<&'a str>,
}

impl<'a> Outcome<'a> {
    /// Of a run by `tracker`, `"p2mtrack"` or `"upstream"`.
    pub(super) fn new(config: &SimConfig, tracker: &'static str, run: &'a Run) -> Self {
        let judgement = run.judgement.as_ref();
        Self {
            event: "result",
            scenario: config.scenario.name(),
            seed: config.seed,
            tracker,
            verdict: run.ending.name(),
            mismatched_pfns: judgement.map_or(0, |j| j.mismatched_pfns),
            leaked_pfns: judgement.map_or(0, |j| j.leaked_pfns),
            error: run.error.as_deref(),
            fault: run.fault.map(Fault::name),
            source_unharmed: run.harmed.is_none(),
            rounds: run.rounds,
            changed_beyond_log_dirty: run.beyond_log_dirty,
            pages_sent: run.pages_sent,
            gone: run.gone,
            undefined_not_compared: judgement.map_or(0, |j| j.undefined_not_compared),
            missing_pfns: judgement.map_or(0, |j| j.missing_pfns),
            kind: run.kind,
            unaccounted_frames: run.unaccounted_frames,
            stock_leaked_pfns: run.stock_leaked,
            record_error: None,
        }
    }
}

/// The exit status that a run asks for.
pub(super) fn exit_status(run: &Run) -> u8 {
    match run.ending {
        _ if run.harmed.is_some() => EXIT_WRONG,
        Ending::Judged(p2mtrack_synthetic::Verdict::Identical) => 0,
        Ending::Judged(_) => EXIT_WRONG,
        Ending::Aborted => EXIT_ABORTED,
    }
}

/// A program that the guest began.
pub(super) fn program(config: &SimConfig, begun: &Begun) -> Value {
    json!({
        "event": "program",
        "scenario": config.scenario.name(),
        "seed": config.seed,
        "number": begun.number,
        "step": begun.step,
        "behaviour": begun.behaviour,
    })
}

/// One round.
pub(super) fn round(scenario: &str, seed: u64, report: &RoundReport, phases: &Stopwatch) -> Value {
    let uncertain: Map<_, _> = Uncertainty::ALL
        .iter()
        .zip(report.uncertain)
        .map(|(d, n)| (d.name().to_owned(), n.into()))
        .collect();
    let phase_us: Map<_, _> = phases
        .phases()
        .map(|(name, time)| (name.to_owned(), (time.as_micros() as u64).into()))
        .collect();
    let (leaves, entries, structure, pages, settled) =
        (&report.leaves, &report.entries, &report.structure, &report.pages, &report.settled);
    json!({
        "event": "round",
        "scenario": scenario,
        "seed": seed,
        "round": report.round,
        "stage": report.stage.name(),
        "kernel": report.kernel,
        "threads": report.threads,
        "pfn_count": report.pfn_count,
        "log_dirty_pfns": report.log_dirty_pfns,
        "leaves": {
            "tracked": leaves.tracked, "distinct": leaves.distinct, "dirty": leaves.dirty,
            "new": leaves.fresh, "dropped": leaves.dropped, "compared": leaves.compared,
            "unchanged": leaves.unchanged,
        },
        "entries": {
            "mapped": entries.mapped, "unmapped": entries.unmapped, "remapped": entries.remapped,
            "other": entries.other, "beyond_log_dirty": entries.beyond_log_dirty,
        },
        "structure": {
            "generation": structure.generation, "roots": structure.roots,
            "pfn_count": structure.pfn_count, "dirty": structure.dirty,
            "entries": structure.entries, "moved": structure.moved, "forced": structure.forced,
            "walks": structure.walks, "retries": structure.retries,
            "frame_lists": structure.frame_lists,
        },
        "pages": {
            "owed": pages.owed, "accepted": pages.accepted, "tables": pages.tables,
            "unpopulated": pages.unpopulated, "deferred_m2p": pages.deferred_m2p,
            "deferred_frame": pages.deferred_frame, "deferred_table": pages.deferred_table,
            "deferred_uncertain": pages.deferred_uncertain, "moved": pages.moved,
            "returned": pages.returned, "left": pages.left,
        },
        "settled": {
            "gone": settled.gone, "foreign": settled.foreign, "m2p_stale": settled.m2p_stale,
            "aliases": settled.aliases, "cleared_ptes": settled.cleared_ptes,
            "unlogged": settled.unlogged,
        },
        "uncertain": uncertain,
        "p2m_unreadable": report.p2m_unreadable,
        "log_left_on": report.log_left_on,
        "dirty_rate": report.dirty_rate,
        "shrinking": report.shrinking,
        "unaccounted_frames": report.unaccounted_frames,
        "phase_us": phase_us,
    })
}
