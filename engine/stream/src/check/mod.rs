// SPDX-License-Identifier: MIT OR Apache-2.0
//! The strict checker: reads a stream once, in any container, and reports every rule that it
//! breaks.
//! Not here: the rules' texts (`rule`), what each kind of record has to be (a file each).
//! Units: offsets in bytes from the first one of the outermost container.
//! Threads: one.
//! Source: Xen's specifications, `verify-stream-v2`, and libxc's receiver. The stream is hostile.

mod arrived;
mod containers;
mod libxc;
mod list;
mod order;
mod pages;
mod point;
mod rule;
mod vcpus;

use std::io::{self, Read};
use std::{error, fmt};

use crate::check::libxc::{Halt, Libxc};
use crate::check::rule::Findings;
pub use crate::check::rule::{Broken, Rule};
use crate::container::Format;
use crate::reader::{ReadFault, Reader};

/// What a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its outermost container.
    pub format: Format,
    /// The libxc stream's version; 0 if its header was not reached.
    pub version: u32,
    /// Records of the libxc stream.
    pub records: u64,
    /// Pages in them.
    pub pages: u64,
    /// Pfns whose last word has a frame.
    pub pfns: u64,
    /// Pfns whose last word is a page table.
    pub tables: u64,
    /// Consistent points before the end.
    pub checkpoints: u64,
    /// Breaches of rules.
    pub broken: u64,
}

/// Why a stream can't be checked.
#[derive(Debug)]
pub enum Unreadable {
    /// The operating system.
    Io(io::Error),
    /// It begins as none of the formats does.
    Unknown,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(_) => f.write_str("the stream can't be read"),
            Self::Unknown => f.write_str(
                "this is no migration stream: it begins neither as xl's file, nor as libxl's stream, nor as libxc's",
            ),
        }
    }
}

impl error::Error for Unreadable {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io(cause) => Some(cause),
            Self::Unknown => None,
        }
    }
}

/// Checks a stream up to its end, or to the first byte that can't be understood any more. Calls
/// `report` for each breach of a rule, as it is noticed. Without a format, the first
/// bytes tell it.
///
/// # Errors
/// The input can't be read, or begins as no stream does.
pub fn check(
    mut input: impl Read,
    format: Option<Format>,
    report: &mut dyn FnMut(Broken),
) -> Result<Summary, Unreadable> {
    let mut first = Vec::with_capacity(8);
    input.by_ref().take(8).read_to_end(&mut first).map_err(Unreadable::Io)?;
    let known = first.as_slice().try_into().ok().and_then(Format::of);
    let format = format.or(known).ok_or(Unreadable::Unknown)?;
    let mut check = Libxc::new(Reader::new(first.chain(input)), Findings::new(report));
    let halt = containers::check(&mut check, format).err();
    report_end(&mut check, halt)?;
    let (pfns, tables) = check.arrived.counts();
    Ok(Summary {
        format,
        version: check.version,
        records: check.order.records(),
        pages: check.arrived.pages,
        pfns,
        tables,
        checkpoints: check.order.checkpoints,
        broken: check.findings.broken,
    })
}

/// Reports a stream that ended too early.
fn report_end<R: Read>(check: &mut Libxc<'_, R>, halt: Option<Halt>) -> Result<(), Unreadable> {
    match halt {
        Some(Halt::Read(ReadFault::Io(fault))) => return Err(Unreadable::Io(fault)),
        Some(Halt::Read(ReadFault::Ended { what, inside })) if check.order.checkpoints == 0 => {
            let place = if inside { "inside of" } else { "before" };
            let found = format_args!("the stream ends {place} {what}");
            check.findings.add(check.reader.offset(), Rule::Truncated, found);
        }
        _ => {}
    }
    Ok(())
}
