// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulated transport: reads each page at the moment of sending, normalises, delivers, or
//! fails.
//! Not here: the receiver.
//! Units: as in the engine's `port`.
//! Threads: the lock is released while the engine's view is called, because that reads the m2p.
//! Source: the engine's `Transport` contract; libxc's `write_batch`.

use std::sync::Arc;

use p2mtrack::frame::{FrameType, Pfn};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{
    Answer, Deferral, FrameList, MapFault, Page, PortError, QUERY_FRAMES_MAX, Transport,
};
use p2mtrack::table::{TableView, normalise};

use crate::fault::{Fault, SimError};
use crate::log_dirty::EINVAL;
use crate::ports::{Shared, map_check};
use crate::receiver::Refusal;
use crate::words::Content;
use crate::world::World;

/// `EPIPE`: the connection is gone.
const EPIPE: i32 = 32;

/// The transport to the destination.
#[derive(Debug)]
pub struct SimTransport {
    shared: Arc<Shared>,
    /// Accepted, and lost on the way.
    lost: Vec<Pfn>,
}

/// What was read of a page.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// Data: what stands for its bytes.
    Content(Content),
    /// The words of a page table.
    Table(Box<Leaf>),
}

impl SimTransport {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, lost: Vec::new() }
    }

    /// Reads a page at this moment.
    ///
    /// # Errors
    /// The frame can't be mapped.
    pub fn read(&mut self, page: &Page) -> Result<Bytes, MapFault> {
        let mut world = self.shared.enter();
        map_check(&mut world, page.mfn)?;
        Ok(if page.kind.is_table() {
            let mut words = Box::new(Leaf::default());
            world.xen.machine.copy_words(page.mfn.0, &mut words);
            Bytes::Table(words)
        } else {
            Bytes::Content(world.xen.machine.content(page.mfn.0))
        })
    }

    /// Gives a page to the receiver, a page table with its frames replaced by pfns.
    ///
    /// # Errors
    /// The receiver refuses it.
    pub fn deliver(&mut self, page: &Page, bytes: Bytes) -> Result<(), PortError> {
        deliver(&mut self.shared.lock(), page, bytes)
    }

    fn send_one(&mut self, page: &Page, view: &dyn TableView) -> Result<Answer, PortError> {
        let mut bytes = match self.read(page) {
            Ok(bytes) => bytes,
            Err(fault) => return Ok(Answer::Deferred(Deferral::MapFailed(fault))),
        };
        if let (FrameType::Table { level, .. }, Bytes::Table(words)) = (page.kind, &mut bytes)
            && let Err(fault) = normalise(page.pfn, level, words, view)
        {
            return Ok(Answer::Deferred(Deferral::Table(fault)));
        }
        let mut world = self.shared.lock();
        if world.faults.strikes(Fault::LostAck) {
            if world.faults.dice(Fault::LostAck).chance(1, 2) {
                deliver(&mut world, page, bytes)?;
            }
            return Ok(Answer::Deferred(Deferral::Unacknowledged));
        }
        if world.faults.strikes(Fault::Returned) {
            if world.faults.dice(Fault::Returned).chance(1, 4) {
                deliver(&mut world, page, bytes)?;
            }
            drop(world);
            self.lost.push(page.pfn);
            return Ok(Answer::Accepted);
        }
        deliver(&mut world, page, bytes)?;
        Ok(Answer::Accepted)
    }
}

/// Fails the whole call if the fault strikes.
pub(crate) fn check_line(world: &mut World) -> Result<(), PortError> {
    if world.faults.strikes(Fault::TransportFailure) {
        let injected = Some(Fault::TransportFailure);
        return Err(Box::new(SimError { call: "transport", errno: EPIPE, injected }));
    }
    Ok(())
}

/// Each pfn is named once: one record has them all.
fn expect_once(world: &mut World, pfns: &[Pfn]) {
    let mut sorted = pfns.to_vec();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        world.breach("gone or note_gone: a pfn twice");
    }
}

/// What any transport checks before it says that pfns are gone.
pub(crate) fn begin_gone(world: &mut World, pfns: &[Pfn]) -> Result<(), PortError> {
    if !world.suspended {
        world.breach("gone: called while the guest runs");
    }
    expect_once(world, pfns);
    check_line(world)
}

/// What any transport checks before it notes that pfns are gone.
pub(crate) fn begin_note(world: &mut World, pfns: &[Pfn]) {
    if world.suspended {
        world.breach("note_gone: called while the guest is suspended");
    }
    expect_once(world, pfns);
}

/// What any transport checks before a consistent point.
pub(crate) fn begin_consistent(world: &mut World, lost: &[Pfn]) -> Result<(), PortError> {
    if !world.suspended {
        world.breach("consistent: called while the guest runs");
    }
    check_line(world)?;
    if !lost.is_empty() {
        let injected = Some(Fault::Returned);
        return Err(Box::new(SimError { call: "confirm all pages", errno: EPIPE, injected }));
    }
    Ok(())
}

/// How many pages of a batch reach the receiver, and the error if that is not all: a batch that
/// fails as a whole may still have reached it in part.
pub(crate) fn begin_send(world: &mut World, pages: &[Page]) -> (usize, Result<(), PortError>) {
    match check_line(world) {
        Ok(()) => (pages.len(), Ok(())),
        Err(error) => {
            let dice = world.faults.dice(Fault::TransportFailure);
            (dice.below(pages.len() as u64 + 1) as usize, Err(error))
        }
    }
}

/// Gives a page to the receiver.
fn deliver(world: &mut World, page: &Page, bytes: Bytes) -> Result<(), PortError> {
    let taken = match bytes {
        Bytes::Content(content) => world.receiver.take_data(page.pfn.0, page.kind, content),
        Bytes::Table(words) => world.receiver.take_table(page.pfn.0, page.kind, words),
    };
    taken.map_err(|refusal| {
        let call = match refusal {
            Refusal::PageBeyondList(_) => "receive a page past the frame list",
            Refusal::PteBeyondList(_) => {
                "receive a page table that names a pfn past the frame list"
            }
        };
        world.breach(call);
        PortError::from(SimError { call, errno: EINVAL, injected: None })
    })
}

impl Transport for SimTransport {
    fn send(
        &mut self,
        pages: &[Page],
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        if pages.len() > QUERY_FRAMES_MAX {
            self.shared.lock().breach("send: a batch that is too long");
        }
        let (whole, sent) = begin_send(&mut self.shared.enter(), pages);
        for page in &pages[..whole] {
            let answer = self.send_one(page, view)?;
            answers.push(answer);
        }
        sent
    }

    fn frame_list(&mut self, list: FrameList<'_>) -> Result<(), PortError> {
        let mut world = self.shared.enter();
        check_line(&mut world)?;
        world.receiver.take_list(list.pfn_count, list.leaves);
        Ok(())
    }

    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        let mut world = self.shared.enter();
        begin_gone(&mut world, pfns)?;
        world.receiver.take_gone(pfns);
        Ok(())
    }

    fn note_gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        let mut world = self.shared.lock();
        begin_note(&mut world, pfns);
        world.receiver.take_note(pfns);
        Ok(())
    }

    fn returned(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        let mut world = self.shared.enter();
        if world.suspended || world.faults.dice(Fault::Returned).chance(1, 2) {
            into.append(&mut self.lost);
        }
        Ok(())
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        let mut world = self.shared.enter();
        begin_consistent(&mut world, &self.lost)?;
        world.confirmed += 1;
        Ok(())
    }
}
