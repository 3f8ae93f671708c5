// SPDX-License-Identifier: MIT OR Apache-2.0
//! The line to libxl: messages on standard output, replies on standard input.
//! Not here: what is in a message (`message`).
//! Units: messages.
//! Threads: one owner sends; one thread watches whether libxl is there.
//! Source: `xen-migrate.md` 1.2. libxl is gone when it has closed its end of the replies, or does
//! not read what is sent.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use p2mtrack_migrate::fault::Fault;
use p2mtrack_migrate::kind::Kind;
use rustix::event::{PollFd, PollFlags, poll};

use crate::message::{Level, Message};

/// The line to libxl.
#[derive(Debug)]
pub struct Line {
    messages: File,
    replies: File,
    /// Bytes of messages that wait for the next one.
    held: RefCell<Vec<u8>>,
    is_gone: Arc<AtomicBool>,
}

impl Line {
    /// By this program's standard input and output.
    ///
    /// # Errors
    /// One of them is not open.
    pub fn open() -> io::Result<Self> {
        let messages = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self::new(messages, io::stdin().as_fd().try_clone_to_owned()?))
    }

    /// By these descriptors.
    #[must_use]
    pub fn new(messages: OwnedFd, replies: OwnedFd) -> Self {
        let is_gone = Arc::new(AtomicBool::new(false));
        let held = RefCell::default();
        Self { messages: messages.into(), replies: replies.into(), held, is_gone }
    }

    /// From now on calls `act` when libxl goes away, on a thread of its own. That it is gone after
    /// it has heard how the save ended means nothing.
    ///
    /// # Errors
    /// There is no thread.
    pub fn watch(&self, act: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let (replies, is_gone) = (self.replies.try_clone()?, Arc::clone(&self.is_gone));
        let watch = move || {
            if wait_gone(&replies) {
                is_gone.store(true, Ordering::Relaxed); // ORDER: nothing else is shared
                act();
            }
        };
        thread::Builder::new().name("libxl".to_owned()).spawn(watch).map(|_| ())
    }

    /// Whether libxl was seen to be gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed) // ORDER: as in `watch`
    }

    /// Sends a log line. A libxl that is gone is found by who waits for a reply.
    pub fn log(&self, level: Level, text: &str) {
        let _ = self.send(Message::Log(level, text));
    }

    /// Says how far something is.
    pub fn progress(&self, what: &str, done: u64, total: u64) {
        let _ = self.send(Message::Progress(what, done, total));
    }

    /// Holds a message back until the next one is sent: while the guest stands still, libxl is
    /// woken no more often than it has to be.
    pub fn hold(&self, message: Message<'_>) {
        self.held.borrow_mut().extend(message.encode());
    }

    /// Sends a message and waits for its reply.
    ///
    /// # Errors
    /// libxl is gone.
    pub fn ask(&self, message: Message<'_>) -> Result<i32, Fault> {
        self.say(message)?;
        self.hear()
    }

    /// Sends a message.
    ///
    /// # Errors
    /// libxl is gone, and has not got it.
    pub fn say(&self, message: Message<'_>) -> Result<(), Fault> {
        self.send(message).map_err(|error| self.found_gone(&error))
    }

    /// Waits for a reply.
    ///
    /// # Errors
    /// libxl is gone; it may have got the message.
    pub fn hear(&self) -> Result<i32, Fault> {
        let mut reply = [0; 4];
        (&self.replies).read_exact(&mut reply).map_err(|error| self.found_gone(&error))?;
        Ok(i32::from_ne_bytes(reply))
    }

    fn found_gone(&self, error: &io::Error) -> Fault {
        self.is_gone.store(true, Ordering::Relaxed); // ORDER: as in `watch`
        gone(error)
    }

    fn send(&self, message: Message<'_>) -> io::Result<()> {
        let mut bytes = self.held.take();
        bytes.extend(message.encode());
        (&self.messages).write_all(&bytes)
    }
}

fn gone(error: &io::Error) -> Fault {
    Fault::new(Kind::ToolstackGone, format!("libxl, which started this save, is gone: {error}"))
}

/// Waits until nobody can write any more what `replies` reads.
fn wait_gone(replies: &File) -> bool {
    loop {
        let mut ends = [PollFd::new(replies, PollFlags::empty())];
        match poll(&mut ends, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
            Ok(_) => return true,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// A line, and libxl's end of it: what it hears, and where it replies.
    pub(crate) fn line() -> (Line, io::PipeReader, io::PipeWriter) {
        let (heard, messages) = io::pipe().expect("a pipe");
        let (replies, reply) = io::pipe().expect("a pipe");
        (Line::new(messages.into(), replies.into()), heard, reply)
    }

    #[test]
    fn a_message_is_answered() {
        let (line, mut heard, mut reply) = line();
        reply.write_all(&1_i32.to_ne_bytes()).expect("a pipe");
        assert_eq!(line.ask(Message::Suspend), Ok(1));
        let mut bytes = [0; 4];
        heard.read_exact(&mut bytes).expect("a message");
        assert_eq!(bytes.to_vec(), Message::Suspend.encode());
    }

    #[test]
    fn what_is_held_comes_before_the_next_message() {
        let (line, mut heard, _reply) = line();
        let messages =
            [Message::Progress("a", 0, 0), Message::Log(Level::Info, "b"), Message::Suspend];
        line.hold(messages[0]);
        line.hold(messages[1]);
        line.say(messages[2]).expect("a pipe");
        let mut bytes = vec![0; messages.iter().map(|message| message.encode().len()).sum()];
        heard.read_exact(&mut bytes).expect("messages");
        assert_eq!(bytes, messages.map(|message| message.encode()).concat());
    }

    #[test]
    fn libxl_is_gone_when_its_end_is_closed_and_not_before() {
        let (line, _heard, mut reply) = line();
        let (send, gone) = channel();
        line.watch(move || send.send(()).expect("heard")).expect("a thread");
        reply.write_all(&[1]).expect("a pipe");
        assert!(gone.recv_timeout(Duration::from_millis(50)).is_err(), "a reply is no end");
        assert!(!line.is_gone());
        drop(reply);
        gone.recv_timeout(Duration::from_secs(60)).expect("gone");
        assert!(line.is_gone());
    }

    #[test]
    fn a_reply_that_is_cut_off_is_none() {
        let (line, _heard, mut reply) = line();
        reply.write_all(&[1, 0, 0]).expect("a pipe");
        drop(reply);
        assert_eq!(line.ask(Message::Suspend).expect_err("gone").kind, Kind::ToolstackGone);
        assert!(line.is_gone());
    }

    #[test]
    fn who_does_not_listen_is_gone() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (replies, _reply) = io::pipe().expect("a pipe");
        drop(theirs);
        let line = Line::new(ours.into(), replies.into());
        assert_eq!(line.ask(Message::Suspend).expect_err("gone").kind, Kind::ToolstackGone);
    }
}
