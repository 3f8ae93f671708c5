// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of a helper to libxl, and the replies.
//! Not here: the descriptors (`line`).
//! Units: bytes: length u16 of what follows, number u16, arguments, in native order, unaligned;
//! strings with a length that includes the NUL. A reply is one i32.
//! Threads: plain values.
//! Source: `xen-migrate.md` 1.2, for libxl 4.14 and later. A message that is not well formed is
//! dropped by libxl, so that its reply never comes.

use p2mtrack_migrate::fault::printable;

/// Bytes of one text; what is longer is cut. Two of them fit a message.
const TEXT_MAX: usize = 16_384;

/// How important a log line is, by libxl's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Shown if details are asked for.
    Detail = 3,
    /// Shown if they are asked for.
    Info = 5,
    /// Shown.
    Warn = 7,
    /// Shown.
    Error = 8,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A line for the toolstack's log.
    Log(Level, &'a str),
    /// How far something is: what, done, total. Without a total it is only said to begin.
    Progress(&'a str, u64, u64),
    /// Suspend the guest. Reply: 1 if it is.
    Suspend,
    /// Remus: resume the guest. Reply: 1 if it runs.
    Postcopy,
    /// Remus: a checkpoint is written. Reply, when the next one is due: 1, or 0 to stop.
    Checkpoint,
    /// The end: a value and an errno. The reply says nothing.
    Complete(i32, i32),
}

/// No errno in a log line.
const NO_ERRNO: u32 = u32::MAX;

impl Message<'_> {
    const fn number(&self) -> u16 {
        match self {
            Self::Log(..) => 1,
            Self::Progress(..) => 2,
            Self::Suspend => 3,
            Self::Postcopy => 4,
            Self::Checkpoint => 5,
            Self::Complete(..) => COMPLETE,
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.number().to_ne_bytes().to_vec();
        match *self {
            Self::Log(level, text) => {
                body.extend((level as u32).to_ne_bytes());
                body.extend(NO_ERRNO.to_ne_bytes());
                put_text(&mut body, "p2mtrack");
                put_text(&mut body, text);
            }
            Self::Progress(what, done, total) => {
                put_text(&mut body, "xc");
                put_text(&mut body, what);
                body.extend(done.to_ne_bytes());
                body.extend(total.to_ne_bytes());
            }
            Self::Suspend | Self::Postcopy | Self::Checkpoint => {}
            Self::Complete(value, errno) => {
                body.extend(value.to_ne_bytes());
                body.extend(errno.to_ne_bytes());
            }
        }
        let length = u16::try_from(body.len()).expect("texts are cut");
        [&length.to_ne_bytes(), &body[..]].concat()
    }
}

/// Appends a text without control characters, cut where it is too long.
fn put_text(body: &mut Vec<u8>, text: &str) {
    let mut clean = printable(text);
    let is_end = |at: &usize| clean.is_char_boundary(*at);
    let end = (0..=TEXT_MAX.min(clean.len())).rev().find(is_end).unwrap_or(0);
    clean.truncate(end);
    body.extend((clean.len() as u32 + 1).to_ne_bytes());
    body.extend(clean.as_bytes());
    body.push(0);
}

const SUSPEND: u16 = 3;
const COMPLETE: u16 = 10;

/// What an observer wants to know of another helper's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The guest is to be suspended.
    Suspend,
    /// The end: a value and an errno.
    Complete(i32, i32),
}

/// Finds messages in the bytes of another helper, in whatever pieces they come.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
}

impl Messages {
    /// Takes the next bytes, and tells what is complete.
    pub fn take(&mut self, bytes: &[u8], mut tell: impl FnMut(Seen)) {
        self.bytes.extend(bytes);
        let mut at = 0;
        while let Some((length, rest)) = self.bytes[at..].split_first_chunk() {
            let length = usize::from(u16::from_ne_bytes(*length));
            let Some(body) = rest.get(..length) else { break };
            at += 2 + length;
            if let Some(seen) = Seen::of(body) {
                tell(seen);
            }
        }
        self.bytes.drain(..at);
    }
}

impl Seen {
    fn of(body: &[u8]) -> Option<Self> {
        let (number, arguments) = body.split_first_chunk()?;
        match u16::from_ne_bytes(*number) {
            SUSPEND if arguments.is_empty() => Some(Self::Suspend),
            COMPLETE => {
                let (value, rest) = arguments.split_first_chunk()?;
                let (errno, rest) = rest.split_first_chunk()?;
                let is_whole = rest.is_empty();
                let complete =
                    Self::Complete(i32::from_ne_bytes(*value), i32::from_ne_bytes(*errno));
                is_whole.then_some(complete)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libxl 4.14 and later decode them.
    fn bytes(words: &[&[u8]]) -> Vec<u8> {
        let body = words.concat();
        [&(body.len() as u16).to_ne_bytes(), &body[..]].concat()
    }

    #[test]
    fn messages_are_as_libxl_reads_them() {
        let (n4, n8) = (u32::to_ne_bytes, u64::to_ne_bytes);
        let number = u16::to_ne_bytes;
        assert_eq!(
            Message::Log(Level::Error, "no\nway").encode(),
            bytes(&[&number(1), &n4(8), &[255; 4], &n4(9), b"p2mtrack\0", &n4(8), b"no\\nway\0"])
        );
        assert_eq!(
            Message::Progress("Frames", 5, 9).encode(),
            bytes(&[&number(2), &n4(3), b"xc\0", &n4(7), b"Frames\0", &n8(5), &n8(9)])
        );
        assert_eq!(Message::Suspend.encode(), bytes(&[&number(3)]));
        assert_eq!(Message::Postcopy.encode(), bytes(&[&number(4)]));
        assert_eq!(Message::Checkpoint.encode(), bytes(&[&number(5)]));
        let (value, errno) = ((-1_i32).to_ne_bytes(), 32_i32.to_ne_bytes());
        assert_eq!(Message::Complete(-1, 32).encode(), bytes(&[&number(10), &value, &errno]));
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters() {
        for text in ["ä".repeat(40_000), "\0".repeat(40_000), "\n".repeat(TEXT_MAX)] {
            let message = Message::Log(Level::Info, &text).encode();
            let length = usize::from(u16::from_ne_bytes([message[0], message[1]]));
            assert_eq!(message.len(), 2 + length);
            let text = &message[2 + 2 + 8 + 4 + 9 + 4..message.len() - 1];
            assert!(text.len() <= TEXT_MAX && !text.contains(&0));
            assert!(std::str::from_utf8(text).is_ok());
        }
    }

    #[test]
    fn an_observer_sees_messages_however_they_are_cut() {
        let whole = [
            Message::Log(Level::Info, "x").encode(),
            Message::Suspend.encode(),
            bytes(&[]),                           // not even a number
            bytes(&[&3_u16.to_ne_bytes(), b"x"]), // too long for what it is
            bytes(&[&10_u16.to_ne_bytes(), b"short"]),
            Message::Complete(0, 7).encode(),
        ]
        .concat();
        for piece in [1, 2, 3, 5, whole.len()] {
            let (mut messages, mut seen) = (Messages::default(), Vec::new());
            whole.chunks(piece).for_each(|piece| messages.take(piece, |what| seen.push(what)));
            assert_eq!(seen, [Seen::Suspend, Seen::Complete(0, 7)]);
            assert!(messages.bytes.is_empty());
        }
    }
}
