// SPDX-License-Identifier: MIT OR Apache-2.0
//! The save side of a helper.
//! Not here: the save (`p2mtrack_migrate`), what libxl does (`libxl`), who is saved by us
//! (`hand_over`).
//! Units: one domain, one stream.
//! Threads: the save's; one that waits for signals, one that watches libxl.
//! Source: `xen-migrate.md` 1 and 2. All is off, released and written before `complete`: libxl may
//! then resume the guest, or write behind our stream. After a good `complete` nothing is done to
//! the guest any more; memory, threads and guard end with this process.

use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

use p2mtrack_migrate::fault::Fault;
use p2mtrack_migrate::kind::Kind;
use p2mtrack_migrate::outcome::Outcome;
use p2mtrack_migrate::plan::{After, Plan, stock_pfns};
use p2mtrack_migrate::report::{self, SavedLine, Took};
use p2mtrack_migrate::save::{Ending, Rest, Save};
use p2mtrack_migrate::source::{Remains, Source};
use p2mtrack_stream::cancel::Cancel;
use p2mtrack_stream::fd::{FdSink, inherited, pass_on_nothing};
use p2mtrack_stream::paced::Paced;
use p2mtrack_xen::IfOn;

use crate::call::{SaveCall, Stream};
use crate::guard;
use crate::libxl::{Libxl, stands_still};
use crate::line::Line;
use crate::message::{Level, Message};
use crate::note::note;
use crate::options::Options;
use crate::process::unblock_ending_signals;
use crate::progress::Progress;
use crate::signals;

/// Saves a guest as libxl asks for it, and tells libxl how that has ended.
pub fn run(call: &SaveCall, options: Result<Options, String>, line: Line) {
    let options = match options {
        Ok(options) => options,
        Err(words) => return refuse(&line, libc::EINVAL, &words),
    };
    let begun = Instant::now();
    match Saving::prepare(call, &options, line) {
        Ok((saving, sink)) => saving.run(begun, sink),
        Err((line, error, about)) => {
            refuse(&line, error.raw_os_error().unwrap_or(libc::EIO), &format!("{about}: {error}"));
        }
    }
}

/// Tells libxl that nothing was touched, and why.
pub fn refuse(line: &Line, errno: i32, words: &str) {
    line.log(Level::Error, words);
    if line.ask(Message::Complete(-1, errno)).is_err() {
        note(words); // nobody is there to hear it
    }
}

const GONE: &str = "libxl, which started this save, is gone";

/// A save that libxl has asked for.
struct Saving<'a> {
    call: &'a SaveCall,
    options: &'a Options,
    line: Rc<Line>,
    cancel: Arc<Cancel>,
    /// The signal that has cancelled it; 0 is none.
    signal: Arc<AtomicI32>,
    report: Option<File>,
}

impl<'a> Saving<'a> {
    /// What may fail before the guest is looked at. An error comes with what it is about.
    fn prepare(
        call: &'a SaveCall,
        options: &'a Options,
        line: Line,
    ) -> Result<(Self, FdSink), (Line, io::Error, String)> {
        let io = format!("the stream's descriptor {}", call.io_fd);
        let report = options.save.report.as_deref();
        let about = |path: &std::path::Path| path.display().to_string();
        let prepare = || -> Result<_, (io::Error, String)> {
            let cancel = Cancel::new().map_err(|error| (error, "an event".to_owned()))?;
            let cancel = Arc::new(cancel);
            let fd = inherited(call.io_fd).map_err(|error| (error, io.clone()))?;
            pass_on_nothing();
            let sink = FdSink::new(fd, Arc::clone(&cancel)).map_err(|error| (error, io))?;
            let report = report.map(|path| report::open(path).map_err(|e| (e, about(path))));
            Ok((cancel, sink, report.transpose()?))
        };
        let (cancel, sink, report) = match prepare() {
            Ok(prepared) => prepared,
            Err((error, about)) => return Err((line, error, about)),
        };
        let signal = Arc::new(AtomicI32::new(0));
        if let Err(error) = listen(&line, &cancel, &signal) {
            return Err((line, error, "a thread".to_owned()));
        }
        Ok((Self { call, options, line: Rc::new(line), cancel, signal, report }, sink))
    }

    const fn is_remus(&self) -> bool {
        matches!(self.call.stream, Stream::Remus)
    }

    /// Remus begins like a live save.
    const fn is_live(&self) -> bool {
        self.call.is_live() || self.is_remus()
    }

    fn run(mut self, begun: Instant, sink: FdSink) {
        self.line.progress("Start of stream", 0, 0);
        let (mut outcome, mut libxl, left) = match self.open() {
            Ok((mut source, mut libxl)) => {
                let (outcome, rest) = self.save(&mut source, &mut libxl, sink);
                let rest = rest.filter(|_| outcome.fault.is_none());
                let (outcome, remains) = close(source, outcome);
                (outcome, Some(libxl), (rest, remains))
            }
            Err(fault) => (Outcome::refused(fault), None, (None, None)),
        };
        if outcome.fault.is_none() {
            outcome.fault = self.ended_meanwhile();
        }
        if let Some(fault) = &mut outcome.fault {
            self.explain(fault);
        }
        self.tell_end(&mut outcome, &mut libxl);
        if let Some(mut file) = self.report.take() {
            let took = Took::since(begun);
            let domid = u16::try_from(self.call.domid).unwrap_or_default();
            let line = SavedLine::new(domid, self.is_live(), &outcome, took);
            if let Err(error) = report::append(&mut file, &line) {
                note(&format!("the report can't be written: {error}"));
            }
        }
        // libxl waits for the end of this process, which lets go of all that faster.
        std::mem::forget((self, libxl, left));
    }

    fn open(&self) -> Result<(Source, Libxl), Fault> {
        let unknown = self.options.save.unknown();
        let domid = u16::try_from(self.call.domid).map_err(|_| {
            Fault::new(Kind::DomainGone, format!("no domain has the ID {}", self.call.domid))
        })?;
        let command = |domain: &_| guard::command(domain, unknown);
        let (source, left) = Source::open(domid, unknown, self.is_live(), command)?;
        if let Some(words) = left.words() {
            self.line.log(Level::Warn, &words);
        }
        match Libxl::new(Rc::clone(&self.line), &source) {
            Ok(libxl) => Ok((source, libxl)),
            Err(fault) => {
                let _ = source.close(); // nothing was switched on
                Err(fault)
            }
        }
    }

    fn save(
        &self,
        source: &mut Source,
        libxl: &mut Libxl,
        sink: FdSink,
    ) -> (Outcome, Option<Rest<FdSink>>) {
        let pfns = stock_pfns(source.target_kib());
        let plan = self.options.save.plan(self.is_live(), IfOn::TakeOver, pfns);
        let plan = Plan {
            verify: self.call.is_verified() && !self.is_remus(),
            checkpoints: self.is_remus(),
            ..plan
        };
        let paced = Paced::new(sink, self.options.save.rate, Arc::clone(&self.cancel));
        let save = match Save::begin(source, &plan, libxl, paced, &self.cancel) {
            Ok(save) => save,
            Err(fault) => return (Outcome::refused(fault), None),
        };
        let (mut progress, line) = (Progress::default(), &*self.line);
        let mut tell = |event| progress.tell(line, event);
        let (outcome, rest) = save.run(After::Leave, &mut tell, &mut End(line));
        (outcome, Some(rest))
    }

    /// A save that was cancelled says by what.
    fn explain(&self, fault: &mut Fault) {
        if fault.kind != Kind::Cancelled {
            return;
        }
        // What could not be undone stands behind.
        let rest = fault.words.find("; ").map_or("", |at| &fault.words[at..]).to_owned();
        match self.signal.load(Ordering::Relaxed) {
            // ORDER: nothing else is shared
            0 => *fault = Fault::new(Kind::ToolstackGone, format!("{GONE}{rest}")),
            signal => fault.words = format!("cancelled by {}{rest}", signals::name(signal)),
        }
    }

    /// A signal, or the end of libxl, since the stream is whole: libxl has not heard of it yet.
    fn ended_meanwhile(&self) -> Option<Fault> {
        let signal = self.signal.load(Ordering::Relaxed); // ORDER: nothing else is shared
        (signal != 0 || self.line.is_gone()).then(|| Fault::new(Kind::Cancelled, "cancelled"))
    }

    /// Everything is off, released and written. A good `complete` is the last thing that is done
    /// to the guest, whether libxl lives to answer it or not.
    fn tell_end(&self, outcome: &mut Outcome, libxl: &mut Option<Libxl>) {
        match (outcome.fault.take(), libxl) {
            (None, libxl) => {
                self.log_saved(outcome);
                let since = libxl.as_ref().and_then(Libxl::suspended_at);
                match self.line.say(Message::Complete(0, 0)) {
                    Ok(()) => _ = self.line.hear(), // it may have got it
                    Err(fault) => {
                        outcome.fault = Some(fault);
                        return self.tell_end(outcome, libxl);
                    }
                }
                outcome.downtime = since.map_or(outcome.downtime, |since| since.elapsed());
            }
            (Some(fault), None) => {
                let words = format!("{}: {}", fault.kind.name(), fault.words);
                refuse(&self.line, fault.errno, &words);
                outcome.fault = Some(fault);
            }
            (Some(fault), Some(libxl)) => {
                if let Err(error) = libxl.fail(&fault) {
                    outcome.left_behind = true;
                    note(&stands_still(&error));
                }
                outcome.fault = Some(fault);
            }
        }
    }

    fn log_saved(&self, outcome: &Outcome) {
        let Outcome { pages, rounds, unlogged, .. } = outcome;
        let words = format!(
            "{pages} pages in {rounds} live rounds and the last one; {unlogged} pfns have writers \
             that are not logged"
        );
        self.line.hold(Message::Log(Level::Info, &words));
        let leaked = outcome.leaked_pfns();
        if leaked > 0 {
            let words = format!(
                "a stock receiver holds {leaked} pages in vain, which the guest gave away while it \
                 was sent; the next migration of this guest may need --unaccounted report"
            );
            self.line.hold(Message::Log(Level::Warn, &words));
        }
    }
}

/// Cancels on a signal, and when libxl goes away.
fn listen(line: &Line, cancel: &Arc<Cancel>, signal: &Arc<AtomicI32>) -> io::Result<()> {
    let (by_signal, number) = (Arc::clone(cancel), Arc::clone(signal));
    unblock_ending_signals();
    signals::on_end(move |signal| {
        number.store(signal, Ordering::Relaxed); // ORDER: nothing else is shared
        by_signal.cancel();
    })?;
    let by_end = Arc::clone(cancel);
    line.watch(move || by_end.cancel())
}

/// Log-dirty is off, and the domain another program's to track.
fn close(source: Source, mut outcome: Outcome) -> (Outcome, Option<Remains>) {
    if outcome.unknown {
        if let Err(error) = source.abandon() {
            outcome.left_behind = true;
            add_fault(&mut outcome, error);
        }
        return (outcome, None);
    }
    match source.close() {
        Ok(remains) => {
            outcome.left_behind &= !outcome.source_running; // it is off after all
            (outcome, Some(remains))
        }
        Err(fault) => {
            outcome.left_behind = true;
            add_fault(&mut outcome, fault);
            (outcome, None)
        }
    }
}

/// A first error, or one more behind it.
fn add_fault(outcome: &mut Outcome, fault: Fault) {
    match &mut outcome.fault {
        Some(first) => {
            first.words = format!("{}; log-dirty may be on: {}", first.words, fault.words);
        }
        None => outcome.fault = Some(fault),
    }
}

/// The end of the stream: libxl writes on behind it.
struct End<'a>(&'a Line);

impl Ending<FdSink> for End<'_> {
    fn settle(&mut self, _: &mut FdSink) -> io::Result<()> {
        self.0.hold(Message::Progress("End of stream", 0, 0));
        Ok(())
    }

    fn write(&mut self, _: &mut FdSink) -> io::Result<()> {
        self.0.hold(Message::Progress("Complete", 0, 0));
        Ok(())
    }

    fn is_hidden(&self) -> bool {
        true
    }

    fn publish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
