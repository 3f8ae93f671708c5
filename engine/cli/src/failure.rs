// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a command that fails: one line on stderr, and an exit status.
//! Not here: a verdict such as "missed", which is a result and no failure (`replay`).
//! Units: exit status 1 verdict, 2 usage or unusable file, 3 the engine ended in an error.
//! Threads: plain values.
//! Source: own; messages of the command line parser (help, usage errors) are only printed here.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

pub(crate) use p2mtrack_migrate::fault::{in_full, printable};

/// A verdict against the engine.
pub(crate) const VERDICT: u8 = 1;
const UNUSABLE: u8 = 2;
const ENGINE: u8 = 3;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A file or an argument is unusable.
    Unusable {
        /// The file, or what else the error is about.
        about: String,
        /// What is wrong with it.
        source: Box<dyn Error>,
    },
    /// The engine failed.
    Engine {
        /// When, or about what.
        about: String,
        /// Its error.
        source: Box<dyn Error>,
    },
    /// Standard output can't be written.
    Output(io::Error),
}

impl Failure {
    /// For `map_err`: an error about a file.
    pub(crate) fn file<E: Into<Box<dyn Error>>>(path: &Path) -> impl FnOnce(E) -> Self {
        let about = path.display().to_string();
        move |error| Self::Unusable { about, source: error.into() }
    }

    /// The error with all causes, without what it is about.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Unusable { source, .. } | Self::Engine { source, .. } => in_full(&**source),
            Self::Output(cause) => in_full(cause),
        }
    }

    /// The same with what it is about.
    pub(crate) fn full_words(&self) -> String {
        match self {
            Self::Unusable { about, .. } | Self::Engine { about, .. } => {
                format!("{about}: {}", self.words())
            }
            Self::Output(_) => self.words(),
        }
    }

    /// Prints the line of a failure that does not end the command.
    pub(crate) fn warn(self) {
        let _ = self.report();
    }

    /// Prints the line and returns the status. A closed pipe at stdout is no error.
    pub(crate) fn report(self) -> ExitCode {
        let (about, source, status) = match self {
            Self::Output(cause) if cause.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Output(cause) => ("standard output".to_owned(), cause.into(), UNUSABLE),
            Self::Unusable { about, source } => (about, source, UNUSABLE),
            Self::Engine { about, source } => (about, source, ENGINE),
        };
        // An error of stderr can't be reported anywhere.
        let _ = io::stderr().write_all(line(&about, &*source).as_bytes());
        ExitCode::from(status)
    }
}

/// For `?` where a command prints.
impl From<io::Error> for Failure {
    fn from(cause: io::Error) -> Self {
        Self::Output(cause)
    }
}

/// A line on stderr that is no failure.
pub(crate) fn note(text: &str) {
    let line = format!("p2mtrack: {}\n", printable(text));
    let _ = io::stderr().write_all(line.as_bytes()); // as in `report`
}

/// Prints help, or what is wrong with the command line, and returns the status.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let printed = error.print().and_then(|()| io::stdout().flush());
    match printed {
        Err(cause) if !error.use_stderr() => Failure::Output(cause).report(),
        _ if error.use_stderr() => ExitCode::from(UNUSABLE), // if stderr fails: as in `report`
        _ => ExitCode::SUCCESS,
    }
}

fn line(about: &str, error: &dyn Error) -> String {
    printable(&format!("p2mtrack: {about}: {}", in_full(error))) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack_trace::TraceFault;

    #[test]
    fn one_line_with_all_causes_and_no_control_characters() {
        let error = TraceFault::Io(io::Error::other("disk\n\x1b[2J")).at(24);
        assert_eq!(
            line("a\rb", &error),
            "p2mtrack: a\\rb: byte 24: file can't be read or written: disk\\n\\u{1b}[2J\n"
        );
    }

    #[test]
    fn a_cause_is_not_repeated() {
        /// Its text contains its cause's text.
        #[derive(Debug)]
        struct Repeats(io::Error);
        impl std::fmt::Display for Repeats {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "again: {}", self.0)
            }
        }
        impl Error for Repeats {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        assert_eq!(in_full(&Repeats(io::Error::other("disk"))), "again: disk");
    }
}
