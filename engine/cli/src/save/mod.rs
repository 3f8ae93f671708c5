// SPDX-License-Identifier: MIT OR Apache-2.0
//! `save DOMID`: a guest as a stream, live or suspended.
//! Not here: the save (`p2mtrack_migrate`).
//! Units: pages, bytes, time.
//! Threads: as `--threads` says; one that writes, and one that waits for signals.
//! Source: own; `docs/migrate.md`.

mod args;
mod container;
mod line;
mod out;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use args::AfterArg;
pub(crate) use args::SaveArgs;
use container::Container;
use line::{RoundLine, SavedLine, Took};
use out::{Out, Target};
use p2mtrack_migrate::estimate;
use p2mtrack_migrate::fault::Fault;
use p2mtrack_migrate::kind::Kind;
use p2mtrack_migrate::outcome::{Outcome, Round};
use p2mtrack_migrate::plan::{After, stock_pfns};
use p2mtrack_migrate::save::Save;
use p2mtrack_migrate::source::Source;
use p2mtrack_stream::cancel::Cancel;
use p2mtrack_stream::container::Format;
use p2mtrack_stream::fd::{FdSink, pass_on_nothing};
use p2mtrack_stream::paced::Paced;
use p2mtrack_stream::sink::{Piece, Sink};
use p2mtrack_xen::Unknown;

use crate::failure::{Failure, note};
use crate::guard;
use crate::output::{GOOD, Output, counted};
use crate::signals::on_end;
use crate::size::in_words;

/// Ended in an error; the source runs on.
const FAILED: u8 = 3;
/// Refused before anything was touched.
const REFUSED: u8 = 2;
/// Log-dirty is on, or the source is suspended.
const LEFT_BEHIND: u8 = 4;

pub(crate) fn run(args: &SaveArgs) -> Result<ExitCode, Failure> {
    check(args)?;
    let begun = Instant::now();
    let no_event = |source: io::Error| Failure::Unusable {
        about: "an event for signals".to_owned(),
        source: source.into(),
    };
    let cancel = Arc::new(Cancel::new().map_err(no_event)?);
    let cancelled = Arc::clone(&cancel);
    on_end(move || cancelled.cancel())?;
    // Before anything is touched: a file that can't be written is an error at once.
    let report = args.report.as_deref().map(append).transpose()?;
    let opened = Out::open(&args.out, &cancel);
    pass_on_nothing();
    let mut lines = Lines::new(args);
    let outcome = match opened {
        Ok((out, sink)) => Saving { args, lines: &mut lines, out, cancel }.save(sink),
        Err(failure) => refused(Kind::Sink, &failure),
    };
    let took = Took { total: begun.elapsed(), cpu: cpu_time() };
    Ok(close(args, lines, &outcome, took, report))
}

/// What options can't be given together.
fn check(args: &SaveArgs) -> Result<(), Failure> {
    let refused = |about: &str, words: &'static str| {
        Err(Failure::Unusable { about: about.to_owned(), source: words.into() })
    };
    if args.out == Target::Stdout && args.json {
        return refused("--out - --json", "both are standard output");
    }
    if args.config.is_some() && args.format() != Format::Xl {
        return refused("--config", "only --format xl has a configuration");
    }
    Ok(())
}

/// An outcome of what failed before anything was touched.
fn refused(kind: Kind, failure: &Failure) -> Outcome {
    Outcome::refused(Fault::new(kind, failure.full_words()))
}

/// A save on the command line.
struct Saving<'a> {
    args: &'a SaveArgs,
    lines: &'a mut Lines,
    out: Out,
    cancel: Arc<Cancel>,
}

impl Saving<'_> {
    /// The outcome, also of a guest that can't be saved.
    fn save(mut self, sink: FdSink) -> Outcome {
        let args = self.args;
        let unknown = if args.unknown_xen { Unknown::Accept } else { Unknown::Refuse };
        let command = |domain: &_| guard::command(domain, args.unknown_xen);
        let mut source = match Source::open(args.domid, unknown, args.live, command) {
            Ok((source, left)) => {
                guard::note_left(left);
                source
            }
            Err(fault) => return Outcome::refused(fault),
        };
        let mut outcome = self.save_source(&mut source, sink);
        // Else the guard cleans up, when this process is gone.
        if !outcome.unknown
            && let Err(fault) = source.close()
        {
            outcome.left_behind = true;
            outcome.fault.get_or_insert(fault);
        }
        outcome
    }

    fn save_source(&mut self, source: &mut Source, mut sink: FdSink) -> Outcome {
        let args = self.args;
        let config = match args.config.as_deref() {
            Some(path) => container::named(path),
            None => container::of_domain(args.format(), source.domain(), source.target_kib()),
        };
        let config = match config {
            Ok(config) => config,
            Err(failure) => return refused(Kind::Hypercall, &failure),
        };
        let begun = Container::new(args.format(), config.json.as_deref())
            .and_then(|container| put(&mut sink, &container.before).map(|()| container));
        let container = match begun {
            Ok(container) => container,
            Err(error) => return Outcome::refused(Fault::sink(&error)),
        };
        let plan = args.plan(stock_pfns(config.target_kib));
        let paced = Paced::new(sink, args.rate, Arc::clone(&self.cancel));
        let save = match Save::begin(source, &plan, paced, &self.cancel) {
            Ok(save) => save,
            Err(fault) => return Outcome::refused(fault),
        };
        let (lines, out) = (&mut *self.lines, &mut self.out);
        let is_kept = args.after != AfterArg::Resume;
        let mut complete = |sink: &mut FdSink| {
            put(sink, &container.behind)?;
            // Before the source is given up.
            if is_kept { out.commit() } else { Ok(()) }
        };
        let after = if is_kept { After::Leave } else { After::Resume };
        let mut outcome = save.run(after, &mut |round| lines.round(round), &mut complete);
        if outcome.is_complete
            && let Err(fault) = self.finish(&mut outcome)
        {
            outcome.fault.get_or_insert(fault);
        }
        outcome
    }

    /// The stream is complete, and the source as `--after` says, but not destroyed.
    fn finish(&mut self, outcome: &mut Outcome) -> Result<(), Fault> {
        self.out.commit().map_err(|error| Fault::sink(&error))?; // if that was not done before
        if self.args.after == AfterArg::Destroy {
            let destroyed = destroy(self.args.domid);
            outcome.left_behind |= destroyed.is_err();
            outcome.source_running = false;
            return destroyed;
        }
        Ok(())
    }
}

/// Prints and reports the outcome, and returns the exit status: that of the save, whether it can be
/// told or not.
fn close(
    args: &SaveArgs,
    lines: Lines,
    outcome: &Outcome,
    took: Took,
    report: Option<(&Path, File)>,
) -> ExitCode {
    let line = SavedLine::new(args.domid, args.live, outcome, took);
    let reported = report.map_or(Ok(()), |(path, mut file)| {
        let written = serde_json::to_string(&line).map_err(io::Error::from);
        let written = written.and_then(|line| file.write_all(format!("{line}\n").as_bytes()));
        written.map_err(Failure::file(path))
    });
    if let Some(fault) = &outcome.fault {
        note(&format!("domain {}: {}: {}", args.domid, fault.kind.name(), fault.words));
    }
    let printed = lines.end(outcome, &line, &args.out.words());
    for failure in [reported, printed].into_iter().filter_map(Result::err) {
        failure.warn();
    }
    ExitCode::from(status(outcome))
}

fn status(outcome: &Outcome) -> u8 {
    match &outcome.fault {
        _ if outcome.left_behind => LEFT_BEHIND,
        None => 0,
        Some(_) if outcome.touched => FAILED,
        Some(_) => REFUSED,
    }
}

fn put(sink: &mut FdSink, bytes: &[u8]) -> io::Result<()> {
    sink.write(&mut std::iter::once(Piece::Own(bytes)))
}

/// Opens a file to append a line to.
fn append(path: &Path) -> Result<(&Path, File), Failure> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map(|file| (path, file)).map_err(Failure::file(path))
}

/// Lets the toolstack destroy a domain: it has more of it than Xen has.
fn destroy(domid: u16) -> Result<(), Fault> {
    let mut xl = Command::new("xl");
    // Ctrl-C in a terminal means this program, not the one that cleans up.
    xl.args(["destroy", &domid.to_string()]).process_group(0);
    let words = match xl.output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let words = format!("the guest is saved, and stays suspended: xl destroy failed: {words}");
    Err(Fault::new(Kind::Hypercall, words))
}

/// The processor time of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Where lines go: not into the stream.
struct Lines {
    domid: u16,
    out: Output,
    /// Lines are notes on standard error.
    aside: bool,
}

impl Lines {
    fn new(args: &SaveArgs) -> Self {
        let out = Output::stdout(args.json).beside_a_file(true);
        Self { domid: args.domid, out, aside: args.out == Target::Stdout }
    }

    fn round(&mut self, round: &Round) {
        let line = RoundLine::new(self.domid, round);
        let _ = self.out.object(&line); // kept until the end
        self.text(&format!(
            "round {}: {:.1} %, {}/s, {} left, {} to stand still",
            round.number,
            (round.percent * 10.0).floor() / 10.0,
            in_words(round.rate >> 10 << 10),
            counted(round.left, "page", "pages"),
            estimate::in_words(round.estimate),
        ));
    }

    fn text(&mut self, words: &str) {
        if self.aside {
            note(words);
        } else {
            let _ = self.out.text(format_args!("{words}")); // kept until the end
        }
    }

    fn end(mut self, outcome: &Outcome, line: &SavedLine<'_>, out: &str) -> Result<(), Failure> {
        for run in line::leaked(outcome) {
            self.out.object(&run)?;
            self.text(&format!(
                "leaked: {} from {:#x} on",
                counted(run.count, "pfn", "pfns"),
                run.first
            ));
        }
        for cleared in line::cleared(outcome) {
            self.out.object(&cleared)?;
            self.text(&format!(
                "cleared: a PTE of the page table at pfn {:#x}, to frame {:#x} of another domain",
                cleared.pfn, cleared.mfn
            ));
        }
        if outcome.fault.is_none() {
            let words = summary(outcome, out);
            if self.aside {
                note(&words);
            } else {
                self.out.styled(GOOD, format_args!("{words}"))?;
            }
        }
        self.out.object(line)?;
        Ok(self.out.finish()?)
    }
}

fn summary(outcome: &Outcome, out: &str) -> String {
    let leaked = outcome.leaked.len() as u64;
    let leaks = match leaked {
        0 => String::new(),
        _ => format!("; {} that a stock receiver holds in vain", counted(leaked, "pfn", "pfns")),
    };
    format!(
        "saved to {out}: {} in {}, {:.0} ms of standing still{leaks}",
        counted(outcome.pages, "page", "pages"),
        counted(outcome.rounds + 1, "round", "rounds"),
        outcome.downtime.as_secs_f64() * 1e3,
    )
}
