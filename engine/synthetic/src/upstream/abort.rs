// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why upstream gives up a migration: its message, and the fault behind it, if any.
//! Not here: when it gives up (`passes`, `batch`, `p2m`, `passive`).
//! Units: none.
//! Threads: plain values.
//! Source: own.

use std::fmt;

use p2mtrack::error::Error;
use p2mtrack::port::PortError;

use crate::fault::{Fault, SimError};
use crate::run::in_full;

/// Why upstream gives up.
#[derive(Debug)]
pub(super) struct Abort {
    pub(super) cause: String,
    pub(super) fault: Option<Fault>,
}

impl Abort {
    pub(super) fn because(cause: impl fmt::Display) -> Self {
        Self { cause: cause.to_string(), fault: None }
    }

    pub(super) fn struck_by(fault: Fault, cause: impl fmt::Display) -> Self {
        Self { cause: cause.to_string(), fault: Some(fault) }
    }
}

impl From<PortError> for Abort {
    fn from(error: PortError) -> Self {
        let fault = error.downcast_ref::<SimError>().and_then(|error| error.injected);
        Self { cause: error.to_string(), fault }
    }
}

impl From<Error> for Abort {
    fn from(error: Error) -> Self {
        Self::because(in_full(&error))
    }
}
