// SPDX-License-Identifier: MIT OR Apache-2.0
//! A copy of what each CLEAN returned, for a recording: the log can be read only once.
//! Not here: the log itself.
//! Units: pfns.
//! Threads: one owner.
//! Source: own.

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::port::{LogBuffer, LogDirty, PortError};

/// Keeps the last log.
#[derive(Debug, Default)]
pub(super) struct Tap {
    wanted: bool,
    log: Option<PfnBitmap>,
}

/// A log whose contents go to a tap, too.
#[derive(Debug)]
pub(super) struct Tapped<'a, L> {
    tap: &'a mut Tap,
    log: &'a mut L,
}

impl Tap {
    /// Keeps copies from now on.
    pub(super) const fn open(&mut self) {
        self.wanted = true;
    }

    pub(super) const fn on<'a, L: LogDirty>(&'a mut self, log: &'a mut L) -> Tapped<'a, L> {
        Tapped { tap: self, log }
    }

    /// The log of the last round, if it had one.
    pub(super) const fn take(&mut self) -> Option<PfnBitmap> {
        self.log.take()
    }
}

impl<L: LogDirty> LogDirty for Tapped<'_, L> {
    fn enable(&mut self) -> Result<(), PortError> {
        self.log.enable()
    }

    fn disable(&mut self) -> Result<(), PortError> {
        self.log.disable()
    }

    fn clean(&mut self, mut into: LogBuffer<'_>) -> Result<u64, PortError> {
        let result = self.log.clean(into.lend());
        if self.tap.wanted {
            self.tap.log = Some(into.marks(*result.as_ref().unwrap_or(&0)));
        }
        result
    }
}
