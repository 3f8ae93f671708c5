// SPDX-License-Identifier: MIT OR Apache-2.0
//! p2mtrack-synthetic: a simulated Xen, guests that change their p2m while they run, a receiver and
//! an oracle.
//!
//! Everything comes from one seed. A [`Simulation`] is built from a [`SimConfig`]; its [`SimPorts`]
//! are the ports that the engine asks for; each call through them is a point at which the guest may
//! take some steps first. At the end [`Simulation::judge`] compares the suspended source with what
//! the receiver holds. The oracle knows no tracker.
#![deny(unsafe_code)]

mod behaviour;
mod dice;
mod exec;
pub mod fault;
mod grant;
mod guest;
pub mod huge;
pub mod limits;
mod log_dirty;
mod machine;
pub mod options;
pub mod oracle;
pub mod outcome;
mod page_table;
pub mod ports;
mod premise;
mod program;
pub mod receiver;
pub mod run;
pub mod scenario;
pub mod shrink;
pub mod simulation;
pub mod snapshot;
mod stream;
pub mod transport;
pub mod upstream;
pub mod walk;
pub mod words;
mod world;
mod xen;

pub use fault::{Fault, FaultSet, SimError};
pub use guest::P2mKind;
pub use limits::{Begun, Limits, Numbers};
pub use options::{SimConfig, TransportKind};
pub use oracle::{Difference, Judgement, Verdict};
pub use scenario::Scenario;
pub use simulation::{Activity, SimPorts, Simulation};
pub use snapshot::Snapshot;
