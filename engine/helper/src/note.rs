// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines on standard error, for what libxl can't be told.
//! Not here: libxl's log (`line`).
//! Units: lines.
//! Threads: any.
//! Source: own.

use std::io::{self, Write as _};

use p2mtrack_migrate::fault::printable;

/// Writes a line, without control characters.
pub fn note(text: &str) {
    let text = printable(text);
    // An error of standard error can't be reported anywhere.
    let _ = io::stderr().write_all(format!("p2mtrack-save-helper: {text}\n").as_bytes());
}
