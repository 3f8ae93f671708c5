// SPDX-License-Identifier: MIT OR Apache-2.0
//! What has to hold of the save helper's inputs: command lines, options, and the messages of a
//! helper that is observed; and of its own messages, whatever text is in them.
//! Not here: where the bytes come from.
//! Units: the first byte selects what the others are.
//! Threads: one.
//! Source: `xen-migrate.md` 1.2.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use p2mtrack_helper::call::{Call, Stream};
use p2mtrack_helper::message::{Level, Message, Messages, Seen};
use p2mtrack_helper::options::Options;

/// Holds everything for these bytes.
pub fn hold(bytes: &[u8]) {
    let Some((&what, rest)) = bytes.split_first() else { return };
    match what % 4 {
        0 => messages(rest),
        1 => options(rest),
        2 => command_line(rest),
        _ => texts(rest),
    }
}

/// An observer sees the same messages however their bytes are cut, and keeps no more than one.
fn messages(bytes: &[u8]) {
    let (&size, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let mut in_pieces = Vec::new();
    let mut messages = Messages::default();
    for piece in rest.chunks(usize::from(size) + 1) {
        messages.take(piece, |seen| in_pieces.push(seen));
    }
    assert_eq!(in_pieces, whole(rest));
}

/// The same, by another reading of the protocol.
fn whole(mut bytes: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    while bytes.len() >= 2 {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        if bytes.len() < 2 + length {
            break;
        }
        let body = &bytes[2..2 + length];
        let word = |at: usize| i32::from_ne_bytes(body[at..at + 4].try_into().expect("four"));
        match (body.get(..2), length) {
            (Some([3, 0]), 2) => seen.push(Seen::Suspend),
            (Some([10, 0]), 10) => seen.push(Seen::Complete(word(2), word(6))),
            _ => {}
        }
        bytes = &bytes[2 + length..];
    }
    seen
}

/// Options are right, or refused in one line that names the variable.
fn options(bytes: &[u8]) {
    if let Err(words) = Options::parse_from_text(OsStr::from_bytes(bytes)) {
        assert!(words.starts_with("P2MTRACK_HELPER_OPTIONS: ") && !words.contains('\n'));
    }
}

/// A command line is a save only if it says so in numbers.
fn command_line(bytes: &[u8]) {
    let words: Vec<OsString> =
        bytes.split(|&byte| byte == b' ').map(|word| OsString::from_vec(word.to_vec())).collect();
    let call = Call::parse(&words);
    assert_eq!(matches!(call, Call::Other), call.domid().is_none());
    let Call::Save(save) = call else { return };
    assert!(words.len() == 7 && words[0] == "--save-domain" && save.io_fd >= 0);
    let stream = words[6].to_str().and_then(|word| word.parse::<u32>().ok());
    let is_known = matches!(stream, Some(0 | 1));
    assert_eq!(is_known, save.stream != Stream::Other);
}

/// Any text is a message that libxl takes: its lengths are right, and its strings have one NUL.
fn texts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for message in [Message::Log(Level::Warn, &text), Message::Progress(&text, 1, 2)] {
        let bytes = message.encode();
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        assert_eq!(bytes.len(), 2 + length);
        let mut rest = &bytes[4..];
        if matches!(message, Message::Log(..)) {
            rest = &rest[8..];
        }
        for _ in 0..2 {
            let (length, behind) = rest.split_first_chunk().expect("a length");
            let length = u32::from_ne_bytes(*length) as usize;
            let (string, behind) = behind.split_at(length);
            assert_eq!(string.iter().position(|&byte| byte == 0), Some(length - 1));
            rest = behind;
        }
        assert_eq!(rest.len(), if matches!(message, Message::Log(..)) { 0 } else { 16 });
    }
}
