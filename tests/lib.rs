// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests across crates: the laws, the tables of the design, simulation, captures, the command line.

pub mod choices;
pub mod fixture;
pub mod hostile_guest;
pub mod hostile_helper;
pub mod hostile_stream;
pub mod sample_stream;
