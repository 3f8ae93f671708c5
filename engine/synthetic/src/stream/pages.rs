// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages of the simulated guest as bytes: words where they have a meaning, else a pattern of the
//! version.
//! Not here: the back end of the engine's other ports (`ports`).
//! Units: frames of 512 words.
//! Threads: a batch is read without the world's lock, while the guest may write tables and leaves.
//! Source: the contract of `p2mtrack_stream::pages`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use p2mtrack::frame::Mfn;
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{MapFault, PortError};
use p2mtrack_stream::pages::{PageBatch, Pages};

use crate::ports::{Shared, map_check};
use crate::words::LiveWords;

/// The guest's pages.
#[derive(Debug)]
pub(crate) struct SimPages(pub(crate) Arc<Shared>);

/// Pages that are mapped.
#[derive(Debug)]
pub(crate) struct SimBatch(Vec<Result<Arc<LiveWords>, MapFault>>);

impl Pages for SimPages {
    type Batch = SimBatch;

    fn map(&mut self, frames: &[Mfn]) -> Result<SimBatch, PortError> {
        Ok(SimBatch(frames.iter().map(|&mfn| self.map_one(mfn)).collect()))
    }
}

impl SimPages {
    fn map_one(&self, mfn: Mfn) -> Result<Arc<LiveWords>, MapFault> {
        let mut world = self.0.enter();
        map_check(&mut world, mfn)?;
        if let Some(words) = world.xen.machine.words(mfn.0) {
            return Ok(Arc::clone(&words.live));
        }
        let mut copy = Leaf::default();
        world.xen.machine.copy_words(mfn.0, &mut copy);
        Ok(Arc::new(copy.words.map(AtomicU64::new)))
    }
}

impl PageBatch for SimBatch {
    fn page(&self, index: usize) -> Result<GuestLeaf<'_>, MapFault> {
        let page = self.0.get(index).ok_or(MapFault::NotOwned)?;
        page.as_ref().map(|words| GuestLeaf::from_atomics(words)).map_err(|&fault| fault)
    }
}
