// SPDX-License-Identifier: MIT OR Apache-2.0
//! `track DOMID`: the engine on a live guest, round by round, without sending.
//! Not here: locks, log-dirty (`session`), what each round found (`findings`), migrated guests.
//! Units: rounds; the first copy is round 0 and in no sum.
//! Threads: as `--threads` says; one more waits for signals.
//! Source: own; keys of JSON: `docs/json.md`.

mod full;
mod line;
mod prom;
mod record;
mod session;
mod tap;
mod view;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use p2mtrack::config::Config;
use p2mtrack::port::{M2p, P2mSource};
use p2mtrack_trace::StagedFile;

use crate::check::Check;
use crate::compare::CompareArgs;
use crate::failure::{Failure, VERDICT};
use crate::findings::{Owed, print_first_copy, print_round, print_verdict};
use crate::output::Output;
use crate::signals::hold;
use crate::written::stage_trace;
use line::{Round, Sums};
use prom::Prom;
use record::Recording;
use session::Session;
use view::View;

/// Follow the p2m of a running PV guest, without sending anything
///
/// Log-dirty is on while it runs, and is switched off at the end: if this process is killed, a
/// guard process does that. Ends after --rounds, after --seconds, or on Ctrl-C.
///
/// Exit status: 0 done, 1 --check found a missed change or checked fewer than three rounds, 2
/// usage, no such guest, another process tracks it, or a file can't be written, 3 the engine failed
/// or the guest is gone.
#[derive(Debug, clap::Args)]
pub(crate) struct TrackArgs {
    /// The guest's domain ID
    #[arg(value_parser = clap::value_parser!(u16).range(1..0x7ff0))]
    domid: u16,
    /// Rounds after the first copy
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// Begin no round later than this
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Time from the end of a round to the beginning of the next
    #[arg(long, value_name = "MS", default_value_t = 500)]
    interval: u64,
    /// Record the guest's p2m in a trace, for `replay` and `inspect`; it appears at the end, even
    /// if the guest disappears, and replaces a file of that name
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Compare every entry after each round, read by separate code, and count changes that neither
    /// that round nor the next two found. Takes at least three rounds, the first copy included
    #[arg(long)]
    check: bool,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
    /// Keep a file for Prometheus's textfile collector up to date
    #[arg(long, value_name = "FILE")]
    prom: Option<PathBuf>,
    /// Show the present state in the terminal instead of a line for each round
    #[arg(long, conflicts_with = "json")]
    view: bool,
    /// Switch log-dirty off and on again if it is on already: another user of it loses its marks
    #[arg(long)]
    take_over: bool,
    /// Continue on a Xen whose interface is newer than this program
    #[arg(long)]
    pub(crate) unknown_xen: bool,
    #[command(flatten)]
    compare: CompareArgs,
    /// Threads that compare leaves
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
}

/// In place of a pause that overflows the clock.
const LONG: Duration = Duration::from_secs(1 << 32);
/// How often the guest is checked between rounds.
const POLL: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &TrackArgs) -> Result<ExitCode, Failure> {
    let stop = hold()?;
    // Before anything is tracked: a file that can't be written is an error at once.
    let files = Files::stage(args)?;
    let config = Config { threads: args.threads.into(), ..args.compare.config() };
    let mut session = Session::begin(args.domid, args.take_over, args.unknown_xen, config)?;
    // Even after an error, `end` switches log-dirty off, unmaps, and dismisses the guard.
    let result = follow(args, files, &mut session, &stop);
    match (result, session.end()) {
        (Err(failure), Err(left)) => {
            left.warn(); // log-dirty may still be on: always reported
            Err(failure)
        }
        (result, ended) => ended.and(result),
    }
}

/// The files that were asked for.
struct Files<'a> {
    record: Option<(&'a Path, StagedFile)>,
    prom: Option<Prom>,
}

impl<'a> Files<'a> {
    fn stage(args: &'a TrackArgs) -> Result<Self, Failure> {
        let (record, prom) = (args.record.as_deref(), args.prom.as_deref());
        if let (Some(record), Some(prom)) = (record, prom)
            && is_one(record, prom)
        {
            return Err(Failure::file(prom)("--record and --prom take two files"));
        }
        Ok(Self {
            record: record.map(stage_trace).transpose()?,
            prom: prom.map(|path| Prom::new(path, args.domid)).transpose()?,
        })
    }
}

/// Whether two paths name the same file, which may not exist yet.
fn is_one(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        directory.unwrap_or(Path::new(".")).canonicalize().ok()
    };
    one.file_name() == other.file_name() && place(one).is_some() && place(one) == place(other)
}

/// What is kept from round to round.
struct Following<'a> {
    args: &'a TrackArgs,
    out: Output,
    view: View,
    prom: Option<Prom>,
    recording: Option<Recording>,
    check: Option<Check>,
    sums: Sums,
}

fn follow(
    args: &TrackArgs,
    files: Files<'_>,
    session: &mut Session,
    stop: &Receiver<()>,
) -> Result<ExitCode, Failure> {
    let recording = files.record.map(|file| Recording::create(file, session)).transpose()?;
    let (width, frames) = (session.guest.p2m.width(), session.guest.m2p.frames());
    let mut following = Following {
        args,
        out: Output::stdout(args.json).beside_a_file(args.record.is_some()),
        view: View::new(args.view),
        prom: files.prom,
        recording,
        check: args.check.then(|| Check::new(width, frames, true)),
        sums: Sums::new(),
    };
    let followed = following.rounds(session, stop);
    following.view.clear();
    // The recording is kept even if an error ended the rounds.
    let recording = following.recording.take();
    let written = recording.map_or(Ok(()), |recording| recording.finish(session));
    match (followed, written) {
        (Err(failure), Err(unwritten)) => {
            failure.warn();
            Err(unwritten)
        }
        (followed, written) => {
            followed.and(written)?;
            following.close(session)
        }
    }
}

impl Following<'_> {
    fn rounds(&mut self, session: &mut Session, stop: &Receiver<()>) -> Result<(), Failure> {
        let begun = Instant::now();
        for number in 0.. {
            let round = observe(session, number, self.recording.as_mut())?;
            if let Some(check) = &mut self.check {
                round.check(check, session);
            }
            self.report(&round, session)?;
            let enough = self.args.rounds.is_some_and(|rounds| number >= rounds);
            if enough || !wait(self.args, begun, session, stop)? {
                break;
            }
        }
        Ok(())
    }

    /// Reports a round to all outputs.
    fn report(&mut self, round: &Round, session: &Session) -> Result<(), Failure> {
        if round.number == 0 {
            let (report, owed) = (&round.report, &round.owed);
            if !self.args.view {
                print_first_copy(&mut self.out, report, owed, session.monitor.tracker().pfns())?;
            }
        } else {
            self.sums.add(round);
            self.out.object(&round.line())?;
            if !self.args.view {
                print_round(&mut self.out, &round.found())?;
            }
        }
        self.view.show(round, &self.sums);
        let prom = self.prom.as_ref();
        prom.map_or(Ok(()), |prom| prom.write(round, &self.sums, self.check.as_ref()))
    }

    /// Prints the sums, and returns the exit status.
    fn close(mut self, session: &Session) -> Result<ExitCode, Failure> {
        let totals = self.sums.totals(self.check.as_ref(), session.monitor.tracker());
        self.out.object(&totals)?;
        print_verdict(&mut self.out, &totals.found, self.check.as_ref())?;
        line::print_times(&mut self.out, &totals)?;
        self.out.finish()?;
        let passed = self.check.as_ref().is_none_or(Check::is_passed);
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(VERDICT) })
    }
}

/// Waits for the next round; `false` if there is to be none. A guest that disappears meanwhile is
/// an error, so that its domain is released.
fn wait(
    args: &TrackArgs,
    begun: Instant,
    session: &mut Session,
    stop: &Receiver<()>,
) -> Result<bool, Failure> {
    let time = args.seconds.map(Duration::from_secs);
    let end = time.and_then(|time| begun.checked_add(time)); // or never
    let now = Instant::now();
    let next = now.checked_add(Duration::from_millis(args.interval)).unwrap_or(now + LONG);
    let until = end.map_or(next, |end| end.min(next));
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if stop.recv_timeout(left.min(POLL)) != Err(RecvTimeoutError::Timeout) {
            return Ok(false);
        }
        session.look_after().map_err(|source| Failure::Engine {
            about: "between rounds".to_owned(),
            source: source.into(),
        })?;
        if left <= POLL {
            return Ok(end.is_none_or(|end| next < end));
        }
    }
}

/// One round, and its part of the recording.
fn observe(
    session: &mut Session,
    number: u64,
    recording: Option<&mut Recording>,
) -> Result<Round, Failure> {
    let failed = |source| Failure::Engine { about: format!("round {number}"), source };
    let before = session.guest.p2m.roots().map_err(|error| failed(error as _))?;
    let mut owed = Owed::default();
    let begun = Instant::now();
    let report = session.observe(|pfn, causes| owed.add(pfn, causes));
    let report = report.map_err(|error| failed(error.into()))?;
    let round = Round::new(number, report, owed, session, begun.elapsed());
    if let Some(recording) = recording {
        recording.round(session, before, number)?;
    }
    Ok(round)
}
