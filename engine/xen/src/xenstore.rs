// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small client of xenstore: read, write, and resume of a domain.
//! Not here: watches, permissions.
//! Units: paths and values in bytes, at most 4,096 of both together.
//! Threads: one owner; one request at a time.
//! Source: facts of Xen `public/io/xs_wire.h`. We can't link Xen's library because of its
//! licence.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Types of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    Directory = 1,
    Read = 2,
    TransactionStart = 6,
    TransactionEnd = 7,
    Write = 11,
    Error = 16,
    Resume = 18,
}

const PAYLOAD_MAX: u32 = 4096;
const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
const DEVICE: &str = "/dev/xen/xenbus";

/// A connection to the daemon, or to the stub domain in its place.
trait Line: Read + Write + std::fmt::Debug + Send {}
impl<T: Read + Write + std::fmt::Debug + Send> Line for T {}

/// A connection.
#[derive(Debug)]
pub(crate) struct Xenstore {
    line: Box<dyn Line>,
    asked: u32,
    /// The transaction that requests belong to; 0 is none.
    transaction: u32,
}

/// How often a transaction is tried that another program's changes undo.
const TRIES: u32 = 20;

impl Xenstore {
    pub(crate) fn open() -> io::Result<Self> {
        let mut result = Err(io::ErrorKind::NotFound.into());
        for path in SOCKETS {
            result = UnixStream::connect(path);
            if let Ok(stream) = result {
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                return Ok(Self { line: Box::new(stream), asked: 0, transaction: 0 });
            }
        }
        let device = OpenOptions::new().read(true).write(true).open(DEVICE);
        let device = device.map_err(|error| result.err().unwrap_or(error))?;
        Ok(Self { line: Box::new(device), asked: 0, transaction: 0 })
    }

    pub(crate) fn read(&mut self, path: &str) -> io::Result<Vec<u8>> {
        self.ask(Kind::Read, &[path.as_bytes(), b"\0"])
    }

    pub(crate) fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        self.ask(Kind::Write, &[path.as_bytes(), b"\0", value.as_bytes()]).map(|_| ())
    }

    /// The names below a path; none if there is no such path.
    pub(crate) fn names(&mut self, path: &str) -> io::Result<Vec<Vec<u8>>> {
        match self.ask(Kind::Directory, &[path.as_bytes(), b"\0"]) {
            Ok(names) => {
                let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
                Ok(names.map(<[u8]>::to_vec).collect())
            }
            Err(error) if is_missing(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Reads a value; `None` if there is none.
    pub(crate) fn value(&mut self, path: &str) -> io::Result<Option<Vec<u8>>> {
        match self.read(path) {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes `new` in place of `old`, in one step. Says whether `old` was there.
    pub(crate) fn replace(&mut self, path: &str, old: &str, new: &str) -> io::Result<bool> {
        for _ in 0..TRIES {
            let number = self.ask(Kind::TransactionStart, &[b"\0"])?;
            let number = String::from_utf8_lossy(&number);
            let number = number.trim_end_matches('\0').parse();
            self.transaction = number.map_err(|_| io::ErrorKind::InvalidData)?;
            let changed = self.replace_within(path, old, new);
            let end: &[u8] = if matches!(changed, Ok(true)) { b"T\0" } else { b"F\0" };
            let ended = self.ask(Kind::TransactionEnd, &[end]);
            self.transaction = 0;
            match ended {
                Err(error) if error.to_string() == "EAGAIN" => {}
                ended => return changed.and_then(|changed| ended.map(|_| changed)),
            }
        }
        Err(io::Error::other("EAGAIN"))
    }

    fn replace_within(&mut self, path: &str, old: &str, new: &str) -> io::Result<bool> {
        if self.value(path)?.is_none_or(|value| value != old.as_bytes()) {
            return Ok(false);
        }
        self.write(path, new).map(|()| true)
    }

    /// Reports that a suspended domain was resumed: xenstore will report its next shutdown again.
    pub(crate) fn resume(&mut self, domid: u16) -> io::Result<()> {
        self.ask(Kind::Resume, &[domid.to_string().as_bytes(), b"\0"]).map(|_| ())
    }

    fn ask(&mut self, kind: Kind, parts: &[&[u8]]) -> io::Result<Vec<u8>> {
        let payload = parts.concat();
        let length = u32::try_from(payload.len()).ok().filter(|&length| length <= PAYLOAD_MAX);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        self.asked = self.asked.wrapping_add(1);
        let head = [kind as u32, self.asked, self.transaction, length];
        let mut message: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
        message.extend(payload);
        self.line.write_all(&message)?;
        loop {
            let (answer, number, payload) = self.hear()?;
            if number != self.asked {
                continue; // not an answer to this request
            }
            if answer == Kind::Error as u32 {
                let name = String::from_utf8_lossy(&payload);
                return Err(io::Error::other(name.trim_end_matches('\0').to_owned()));
            }
            return Ok(payload);
        }
    }

    fn hear(&mut self) -> io::Result<(u32, u32, Vec<u8>)> {
        let mut head = [0; 16];
        self.line.read_exact(&mut head)?;
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if word(12) > PAYLOAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; word(12) as usize];
        self.line.read_exact(&mut payload)?;
        Ok((word(0), word(4), payload))
    }
}

/// Whether an answer says that there is no such path.
fn is_missing(error: &io::Error) -> bool {
    error.to_string() == "ENOENT"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn message(kind: u32, number: u32, payload: &[u8]) -> Vec<u8> {
        let head = [kind, number, 0, payload.len() as u32];
        head.iter().flat_map(|word| word.to_le_bytes()).chain(payload.iter().copied()).collect()
    }

    fn served(answers: Vec<Vec<u8>>) -> Xenstore {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        thread::spawn(move || {
            for answer in answers {
                let mut head = [0; 16];
                theirs.read_exact(&mut head).expect("a head");
                let mut payload = vec![0; head[12].into()];
                theirs.read_exact(&mut payload).expect("a payload");
                theirs.write_all(&answer).expect("an answer");
            }
        });
        Xenstore { line: Box::new(ours), asked: 0, transaction: 0 }
    }

    #[test]
    fn answers_errors_and_unrelated_messages() {
        let late = [message(15, 0, b"watch\0token\0"), message(2, 2, b"42")].concat();
        let mut store = served(vec![message(11, 1, b"OK\0"), late, message(16, 3, b"ENOENT\0")]);
        store.write("/a", "b").expect("written");
        assert_eq!(store.read("/a").expect("read"), b"42");
        assert_eq!(store.read("/c").expect_err("none").to_string(), "ENOENT");
        assert!(store.read(&"x".repeat(5000)).is_err());
        assert!(store.read("/d").is_err(), "the daemon is gone");
    }

    #[test]
    fn a_value_is_replaced_in_one_step_or_not_at_all() {
        let (start, end) = (Kind::TransactionStart as u32, Kind::TransactionEnd as u32);
        let of = |number: u32, value: &'static [u8]| {
            [message(start, number, b"7\0"), message(2, number + 1, value)]
        };
        let taken =
            |number: u32| [message(11, number + 2, b"OK\0"), message(16, number + 3, b"EAGAIN\0")];
        let undone = [of(1, b"suspend"), taken(1)].concat();
        let then = [of(5, b"").to_vec(), vec![message(end, 7, b"OK\0")]].concat();
        let mut store = served([undone, then].concat());
        assert!(!store.replace("/a", "suspend", "").expect("the guest was faster"));
        let whole = [of(1, b"suspend").to_vec(), vec![message(11, 3, b"OK\0")]].concat();
        let mut store = served([whole, vec![message(end, 4, b"OK\0")]].concat());
        assert!(store.replace("/a", "suspend", "").expect("replaced"));
        assert_eq!(store.transaction, 0);
    }

    #[test]
    fn what_is_missing_is_no_error() {
        let none = |number| message(16, number, b"ENOENT\0");
        let mut store = served(vec![none(1), none(2), message(1, 3, b"0\x001\0")]);
        assert_eq!(store.value("/a").expect("answered"), None);
        assert!(store.names("/a").expect("answered").is_empty());
        assert_eq!(store.names("/a").expect("answered"), [b"0", b"1"]);
    }

    #[test]
    fn an_answer_of_impossible_length_is_refused() {
        let mut wrong = message(2, 1, b"");
        wrong[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = served(vec![wrong]).read("/a").expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
