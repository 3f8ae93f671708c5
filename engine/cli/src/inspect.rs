// SPDX-License-Identifier: MIT OR Apache-2.0
//! `inspect FILE`: what a recording holds; no tracker is run.
//! Not here: the history of one pfn (`life`).
//! Units: leaves are positions; frames are valid entries; a generation is the guest's own count.
//! Threads: one.
//! Source: own.

use std::collections::HashSet;
use std::process::ExitCode;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Entry, Pfn};
use p2mtrack_trace::{Flavour, Meta, NONE, Round};
use serde::Serialize;

use crate::args::InspectArgs;
use crate::failure::{Failure, printable};
use crate::life;
use crate::output::{HEAD, Output, counted};
use crate::recording::Recording;
use crate::segments::Forms;

/// The recording's metadata.
#[derive(Serialize)]
struct MetaLine<'a> {
    event: &'static str,
    kind: &'static str,
    name: &'a str,
    width: u32,
    flavour: Flavour,
    pfn_count: u64,
    max_mfn: u64,
    kernel: &'a str,
    xen: &'a str,
    load: &'a str,
    source: &'a str,
    rounds: u64,
    trace_bytes: u64,
}

/// A round as recorded.
#[derive(Clone, Copy, Default, Serialize)]
struct RoundLine {
    event: &'static str,
    round: u64,
    pfn_count: u64,
    generation_before: u64,
    generation_after: u64,
    leaves: u64,
    leaves_distinct: u64,
    leaves_new: u64,
    leaves_dirty: u64,
    upper_frames: u64,
    upper_dirty: u64,
    frames: u64,
    m2p_exceptions: u64,
    log_dirty_pfns: Option<u64>,
    forms: Forms,
}

/// All rounds.
#[derive(Default, Serialize)]
struct Summary {
    event: &'static str,
    rounds: u64,
    leaves_first: u64,
    leaves_last: u64,
    leaves_new: u64,
    leaves_dirty: u64,
    upper_dirty: u64,
    rounds_with_generation_change: u64,
    generation_last: u64,
    log_dirty_pfns: u64,
    forms_first: Forms,
    forms_last: Forms,
}

pub(crate) fn run(args: &InspectArgs) -> Result<ExitCode, Failure> {
    let recording = Recording::open(&args.file)?;
    let mut out = Output::stdout(args.json);
    match args.pfn {
        Some(pfn) => life::print(&mut out, &args.file, &recording, pfn)?,
        None => print(&mut out, args, &recording)?,
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut Output, args: &InspectArgs, recording: &Recording) -> Result<(), Failure> {
    let reader = &recording.reader;
    print_meta(out, recording)?;
    out.styled(HEAD, format_args!("{HEADS}"))?;
    let mut rounds = reader.rounds();
    let mut summary = Summary { event: "inspect", ..Summary::default() };
    let mut leaf_mfns = Vec::new();
    while rounds.advance().map_err(Failure::file(&args.file))? {
        let number = rounds.number().unwrap_or(0);
        let line = RoundLine::new(reader.meta(), number, rounds.round(), &leaf_mfns);
        leaf_mfns.clone_from(&rounds.round().leaf_mfns);
        summary.add(&line);
        print_round(out, &line)?;
    }
    out.object(&summary)?;
    print_summary(out, &summary)
}

impl RoundLine {
    fn new(meta: &Meta, number: u64, round: &Round, leaves_before: &[u64]) -> Self {
        let log = round.log_dirty.as_ref();
        let is_dirty = |pfn: u64| log.is_some_and(|log| log.get(Pfn(pfn)));
        let leaves = round.leaf_mfns.iter().filter(|&&mfn| mfn != NONE);
        let moved = |(at, mfn): &(usize, &u64)| leaves_before.get(*at) != Some(*mfn);
        let fresh = round.leaf_mfns.iter().enumerate().filter(moved).count();
        Self {
            event: "recorded",
            round: number,
            pfn_count: round.after.pfn_count,
            generation_before: round.before.generation,
            generation_after: round.after.generation,
            leaves: round.leaf_mfns.len() as u64,
            leaves_distinct: leaves.collect::<HashSet<_>>().len() as u64,
            leaves_new: if number == 0 { 0 } else { fresh as u64 },
            leaves_dirty: count(round.leaf_pfns.iter(), |&&pfn| is_dirty(pfn)),
            upper_frames: round.upper.len() as u64,
            upper_dirty: count(round.upper.iter(), |f| f.pfn.is_some_and(|pfn| is_dirty(pfn.0))),
            frames: count(round.entries.iter(), |&&e| is_frame(meta, e)),
            m2p_exceptions: round.exceptions.len() as u64,
            log_dirty_pfns: log.map(PfnBitmap::count),
            forms: Forms::of(&round.entries, meta.width.entries()),
        }
    }
}

fn count<T>(items: impl Iterator<Item = T>, matches: impl FnMut(&T) -> bool) -> u64 {
    items.filter(matches).count() as u64
}

const fn is_frame(meta: &Meta, entry: u64) -> bool {
    Entry(entry).names_frame(meta.width, meta.max_mfn)
}

impl Summary {
    fn add(&mut self, line: &RoundLine) {
        if line.round == 0 {
            (self.leaves_first, self.forms_first) = (line.leaves, line.forms);
        } else {
            let moved = line.generation_after != self.generation_last;
            self.rounds_with_generation_change += u64::from(moved);
        }
        self.rounds = line.round;
        self.leaves_last = line.leaves;
        self.leaves_new += line.leaves_new;
        self.leaves_dirty += line.leaves_dirty;
        self.upper_dirty += line.upper_dirty;
        self.generation_last = line.generation_after;
        self.log_dirty_pfns += line.log_dirty_pfns.unwrap_or(0);
        self.forms_last = line.forms;
    }
}

fn print_meta(out: &mut Output, recording: &Recording) -> Result<(), Failure> {
    let (meta, reader) = (recording.reader.meta(), &recording.reader);
    out.object(&MetaLine {
        event: "meta",
        kind: recording.kind,
        name: &meta.name,
        width: meta.width.bits(),
        flavour: meta.flavour,
        pfn_count: meta.pfn_count,
        max_mfn: meta.max_mfn,
        kernel: &meta.kernel,
        xen: &meta.xen,
        load: &meta.load,
        source: &meta.source,
        rounds: reader.len() - 1,
        trace_bytes: reader.file_bytes(),
    })?;
    let p2m = match meta.flavour {
        Flavour::Linear => "linear list",
        Flavour::Tree => "3-level tree",
        Flavour::Both => "linear list and 3-level tree",
    };
    out.styled(HEAD, format_args!("{}: a {}", printable(&meta.name), recording.kind))?;
    out.text(format_args!("guest     {} bit, {p2m}, {} pfns", meta.width.bits(), meta.pfn_count))?;
    out.text(format_args!("machine   {} frames", meta.max_mfn))?;
    let words = [("kernel", &meta.kernel), ("xen", &meta.xen), ("load", &meta.load)];
    for (name, word) in words.into_iter().filter(|(_, word)| !word.is_empty()) {
        out.text(format_args!("{name:<9} {}", printable(word)))?;
    }
    out.text(format_args!(
        "rounds    {} after the first copy, {} bytes as a trace\n",
        reader.len() - 1,
        reader.file_bytes(),
    ))?;
    Ok(())
}

const HEADS: &str = concat!(
    "                                --------- leaves ---------  -- upper --\n",
    "round  pfn count  generation    all distinct    new  dirty    all dirty     frames",
    "  log-dirty  one run",
);

fn print_round(out: &mut Output, line: &RoundLine) -> Result<(), Failure> {
    out.object(line)?;
    let log = line.log_dirty_pfns.map_or_else(|| "-".to_owned(), |pfns| pfns.to_string());
    out.text(format_args!(
        "{:>5} {:>10} {:>11} {:>6} {:>8} {:>6} {:>6} {:>6} {:>5} {:>10} {log:>10} {:>8}",
        line.round,
        line.pfn_count,
        line.generation_after,
        line.leaves,
        line.leaves_distinct,
        line.leaves_new,
        line.leaves_dirty,
        line.upper_frames,
        line.upper_dirty,
        line.frames,
        percent(line.forms.affine, line.leaves),
    ))?;
    Ok(())
}

fn print_summary(out: &mut Output, summary: &Summary) -> Result<(), Failure> {
    out.text(format_args!(""))?;
    out.styled(
        HEAD,
        format_args!("{:<14} {:>12} {:>12}", "leaves by form", "first copy", "last round"),
    )?;
    let rows = summary.forms_first.rows().into_iter().zip(summary.forms_last.rows());
    for ((name, first), (_, last)) in rows {
        out.text(format_args!(
            "{name:<14} {first:>5} {:>6} {last:>5} {:>6}",
            percent(first, summary.leaves_first),
            percent(last, summary.leaves_last),
        ))?;
    }
    out.text(format_args!(
        "\n{} to {}; the generation changed in {} and is {}; {} and {} upper frames were dirty, and {} in all.",
        summary.leaves_first,
        counted(summary.leaves_last, "leaf", "leaves"),
        counted(summary.rounds_with_generation_change, "round", "rounds"),
        summary.generation_last,
        counted(summary.leaves_dirty, "leaf", "leaves"),
        summary.upper_dirty,
        counted(summary.log_dirty_pfns, "pfn", "pfns"),
    ))?;
    Ok(())
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".into() } else { format!("{:.1}%", 100.0 * part as f64 / whole as f64) }
}
