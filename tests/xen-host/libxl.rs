// SPDX-License-Identifier: MIT OR Apache-2.0
//! `xen-libxl DOMID WAY`: stands in for libxl, starts the save helper, and goes away at a moment
//! that `xl` can't be made to choose. Checks what becomes of the guest.
//! Not here: migrations by the real libxl (`dom0/cases/migrate-*`).
//! Units: one domain.
//! Threads: one, which also stops the helper at its system calls; and one that reads the stream.
//! Source: `xen-migrate.md` 1.2. Runs in the control domain of `tests/xen-host`.
//!
//! | way | libxl |
//! |---|---|
//! | `stays` | hears `complete(0)`; log-dirty is off by then, and the lock free; nothing is done after |
//! | `stays-dead` | is gone when `complete(0)` has come, without a reply: nothing is done after |
//! | `gone-live` | is gone while the guest runs |
//! | `gone-asked` | is gone when it has asked the guest to suspend: the guest runs on |
//! | `gone-suspended` | is gone when it has said that the guest is suspended: the guest runs on |
//! | `gone-whole` | is gone when the stream is whole, before `complete`: the guest runs on |
//! | `refuses` | says that the guest did not suspend |
//! | `remus-first` | is gone when the guest is suspended for the first checkpoint: it runs on |
//! | `remus-later` | is gone when it is suspended for the second one: it stays suspended |
//! | `remus-stops` | wants no second checkpoint: `complete(0)`, log-dirty off |
//! | `dies` | destroys the suspended guest: `complete(-1)` |

#![expect(unsafe_code, reason = "ptrace; docs/safety.md")]

use std::error::Error;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use p2mtrack::port::LogDirty;
use p2mtrack_helper::message::{Message, Messages, Seen};
use p2mtrack_stream::reader::Reader;
use p2mtrack_stream::record::RecordKind;
use p2mtrack_xen::{Domain, Suspender, Unknown, Xen, XenGuest};

/// How long nothing may happen behind the end.
const BEHIND: Duration = Duration::from_millis(1500);

type Fault = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Fault> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [domid, way] = words.as_slice() else { return Err("xen-libxl DOMID WAY".into()) };
    let xen = Xen::open(Unknown::Refuse)?;
    let domain = Domain::open(&xen, domid.parse()?)?;
    let mut stage = Stage::begin(domain, way.starts_with("remus"))?;
    match way.as_str() {
        "stays" => stays(&mut stage, true)?,
        "stays-dead" => stays(&mut stage, false)?,
        "gone-live" => stage.hear_text("Frames iteration 0")?,
        "gone-asked" => {
            stage.hear(Seen::Suspend)?;
            // As libxl does; the guest takes it a moment later.
            let path = format!("/local/domain/{domid}/control/shutdown");
            let asked = Command::new("xenstore-write").args([&path, "suspend"]).status()?;
            expect(asked.success(), "the guest can't be asked")?;
        }
        "gone-suspended" | "remus-first" => stage.suspend()?,
        "gone-whole" => whole(&mut stage)?,
        "remus-later" => {
            stage.checkpoint(1)?;
            stage.suspend()?;
        }
        "remus-stops" => {
            stage.checkpoint(0)?;
            expect(stage.hear_end()? == Seen::Complete(0, 0), "it fails")?;
            expect(is_off(&stage.domain)?, "log-dirty is on at `complete`")?;
            stage.reply(0)?;
        }
        "dies" => return dies(&mut stage),
        "refuses" => {
            stage.hear(Seen::Suspend)?;
            stage.reply(0)?;
            let Seen::Complete(-1, errno) = stage.hear_end()? else {
                return Err("it does not fail".into());
            };
            expect(errno == libc::ETIMEDOUT, "the errno of a suspend that failed")?;
            stage.reply(0)?;
        }
        _ => return Err("no such way".into()),
    }
    stage.leave()?;
    if way == "remus-later" {
        thread::sleep(BEHIND);
        expect(stage.domain.info()?.is_suspended(), "the source was resumed beside its backup")?;
        stage.resume()?;
    } else if !way.starts_with("stays") {
        expect(stage.domain.info()?.shutdown.is_none(), "the guest does not run on")?;
    }
    expect(is_off(&stage.domain)?, "log-dirty is on")?;
    println!("SHOW {way}: as it should be");
    Ok(())
}

/// The save succeeds. Afterwards the guest is libxl's, whether it lives or not.
fn stays(stage: &mut Stage, lives: bool) -> Result<(), Fault> {
    stage.suspend()?;
    let end = stage.hear_end()?;
    expect(end == Seen::Complete(0, 0), "it fails")?;
    // Before the reply: libxl may act on the message at once.
    expect(is_off(&stage.domain)?, "log-dirty is on at `complete`")?;
    expect(std::fs::read_dir("/run/p2mtrack")?.next().is_none(), "the lock is held at `complete`")?;
    if lives {
        stage.reply(0)?;
    }
    stage.leave()?;
    thread::sleep(BEHIND);
    expect(stage.domain.info()?.is_suspended(), "the guest of a saved stream was resumed")?;
    stage.resume()
}

/// The stream is whole, and its end was read, when libxl goes away; the helper has not said so.
fn whole(stage: &mut Stage) -> Result<(), Fault> {
    stage.hear(Seen::Suspend)?;
    let traced = Traced::begin(stage.helper.id())?;
    stage.suspend()?;
    // ORDER: nothing else is shared
    while !stage.is_whole.load(Ordering::Relaxed) {
        traced.step()?;
        thread::sleep(Duration::from_millis(2)); // what was written is read
    }
    let messages = stage.messages.as_ref().ok_or("the line is closed")?;
    let unheard = rustix::io::ioctl_fionread(messages)?;
    let mut bytes = vec![0; unheard as usize];
    stage.messages.as_mut().ok_or("the line is closed")?.read_exact(&mut bytes)?;
    let end = Message::Complete(0, 0).encode();
    expect(!bytes.windows(end.len()).any(|some| some == end), "it was too late")?;
    (stage.replies, stage.messages) = (None, None);
    traced.let_go()
}

/// The first thread of a program, which is stopped at each system call.
struct Traced(i32);

impl Traced {
    fn begin(process: u32) -> Result<Self, Fault> {
        let traced = Self(process as i32);
        traced.ask(libc::PTRACE_SEIZE, libc::PTRACE_O_TRACESYSGOOD)?;
        traced.ask(libc::PTRACE_INTERRUPT, 0)?;
        traced.wait()?;
        Ok(traced)
    }

    /// Lets it run to the beginning or the end of a system call.
    fn step(&self) -> Result<(), Fault> {
        self.ask(libc::PTRACE_SYSCALL, 0)?;
        self.wait()
    }

    fn let_go(self) -> Result<(), Fault> {
        self.ask(libc::PTRACE_DETACH, 0)
    }

    fn ask(&self, request: libc::c_uint, data: i32) -> Result<(), Fault> {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: none of these requests takes an address of ours.
        let answer = unsafe { libc::ptrace(request, self.0, none, data as libc::c_long) };
        if answer < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
    }

    fn wait(&self) -> Result<(), Fault> {
        let mut status = 0;
        // SAFETY: writes `status`.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
        expect(waited == self.0 && libc::WIFSTOPPED(status), "the helper has ended")
    }
}

/// The guest is destroyed while its last round is sent.
fn dies(stage: &mut Stage) -> Result<(), Fault> {
    stage.hear(Seen::Suspend)?;
    stage.stalls.store(true, Ordering::Relaxed); // ORDER: nothing else is shared
    stage.suspend()?;
    let domid = stage.domain.domid().to_string();
    let destroyed = Command::new("xl").args(["destroy", &domid]).status()?;
    stage.stalls.store(false, Ordering::Relaxed); // ORDER: as above
    expect(destroyed.success(), "the guest can't be destroyed")?;
    let Seen::Complete(-1, errno) = stage.hear_end()? else { return Err("it succeeds".into()) };
    expect(errno == libc::ESRCH, "the errno of a domain that is gone")?;
    stage.reply(0)?;
    stage.leave()?;
    println!("SHOW dies: as it should be");
    Ok(())
}

/// Reads a stream to its end.
fn read(pipe: impl Read, stalls: &AtomicBool, is_whole: &AtomicBool) -> Option<()> {
    let mut reader = Reader::new(pipe);
    reader.image_header().ok()?;
    reader.domain_header().ok()?;
    loop {
        let record = reader.record_header().ok()?;
        if record.number == RecordKind::End as u32 {
            is_whole.store(true, Ordering::Relaxed); // ORDER: as in `whole`
        }
        // ORDER: as in `dies`
        while stalls.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        reader.skip("a body", u64::from(record.length.next_multiple_of(8))).ok()?;
    }
}

fn expect(holds: bool, what: &str) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(what.into()) }
}

/// The only way to find out is to try to switch it on.
fn is_off(domain: &Domain) -> Result<bool, Fault> {
    let mut log = XenGuest::open(domain)?.log_dirty;
    let is_off = log.enable().is_ok();
    if is_off {
        log.disable()?;
    }
    Ok(is_off)
}

/// A helper, and libxl's ends of its line.
struct Stage {
    domain: Domain,
    suspender: Suspender,
    helper: Child,
    /// The stream is not read.
    stalls: Arc<AtomicBool>,
    /// The end of the stream was read.
    is_whole: Arc<AtomicBool>,
    replies: Option<ChildStdin>,
    messages: Option<ChildStdout>,
    found: Messages,
    heard: Vec<u8>,
    seen: Vec<Seen>,
}

impl Stage {
    fn begin(domain: Domain, is_remus: bool) -> Result<Self, Fault> {
        let (pipe, stream) = io::pipe()?;
        let stream = OwnedFd::from(stream);
        let stalls = Arc::new(AtomicBool::new(false));
        let is_whole = Arc::new(AtomicBool::new(false));
        let (stalled, ended) = (Arc::clone(&stalls), Arc::clone(&is_whole));
        thread::spawn(move || read(pipe, &stalled, &ended));
        rustix::io::fcntl_setfd(&stream, rustix::io::FdFlags::empty())?;
        let mut helper = Command::new("p2mtrack-save-helper");
        helper.arg("--save-domain").arg(stream.as_raw_fd().to_string()).arg("0");
        helper.arg(domain.domid().to_string()).args(["1", "184", if is_remus { "1" } else { "0" }]);
        let mut helper = helper.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Self {
            suspender: Suspender::new(&domain)?,
            domain,
            replies: helper.stdin.take(),
            messages: helper.stdout.take(),
            helper,
            stalls,
            is_whole,
            found: Messages::default(),
            heard: Vec::new(),
            seen: Vec::new(),
        })
    }

    fn hear_more(&mut self) -> Result<(), Fault> {
        let mut bytes = [0; 4096];
        let messages = self.messages.as_mut().ok_or("the line is closed")?;
        let count = messages.read(&mut bytes)?;
        expect(count > 0, "the helper has ended")?;
        self.heard.extend(&bytes[..count]);
        let seen = &mut self.seen;
        self.found.take(&bytes[..count], |what| seen.push(what));
        Ok(())
    }

    fn hear_text(&mut self, text: &str) -> Result<(), Fault> {
        self.hear_bytes(text.as_bytes())
    }

    fn hear_bytes(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        while !self.heard.windows(bytes.len()).any(|some| some == bytes) {
            self.hear_more()?;
        }
        Ok(())
    }

    fn hear(&mut self, what: Seen) -> Result<(), Fault> {
        while !self.seen.contains(&what) {
            self.hear_more()?;
        }
        Ok(())
    }

    fn hear_end(&mut self) -> Result<Seen, Fault> {
        loop {
            if let Some(end) = self.seen.iter().find(|seen| matches!(seen, Seen::Complete(..))) {
                return Ok(*end);
            }
            self.hear_more()?;
        }
    }

    fn reply(&mut self, reply: i32) -> Result<(), Fault> {
        let replies = self.replies.as_mut().ok_or("the line is closed")?;
        Ok(replies.write_all(&reply.to_ne_bytes())?)
    }

    /// Suspends the guest when the helper asks for it, and says so.
    fn suspend(&mut self) -> Result<(), Fault> {
        self.hear(Seen::Suspend)?;
        self.suspender.suspend(Duration::from_secs(30), &|| false)?;
        self.reply(1)
    }

    /// The first checkpoint of a Remus stream, and whether there is to be another one.
    fn checkpoint(&mut self, goes_on: i32) -> Result<(), Fault> {
        self.suspend()?;
        self.hear_bytes(&Message::Postcopy.encode())?;
        self.resume()?;
        self.reply(1)?;
        self.hear_bytes(&Message::Checkpoint.encode())?;
        self.seen.clear();
        self.reply(goes_on)
    }

    fn resume(&mut self) -> Result<(), Fault> {
        Ok(self.suspender.resume()?)
    }

    /// Closes the line, and waits until the helper and its guard have ended.
    fn leave(&mut self) -> Result<(), Fault> {
        (self.replies, self.messages) = (None, None);
        self.helper.wait()?;
        let begun = Instant::now();
        while std::fs::read_dir("/run/p2mtrack")?.next().is_some() {
            expect(begun.elapsed() < Duration::from_secs(10), "its guard has not ended")?;
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}
