// SPDX-License-Identifier: MIT OR Apache-2.0
//! `inspect FILE --pfn N`: one pfn round by round, and why it was owed.
//! Not here: other pfns (`replay`).
//! Units: round 0 is the first copy, which has no log-dirty bitmap.
//! Threads: one.
//! Source: own; causes as in `p2mtrack::cause`.

use std::path::Path;

use p2mtrack::cause::{Cause, CauseSet};
use p2mtrack::config::Config;
use p2mtrack::frame::{Claim, Entry, Mfn, Pfn};
use p2mtrack::port::M2p;
use p2mtrack_trace::{Meta, Reader, TraceError};
use serde::Serialize;

use crate::failure::Failure;
use crate::follow::Follower;
use crate::output::{HEAD, NOTE, Output, counted};
use crate::recording::Recording;

/// The pfn in one round.
#[derive(Serialize)]
struct PfnLine {
    event: &'static str,
    round: u64,
    pfn: u64,
    claim: &'static str,
    mfn: Option<u64>,
    m2p: Option<u64>,
    log_dirty: Option<bool>,
    leaf_log_dirty: Option<bool>,
    owed: Vec<&'static str>,
}

/// All rounds.
#[derive(Default, Serialize)]
struct Life {
    event: &'static str,
    pfn: u64,
    rounds: u64,
    rounds_owed: u64,
    rounds_owed_beyond_log_dirty: u64,
}

/// Prints the history of a pfn.
pub(crate) fn print(
    out: &mut Output,
    path: &Path,
    recording: &Recording,
    pfn: Pfn,
) -> Result<(), Failure> {
    let reader = &recording.reader;
    let covered = covered(reader).map_err(Failure::file(path))?;
    if pfn.0 >= covered {
        let source = format!("it covers {covered} pfns, {pfn} is not one of them");
        return Err(Failure::file(path)(source));
    }
    let mut follower = Follower::new(path, reader, Config::default())?;
    let mut life = Life { event: "life", pfn: pfn.0, ..Life::default() };
    out.styled(HEAD, format_args!("{pfn}\n{HEADS}"))?;
    loop {
        let mut causes = CauseSet::default();
        follower.observe(|owed, why| {
            if owed == pfn {
                causes = why;
            }
        })?;
        let line = PfnLine::new(reader.meta(), &follower, pfn, causes);
        life.add(&line, causes);
        print_round(out, &line)?;
        if !follower.advance()? {
            break;
        }
    }
    out.object(&life)?;
    out.text(format_args!(
        "\nOwed in {} of {} after the first copy; in {} of them log-dirty did not name it.",
        life.rounds_owed,
        counted(life.rounds, "round", "rounds"),
        life.rounds_owed_beyond_log_dirty,
    ))?;
    Ok(())
}

const HEADS: &str =
    "round  entry               m2p             log-dirty  leaf dirty  owed because";

/// The most pfns that the p2m covers in any round.
fn covered(reader: &Reader<'_>) -> Result<u64, TraceError> {
    let (mut rounds, mut covered) = (reader.rounds(), 0);
    while rounds.advance()? {
        covered = covered.max(rounds.round().entries.len() as u64);
    }
    Ok(covered)
}

impl PfnLine {
    fn new(meta: &Meta, follower: &Follower<'_>, pfn: Pfn, causes: CauseSet) -> Self {
        let round = follower.round();
        let at = |index: u64| usize::try_from(index).unwrap_or(usize::MAX);
        let entry = round.entries.get(at(pfn.0)).copied().map(Entry);
        let (claim, mfn) = claim(meta, entry);
        let leaf = round.leaf_pfns.get(at(meta.width.leaf_of(pfn).0));
        let is_dirty = |pfn| round.log_dirty.as_ref().map(|log| log.get(pfn));
        Self {
            event: "pfn",
            round: follower.number(),
            pfn: pfn.0,
            claim,
            mfn,
            m2p: mfn.and_then(|mfn| follower.m2p().pfn(Mfn(mfn))).map(|pfn| pfn.0),
            log_dirty: is_dirty(pfn),
            leaf_log_dirty: leaf.and_then(|&leaf| is_dirty(Pfn(leaf))),
            owed: causes.iter().map(Cause::name).collect(),
        }
    }
}

/// The entry's claim, and the frame if it names one.
fn claim(meta: &Meta, entry: Option<Entry>) -> (&'static str, Option<u64>) {
    match entry.map(|entry| entry.claim(meta.width)) {
        None => ("none", None),
        Some(Claim::Invalid) => ("invalid", None),
        Some(Claim::Identity) => ("identity", None),
        Some(Claim::Foreign(mfn)) => ("foreign", Some(mfn.0)),
        Some(Claim::Frame(mfn)) => ("frame", Some(mfn.0)),
    }
}

impl Life {
    fn add(&mut self, line: &PfnLine, causes: CauseSet) {
        self.rounds = line.round;
        if line.round > 0 && !causes.is_empty() {
            self.rounds_owed += 1;
            let beyond = !causes.contains(Cause::LogDirty);
            self.rounds_owed_beyond_log_dirty += u64::from(beyond);
        }
    }
}

fn print_round(out: &mut Output, line: &PfnLine) -> Result<(), Failure> {
    out.object(line)?;
    let entry = match (line.claim, line.mfn) {
        ("frame", Some(mfn)) => format!("{}", Mfn(mfn)),
        (claim, Some(mfn)) => format!("{claim} {}", Mfn(mfn)),
        (claim, None) => claim.to_owned(),
    };
    let m2p = line.m2p.map_or_else(|| "-".to_owned(), |pfn| Pfn(pfn).to_string());
    let bit = |bit: Option<bool>| match bit {
        None => "-",
        Some(true) => "yes",
        Some(false) => "no",
    };
    let why = if line.owed.is_empty() { "-".to_owned() } else { line.owed.join(", ") };
    let style = if line.owed.is_empty() { anstyle::Style::new() } else { NOTE };
    out.text(format_args!(
        "{:>5}  {entry:<18}  {m2p:<14}  {:<9}  {:<10}  {style}{why}{style:#}",
        line.round,
        bit(line.log_dirty),
        bit(line.leaf_log_dirty),
    ))?;
    Ok(())
}
