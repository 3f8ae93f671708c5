// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines on standard error, for what libxl can't be told.
//! Not here: libxl's log (`line`).
//! Units: lines.
//! Threads: any.
//! Source: own.

use std::io::{self, Write as _};

/// Writes a line, without control characters.
pub fn note(text: &str) {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    let text: String = text.chars().map(escape).collect();
    // An error of standard error can't be reported anywhere.
    let _ = io::stderr().write_all(format!("p2mtrack-save-helper: {text}\n").as_bytes());
}
