// SPDX-License-Identifier: MIT OR Apache-2.0
//! The checker over a stream while it is written.
//! Not here: its rules (`p2mtrack_stream::check`).
//! Units: pieces of bytes, in order.
//! Threads: one of its own, which is waited for at the end.
//! Source: none.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use p2mtrack_stream::check::{Broken, check};
use p2mtrack_stream::container::Format;

/// Pieces that wait.
const PIECES_MAX: usize = 64;
/// Breaches that are kept.
const BREACHES_MAX: usize = 8;

/// The checker at work.
#[derive(Debug)]
pub(crate) struct Checker {
    pieces: SyncSender<Vec<u8>>,
    thread: JoinHandle<Vec<Broken>>,
}

impl Checker {
    pub(crate) fn start() -> io::Result<Self> {
        let (pieces, incoming) = sync_channel(PIECES_MAX);
        let run = move || {
            let mut broken = Vec::new();
            let input = Incoming { pieces: incoming, piece: Vec::new(), at: 0 };
            let checked = check(input, Some(Format::Libxc), &mut |found| {
                if broken.len() < BREACHES_MAX {
                    broken.push(found);
                }
            });
            checked.expect("a channel can be read");
            broken
        };
        let thread = std::thread::Builder::new().name("checker".to_owned()).spawn(run)?;
        Ok(Self { pieces, thread })
    }

    pub(crate) fn feed(&self, bytes: Vec<u8>) {
        // The checker stops reading only at the end, or after a breach, which is reported.
        let _ = self.pieces.send(bytes);
    }

    pub(crate) fn end(self) -> Vec<Broken> {
        drop(self.pieces);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// What comes through a channel, as an input.
struct Incoming {
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Incoming {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            let Ok(piece) = self.pieces.recv() else { return Ok(0) };
            (self.piece, self.at) = (piece, 0);
        }
        let bytes = into.len().min(self.piece.len() - self.at);
        into[..bytes].copy_from_slice(&self.piece[self.at..self.at + bytes]);
        self.at += bytes;
        Ok(bytes)
    }
}
