// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports for what a trace does not hold: types, unlogged writers. They give the simplest answers.
//! Not here: ports that show a recording (`replay`).
//! Units: as in the tracker's `port`.
//! Threads: plain values.
//! Source: own.

use p2mtrack::frame::{FrameType, Mfn, Pfn};
use p2mtrack::port::{FrameTypes, PortError, Unlogged};

/// Every frame belongs to the domain, and is an ordinary page.
#[derive(Clone, Copy, Debug)]
pub struct AllData;

impl FrameTypes for AllData {
    fn query(&mut self, _: &[Mfn], types: &mut [FrameType]) -> Result<(), PortError> {
        types.fill(FrameType::Data);
        Ok(())
    }
}

/// There are no unlogged writers.
#[derive(Clone, Copy, Debug)]
pub struct NoneUnlogged;

impl Unlogged for NoneUnlogged {
    fn pfns(&mut self, _: &mut Vec<Pfn>) -> Result<(), PortError> {
        Ok(())
    }

    fn accepts_transfer(&mut self) -> Result<bool, PortError> {
        Ok(false)
    }
}
