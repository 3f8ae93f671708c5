// SPDX-License-Identifier: MIT OR Apache-2.0
//! Standard output: lines of JSON for programs, plain or coloured text for people.
//! Not here: errors (`failure`), or the contents of the lines.
//! Units: lines.
//! Threads: one writer.
//! Source: colours only in a terminal, and never with NO_COLOR (`anstream` decides).

use std::fmt;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// Table headings.
pub(crate) const HEAD: Style = Style::new().bold();
/// A good result.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Something to notice.
pub(crate) const NOTE: Style = AnsiColor::Yellow.on_default();
/// A verdict against the engine.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Where a command prints. Whether lines are text or JSON is decided once.
pub(crate) struct Output {
    stream: anstream::Stdout,
    json: bool,
    /// The command continues when a write fails.
    is_aside: bool,
    /// The error after which nothing more is written.
    failed: Option<io::Error>,
}

impl Output {
    /// Standard output.
    pub(crate) fn stdout(json: bool) -> Self {
        Self { stream: anstream::stdout(), json, is_aside: false, failed: None }
    }

    /// For a command that also writes a file: it continues when the output fails, and
    /// [`Output::finish`] returns the error.
    pub(crate) fn beside_a_file(self, is_aside: bool) -> Self {
        Self { is_aside, ..self }
    }

    /// Prints an object as one line, if JSON was asked for.
    pub(crate) fn object(&mut self, object: &impl Serialize) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut line = serde_json::to_vec(object)?;
        line.push(b'\n');
        self.put(&line)
    }

    /// Prints a line of text, unless JSON was asked for.
    pub(crate) fn text(&mut self, line: fmt::Arguments<'_>) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        self.line(&line.to_string())
    }

    /// Prints a line, text or JSON.
    pub(crate) fn line(&mut self, line: &str) -> io::Result<()> {
        // One write: a terminal and a pipe get whole lines.
        self.put(format!("{line}\n").as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.failed.is_some() {
            return Ok(());
        }
        match self.stream.write_all(bytes) {
            Err(cause) if self.is_aside => self.failed = Some(cause),
            written => return written,
        }
        Ok(())
    }

    /// Prints a line of text in a style, unless JSON was asked for.
    pub(crate) fn styled(&mut self, style: Style, line: fmt::Arguments<'_>) -> io::Result<()> {
        self.text(format_args!("{style}{line}{style:#}"))
    }

    /// Flushes the output, or returns its error. Beside a file, a closed pipe is no error.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        match self.failed {
            None => self.stream.flush(),
            Some(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Some(cause) => Err(cause),
        }
    }
}

/// `1 leaf`, `2 leaves`: a count and its noun.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
