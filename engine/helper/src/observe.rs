// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stock helper, or any other, as a child of this program: its messages are passed on
//! untouched, and timed.
//! Not here: which helper it is.
//! Units: the wall clock of one process; bytes that the child reads or writes.
//! Threads: one for each direction, one for signals.
//! Source: `xen-migrate.md` 1.2; proc(5), `/proc/PID/io`: what the child wrote or read, its
//! messages left out. The stream's descriptor is the child's own. The kernel does not count what is
//! sent to a socket by sendmsg, as our own helper does.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use p2mtrack_migrate::report;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde::Serialize;

use crate::call::{Call, SaveCall, Stream};
use crate::message::{Messages, Seen};
use crate::note::note;
use crate::process::{childrens_time, die_with_parent, unblock_ending_signals};
use crate::{options, signals, stock};

/// What was seen of a helper.
#[derive(Debug, Default)]
struct Observed {
    /// The guest is to be suspended, and the reply has not come.
    asked: bool,
    /// What has come of the reply.
    reply: Vec<u8>,
    /// The reply that it is suspended has come.
    suspended: Option<Instant>,
    completed: Option<(Instant, i32, i32)>,
    /// Bytes of messages, and of replies.
    messages: u64,
    replies: u64,
}

/// The line of the report.
#[derive(Serialize)]
struct ObservedLine {
    event: &'static str,
    domid: u32,
    side: &'static str,
    bytes: u64,
    downtime_us: Option<u64>,
    total_us: u64,
    cpu_us: u64,
    retval: i32,
    errno: i32,
}

/// Runs `helper` as this program was started, but without the variables that are ours, and appends
/// to the report. Returns how it has ended.
///
/// # Errors
/// It can't be started, or the report can't be opened: nothing was done.
pub fn run(
    helper: &Path,
    words: &[OsString],
    call: Call,
    report: Option<&Path>,
) -> io::Result<ExitStatus> {
    let report = report.map(report::open).transpose()?;
    let begun = Instant::now();
    let mut command = Command::new(helper);
    command.arg0(helper).args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.env_remove(options::VARIABLE).env_remove(stock::VARIABLE);
    die_with_parent(&mut command);
    // Before there is a child: a signal that comes now must not end the observer alone.
    let heard = Arc::new(Heard::default());
    let hears = Arc::clone(&heard);
    unblock_ending_signals();
    signals::on_end(move |signal| hears.signal(signal))?;
    let mut child = command.spawn()?;
    heard.child(child.id());
    let observed = Arc::new(Mutex::new(Observed::default()));
    let pid = Pid::from_child(&child);
    let replies = io::stdin().as_fd().try_clone_to_owned()?;
    if let Some(stdin) = child.stdin.take() {
        let observed = Arc::clone(&observed);
        thread::Builder::new()
            .name("replies".to_owned())
            .spawn(move || relay_replies(&File::from(replies), stdin, &observed))?;
    }
    relay_messages(&mut child, &observed)?;
    let bytes = wait(&child, pid);
    heard.child(0); // its number is free soon
    let status = child.wait()?;
    let ended = Instant::now();
    if let Some(mut file) = report {
        let seen = observed.lock().unwrap_or_else(PoisonError::into_inner);
        let line = line(&seen, call, bytes, (begun, ended));
        if let Err(error) = report::append(&mut file, &line) {
            note(&format!("the report can't be written: {error}"));
        }
    }
    Ok(status)
}

/// A signal that ends the child ends this program, too: libxl sees what it would see.
pub fn end_like(status: ExitStatus) -> u8 {
    if let Some(signal) = status.signal() {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// A child, and the last signal that is for it; 0 is none.
#[derive(Debug, Default)]
struct Heard(Mutex<(i32, i32)>);

impl Heard {
    fn signal(&self, signal: i32) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.1 = signal;
        pass_on(heard.0, signal);
    }

    fn child(&self, id: u32) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.0 = id as i32;
        pass_on(heard.0, heard.1);
    }
}

/// Passes a signal on, if there are a child and a signal.
fn pass_on(child: i32, signal: i32) {
    let Some(pid) = Pid::from_raw(child).filter(|_| signal != 0) else { return };
    let signal = match signal {
        signal_hook::consts::SIGINT => Signal::INT,
        signal_hook::consts::SIGHUP => Signal::HUP,
        _ => Signal::TERM,
    };
    let _ = kill_process(pid, signal); // it may have ended
}

/// Replies of libxl, until it closes its end; then the child's ends, too.
fn relay_replies(mut replies: &File, mut stdin: ChildStdin, observed: &Mutex<Observed>) {
    let mut bytes = [0; 4096];
    loop {
        match replies.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
            Ok(count) => {
                observed.lock().unwrap_or_else(PoisonError::into_inner).replied(&bytes[..count]);
                if stdin.write_all(&bytes[..count]).is_err() {
                    return;
                }
            }
        }
    }
}

/// Messages of the child, until it closes its end.
fn relay_messages(child: &mut Child, observed: &Mutex<Observed>) -> io::Result<()> {
    let Some(mut stdout) = child.stdout.take() else { return Ok(()) };
    let mut messages = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let (mut found, mut bytes) = (Messages::default(), vec![0; 65_536]);
    loop {
        match stdout.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return Ok(()),
            Ok(count) => {
                let mut observed = observed.lock().unwrap_or_else(PoisonError::into_inner);
                observed.messages += count as u64;
                found.take(&bytes[..count], |seen| observed.saw(seen));
                drop(observed);
                if messages.write_all(&bytes[..count]).is_err() {
                    return Ok(()); // libxl is gone: the child finds that, too
                }
            }
        }
    }
}

impl Observed {
    fn saw(&mut self, seen: Seen) {
        match seen {
            Seen::Suspend => self.asked = true,
            Seen::Complete(retval, errno) => {
                self.completed.get_or_insert((Instant::now(), retval, errno));
            }
        }
    }

    fn replied(&mut self, bytes: &[u8]) {
        self.replies += bytes.len() as u64;
        if !self.asked {
            return;
        }
        self.reply.extend(bytes);
        if let Some(reply) = self.reply.first_chunk() {
            let is_good = i32::from_ne_bytes(*reply) == 1;
            self.suspended = is_good.then(Instant::now);
            self.asked = false;
            self.reply.clear();
        }
    }
}

/// Waits until the child has ended, and says how many bytes it has read and written.
fn wait(child: &Child, pid: Pid) -> (u64, u64) {
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT; // it is still in /proc
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), ended) {}
    let text = fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap_or_default();
    let of = |key: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(key));
        found.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    (of("rchar:"), of("wchar:"))
}

fn line(
    seen: &Observed,
    call: Call,
    (read, written): (u64, u64),
    (begun, ended): (Instant, Instant),
) -> ObservedLine {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let is_restore = matches!(call, Call::Restore { .. });
    let is_plain = matches!(call, Call::Save(SaveCall { stream: Stream::Plain, .. }));
    let (end, retval, errno) = seen.completed.unwrap_or((ended, -1, 0));
    let suspended = seen.suspended.filter(|_| is_plain && seen.completed.is_some());
    ObservedLine {
        event: "observed",
        domid: call.domid().unwrap_or(0),
        side: if is_restore { "restore" } else { "save" },
        bytes: match is_restore {
            true => read.saturating_sub(seen.replies),
            false => written.saturating_sub(seen.messages),
        },
        downtime_us: suspended.map(|since| micros(end.saturating_duration_since(since))),
        total_us: micros(end.saturating_duration_since(begun)),
        cpu_us: micros(childrens_time()),
        retval,
        errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_keys_of_the_interface_in_their_order() {
        let words = ["--save-domain", "9", "0", "7", "1", "0", "0"].map(OsString::from);
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let seen = Observed {
            suspended: Some(at(5)),
            completed: Some((at(12), 0, 0)),
            messages: 100,
            ..Observed::default()
        };
        let mut line = line(&seen, Call::parse(&words), (5, 4196), (begun, at(20)));
        line.cpu_us = 3;
        assert_eq!(
            serde_json::to_string(&line).expect("JSON"),
            "{\"event\":\"observed\",\"domid\":7,\"side\":\"save\",\"bytes\":4096,\
             \"downtime_us\":7000,\"total_us\":12000,\"cpu_us\":3,\"retval\":0,\"errno\":0}"
        );
    }

    #[test]
    fn a_helper_that_ends_without_a_word_has_failed() {
        let restore = ["--restore-domain", "1", "2", "3"].map(OsString::from);
        let begun = Instant::now();
        let seen = Observed { suspended: Some(begun), replies: 4, ..Observed::default() };
        let line = line(&seen, Call::parse(&restore), (5, 0), (begun, begun));
        let JsonFields { side, bytes, downtime_us, retval } = JsonFields::of(&line);
        assert_eq!((side, bytes, downtime_us, retval), ("restore", 1, None, -1));
    }

    struct JsonFields {
        side: &'static str,
        bytes: u64,
        downtime_us: Option<u64>,
        retval: i32,
    }

    impl JsonFields {
        fn of(line: &ObservedLine) -> Self {
            let &ObservedLine { side, bytes, downtime_us, retval, .. } = line;
            Self { side, bytes, downtime_us, retval }
        }
    }
}
