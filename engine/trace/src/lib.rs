// SPDX-License-Identifier: MIT OR Apache-2.0
//! p2mtrack-trace: recordings of a guest's p2m on disk. They are made, checked, and replayed
//! through the tracker's ports.
//!
//! ```text
//! .p2mraw, .p2mraw.xz --import--> Writer --> .p2mtrace --> Reader --> Rounds --> naive checkers
//! live guest --ports--> Recorder ---^                        |
//!                                                            +--> Replay --> ports of the tracker
//! ```
//!
//! Frame numbers in plain arrays are `u64` as in the file; [`NONE`] (all ones) stands for "no
//! frame". Files are untrusted: a reader checks every length before it is used and keeps to
//! [`Limits`].

#![deny(unsafe_code)]

mod blocks;
mod bytes;
mod container;
mod cursor;
mod frames;
mod names;
mod payloads;
mod rounds;
mod runs;
mod silent;
mod upper;

pub mod error;
pub mod format;
pub mod import;
pub mod limits;
pub mod meta;
pub mod naive;
pub mod raw;
pub mod reader;
pub mod record;
pub mod replay;
pub mod round;
pub mod staged;
pub mod writer;

pub use error::{Place, TraceError, TraceFault};
pub use limits::Limits;
pub use meta::{Flavour, Meta};
pub use reader::Reader;
pub use record::{RecordError, Recorder};
pub use replay::Replay;
pub use round::{NONE, Round, Structure, UpperFrame};
pub use rounds::Rounds;
pub use staged::StagedFile;
pub use writer::Writer;
