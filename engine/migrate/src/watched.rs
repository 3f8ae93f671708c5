// SPDX-License-Identifier: MIT OR Apache-2.0
//! A transport that tells how many pages a round has sent, and when they come once more.
//! Not here: what is done with them (the transport that it passes everything to).
//! Units: pages.
//! Threads: one owner.
//! Source: own.

use p2mtrack::frame::Pfn;
use p2mtrack::port::{Answer, FrameList, Page, PortError, Transport};
use p2mtrack::table::TableView;

use crate::outcome::{Event, Part};

/// Passes everything on, and counts pages.
pub(crate) struct Watched<'a> {
    transport: &'a mut dyn Transport,
    sent: u64,
    /// So many pages are expected.
    expected: u64,
    /// Pages come once more at the consistent point.
    verify: bool,
    tell: &'a mut dyn FnMut(Event),
}

impl<'a> Watched<'a> {
    /// Tells `tell` after each batch how many pages were sent so far, of those `expected`.
    pub(crate) fn new(
        transport: &'a mut dyn Transport,
        expected: u64,
        verify: bool,
        tell: &'a mut dyn FnMut(Event),
    ) -> Self {
        Self { transport, sent: 0, expected, verify, tell }
    }
}

impl Transport for Watched<'_> {
    fn send(
        &mut self,
        pages: &[Page],
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        let first = answers.len();
        self.transport.send(pages, view, answers)?;
        let is_sent = |answer: &&Answer| !matches!(answer, Answer::Deferred(_));
        self.sent += answers[first..].iter().filter(is_sent).count() as u64;
        (self.tell)(Event::Sent(self.sent, self.expected.max(self.sent)));
        Ok(())
    }

    fn frame_list(&mut self, list: FrameList<'_>) -> Result<(), PortError> {
        self.transport.frame_list(list)
    }

    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        self.transport.gone(pfns)
    }

    fn note_gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        self.transport.note_gone(pfns)
    }

    fn returned(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        self.transport.returned(into)
    }

    fn settled(&mut self, view: &dyn TableView) -> Result<(), PortError> {
        self.transport.settled(view)
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        if !self.verify {
            return self.transport.consistent();
        }
        (self.tell)(Event::Begins(Part::Verify));
        let pages = self.expected.max(1);
        (self.tell)(Event::Sent(0, pages));
        self.transport.consistent()?;
        (self.tell)(Event::Sent(pages, pages));
        Ok(())
    }
}
