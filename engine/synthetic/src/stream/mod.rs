// SPDX-License-Identifier: MIT OR Apache-2.0
//! A transport over the bytes of a libxc stream: the real writer, a receiver that reads what it
//! wrote, and the checker over all of it.
//! Not here: the stream itself (`p2mtrack-stream`).
//! Units: as in the engine's `port`.
//! Threads: the checker has one of its own; it is fed in order and waited for at the end.
//! Source: the engine's `Transport` contract. Faults are those of `SimTransport`.

mod checker;
mod line;
mod pages;
mod receiver;
mod tail;

use std::sync::Arc;
use std::{io, mem};

use p2mtrack::frame::Pfn;
use p2mtrack::port::{Answer, Deferral, FrameList, Page, PortError, Transport};
use p2mtrack::table::TableView;
use p2mtrack_stream::check::{Broken, Rule};
use p2mtrack_stream::record::RecordKind;
use p2mtrack_stream::transport::StreamTransport;
use p2mtrack_stream::writer::Writer;

use crate::fault::Fault;
use crate::ports::Shared;
use crate::stream::checker::Checker;
use crate::stream::line::Line;
use crate::stream::pages::SimPages;
use crate::stream::receiver::StreamReceiver;
use crate::stream::tail::SimTail;
use crate::transport::{begin_consistent, begin_gone, begin_note, begin_send, check_line};

/// The transport.
#[derive(Debug)]
pub(crate) struct SimStream {
    shared: Arc<Shared>,
    inner: StreamTransport<SimPages, Line, SimTail>,
    receiver: StreamReceiver,
    /// A thread writes: the receiver reads when it was waited for.
    has_writer: bool,
    /// Accepted, and lost on the way.
    lost: Vec<Pfn>,
    checker: Option<Checker>,
    /// The whole stream, if it is wanted.
    kept: Option<Vec<u8>>,
}

/// What became of a stream.
#[derive(Debug, Default)]
pub(crate) struct StreamEnd {
    /// Rules that it breaks.
    pub(crate) broken: Vec<Broken>,
    /// Frames that a stock receiver would keep although the source has none.
    pub(crate) left_over: u64,
}

impl SimStream {
    /// A stream whose static records are written.
    ///
    /// # Errors
    /// No threads for the checker and, if asked for, the writer.
    pub(crate) fn begin(shared: Arc<Shared>, has_writer: bool) -> io::Result<Self> {
        let width = {
            let mut world = shared.lock();
            world.receiver.read_stream();
            world.guest.width
        };
        let mut writer = Writer::new(Line::new());
        writer.headers((4, 17))?;
        writer.pv_info(width)?;
        writer.cpuid_policy(&[0; 24])?;
        writer.msr_policy(&[0; 16])?;
        writer.static_data_end()?;
        let (mark, has_root) = (RecordKind::End, true);
        let tail = SimTail { shared: Arc::clone(&shared), mark, has_root };
        let pages = SimPages(Arc::clone(&shared));
        let mut inner = StreamTransport::new(writer, pages, tail, width);
        if has_writer {
            inner = inner.with_thread()?;
        }
        let receiver = StreamReceiver::default();
        let checker = Some(Checker::start()?);
        let (lost, kept) = (Vec::new(), None);
        Ok(Self { shared, inner, receiver, has_writer, lost, checker, kept })
    }

    /// Keeps what is written from now on. The sink fails after so many further bytes.
    ///
    /// # Panics
    /// If something was written already.
    pub(crate) fn keep(&mut self, room: u64) {
        self.kept = Some(Vec::new());
        let limit = |writer: &mut Writer<Line>| writer.sink_mut().room = room;
        self.inner.with_writer(limit).expect("nothing is under way");
    }

    /// Takes what was kept.
    pub(crate) fn take_kept(&mut self) -> Vec<u8> {
        self.kept.take().unwrap_or_default()
    }

    /// What the next consistent point is.
    pub(crate) const fn set_final(&mut self, is_final: bool) {
        let mark = if is_final { RecordKind::End } else { RecordKind::Checkpoint };
        self.inner.tail_mut().mark = mark;
    }

    /// Ends the stream, and waits for the checker. A stream that was given up may be cut.
    pub(crate) fn end(&mut self, is_complete: bool) -> StreamEnd {
        let mut broken = self.checker.take().map(Checker::end).unwrap_or_default();
        let has_root = self.inner.tail_mut().has_root;
        broken.retain(|found| match found.rule {
            Rule::Truncated => is_complete,
            Rule::VcpuCr3 => has_root,
            _ => true,
        });
        let left_over = self.receiver.left_over.len() as u64;
        StreamEnd { broken, left_over }
    }

    /// Gives the receiver what was written.
    fn pump(&mut self) -> Result<(), PortError> {
        let bytes = self.inner.with_writer(|writer| mem::take(&mut writer.sink_mut().bytes))?;
        let mut world = self.shared.lock();
        let taken = self.receiver.take(&bytes, &mut world.receiver);
        if taken.is_err() {
            world.breach("the receiver can't take the stream");
        }
        drop(world);
        if let Some(kept) = &mut self.kept {
            kept.extend(&bytes);
        }
        if let Some(checker) = &self.checker {
            checker.feed(bytes);
        }
        Ok(taken?)
    }

    /// The pages that are written, and the answers of the others.
    fn strike(&mut self, pages: &[Page]) -> (Vec<Page>, Vec<Option<Answer>>) {
        let mut world = self.shared.lock();
        let mut written = Vec::with_capacity(pages.len());
        let mut answers = Vec::with_capacity(pages.len());
        for page in pages {
            let (answer, arrives) = if world.faults.strikes(Fault::LostAck) {
                let arrives = world.faults.dice(Fault::LostAck).chance(1, 2);
                (Some(Answer::Deferred(Deferral::Unacknowledged)), arrives)
            } else if world.faults.strikes(Fault::Returned) {
                self.lost.push(page.pfn);
                (Some(Answer::Accepted), world.faults.dice(Fault::Returned).chance(1, 4))
            } else {
                (None, true)
            };
            if arrives {
                written.push(*page);
            }
            answers.push(answer);
        }
        (written, answers)
    }
}

impl Transport for SimStream {
    fn send(
        &mut self,
        pages: &[Page],
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        let (whole, sent) = begin_send(&mut self.shared.enter(), pages);
        let (written, struck) = self.strike(&pages[..whole]);
        let mut given = Vec::with_capacity(written.len());
        self.inner.send(&written, view, &mut given)?;
        if !self.has_writer {
            self.pump()?;
        }
        let mut written = written.iter().map(|page| page.pfn).zip(given).peekable();
        for (page, struck) in pages[..whole].iter().zip(struck) {
            let given = written.next_if(|(pfn, _)| *pfn == page.pfn).map(|(_, answer)| answer);
            answers.push(match (struck, given) {
                // What can't be sent was not lost.
                (Some(_), Some(answer @ Answer::Deferred(_))) | (None, Some(answer)) => answer,
                (Some(answer), _) => answer,
                (None, None) => Answer::Deferred(Deferral::Unacknowledged),
            });
        }
        sent
    }

    fn frame_list(&mut self, list: FrameList<'_>) -> Result<(), PortError> {
        check_line(&mut self.shared.enter())?;
        self.inner.frame_list(list)?;
        self.pump()
    }

    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        begin_gone(&mut self.shared.enter(), pfns)?;
        self.inner.gone(pfns)?;
        self.pump()
    }

    fn note_gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        begin_note(&mut self.shared.lock(), pfns);
        self.inner.note_gone(pfns)?;
        self.pump()
    }

    fn returned(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        self.inner.returned(into)?;
        self.pump()?;
        let mut world = self.shared.enter();
        if world.suspended || world.faults.dice(Fault::Returned).chance(1, 2) {
            into.append(&mut self.lost);
        }
        Ok(())
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        begin_consistent(&mut self.shared.enter(), &self.lost)?;
        self.pump()?; // the records behind the pages name some of them
        self.inner.consistent()?;
        self.pump()?;
        if self.receiver.waits() {
            self.shared.lock().breach("a consistent point in the middle of a record");
        }
        self.shared.lock().confirmed += 1;
        Ok(())
    }
}
