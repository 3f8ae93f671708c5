// SPDX-License-Identifier: MIT OR Apache-2.0
//! Upstream's algorithm on the same guests: the p2m mapped once and trusted, a moved generation aborts, nothing is compared.
//! Not here: what makes it wrong; the oracle says that, and it knows no tracker.
//! Units: passes over the pfns; the first one sends them all.
//! Threads: the caller's.
//! Source: libxc `xg_sr_save.c` and `xg_sr_save_x86_pv.c` as described in the project's notes; see `docs/comparison.md`.

mod batch;
mod p2m;
mod passes;
mod passive;

pub use p2m::SaversP2m;
pub use passes::{migrate, migrate_with};
pub use passive::{Changes, migrate_passive};

use std::fmt;

use p2mtrack::error::Error;
use p2mtrack::port::PortError;

use crate::fault::{Fault, SimError};
use crate::run::in_full;

/// Why upstream gives up.
#[derive(Debug)]
struct Abort {
    cause: String,
    fault: Option<Fault>,
}

impl Abort {
    fn because(cause: impl fmt::Display) -> Self {
        Self { cause: cause.to_string(), fault: None }
    }

    fn struck_by(fault: Fault, cause: impl fmt::Display) -> Self {
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
