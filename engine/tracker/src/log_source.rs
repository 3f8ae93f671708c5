// SPDX-License-Identifier: MIT OR Apache-2.0
//! Log-dirty as the engine drives it through its port: on, read, on again after a failure, off.
//! Not here: what is done with the log (`intake`); a caller that reads it itself
//! (`Tracker::begin`).
//! Units: pfns.
//! Threads: one owner.
//! Source: Xen `paging_log_dirty_op`: a CLEAN that fails may have cleared marks that it did not
//! return.

use crate::error::Error;
use crate::intake::Read;
use crate::port::{LogBuffer, LogDirty, PortError};
use crate::uncertainty::Uncertainty;

/// State of the log.
#[derive(Debug, Default)]
pub(crate) struct LogSource {
    /// Switched on by us.
    on: bool,
    /// It failed and is not yet on again.
    broken: bool,
    /// Why it was last lost.
    error: Option<PortError>,
}

impl LogSource {
    /// Switches it on.
    pub(crate) fn enable(&mut self, log_dirty: &mut dyn LogDirty) -> Result<(), Error> {
        log_dirty.enable().map_err(Error::port("log-dirty"))?;
        self.on = true;
        Ok(())
    }

    /// Switches it off, if that was not done yet.
    pub(crate) fn disable(&mut self, log_dirty: &mut dyn LogDirty) -> Result<(), Error> {
        if self.on {
            log_dirty.disable().map_err(Error::port("log-dirty"))?;
            self.on = false;
        }
        Ok(())
    }

    /// Reads and clears it. After a failure it is switched off and on, and its marks are lost.
    pub(crate) fn read(&mut self, log_dirty: &mut dyn LogDirty, into: LogBuffer<'_>) -> Read {
        if !self.broken {
            match log_dirty.clean(into) {
                Ok(pfns) => return Read { pfns, lost: None },
                Err(error) => (self.error, self.broken) = (Some(error), true),
            }
        }
        // Broken until it is on again, in this or a later round; `disable` may have worked before.
        let off = log_dirty.disable();
        let on = log_dirty.enable();
        self.broken = on.is_err();
        Read { pfns: 0, lost: Some(on.map_err(|on| off.err().unwrap_or(on))) }
    }

    /// Adds the port's error to an error about a lost log.
    pub(crate) fn explain(&mut self, error: Error) -> Error {
        match error {
            Error::Uncertain { uncertainty: Uncertainty::LogLost, rounds, source: None } => {
                Error::Uncertain {
                    uncertainty: Uncertainty::LogLost,
                    rounds,
                    source: self.error.take(),
                }
            }
            error => error,
        }
    }
}
