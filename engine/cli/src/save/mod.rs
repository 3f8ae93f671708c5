// SPDX-License-Identifier: MIT OR Apache-2.0
//! `save DOMID`: a guest as a stream, live or suspended.
//! Not here: the save (`p2mtrack_migrate`).
//! Units: pages, bytes, time.
//! Threads: as `--threads` says; one that writes, and one that waits for signals.
//! Source: own; `docs/migrate.md`.

mod args;
mod container;
mod out;

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use args::AfterArg;
pub(crate) use args::SaveArgs;
use container::{Config, Container};
use out::{Out, Target};
use p2mtrack_migrate::estimate;
use p2mtrack_migrate::fault::Fault;
use p2mtrack_migrate::kind::Kind;
use p2mtrack_migrate::outcome::{Event, Outcome, Round};
use p2mtrack_migrate::plan::{After, stock_pfns};
use p2mtrack_migrate::report::{self, RoundLine, SavedLine, Took};
use p2mtrack_migrate::save::{Ending, Save};
use p2mtrack_migrate::source::Source;
use p2mtrack_migrate::toolstack::Standalone;
use p2mtrack_stream::cancel::Cancel;
use p2mtrack_stream::container::Format;
use p2mtrack_stream::fd::{FdSink, pass_on_nothing};
use p2mtrack_stream::paced::Paced;
use p2mtrack_stream::sink::{Piece, Sink};

use crate::failure::{Failure, note};
use crate::guard;
use crate::output::{GOOD, Output, counted};
use crate::signals::on_end;
use crate::size::in_words;

/// Ended in an error; the source runs on.
const FAILED: u8 = 3;
/// Refused before anything was touched.
const REFUSED: u8 = 2;
/// Runs of leaked pfns that text lists.
const LEAKED_RUNS_SHOWN: usize = 10;
/// Log-dirty is on, or the source is suspended.
const LEFT_BEHIND: u8 = 4;

pub(crate) fn run(args: &SaveArgs) -> Result<ExitCode, Failure> {
    check(args)?;
    let begun = Instant::now();
    // What may block comes before signals are held; what can't be read or written is an error
    // before anything is touched.
    let report = args.options.report.as_deref().map(opened).transpose()?;
    let config = args.config.as_deref().map(container::named).transpose();
    let no_event = |source: io::Error| Failure::Unusable {
        about: "an event for signals".to_owned(),
        source: source.into(),
    };
    let cancel = Arc::new(Cancel::new().map_err(no_event)?);
    let cancelled = Arc::clone(&cancel);
    on_end(move || cancelled.cancel())?;
    let opened = Out::open(&args.out, args.after != AfterArg::Resume, &cancel);
    pass_on_nothing();
    let mut lines = Lines::new(args);
    let outcome = match (opened, config) {
        (Ok((out, sink)), Ok(config)) => {
            Saving { args, lines: &mut lines, out, cancel }.save(sink, config)
        }
        (Err(failure), _) => refused(Kind::Sink, &failure),
        (_, Err(failure)) => refused(Kind::Hypercall, &failure),
    };
    Ok(close(args, lines, &outcome, Took::since(begun), report))
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
    fn save(mut self, sink: FdSink, config: Option<Config>) -> Outcome {
        let args = self.args;
        let command = |domain: &_| guard::command(domain, args.options.unknown());
        let mut source = match Source::open(args.domid, args.options.unknown(), args.live, command)
        {
            Ok((source, left)) => {
                guard::note_left(left);
                source
            }
            Err(fault) => return Outcome::refused(fault),
        };
        let mut outcome = self.save_source(&mut source, sink, config);
        if outcome.unknown {
            return outcome; // the guard cleans up, when this process is gone
        }
        match source.close() {
            Ok(_) => outcome.left_behind &= !outcome.source_running, // it is off after all
            Err(fault) => {
                outcome.left_behind = true;
                outcome.fault.get_or_insert(fault);
            }
        }
        outcome
    }

    fn save_source(
        &mut self,
        source: &mut Source,
        mut sink: FdSink,
        config: Option<Config>,
    ) -> Outcome {
        let args = self.args;
        let config = match config.map_or_else(|| container::of_domain(args.format(), source), Ok) {
            Ok(config) => config,
            Err(failure) => return refused(Kind::Hypercall, &failure),
        };
        let begun = Container::new(args.format(), config.json.as_deref())
            .and_then(|container| put(&mut sink, &container.before).map(|()| container));
        let container = match begun {
            Ok(container) => container,
            Err(error) => return Outcome::refused(Fault::sink(&error)),
        };
        let plan = args.options.plan(args.live, args.if_on(), stock_pfns(config.target_kib));
        let paced = Paced::new(sink, args.options.rate, Arc::clone(&self.cancel));
        let mut alone = match Standalone::new(source, args.suspend_timeout) {
            Ok(alone) => alone,
            Err(fault) => return Outcome::refused(fault),
        };
        let save = match Save::begin(source, &plan, &mut alone, paced, &self.cancel) {
            Ok(save) => save,
            Err(fault) => return Outcome::refused(fault),
        };
        let (lines, is_kept) = (&mut *self.lines, args.after != AfterArg::Resume);
        let mut tell = |event| match event {
            Event::Round(round) => lines.round(&round),
            Event::Guard(replaced) => guard::note_replaced(&replaced),
            Event::Begins(_) | Event::Sent(..) | Event::Suspended | Event::TookOver => {}
        };
        let after = if is_kept { After::Leave } else { After::Resume };
        let mut end = End { behind: container.behind, out: &mut self.out, is_kept };
        let (mut outcome, _) = save.run(after, &mut tell, &mut end);
        if outcome.is_complete
            && let Err(fault) = self.finish(&mut outcome)
        {
            outcome.fault.get_or_insert(fault);
        }
        outcome
    }

    /// The stream is complete, and the source as `--after` says, but not destroyed. Where it was
    /// given up, what was written is in its place already.
    fn finish(&mut self, outcome: &mut Outcome) -> Result<(), Fault> {
        match self.args.after {
            AfterArg::Resume => {
                let kept = self.out.sync().and_then(|()| self.out.publish());
                kept.map_err(|error| Fault::sink(&error))
            }
            AfterArg::Leave => Ok(()),
            AfterArg::Destroy => {
                let destroyed = destroy(self.args.domid);
                outcome.left_behind |= destroyed.is_err();
                destroyed
            }
        }
    }
}

/// The end of the stream.
struct End<'a> {
    behind: Vec<u8>,
    out: &'a mut Out,
    /// The stream is all that is left of the guest.
    is_kept: bool,
}

impl Ending<FdSink> for End<'_> {
    fn settle(&mut self, sink: &mut FdSink) -> io::Result<()> {
        if !self.is_kept {
            return Ok(()); // the guest does not wait for a reader, or for the disk
        }
        sink.wait_drained()?;
        self.out.sync()
    }

    fn write(&mut self, sink: &mut FdSink) -> io::Result<()> {
        put(sink, &self.behind)?;
        match self.is_kept {
            true => self.out.arrived(sink),
            false => Ok(()),
        }
    }

    fn is_hidden(&self) -> bool {
        self.out.is_hidden()
    }

    fn publish(&mut self) -> io::Result<()> {
        self.out.name()
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
        report::append(&mut file, &line).map_err(Failure::file(path))
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

fn opened(path: &Path) -> Result<(&Path, File), Failure> {
    report::open(path).map(|file| (path, file)).map_err(Failure::file(path))
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
        for (number, run) in report::leaked(outcome).enumerate() {
            self.out.object(&run)?;
            if number < LEAKED_RUNS_SHOWN {
                let pfns = counted(run.count, "pfn", "pfns");
                self.text(&format!("leaked: {pfns} from {:#x} on", run.first));
            }
        }
        let more = outcome.leaked.len().saturating_sub(LEAKED_RUNS_SHOWN);
        if more > 0 {
            self.text(&format!("leaked: {more} more runs of pfns, which --json lists"));
        }
        for cleared in report::cleared(outcome) {
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
    let leaked = outcome.leaked_pfns();
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
